#!/usr/bin/python3
"""Device processes outlive mooring-node, whatever is killed with it: its whole cgroup here; systemd's side is proven in a
guest. Root is needed, and a cgroup file system that can be written."""
import os
import pathlib
import signal
import sys

import harness
from controller_stack import equal
from node_fixture import load, load_is_well, run_all

# Hierarchies in which the test makes a service's cgroup: all where this process is not in the root already, for it is
# from there that devices would be moved, and those that kill.
CGROUP = pathlib.Path("/sys/fs/cgroup")


def mounted():
    """Path of the mount of each hierarchy by what /proc/self/cgroup calls it ("" for version 2)."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            words = line.split()
            kind, options = words[words.index("-") + 1], words[-1].split(",")
            if kind == "cgroup2":
                found[""] = pathlib.Path(words[4])
            elif kind == "cgroup":
                found.update({option: pathlib.Path(words[4]) for option in options})
    return found


def of(pid):
    """The cgroup of a process by hierarchy."""
    lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[1].split(",")[0]: line.split(":", 2)[2] for line in lines}


def processes(cgroup):
    return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]


def remove(cgroup):
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        pass


def make_service(scratch):
    """A cgroup "service" in a slice of the test's own, in each hierarchy that counts."""
    mounts, services = mounted(), []
    for name, path in of("self").items():
        if name not in mounts or (path == "/" and name not in ("", "pids")):
            continue
        parent = mounts[name] / f"mooring-test-{os.getpid()}"
        service = parent / "service"
        try:
            service.mkdir(parents=True)
        except OSError as why:
            raise harness.Skip(f"cgroups cannot be made here: {why}") from why
        for cgroup in (parent, parent / "mooring-devices", service):
            scratch.callback(remove, cgroup)
        services.append(service)
    if not services:
        raise harness.Skip("no cgroup file system")
    return services


def kill_all(services):
    """What a service manager does at its worst: SIGKILL to each process, until none is left in any hierarchy."""
    def gone():
        left = {pid for service in services for pid in processes(service)}
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not left
    harness.wait_until(gone, "the service's cgroup is empty")


def test_cgroup_killed(stack):
    """Everything in mooring-node's cgroup is killed under load: the I/O goes on, and a new mooring-node adopts."""
    node, volume = stack.n1, stack.volume(block=True)
    node.kill()
    services = make_service(stack.scratch)
    node.config["place"], node.cgroups = "cgroup", services
    node.start()
    target = node.use(volume)
    kept = [node.pid(volume, program) for program in ("device", "holder")]
    for pid in kept:
        assert not any("/service" in path for path in of(pid).values()), of(pid)
        assert all(path == "/" or path.endswith("/mooring-devices") for path in of(pid).values()), of(pid)
    running = load(stack, target, 6, block=True)
    kill_all(services)
    node.process.wait()
    equal([node.pid(volume, program) for program in ("device", "holder")], kept, "the processes that serve")
    load_is_well(running)
    node.start()
    equal(node.status(volume)["generation"], 1, "generation: adopted, not succeeded")
    # A successor that the new mooring-node starts is spared too.
    node.kill_device(volume)
    node.wait_ready(volume, 2)
    kill_all(services)
    node.process.wait()
    harness.run("dd", f"if={target}", "of=/dev/null", "bs=64k", "count=4", "iflag=direct", "status=none")
    node.start()
    node.leave(volume)
    for service in services:
        assert not (service.parent / "mooring-devices").exists(), "the devices' cgroup is left"
    node.kill()


def test_systemd_asked_for(stack):
    """Where systemd does not run the host, asking for it is refused in words."""
    if pathlib.Path("/run/systemd/system").is_dir():
        raise harness.Skip("systemd runs this host")
    node, volume = stack.n2, stack.volume(block=True).publish(stack.n2)
    node.kill()
    node.config["place"] = "systemd"
    node.start()
    answer = harness.status_of(node.stage, volume)
    equal(answer, "FAILED_PRECONDITION", "Stage")
    node.unstage(volume)
    node.kill()
    node.config["place"] = "fork"
    node.start()
    volume.unpublish(node)


if __name__ == "__main__":
    sys.exit(run_all(globals()))
