#!/usr/bin/env python3
"""What a block device outlives: its mooring-device, its mooring-holder, a lost path, a lack of memory."""
import errno
import mmap
import os
import re
import sys
import threading
import time

import harness
from device_fixture import KIB, MIB, Device, Load, errno_of, read_direct, run_suite, write_direct


def kill_under_load(scratch, target, **config):
    device = Device(scratch, target, **config)
    path = device.path
    loads = [Load(scratch, device, seconds=6),
             Load(scratch, device, seconds=6, fsync=1, offset="64M", size="32M", extra=("--rw=randtrimwrite",
                                                                                         "--verify=0"))]
    for _ in range(4):
        time.sleep(1)
        device.kill()
        device.start_device()
        device.wait_state("ready")
        assert device.path == path, "the block device changed"
        assert device.status()["take_over"], device.status()
    for load in loads:
        load.wait()
    return device


def test_device_killed_under_load(scratch, target):
    device = kill_under_load(scratch, target)
    assert "from the holder's memory" not in device.log_text()


def test_device_killed_without_resend(scratch, target):
    """As on a kernel before 6.9: what the dead process had taken is found in the holder's memory."""
    device = kill_under_load(scratch, target, resend=False)
    taken = [int(count) for count in re.findall(r"(\d+) requests of the crashed process", device.log_text())]
    assert len(taken) == 4 and sum(taken) > 0, f"requests taken up: {taken}"


def test_holder_killed(scratch, target):
    """Nothing is lost at once, but the status says that a crash would not be survived."""
    device = Device(scratch, target)
    assert device.status()["take_over"]
    device.holder.kill()
    device.holder.wait()
    harness.wait_until(lambda: not device.status()["take_over"], "the status tells")
    write_direct(device.path, 0, os.urandom(4 * KIB), flush=True)
    assert device.end() == 0


def test_holder_replaced(scratch, target):
    """A new holder is given everything again: a crash after that is survived, under load."""
    device = Device(scratch, target)
    path = device.path
    load = Load(scratch, device, seconds=4)
    for resend in (True, False):
        device.holder.kill()
        device.holder.wait()
        harness.wait_until(lambda: not device.status()["take_over"], "the status tells")
        device.start_holder()
        harness.wait_until(lambda: device.status()["take_over"], "the new holder has everything")
        device.config["resend"] = resend
        device.kill()
        device.start_device()
        device.wait_state("ready")
        assert device.path == path, "the block device changed"
    load.wait()
    assert device.end() == 0
    assert device.holder.wait(10) == 0, "the new holder stays"


def test_holder_signalled(scratch, target):
    """A host's shutdown sends SIGTERM to all processes, with file systems still mounted: the holder stays."""
    device = Device(scratch, target)
    device.process.terminate()
    device.holder.terminate()
    assert device.process.wait(30) == 0
    reader = threading.Thread(target=read_direct, args=(device.path, 0, 4 * KIB))
    reader.start()
    device.start_device()
    device.wait_state("ready")
    reader.join(30)
    assert device.holder.poll() is None, "the holder ended, and with it the mount"
    assert device.end() == 0
    assert device.holder.wait(10) == 0


def test_device_and_holder_killed(scratch, target):
    """Nothing is left to take over: who uses the block device gets an error, and the next start says why."""
    device = Device(scratch, target)
    fd = os.open(device.path, os.O_RDONLY | os.O_DIRECT)
    try:
        device.kill()
        device.holder.kill()
        device.holder.wait()
        assert errno_of(os.preadv, fd, [mmap.mmap(-1, 4096)], 0)[0] == errno.EIO
        device.start_holder()
        device.start_device()
        assert device.process.wait(30) == 1
        status = device.status()
        assert status["state"] == "failed" and "that nobody took over" in status["error"], status
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(run_suite("outlives", globals()))
