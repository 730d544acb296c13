#!/usr/bin/python3
"""Run in a guest by test_guest_ublk.py: mooring-device with "attach": "ublk" against a real mooring-target. One line a
case; what went wrong stands before a FAIL.
"""
import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # pylint: disable=wrong-import-position
import test_device  # pylint: disable=wrong-import-position
from device_fixture import MIB, Device, Load, errno_of  # pylint: disable=wrong-import-position

CHARACTER_DEVICES = pathlib.Path("/sys/class/ublk-char")
WAIT_S = 120  # nothing is fast here


def devices():
    return sorted(entry.name for entry in CHARACTER_DEVICES.iterdir()) if CHARACTER_DEVICES.exists() else []


def none_left():
    harness.wait_until(lambda: not devices(), f"no ublk device is left: {devices()}", timeout_s=WAIT_S)


def attach(scratch, target, **config):
    device = Device(scratch, target, start=False, attach="ublk", **config)
    device.start_holder()
    device.start_device()
    device.wait_state("ready", timeout_s=WAIT_S)
    assert re.fullmatch(r"/dev/ublkb\d+", device.path), device.status()
    return device


def end(device):
    device.ask_end()
    assert device.process.wait(WAIT_S) == 0, device.log_text()[-2000:]
    assert device.status()["state"] == "ended", device.status()


def crash(device):
    """kill -9, and a successor on the same block device; how long that took."""
    path, begin = device.path, time.monotonic()
    device.kill()
    device.start_device()
    device.wait_state("ready", timeout_s=WAIT_S)
    assert device.path == path, f"{path} became {device.path}"
    return time.monotonic() - begin


def attribute(device, name):
    return pathlib.Path("/sys/block", os.path.basename(device.path), name).read_text(encoding="ascii").strip()


def case_data(scratch, target):
    """Attributes; data, discard and zeroes as they are read back, and as the target's file has them; the end."""
    device = attach(scratch, target)
    assert attribute(device, "queue/logical_block_size") == str(device.config["block_size_bytes"])
    assert attribute(device, "queue/write_cache") == "write back"
    assert attribute(device, "queue/fua") == "1"
    assert attribute(device, "ro") == "0"
    assert int(attribute(device, "size")) * 512 == device.size_bytes
    pattern = os.urandom(4 * MIB)
    for offset in range(0, len(pattern), MIB):
        test_device.write_direct(device.path, 8 * MIB + offset, pattern[offset:offset + MIB], flush=True)
    assert b"".join(test_device.read_direct(device.path, 8 * MIB + offset, MIB)
                    for offset in range(0, len(pattern), MIB)) == pattern
    data = next(target.pool.path.glob(f"volumes/{device.volume.id}/data"))
    full = data.stat().st_blocks
    harness.run("blkdiscard", "--offset", 8 * MIB, "--length", 2 * MIB, device.path)
    assert data.stat().st_blocks <= full - (1 * MIB) // 512, "a discard frees nothing at the target"
    harness.run("blkdiscard", "--zeroout", "--offset", 10 * MIB, "--length", MIB, device.path)
    assert test_device.read_direct(device.path, 10 * MIB, MIB) == bytes(MIB)
    assert test_device.read_direct(device.path, 8 * MIB, MIB) == bytes(MIB)
    assert test_device.read_direct(device.path, 11 * MIB, MIB) == pattern[3 * MIB:]
    end(device)


def case_file_system(scratch, target):
    """mkfs, fio on a file, kill -9 while it is mounted; no process of ours holds the mount afterwards."""
    device = attach(scratch, target, size_bytes=512 * MIB)
    mount = device.dir / "mount"
    mount.mkdir()
    harness.run("mkfs.ext4", "-q", "-F", device.path, timeout=WAIT_S)
    harness.run("mount", device.path, mount, timeout=WAIT_S)
    try:
        test_device.write_direct(mount / "x", 0, b"x" * 4096) if (mount / "x").touch() else None
        fio = scratch.start("fio", "--name=file", f"--filename={mount}/file", "--direct=1", "--ioengine=libaio", "--rw=randrw",
                            "--bs=16k", "--iodepth=8", "--size=16M", "--verify=crc32c", "--fsync=16", "--time_based",
                            "--runtime=15", log=device.dir / "fio.log")
        time.sleep(5)
        took = crash(device)
        assert fio.wait(WAIT_S) == 0, (device.dir / "fio.log").read_text()[-1500:]
        inside = pathlib.Path(f"/proc/{device.process.pid}/mountinfo").read_text(encoding="ascii")
        assert str(mount) not in inside, f"the device process has the mount in its namespace: {inside}"
    finally:
        harness.run("umount", mount, timeout=WAIT_S)
    end(device)
    return f"took over in {took:.1f} s"


