#!/usr/bin/python3
"""mooring-target with four loops, sessions on different ones: one writer (invariant 2), a fence holds (3), no stale
write (4), never format data (5), acked is kept (1)."""
import os
import random
import sys
import threading
import time

import harness
import raw_iscsi
from harness import status_of
from raw_iscsi import Closed, LoginFailed
from target_fixture import MIB, MULTI_WRITER, Volume, expect, register

AUTHORIZATION, UNAVAILABLE = 0x0202, 0x0301
FLUSH = b"\x35".ljust(10, b"\0")
HOLD_MS = 10000


def write(session, lba, data):
    expect(session.wait(session.write(lba, data))[0], 0, f"status of a write at {lba}")


def read(session, lba, blocks=1):
    status, data, _ = session.wait(session.read(lba, blocks))
    expect(status, 0, f"status of a read at {lba}")
    return data


def flush(session):
    expect(session.wait(session.command(FLUSH))[0], 0, "status of a flush")


# ---- invariant 2 ----


def old_epoch(target):
    volume = Volume(target)
    old = volume.attach("n1")
    expect(status_of(Volume.attach, volume, "n2"), "FAILED_PRECONDITION", "a second node's attach")
    with old.login() as session:
        expect(status_of(volume.detach, "n1", epoch=old.epoch + 1), "ABORTED", "detach of another epoch")
        expect(old.login_status(), 0, "a login after a stale detach")
        volume.detach("n1")
        assert session.closed(), "the session outlives its attachment"
    expect(old.login_status(), AUTHORIZATION, "the old epoch, detached")
    new = volume.attach("n1")
    expect(new.epoch, old.epoch + 1, "the epoch grows")
    expect(old.login_status(), AUTHORIZATION, "the old epoch, while the node holds the volume anew")
    expect(old.login_status(secret=new.secret), AUTHORIZATION, "the old epoch with the new secret")
    expect(new.login_status(), 0, "the new epoch")
    target.kill()
    target.start()
    expect(old.login_status(), AUTHORIZATION, "the old epoch after a restart")
    expect(new.login_status(), 0, "the new epoch after a restart")
    volume.detach("n1")
    volume.detach("n1")
    expect(volume.sessions(), [], "sessions of a detached volume")


