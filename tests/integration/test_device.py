#!/usr/bin/python3
"""mooring-device and mooring-holder against a real mooring-target: the block device outlives what dies around it."""
import errno
import json
import mmap
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import harness
from device_fixture import (KIB, MIB, Device, Load, continue_process, read_direct, run_suite, stop_process,
                            write_direct)
from harness import errno_of


def test_attach_and_detach(scratch, target):
    device = Device(scratch, target)
    path = device.path
    name = os.path.basename(path)
    with open(f"/sys/block/{name}/loop/dio", encoding="ascii") as dio:
        assert dio.read().strip() == "1", "direct I/O did not stick"
    with open(f"/sys/block/{name}/queue/logical_block_size", encoding="ascii") as size:
        assert int(size.read()) == device.config["block_size_bytes"]
    pattern = os.urandom(MIB)
    write_direct(path, 3 * MIB, pattern, flush=True)
    assert read_direct(path, 3 * MIB, MIB) == pattern
    harness.run("blkdiscard", "--offset", 3 * MIB, "--length", 512 * KIB, path)
    harness.run("blkdiscard", "--zeroout", "--offset", 3 * MIB + 512 * KIB, "--length", 256 * KIB, path)
    assert read_direct(path, 3 * MIB, MIB) == bytes(768 * KIB) + pattern[768 * KIB:]
    assert device.end() == 0
    assert device.status()["state"] == "ended"
    assert device.holder.wait(10) == 0, "the holder stays"
    assert not os.path.ismount(device.dir / "fuse")
    with open(f"/sys/block/{name}/size", encoding="ascii") as size:
        assert size.read().strip() == "0" or device.volume.id not in size.read()
    assert not device.volume.sessions(), "the session stays"


def test_file_systems(scratch, target):
    device = Device(scratch, target, size_bytes=512 * MIB)
    mount = scratch.path / "mnt"
    mount.mkdir()
    for make, check in (("mkfs.ext4", ["fsck.ext4", "-f", "-n"]), ("mkfs.xfs", ["xfs_repair", "-n"])):
        harness.run(harness.program(make), "-f" if make == "mkfs.xfs" else "-F", device.path)
        harness.run("mount", device.path, mount)
        try:
            for i in range(20):
                (mount / f"file{i}").write_bytes(os.urandom(MIB))
        finally:
            harness.run("umount", mount)
        harness.run(harness.program(check[0]), *check[1:], device.path)


def test_target_killed_under_load(scratch, target):
    device = Device(scratch, target)
    load = Load(scratch, device, seconds=6)
    for _ in range(3):
        time.sleep(1)
        target.kill()
        device.wait_state("waiting")
        target.start()
        device.wait_state("ready")
    load.wait()
    assert "replayed" in device.log_text(), "a new boot of the target replays the log"


def test_target_and_device_killed(scratch, target):
    """The log outlives the device: what it answered is replayed by its successor to the target's next boot."""
    device = Device(scratch, target)
    pattern = os.urandom(256 * KIB)
    write_direct(device.path, MIB, pattern)  # answered, never flushed
    target.kill()
    device.kill()
    device.start_device(grant=False)
    target.start()
    device.attachment.grant()
    device.kill()
    device.start_device(grant=False)
    device.wait_state("ready")
    assert "replayed" in device.log_text()
    assert read_direct(device.path, MIB, len(pattern)) == pattern


def test_one_write_a_second_moves_the_times_of_the_file(scratch, target):
    """Each one that does is a transaction, behind which others queue up."""
    device = Device(scratch, target)
    path = target.pool.path / "volumes" / device.volume.id / "data"
    begin, times = time.monotonic(), set()
    for _ in range(50):
        write_direct(device.path, 0, bytes(4 * KIB), flush=True)
        times.add(path.stat().st_mtime_ns)
        time.sleep(0.01)  # longer than the clock of file times stands
    seconds = time.monotonic() - begin
    assert len(times) <= seconds + 2, f"50 writes moved them {len(times)} times in {seconds} s"
    time.sleep(1.1)
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    assert path.stat().st_mtime_ns > max(times), "they stand still"


