"""What the integration tests share: a scratch directory that cleans up after itself, TLS files, a pool on an XFS
image, a running mooring-target, and clients for mooring.storage.v1. Standard library, grpcio and protobuf only.

A test program:

    with harness.Scratch() as scratch:
        ...
    suite = harness.Suite(); suite.run("name", function, ...); return suite.finish()

and sys.exit(harness.main(main)).

MOORING_BUILD names the build directory that has bin/ (default: build/release). Processes are ended by their pid, in the
reverse order of their start; nothing here ends a process by name.
"""
import contextlib
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("MOORING_BUILD", ROOT / "build" / "release"))


class Skip(Exception):
    """This machine lacks what the test needs."""


def program(name):
    """The path of one of our programs, or of one that the machine must have."""
    for folder in (BUILD / "bin", BUILD / "tests"):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if not found and (name.startswith("mooring") or name == "faulty-disk"):
        raise AssertionError(f"{name} was not built in {BUILD}: set MOORING_BUILD")
    if not found:
        raise Skip(f"{name} is not here")
    return found


def run(*command, check=True, timeout=60, **options):
    """Run to the end; the completed process with its output as text."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, timeout=timeout, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stdout.strip()}")
    return done


def wait_until(condition, what, timeout_s=30, pause_s=0.02):
    """The first true result of condition(). The limit only ends a test that would hang."""
    end = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(pause_s)


def seed():
    """What the run's randomness follows; MOORING_SEED gives it again."""
    drawn = int(os.environ.get("MOORING_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"# seed {drawn}", flush=True)
    return drawn


def errno_of(call, *arguments, **options):
    """The errno that a call fails with, or 0."""
    try:
        call(*arguments, **options)
    except OSError as error:
        return error.errno
    return 0


_given_ports = set()


def free_port():
    """Below those that the kernel hands out: a client that tries a dead server's port again and again would in the
    end get that very port as its own, connect to itself, and keep the server from starting. Programs that run at once
    (tests/run tells them their slot) draw from slices of their own: a server that is down is not there to keep its port."""
    first_handed_out = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    slot, slots = int(os.environ.get("MOORING_TEST_SLOT", 0)) % 16, 16
    while True:
        port = random.SystemRandom().randrange(first_handed_out // 2 // slots, first_handed_out // slots) * slots + slot
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port


class Scratch(contextlib.ExitStack):
    """A temporary directory, and everything that has to go before it does. Ctrl-C and SIGTERM clean up too. What is in
    `releases` is called first, in whatever state a failed test left it: until then some of the rest could not end."""

    def __enter__(self):
        super().__enter__()
        self.releases = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="mooring-")))
        return self

    def __exit__(self, *why):
        for release in self.releases:
            with contextlib.suppress(OSError):
                release()
        return super().__exit__(*why)

    def start(self, *command, log=None, **options):
        """A process that ends with the scratch directory at the latest."""
        output = open(log, "ab") if log else subprocess.DEVNULL
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, **options)
        if log:
            output.close()
        self.callback(end_process, process)
        return process


