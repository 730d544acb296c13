"""A whole cluster on one machine, for the tests of the invariants: storage servers with four loops each, two
controllers over all of them, and compute nodes with the real mooring-node. On loopback, without namespaces. A server
named in `disks` has its pool on a disk that fails on command and can lose its power (tests/faults/faulty_disk.c).

Everything goes with the scratch directory, also after Ctrl-C: processes by their pid, mounts and loop devices by
their place under it.
"""
import json
import mmap
import os
import pathlib
import random
import signal
import subprocess
import threading
import time
import uuid

import harness
from controller_stack import MIB, Controller, Csi, equal, settle, status
from harness import errno_of
from target_fixture import Attachment, Volume

BLOCK = 4096
AUTHORIZATION, UNAVAILABLE = 0x0202, 0x0301  # login statuses, RFC 7143 11.13.5
__all__ = ["AUTHORIZATION", "Attachment", "BLOCK", "Cluster", "Csi", "MIB", "UNAVAILABLE", "Volume", "Writer", "equal",
           "errno_of", "seeded", "settle", "start_thread", "status"]


def seeded():
    """The run's source of randomness, its seed printed."""
    return random.Random(harness.seed())


class start_thread(threading.Thread):
    """A call on a thread of its own: .ended() tells, .result() waits and gives what it returned or raised."""

    def __init__(self, call, *arguments, **options):
        super().__init__(daemon=True)
        self._call, self._arguments, self._options = call, arguments, options
        self._value = self._error = None
        self.start()

    def run(self):
        try:
            self._value = self._call(*self._arguments, **self._options)
        except BaseException as why:  # pylint: disable=broad-except
            self._error = why

    def ended(self):
        return not self.is_alive()

    def result(self, timeout_s=60):
        self.join(timeout_s)
        if self.is_alive():
            raise AssertionError(f"{self._call} did not end within {timeout_s} s")
        if self._error:
            raise self._error
        return self._value


# ---- a disk with a power switch ----


