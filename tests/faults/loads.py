"""What runs on the volumes while faults happen, and what it saw: fio, a ledger of blocks, MariaDB. Each tells its
longest stall, the time between two completions, and its I/O errors with their time."""
import contextlib
import errno
import mmap
import os
import pathlib
import random
import re
import signal
import sys
import threading
import time

import harness

BLOCK = 4096
EXAMPLE = harness.ROOT / "examples" / "mysql"


def longest_gap(times, since, until):
    """Of completion times, unordered: the longest time without one."""
    inside = sorted(one for one in times if since <= one <= until)
    marks = [since, *inside, until]
    return max(after - before for before, after in zip(marks, marks[1:]))


def writes_of(device):
    """Writes that a block device has completed, ever."""
    number = os.stat(device).st_rdev
    stat = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    return int(stat.read_text().split()[4])


# ---- fio ----


class Fio:
    """fio --verify on a block device, at three depths side by side, each on a part of its own. end() gives its
    verdict; after that gap() its longest stall."""
    JOBS = (("d1", 1, "4k-16k"), ("d8", 8, "4k-64k"), ("d32", 32, "4k-128k"))

    def __init__(self, scratch, path, size_bytes, seed, tag):
        self.log, self.prefix = scratch.path / f"{tag}.log", scratch.path / tag
        part = size_bytes // len(self.JOBS) // (1 << 20) << 20
        words = [harness.program("fio"), f"--filename={path}", "--direct=1", "--ioengine=io_uring", "--rw=randwrite",
                 "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=64",
                 "--fsync=40", "--time_based", "--runtime=7200", "--rate_iops=600", f"--randseed={seed}",
                 "--allow_mounted_write=1", "--log_offset=0", f"--size={part}"]
        for number, (name, depth, sizes) in enumerate(self.JOBS):
            words += [f"--name={name}", f"--offset={number * part}", f"--iodepth={depth}", f"--bsrange={sizes}",
                      f"--write_lat_log={self.prefix}-{name}"]
        before = writes_of(path)
        self.process = scratch.start(*words, log=self.log)
        self.stall_s = None
        harness.wait_until(lambda: writes_of(path) > before + 50 or self.process.poll() is not None, "fio writes")

    def end(self, limit_s=120):
        """Orderly; AssertionError when fio saw an error or wrong data."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(limit_s)
        said = self.log.read_text(errors="replace")
        if code != 128 or "verify:" in said or re.search(r"err=\s*[1-9]", said):  # 128: ended by SIGINT, all well
            wrong = [line for line in said.splitlines() if re.search(r"verify|error|err=", line)]
            raise AssertionError(f"fio (exit {code}): {' / '.join(wrong[:4])}")
        self.stall_s = max(self._gap(name) for name, _, _ in self.JOBS)
        for path in self.prefix.parent.glob(f"{self.prefix.name}-*_*.log"):
            path.unlink()

    def _gap(self, name):
        """fio logs the milliseconds of each completion since its start."""
        [path] = self.prefix.parent.glob(f"{self.prefix.name}-{name}_lat.*.log")
        times = [int(line.split(",", 1)[0]) / 1000 for line in path.read_text().splitlines()]
        if not times:
            raise AssertionError(f"fio's job {name} completed nothing")
        return longest_gap(times, min(times), max(times))


# ---- a ledger of blocks ----


class Ledger:
    """Threads that write and read back blocks of their own, and keep what was answered. An error is noted and the
    thread goes on; what a failed write left is one of the two contents. check() reads everything again."""

    def __init__(self, path, seed, blocks, threads=4, fsync=20, pause_s=0.004):
        self.path, self.fsync, self.pause_s = path, fsync, pause_s
        self.contents = {block: {bytes(BLOCK)} for block in range(blocks)}
        self.times, self.errors, self.wrong = [], [], []
        self.stopping, self.pausing = threading.Event(), threading.Event()
        share = blocks // threads
        self.threads = [threading.Thread(target=self._run, daemon=True,
                                         args=(range(i * share, (i + 1) * share), random.Random(f"{seed}-{i}")))
                        for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, blocks, choice):
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        count = 0
        try:
            with mmap.mmap(-1, BLOCK) as buffer:
                while not self.stopping.is_set():
                    if self.pausing.is_set():
                        time.sleep(0.01)
                        continue
                    count += 1
                    block = choice.choice(blocks)
                    try:
                        if count % self.fsync == 0:
                            os.fsync(fd)
                        elif choice.random() < 0.25:
                            self._read(fd, buffer, block)
                        else:
                            self._write(fd, buffer, block, choice.randbytes(BLOCK))
                        self.times.append(time.monotonic())
                        time.sleep(self.pause_s)
                    except OSError as error:
                        self.errors.append((time.monotonic(), error.errno))
                        time.sleep(0.05)
        finally:
            os.close(fd)

    def _write(self, fd, buffer, block, content):
        buffer[:] = content
        before = self.contents[block]
        self.contents[block] = before | {content}
        if os.pwritev(fd, [buffer], block * BLOCK) != BLOCK:
            raise OSError(errno.EIO, "short write")
        self.contents[block] = {content}

    def _read(self, fd, buffer, block):
        if os.preadv(fd, [buffer], block * BLOCK) != BLOCK:
            raise OSError(errno.EIO, "short read")
        content = bytes(buffer)
        if content not in self.contents[block]:
            self.wrong.append(block)
        self.contents[block] = {content}

    def wait_for(self, more, timeout_s=90):
        aim = len(self.times) + more
        harness.wait_until(lambda: len(self.times) >= aim, f"{more} more completions on {self.path}", timeout_s)

    @contextlib.contextmanager
    def resting(self):
        """No new I/O for a while."""
        self.pausing.set()
        time.sleep(0.5)
        try:
            yield
        finally:
            self.pausing.clear()

    def errors_since(self, when):
        return [number for at, number in self.errors if at >= when]

    def stop(self, limit_s=120):
        self.stopping.set()
        for thread in self.threads:
            thread.join(limit_s)
            if thread.is_alive():
                raise AssertionError(f"I/O on {self.path} did not end within {limit_s} s")

    def check(self):
        """After stop(): blocks that hold neither what was answered nor what a failed write may have left."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, BLOCK) as buffer:
                for block, contents in self.contents.items():
                    os.preadv(fd, [buffer], block * BLOCK)
                    if bytes(buffer) not in contents:
                        self.wrong.append(block)
        finally:
            os.close(fd)
        if self.wrong:
            raise AssertionError(f"{len(self.wrong)} corrupt blocks on {self.path}: {self.wrong[:10]}")