def end_process(process, timeout_s=20):
    """SIGTERM, and SIGKILL for what does not end. Returns the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


# ---- TLS: a private CA, and a certificate for each role ----


class Tls:
    def __init__(self, scratch):
        self.folder = scratch.path / "tls"
        self.folder.mkdir(exist_ok=True)
        self.ca = self.folder / "ca.pem"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", "/CN=mooring test CA", "-keyout", self.folder / "ca.key", "-out", self.ca)

    @staticmethod
    def _openssl(*arguments):
        run(program("openssl"), *arguments)

    def issue(self, common_name, dns=()):
        """(certificate, key) paths. common_name as rpc.h reads it: "mooring:controller", "mooring:node:<id>", …"""
        stem = self.folder / common_name.replace(":", "_")
        cert, key, request = stem.with_suffix(".pem"), stem.with_suffix(".key"), stem.with_suffix(".csr")
        if cert.exists():
            return cert, key
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                      f"/CN={common_name}", "-keyout", key, "-out", request)
        extensions = stem.with_suffix(".ext")
        names = ",".join([f"DNS:{name}" for name in dns] + ["IP:127.0.0.1"])
        extensions.write_text(f"subjectAltName={names}\n")
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key",
                      "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", cert)
        return cert, key

    def renew(self, common_name, dns, seconds):
        """The certificate anew, in its place, for so many seconds; its key stays."""
        cert, key = self.issue(common_name, dns)
        request, fresh, folder = cert.with_suffix(".csr"), cert.with_suffix(".new"), self.folder / "ca"
        folder.mkdir(exist_ok=True)
        (folder / "index").write_text("")
        (folder / "serial").write_text(f"{random.SystemRandom().randrange(1 << 62):016x}")
        config = folder / "config"
        config.write_text(f"[ca]\ndefault_ca = ours\n[ours]\ndatabase = {folder}/index\nserial = {folder}/serial\n"
                          f"new_certs_dir = {folder}\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n")
        until = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))
        self._openssl("ca", "-batch", "-config", config, "-in", request, "-cert", self.ca, "-keyfile",
                      self.folder / "ca.key", "-startdate", "20200101000000Z", "-enddate", until, "-extfile",
                      cert.with_suffix(".ext"), "-notext", "-out", fresh)
        fresh.rename(cert)
        return cert, key

    def server(self, server_id):
        return self.issue(f"mooring:server:{server_id}", [server_id, "localhost"])

    def config(self, common_name, dns=()):
        """The "tls" object of our configuration files."""
        cert, key = self.issue(common_name, dns)
        return {"ca": str(self.ca), "cert": str(cert), "key": str(key)}


# ---- a pool on an XFS image ----


def unmount(path, timeout_s=10):
    """Or take it away from those that still use it, so that nothing stays."""
    end = time.monotonic() + timeout_s
    while os.path.ismount(path):
        if run("umount", path, check=False).returncode != 0:
            time.sleep(0.1)  # the last I/O of a process that was killed may still hold it
            if time.monotonic() > end:
                run("umount", "--lazy", path)


class Pool:
    """A mounted XFS image with a pool in it, made by mooring-pool; unmounted with the scratch directory."""

    def __init__(self, scratch, server_id="store-1", size="1GiB", device=None):
        if os.geteuid() != 0:
            raise Skip("mounting a pool's image needs root")
        self.server_id = server_id
        self.image = scratch.path / f"{server_id}.img"
        self.path = scratch.path / f"{server_id}.pool"
        self.path.mkdir()
        made = run(program("mooring-pool"), "create", "--path", self.path, "--server-id", server_id,
                   *(["--device", device] if device else ["--image", self.image, "--size", size]), check=False)
        scratch.callback(self.unmount)
        if made.returncode != 0:
            raise Skip(f"mooring-pool create: {made.stdout.strip()}")
        self.uuid = json.loads(made.stdout.strip().splitlines()[-1])["uuid"]

    def unmount(self):
        unmount(self.path)


class FaultyDisk:
    """A disk below a pool that holds and fails on command (tests/faults/faulty_disk.c); `device` is its loop device."""

    def __init__(self, scratch, size_bytes=1 << 30):
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            raise Skip("a disk that fails on command needs root and /dev/fuse")
        image, folder = scratch.path / "faulty.img", scratch.path / "faulty"
        self.control = scratch.path / "faulty.sock"
        folder.mkdir()
        with open(image, "wb") as file:
            file.truncate(size_bytes)
        scratch.callback(lambda: run("umount", "--lazy", folder, check=False))  # of a process that was killed
        self.process = scratch.start(program("faulty-disk"), image, folder, self.control, log=scratch.path / "faulty.log")
        scratch.releases.append(lambda: self.command("release"))
        wait_until(lambda: (folder / "disk").exists() and self.control.exists(), "faulty-disk is mounted")
        self.device = run("losetup", "--find", "--show", "--direct-io=on", folder / "disk").stdout.strip()
        scratch.callback(lambda: run("losetup", "--detach", self.device, check=False))

    def command(self, text):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.control))
            control.sendall(text.encode() + b"\n")
            return control.makefile().readline().strip()

    def held(self):
        words = self.command("stats").split()
        return int(words[words.index("held") + 1])


# ---- mooring.storage.v1 ----


def storage_messages(scratch):
    """The generated Python module of storage.proto."""
    folder = scratch.path / "python"
    if not folder.exists():
        folder.mkdir()
        run(program("protoc"), "-I", ROOT / "proto", "--python_out", folder, ROOT / "proto" / "storage.proto")
        sys.path.insert(0, str(folder))
    return importlib.import_module("storage_pb2")


class Storage:
    """A client with one role's certificate: storage.CreateVolume(volume_id=…, …) → response. timeout_s as a keyword."""

    def __init__(self, scratch, tls, address, common_name, server_id):
        import grpc
        self._messages = storage_messages(scratch)
        cert, key = tls.issue(common_name)
        credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        options = [("grpc.ssl_target_name_override", server_id), ("grpc.initial_reconnect_backoff_ms", 100),
                   ("grpc.max_reconnect_backoff_ms", 500),
                   ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.secure_channel(address, credentials, options)
        scratch.callback(self._channel.close)

    def methods(self):
        return [method.name for method in self._messages.DESCRIPTOR.services_by_name["Storage"].methods]

    def request_fields(self, name):
        method = self._messages.DESCRIPTOR.services_by_name["Storage"].methods_by_name[name]
        return list(method.input_type.fields_by_name)

    def __getattr__(self, name):
        method = self._messages.DESCRIPTOR.services_by_name["Storage"].methods_by_name[name]
        request = getattr(self._messages, method.input_type.name)
        response = getattr(self._messages, method.output_type.name)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(f"/mooring.storage.v1.Storage/{name}", request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString)

        # While no call is under way, nobody polls a connection that is being made: waiting calls make it at once.
        def invoke(timeout_s=30, wait_for_ready=True, **fields):
            answer = call(request(**fields), timeout=timeout_s, wait_for_ready=wait_for_ready)
            return list(answer) if method.server_streaming else answer

        return invoke


def status_of(call, *arguments, **fields):
    """The name of the gRPC status that a call ends with: "OK", "NOT_FOUND", …"""
    import grpc
    try:
        call(*arguments, **fields)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


# ---- a storage server ----


class Target:
    """One mooring-target on a pool. start() and stop(), kill() as often as wanted; clients by role."""

    def __init__(self, scratch, tls, pool, loops=4, start=True, **config):
        self.scratch, self.tls, self.pool = scratch, tls, pool
        self.server_id = pool.server_id
        self.portal = f"127.0.0.1:{free_port()}"
        self.address = f"127.0.0.1:{free_port()}"
        self.log = scratch.path / f"{self.server_id}-{self.portal.rpartition(':')[2]}.log"
        self.process = None
        cert, key = tls.server(self.server_id)
        self.config = {"server_id": self.server_id, "pool": str(pool.path), "pool_uuid": pool.uuid,
                       "listen": self.address, "portals": [self.portal], "loops": loops, "log_level": "debug",
                       "tls": {"ca": str(tls.ca), "cert": str(cert), "key": str(key)}, **config}
        self.config_path = self.log.with_suffix(".json")
        self._clients = {}
        if start:
            self.start()

    def start(self, wait=True):
        self.config_path.write_text(json.dumps(self.config))
        self._clients.clear()  # gRPC takes its time to connect anew
        self.process = self.scratch.start(program("mooring-target"), "--config", self.config_path, log=self.log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"mooring-target ended ({self.process.returncode}): {self.log_text()[-2000:]}")
            return status_of(self.controller.GetServer, timeout_s=2) == "OK"
        try:
            wait_until(ready, "mooring-target serves", timeout_s=60)
        except AssertionError as why:
            raise AssertionError(f"{why}; its log ends: {self.log_text()[-2000:]}") from why

    def stop(self):
        """In order; its exit status."""
        return end_process(self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def client(self, common_name):
        if common_name not in self._clients:
            self._clients[common_name] = Storage(self.scratch, self.tls, self.address, common_name, self.server_id)
        return self._clients[common_name]

    @property
    def controller(self):
        return self.client("mooring:controller")

    @property
    def operator(self):
        return self.client("mooring:operator")

    def node(self, node_id):
        return self.client(f"mooring:node:{node_id}")


# ---- reporting ----


class Suite:
    """Runs tests one after the other: a line each, `PASS name`, `FAIL name: why` or `SKIP name: why`."""

    def __init__(self):
        self.failed = 0
        self.only = sys.argv[1:]

    def run(self, name, function, *arguments, **options):
        if self.only and name not in self.only:
            return
        try:
            function(*arguments, **options)
        except Skip as why:
            self.skip(name, why)
        except Exception as why:  # a test may fail in any way; the next ones run all the same
            self.failed += 1
            traceback.print_exc(file=sys.stderr)
            self._say(f"FAIL {name}: {str(why).splitlines()[0] if str(why) else type(why).__name__}")
        else:
            self._say(f"PASS {name}")

    def skip(self, name, why):
        self._say(f"SKIP {name}: {why}")

    @staticmethod
    def _say(line):
        print(line, flush=True)

    def finish(self):
        return 1 if self.failed else 0


def main(function):
    """The exit status of a test program. What no test of it can do without is skipped as a whole."""
    try:
        return function()
    except Skip as why:
        print(f"SKIP {pathlib.Path(sys.argv[0]).stem}: {why}", flush=True)
        return 0
