#!/usr/bin/python3
"""What a block device outlives: its mooring-device, its mooring-holder, a lost path, a lack of memory."""
import errno
import json
import mmap
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import harness
from device_fixture import (KIB, MIB, Device, Load, continue_process, read_direct, run_suite, stop_process,
                            write_direct)
from harness import errno_of


def kill_under_load(scratch, target, **config):
    device = Device(scratch, target, **config)
    path = device.path
    loads = [Load(scratch, device, seconds=4),
             Load(scratch, device, seconds=4, fsync=1, offset="64M", size="32M", extra=("--rw=randtrimwrite",
                                                                                         "--verify=0"))]
    for _ in range(4):
        time.sleep(0.5)
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


def test_holder_replaced_while_the_server_is_away(scratch, target):
    """Also a device that waits for its first session hands everything to a new holder."""
    device = Device(scratch, target)
    path, pattern = device.path, os.urandom(64 * KIB)
    write_direct(path, MIB, pattern)
    device.kill()
    device.attachment.grant()
    target.kill()
    device.start_device(grant=False)
    device.wait_state("waiting")
    device.holder.kill()
    device.holder.wait()
    device.start_holder()
    harness.wait_until(lambda: "a new mooring-holder has everything" in device.log_text(), "the new holder has everything")
    device.kill()
    target.start()
    device.start_device()
    device.wait_state("ready")
    assert device.path == path, "the block device changed"
    assert read_direct(path, MIB, len(pattern)) == pattern
    assert device.end() == 0


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


def test_signalled_without_a_holder(scratch, target):
    """To stop would end the volume: the device waits for a holder that can keep it."""
    device = Device(scratch, target)
    device.holder.kill()
    device.holder.wait()
    harness.wait_until(lambda: not device.status()["take_over"], "the status tells")
    device.process.terminate()
    harness.wait_until(lambda: "nobody holds the volume" in device.log_text(), "it is told to stop")
    write_direct(device.path, 0, os.urandom(4 * KIB), flush=True)
    device.start_holder()
    assert device.process.wait(30) == 0
    device.start_device()
    device.wait_state("ready")
    assert len(read_direct(device.path, 0, 4 * KIB)) == 4 * KIB
    assert device.end() == 0


def test_device_and_holder_killed(scratch, target):
    """Nothing is left to take over: who uses the block device gets an error, and the next start says why."""
    device = Device(scratch, target)
    fd = os.open(device.path, os.O_RDONLY | os.O_DIRECT)
    try:
        device.kill()
        device.holder.kill()
        device.holder.wait()
        assert errno_of(os.preadv, fd, [mmap.mmap(-1, 4096)], 0) == errno.EIO
        device.start_holder()
        device.start_device()
        assert device.process.wait(30) == 1
        status = device.status()
        assert status["state"] == "failed" and "that nobody took over" in status["error"], status
    finally:
        os.close(fd)


def wait_expired(device):
    status = harness.wait_until(lambda: "away too long" in device.status()["error"] and device.status(), "the limit is told")
    assert status["state"] in ("waiting", "ending"), status


def test_path_timeout(scratch, target):
    """I/O that waited for the server that long ends with an error, what comes then at once; nothing answered is lost."""
    device = Device(scratch, target, path_timeout_ms=500)
    pattern = os.urandom(64 * KIB)
    write_direct(device.path, MIB, pattern)
    target.kill()
    assert errno_of(read_direct, device.path, MIB, 4 * KIB) == errno.EIO
    wait_expired(device)
    assert errno_of(write_direct, device.path, MIB, bytes(4 * KIB)) == errno.EIO
    target.start()
    device.wait_state("ready")
    assert not device.status()["error"], device.status()
    assert read_direct(device.path, MIB, len(pattern))[4 * KIB:] == pattern[4 * KIB:]
    assert "replayed" in device.log_text()
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)


def test_path_timeout_of_a_successor(scratch, target):
    """A device that takes over while the server is away keeps nobody waiting for longer than its predecessor would have."""
    device = Device(scratch, target, path_timeout_ms=500)
    path, pattern = device.path, os.urandom(64 * KIB)
    write_direct(path, MIB, pattern)
    device.kill()
    device.attachment.grant()
    target.kill()
    device.start_device(grant=False)
    numbers = []
    read_in_background(path, numbers).join(30)
    assert numbers == [errno.EIO], numbers
    wait_expired(device)
    target.start()
    device.wait_state("ready")
    assert device.path == path and not device.status()["error"], device.status()
    assert read_direct(path, MIB, len(pattern)) == pattern


