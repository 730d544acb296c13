#!/usr/bin/python3
"""mooring-node in a pod with a mount namespace and a network of its own, as a host's runtime gives and takes it: what it
has attached outlives the pod and the pod's link. The host is played by a process that is pid 1 in namespaces of the
test's, for pid 1 is what mooring-node goes by. Root is needed."""
import os
import pathlib
import signal
import subprocess
import sys

import controller_stack
import harness
import node_fixture
from controller_stack import equal
from node_fixture import load, load_is_well

INSIDE = "--inside"
SERVER = "10.77.0.1"  # on the host's loopback: reached from the pod over its link, from the host without


def namespace(pid, kind):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


class Pod:
    """Namespaces that a process without work keeps, and a link out of them. All mounts propagate both ways."""
    count = 0

    def __init__(self, scratch):
        Pod.count += 1
        self.link, self.host = f"pod{Pod.count}", f"10.77.{Pod.count}.1"
        self.keeper = scratch.start(harness.program("unshare"), "--mount", "--net", "--ipc", "--propagation", "unchanged",
                                    "sleep", "infinity")
        scratch.callback(self.end)
        harness.wait_until(lambda: namespace(self.keeper.pid, "net") != namespace("self", "net"), "the pod has its network")
        self.network = namespace(self.keeper.pid, "net")
        harness.run("ip", "link", "add", self.link, "type", "veth", "peer", "eth0", "netns", str(self.keeper.pid))
        harness.run("ip", "address", "add", f"{self.host}/24", "dev", self.link)
        harness.run("ip", "link", "set", self.link, "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"10.77.{Pod.count}.2/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"], ["route", "add", "default", "via", self.host]):
            self.run("ip", *words)

    def inside(self):
        """Words before a command's own."""
        return [harness.program("nsenter"), "--target", str(self.keeper.pid), "--mount", "--net", "--ipc", "--"]

    def run(self, *command, **options):
        return harness.run(*self.inside(), *command, **options)

    def end(self):
        """As the runtime does: what is still in there goes on, without a link."""
        self.keeper.kill()
        self.keeper.wait()
        harness.run("ip", "link", "delete", self.link, check=False)

    def inhabitants(self):
        found = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if namespace(folder.name, "net") == self.network:
                    found.append(int(folder.name))
            except OSError:
                pass
        return found


def without(capability):
    return [harness.program("setpriv"), "--bounding-set", f"-{capability}"]


class Node(node_fixture.Node):
    """In a pod, when started by start_in_pod()."""
    pod = lacks = None

    def start_in_pod(self, lacks=None, **config):
        if self.process:  # a test that failed has left it
            self.kill()
        self.pod, self.lacks = Pod(self.stack.scratch), lacks
        self.before = [*self.pod.inside(), *(without(lacks) if lacks else [])]
        self.config.update(config)
        return self.start()

    def _serves(self):
        """Probe may find out too that something is missing."""
        return super()._serves() or (self.lacks and harness.status_of(self.csi.Probe, timeout_s=5) == "FAILED_PRECONDITION")

    def lose_pod(self):
        self.kill()
        self.pod.end()
        equal(self.pod.inhabitants(), [], "who is left in the pod's network")


class Stack(node_fixture.Stack):
    def __init__(self, scratch):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        self.target = harness.Target(scratch, self.tls, harness.Pool(scratch, "s1", size="2GiB"), loops=1, start=False)
        self.target.portal, self.target.address = (f"{SERVER}:{harness.free_port()}" for _ in range(2))
        self.target.config.update(listen=self.target.address, portals=[self.target.portal])
        self.target.start()
        self.controller = controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        self.node = Node(self, "n1", start=False)
        harness.wait_until(lambda: self.controller.csi.Probe().ready.value, "the controller is ready")


def use_in_pod(stack, place):
    """A volume in use from a pod; its target path, which the host sees too, and what serves it."""
    node, volume = stack.node, stack.volume(fs_type="ext4")
    node.start_in_pod(place=place).wait_registered()
    target = node.use(volume)
    kept = {program: node.pid(volume, program) for program in ("device", "holder")}
    for program, pid in kept.items():
        equal(namespace(pid, "net"), namespace(1, "net"), f"network of mooring-{program}")
        equal(namespace(pid, "mnt") == namespace(1, "mnt"), False, f"mooring-{program} is in the host's mounts")
    return node, volume, target, kept


def leave_in_another_pod(node, volume):
    node.start_in_pod()
    node.leave(volume)
    node.lose_pod()


def test_outlives_the_pod(stack):
    """The pod and its link go while I/O runs on the mount; another pod adopts, and its successor outlives that one too."""
    node, volume, target, kept = use_in_pod(stack, "fork")
    running = load(stack, target, 3)
    harness.wait_until(lambda: any(target.iterdir()), "fio writes")
    node.lose_pod()
    load_is_well(running)
    equal(node.status(volume)["state"], "ready", "the device, without the pod")
    node.start_in_pod()
    equal({program: node.pid(volume, program) for program in kept}, kept, "the processes that serve")
    node.kill_device(volume)
    node.wait_ready(volume, 2)
    node.lose_pod()
    write_in_time(target)
    leave_in_another_pod(node, volume)


def write_in_time(target):
    harness.run("dd", "if=/dev/zero", f"of={target}/more", "bs=64k", "count=16", "conv=fsync", timeout=60)


def test_outlives_the_pod_from_a_cgroup(stack):
    node, volume, target, _ = use_in_pod(stack, "cgroup")
    node.lose_pod()
    write_in_time(target)
    leave_in_another_pod(node, volume)


def test_host_not_seen(stack):
    """Where it cannot be told which network is the host's, or it cannot be entered, nothing is attached, and the error says
    what is missing."""
    node = stack.node
    node.start_in_pod(place="fork").wait_registered().lose_pod()
    volume = stack.volume(block=True).publish(node)
    for lacks, words in (("sys_ptrace", "cannot be seen"), ("sys_admin", "cannot enter it")):
        node.start_in_pod(place="fork", lacks=lacks)
        controller_stack.status("FAILED_PRECONDITION", node.stage, volume, contains=words)
        controller_stack.status("FAILED_PRECONDITION", node.stage, volume, contains="must be privileged")
        equal(node.pid(volume), None, "a device in the pod's network")
        node.lose_pod()
    node.start_in_pod()
    node.leave(volume)
    node.lose_pod()


def test_check(stack):
    """`mooring node check` tells it beforehand."""
    def row(*before):
        said = stack.node.pod.run(*before, harness.program("mooring"), "node", "check", "--node-socket", stack.node.endpoint,
                                  check=False).stdout
        return next(line for line in said.splitlines() if line.startswith("devices are in the host's network")).split()
    stack.node.start_in_pod()
    equal(row()[6], "yes", "in a privileged pod")
    equal(row(*without("sys_ptrace"))[6:8], ["no", "yes"], "without CAP_SYS_PTRACE")
    equal(row(*without("sys_admin"))[6:8], ["no", "yes"], "without CAP_SYS_ADMIN")
    stack.node.lose_pod()


def run_inside():
    """In the host's namespaces, as the one child of its pid 1."""
    harness.run("ip", "link", "set", "lo", "up")
    harness.run("ip", "address", "add", f"{SERVER}/32", "dev", "lo")
    harness.run("mount", "--make-rshared", "/")
    return node_fixture.run_all(globals(), prefix="node_pod", make_stack=Stack)


def be_init():
    """What every pid 1 has to do: take in and reap the orphans, until the host goes down."""
    child = os.fork()
    if child == 0:
        sys.argv.remove(INSIDE)
        os._exit(run_inside())
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def be_host():
    command = [harness.program("unshare"), "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*command, "true"], check=False).returncode != 0:
        raise harness.Skip("namespaces need root")
    return subprocess.run([*command, sys.executable, __file__, INSIDE, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(be_init() if INSIDE in sys.argv else harness.main(be_host))
