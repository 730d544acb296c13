#!/usr/bin/python3
"""In a guest: mooring-device with "attach": "ublk" against a real mooring-target on /dev/vda. Started by
test_guest_ublk.py; prints a line a case."""
import errno
import json
import os
import pathlib
import random
import re
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness
import test_device
from device_fixture import MIB, Device, Load, grow_mounted
from harness import errno_of

CHARACTER_DEVICES = pathlib.Path("/sys/class/ublk-char")
WAIT_S = 120  # nothing is fast here


def devices():
    return sorted(entry.name for entry in CHARACTER_DEVICES.iterdir()) if CHARACTER_DEVICES.exists() else []


def nothing_left(case, scratch, target):
    note = case(scratch, target)
    harness.wait_until(lambda: not devices(), f"no ublk device is left: {devices()}", timeout_s=WAIT_S)
    if note:
        print(f"{case.__name__}: {note}", flush=True)


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


def ended(user):
    """A block device that was taken away has no size any more, or errors only."""
    try:
        return os.pread(user.fileno(), 4096, 32 * MIB) == b""
    except OSError as error:
        return error.errno == errno.EIO


def attribute(device, name):
    return pathlib.Path("/sys/block", os.path.basename(device.path), name).read_text(encoding="ascii").strip()


def attach_and_data(scratch, target):
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


def file_system(scratch, target):
    """mkfs, fio on a file, kill -9 while it is mounted; no process of ours holds the mount afterwards."""
    device = attach(scratch, target, size_bytes=512 * MIB)
    mount = device.dir / "mount"
    mount.mkdir()
    harness.run("mkfs.ext4", "-q", "-F", device.path, timeout=WAIT_S)
    harness.run("mount", device.path, mount, timeout=WAIT_S)
    try:
        fio = scratch.start(harness.program("fio"), "--name=file", f"--filename={mount}/file", "--direct=1",
                            "--ioengine=libaio", "--rw=randrw", "--bs=16k", "--iodepth=8", "--size=16M",
                            "--verify=crc32c", "--fsync=16", "--time_based",
                            "--runtime=10", log=device.dir / "fio.log")
        time.sleep(3)
        took = crash(device)
        assert fio.wait(WAIT_S) == 0, (device.dir / "fio.log").read_text()[-1500:]
        inside = pathlib.Path(f"/proc/{device.process.pid}/mountinfo").read_text(encoding="ascii")
        assert str(mount) not in inside, f"the device process has the mount in its namespace: {inside}"
    finally:
        harness.run("umount", mount, timeout=WAIT_S)
    end(device)
    return f"took over in {took:.1f} s"


def grown_in_use(scratch, target):
    device = attach(scratch, target, size_bytes=64 * MIB)
    grow_mounted(device, device.dir / "grown", 160 * MIB)
    crash(device)
    device.grow(192 * MIB)
    end(device)


def stays(holder):
    """A signal does not end the holder of a block device that stands, and whose last writes it alone has."""
    time.sleep(1)
    assert holder.poll() is None, "the holder ended, and with it the log"


def crash_under_load(scratch, target):
    """kill -9 three times under fio --verify; then leaving by SIGTERM, as at a host's shutdown, and coming back."""
    device = attach(scratch, target)
    load = Load(scratch, device, 20)
    took = []
    for _ in range(3):
        time.sleep(3)
        took.append(crash(device))
        assert load.running(), load.log.read_text()[-1500:]
    for process in (device.process, device.holder):
        process.send_signal(signal.SIGTERM)
    assert device.process.wait(WAIT_S) == 0
    assert device.status()["state"] == "waiting", device.status()
    stays(device.holder)
    device.start_device()
    device.wait_state("ready", timeout_s=WAIT_S)
    load.wait(WAIT_S)
    end(device)
    assert device.holder.wait(WAIT_S) == 0
    return f"took over in {', '.join(f'{seconds:.1f}' for seconds in took)} s"


