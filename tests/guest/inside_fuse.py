#!/usr/bin/python3
"""In a guest: a real mooring-target on /dev/vda, and what mooring-device's FUSE frontend must do on this kernel. Started
by test_guest_fuse.py; prints a line a case."""
import errno
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import harness
import test_device
import test_device_outlives
from device_fixture import MIB, Device, Load, grow_mounted
from harness import errno_of


def written(device):
    """Requests that the block device has completed (Documentation/block/stat.rst)."""
    fields = pathlib.Path(f"/sys/block/{os.path.basename(device.path)}/stat").read_text(encoding="ascii").split()
    return int(fields[0]) + int(fields[4])


def attach_mkfs_verify(scratch, target):
    device = Device(scratch, target, size_bytes=64 * MIB)
    mount = scratch.path / "mnt"
    mount.mkdir()
    harness.run("mkfs.ext4", "-q", device.path)
    harness.run("mount", device.path, mount)
    try:
        harness.run("fio", "--name=verify", f"--directory={mount}", "--size=8M", "--rw=randwrite", "--bsrange=4k-64k",
                    "--direct=1", "--ioengine=io_uring", "--iodepth=8", "--verify=crc32c", "--fsync=16", timeout=300)
    finally:
        harness.run("umount", mount)
    harness.run("fsck.ext4", "-f", "-n", device.path)
    loop = device.path
    assert device.end() == 0
    assert device.holder.wait(30) == 0, "the holder stays"
    assert not os.path.exists(f"/sys/block/{os.path.basename(loop)}/loop"), "the loop device stays"
    assert not os.path.ismount(device.dir / "fuse"), "the FUSE mount stays"


def crash_and_take_over(scratch, target):
    """kill -9 in the midst of I/O; the successor takes the requests up, and fio sees neither an error nor a wrong block."""
    device = Device(scratch, target, size_bytes=64 * MIB)
    load = Load(scratch, device, seconds=20, size="16M")
    for _ in range(3):
        before = written(device)
        harness.wait_until(lambda least=before + 200: written(device) >= least, "I/O goes on", timeout_s=120)
        assert load.running(), load.log.read_text()[-1000:]
        device.kill()
        device.start_device()
        device.wait_state("ready", timeout_s=120)
    load.wait(300)
    resends = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9)
    assert resends or "are taken up from the holder's memory" in device.log_text(), "how was it taken up?"
    assert device.end() == 0


def grown_in_use(scratch, target):
    """The loop driver asks for the file's size in another way on each of these kernels. A successor finds what is there."""
    device = Device(scratch, target, size_bytes=64 * MIB)
    grow_mounted(device, scratch.path / "grown", 160 * MIB)
    device.kill()
    device.start_device()
    device.wait_state("ready", timeout_s=120)
    device.grow(192 * MIB)
    assert device.end() == 0


def fenced(scratch, target):
    device = Device(scratch, target, node="n-fenced")
    path = device.path
    test_device.write_direct(path, 0, bytes(4096), flush=True)
    target.operator.FenceNode(node_id="n-fenced", reason="test")
    device.wait_state("failed", timeout_s=120)
    for call in ((test_device.read_direct, path, 0, 4096), (test_device.write_direct, path, 0, bytes(4096))):
        number = errno_of(*call)
        assert number == errno.EIO, f"errno {number}"
    assert device.end() == 0


def fit_for_writeback(scratch, target):
    lacks = test_device_outlives.fit_for_writeback(scratch, target)
    assert not lacks, lacks


def written_back_under_a_limit(scratch, target):
    """Of cgroup v2."""
    test_device_outlives.test_writeback_under_a_memory_limit(scratch, target)


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        target = harness.Target(scratch, tls, harness.Pool(scratch, device="/dev/vda"), loops=1)
        for case in (attach_mkfs_verify, crash_and_take_over, grown_in_use, fenced, fit_for_writeback,
                     written_back_under_a_limit):
            if sys.argv[1:] and case.__name__ not in sys.argv[1:]:
                continue
            suite.run(case.__name__, case, scratch, target)
            Device.remove_all()
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
