"""What the tests of mooring-device share: a volume attached by the real holder and device processes."""
import json
import mmap
import os
import secrets
import signal
import subprocess

import harness
from target_fixture import Volume

KIB = 1 << 10
MIB = 1 << 20


class Device:
    """A volume on a target, attached as mooring-node would: holder first, then a device a generation."""
    alive = []

    def __init__(self, scratch, target, size_bytes=128 * MIB, node="n1", start=True, **config):
        self.scratch, self.target = scratch, target
        self.volume = Volume(target, size_bytes=size_bytes)
        self.attachment = self.volume.attach(node)
        self.size_bytes = size_bytes
        self.dir = scratch.path / f"device-{secrets.token_hex(4)}"
        self.dir.mkdir(mode=0o700)
        self.log = self.dir / "log"
        block_size = self.volume.get().block_size_bytes
        self.config = {"format": 1, "volume_id": self.volume.id, "target_name": self.volume.iqn, "lun": 0,
                       "portals": [target.portal], "initiator_name": f"iqn.2026-11.storage.mooring:node:{node}",
                       "node_id": node, "epoch": self.attachment.epoch,
                       "isid": ["80" + secrets.token_hex(5)], "read_only": False, "sessions": 1,
                       "block_size_bytes": block_size, "size_bytes": size_bytes,
                       "mount_point": str(self.dir / "fuse"), "attach": "fuse",
                       **json.loads(os.environ.get("MOORING_DEVICE_JSON", "{}")), **config}
        self.holder = self.process = None
        self.before = []  # words before the device's own: programs that become the next one
        scratch.callback(self.remove)
        Device.alive.append(self)
        if start:
            self.start()

    def start_holder(self):
        self.holder = self.scratch.start(harness.program("mooring-holder"), "--socket", self.dir / "holder.sock",
                                         log=self.log)

    def start_device(self, grant=True):
        if grant:
            self.attachment.grant()
        config = {**self.config, "generation": self.attachment.generation, "chap_name": self.attachment.user,
                  "chap_secret": self.attachment.secret}
        path = self.dir / "device.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        self.process = self.scratch.start(*self.before, harness.program("mooring-device"), "--state", self.dir,
                                          log=self.log)

    def start(self):
        self.start_holder()
        self.start_device()
        self.wait_state("ready")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask_end(self):
        """As mooring-node's Unstage: device.json says that the volume is meant, then SIGTERM."""
        path = self.dir / "device.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "end": True}))
        self.process.terminate()

    def end(self):
        """The orderly end; the exit status."""
        self.ask_end()
        return self.process.wait(60)

    def grow(self, size_bytes):
        """The volume on its server, and then, as mooring-node asks for it, the block device in use."""
        have = self.volume.get()
        self.target.controller.ExpandVolume(volume_id=self.volume.id, size_bytes=size_bytes,
                                            record_generation=have.record_generation)
        self.process.send_signal(signal.SIGHUP)
        harness.wait_until(lambda: self.status().get("size_bytes") == size_bytes, f"it has grown: {self.status()}",
                           timeout_s=120)
        seen = int(harness.run("blockdev", "--getsize64", self.path).stdout)
        assert seen == size_bytes, f"{self.path} has {seen} bytes"

    def status(self):
        try:
            return json.loads((self.dir / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {"state": "none", "generation": 0, "pid": 0}

    def wait_state(self, state, **options):
        """Until this process says so; a predecessor's word does not count."""
        def said():
            now = self.status()
            if self.process.poll() is not None and state not in ("failed", "ended"):
                raise AssertionError(f"mooring-device ended ({self.process.returncode}): {self.log_text()[-1500:]}")
            return now["state"] == state and now["pid"] == self.process.pid and now
        return harness.wait_until(said, f"the device is {state}: {self.status()}", **options)

    def log_text(self):
        return self.log.read_text(errors="replace")

    @property
    def path(self):
        return self.status()["block_device"]

    @classmethod
    def remove_all(cls):
        """At a test's end, while the target is there to log out from."""
        while cls.alive:
            cls.alive.pop().remove()

    def remove(self):
        """Whatever a test left: nothing of it may outlive the scratch directory."""
        for process in (self.process, self.holder):
            if process and process.poll() is None:
                if process is self.process and self.status()["state"] in ("ready", "failed"):
                    self.ask_end()
                    try:
                        process.wait(5)
                        continue
                    except subprocess.TimeoutExpired:
                        pass
                process.kill()
                process.wait()
        file = str(self.dir / "fuse" / "volume")
        for line in harness.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.splitlines():
            name, _, backing = line.partition(" ")
            if backing.strip() == file:
                harness.run("losetup", "--detach", name, check=False)
        mount = str(self.dir / "fuse")
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            mounted = any(line.split()[4] == mount for line in table)
        if mounted:
            harness.run("umount", "--lazy", mount, check=False)


class Load:
    """fio --verify on a device, in the background, until told to stop; its end says whether all was well."""

    def __init__(self, scratch, device, seconds, iodepth=16, size="64M", fsync=32, offset=0, extra=()):
        self.log = device.dir / f"fio-{secrets.token_hex(2)}.log"
        self.process = scratch.start(
            harness.program("fio"), "--name=load", f"--filename={device.path}", "--direct=1", "--ioengine=io_uring",
            "--rw=randrw", "--bsrange=4k-64k", f"--iodepth={iodepth}", f"--size={size}", f"--offset={offset}",
            "--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", f"--fsync={fsync}", "--time_based",
            f"--runtime={seconds}",
            *extra, log=self.log)

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout_s=120):
        status = self.process.wait(timeout_s)
        if status != 0:
            raise AssertionError(f"fio saw an error: {self.log.read_text()[:1500]}")


def grow_mounted(device, mount, size_bytes):
    """An ext4 of 64 MiB on the device grows while fio writes to it, and the new space is good."""
    mount.mkdir()
    harness.run("mkfs.ext4", "-q", "-F", device.path, timeout=120)
    harness.run("mount", device.path, mount, timeout=120)
    try:
        fio = device.scratch.start(harness.program("fio"), "--name=grown", f"--filename={mount}/file", "--direct=1",
                                   "--ioengine=libaio", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--size=8M",
                                   "--verify=crc32c", "--time_based", "--runtime=10", log=device.dir / "grown.log")
        harness.wait_until((mount / "file").exists, "fio writes")
        device.grow(size_bytes)
        said = harness.run("resize2fs", device.path, timeout=120).stdout
        assert "performing an on-line resize" in said or "is mounted on" in said, said
        assert fio.wait(120) == 0, (device.dir / "grown.log").read_text()[-1500:]
        with open(mount / "filler", "wb") as file:
            for _ in range(size_bytes // MIB * 3 // 4):
                file.write(os.urandom(4 * KIB) * 256)
            file.flush()
            os.fsync(file.fileno())
    finally:
        harness.run("umount", mount, timeout=120)
    harness.run("fsck.ext4", "-f", "-n", device.path, timeout=120)


def stop_process(process):
    os.kill(process.pid, signal.SIGSTOP)


def continue_process(process):
    os.kill(process.pid, signal.SIGCONT)


def read_direct(path, offset, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, length)
        if os.preadv(fd, [buffer], offset) != length:
            raise AssertionError("short read")
        return bytes(buffer)
    finally:
        os.close(fd)


def write_direct(path, offset, data, flush=False):
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, len(data))
        buffer.write(data)
        if os.pwritev(fd, [buffer], offset) != len(data):
            raise AssertionError("short write")
        if flush:
            os.fsync(fd)
    finally:
        os.close(fd)


def cleaned_up(function):
    def run(*arguments):
        try:
            function(*arguments)
        finally:
            Device.remove_all()
    return run


def run_suite(name, functions):
    """All test_ functions of a program on one target; the exit status."""
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            tls = harness.Tls(scratch)
            target = harness.Target(scratch, tls, harness.Pool(scratch, size="8GiB"), loops=4)
        except harness.Skip as why:
            print(f"SKIP mooring-{name}: {why}")
            return 0
        for test, function in sorted(functions.items()):
            if test.startswith("test_"):
                suite.run(f"{name}_{test[5:]}", cleaned_up(function), scratch, target)
    return suite.finish()