def test_path_timeout_and_the_end(scratch, target):
    """The end waits for the server all the same: answered writes are not given up for a limit on waiting."""
    device = Device(scratch, target, path_timeout_ms=100)
    pattern = os.urandom(64 * KIB)
    write_direct(device.path, MIB, pattern)
    target.kill()
    wait_expired(device)
    device.ask_end()
    device.wait_state("ending")
    target.start()
    assert device.process.wait(30) == 0, device.status()
    assert device.status()["state"] == "ended" and not device.status()["error"], device.status()


def read_in_background(path, numbers):
    reader = threading.Thread(target=lambda: numbers.append(errno_of(read_direct, path, MIB, 4 * KIB)))
    reader.start()
    return reader


def test_lease(scratch, target):
    """A server that says nothing, with a session that stands: I/O ends with an error, then goes on."""
    device = Device(scratch, target, lease_ms=1000)
    time.sleep(1.5)
    assert "lease" not in device.log_text(), "an idle session loses its lease"
    numbers = []
    stop_process(target.process)
    try:
        read_in_background(device.path, numbers).join(30)
        assert numbers == [errno.EIO], numbers
        wait_expired(device)
    finally:
        continue_process(target.process)
    harness.wait_until(lambda: not device.status()["error"], "the server is back")
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)


def test_lease_and_an_old_answer(scratch, target):
    """An answer that lay in the socket for longer than the lease is not given to anyone."""
    device = Device(scratch, target, lease_ms=1000)
    numbers = []
    try:
        in_flight = pathlib.Path("/sys/block", os.path.basename(device.path), "inflight")
        stop_process(target.process)
        reader = read_in_background(device.path, numbers)
        harness.wait_until(lambda: in_flight.read_text().split()[0] != "0", "the read is under way")
        time.sleep(0.3)  # the command is in the server's socket
        stop_process(device.process)
        continue_process(target.process)
        time.sleep(1.5)
    finally:
        continue_process(target.process)
        continue_process(device.process)
    reader.join(30)
    assert numbers == [errno.EIO], numbers
    assert "the lease ran out" in device.log_text() or "the lease is over" in device.log_text()
    harness.wait_until(lambda: not device.status()["error"], "the server is back")


def test_device_stopped(scratch, target):
    """For as long as it is stopped, its I/O waits; then it goes on, with a session that may be gone."""
    device = Device(scratch, target)
    load = Load(scratch, device, seconds=3)
    time.sleep(0.5)
    stop_process(device.process)
    time.sleep(1.5)
    continue_process(device.process)
    load.wait()
    assert not device.status()["error"], device.status()


def test_second_portal(scratch, target):
    """Portals are tried in turn, at the start and after a loss."""
    device = Device(scratch, target, portals=["127.0.0.1:1", target.portal, "127.0.0.1:2"])
    target.kill()
    device.wait_state("waiting")
    target.start()
    device.wait_state("ready")
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)


