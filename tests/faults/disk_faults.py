"""Faults of the storage server's disk: the application sees what a disk would give, and goes on when it is gone."""
import errno
import os
import re
import time

import harness

RANGES_MAX = 16  # of faulty_disk.c


def injects(*names):
    """The volumes whose users see the errors."""
    def mark(function):
        function.injects = names
        return function
    return mark


def extents(lab, name):
    """(from, to) bytes on the disk of the volume's data file."""
    server = lab.server_of(name)
    data = server.pool.path / "volumes" / lab.volumes[name].volume_id / "data"
    listed = harness.run(harness.program("xfs_io"), "-r", "-c", "fiemap -v", data).stdout
    found = re.findall(r"^\s*\d+:\s+\[\d+\.\.\d+\]:\s+(\d+)\.\.(\d+)\s", listed, re.MULTILINE)
    return [(int(first) * 512, (int(last) + 1) * 512) for first, last in found]


def fail_at(lab, name, verb, number):
    """The disk fails this operation where the volume's data is, and nowhere else: not in XFS's own log."""
    spans = sorted(extents(lab, name), key=lambda span: span[0] - span[1])[:RANGES_MAX]
    if not spans:
        raise AssertionError(f"no extents of {name}")
    words = " ".join(f"{low} {high}" for low, high in spans)
    answer = lab.server_of(name).disk.command(f"fail {verb} -1 {number} {words}")
    if answer != "ok":
        raise AssertionError(f"the disk: {answer}")


def fail_within(lab, name, verb, number, length_s):
    """For a while; what the ledger's threads saw must be that error."""
    ledger, since = lab.ledgers[name], time.monotonic()
    fail_at(lab, name, verb, number)
    harness.wait_until(lambda: ledger.errors_since(since), f"an error at the users of {name}", 60)
    time.sleep(length_s)
    with ledger.resting():  # a write that failed and goes through at the second try would be taken for a failed flush
        lab.server_of(name).disk.command(f"fail {verb} 0 0")
    time.sleep(0.3)  # what was on its way
    seen = set(ledger.errors_since(since))
    if seen != {number}:
        raise AssertionError(f"the disk said {errno.errorcode[number]}, the application saw "
                             f"{[errno.errorcode.get(one, one) for one in seen]}")
    return ledger


def recovers(lab, name, ledger):
    """Errors end: many operations without one."""
    del lab
    def calm():
        count, errors = len(ledger.times), len(ledger.errors)
        ledger.wait_for(60)
        return len(ledger.errors) == errors and len(ledger.times) > count
    harness.wait_until(calm, f"{name} recovers", 90)


def data_fault(verb, number):
    @injects("victim")
    def fault(lab, choice):
        ledger = fail_within(lab, "victim", verb, number, choice.uniform(0.2, 1.5))
        recovers(lab, "victim", ledger)
        return f"{len(ledger.errors)} errors so far"
    return fault


eio = data_fault("write", errno.EIO)
enospc = data_fault("write", errno.ENOSPC)
read_eio = data_fault("read", errno.EIO)


def write_failed(lab, server):
    """The names of the server's volumes that are."""
    return {name for name, volume in lab.volumes.items() if lab.server_of(name) is server
            and server.controller.GetVolume(volume_id=volume.volume_id).volume.write_failed}


def clear_all(lab, server):
    """What an operator does once the disk is well: one failed flush takes each volume of it that was not all flushed."""
    names = write_failed(lab, server)
    for name in names:
        lab.cluster.cli("volume", "clear-failed", lab.volumes[name].volume_id, check=True)
    return names


def fail_flush_until(server, done, what):
    """One flush at a time. The first may be one that comes with a commit's write: then that write alone fails."""
    armed_at = None

    def check():
        nonlocal armed_at
        if done():
            return True
        flushes = server.disk.stat("flushes")
        if armed_at is None or flushes > armed_at:
            time.sleep(0.2)  # a moment after the disk said it, the server knows
            if done():
                return True
            armed_at = server.disk.stat("flushes")
            server.disk.command(f"fail flush 1 {errno.EIO}")
        return False
    try:
        harness.wait_until(check, what, 60)
    finally:
        server.disk.command("fail flush 0 0")