def case_crash_under_load(scratch, target):
    """kill -9 three times under fio --verify, then leaving by SIGTERM and coming back."""
    device = attach(scratch, target)
    load = Load(scratch, device, 30, extra=["--buffer_compress_percentage=0"])
    took = []
    for _ in range(3):
        time.sleep(3)
        took.append(crash(device))
        assert load.running(), load.log.read_text()[-1500:]
    device.process.send_signal(signal.SIGTERM)
    assert device.process.wait(WAIT_S) == 0
    assert device.status()["state"] == "waiting", device.status()
    device.start_device()
    device.wait_state("ready", timeout_s=WAIT_S)
    load.wait(WAIT_S)
    end(device)
    return f"took over in {', '.join(f'{seconds:.1f}' for seconds in took)} s"


def case_saturated(scratch, target):
    """kill -9 while the server holds every tag: nothing is left to tell the kernel at once."""
    device = attach(scratch, target)
    target.process.send_signal(signal.SIGSTOP)
    try:
        load = scratch.start("fio", "--name=full", f"--filename={device.path}", "--direct=1", "--ioengine=libaio",
                             "--rw=randwrite", "--bs=4k", "--iodepth=256", "--size=32M", "--io_size=8M",
                             log=device.dir / "full.log")
        inflight = pathlib.Path("/sys/block", os.path.basename(device.path), "inflight")
        harness.wait_until(lambda: sum(map(int, inflight.read_text(encoding="ascii").split())) >= 128, "128 in flight",
                           timeout_s=WAIT_S)
        path, begin = device.path, time.monotonic()
        device.kill()
    finally:
        target.process.send_signal(signal.SIGCONT)
    device.start_device()
    device.wait_state("ready", timeout_s=WAIT_S)
    took = time.monotonic() - begin
    assert device.path == path
    assert load.wait(WAIT_S) == 0, (device.dir / "full.log").read_text()[-1500:]
    assert took < 25, f"took over in {took:.1f} s"
    end(device)
    return f"took over in {took:.1f} s"


def case_fence(scratch, target):
    """Removed on the server: every I/O ends with EIO, and the device says why."""
    device = attach(scratch, target)
    device.volume.detach()
    device.wait_state("failed", timeout_s=WAIT_S)
    number, took = errno_of(test_device.read_direct, device.path, 0, 4096)
    assert number == errno.EIO, number
    assert errno_of(test_device.write_direct, device.path, 0, bytes(4096))[0] == errno.EIO
    device.ask_end()
    device.process.wait(WAIT_S)
    return f"EIO in {took:.2f} s"


def case_busy(scratch, target):
    """An end with a user: it is served until it closes the device."""
    device = attach(scratch, target)
    with open(device.path, "rb", buffering=0) as user:
        device.ask_end()
        device.wait_state("ending", timeout_s=WAIT_S)
        time.sleep(1)
        assert device.process.poll() is None, "ended under its user"
        assert os.pread(user.fileno(), 4096, 64 * MIB) == bytes(4096)
    assert device.process.wait(WAIT_S) == 0
    assert device.status()["state"] == "ended", device.status()


def case_leftover(scratch, target):
    """Device and holder are killed: the next device ends what is left, of its own volume alone."""
    device, other = attach(scratch, target), attach(scratch, target)
    for process in (device.process, device.holder):
        process.kill()
        process.wait()
    with open(device.path, "rb", buffering=0) as user:
        before = devices()
        device.start_holder()
        device.start_device()
        device.wait_state("ready", timeout_s=WAIT_S)
        assert errno_of(os.pread, user.fileno(), 4096, 32 * MIB)[0] == errno.EIO
    assert len(before) == 2, before
    for process in (device.process, device.holder):
        process.kill()
        process.wait()
    harness.run(harness.program("mooring-device"), "--state", device.dir, "--remove", timeout=WAIT_S)
    assert devices() == [os.path.basename(other.path).replace("ublkb", "ublkc")], devices()
    assert test_device.read_direct(other.path, 0, 4096) == bytes(4096)
    end(other)


def main():
    wanted = sys.argv[1:]
    failed = 0
    check = harness.run(harness.program("mooring-device"), "--check").stdout
    print("check", " ".join(check.split()), flush=True)
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        target = harness.Target(scratch, tls, harness.Pool(scratch, size="3GiB"), loops=1)
        for name, case in list(globals().items()):
            if not name.startswith("case_") or (wanted and name[5:] not in wanted):
                continue
            begin = time.monotonic()
            try:
                note = case(scratch, target)
                none_left()
                print(f"PASS {name[5:]} in {time.monotonic() - begin:.0f} s{f': {note}' if note else ''}", flush=True)
            except (AssertionError, OSError, subprocess.SubprocessError):
                failed += 1
                traceback.print_exc(file=sys.stdout)
                for device in Device.alive:
                    print(f"status {device.status()}; log: {device.log_text()[-1500:]}", flush=True)
                print(f"FAIL {name[5:]}", flush=True)
            Device.remove_all()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