class Disk:
    """tests/faults/faulty_disk.c below a loop device. on() and off() as often as wanted."""

    def __init__(self, scratch, name, size_bytes):
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            raise harness.Skip("a disk that fails on command needs root and /dev/fuse")
        self.image, self.folder = scratch.path / f"{name}.disk", scratch.path / f"{name}.fuse"
        self.control, self.log = scratch.path / f"{name}.ctl", scratch.path / f"{name}.disk.log"
        self.folder.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(size_bytes)
        self.process = self.device = None
        scratch.callback(self.off)
        self.on()

    def on(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([harness.program("faulty-disk"), self.image, self.folder, self.control],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        harness.wait_until((self.folder / "disk").exists, "the disk is mounted")
        self.device = harness.run("losetup", "--find", "--show", "--direct-io=on", self.folder / "disk").stdout.strip()

    def off(self):
        with open("/proc/self/mounts", encoding="utf-8") as table:
            for place in [line.split()[1] for line in table if self.device and line.split()[0] == self.device]:
                harness.run("umount", "--lazy", place, check=False)  # a file system that failed cannot even be asked
        if self.device:
            harness.run("losetup", "--detach", self.device, check=False)
            self.device = None
        if self.process:
            harness.end_process(self.process)
            self.process = None
        if os.path.ismount(self.folder):
            harness.run("umount", "--lazy", self.folder, check=False)

    command = harness.FaultyDisk.command

    def stat(self, what):
        words = self.command("stats").split()
        return int(words[words.index(what) + 1])

    def held(self):
        return self.stat("held")


class Server(harness.Target):
    """A mooring-target of the cluster; with a disk, its host has a power switch."""

    def __init__(self, scratch, tls, server_id, disk, size, **config):
        self.disk = Disk(scratch, server_id, 768 * MIB) if disk else None
        pool = harness.Pool(scratch, server_id, size=size, device=self.disk.device if disk else None)
        super().__init__(scratch, tls, pool, **config)

    def wait_ready(self):
        """grpcio drives a connection only while a call waits for it: a call that fails at once may never get one."""
        def ready():
            if self.process.poll() is not None:
                errors = [line for line in self.log_text().splitlines() if line.startswith("error")]
                raise AssertionError(f"mooring-target ended ({self.process.returncode}): {errors[-1:]}")
            return harness.status_of(self.controller.GetServer, timeout_s=2, wait_for_ready=True) == "OK"
        harness.wait_until(ready, "mooring-target serves")

    def cut_power(self, seed, keep_percent=0):
        """The host is gone at once: nothing more is answered; unflushed sectors are lost. Their number."""
        self.freeze()
        answer = self.disk.command(f"cut {seed} {keep_percent}")
        self.kill()
        self.disk.off()
        return int(answer.split()[-1])

    def freeze(self):
        """Stopped when this returns: the thread that takes the signal may wait for a CPU while the others go on, and would
        tell of a disk whose power is gone."""
        os.kill(self.process.pid, signal.SIGSTOP)

        def runs(task):
            try:
                return (task / "stat").read_text().rpartition(")")[2].split()[0] not in "tTZX"
            except OSError:  # the thread has ended
                return False

        def stopped():
            return not any(runs(task) for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir())
        harness.wait_until(stopped, "mooring-target stands still")

    def power_on(self, start=True):
        self.disk.on()
        # The kernel that all hosts share may still know the file system from before the cut: nouuid.
        harness.run("mount", "-t", "xfs", "-o", "nouuid", self.disk.device, self.pool.path)
        if start:
            self.start()

    def record(self, volume_id):
        return json.loads((self.pool.path / "volumes" / volume_id / "volume.json").read_text())


# ---- compute nodes ----


class Node:
    """A compute node: mooring-node, its devices and mounts, and its boot id, which boot() draws anew."""

    def __init__(self, cluster, name, **config):
        self.cluster, self.name = cluster, name
        self.dir = cluster.scratch.path / name
        self.dir.mkdir()
        self.endpoint = f"unix://{self.dir}/csi"
        self.log = self.dir / "node.log"
        self.boot_id_file = self.dir / "boot_id"
        self.config = {"endpoint": self.endpoint, "node_id": name, "state_dir": str(self.dir / "state"),
                       "servers": cluster.servers(), "tls": cluster.tls.config(f"mooring:node:{name}"),
                       "boot_id_file": str(self.boot_id_file), "libexec_dir": str(harness.BUILD / "bin"),
                       "heartbeat_ms": 500, "log_level": "debug", "place": "fork", **config}
        self.csi = Csi(cluster.scratch, self.endpoint)
        self.process = None
        self.contexts = {}
        cluster.scratch.callback(self.remove)
        self.boot()

    def boot(self):
        """A new life of the host. Its processes are gone by now: see kill_host()."""
        self.boot_id_file.write_text(f"{uuid.uuid4()}\n")
        self.start()

    @property
    def boot_id(self):
        return self.boot_id_file.read_text().strip().replace("-", "")

    def start(self):
        path = self.dir / "node.json"
        path.write_text(json.dumps(self.config))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([harness.program("mooring-node"), "--config", path], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        harness.wait_until(lambda: harness.status_of(self.csi.Probe, timeout_s=2) == "OK", "the node answers Probe")

    def wait_registered(self):
        def registered():
            return all(any(node.node_id == self.name and node.boot_id == self.boot_id
                           for node in target.operator.ListNodes().nodes) for target in self.cluster.targets)
        harness.wait_until(registered, f"{self.name} is registered everywhere")
        return self

    def kill(self):
        """mooring-node alone."""
        self.process.kill()
        self.process.wait()

    def pids(self):
        """What runs for this node besides mooring-node itself: its devices and holders."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else [b""]
            except OSError:
                continue
            if any(str(self.dir).encode() + b"/" in word for word in words) and b"mooring-" in words[0]:
                found.append(int(entry.name))
        return [pid for pid in found if not self.process or pid != self.process.pid]

    def kill_host(self):
        """kill -9 of all that runs on this host."""
        if self.process and self.process.poll() is None:
            self.kill()

        def gone():
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not self.pids()
        harness.wait_until(gone, f"the processes of {self.name} end")

    def remove(self):
        self.kill_host()
        for line in harness.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.splitlines():
            name, _, backing = line.partition(" ")
            if backing.strip().startswith(f"{self.dir}/"):
                harness.run("losetup", "--detach", name, check=False)
        with open("/proc/self/mounts", encoding="utf-8") as table:
            mounts = [line.split()[1] for line in table]
        for place in reversed([mount for mount in mounts if mount.startswith(f"{self.dir}/")]):
            harness.run("umount", "--lazy", place, check=False)

    def log_text(self):
        """Of mooring-node and all its devices."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.dir.rglob("*log*")) if path.is_file())

    # ---- volumes ----

    def stage(self, volume, controller=None, **capability):
        """ControllerPublish and NodeStage."""
        csi = (controller or self.cluster.a).csi
        capability = csi.capability(**capability)
        context = settle(csi.publish, volume.volume_id, self.name, volume_capability=capability).publish_context
        self.contexts[volume.volume_id] = context
        self.csi.NodeStageVolume(volume_id=volume.volume_id, publish_context=context,
                                 staging_target_path=str(self.dir / f"stage-{volume.volume_id}"),
                                 volume_capability=self.csi.capability(block=capability.HasField("block")),
                                 volume_context=volume.volume_context)

    def attach(self, volume, controller=None, **capability):
        """Publish, stage and publish here; the path: a block device, or a mounted directory."""
        self.stage(volume, controller, **capability)
        target = self.dir / "targets" / volume.volume_id
        target.parent.mkdir(exist_ok=True)
        self.csi.NodePublishVolume(volume_id=volume.volume_id, publish_context=self.contexts[volume.volume_id],
                                   staging_target_path=str(self.dir / f"stage-{volume.volume_id}"),
                                   target_path=str(target), volume_context=volume.volume_context,
                                   volume_capability=self.csi.capability(block=capability.get("block", True)))
        return str(target)

    def detach(self, volume, unpublish=True):
        target = str(self.dir / "targets" / volume.volume_id)
        self.csi.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=target)
        settle(self.csi.NodeUnstageVolume, volume_id=volume.volume_id,
               staging_target_path=str(self.dir / f"stage-{volume.volume_id}"))
        if unpublish:
            settle(self.cluster.a.csi.ControllerUnpublishVolume, volume_id=volume.volume_id, node_id=self.name)

    def device_status(self, volume):
        """status.json of the volume's mooring-device."""
        for path in self.dir.rglob("status.json"):
            try:
                found = json.loads(path.read_text())
            except (OSError, json.JSONDecodeError):
                continue
            if volume.volume_id in str(path):
                return found
        return {"state": "none"}


# ---- the whole ----


class Cluster:
    """targets, controllers a and b, and whatever nodes a test asks for."""

    def __init__(self, scratch, servers=3, disks=(), nodes=(), size="512MiB", **config):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        self.targets = [Server(scratch, self.tls, f"s{i + 1}", f"s{i + 1}" in disks, size,
                               **{"topology": {"zone": f"z{i + 1}"}, "loops": 4, **config}) for i in range(servers)]
        self.a, self.b = (Controller(scratch, self.tls, f"controller-{name}", self.servers()) for name in "ab")
        for controller in (self.a, self.b):
            harness.wait_until(lambda csi=controller.csi: csi.Probe().ready.value, "the controller is ready")
        self.nodes = {name: Node(self, name) for name in nodes}
        for node in self.nodes.values():
            node.wait_registered()

    def servers(self, gone=()):
        return [{"id": target.server_id, "address": target.address, "pool_uuid": target.pool.uuid,
                 "gone": target.server_id in gone} for target in self.targets]

    def node(self, name, **config):
        """One more node."""
        self.nodes[name] = Node(self, name, **config)
        return self.nodes[name].wait_registered()

    def target_of(self, volume_id):
        return next(target for target in self.targets if volume_id.startswith(target.server_id + "."))

    def create(self, name, server="s1", size=32 * MIB, controller=None, **fields):
        """A volume on the server asked for."""
        return settle((controller or self.a).csi.create, name, size=size, parameters={"zone": f"z{server[1:]}"}, **fields)

    def register(self, name):
        """A node without mooring-node: its boot id."""
        boot_id = uuid.uuid4().hex
        for target in self.targets:
            target.node(name).RegisterNode(node_id=name, boot_id=boot_id, address="test")
        return boot_id

    def attachment(self, volume_id, name, epoch):
        """What a node may know of an attachment: to log in, to grant, to format."""
        target = self.target_of(volume_id)
        volume = Volume.__new__(Volume)
        volume.target, volume.id, volume.iqn = target, volume_id, f"iqn.2026-11.storage.mooring:{volume_id}"
        return Attachment(volume, name, int(epoch))

    def publish(self, volume_id, name, controller=None, **fields):
        """ControllerPublishVolume; the attachment."""
        context = (controller or self.a).csi.publish(volume_id, name, **fields).publish_context
        return self.attachment(volume_id, name, context["epoch"])

    def cli(self, *arguments, timeout_s=60, check=False, **config):
        """The mooring command as an operator; the completed process."""
        path = self.scratch.path / "cli.json"
        path.write_text(json.dumps({"controller": self.a.endpoint, "servers": self.servers(),
                                    "tls": self.tls.config("mooring:operator"), **config}))
        return harness.run(harness.program("mooring"), "--config", path, *arguments, check=check, timeout=timeout_s)

    def volumes(self):
        return [volume for target in self.targets for volume in target.controller.ListVolumes().volumes]


# ---- load ----


class Writer(threading.Thread):
    """Writes random blocks to a block device and remembers each that was answered; an fsync after every `fsync`th."""

    def __init__(self, path, seed, blocks=2048, fsync=0, pause_s=0.0):
        super().__init__(daemon=True)
        self.path, self.blocks, self.fsync, self.pause_s = path, blocks, fsync, pause_s
        self.random = random.Random(seed)
        self.answered, self.flushed = {}, {}  # flushed: what was there when the last fsync answered
        self.count, self.error = 0, None
        self.longest_s = 0.0
        self.stopping = threading.Event()
        self.start()

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            with mmap.mmap(-1, BLOCK) as buffer:
                try:
                    while not self.stopping.is_set():
                        self._write(fd, buffer)
                finally:
                    os.close(fd)
        except OSError as error:
            self.error = error

    def _write(self, fd, buffer):
        block, content = self.random.randrange(self.blocks), self.random.randbytes(BLOCK)
        buffer[:] = content
        begin = time.monotonic()
        if os.pwritev(fd, [buffer], block * BLOCK) != BLOCK:
            raise OSError(f"short write to {self.path}")
        self.longest_s = max(self.longest_s, time.monotonic() - begin)
        self.answered[block] = content
        self.count += 1
        if self.fsync and self.count % self.fsync == 0:
            os.fsync(fd)
            self.flushed = dict(self.answered)
        if self.pause_s:
            time.sleep(self.pause_s)

    def wait_for(self, more):
        """Until so many more writes were answered."""
        aim = self.count + more
        harness.wait_until(lambda: self.count >= aim or self.error, f"{more} more writes are answered", timeout_s=60)
        if self.error:
            raise AssertionError(f"the writer got an I/O error: {self.error}")

    def stop(self, timeout_s=60):
        self.stopping.set()
        self.join(timeout_s)
        if self.is_alive():
            raise AssertionError(f"a write did not end within {timeout_s} s")
        if self.error:
            raise AssertionError(f"the writer got an I/O error: {self.error}")

    def wrong(self, path=None):
        """How many blocks do not read as they were written last."""
        def count():
            return sum(_read_block(path or self.path, block, BLOCK) != content
                       for block, content in list(self.answered.items()))
        return start_thread(count).result(IO_LIMIT_S)


IO_LIMIT_S = 40


def read_block(path, block, length=BLOCK):
    """Off this thread, which a device that waits for ever would not let end."""
    return start_thread(_read_block, path, block, length).result(IO_LIMIT_S)


def write_block(path, block, content, fsync=False):
    start_thread(_write_block, path, block, content, fsync).result(IO_LIMIT_S)


def _read_block(path, block, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as buffer:
            if os.preadv(fd, [buffer], block * BLOCK) != length:
                raise OSError("short read")
            return bytes(buffer)
    finally:
        os.close(fd)


def _write_block(path, block, content, fsync):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, len(content)) as buffer:
            buffer[:] = content
            if os.pwritev(fd, [buffer], block * BLOCK) != len(content):
                raise OSError("short write")
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


# ---- a test program ----


def main(tests, make):
    """Run (name, function) pairs, each with (cluster, random). make(scratch): the cluster that they share."""
    suite, choice = harness.Suite(), seeded()
    with harness.Scratch() as scratch:
        try:
            cluster = make(scratch)
        except harness.Skip as why:
            for name, _ in tests:
                suite.skip(name, why)
            return 0
        for name, function in tests:
            suite.run(name, function, cluster, random.Random(choice.random()))
    return suite.finish()
