"""Clients that keep writing, and the ledger of each commit that the server acknowledged.

A worker inserts one row a transaction, and writes its id to the ledger, outside the volume, when COMMIT was answered. A
commit that was not answered may have happened or not; one that was answered must be found in the database for ever.
"""

import concurrent.futures
import ctypes
import os
import random
import threading
import time

import pymysql

WORKERS = 4
DATABASE = "shop"
PAYLOAD_BYTES = 200
STATEMENT_TIMEOUT_S = 60 # a stall of the storage makes clients wait; it is not an error


def in_namespace(path):
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(fd, 0x40000000) != 0: # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


def on_host(host, function):
    """function()'s value, called on a thread inside the host's network."""
    with concurrent.futures.ThreadPoolExecutor(1, initializer=in_namespace, initargs=(host.namespace_path,)) as pool:
        return pool.submit(function).result()


class Load:
    """Started once; runs until stop(). Thread-safe."""

    def __init__(self, host, address, port, ledger_path, seed):
        self.host = host
        self.address = address
        self.port = port
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.commits = [] # (time of the answer, id)
        self.errors = [] # (time, text): statements that failed on a live connection
        self.next_id = 1
        self.ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
        self.threads = [threading.Thread(target=self.work, args=(seed + i,), daemon=True) for i in range(WORKERS)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(STATEMENT_TIMEOUT_S + 10)
        os.close(self.ledger)

    def connect(self):
        return pymysql.connect(host=self.address, port=self.port, user="app", password="app", database=DATABASE,
                               connect_timeout=2, read_timeout=STATEMENT_TIMEOUT_S, write_timeout=STATEMENT_TIMEOUT_S,
                               autocommit=False)

    def take_id(self):
        with self.lock:
            self.next_id += 1
            return self.next_id - 1

    def record(self, row):
        with self.lock:
            os.write(self.ledger, b"%d\n" % row)
            self.commits.append((time.monotonic(), row))

    def work(self, seed):
        in_namespace(self.host.namespace_path)
        generator = random.Random(seed)
        connection = None
        while not self.stopping.is_set():
            try:
                if connection is None:
                    connection = self.connect()
                row = self.take_id()
                payload = generator.randbytes(PAYLOAD_BYTES // 2).hex()
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO orders (id, payload) VALUES (%s, %s)", (row, payload))
                connection.commit()
                self.record(row)
            except (pymysql.MySQLError, OSError) as error:
                with self.lock:
                    self.errors.append((time.monotonic(), str(error)))
                if connection is not None:
                    try:
                        connection.close()
                    except (pymysql.MySQLError, OSError):
                        pass
                connection = None
                self.stopping.wait(0.02)

    def mark(self):
        """A point in time to count from: (time, number of commits so far)."""
        with self.lock:
            return time.monotonic(), len(self.commits)

    def acknowledged(self):
        with self.lock:
            return [row for _, row in self.commits]

    def longest_gap(self, since):
        """The longest time between two answered commits since the mark, in seconds: the outage as clients saw it."""
        start, count = since
        with self.lock:
            times = [start] + [when for when, _ in self.commits[count:]] + [time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))

    def lost_connections(self, since):
        with self.lock:
            return sum(1 for when, _ in self.errors if when >= since[0])

    def wait_for_commits(self, more=40, timeout=120):
        """Until the service is answering again: `more` commits from now."""
        target = self.mark()[1] + more
        deadline = time.monotonic() + timeout
        while self.mark()[1] < target:
            if time.monotonic() > deadline:
                with self.lock:
                    last = self.errors[-1][1] if self.errors else "no error"
                raise TimeoutError(f"no commits for {timeout} s; the last error: {last}")
            time.sleep(0.02)


def missing_rows(load):
    """Acknowledged commits that the database does not have: must be none."""
    acknowledged = set(load.acknowledged())
    connection = on_host(load.host, load.connect)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM orders")
        present = {row[0] for row in cursor.fetchall()}
    connection.close()
    return sorted(acknowledged - present)
