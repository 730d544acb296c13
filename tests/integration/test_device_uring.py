#!/usr/bin/python3
"""FUSE over io_uring, an opt-in: what it keeps (data, fences, the orderly end), and what it does not (a crash)."""
import contextlib
import os
import pathlib
import signal
import sys
import time

import harness
from device_fixture import KIB, MIB, Device, Load, read_direct, run_suite, write_direct
from node_fixture import Node, Stack, is_mounted, load, loop_devices
from test_device import lose_unflushed
from harness import errno_of

PARAMETER = pathlib.Path("/sys/module/fuse/parameters/enable_uring")


@contextlib.contextmanager
def parameter(value):
    """The module's parameter, for mounts that are made meanwhile; others' do not ask for it."""
    if not PARAMETER.exists():
        raise harness.Skip("this kernel has no FUSE over io_uring")
    before = PARAMETER.read_text(encoding="ascii").strip()
    try:
        PARAMETER.write_text(value, encoding="ascii")
        yield
    finally:
        PARAMETER.write_text(before, encoding="ascii")


def attach(scratch, target, node="n1", **config):
    with parameter("Y"):
        device = Device(scratch, target, node=node, fuse_io_uring=True, **config)
    assert "requests come by io_uring" in device.log_text(), device.log_text()[-1500:]
    assert device.status()["take_over"] is False
    return device


def test_serves(scratch, target):
    device = attach(scratch, target)
    pattern = os.urandom(MIB)
    write_direct(device.path, 3 * MIB, pattern, flush=True)
    assert read_direct(device.path, 3 * MIB, MIB) == pattern
    harness.run("blkdiscard", "--offset", 3 * MIB, "--length", 512 * KIB, device.path)
    harness.run("blkdiscard", "--zeroout", "--offset", 3 * MIB + 512 * KIB, "--length", 256 * KIB, device.path)
    assert read_direct(device.path, 3 * MIB, MIB) == bytes(768 * KIB) + pattern[768 * KIB:]
    load = Load(scratch, device, seconds=3, iodepth=32)
    time.sleep(1)
    target.kill()
    device.wait_state("waiting")
    target.start()
    device.wait_state("ready")
    load.wait()
    harness.run(harness.program("mkfs.ext4"), "-q", "-F", device.path)
    mount = scratch.path / "uring-mnt"
    mount.mkdir()
    harness.run("mount", device.path, mount)
    try:
        (mount / "file").write_bytes(pattern)
    finally:
        harness.run("umount", mount)
    harness.run(harness.program("fsck.ext4"), "-f", "-n", device.path)
    assert device.end() == 0
    assert device.status()["state"] == "ended"
    assert device.holder.wait(10) == 0, "the holder stays"
    assert not os.path.ismount(device.dir / "fuse")
    assert not device.volume.sessions(), "the session stays"


def test_lost_write_is_replayed(scratch, target):
    """Invariant 1 holds: an answered, unflushed write survives the storage server's power cut."""
    with parameter("Y"):
        found, written = lose_unflushed(scratch, target, fuse_io_uring=True)
    assert found == written


def test_full_log(scratch, target):
    """Writes that find the log full wait in their entries, and all of them end."""
    device = attach(scratch, target, log_size_bytes=4 * MIB)
    load = Load(scratch, device, seconds=2, iodepth=64, fsync=0, extra=("--rw=randwrite", "--bsrange=128k-256k"))
    load.wait()
    assert device.end() == 0


def test_fence(scratch, target):
    device = attach(scratch, target, node="n-uring")
    write_direct(device.path, 0, os.urandom(64 * KIB), flush=True)
    load = Load(scratch, device, seconds=30)
    time.sleep(0.5)
    target.operator.FenceNode(node_id="n-uring", reason="test")
    device.wait_state("failed")
    assert load.process.wait(20) != 0, "fio saw no error"
    assert errno_of(read_direct, device.path, 0, 4 * KIB) == 5
    assert errno_of(write_direct, device.path, 0, bytes(4 * KIB)) == 5


def test_killed(scratch, target):
    """No crash guarantee: errors at once, and never a hang; what was answered is there for the next attachment."""
    device = attach(scratch, target)
    pattern = os.urandom(256 * KIB)
    write_direct(device.path, 100 * MIB, pattern)
    path = device.path
    load = Load(scratch, device, seconds=60, iodepth=32)
    time.sleep(1)
    assert load.running()
    device.kill()
    assert load.process.wait(20) != 0, "fio saw no error"
    assert errno_of(read_direct, path, 0, 4 * KIB) != 0
    with parameter("Y"):
        device.start_device()
        device.wait_state("ready")
    assert read_direct(device.path, 100 * MIB, len(pattern)) == pattern
    assert device.end() == 0


def test_told_to_stop(scratch, target):
    """A SIGTERM that does not mean the volume (a pod stops) must not take it away: nobody could go on with it."""
    device = attach(scratch, target)
    device.process.send_signal(signal.SIGTERM)
    harness.wait_until(lambda: "serving on" in device.log_text(), "it stays")
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    assert device.end() == 0


def test_killed_under_a_file_system(_scratch, _target):
    """On a node: nothing hangs, Unstage cleans up, and what was flushed is there when the volume is staged again."""
    with harness.Scratch() as scratch, parameter("Y"):
        stack = Stack(scratch)
        node = Node(stack, "n-uring", fuse_io_uring=True, attach="fuse").wait_registered()
        volume = stack.volume()
        path = node.use(volume)
        assert node.status(volume)["take_over"] is False
        (path / "file").write_bytes(b"there")
        harness.run("sync", "--file-system", path)
        writer = load(stack, path, 60)
        time.sleep(1)
        node.kill_device(volume)
        assert writer.wait(30) != 0, "fio saw no error"
        node.unpublish(volume)
        harness.wait_until(lambda: harness.status_of(node.unstage, volume) == "OK", "Unstage cleans up")
        assert not is_mounted(node.staging(volume)) and not node.volume_dir(volume).exists()
        assert not [at for at in loop_devices().values() if volume.id in at], "loop devices of the volume"
        node.stage(volume)
        node.publish(volume)
        assert (path / "file").read_bytes() == b"there"
        node.leave(volume)


def test_not_there(scratch, target):
    """A wish: where the module says no, /dev/fuse serves, crash guarantee and all, and the log names the parameter."""
    with parameter("N"):
        device = Device(scratch, target, fuse_io_uring=True)
    assert str(PARAMETER) in device.log_text()
    assert device.status()["take_over"] is True
    load = Load(scratch, device, seconds=3)
    time.sleep(1)
    device.kill()
    with parameter("Y"):  # what is attached stays as it is
        device.start_device()
        device.wait_state("ready")
    load.wait()
    assert device.status()["take_over"] is True
    assert device.end() == 0


if __name__ == "__main__":
    sys.exit(run_suite("device_uring", globals()))