def lose_unflushed(scratch, target, **config):
    """Answer a write, then lose it behind the target's back, as a power cut would: what the device reads then."""
    device = Device(scratch, target, **config)
    pattern = os.urandom(256 * KIB)
    write_direct(device.path, MIB, pattern)
    target.kill()
    with open(target.pool.path / "volumes" / device.volume.id / "data", "r+b") as data:
        data.seek(MIB)
        data.write(bytes(len(pattern)))
        data.flush()
        os.fsync(data.fileno())
    target.start()
    device.wait_state("ready")
    return read_direct(device.path, MIB, len(pattern)), pattern


def test_lost_write_is_replayed(scratch, target):
    """Invariant 1: an answered, unflushed write survives the storage server's power cut."""
    found, written = lose_unflushed(scratch, target)
    assert found == written


def test_lost_write_without_replay(scratch, target):
    """The same with the replay switched off: this test would see a loss."""
    found, written = lose_unflushed(scratch, target, replay=False)
    assert found == bytes(len(written)), "nothing was lost: the test before this one proves nothing"


def set_write_failed(target, device, failed):
    """In the volume's record, while the target is down: as after a disk error, or ClearWriteFailed."""
    path = target.pool.path / "volumes" / device.volume.id / "volume.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "write_failed": failed}))


def test_refused_replay(scratch, target):
    """The volume takes no writes after the server's restart: reads go on, changes fail, nothing hangs."""
    device = Device(scratch, target)
    pattern = os.urandom(64 * KIB)
    write_direct(device.path, MIB, pattern)
    target.kill()
    set_write_failed(target, device, True)
    target.start()
    harness.wait_until(lambda: "only reads" in device.status()["error"], "the refusal is told")
    assert device.status()["state"] == "ready"
    assert read_direct(device.path, MIB, len(pattern)) == pattern
    number = errno_of(write_direct, device.path, 0, bytes(4 * KIB))
    assert number == errno.EIO, f"errno {number}"
    target.operator.ClearWriteFailed(volume_id=device.volume.id)
    harness.wait_until(lambda: not device.status()["error"], "the replay succeeds in the end")
    assert "replayed" in device.log_text()
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    assert read_direct(device.path, MIB, len(pattern)) == pattern
    assert device.end() == 0


def test_refused_replay_and_the_end(scratch, target):
    device = Device(scratch, target)
    write_direct(device.path, MIB, os.urandom(64 * KIB))
    target.kill()
    set_write_failed(target, device, True)
    target.start()
    harness.wait_until(lambda: "only reads" in device.status()["error"], "the refusal is told")
    assert device.end() == 1
    assert "the last flush failed" in device.status()["error"], device.status()


def test_hung_target(scratch, target):
    """A target that takes connections and says nothing is found out, and I/O waits for it."""
    device = Device(scratch, target)
    stop_process(target.process)
    try:
        device.wait_state("waiting")
    finally:
        continue_process(target.process)
    device.wait_state("ready")
    write_direct(device.path, 0, os.urandom(4 * KIB), flush=True)


def test_flush_empties_the_log(scratch, target):
    device = Device(scratch, target)
    write_direct(device.path, 0, os.urandom(64 * KIB), flush=True)
    target.kill()
    device.wait_state("waiting")
    target.start()
    device.wait_state("ready")
    assert "replayed" not in device.log_text(), "flushed writes were replayed"


def test_one_device_at_a_time(scratch, target):
    """Invariant 4: a predecessor that hangs is one that lives."""
    device = Device(scratch, target)
    first = device.process
    stop_process(first)
    try:
        device.start_device(grant=False)
        assert device.process.wait(30) == 1
        assert f"pid {first.pid}" in device.log_text()
        assert device.status()["pid"] == first.pid, "the refused one wrote the status"
    finally:
        continue_process(first)
        device.process = first
    assert len(read_direct(device.path, 0, 4 * KIB)) == 4 * KIB


def test_fenced(scratch, target):
    """Invariant 6: fenced, all I/O ends with EIO, and soon."""
    device = Device(scratch, target, node="n-fenced")
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    target.operator.FenceNode(node_id="n-fenced", reason="test")
    device.wait_state("failed")
    for call in ((read_direct, device.path, 0, 4 * KIB), (write_direct, device.path, 0, bytes(4 * KIB))):
        number = errno_of(*call)
        assert number == errno.EIO, f"errno {number}"
    assert device.end() == 0


