"""What the tests of mooring-node share: a storage server with four loops, a controller, compute nodes, and volumes that
go through the CSI calls as a CO makes them."""
import json
import os
import pathlib
import random
import signal
import subprocess
import threading
import uuid

import controller_stack
import harness

MIB = 1 << 20
GIB = 1 << 30
XFS_BYTES = 320 * MIB  # mkfs.xfs refuses less than 300 MiB


def mounts():
    """Mount points of this host, in the order of their making, with their file system's type."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        lines = [line.split() for line in table]
    return [(line[4], line[line.index("-") + 1]) for line in lines]


def is_mounted(path):
    return str(path) in [at for at, _ in mounts()]


def loop_devices():
    """Backing file of each loop device that has one."""
    listed = harness.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.splitlines()
    return dict(tuple(part.strip() for part in line.split(None, 1)) for line in listed if len(line.split(None, 1)) == 2)


def filesystem_bytes(path):
    usage = os.statvfs(path)
    return usage.f_blocks * usage.f_frsize


def write_and_sync(path, data, how="wb"):
    with open(path, how) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load(stack, target, seconds, block=False):
    """fio that verifies what it wrote; its end says whether a write failed or data was wrong."""
    place = [f"--filename={target}", "--allow_mounted_write=1"] if block else [f"--directory={target}"]
    log = stack.scratch.path / f"fio-{random.randrange(1 << 30)}.log"
    process = stack.scratch.start(
        harness.program("fio"), "--name=load", *place, "--direct=1", "--ioengine=io_uring", "--rw=randwrite",
        "--bsrange=4k-64k", "--iodepth=8", "--size=32M", "--verify=crc32c", "--verify_state_save=0",
        "--verify_backlog=32", "--fsync=32",
        "--time_based", f"--runtime={seconds}", log=log)
    process.said = log.read_text
    return process


def load_is_well(process):
    if process.wait(120) != 0:
        raise AssertionError(f"fio saw an error: {process.said()[:1500]}")


class Background:
    """A call in a thread of its own; status() waits for its end: "OK", a gRPC status, or the exception's words."""

    def __init__(self, call, *arguments, **fields):
        self._status = None
        self._thread = threading.Thread(target=self._run, args=(call, arguments, fields), daemon=True)
        self._thread.start()

    def _run(self, call, arguments, fields):
        try:
            self._status = harness.status_of(call, *arguments, **fields)
        except Exception as why:  # the thread's end must say it
            self._status = str(why)

    def running(self):
        return self._thread.is_alive()

    def status(self, timeout_s=60):
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise AssertionError("a call does not end")
        return self._status


class Volume:
    """A volume made by CreateVolume, and the publish context of its newest attachment."""

    def __init__(self, stack, size=64 * MIB, block=False, mode="SINGLE_NODE_MULTI_WRITER", fs_type="", flags=(), source=None,
                 **parameters):
        self.stack, self.csi = stack, stack.controller.csi
        self.capability = self.csi.capability(mode, block=block, fs_type=fs_type)
        if flags:
            self.capability.mount.mount_flags.extend(flags)
        self.block = block
        content = {"volume_content_source": {"volume": {"volume_id": source.id}}} if source else {}
        made = self.csi.create(f"v-{uuid.uuid4().hex[:8]}", size=size, volume_capabilities=[self.capability],
                               parameters=parameters, **content)
        self.id, self.volume_context = made.volume_id, dict(made.volume_context)
        self.context = {}

    def publish(self, node, readonly=False):
        answer = self.csi.publish(self.id, node.id, volume_capability=self.capability, readonly=readonly,
                                  volume_context=self.volume_context)
        self.context = dict(answer.publish_context)
        return self

    def unpublish(self, node):
        self.csi.ControllerUnpublishVolume(volume_id=self.id, node_id=node.id, timeout_s=30)

    @property
    def epoch(self):
        return int(self.context["epoch"])

    def content(self):
        """"BLANK", "FORMATTING" or "DATA", as the storage server has it."""
        target = self.stack.target
        messages = harness.storage_messages(self.stack.scratch)
        return messages.Content.Name(target.controller.GetVolume(volume_id=self.id).volume.content)


