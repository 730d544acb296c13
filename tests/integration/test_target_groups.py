#!/usr/bin/python3
"""Holds over volumes, snapshots of groups, and the extents of snapshots, on one storage server."""
import secrets
import sys
import threading
import time

import harness
from harness import status_of
from target_fixture import MIB, Volume, expect
from test_target_snapshots import PATTERNS, Snapshot, content, copy_of, read, ready, write

BLOCK = 4096


def hold_id():
    return secrets.token_hex(16)


class Group:
    """A claimed group of snapshots."""

    def __init__(self, target):
        self.target, self.id, self.hold = target, f"g-{secrets.token_hex(8)}", hold_id()
        self.name = f"group-{self.id}"
        target.controller.ClaimName(name=self.name, volume_id=self.id, kind=2)

    def begin(self, volumes, hold_ms=5000):
        self.target.controller.HoldVolumes(hold_id=self.hold, volume_ids=[volume.id for volume in volumes], hold_ms=hold_ms)

    def create(self, volume, snapshot_id=None, **fields):
        return self.target.controller.CreateSnapshot(**{**dict(
            snapshot_id=snapshot_id or f"{self.target.server_id}.s-{secrets.token_hex(8)}", name=self.name,
            source_volume_id=volume.id, group_id=self.id, hold_id=self.hold), **fields}).snapshot

    def release(self):
        self.target.controller.ReleaseVolumes(hold_id=self.hold)

    def commit(self, *ids):
        return self.target.controller.CommitSnapshots(group_id=self.id, snapshot_ids=ids).snapshots

    def members(self):
        return list(self.target.controller.ListSnapshots(group_id=self.id).snapshots)


def all_ready(target, ids):
    harness.wait_until(lambda: all(target.controller.GetSnapshot(snapshot_id=one).snapshot.ready for one in ids), "ready")


# ---- holds ----


def holds(target):
    c, volumes = target.controller, [Volume(target) for _ in range(3)]
    session, other = ready(volumes[0].attach()), ready(volumes[1].attach())
    write(session, 0, PATTERNS[0])
    ids, mine = [volume.id for volume in volumes[:2]], hold_id()
    hold = lambda **fields: status_of(c.HoldVolumes, **{**dict(hold_id=mine, volume_ids=ids, hold_ms=4000), **fields})
    for what, fields in {"no id": {"hold_id": "x"}, "no time": {"hold_ms": 0}, "too long": {"hold_ms": 5001},
                         "no volumes": {"volume_ids": []}, "one twice": {"volume_ids": [ids[0], ids[0]]},
                         "no volume id": {"volume_ids": ["x"]}}.items():
        expect(hold(**fields), "INVALID_ARGUMENT", what)
    expect(hold(volume_ids=[*ids, f"{target.server_id}.{'1' * 16}"]), "NOT_FOUND", "one that is not there")
    expect(hold(volume_ids=[f"{target.server_id}.{number:016x}" for number in range(65)]), "RESOURCE_EXHAUSTED", "too many")
    expect(hold(), "OK", "a hold")
    expect(hold(), "OK", "its repeat")
    expect(hold(volume_ids=[volumes[2].id]), "INVALID_ARGUMENT", "its repeat for another volume")
    expect(hold(hold_id=hold_id(), volume_ids=[volumes[2].id, ids[1]]), "ABORTED", "another hold of one of them")
    late = session.write(0, PATTERNS[1])
    expect(read(session, 0), PATTERNS[0], "a read under the hold")
    expect(session.wait(session.command(b"\x35".ljust(10, b"\0")))[0], 0, "a flush under the hold")
    expect(late in session.answers, False, "a write under the hold is answered")
    third = ready(volumes[2].attach())
    write(third, 0, PATTERNS[2])  # all or none: the hold that failed left it alone
    expect(status_of(c.ReleaseVolumes, hold_id=mine), "OK", "the release")
    expect(session.wait(late)[0], 0, "the write that waited")
    expect(status_of(c.ReleaseVolumes, hold_id=mine), "OK", "a repeat of the release")
    expect(hold(), "FAILED_PRECONDITION", "a repeat of the hold, after its release")
    expect(status_of(c.ReleaseVolumes, hold_id=hold_id()), "FAILED_PRECONDITION", "the release of none")
    for one in (session, other, third):
        one.close()