def test_fenced_while_waiting(scratch, target):
    """I/O that waited for the server ends too."""
    device = Device(scratch, target, node="n-fenced-2")
    path = device.path
    stop_process(device.process)
    target.operator.FenceNode(node_id="n-fenced-2", reason="test")
    numbers = []
    reader = threading.Thread(target=lambda: numbers.append(errno_of(read_direct, path, MIB, 4 * KIB)))
    reader.start()
    time.sleep(0.2)
    assert not numbers
    continue_process(device.process)
    reader.join(30)
    assert numbers == [errno.EIO], numbers


def test_fenced_while_the_server_was_away(scratch, target):
    """What waited for the server when its login is refused has its error with the refusal, not at some timer; how soon is
    printed."""
    device = Device(scratch, target, node="n-fenced-3")
    path, numbers = device.path, []
    target.kill()
    readers = [threading.Thread(target=lambda at=i: numbers.append(errno_of(read_direct, path, at * MIB, 4 * KIB)))
               for i in range(8)]
    for reader in readers:
        reader.start()
    in_flight = pathlib.Path("/sys/block", os.path.basename(path), "inflight")
    harness.wait_until(lambda: in_flight.read_text().split()[0] == "8", "the reads are under way")
    device.wait_state("waiting")
    time.sleep(0.2)  # the device has taken them
    stop_process(device.process)
    target.start()
    target.operator.FenceNode(node_id="n-fenced-3", reason="test")
    assert not numbers
    continue_process(device.process)
    for reader in readers:
        reader.join(30)
    assert numbers == [errno.EIO] * 8, numbers
    device.wait_state("failed")
    status = harness.wait_until(lambda: device.status()["failed_requests"] and device.status(), "it is told how soon")
    print(f"# fenced: {status['failed_requests']} requests ended within {status['failed_in_us']} us of the refused login")
    assert "refuses the login for good" in device.log_text()
    assert device.end() == 0


def test_removed_before_start(scratch, target):
    """No block device was ever there: the process says why, and ends."""
    device = Device(scratch, target, start=False)
    device.start_holder()
    device.attachment.grant()
    device.volume.detach()
    device.start_device(grant=False)
    assert device.process.wait(30) == 1
    status = device.status()
    assert status["state"] == "failed" and "uthorization failure" in status["error"], status
    assert not os.path.ismount(device.dir / "fuse")


def test_read_only(scratch, target):
    device = Device(scratch, target, start=False, read_only=True)
    device.start()
    number = errno_of(write_direct, device.path, 0, bytes(4 * KIB))
    assert number in (errno.EPERM, errno.EROFS), f"errno {number}"
    assert len(read_direct(device.path, 0, 4 * KIB)) == 4 * KIB


def test_dead_mount_is_cleared(scratch, target):
    """Holder and device both gone, as after a host's crash: the next start makes a new mount and device."""
    device = Device(scratch, target)
    device.kill()
    device.holder.kill()
    device.holder.wait()
    device.start()
    write_direct(device.path, 0, os.urandom(4 * KIB), flush=True)