def test_portals_renewed(scratch, target):
    """SIGHUP: the portals of device.json are read anew, and nothing else of it; bad ones change nothing, and are told once."""
    device = Device(scratch, target, start=False, portals=["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    device.start_holder()
    device.start_device()
    device.wait_state("connecting")
    path = device.dir / "device.json"
    good = json.loads(path.read_text())

    def tell(**changed):
        path.write_text(json.dumps({**good, **changed}))
        device.process.send_signal(signal.SIGHUP)

    tell(portals=["nonsense"])
    harness.wait_until(lambda: "portals stay as they are" in device.log_text(), "bad portals are told")
    tell(portals=[])
    tell(portals=[target.portal], chap_secret="wrong", lun=7, mount_point="/nowhere")
    device.wait_state("ready")
    assert device.log_text().count("portals stay as they are") == 1, device.log_text()
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    tell()  # the old ones: what has a session keeps it
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    target.kill()
    device.wait_state("waiting")
    tell(portals=["127.0.0.1:2", target.portal])
    target.start()
    device.wait_state("ready")
    assert device.end() == 0


def test_silent_portal(scratch, target):
    """What takes a connection and never says a word is left for the next portal."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        device = Device(scratch, target, portals=[f"127.0.0.1:{silent.getsockname()[1]}", target.portal])
        write_direct(device.path, 0, bytes(4 * KIB), flush=True)


def is_sanitized():
    return b"__asan_init" in pathlib.Path(harness.program("mooring-device")).read_bytes()


def memory_of(process):
    """Pages that were faulted in, and bytes of data that it has, so far."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
        faults = int(stat.read().rpartition(")")[2].split()[7])
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return faults, next(line for line in status if line.startswith("VmData"))


def count_allocations(device, counts):
    told = counts.stat().st_size
    device.process.send_signal(signal.SIGUSR1)
    harness.wait_until(lambda: counts.stat().st_size >= told + 8, "the count is told")
    return struct.unpack("N", counts.read_bytes()[-8:])[0]


ROUNDS_MAX = 6


def random_io(device, kind):
    harness.run(harness.program("fio"), "--name=load", f"--filename={device.path}", "--direct=1", "--ioengine=io_uring",
                f"--rw={kind}", "--bsrange=4k-256k", "--iodepth=32", "--size=64M", "--fsync=64")


def test_no_allocation(scratch, target):
    """Writeback goes through this process: its I/O takes no memory, neither from the allocator nor from the kernel. Each of
    the kinds comes to a round of some 500 requests without one allocation. What a round may need before: libiscsi keeps what
    it once had for a PDU and takes more only for more of them at a time than ever; and after 1.5 s of silence it is asked for
    a NOP-Out."""
    counter = pathlib.Path(harness.BUILD) / "tests" / "count-malloc.so"
    if is_sanitized():
        raise harness.Skip("a sanitizer's allocator cannot be counted")
    device = Device(scratch, target, start=False)
    counts = device.dir / "counts"
    device.start_holder()
    os.environ.update(LD_PRELOAD=str(counter), MOORING_COUNT_FILE=str(counts))
    try:
        device.start_device()
    finally:
        del os.environ["LD_PRELOAD"], os.environ["MOORING_COUNT_FILE"]
    device.wait_state("ready")
    assert count_allocations(device, counts) > 0, "nothing is counted"
    for kind in ("randread", "randwrite", "randtrim"):
        rounds = []
        while not rounds or any(rounds[-1]):
            assert len(rounds) < ROUNDS_MAX, f"{kind}: (allocations, pages or data added?) a round: {rounds}"
            before, memory = count_allocations(device, counts), memory_of(device.process)
            random_io(device, kind)
            after = count_allocations(device, counts)
            rounds.append((after - before, memory_of(device.process) != memory))


PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE = 0x80000, 0x100000  # the kernel's sched.h; what PR_SET_IO_FLUSHER sets


def threads(process):
    """Flags of each thread, those of io_uring's workers too, by its name and number."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        try:
            before, _, after = (task / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[f"{before.partition('(')[2]} {task.name}"] = int(after.split()[6])
    return found


def locked_bytes(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        words = dict(line.split(":", 1) for line in status)
    return [KIB * int(words[name].split()[0]) for name in ("VmLck", "VmSize")]


def fit_for_writeback(scratch, target):
    """What writeback goes through must not wait for writeback: no thread of the process allocates with I/O, none is throttled
    for the dirty pages of others, and its memory stays. Returns what the machine does not let it, which the log tells."""
    device = Device(scratch, target)
    load = Load(scratch, device, seconds=2)
    seen = {}
    while load.running():
        seen.update(threads(device.process))
        time.sleep(0.02)
    load.wait()
    assert len(seen) >= 2, seen
    lacks = []
    locked, size = locked_bytes(device.process)
    if is_sanitized():  # its mlockall() does nothing
        pass
    elif locked:
        assert locked > size // 2, f"{locked} of {size} bytes are locked"
    else:
        lacks.append("cannot lock memory")
    both = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE
    if any(flags & both for flags in seen.values()):
        assert all(flags & both == both for flags in seen.values()), {name: hex(flags) for name, flags in seen.items()}
    else:
        lacks.append("cannot become an I/O flusher")
    assert device.end() == 0
    for what in lacks:
        assert what in device.log_text(), f"{what}, and nobody was told"
    return lacks


def test_fit_for_writeback(scratch, target):
    """On a kernel that lets us all, in tests/guest."""
    for what in fit_for_writeback(scratch, target):
        print(f"# the device's log says, as it has to on this machine: {what}")


def test_memory_that_cannot_be_locked(scratch, target):
    """The device serves all the same, and its log says what may come of it."""
    if is_sanitized():
        raise harness.Skip("a sanitizer's mlockall() does nothing")
    device = Device(scratch, target, start=False)
    device.start_holder()
    device.before = [harness.program("setpriv"), "--bounding-set", "-ipc_lock", harness.program("prlimit"),
                     "--memlock=65536"]
    device.start_device()
    device.wait_state("ready")
    assert "cannot lock memory" in device.log_text() and "may hang" in device.log_text(), device.log_text()
    write_direct(device.path, 0, bytes(4 * KIB), flush=True)
    assert device.end() == 0


def test_holder_needs_libc_alone(scratch, target):
    """What must never be replaced depends on nothing that is."""
    if is_sanitized():
        raise harness.Skip("a sanitizer has libraries of its own")

    def needed(name):
        said = harness.run(harness.program("readelf"), "--dynamic", "--wide", harness.program(name)).stdout
        return re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    assert needed("mooring-holder") == ["libc.so.6"], needed("mooring-holder")
    assert len(needed("mooring-device")) > 1, "readelf tells nothing"


LIMIT = 192 * MIB  # of which a device process locks some 70 MiB
DIRTY = 2 * LIMIT


class MemoryGroup:
    """A cgroup of the test's own with a limit, of whichever version has the memory controller; join() is for a process
    that is about to begin."""
    V1, V2 = ("memory.limit_in_bytes", "memory.failcnt"), ("memory.max", "memory.events")

    def __init__(self, limit_bytes):
        self.undo = []
        parent = self.parent()
        self.path = parent / f"mooring-test-{os.getpid()}"
        try:
            self.path.mkdir()
            self.undo.append(self.path.rmdir)
            (self.path / self.limit).write_text(str(limit_bytes))
        except OSError as why:
            self.take_back()
            raise harness.Skip(f"no memory limit can be set: {why}") from why

    def parent(self):
        version1 = pathlib.Path("/sys/fs/cgroup/memory")
        if (version1 / self.V1[0]).exists():
            self.limit, self.events = self.V1
            return version1
        self.limit, self.events = self.V2
        for root in (pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/unified")):
            controllers, below = root / "cgroup.controllers", root / "cgroup.subtree_control"
            if not controllers.exists() or "memory" not in controllers.read_text().split():
                continue
            if "memory" not in below.read_text().split():
                try:
                    below.write_text("+memory")
                except OSError as why:
                    raise harness.Skip(f"the memory controller cannot be handed down: {why}") from why
                self.undo.append(lambda: below.write_text("-memory"))
            return root
        raise harness.Skip("no cgroup has the memory controller here")

    def join(self, process):
        (self.path / "cgroup.procs").write_text(str(process.pid))

    def failures(self):
        """How often the limit was reached."""
        said = (self.path / self.events).read_text().split()
        return int(said[said.index("max") + 1] if "max" in said else said[0])

    def take_back(self):
        while self.undo:
            self.undo.pop()()

    def remove(self):
        harness.wait_until(lambda: not (self.path / "cgroup.procs").read_text(), "the group is empty")
        self.take_back()


WRITER = """
import os, sys
sys.stdin.readline()
fd = os.open(sys.argv[1], os.O_WRONLY)
for i in range(int(sys.argv[2])):
    os.pwrite(fd, bytes([i % 251]) * (1 << 20), i << 20)
os.fsync(fd)
"""


def test_writeback_under_a_memory_limit(scratch, target):
    """Twice the limit in dirty pages, written back through a device process that has no other memory either."""
    group = MemoryGroup(LIMIT)
    try:
        device = Device(scratch, target, size_bytes=512 * MIB, start=False)
        device.start_holder()
        stop_process(device.holder)  # nothing is taken before both are in
        device.start_device()
        for process in (device.process, device.holder):
            group.join(process)
        continue_process(device.holder)
        device.wait_state("ready")
        writer = subprocess.Popen([sys.executable, "-c", WRITER, device.path, str(DIRTY // MIB)], stdin=subprocess.PIPE)
        group.join(writer)
        writer.communicate(b"go\n", timeout=120)
        assert writer.returncode == 0
        assert group.failures() > 0, "the limit was never reached: this proves nothing"
        for i in range(0, DIRTY // MIB, 7):
            assert read_direct(device.path, i * MIB, 4 * KIB) == bytes([i % 251]) * 4 * KIB, f"at {i} MiB"
        assert device.end() == 0
    finally:
        Device.remove_all()
        group.remove()


if __name__ == "__main__":
    sys.exit(run_suite("outlives", globals()))