@injects("victim")
def flush_fails(lab, _choice):
    """One flush of the disk fails: its volume takes no more writes until an operator clears it. XFS itself gives up when
    a flush of its own log fails, so nothing else of that server changes meanwhile: the database's file system is frozen,
    and the log is empty. All of the database's is flushed then, so that its volume is not concerned."""
    freeze = harness.program("fsfreeze") if lab.database else None
    if freeze:
        harness.run(freeze, "--freeze", lab.paths["db"])
    try:
        fsync_folder(lab.server_of("victim").pool.path)
        words = one_flush_fails(lab)
    finally:
        if freeze:
            harness.run(freeze, "--unfreeze", lab.paths["db"])
    return words


def fsync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def one_flush_fails(lab):
    server, ledger = lab.server_of("victim"), lab.ledgers["victim"]
    since = time.monotonic()
    fail_flush_until(server, lambda: write_failed(lab, server), "the volume is write-failed")
    harness.wait_until(lambda: len(ledger.errors_since(since)) > 20, "errors at the volume's users", 60)
    failed = clear_all(lab, server)
    if failed != {"victim"}:
        raise AssertionError(f"write-failed are {failed}, not the victim alone")
    recovers(lab, "victim", ledger)
    seen = set(ledger.errors_since(since))
    if seen != {errno.EIO}:
        raise AssertionError(f"the application saw {seen}")
    return f"cleared after {len(ledger.errors_since(since))} errors"


@injects("db", "victim")
def database_flush_fails(lab, _choice):
    """A flush of the database's volume fails, while the other volume has writes that are not flushed: both take no more
    writes. The database is started anew once both are cleared, and has every commit."""
    if not lab.database:
        raise harness.Skip("without MariaDB")
    server = lab.server_of("db")
    mark, since = len(lab.database.log_text()), time.monotonic()
    with lab.ledgers["victim"].resting():  # whose flushes are not to be the one that fails
        fsync_folder(server.pool.path)
        fail_flush_until(server, lambda: "db" in write_failed(lab, server) or database_noticed(lab, mark, since),
                         "the volume is write-failed")
    harness.wait_until(lambda: database_noticed(lab, mark, since), "MariaDB notices", 60)
    failed = clear_all(lab, server)
    recovers(lab, "victim", lab.ledgers["victim"])
    return f"{'restarted' if heal_database(lab) else 'went on'}, cleared {' and '.join(sorted(failed)) or 'nothing'}"


def database_noticed(lab, mark, since):
    return (lab.database.process.poll() is not None or lab.database.disk_errors(mark)
            or [text for at, text in lab.database.load.errors if at >= since])


@injects("db", "victim")
def database_eio(lab, choice):
    """Writes of the database's volume fail for a while; it is started anew and has every commit that it answered. A
    write that fails once only, as the last one may, is taken for a failed flush: then volumes are cleared."""
    if not lab.database:
        raise harness.Skip("without MariaDB")
    mark, since = len(lab.database.log_text()), time.monotonic()
    fail_at(lab, "db", "write", errno.EIO)
    try:
        harness.wait_until(lambda: database_noticed(lab, mark, since), "MariaDB notices", 60)
        time.sleep(choice.uniform(0, 1))
    finally:
        lab.server_of("db").disk.command("fail write 0 0")
    time.sleep(0.3)  # what was on its way
    clear_all(lab, lab.server_of("db"))
    recovers(lab, "victim", lab.ledgers["victim"])
    return "restarted" if heal_database(lab) else "went on"


def heal_database(lab):
    """What an operator does when the disk is well again: where the file system or the server gave up, mount the volume
    anew and start the server. Whether that was needed."""
    if not lab.database:
        return False
    try:
        lab.database.load.wait_for_commits(10, timeout=15)
        return False
    except TimeoutError:
        pass
    lab.database.stop(kill=True)
    lab.node.detach(lab.volumes["db"])
    lab.paths["db"] = lab.node.attach(lab.volumes["db"], block=False, fs_type="ext4")
    lab.database.start(lab.paths["db"])
    lab.database.check()
    return True