# ---- MariaDB with the ledger of examples/mysql ----


class ThisHost:
    """What load.py asks of a host."""
    namespace_path = "/proc/self/ns/net"


class MariaDb:
    """This machine's mariadbd with its data on a mounted volume, and the example's clients with their ledger of
    answered commits."""

    def __init__(self, scratch, seed, port=3306, name="mariadb"):
        sys.path.insert(0, str(EXAMPLE))
        try:
            import database
            import load
        except ImportError as why:
            raise harness.Skip(f"{why}: scripts/install-deps --example") from why
        self.server, self.installer = harness.program("mariadbd"), harness.program("mariadb-install-db")
        load.STATEMENT_TIMEOUT_S = 300  # longer than any fault
        self.scratch, self.port, self.seed = scratch, port, seed
        self.modules = database, load
        self.folder = scratch.path / name
        self.folder.mkdir(exist_ok=True)  # of an earlier one, which is over
        self.log = self.folder / "log"
        self.socket = self.folder / "sock"
        self.process = self.load = None
        self.data = None

    def start(self, mounted):
        """On the volume's mount; a new database where there is none."""
        database, load = self.modules
        self.data = pathlib.Path(mounted) / "mysql"
        fresh = not self.data.exists()
        if fresh:
            self.data.mkdir()
            harness.run(self.installer, "--no-defaults", "--user=root", "--skip-test-db",
                        "--auth-root-authentication-method=normal", f"--datadir={self.data}", timeout=120)
        drop = ("--datadir", "--user", "--socket", "--pid-file", "--port", "--innodb-log-file-size", "--bind-address")
        options = [one for one in database.SERVER[1:] if not one.startswith(drop)]
        mark = len(self.log_text())
        self.process = self.scratch.start(
            self.server, *options, f"--datadir={self.data}", "--user=root", f"--socket={self.socket}",
            f"--pid-file={self.folder / 'pid'}", f"--port={self.port}", "--bind-address=127.0.0.1",
            "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=16M", log=self.log)
        self._wait_ready(mark)
        if fresh:
            self.sql(f"CREATE DATABASE {load.DATABASE}; CREATE USER app@'%' IDENTIFIED BY 'app'; "
                     f"GRANT ALL ON {load.DATABASE}.* TO app@'%'; CREATE TABLE {load.DATABASE}.orders "
                     "(id BIGINT PRIMARY KEY, payload VARCHAR(400) NOT NULL) ENGINE=InnoDB")
        if not self.load:
            self.load = load.Load(ThisHost, "127.0.0.1", self.port, str(self.folder / "ledger"), self.seed)
            self.load.start()
        self.load.wait_for_commits(10)

    def _wait_ready(self, mark):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"mariadbd ended: {self.log_text()[mark:][-1500:]}")
            return "ready for connections" in self.log_text()[mark:]
        harness.wait_until(ready, "mariadbd serves", 120)

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def sql(self, statement):
        harness.run("mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "--execute", statement)

    def disk_errors(self, mark=0):
        return [line for line in self.log_text()[mark:].splitlines() if self.modules[0].DISK_ERRORS.search(line)]

    def stop(self, kill=False):
        """The server; the clients go on trying."""
        if kill:
            self.process.kill()
        harness.end_process(self.process, timeout_s=60)

    def end_load(self):
        self.load.stopping.set()
        self.load.stop()

    def check(self):
        missing = self.modules[1].missing_rows(self.load)
        if missing:
            raise AssertionError(f"{len(missing)} acknowledged commits are lost: {missing[:10]}")