class Node:
    """One mooring-node; start(), kill() and stop() as often as wanted. The CSI calls with what most tests do not care
    for filled in."""

    def __init__(self, stack, node_id, start=True, **config):
        self.stack, self.id = stack, node_id
        self.folder = stack.scratch.path / node_id
        self.folder.mkdir()
        self.state = self.folder / "s"
        self.log = self.folder / "log"
        self.boot_id_file = self.folder / "boot_id"
        self.tools = self.folder / "bin"  # what mooring-node finds first in its PATH
        self.tools.mkdir()
        self.new_boot()
        self.endpoint = f"unix://{self.folder}/csi.sock"
        self.config = {"endpoint": self.endpoint, "node_id": node_id, "state_dir": str(self.state),
                       "servers": stack.servers(), "tls": stack.tls.config(f"mooring:node:{node_id}"),
                       "boot_id_file": str(self.boot_id_file), "libexec_dir": str(harness.BUILD / "bin"),
                       "heartbeat_ms": 1000, "log_level": "debug", "place": "fork", **config}
        self.cgroups = []  # where the process goes at its start
        self.before = []  # words before its own: programs that become the next one
        self.process = None
        self.paths = set()
        stack.scratch.callback(self.remove)
        self.csi = controller_stack.Csi(stack.scratch, self.endpoint)
        if start:
            self.start()

    # ---- the process ----

    def new_boot(self):
        self.boot_id_file.write_text(f"{uuid.uuid4()}\n")

    def start(self):
        path = self.folder / "node.json"
        path.write_text(json.dumps(self.config))
        environment = {**os.environ, "PATH": f"{self.tools}:/usr/sbin:/sbin:{os.environ['PATH']}"}
        # Not scratch.start(): a call that hangs in the kernel ends with its device only, which remove() ends first.
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self.before, harness.program("mooring-node"), "--config", str(path)],
                                            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                            env=environment, preexec_fn=self._enter_cgroups)
        harness.wait_until(self._serves, "mooring-node answers Probe")
        return self

    def _enter_cgroups(self):
        for cgroup in self.cgroups:
            (cgroup / "cgroup.procs").write_text("0")

    def _serves(self):
        if self.process.poll() is not None:
            raise AssertionError(f"mooring-node ended ({self.process.returncode}): {self.log_text()[-2000:]}")
        return harness.status_of(self.csi.Probe, timeout_s=5) == "OK"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        return self.start()

    def log_text(self):
        return self.log.read_text(errors="replace")

    def wait_registered(self):
        def registered():
            return any(node.node_id == self.id for node in self.stack.target.operator.ListNodes().nodes)
        harness.wait_until(registered, f"{self.id} is registered")
        return self

    # ---- the calls ----

    def staging(self, volume):
        return self._path(f"staging-{volume.id}")

    def path(self, volume, name="a"):
        return self._path(f"target-{volume.id}-{name}")

    def _path(self, name):
        path = self.folder / name
        self.paths.add(path)
        return path

    def stage(self, volume, timeout_s=60, **fields):
        request = {"volume_id": volume.id, "publish_context": volume.context, "volume_context": volume.volume_context,
                   "staging_target_path": str(self.staging(volume)), "volume_capability": volume.capability, **fields}
        return self.csi.NodeStageVolume(timeout_s=timeout_s, **request)

    def unstage(self, volume, timeout_s=60, **fields):
        request = {"volume_id": volume.id, "staging_target_path": str(self.staging(volume)), **fields}
        return self.csi.NodeUnstageVolume(timeout_s=timeout_s, **request)

    def publish(self, volume, name="a", timeout_s=30, **fields):
        request = {"volume_id": volume.id, "publish_context": volume.context, "volume_context": volume.volume_context,
                   "staging_target_path": str(self.staging(volume)), "target_path": str(self.path(volume, name)),
                   "volume_capability": volume.capability, **fields}
        return self.csi.NodePublishVolume(timeout_s=timeout_s, **request)

    def unpublish(self, volume, name="a", timeout_s=30, **fields):
        request = {"volume_id": volume.id, "target_path": str(self.path(volume, name)), **fields}
        return self.csi.NodeUnpublishVolume(timeout_s=timeout_s, **request)

    def stats(self, volume, path, timeout_s=10):
        return self.csi.NodeGetVolumeStats(volume_id=volume.id, volume_path=str(path), timeout_s=timeout_s)

    def use(self, volume):
        """Attach, stage and publish in one; the target path."""
        volume.publish(self)
        self.stage(volume)
        self.publish(volume)
        return self.path(volume)

    def leave(self, volume):
        self.unpublish(volume)
        self.unstage(volume)
        volume.unpublish(self)

    # ---- what is on disk ----

    def volume_dir(self, volume):
        return self.state / "volumes" / volume.id

    def pid(self, volume, program="device"):
        """Of its mooring-device or mooring-holder, or None when it does not live."""
        try:
            pid = int((self.volume_dir(volume) / f"{program}.pid").read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self.state).encode() in command else None

    def status(self, volume):
        try:
            return json.loads((self.volume_dir(volume) / "device" / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {"state": "none", "generation": 0, "block_device": ""}

    def device(self, volume):
        return self.status(volume)["block_device"]

    def kill_device(self, volume, program="device"):
        pid = self.pid(volume, program)
        os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: self.pid(volume, program) != pid, f"mooring-{program} is gone")

    def wait_ready(self, volume, generation=1):
        """Until a device process of at least this generation serves."""
        def ready():
            now = self.status(volume)
            return now["state"] == "ready" and now["generation"] >= generation and now["pid"] == self.pid(volume)
        harness.wait_until(ready, f"the device is ready: {self.status(volume)}")

    def slow_tool(self, name, before=True):
        """A tool that says that it runs and waits until it is let go, before or after its work. Returns (said, go)."""
        said, go = self.folder / f"{name}.said", self.folder / f"{name}.go"
        for path in (said, go):
            path.unlink(missing_ok=True)
        wait = f"touch {said}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n"
        work = f"{harness.program(name)} \"$@\" || exit\n"
        tool = self.tools / name
        tool.write_text("#!/bin/sh\n" + (wait + work if before else work + wait))
        tool.chmod(0o755)
        self.stack.scratch.callback(go.touch)
        return said, go

    def remove(self):
        """Whatever a test left: nothing of it may outlive the scratch directory."""
        if self.process:
            self.process.kill()
        for folder in (self.state / "volumes").glob("*"):
            for program in ("device", "holder"):
                self._end(folder, program)
        if self.process:
            self.process.wait()
        for name, backing in loop_devices().items():  # once their files' mounts are gone they show no path any more
            if backing.startswith(f"{self.folder}/"):
                harness.run("losetup", "--detach", name, check=False)
        for path, _ in reversed(mounts()):
            if path.startswith(f"{self.folder}/"):
                harness.run("umount", "--lazy", path, check=False)

    def _end(self, folder, program):
        try:
            pid = int((folder / f"{program}.pid").read_text())
            if str(self.state).encode() not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return
        harness.wait_until(lambda: not os.path.exists(f"/proc/{pid}"), f"{program} {pid} is gone")


class Stack:
    """A storage server on an XFS image, a controller, and nodes n1 and n2."""

    def __init__(self, scratch, size="6GiB", device=None):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        self.target = harness.Target(scratch, self.tls, harness.Pool(scratch, "s1", size=size, device=device), loops=4)
        self.controller = controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        self.n1 = Node(self, "n1").wait_registered()
        self.n2 = Node(self, "n2").wait_registered()
        harness.wait_until(lambda: self.controller.csi.Probe().ready.value, "the controller is ready")

    def servers(self):
        return [{"id": self.target.server_id, "address": self.target.address, "pool_uuid": self.target.pool.uuid}]

    def volume(self, **fields):
        return Volume(self, **fields)


def run_all(tests, prefix="node", make_stack=Stack):
    """The exit status of a test program: every test_* of the namespace, in the order of their names, on one stack."""
    def run():
        suite = harness.Suite()
        with harness.Scratch() as scratch:
            stack = make_stack(scratch)
            for name, function in sorted(tests.items()):
                if name.startswith("test_"):
                    suite.run(f"{prefix}_{name[5:]}", function, stack)
        return suite.finish()
    return harness.main(run)