def killed_taking_over(scratch, target):
    """Under fio --verify, kill -9 of a successor amid its own take-over, at each of its steps, and then when it happens to
    be; SIGTERM to the holder meanwhile. The next one takes over all the same."""
    if b"__asan_init" in pathlib.Path(harness.program("mooring-device")).read_bytes():
        raise harness.Skip("a sanitizer's runtime must be loaded first")
    seed = int(os.environ.get("MOORING_SEED") or random.randrange(1 << 30))
    print(f"killed_taking_over: seed {seed}", flush=True)
    device, chance = attach(scratch, target), random.Random(seed)
    path, load = device.path, Load(scratch, device, 60)

    def next_one():
        device.start_device()
        device.wait_state("ready", timeout_s=WAIT_S)
        assert device.path == path, f"{path} became {device.path}"
        assert load.running(), load.log.read_text()[-1500:]

    for point in ("begun", "mapped", "fetching", "recovered"):
        device.kill()
        os.environ.update(LD_PRELOAD=str(pathlib.Path(harness.BUILD) / "tests" / "die-at.so"), MOORING_DIE_AT=point)
        try:
            device.start_device()
        finally:
            del os.environ["LD_PRELOAD"], os.environ["MOORING_DIE_AT"]
        assert device.process.wait(WAIT_S) == -signal.SIGKILL, f"{point}: {device.log_text()[-2000:]}"
        device.holder.send_signal(signal.SIGTERM)
        stays(device.holder)
        next_one()
    for _ in range(4):
        device.kill()
        for _ in range(2):
            device.start_device()
            time.sleep(chance.uniform(0, 1.5))
            device.kill()
        next_one()
    load.wait(WAIT_S)
    end(device)
    assert device.holder.wait(WAIT_S) == 0


def saturated(scratch, target):
    """kill -9 while the server holds every tag: nothing is left to tell the kernel at once."""
    device = attach(scratch, target)
    target.process.send_signal(signal.SIGSTOP)
    try:
        load = scratch.start(harness.program("fio"), "--name=full", f"--filename={device.path}", "--direct=1",
                             "--ioengine=libaio", "--rw=randwrite", "--bs=4k", "--iodepth=256", "--size=32M", "--io_size=8M",
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
    end(device)
    return f"took over in {took:.1f} s"


def fenced(scratch, target):
    """Removed on the server: every I/O ends with EIO, and the device says why."""
    device = attach(scratch, target)
    device.volume.detach()
    device.wait_state("failed", timeout_s=WAIT_S)
    began = time.monotonic()
    number = errno_of(test_device.read_direct, device.path, 0, 4096)
    took = time.monotonic() - began
    assert number == errno.EIO, number
    assert errno_of(test_device.write_direct, device.path, 0, bytes(4096)) == errno.EIO
    device.kill()
    device.start_device(grant=False)  # what comes after a crash ends the same way
    device.wait_state("failed", timeout_s=WAIT_S)
    assert errno_of(test_device.read_direct, device.path, 0, 4096) == errno.EIO
    device.ask_end()
    device.process.wait(WAIT_S)
    return f"EIO in {took:.2f} s"


def busy(scratch, target):
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


def leftover(scratch, target):
    """Device and holder are killed: the next device ends what is left, of its own volume alone."""
    device, other = attach(scratch, target), attach(scratch, target)
    served = scratch.start(harness.program("mooring-device"), "--state", other.dir, "--remove", log=other.dir / "remove.log")
    for process in (device.process, device.holder):
        process.kill()
        process.wait()
    with open(device.path, "rb", buffering=0) as user:
        before = devices()
        device.start_holder()
        device.start_device()
        device.wait_state("ready", timeout_s=WAIT_S)
        assert ended(user), "the user of the ended device reads on"
    assert len(before) == 2, before
    for process in (device.process, device.holder):
        process.kill()
        process.wait()
    harness.run(harness.program("mooring-device"), "--state", device.dir, "--remove", timeout=WAIT_S)
    assert devices() == [os.path.basename(other.path).replace("ublkb", "ublkc")], devices()
    assert served.wait(WAIT_S) == 1 and "is still served" in (other.dir / "remove.log").read_text()
    assert test_device.read_direct(other.path, 0, 4096) == bytes(4096)
    end(other)


def loaded(scratch, target):
    """What mooring-device --check says of this kernel."""
    del scratch, target
    check = json.loads(harness.run(harness.program("mooring-device"), "--check").stdout)
    assert check["ublk"] == {"usable": True, "why": ""} and check["auto"] == "ublk", check


def refused(scratch, target):
    """The driver is there, and the kernel in the table: fuse is taken, and the reason told."""
    del scratch, target
    check = json.loads(harness.run(harness.program("mooring-device"), "--check").stdout)
    assert not check["ublk"]["usable"] and "Linux 6" in check["ublk"]["why"] and check["auto"] == "fuse", check


CASES = (loaded, refused, crash_under_load, killed_taking_over, file_system, grown_in_use, fenced, leftover, saturated, busy,
         attach_and_data)


def main():
    suite = harness.Suite()
    harness.run("modprobe", "ublk_drv", check=False)  # Debian's 6.1 has none
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        target = harness.Target(scratch, tls, harness.Pool(scratch, device="/dev/vda"), loops=1)
        for case in CASES:
            suite.run(case.__name__, nothing_left, case, scratch, target)
            Device.remove_all()
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