def holds_end(target):
    """By themselves, for whom they hold too; a detach waits no longer than for that."""
    c, volume = target.controller, Volume(target)
    session, mine = ready(volume.attach()), hold_id()
    c.HoldVolumes(hold_id=mine, volume_ids=[volume.id], hold_ms=300)
    write(session, 0, PATTERNS[0])
    expect(status_of(c.ReleaseVolumes, hold_id=mine), "FAILED_PRECONDITION", "the release of what has ended")
    expect(status_of(c.HoldVolumes, hold_id=mine, volume_ids=[volume.id], hold_ms=300), "FAILED_PRECONDITION", "its repeat")
    c.HoldVolumes(hold_id=hold_id(), volume_ids=[volume.id], hold_ms=500)
    session.write(0, PATTERNS[1])
    volume.detach()
    session.close()
    many = [hold_id() for _ in range(17)]
    volumes = [Volume(target) for _ in range(17)]
    statuses = [status_of(c.HoldVolumes, hold_id=one, volume_ids=[held.id], hold_ms=5000) for one, held in zip(many, volumes)]
    expect(statuses, ["OK"] * 16 + ["RESOURCE_EXHAUSTED"], "more holds than may stand")
    c.HoldVolumes(hold_id=many[0], volume_ids=[volumes[0].id], hold_ms=5000)
    for one in many[:16]:
        c.ReleaseVolumes(hold_id=one)
    expect(status_of(c.HoldVolumes, hold_id=many[16], volume_ids=[volumes[16].id], hold_ms=5000), "OK", "one more afterwards")
    expect(status_of(c.DeleteVolume, volume_id=volumes[16].id), "OK", "the deletion of a volume that is held")


def stop_under_hold(scratch, tls, pool):
    """Neither an end in order nor a kill waits for a hold, and none stands afterwards."""
    for kill in (False, True):
        target = harness.Target(scratch, tls, pool, loops=2)
        volume, mine = Volume(target), hold_id()
        attachment = volume.attach()
        session = ready(attachment)
        target.controller.HoldVolumes(hold_id=mine, volume_ids=[volume.id], hold_ms=5000)
        session.write(0, PATTERNS[0])
        if kill:
            target.kill()
        else:
            expect(target.stop(), 0, "exit status under a hold")
        session.close()
        target.start()
        with ready(attachment) as again:
            write(again, 0, PATTERNS[1])
        expect(status_of(target.controller.ReleaseVolumes, hold_id=mine), "FAILED_PRECONDITION", "the old hold's release")
        expect(target.stop(), 0, "exit status")


# ---- groups ----


def group(target):
    """Two volumes, written in turn: the second never has a number that the first lacks."""
    c, volumes = target.controller, [Volume(target), Volume(target)]
    sessions = [ready(volume.attach()) for volume in volumes]
    stop, numbers = threading.Event(), [0]

    def writer():
        while not stop.is_set():
            numbers[0] += 1
            for session in sessions:
                write(session, 0, numbers[0].to_bytes(8, "big") * 512)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(5):
            one = Group(target)
            one.begin(volumes)
            made = [one.create(volumes[1])]
            time.sleep(0.1)  # for a writer that the hold does not stop
            made.append(one.create(volumes[0]))
            ids = [snapshot.snapshot_id for snapshot in made]
            expect({(snapshot.name, snapshot.group_id, snapshot.provisional, snapshot.held) for snapshot in made},
                   {("", one.id, True, False)}, "what they say of themselves")
            expect(one.create(volumes[1], ids[0]).snapshot_id, ids[0], "a repeat")
            one.release()
            all_ready(target, ids)
            listed = {entry.snapshot_id for entry in c.ListSnapshots().snapshots}
            expect(listed & set(ids), set(), "what is not committed, in the list")
            expect(sorted(entry.snapshot_id for entry in one.members()), sorted(ids), "those of the group")
            expect([(entry.provisional, entry.held) for entry in one.commit(*ids)], [(False, True)] * 2, "committed")
            expect(len(one.commit(*ids)), 2, "a repeat of the commit")
            copies = [copy_of(target, 16 * MIB, source_snapshot=one_id) for one_id in reversed(ids)]
            first, second = (int.from_bytes(content(copy, [0])[0][:8], "big") for copy in copies)
            assert first - 1 <= second <= first, f"the first volume has {first}, the second {second}"
    finally:
        stop.set()
        thread.join()
    expect(status_of(c.ReleaseName, name=one.name, volume_id=one.id, kind=2), "FAILED_PRECONDITION", "its name in use")
    target.kill()
    target.start()
    expect(sorted((entry.snapshot_id, entry.held, entry.provisional) for entry in one.members()),
           sorted((one_id, True, False) for one_id in ids), "the group after a restart")
    for one_id in ids:
        target.controller.DeleteSnapshot(snapshot_id=one_id)
    expect(status_of(target.controller.ReleaseName, name=one.name, volume_id=one.id, kind=2), "OK", "the release of its name")


