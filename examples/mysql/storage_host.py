"""The storage host: a disk that can lose power, XFS on it, the pool, and mooring-target."""

import json
import os
import signal
import socket

from hosts import Failure, run, wait_until

GRPC_PORT = 7443
ISCSI_PORT = 3260


class StorageHost:
    def __init__(self, host, programs, tls_dir, work_dir, disk_bytes):
        self.host = host
        self.programs = programs
        self.tls_dir = tls_dir
        self.dir = os.path.join(work_dir, "store")
        self.image = os.path.join(self.dir, "disk.img")
        self.disk_dir = os.path.join(self.dir, "disk")
        self.control = os.path.join(self.dir, "ctl")
        self.pool = os.path.join(self.dir, "pool")
        self.config = os.path.join(self.dir, "target.json")
        self.loop = None
        self.disk = None
        self.target = None
        for path in (self.dir, self.disk_dir, self.pool):
            os.makedirs(path, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(disk_bytes)

    # ---- the disk ----

    def power_on_disk(self, make=False):
        self.disk = self.host.start("disk", os.path.join(self.programs, "tests", "faulty-disk"), self.image, self.disk_dir,
                                    self.control)
        wait_until("the simulated disk", lambda: os.path.exists(os.path.join(self.disk_dir, "disk")))
        self.loop = run("losetup", "--direct-io=on", "--find", "--show", os.path.join(self.disk_dir, "disk")).strip()
        if make:
            run("mkfs.xfs", "-q", "-K", "-m", "reflink=1", self.loop)
        # The same kernel may still know the file system from before the power cut: nouuid.
        run("mount", "-t", "xfs", "-o", "nouuid", self.loop, self.pool)

    def command(self, text):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.control)
            client.sendall(text.encode())
            answer = client.recv(256).decode().strip()
        if answer.startswith("error"):
            raise Failure(f"the simulated disk: {text}: {answer}")
        return answer

    def power_off_disk(self):
        """Take the mount, the loop device and the disk away; works on a disk that lost its power too."""
        run("umount", "--lazy", self.pool, check=False)
        if self.loop:
            run("losetup", "--detach", self.loop, check=False)
            self.loop = None
        if self.disk:
            self.disk.stop()
            self.disk = None
        run("umount", "--lazy", self.disk_dir, check=False)

    # ---- the storage server ----

    def make_pool(self):
        """A pool on the mounted XFS, and the configuration that names it."""
        output = run(os.path.join(self.programs, "bin", "mooring-pool"), "create", "--path", self.pool, "--server-id",
                     "store")
        self.pool_uuid = json.loads(output)["uuid"]
        with open(self.config, "w", encoding="utf-8") as config:
            json.dump({
                "server_id": "store",
                "pool": self.pool,
                "pool_uuid": self.pool_uuid,
                "listen": f"{self.host.address}:{GRPC_PORT}",
                "portals": [f"{self.host.address}:{ISCSI_PORT}"],
                "tls": tls_files(self.tls_dir, "store"),
                "loops": 2,
            }, config)

    def start_target(self):
        self.target = self.host.start("target", os.path.join(self.programs, "bin", "mooring-target"), "--config",
                                      self.config)

    def cut_power(self, seed, keep_percent):
        """The host is gone at once: nothing more is answered, and a random part of what was not flushed is lost."""
        self.command("freeze")
        self.target.signal(signal.SIGKILL)
        answer = self.command(f"cut {seed} {keep_percent}")
        self.target.kill()
        self.power_off_disk()
        return int(answer.split()[-1])

    def power_on(self):
        self.power_on_disk()
        self.start_target()

    def close(self):
        if self.target:
            self.target.stop()
        self.power_off_disk()


def tls_files(tls_dir, name):
    return {
        "ca": os.path.join(tls_dir, "ca.crt"),
        "cert": os.path.join(tls_dir, f"{name}.crt"),
        "key": os.path.join(tls_dir, f"{name}.key"),
    }