def removal_racing_logins(target, seed):
    """Logins without a pause on all loops while the volume is detached: after OK, none of its sessions is left."""
    rng = random.Random(seed)
    for round_number in range(6):
        volume = Volume(target, size_bytes=4 * MIB)
        attachment = volume.attach("n1")
        alive, stop, unexpected = [], threading.Event(), []

        def storm():
            while not stop.is_set():
                try:
                    alive.append(attachment.login())
                except LoginFailed as failed:
                    if failed.status not in (AUTHORIZATION, 0x0302):
                        unexpected.append(failed.status)
                except (Closed, OSError):
                    pass

        threads = [threading.Thread(target=storm) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            harness.wait_until(lambda: len(alive) > rng.randrange(4, 24), "logins succeed")
            volume.detach("n1")
            left, count = volume.sessions(), len(alive)
            expect(left, [], f"sessions after DetachVolume answered OK, round {round_number}")
            time.sleep(0.1)  # logins go on against the detached volume
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        expect(volume.sessions(), [], "sessions later")
        # A login that was answered before the detach may be counted late; none may serve.
        for session in alive:
            try:
                session.wait(session.read(0, 1))
                raise AssertionError(f"a session serves after the detach ({len(alive) - count} came late)")
            except (Closed, OSError):
                session.close()
        expect(unexpected, [], "other login failures")


def held_write(scratch, tls):
    """The disk holds one write for ten seconds: no detach answers OK before it has ended, and nobody else attaches."""
    disk = harness.FaultyDisk(scratch)
    pool = harness.Pool(scratch, "store-3", device=disk.device)
    target = harness.Target(scratch, tls, pool)
    volume = Volume(target)
    attachment = volume.attach("n1")
    attachment.grant()
    session = attachment.login()
    write(session, 0, b"1" * 4096)
    flush(session)
    began = time.monotonic()
    expect(disk.command(f"hold {HOLD_MS}").split()[0], "ok", "hold")
    session.write(0, b"2" * 4096)
    harness.wait_until(disk.held, "the disk holds the write")

    expect(status_of(volume.detach, "n1", timeout_s=1), "DEADLINE_EXCEEDED", "detach while a write is under way")
    results = []
    repeats = [threading.Thread(target=lambda: results.append((status_of(volume.detach, "n1", timeout_s=60),
                                                               disk.held(), time.monotonic() - began)))
               for _ in range(3)]
    for repeat in repeats:
        repeat.start()
    while disk.held():
        if disk.held() and not results:
            refused = status_of(Volume.attach, volume, "n2")
            if disk.held():
                assert refused in ("FAILED_PRECONDITION", "ABORTED"), f"attach elsewhere meanwhile: {refused}"
                expect(results, [], "detach answered while the write was held")
        expect(attachment.login_status(), AUTHORIZATION, "a login meanwhile")
        time.sleep(0.2)
    for repeat in repeats:
        repeat.join()
    expect([(status, held) for status, held, _ in results], [("OK", 0)] * 3, "the repeats")
    other = volume.attach("n2")
    with other.login() as successor:
        expect(read(successor, 0), b"2" * 4096, "the write that was on its way")
    session.close()
    expect(target.stop(), 0, "exit status")


def waiting_commands(target):
    """Commands that wait for Data-Out end with their session: the detach does not wait for the initiator."""
    volume = Volume(target)
    with volume.attach("n1").login() as session:
        for _ in range(4):
            session.write(0, b"x" * 8192, immediate=0)
        expect(session.receive().opcode, raw_iscsi.R2T, "an R2T is out")
        volume.detach("n1", timeout_s=10)
        assert session.closed()


# ---- invariant 3 ----


def fence(target):
    boot_id = "ab" * 16
    register(target, "n9", boot_id)
    volumes = [Volume(target) for _ in range(3)]
    sessions = [volume.attach_only("n9") for volume in volumes]
    opened = [attachment.login() for attachment in sessions]
    answer = target.operator.FenceNode(node_id="n9", reason="test", boot_ids=["cd" * 16])
    expect(sorted(answer.detached_volume_ids), sorted(volume.id for volume in volumes), "what the fence detached")
    for session in opened:
        assert session.closed(), "a session outlives the fence"
    for attachment in sessions:
        expect(attachment.login_status(), AUTHORIZATION, "a fenced node's login")
    attach = lambda: target.controller.AttachVolume(volume_id=volumes[0].id, node_id="n9", access_mode=1,
                                                     record_generation=volumes[0].get().record_generation)
    expect(status_of(attach), "FAILED_PRECONDITION", "attach to a fenced node")
    for known in (boot_id, "cd" * 16):
        assert register(target, "n9", known).fenced, "a boot id that was known lifts the fence"
    target.kill()
    target.start()
    expect(status_of(attach), "FAILED_PRECONDITION", "attach to a fenced node after a restart")
    assert not register(target, "n9", "ef" * 16).fenced, "a new boot id does not lift the fence"
    attach()
    target.operator.FenceNode(node_id="n9", reason="again")
    target.operator.UnfenceNode(node_id="n9")
    attach()
    expect(status_of(target.operator.UnfenceNode, node_id="never"), "NOT_FOUND", "unfence of an unknown node")


# ---- invariant 4 ----


def old_generation(target):
    volume = Volume(target)
    attachment = volume.attach("n1")
    plain = attachment.grant()
    expect(attachment.generation, 1, "the first generation")
    expect(attachment.login_status(user=plain[0], secret=plain[1]), AUTHORIZATION, "generation 0 after a grant")
    with attachment.login() as session:
        expect(status_of(attachment.grant, holding=0), "ABORTED", "a grant by a stale holder")
        write(session, 0, b"a" * 4096)
        older = attachment.grant()
        assert session.closed(), "an older generation's session outlives the grant"
    expect(attachment.login_status(user=older[0], secret=older[1]), AUTHORIZATION, "the older generation")
    expect(attachment.login_status(), 0, "the newest generation")
    target.kill()
    target.start()
    expect(attachment.login_status(user=older[0], secret=older[1]), AUTHORIZATION, "the older one after a restart")
    expect(attachment.login_status(), 0, "the newest after a restart")


def reinstatement(target):
    """A login with the same ISID ends the old session first; with another, both live."""
    attachment = Volume(target).attach("n1")
    isid = raw_iscsi.random_isid()
    with attachment.login(isid=isid) as first, attachment.login() as other:
        with attachment.login(isid=isid) as second:
            assert first.closed(), "the reinstated session stays open"
            expect(read(second, 0), b"\0" * 4096, "a read on the new session")
            expect(read(other, 0), b"\0" * 4096, "a read on the other session")
            expect(len(attachment.volume.sessions()), 2, "sessions")


def reinstatement_waits(scratch, tls):
    """The new login completes only after the old session's last command has ended."""
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-4", device=disk.device))
    attachment = Volume(target).attach("n1")
    attachment.grant()
    isid = raw_iscsi.random_isid()
    first = attachment.login(isid=isid)
    write(first, 0, b"1" * 4096)
    flush(first)
    disk.command("hold 4000")
    aborted = first.write(0, b"2" * 4096)
    harness.wait_until(disk.held, "the disk holds the write")
    expect(first.wait(first.management(raw_iscsi.ABORT_TASK, aborted))[0], 0, "ABORT TASK of what is at the disk")
    expect(disk.held(), 0, "writes held when ABORT TASK was answered")
    disk.command("hold 4000")
    first.write(0, b"2" * 4096)
    harness.wait_until(disk.held, "the disk holds the next write")
    with attachment.login(isid=isid, timeout_s=60) as second:
        expect(disk.held(), 0, "writes held when the reinstating login was answered")
        write(second, 0, b"3" * 4096)
        expect(read(second, 0), b"3" * 4096, "the last write")
    first.close()
    expect(target.stop(), 0, "exit status")


def format_waits(scratch, tls):
    """BeginFormat waits for the writes under way and holds new ones until the volume is discarded."""
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-6", device=disk.device))
    attachment = Volume(target).attach("n1")
    attachment.grant()
    attachment.begin_format()
    with attachment.login(timeout_s=60) as session:
        write(session, 0, b"1" * 4096)
        flush(session)
        disk.command("hold 3000")
        under_way = session.write(0, b"2" * 4096)
        harness.wait_until(disk.held, "the disk holds the write")
        result = []
        format_thread = threading.Thread(target=lambda: result.append((attachment.begin_format().discarded, disk.held())))
        format_thread.start()
        harness.wait_until(lambda: target.log_text().count("held for a format") == 2, "it is held")
        time.sleep(0.2)
        later = session.write(1, b"3" * 4096)
        format_thread.join()
        expect(result, [(True, 0)], "discarded, and writes held when BeginFormat answered")
        expect([session.wait(tag)[0] for tag in (under_way, later)], [0, 0], "status of the writes")
        expect(read(session, 0), b"\0" * 4096, "what was written before the discard")
        expect(read(session, 1), b"3" * 4096, "what was held")
    expect(target.stop(), 0, "exit status")


def hijack(target):
    """Another attachment of the same volume cannot end this one's session by borrowing its names."""
    volume = Volume(target)
    one, two = volume.attach("n1", MULTI_WRITER), volume.attach("n2", MULTI_WRITER)
    isid = raw_iscsi.random_isid()
    with one.login(isid=isid) as session:
        expect(two.login_status(isid=isid, name="iqn.2026-11.storage.mooring:node:n1"), UNAVAILABLE, "a borrowed name")
        expect(read(session, 0), b"\0" * 4096, "the session goes on")


def second_target(scratch, tls, pool, target):
    """A second mooring-target on the pool serves neither protocol until the first has gone."""
    volume = Volume(target)
    attachment = volume.attach("n1")
    second = harness.Target(scratch, tls, pool, start=False)
    second.start(wait=False)
    harness.wait_until(lambda: "waiting:" in second.log_text(), "the second target waits for the lock")
    expect(status_of(second.controller.GetServer), "UNAVAILABLE", "a call to the waiting target")
    volume.target = second
    expect(attachment.login_status(), UNAVAILABLE, "a login at the waiting target")
    target.kill()
    second.wait_ready()
    expect(attachment.login_status(), 0, "a login after the first has gone")
    volume.target = target
    expect(second.stop(), 0, "exit status")
    target.start()


# ---- invariant 5 ----


def formats(target):
    volume = Volume(target)
    attachment = volume.attach("n1")
    expect(status_of(attachment.begin_format, generation=5), "ABORTED", "BeginFormat of another generation")
    attachment.grant()
    assert not attachment.begin_format().discarded
    with attachment.login() as session:
        write(session, 1, b"f" * 4096)
        expect(volume.get().content, 2, "content while formatting")
        older = attachment.generation
        attachment.grant()
        assert session.closed()
    expect(status_of(attachment.end_format, generation=older), "ABORTED", "EndFormat of an old generation")
    with attachment.login() as session:
        assert attachment.begin_format().discarded, "a format that was cut off is not discarded"
        expect(read(session, 1), b"\0" * 4096, "a block after the discard, on the session that was held")
        write(session, 1, b"g" * 4096)
        attachment.end_format()
        attachment.end_format()
        expect(volume.get().content, 3, "content after EndFormat")
        expect(status_of(attachment.begin_format), "FAILED_PRECONDITION", "BeginFormat on data")
        expect(read(session, 1), b"g" * 4096, "the data afterwards")
    foreign = Volume(target).attach("n1")
    with foreign.login() as session:
        write(session, 0, b"h" * 4096)
    foreign.grant()
    expect(status_of(foreign.begin_format), "FAILED_PRECONDITION", "BeginFormat after a write of no formatter")


# ---- invariant 1, as far as the target's side goes ----


def write_through(target):
    """WCE tells who is served write-through: generation 0, and everyone where several may write."""
    def cached(session):
        status, page, _ = session.wait(session.command(b"\x1a\x08\x08\0\xff\0", read=255))
        return status == 0 and bool(page[4 + 2] & 4)

    alone = Volume(target).attach("n1")
    with alone.login() as session:
        assert not cached(session), "generation 0 is served with a cache"
    alone.grant()
    with alone.login() as session:
        assert cached(session), "the only writer's granted generation is served write-through"
    alone.grant(write_through=True)
    target.kill()
    target.start()
    with alone.login() as session:
        assert not cached(session), "a generation that replays nothing is served with a cache"
    alone.grant()
    with alone.login() as session:
        assert cached(session), "the next generation is served write-through, as the one before"
    shared = Volume(target).attach("n1", MULTI_WRITER)
    shared.grant()
    with shared.login() as session:
        assert not cached(session), "a volume of many writers is served with a cache"


def kill_keeps(target):
    volume = Volume(target)
    attachment = volume.attach("n1")
    attachment.grant()
    blocks = {}
    boot_id = target.controller.GetServer().boot_id
    for round_number in range(3):
        with attachment.login() as session:
            for _ in range(20):
                lba = random.randrange(4096)
                blocks[lba] = os.urandom(4096)
                write(session, lba, blocks[lba])
            flush(session)
            target.kill()
        target.start()
        with attachment.login() as session:
            for lba, data in blocks.items():
                expect(read(session, lba) == data, True, f"block {lba} after kill {round_number + 1}")
    assert target.controller.GetServer().boot_id != boot_id, "the boot id is the same after a restart"


def aborts(target):
    with Volume(target).attach("n1").login() as session:
        tag = session.write(0, b"x" * 8192, immediate=0)
        r2t = session.receive()
        expect(session.wait(session.management(raw_iscsi.ABORT_TASK, tag))[0], 0, "ABORT TASK")
        expect(session.wait(session.management(raw_iscsi.ABORT_TASK, tag))[0], 1, "ABORT TASK of what is gone")
        session.data_out(r2t, b"x" * 8192)  # on its way when the abort was answered: dropped
        session.write(0, b"x" * 8192, immediate=0)
        session.receive()
        expect(session.wait(session.management(raw_iscsi.LUN_RESET))[0], 0, "LOGICAL UNIT RESET")
        expect(session.wait(session.management(raw_iscsi.TARGET_WARM_RESET))[0], 5, "TARGET WARM RESET")
        expect(read(session, 0), b"\0" * 4096, "a read afterwards")


def main():
    seed = harness.seed()
    random.seed(seed)
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        pool = harness.Pool(scratch)
        target = harness.Target(scratch, tls, pool)
        for name, test in (("old-epoch", old_epoch), ("waiting-commands", waiting_commands), ("fence", fence),
                           ("old-generation", old_generation), ("reinstatement", reinstatement), ("hijack", hijack),
                           ("formats", formats), ("write-through", write_through), ("kill-keeps", kill_keeps),
                           ("aborts", aborts)):
            suite.run(name, test, target)
        suite.run("removal-racing-logins", removal_racing_logins, target, seed)
        suite.run("second-target", second_target, scratch, tls, pool, target)
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
        suite.run("held-write", held_write, scratch, tls)
    with harness.Scratch() as scratch:
        suite.run("reinstatement-waits", lambda: reinstatement_waits(scratch, harness.Tls(scratch)))
    with harness.Scratch() as scratch:
        suite.run("format-waits", lambda: format_waits(scratch, harness.Tls(scratch)))
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