def broken_groups(target):
    c, volumes = target.controller, [Volume(target) for _ in range(3)]
    one = Group(target)
    expect(status_of(one.create, volumes[0]), "FAILED_PRECONDITION", "a member without a hold")
    one.begin(volumes[:2], 5000)
    expect(status_of(one.create, volumes[2]), "FAILED_PRECONDITION", "a member of a volume that is not held")
    expect(status_of(one.create, volumes[0], name="another"), "ABORTED", "a member under a name that nobody claimed")
    expect(status_of(one.create, volumes[0], hold_id=""), "INVALID_ARGUMENT", "a member without a hold's id")
    made = one.create(volumes[0]).snapshot_id
    second = one.create(volumes[1]).snapshot_id
    expect(status_of(one.commit, made, second), "FAILED_PRECONDITION", "a commit before the release")
    one.release()
    all_ready(target, [made, second])
    expect(status_of(one.commit, made), "FAILED_PRECONDITION", "a commit of a part")
    expect(status_of(one.commit, made, second, f"{target.server_id}.s-{'1' * 16}"), "NOT_FOUND", "of one that is not there")
    expect(status_of(Group(target).commit, made), "INVALID_ARGUMENT", "a commit by another group")
    expect(status_of(c.CommitSnapshots, group_id="x"), "INVALID_ARGUMENT", "a commit of no group")
    expect(status_of(one.create, volumes[0]), "FAILED_PRECONDITION", "a member after the release")
    c.DeleteSnapshot(snapshot_id=second)
    expect(status_of(one.commit, made, second), "NOT_FOUND", "a commit after a member was deleted")
    expect(len(one.commit(made)), 1, "a commit of what is left")

    late = Group(target)
    late.begin(volumes[:1], 200)
    lost = late.create(volumes[0]).snapshot_id
    time.sleep(0.3)
    expect(status_of(late.release), "FAILED_PRECONDITION", "the release of a hold that has ended")
    expect(status_of(late.commit, lost) in ("FAILED_PRECONDITION", "NOT_FOUND"), True,
           "a commit of what was not held until the release")
    harness.wait_until(lambda: status_of(c.GetSnapshot, snapshot_id=lost) == "NOT_FOUND", "what nobody can commit is deleted")
    late.hold = hold_id()
    late.begin(volumes[:1])
    older = late.create(volumes[0]).snapshot_id
    late.release()
    late.hold = hold_id()
    late.begin(volumes[:1])
    expect(status_of(late.create, volumes[0], older), "FAILED_PRECONDITION", "an older snapshot under a newer hold")
    late.release()
    expect(c.GetSnapshot(snapshot_id=older).snapshot.held, True, "the older one is held")
    c.DeleteSnapshot(snapshot_id=older)
    expect(status_of(c.ReleaseName, name=late.name, volume_id=late.id, kind=2), "OK", "the release of its name")


def hold_ends_amid_a_cut(target, pool):
    """A member that is cut when its hold has just ended is of no moment that the group shares: it is not kept."""
    c, volume, one = target.controller, Volume(target), Group(target)
    member, statuses = f"{target.server_id}.s-{secrets.token_hex(8)}", []
    one.begin([volume], 1500)
    harness.run("/usr/sbin/fsfreeze", "--freeze", pool.path)
    try:
        call = threading.Thread(target=lambda: statuses.append(status_of(one.create, volume, member)))
        call.start()
        harness.wait_until(lambda: status_of(c.HoldVolumes, hold_id=one.hold, volume_ids=[volume.id], hold_ms=1500) != "OK",
                           "the end of the hold")
    finally:
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", pool.path)
    call.join()
    expect(statuses, ["FAILED_PRECONDITION"], "a member whose hold ended while it was got ready")
    expect(status_of(c.GetSnapshot, snapshot_id=member), "NOT_FOUND", "that member")
    expect(one.members(), [], "what the group has")
    expect(status_of(c.ReleaseName, name=one.name, volume_id=one.id, kind=2), "OK", "the release of its name")


