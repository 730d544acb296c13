#!/usr/bin/python3
"""mooring-node where a review broke it: what may follow the death of a device or its holder, and what may not. Root is
needed; the storage server has four loops."""
import os
import pathlib
import signal
import subprocess
import sys
import time

import harness
from controller_stack import equal, status
from node_fixture import Node, Stack, is_mounted


def device_of(path):
    """What a container knows a block volume by: the number behind its path."""
    return os.stat(path).st_rdev


def backing(path):
    number = device_of(path)
    at = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/backing_file")
    return at.read_text() if at.exists() else ""


def read(path):
    return harness.run("dd", f"if={path}", "bs=4096", "count=1", "iflag=direct", "status=none", check=False)


def write(path, text, megabyte=0):
    subprocess.run(["dd", f"of={path}", "bs=4096", "count=1", f"seek={megabyte * 256}", "oflag=direct", "status=none"],
                   input=(text * 4096)[:4096].encode(), check=True)


def end(pids, signal_number):
    for pid in pids:
        os.kill(pid, signal_number)
    harness.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the processes are gone")


def both(node, volume):
    return [node.pid(volume, program) for program in ("device", "holder")]


# ---- lost devices ----


def test_all_killed(stack):
    """Holders and devices of published block volumes killed: no path ever leads to another volume."""
    node = stack.n1
    volumes = [stack.volume(block=True) for _ in range(3)]
    for volume in volumes:
        write(node.use(volume), volume.id)
    numbers = [device_of(node.path(volume)) for volume in volumes]
    pids = [pid for volume in volumes for pid in both(node, volume)]
    node.kill()
    end(pids, signal.SIGKILL)
    node.start()
    def lost(volume):
        return f"volume {volume.id} has lost its block device" in node.log_text()
    harness.wait_until(lambda: all(map(lost, volumes)), "the losses are said")
    fresh = stack.volume(block=True)
    assert device_of(node.use(fresh)) not in numbers, "a number that others know is given away"
    time.sleep(1.5)  # three rounds of the supervisor
    for volume in volumes:
        path = node.path(volume)
        assert volume.id in backing(path), f"{path} leads to {backing(path)}"
        assert read(path).returncode != 0
        equal(node.log_text().count(f"volume {volume.id} has lost"), 1, "times that it is said")
        status("FAILED_PRECONDITION", node.publish, volume, name="b", contains="unstage it")
        status("FAILED_PRECONDITION", node.stage, volume, contains="unstage it")
        node.unpublish(volume)
    node.stage(volumes[0])  # anew: nobody knows its old device
    for volume in volumes:
        node.unstage(volume)
        assert not node.volume_dir(volume).exists()
    for volume in volumes:
        node.stage(volume)
        node.publish(volume)
        equal(read(node.path(volume)).stdout[:len(volume.id)], volume.id, "what was written")
        node.leave(volume)
    node.leave(fresh)


def test_holder_and_device_killed_under_mount(stack):
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    node.kill_device(volume, "holder")
    node.kill_device(volume)
    harness.wait_until(lambda: f"volume {volume.id} has lost its block device" in node.log_text(), "the loss is said")
    node.unpublish(volume)
    node.unstage(volume)
    node.use(volume)
    node.leave(volume)


def test_all_told_to_end(stack):
    """SIGTERM to mooring-node and to all devices, as a stop of the unit sends it: the volumes are where they were."""
    node = stack.n1
    volumes = [stack.volume(block=True) for _ in range(3)]
    for volume in volumes:
        write(node.use(volume), volume.id)
    numbers = [device_of(node.path(volume)) for volume in volumes]
    pids = [node.pid(volume) for volume in volumes]
    node.process.terminate()
    end(pids, signal.SIGTERM)
    node.process.wait()
    node.start()
    for volume, number in zip(volumes, numbers):
        node.wait_ready(volume, 2)
        equal(device_of(node.path(volume)), number, "the device's number")
        equal(os.stat(node.device(volume)).st_rdev, number, "the device's number in its status")
        equal(read(node.path(volume)).stdout[:len(volume.id)], volume.id, "what was written")
        node.leave(volume)


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = Stack(scratch)
        except harness.Skip as why:
            print(f"SKIP node_hardening: {why}")
            return 0
        for name, function in sorted(globals().items()):
            if name.startswith("test_") and sys.argv[1:] in ([], [name]):
                suite.run(f"node_{name[5:]}", function, stack)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
