"""What a database sees of its disk: MariaDB's own log must name the error that was injected, or what a file system makes of
it, and no other; when the disk is well again, it serves every commit that it answered."""
import contextlib
import errno
import os
import re
import time

import cluster as clusters
import disk_faults
import harness
import loads

# MariaDB's and InnoDB's ways to tell of an errno.
TOLD = re.compile(r"(?:errno:?|error number|system error|[IO][OS] error:?|returned) (\d+)\b", re.IGNORECASE)
# What ext4 gives when its own journal could not be written.
OF_FILE_SYSTEM = {errno.EIO, errno.EROFS}
FULL_BYTES = 160 << 20


def told(database, mark):
    """The errnos that its log names since then, by number or by text."""
    text = database.log_text()[mark:]
    numbers = {int(number) for number in TOLD.findall(text)} & set(errno.errorcode)
    return numbers | {number for number in (errno.EIO, errno.ENOSPC, errno.EROFS) if os.strerror(number) in text}


def gave_up(path):
    """Whether ext4's journal there has ended. It is seen by the next change only: an inode that is not waited for on disk."""
    probe = f"{path}/probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600))
        os.unlink(probe)
    except OSError as why:
        return why.errno in OF_FILE_SYSTEM
    return False


def wait_noticed(database, path, mark, number, limit_s=60):
    """It says so in its log; that it ends, or answers its clients with errors, is not enough. Its words."""
    harness.wait_until(lambda: told(database, mark), "MariaDB tells of its disk", limit_s)
    time.sleep(0.5)  # what else it has to say of it
    seen = told(database, mark)
    words = ", ".join(errno.errorcode[one] for one in sorted(seen))
    if not seen <= {number} | OF_FILE_SYSTEM:
        raise AssertionError(f"the disk said {errno.errorcode[number]}, MariaDB tells of {words}")
    if number not in seen:  # the journal had met it before the database did
        if not gave_up(path):
            raise AssertionError(f"the disk said {errno.errorcode[number]}, MariaDB tells of {words}, and ext4 goes on")
        words += " of ext4, which gave up"
    return words


def write_fault(number):
    @disk_faults.injects("db", "victim")
    def fault(lab, choice):
        """Writes of the database's volume fail for a while. One that goes through at the second try, as the last may, is
        taken for a failed flush: then volumes are cleared."""
        if not lab.database:
            raise harness.Skip("without MariaDB")
        mark = len(lab.database.log_text())
        disk_faults.fail_at(lab, "db", "write", number)
        try:
            words = wait_noticed(lab.database, lab.paths["db"], mark, number)
            time.sleep(choice.uniform(0, 1))
        finally:
            lab.server_of("db").disk.command("fail write 0 0")
        time.sleep(0.3)  # what was on its way
        disk_faults.clear_all(lab, lab.server_of("db"))
        disk_faults.recovers(lab, "victim", lab.ledgers["victim"])
        return f"{words}; {'restarted' if disk_faults.heal_database(lab) else 'went on'}"
    return fault


eio = write_fault(errno.EIO)
enospc = write_fault(errno.ENOSPC)


# ---- a pool that is full ----


@contextlib.contextmanager
def filled(pool):
    """Its file system has not a block left for anybody: a foreign file took them."""
    path = pool.path / "of-somebody-else"
    with open(path, "wb") as file:
        piece, size = 64 << 20, 0
        while piece >= 4096:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
            except OSError as why:
                if why.errno != errno.ENOSPC:
                    raise
                piece //= 4
    try:
        yield
    finally:
        path.unlink()


def write_until_told(database, path, mark, number):
    """A table grows, by more than what the volume has been given so far. Its end is an error."""
    with contextlib.suppress(AssertionError):
        database.sql("CREATE TABLE IF NOT EXISTS ledger_filler.f (b LONGBLOB); " +
                     "INSERT INTO ledger_filler.f VALUES (REPEAT('x', 1000000)); " * 64)
    return wait_noticed(database, path, mark, number)


@disk_faults.injects("db")
def pool_full(lab, _choice):
    """A thin volume of a pool whose XFS is full, under a MariaDB of its own; then there is space again."""
    if not lab.database:
        raise harness.Skip("without MariaDB")
    server = lab.server_of("db")
    volume = lab.cluster.create("thin", server.server_id, FULL_BYTES)
    path = lab.node.attach(volume, block=False, fs_type="ext4")
    database = loads.MariaDb(lab.scratch, lab.seed, port=3307, name="mariadb-thin")
    database.start(path)
    database.sql("CREATE DATABASE ledger_filler")
    mark = len(database.log_text())
    with filled(server.pool):
        words = write_until_told(database, path, mark, errno.ENOSPC)
        for name in lab.ledgers:  # whose space is theirs already
            lab.ledgers[name].wait_for(20)
    database.stop(kill=True)
    lab.node.detach(volume)
    database.start(lab.node.attach(volume, block=False, fs_type="ext4"))
    database.check()
    database.end_load()
    database.stop()
    lab.node.detach(volume)
    clusters.settle(lab.controller.csi.DeleteVolume, volume_id=volume.volume_id)
    return words