# ---- extents ----


def extents(target, snapshot, base="", **fields):
    """[(offset, end)…], and the messages that they came in."""
    messages = target.controller.ListExtents(snapshot_id=snapshot, base_snapshot_id=base, **fields)
    assert messages and {message.size_bytes for message in messages} == {messages[0].size_bytes}, "a size in each message"
    found = [(extent.offset, extent.offset + extent.length) for message in messages for extent in message.extents]
    for (_, end), (begin, _) in zip(found, found[1:]):
        assert end <= begin, f"{found}: not in order"
    return found, messages


def covered(found, offset, length=BLOCK):
    return any(begin <= offset and offset + length <= end for begin, end in found)


def allocated_and_changed(target):
    volume = Volume(target, 256 * MIB)
    written = [number * 997 % 65536 for number in range(200)]
    with ready(volume.attach()) as session:
        for block in written:
            write(session, block, PATTERNS[block % 26])
        first = Snapshot(volume)
        changed = [number * 1009 % 65536 for number in range(100)]
        for block in changed:
            write(session, block, b"c" * BLOCK)
        second = Snapshot(volume)
    volume.detach()
    found, _ = extents(target, first.id)
    expect([block for block in written if not covered(found, block * BLOCK)], [], "blocks that the allocated ranges miss")
    delta, _ = extents(target, second.id, first.id)
    expect([block for block in changed if not covered(delta, block * BLOCK)], [], "blocks that the changed ranges miss")
    more = sum(end - begin for begin, end in delta) - len(set(changed)) * BLOCK
    print(f"     {len(set(changed)) * BLOCK} bytes changed, {more} more are told", flush=True)
    one_each, messages = extents(target, second.id, first.id, max_entries=7)
    expect(one_each, delta, "the same in small messages")
    assert max(len(message.extents) for message in messages) <= 7, "a message is larger than was asked for"
    middle = delta[len(delta) // 2][0]
    expect(extents(target, second.id, first.id, from_offset=middle)[0], [one for one in delta if one[0] >= middle],
           "what comes from an offset on")
    expect(extents(target, second.id, first.id, from_offset=256 * MIB)[0], [], "from the end on")
    errors = {"a base that is newer": ("INVALID_ARGUMENT", dict(snapshot_id=first.id, base_snapshot_id=second.id)),
              "beyond the end": ("OUT_OF_RANGE", dict(snapshot_id=first.id, from_offset=256 * MIB + 1)),
              "no snapshot": ("NOT_FOUND", dict(snapshot_id=f"{target.server_id}.s-{'1' * 16}")),
              "no base": ("NOT_FOUND", dict(snapshot_id=first.id, base_snapshot_id=f"{target.server_id}.s-{'1' * 16}")),
              "no id": ("INVALID_ARGUMENT", dict(snapshot_id="x"))}
    for what, (status, fields) in errors.items():
        expect(status_of(target.controller.ListExtents, **fields), status, what)
    other = Snapshot(Volume(target))
    expect(extents(target, other.id)[0], [], "the ranges of an empty volume")
    expect(status_of(target.controller.ListExtents, snapshot_id=second.id, base_snapshot_id=other.id), "INVALID_ARGUMENT",
           "a base of another volume")
    expect(status_of(target.operator.ListExtents, snapshot_id=first.id), "PERMISSION_DENIED", "extents for an operator")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        pool = harness.Pool(scratch, size="4GiB")
        target = harness.Target(scratch, tls, pool, loops=3)
        features = set(target.controller.GetServer().features)
        expect({"group-snapshots", "extents"} <= features, True, f"features {features}")
        for name, function in (("holds", holds), ("holds-end", holds_end), ("group", group), ("broken-groups", broken_groups),
                               ("extents", allocated_and_changed)):
            suite.run(name, function, target)
        suite.run("hold-ends-amid-a-cut", hold_ends_amid_a_cut, target, pool)
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
        target.stop()  # also when only some tests run: the next one has its pool
        suite.run("stop-under-hold", stop_under_hold, scratch, tls, pool)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