def mount_id(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return [line.split()[0] for line in table if line.split()[4] == str(path)]


def test_other_epoch_gets_no_log(scratch, target):
    """Nor its mount: those who had written through it must not go on as if nothing were lost."""
    device = Device(scratch, target)
    write_direct(device.path, 0, bytes(4 * KIB))
    before = mount_id(device.dir / "fuse")
    old = os.open(device.dir / "fuse", os.O_PATH)  # so that its number is not given away
    try:
        device.kill()
        device.config["epoch"] += 1
        device.start_device()
        device.wait_state("ready")
        assert "belongs to another attachment and was destroyed" in device.log_text()
        after = mount_id(device.dir / "fuse")
        assert len(before) == len(after) == 1 and before != after, f"mounts {before}, then {after}"
        write_direct(device.path, 0, os.urandom(4 * KIB), flush=True)
    finally:
        os.close(old)


def test_other_epoch_and_a_user(scratch, target):
    """A user of the old epoch's block device, with I/O under way, gets an error and not the new epoch's data."""
    device = Device(scratch, target)
    fd = os.open(device.path, os.O_RDONLY | os.O_DIRECT)
    numbers = []
    buffer = mmap.mmap(-1, 4096)
    try:
        device.kill()
        reader = threading.Thread(target=lambda: numbers.append(errno_of(os.preadv, fd, [buffer], MIB)))
        reader.start()
        device.config["epoch"] += 1
        device.start_device()
        reader.join(30)
        assert numbers == [errno.EIO], numbers
    finally:
        os.close(fd)


PUT_FUSE = """
import socket, sys
holder = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
holder.connect(sys.argv[1])
assert holder.recv(256) == b"HELLO"
socket.send_fds(holder, [b"PUT fuse0"], [int(sys.argv[2])])
assert holder.recv(256) == b"OK"
"""


def test_login_is_watched_by_keepalive(scratch, target):
    """A server that dies in a login says nothing more, and there is no NOP-Out yet: the socket's timer finds it."""
    device = Device(scratch, target, start=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        device.config["portals"] = [f"127.0.0.1:{port}"]
        device.start_holder()
        device.start_device()
        server.settimeout(30)
        connection, _address = server.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(4096), "no login"

            def timers():
                """Of the device's end: what it waits for (column tr of proc(5), 02 is keepalive), and the ticks left."""
                with open("/proc/net/tcp", encoding="ascii") as table:
                    rows = [line.split() for line in table][1:]
                return [row[5] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]

            def watched():
                return [kind == "02" and int(ticks, 16) <= 2 * os.sysconf("SC_CLK_TCK")
                        for kind, _, ticks in (timer.partition(":") for timer in timers())] == [True]
            harness.wait_until(watched, "the keepalive timer runs, and is short", timeout_s=10)
        device.kill()


def test_unreadable_mount_is_aborted(scratch, target):
    """The descriptor that is read says something that is no request: whoever waits at the mount is told."""
    device = Device(scratch, target)
    path = device.path
    device.kill()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, its:
        its.setblocking(False)
        harness.wait_until(lambda: subprocess.run([sys.executable, "-c", PUT_FUSE, "holder.sock", str(its.fileno())],
                                                  cwd=device.dir, pass_fds=[its.fileno()], check=False,
                                                  stderr=subprocess.DEVNULL).returncode == 0, "the holder takes it")
        numbers = []
        reader = threading.Thread(target=lambda: numbers.append(errno_of(read_direct, path, MIB, 4 * KIB)),
                                  daemon=True)
        reader.start()
        device.start_device()
        device.wait_state("ready")
        assert not numbers
        ours.send(b"no request")
        reader.join(30)
        assert numbers == [errno.EIO], numbers
        status = device.wait_state("failed")
        assert "cannot be read (EPROTO) and was aborted" in status["error"], status


def test_end_waits_for_the_last_user(scratch, target):
    device = Device(scratch, target)
    fd = os.open(device.path, os.O_RDWR | os.O_DIRECT)
    try:
        device.ask_end()
        harness.wait_until(lambda: "waiting for the last user" in device.log_text(), "the end begins")
        device.wait_state("ending")
        target.kill()
        harness.wait_until(lambda: device.status()["error"], "the loss is told")
        target.start()
        harness.wait_until(lambda: not device.status()["error"], "the session is back")
        assert device.status()["state"] == "ending", device.status()
        buffer = mmap.mmap(-1, 4096)
        assert os.preadv(fd, [buffer], 0) == 4096, "I/O of the last user fails"
        assert device.process.poll() is None
    finally:
        os.close(fd)
    assert device.process.wait(30) == 0


def test_bare_signal_leaves_the_volume(scratch, target):
    """A pod's stop is no Unstage: what is bind-mounted elsewhere must not become another volume's device."""
    device = Device(scratch, target)
    path, number = device.path, os.stat(device.path).st_rdev
    backing = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/backing_file"
    pattern = os.urandom(64 * KIB)
    write_direct(path, MIB, pattern)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            device.process.send_signal(signum)
            assert device.process.wait(30) == 0
            status = device.status()
            assert status["state"] == "waiting" and "stopped by a signal" in status["error"], status
            assert status["block_device"] == path
            assert device.holder.poll() is None, "the holder has ended"
            with open(backing, encoding="utf-8") as file:
                assert file.read().strip() == str(device.dir / "fuse" / "volume")
            device.start_device()
            device.wait_state("ready")
            buffer = mmap.mmap(-1, len(pattern))
            assert os.preadv(fd, [buffer], MIB) == len(pattern) and bytes(buffer) == pattern
    finally:
        os.close(fd)
    assert device.end() == 0


def test_failed_last_flush_is_told(scratch, target):
    """Fenced with an answered write that no flush has covered: the orderly end cannot say that all is well."""
    device = Device(scratch, target, node="n-fenced-3")
    write_direct(device.path, 0, os.urandom(4 * KIB))
    target.operator.FenceNode(node_id="n-fenced-3", reason="test")
    device.wait_state("failed")
    assert device.end() == 1
    status = device.status()
    assert status["state"] == "ended" and "the last flush failed" in status["error"], status


def test_end_waits_for_answered_writes(scratch, target):
    """No mount any more, but a log: it goes to the server before the end, however long that is away."""
    device = Device(scratch, target)
    write_direct(device.path, MIB, os.urandom(64 * KIB))
    path = device.path
    device.kill()
    harness.run("umount", "--force", device.dir / "fuse", check=False)
    harness.run("losetup", "--detach", path)
    harness.run("umount", "--lazy", device.dir / "fuse", check=False)
    device.attachment.grant()
    stop_process(target.process)
    try:
        device.start_device(grant=False)
        device.wait_state("connecting")
        device.ask_end()
        time.sleep(0.3)
        assert device.process.poll() is None, "it ended, and the log with it"
    finally:
        continue_process(target.process)
    assert device.process.wait(60) == 0
    assert device.status()["state"] == "ended" and not device.status()["error"], device.status()


def test_forced_end(scratch, target):
    """The server is away for good, with data on its way: SIGKILL and umount -f end it all the same."""
    device = Device(scratch, target)
    target.kill()
    try:
        device.wait_state("waiting")
        with open(device.path, "wb") as file:
            file.write(os.urandom(64 * KIB))
            file.flush()
            device.ask_end()
            device.process.kill()
            harness.run("umount", "-f", device.dir / "fuse", check=False)  # busy, but aborted
            assert device.process.wait(30) == -9
        device.holder.terminate()
        device.holder.wait(10)
    finally:
        target.start()


def test_no_secret_shown(scratch, target):
    device = Device(scratch, target)
    secret = device.attachment.secret
    for name in ("cmdline", "environ"):
        with open(f"/proc/{device.process.pid}/{name}", "rb") as file:
            assert secret.encode() not in file.read(), name
    assert secret not in device.log_text()
    assert secret not in (device.dir / "status.json").read_text()


def test_ublk_where_it_cannot_be(scratch, target):
    """What --check says is what a device that is told to use ublk all the same fails with."""
    check = json.loads(harness.run(harness.program("mooring-device"), "--check").stdout)
    assert check["kernel"] == os.uname().release and check["fuse"] == {"usable": True, "why": ""}, check
    if check["ublk"]["usable"]:
        raise harness.Skip("ublk works on this machine: tests/guest/test_guest_ublk.py")
    assert check["auto"] == "fuse" and check["ublk"]["why"], check
    device = Device(scratch, target, start=False, attach="ublk")
    device.start_holder()
    device.start_device()
    assert device.process.wait(30) == 1
    status = device.status()
    assert status["state"] == "failed" and status["error"] == check["ublk"]["why"], (status, check)
    harness.run(harness.program("mooring-device"), "--state", device.dir, "--remove")


def test_another_volume_is_refused(scratch, target):
    """The unit says whose it is: another volume's, under the right name, never becomes a block device."""
    device = Device(scratch, target, start=False)
    device.config["volume_id"] = device.volume.id[:-4] + "beef"
    device.start_holder()
    device.start_device()
    harness.wait_until(lambda: "another volume" in device.status().get("error", ""), f"it says so: {device.status()}")
    status = device.status()
    assert (status["state"], status["block_device"]) == ("connecting", ""), status
    device.kill()
    device.config["volume_id"] = device.volume.id
    device.start_device()
    device.wait_state("ready")


def test_bad_start(scratch, target):
    device = Device(scratch, target, start=False)
    device.start_device()
    assert device.process.wait(30) == 1
    assert "no mooring-holder" in device.log_text()
    device.config["block_size_bytes"] = 1000
    device.start_device()
    assert device.process.wait(30) == 1
    assert "block_size_bytes must be" in device.log_text()


if __name__ == "__main__":
    sys.exit(run_suite("device", globals()))
