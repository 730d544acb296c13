"""MariaDB and sysbench's oltp_read_write on a folder, for the benchmarks: 4 tables, 8 threads, the log flushed at each
commit. A place has a path and a name."""
import re

import harness

TABLES, THREADS = 4, 8
BYTES_PER_ROW = 260 # of a table of sysbench, its secondary index included


class Server:
    """mariadbd on a place, on a unix socket; the with block is its life."""

    def __init__(self, scratch, place, pool_bytes):
        self.scratch, self.place = scratch, place
        self.socket = scratch.path / "mysql.sock"
        self.log = scratch.path / f"mariadbd-{place.name}.log"
        self.data = place.path / "mysql"
        self.options = (f"--datadir={self.data}", f"--socket={self.socket}", "--no-defaults", "--user=root",
                        "--skip-networking", f"--innodb-buffer-pool-size={pool_bytes}",
                        "--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT",
                        "--innodb-log-file-size=512M", "--skip-log-bin", "--max-prepared-stmt-count=100000")

    def __enter__(self):
        options = sorted(self.options, key=lambda option: option != "--no-defaults") # which must come first
        self.process = self.scratch.start(harness.program("mariadbd"), *options, log=self.log)
        harness.wait_until(self.answers, f"mariadbd serves on {self.place.name}", timeout_s=120)
        return self

    def __exit__(self, *_error):
        if harness.end_process(self.process, timeout_s=180) != 0:
            raise AssertionError(f"mariadbd on {self.place.name} failed: {self.log.read_text()[-2000:]}")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"mariadbd ended: {self.log.read_text()[-2000:]}")
        return harness.run("mariadb", "--no-defaults", f"--socket={self.socket}", "-e", "select 1",
                           check=False).returncode == 0

    def statement(self, text):
        harness.run("mariadb", "--no-defaults", f"--socket={self.socket}", "-e", text)

    def sysbench(self, command, rows, *options, timeout=900):
        return harness.run(harness.program("sysbench"), "oltp_read_write", f"--mysql-socket={self.socket}",
                           "--mysql-user=root", "--mysql-db=bench", f"--tables={TABLES}", f"--table-size={rows}",
                           *options, command, timeout=timeout).stdout


def prepare(scratch, place, rows, pool_bytes):
    data = place.path / "mysql"
    harness.run(harness.program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--user=root",
                "--auth-root-authentication-method=normal", "--skip-test-db", timeout=120)
    with Server(scratch, place, pool_bytes) as server:
        server.statement("create database bench")
        server.sysbench("prepare", rows, f"--threads={TABLES}")


def measure(scratch, place, rows, pool_bytes, seconds):
    with Server(scratch, place, pool_bytes) as server:
        said = server.sysbench("run", rows, f"--threads={THREADS}", f"--time={seconds}", "--percentile=95")
    figures = (re.search(r"transactions:\s+\d+\s+\(([\d.]+) per sec", said), re.search(r"95th percentile:\s+([\d.]+)", said))
    if not all(figures):
        raise AssertionError(f"sysbench said: {said}")
    return tuple(float(figure[1]) for figure in figures)
