"""MariaDB as an OCI container (runc) on a host, its data directory on the volume.

A release is a Debian root file system made by debootstrap, kept in the cache folder: bookworm has 10.11, trixie 11.8.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import proxy
from hosts import Failure, run, wait_until

RELEASES = ("bookworm", "trixie")
MYSQL_ID = 999 # user and group inside every root file system, so that both releases own the same files
DATA_DIR = "/var/lib/mysql"
SERVER = (
    "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={DATA_DIR}", "--user=mysql", "--bind-address=0.0.0.0",
    f"--port={proxy.PORT}", "--socket=/run/mysqld/mysqld.sock", "--pid-file=/run/mysqld/mysqld.pid", "--skip-name-resolve",
    "--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT", "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=64M", "--innodb-fast-shutdown=1",
)
# What mariadbd writes when its disk gives it an error.
DISK_ERRORS = re.compile(r"Input/output error|I/O error|OS error|Operating system error|errno: (5|30)\b|Read-only file system",
                         re.IGNORECASE)


def mirror():
    """The Debian mirror of this machine's own apt sources."""
    lines = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages").splitlines()
    for line in lines:
        uri, _, codename = line.partition(" ")
        if codename == "bookworm":
            return uri
    raise Failure("apt's sources on this machine name no Debian bookworm mirror")


def make_root(release, cache_dir):
    """The release's root file system; made once, by rename when it is whole. Failure says why it cannot be had."""
    path = os.path.join(cache_dir, release)
    if os.path.isdir(path):
        return path
    half = f"{path}.half"
    shutil.rmtree(half, ignore_errors=True)
    os.makedirs(cache_dir, exist_ok=True)
    run("debootstrap", "--variant=minbase", "--include=mariadb-server-core,mariadb-client-core,mariadb-client", release,
        half, mirror(), timeout=900)
    run("chroot", half, "groupadd", "--gid", str(MYSQL_ID), "--non-unique", "mysql")
    run("chroot", half, "useradd", "--uid", str(MYSQL_ID), "--non-unique", "--gid", "mysql", "--no-create-home", "mysql")
    for folder in (DATA_DIR, "/run/mysqld"):
        os.makedirs(half + folder, exist_ok=True)
    with open(f"{half}/etc/hosts", "w", encoding="utf-8") as hosts: # mariadb-install-db looks localhost up
        hosts.write("127.0.0.1 localhost\n")
    shutil.rmtree(f"{half}/var/cache/apt", ignore_errors=True)
    os.rename(half, path)
    return path


class Database:
    """One container at a time; which host and which release are the caller's choice."""

    def __init__(self, work_dir, log_dir, prefix):
        self.work_dir = os.path.join(work_dir, "containers")
        self.state_dir = os.path.join(self.work_dir, "runc")
        self.log_dir = log_dir
        self.prefix = prefix
        self.count = 0
        os.makedirs(self.state_dir, exist_ok=True)

    def spec(self, host, root, data_path, args, run_dir):
        """The OCI runtime configuration: the host's network, everything else the container's own."""
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        namespaces.append({"type": "network", "path": host.namespace_path})
        capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_FOWNER"]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": list(args),
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}],
            },
            "root": {"path": root, "readonly": True},
            "hostname": host.name,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
                {"destination": "/run/mysqld", "type": "bind", "source": run_dir, "options": ["bind", "rw"]},
                {"destination": DATA_DIR, "type": "bind", "source": data_path, "options": ["bind", "rw"]},
            ],
            "linux": {"namespaces": namespaces},
        }

    def bundle(self, host, root, data_path, args):
        self.count += 1
        name = f"{self.prefix}-{self.count}"
        folder = os.path.join(self.work_dir, name)
        run_dir = os.path.join(folder, "run")
        os.makedirs(run_dir)
        os.chown(run_dir, MYSQL_ID, MYSQL_ID)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as config:
            json.dump(self.spec(host, root, data_path, args, run_dir), config)
        return name, folder

    def runc(self, *arguments, **options):
        return run("runc", "--root", self.state_dir, *arguments, **options)

    def initialize(self, host, root, data_path):
        """An empty data directory becomes a database with the user `app`."""
        os.chown(data_path, MYSQL_ID, MYSQL_ID)
        bootstrap = (
            "mariadb-install-db --no-defaults --user=mysql --skip-test-db --auth-root-authentication-method=normal "
            f"--datadir={DATA_DIR}"
        )
        name, folder = self.bundle(host, root, data_path, ("/bin/sh", "-c", bootstrap))
        self.runc("run", "--bundle", folder, name)

    def start(self, host, root, data_path):
        name, folder = self.bundle(host, root, data_path, SERVER)
        return Container(self, host, name, folder)


class Container:
    """A running mariadbd."""

    def __init__(self, database, host, name, folder):
        self.database = database
        self.host = host
        self.name = name
        self.folder = folder
        self.log_path = os.path.join(database.log_dir, f"{name}-mariadb.log")
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(["runc", "--root", database.state_dir, "run", "--bundle", folder, name],
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def ready(self):
        if self.popen.poll() is not None:
            raise Failure(f"mariadbd on {self.host.name} ended:\n{self.log()[-2000:]}")
        return "ready for connections" in self.log()

    def wait_ready(self, timeout=90):
        wait_until(f"mariadbd on {self.host.name}", self.ready, timeout)

    def sql(self, statement, timeout=30, check=True):
        """As root, by the server's own socket. The container's files are seen through its bundle."""
        socket_path = os.path.join(self.folder, "run", "mysqld.sock")
        return run("mariadb", "--no-defaults", f"--socket={socket_path}", "--user=root", "--batch", "--skip-column-names",
                   "--execute", statement, timeout=timeout, check=check)

    def upgrade_tables(self):
        """mariadb-upgrade, while the server serves."""
        self.database.runc("exec", self.name, "mariadb-upgrade", "--no-defaults", "--socket=/run/mysqld/mysqld.sock",
                           timeout=120)

    def disk_errors(self):
        return [line for line in self.log().splitlines() if DISK_ERRORS.search(line)]

    def version(self):
        return self.sql("SELECT VERSION()").strip()

    def stop(self, number=signal.SIGTERM, timeout=60):
        if self.popen.poll() is None:
            self.database.runc("kill", self.name, str(int(number)), check=False)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired as late:
                raise Failure(f"mariadbd on {self.host.name} does not end within {timeout} s") from late
        self.delete()

    def delete(self):
        """Forget a container whose processes are gone."""
        self.popen.wait(10)
        self.database.runc("delete", "--force", self.name, check=False)
