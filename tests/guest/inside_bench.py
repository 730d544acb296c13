#!/usr/bin/python3
"""In a guest: what a request costs by each way to attach. Started by tests/bench/guest, whose plugin of QEMU counts the
instructions."""
import argparse
import mmap
import os
import pathlib
import signal
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness
import node_fixture
from test_guest_iscsi import Iscsid

KIB, MIB = 1 << 10, 1 << 20
SPAN_BYTES = 64 * MIB
ROWS = (  # name, fio's words, size of a request, how many are counted
    ("4 KiB random read, depth 1", ["--rw=randread", "--iodepth=1"], 4 * KIB, 500),
    ("4 KiB random read, depth 32", ["--rw=randread", "--iodepth=32"], 4 * KIB, 1500),
    ("4 KiB random write, depth 1", ["--rw=randwrite", "--iodepth=1"], 4 * KIB, 500),
    ("4 KiB random write, depth 32", ["--rw=randwrite", "--iodepth=32"], 4 * KIB, 1500),
    ("4 KiB write + fsync, depth 1", ["--rw=randwrite", "--iodepth=1", "--fsync=1"], 4 * KIB, 300),
    ("128 KiB sequential read, depth 16", ["--rw=read", "--iodepth=16"], 128 * KIB, 300),
    ("128 KiB sequential write, depth 16", ["--rw=write", "--iodepth=16"], 128 * KIB, 300),
)
COLUMNS = ("kernel", "programs", "switches")


class Counters:
    """The plugin's file, past this kernel's page cache: it is changed from outside."""

    def __init__(self, path):
        self.file, self.page = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, mmap.PAGESIZE)

    def read(self):
        """Kernel, programs, context switches since the boot."""
        os.preadv(self.file, [self.page], 0)
        programs, kernel = (int.from_bytes(self.page[at:at + 8], sys.byteorder) for at in (0, 8))
        lines = pathlib.Path("/proc/stat").read_text(encoding="ascii").splitlines()
        (switches,) = (int(line.split()[1]) for line in lines if line.startswith("ctxt "))
        return kernel, programs, switches


class Stack(node_fixture.Stack):
    """A storage server on the guest's disk, a controller, and a node for each way."""

    def __init__(self, scratch, ways):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        pool = harness.Pool(scratch, "s1", device="/dev/vda")
        self.target = harness.Target(scratch, self.tls, pool, loops=1, log_level="info")
        self.controller = node_fixture.controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        if "iscsi" in ways:
            Iscsid(scratch)
        self.nodes = {way: node_fixture.Node(self, way, attach=way, log_level="info").wait_registered() for way in ways}
        harness.wait_until(lambda: self.controller.csi.Probe().ready.value, "the controller is ready")


def fio_words(path, size):
    return [harness.program("fio"), "--thread", "--name=bench", f"--filename={path}", "--direct=1", "--ioengine=io_uring",
            f"--size={SPAN_BYTES}", f"--bs={size}"]


def fill(path):
    harness.run(*fio_words(path, MIB), "--rw=write", "--iodepth=4", timeout=600)


class Disk:
    """Of a published volume, by the number of its node."""

    def __init__(self, path):
        number = os.stat(path).st_rdev
        self.stat = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")

    def moved_bytes(self):
        """Read and written so far (Documentation/block/stat.rst)."""
        fields = self.stat.read_text(encoding="ascii").split()
        return 512 * (int(fields[2]) + int(fields[6]))


def cost(scratch, counters, path, words, size, count):
    """Of a request, in the midst of fio's work: its start and its end are not in it."""
    disk = Disk(path)

    def more(requests):
        least = disk.moved_bytes() + requests * size
        harness.wait_until(lambda: disk.moved_bytes() >= least, f"{requests} requests on {path}", 600, 0.25)

    load = scratch.start(*fio_words(path, size), *words, "--time_based", "--runtime=3600")
    more(max(count // 10, 32))
    moved, before = disk.moved_bytes(), counters.read()
    more(count)
    after, moved = counters.read(), disk.moved_bytes() - moved
    load.kill()
    load.wait()
    return [(end - start) * size / moved for start, end in zip(before, after)]


def print_table(rounds, ways):
    print(f"\n{'of a request, medians':36}" + "".join(f"{way:>30}" for way in ways))
    print(f"{'':36}" + "".join(f"{column:>10}" for column in COLUMNS) * len(ways))
    for row, *_ in ROWS:
        line = f"{row:36}"
        for way in ways:
            for place, column in enumerate(COLUMNS):
                value = statistics.median(one[way, row][place] for one in rounds)
                line += f"{value:10.2f}" if column == "switches" else f"{value:10.0f}"
        print(line)
    print("\nkernel, programs: instructions of the whole machine, with fio's and the storage server's own.\n"
          "iscsi: the server makes each write durable before it answers, and the kernel needs no flush then.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--counters", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("way", nargs="+")
    arguments = parser.parse_args()
    counters, rounds = Counters(arguments.counters), []
    harness.run("modprobe", "ublk_drv", check=False)
    quick = harness.wait_until
    harness.wait_until = lambda condition, what, timeout_s=30, pause_s=0.1: quick(condition, what, max(timeout_s, 120), pause_s)
    with harness.Scratch() as scratch:
        stack, paths = Stack(scratch, arguments.way), {}
        for way, node in stack.nodes.items():
            volume = stack.volume(block=True, size=2 * SPAN_BYTES).publish(node)
            node.stage(volume, timeout_s=120)
            node.publish(volume)
            paths[way] = node.path(volume)
            fill(paths[way])
        for process in (stack.controller.process, *(node.process for node in stack.nodes.values())):
            process.send_signal(signal.SIGSTOP)  # they take no part in I/O, and have a heartbeat
        for number in range(arguments.rounds):
            rounds.append({(way, name): cost(scratch, counters, path, *row)
                           for name, *row in ROWS for way, path in paths.items()})
            print(f"round {number + 1} done", flush=True)
        print_table(rounds, arguments.way)
        sys.stdout.flush()
        os._exit(0)  # the guest goes, and all of it


if __name__ == "__main__":
    sys.exit(harness.main(main))
