#!/usr/bin/python3
"""Snapshots, copies, groups and extents on one storage server: each call, its errors, its repeats, beside I/O and deletions."""
import random
import secrets
import sys
import threading
import time

import harness
from harness import status_of
from target_fixture import MIB, Volume, expect

PATTERNS = [bytes([65 + number]) * 4096 for number in range(26)]


def ready(attachment):
    session = attachment.login()
    while session.wait(session.command(b"\0" * 6))[0]:
        pass
    return session


def write(session, block, data):
    status = session.wait(session.write(block, data))[0]
    expect(status, 0, f"a write at block {block}")


def read(session, block, count=1):
    status, data, _ = session.wait(session.read(block, count))
    expect(status, 0, f"a read at block {block}")
    return data


class Snapshot:
    """A new snapshot of a volume; ready unless wait is False."""

    def __init__(self, volume, name=None, wait=True, snapshot_id=None, claim=True):
        self.target, self.volume = volume.target, volume
        self.id = snapshot_id or f"{self.target.server_id}.s-{secrets.token_hex(8)}"
        self.name = name or f"snap-{self.id[-16:]}"
        if claim:
            self.target.controller.ClaimName(name=self.name, volume_id=self.id, kind=1)
        self.create()
        if wait:
            self.wait()

    def create(self):
        return self.target.controller.CreateSnapshot(snapshot_id=self.id, name=self.name,
                                                     source_volume_id=self.volume.id).snapshot

    def get(self, **options):
        return self.target.controller.GetSnapshot(snapshot_id=self.id, **options).snapshot

    def wait(self):
        harness.wait_until(lambda: self.get().ready, f"snapshot {self.id} is ready")

    def delete(self):
        return self.target.controller.DeleteSnapshot(snapshot_id=self.id)


def copy_of(target, size_bytes, source_volume=None, source_snapshot=None, name=None, **options):
    """A volume of the source's bytes."""
    volume = Volume.__new__(Volume)
    volume.target, volume.id = target, f"{target.server_id}.{secrets.token_hex(8)}"
    volume.name = name or f"copy-{volume.id[-16:]}"
    volume.iqn = f"iqn.2026-11.storage.mooring:{volume.id}"
    target.controller.ClaimName(name=volume.name, volume_id=volume.id)
    fields = dict(volume_id=volume.id, name=volume.name, size_bytes=size_bytes, **options)
    if source_volume:
        fields["source_volume_id"] = source_volume
    if source_snapshot:
        fields["source_snapshot_id"] = source_snapshot
    volume.create = lambda **more: target.controller.CreateVolume(**{**fields, **more})
    volume.made = volume.create().volume
    return volume


def content(volume, blocks):
    """Blocks of a volume that nobody else uses."""
    attachment = volume.attach("reader")
    with ready(attachment) as session:
        data = {block: read(session, block) for block in blocks}
    volume.detach("reader")
    return data


# ---- snapshots ----


def life(target):
    volume = Volume(target)
    with ready(volume.attach()) as session:
        for number, pattern in enumerate(PATTERNS):
            write(session, number * 100, pattern)
        before = time.time_ns()
        snapshot = Snapshot(volume)
        got = snapshot.get()
        assert before - 10**9 < got.created_unix_ns < time.time_ns() + 10**9, "when it was made"
        expect((got.name, got.source_volume_id, got.size_bytes, got.block_size_bytes, got.progress_percent),
               (snapshot.name, volume.id, 16 * MIB, 4096, 100), "what it says of itself")
        assert got.used_bytes >= 26 * 4096, f"it uses {got.used_bytes} bytes"
        for number in range(26):
            write(session, number * 100, b"z" * 4096)
    expect(snapshot.create().snapshot_id, snapshot.id, "a repeat")
    old = copy_of(target, 16 * MIB, source_snapshot=snapshot.id)
    expect(content(old, [number * 100 for number in range(26)]), {number * 100: PATTERNS[number] for number in range(26)},
           "a volume of the snapshot")
    expect(old.made.source_snapshot_id, snapshot.id, "its source")
    expect(old.made.content, 3, "it is data from its birth")
    volume.detach()
    target.controller.DeleteVolume(volume_id=volume.id)
    expect(snapshot.create().ready, True, "a repeat after the source was deleted")
    expect(status_of(target.controller.CreateSnapshot, snapshot_id=snapshot.id, name="another", source_volume_id=volume.id),
           "ALREADY_EXISTS", "the same with another name")
    target.kill()
    target.start()
    expect(snapshot.get().ready, True, "it is there after a restart")
    again = copy_of(target, 64 * MIB, source_snapshot=snapshot.id)
    expect(content(again, [2500, 16383]), {2500: PATTERNS[25], 16383: b"\0" * 4096}, "a larger volume of it")
    expect(status_of(snapshot.delete), "OK", "its deletion")
    expect(status_of(snapshot.delete), "OK", "its repeat")
    expect(status_of(snapshot.get), "NOT_FOUND", "what was deleted")
    expect(content(again, [0]), {0: PATTERNS[0]}, "the volume after its snapshot was deleted")
    expect(again.create().volume.volume_id, again.id, "a repeat of the copy after its source was deleted")


def errors(target):
    c, volume, other = target.controller, Volume(target), Volume(target)
    snapshot = Snapshot(volume)
    mine = f"{target.server_id}.s-{secrets.token_hex(8)}"
    fields = dict(snapshot_id=mine, name="unclaimed", source_volume_id=volume.id)
    expect(status_of(c.CreateSnapshot, **fields), "ABORTED", "a name that nobody claimed")
    expect(status_of(c.CreateSnapshot, **{**fields, "snapshot_id": "x"}), "INVALID_ARGUMENT", "no id")
    expect(status_of(c.CreateSnapshot, **{**fields, "snapshot_id": volume.id}), "INVALID_ARGUMENT", "a volume's id")
    expect(status_of(c.CreateSnapshot, **{**fields, "snapshot_id": f"store-9.s-{'2' * 16}"}), "INVALID_ARGUMENT",
           "another server's id")
    expect(status_of(c.CreateSnapshot, **{**fields, "name": ""}), "INVALID_ARGUMENT", "no name")
    expect(status_of(c.CreateSnapshot, **{**fields, "source_volume_id": f"{target.server_id}.{'1' * 16}"}), "NOT_FOUND",
           "no source")
    expect(status_of(c.CreateSnapshot, **{**fields, "group_id": f"g-{'1' * 16}"}), "INVALID_ARGUMENT", "a group without a hold")
    expect(status_of(c.CreateSnapshot, snapshot_id=snapshot.id, name=snapshot.name, source_volume_id=other.id),
           "ALREADY_EXISTS", "the same snapshot of another volume")
    expect(c.ClaimName(name=volume.name, volume_id=mine, kind=1).volume_id, mine, "a volume's name for a snapshot")
    expect(c.ClaimName(name=snapshot.name, volume_id=mine, kind=1).volume_id, snapshot.id, "whose claim stands")
    expect(status_of(c.ClaimName, name="x", volume_id=volume.id, kind=1), "INVALID_ARGUMENT", "a claim for what is no snapshot")
    expect(status_of(c.ClaimName, name="x", volume_id=volume.id, kind=9), "INVALID_ARGUMENT", "a kind that is not known")
    expect(status_of(c.ReleaseName, name=snapshot.name, volume_id=snapshot.id, kind=1), "FAILED_PRECONDITION",
           "the release of a name in use")
    expect(status_of(c.GetSnapshot, snapshot_id="x"), "INVALID_ARGUMENT", "GetSnapshot of no id")
    expect(status_of(c.GetSnapshot, snapshot_id=mine), "NOT_FOUND", "GetSnapshot of none")
    expect(status_of(c.DeleteSnapshot, snapshot_id=mine), "OK", "DeleteSnapshot of none")
    expect(status_of(c.DeleteSnapshot, snapshot_id=volume.id), "INVALID_ARGUMENT", "DeleteSnapshot of a volume")
    expect(status_of(target.operator.GetSnapshot, snapshot_id=snapshot.id), "OK", "GetSnapshot by an operator")
    expect(status_of(target.node("n1").GetSnapshot, snapshot_id=snapshot.id), "PERMISSION_DENIED", "GetSnapshot by a node")
    snapshot.delete()
    expect(status_of(c.ReleaseName, name=snapshot.name, volume_id=snapshot.id, kind=1), "OK", "the release afterwards")


def lists(target):
    volumes = [Volume(target) for _ in range(3)]
    snapshots = sorted((Snapshot(volume) for volume in volumes for _ in range(4)), key=lambda snapshot: snapshot.id)
    expect(target.controller.GetServer().snapshots_count >= 12, True, "the server's count of snapshots")
    listed, after = [], ""
    while True:
        page = target.controller.ListSnapshots(after_snapshot_id=after, max_entries=5)
        listed += [entry.snapshot_id for entry in page.snapshots]
        if not page.more:
            break
        expect(len(page.snapshots), 5, "a page that is not the last")
        after = listed[-1]
    wanted = [snapshot.id for snapshot in snapshots]
    expect([one for one in listed if one in wanted], wanted, "all, in the order of their ids")
    expect(listed, sorted(set(listed)), "each once")
    of_one = target.controller.ListSnapshots(source_volume_id=volumes[1].id, max_entries=3)
    expect((len(of_one.snapshots), of_one.more), (3, True), "a page of those of one volume")
    rest = target.operator.ListSnapshots(source_volume_id=volumes[1].id, after_snapshot_id=of_one.snapshots[-1].snapshot_id)
    expect((len(rest.snapshots), rest.more), (1, False), "the rest of them")
    expect({entry.source_volume_id for entry in [*of_one.snapshots, *rest.snapshots]}, {volumes[1].id}, "their source")
    for snapshot in snapshots:
        snapshot.delete()


def beside_writes(target):
    """Cuts while two volumes' writers go on: each snapshot has every write that was answered before it was asked for, and
    none that was sent after the answer."""
    volume = Volume(target, 32 * MIB)
    session = ready(volume.attach())
    sent, answered, stop = [0], [0], threading.Event()

    def writer():
        while not stop.is_set():
            sent[0] += 1
            write(session, sent[0] % 64 * 100, sent[0].to_bytes(8, "big") * 512)
            answered[0] = sent[0]

    thread = threading.Thread(target=writer)
    thread.start()
    harness.wait_until(lambda: answered[0] > 100, "writes")
    cuts = []
    for _ in range(4):
        before = answered[0]
        snapshot = Snapshot(volume, wait=False)
        cuts.append((before, sent[0], snapshot))
    stop.set()
    thread.join()
    for before, after, snapshot in cuts:
        snapshot.wait()
        copy = copy_of(target, 32 * MIB, source_snapshot=snapshot.id)
        newest = max(int.from_bytes(data[:8], "big") for data in content(copy, [slot * 100 for slot in range(64)]).values())
        assert before <= newest <= after, f"the newest write is {newest}: {before} were answered before, {after} sent after"
    session.close()


# ---- copies ----


def copies(target):
    c, volume = target.controller, Volume(target)
    with ready(volume.attach()) as session:
        for number, pattern in enumerate(PATTERNS):
            write(session, number * 100, pattern)
        clone = copy_of(target, 16 * MIB, source_volume=volume.id)
        write(session, 0, b"later" * 819 + b"l")
    expect(clone.made.source_volume_id, volume.id, "a clone's source")
    expect(content(clone, [0, 2500]), {0: PATTERNS[0], 2500: PATTERNS[25]}, "a clone's bytes")
    expect(clone.create().volume.volume_id, clone.id, "a repeat")
    expect(status_of(clone.create, size_bytes=32 * MIB), "ALREADY_EXISTS", "a repeat with another size")
    expect(status_of(clone.create, source_volume_id=clone.id), "ALREADY_EXISTS", "a repeat with another source")
    other = copy_of(target, 16 * MIB, source_volume=clone.id)
    expect(content(other, [100]), {100: PATTERNS[1]}, "a clone of a clone")
    target.controller.DeleteVolume(volume_id=clone.id)
    expect(content(other, [100]), {100: PATTERNS[1]}, "it, after its source was deleted")
    expect(status_of(copy_of, target, MIB, source_volume=volume.id), "OUT_OF_RANGE", "a copy smaller than its source")
    absent = f"{target.server_id}.{'1' * 16}"
    expect(status_of(copy_of, target, 16 * MIB, source_volume=absent), "NOT_FOUND", "a copy of a volume that is not there")
    expect(status_of(copy_of, target, 16 * MIB, source_snapshot=f"{target.server_id}.s-{'1' * 16}"), "NOT_FOUND",
           "a copy of a snapshot that is not there")
    snapshot = Snapshot(volume)
    expect(status_of(copy_of, target, 16 * MIB, volume.id, snapshot.id), "INVALID_ARGUMENT", "two sources")
    expect(status_of(copy_of, target, 16 * MIB, source_volume="store-9." + "1" * 16), "INVALID_ARGUMENT", "another server's")
    name = f"unclaimed-{secrets.token_hex(4)}"
    expect(status_of(c.CreateVolume, volume_id=absent, name=name, size_bytes=16 * MIB, source_volume_id=volume.id), "ABORTED",
           "a copy under a name that nobody claimed")
    volume.detach()


def exclusive(target):
    volume = Volume(target)
    with ready(volume.attach()) as session:
        for number in range(8):
            write(session, number * 256, PATTERNS[number] * 16)
    got = lambda: target.controller.GetVolume(volume_id=volume.id, want_exclusive=True).volume
    alone = got().exclusive_bytes
    assert 0 < alone <= got().used_bytes, f"{alone} bytes are its own, {got().used_bytes} it uses"
    snapshot = Snapshot(volume)
    shared = got()
    assert shared.exclusive_bytes < alone, f"{shared.exclusive_bytes} bytes are its own beside a snapshot, {alone} before"
    expect(snapshot.get(want_exclusive=True).exclusive_bytes <= snapshot.get().used_bytes, True, "a snapshot's own bytes")
    snapshot.delete()
    harness.wait_until(lambda: got().exclusive_bytes == alone, "all is its own again, once XFS has freed the snapshot's part")
    expect(target.controller.GetVolume(volume_id=volume.id).volume.exclusive_bytes, 0, "what nobody asked for")
    volume.detach()


def scattered(volume, count):
    """Writes all over it, so that a copy takes its time."""
    with ready(volume.attach()) as session:
        tags = []
        for number in range(count):
            tags.append(session.write(number * 2, PATTERNS[number % 26]))
            if len(tags) == 64:
                expect({session.wait(tag)[0] for tag in tags}, {0}, "writes")
                tags = []
        for tag in tags:
            session.wait(tag)
    volume.detach()


def joined(target):
    """Many calls for one copy: it is made once, those who cannot wait are told how far it is, and it goes on when they leave."""
    volume = Volume(target, 64 * MIB)
    scattered(volume, 3000)
    made = copy_of(target, 64 * MIB, source_volume=volume.id)
    fresh = Volume.__new__(Volume)
    fresh.id = f"{target.server_id}.{secrets.token_hex(8)}"
    name = f"joined-{fresh.id[-16:]}"
    target.controller.ClaimName(name=name, volume_id=fresh.id)
    statuses = []
    create = lambda timeout_s: statuses.append(status_of(
        target.controller.CreateVolume, volume_id=fresh.id, name=name, size_bytes=64 * MIB, source_volume_id=volume.id,
        timeout_s=timeout_s))
    calls = [threading.Thread(target=create, args=(30,)) for _ in range(20)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert set(statuses) <= {"OK", "ABORTED"}, statuses
    harness.wait_until(lambda: status_of(target.controller.GetVolume, volume_id=fresh.id) == "OK", "the copy")
    expect(target.controller.CreateVolume(volume_id=fresh.id, name=name, size_bytes=64 * MIB,
                                          source_volume_id=volume.id).volume.volume_id, fresh.id, "a repeat")
    ids = [entry.volume_id for entry in target.controller.ListVolumes().volumes]
    expect(ids.count(fresh.id), 1, "how often it is there")
    expect(made.made.size_bytes, 64 * MIB, "the other copy")


def frozen_copy(target, pool, volume):
    """The fields of a CreateVolume whose copying was caught half-way by a freeze of the pool, and its first caller."""
    for delay_ms in range(0, 400, 4):
        copy_id = f"{target.server_id}.{secrets.token_hex(8)}"
        fields = dict(volume_id=copy_id, name=f"stuck-{copy_id[-16:]}", size_bytes=64 * MIB, source_volume_id=volume.id)
        target.controller.ClaimName(name=fields["name"], volume_id=copy_id)
        first = threading.Thread(target=lambda: status_of(target.controller.CreateVolume, timeout_s=60, **fields))
        first.start()
        time.sleep(delay_ms / 1000)
        harness.run("/usr/sbin/fsfreeze", "--freeze", pool.path)
        if status_of(target.controller.GetVolume, volume_id=copy_id) == "NOT_FOUND" and \
                status_of(target.controller.CreateVolume, timeout_s=1, **fields) == "ABORTED":
            return fields, first
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", pool.path)
        first.join()
        target.controller.DeleteVolume(volume_id=copy_id)
    raise harness.Skip("no copy was caught half-way")


def stuck(target, pool):
    """A copy that cannot go on: callers are told by their deadline how far it is, few of them wait, its name stays, and other
    calls are served."""
    c, volume, other = target.controller, Volume(target, 64 * MIB), Volume(target)
    scattered(volume, 3000)
    operator, node = target.operator, other.attach("n5")
    with ready(node) as session:
        read(session, 0)
    fields, first = frozen_copy(target, pool, volume)
    copy_id, statuses = fields["volume_id"], []
    try:
        calls = [threading.Thread(target=lambda: statuses.append(status_of(c.CreateVolume, timeout_s=60, **fields)))
                 for _ in range(10)]
        for one in calls:
            one.start()
        harness.wait_until(lambda: len(statuses) >= 4, "the answers to those that may not wait")
        expect(set(statuses), {"ABORTED"}, "what they say")
        expect(status_of(c.ReleaseName, name=fields["name"], volume_id=copy_id), "FAILED_PRECONDITION",
               "the release of its name meanwhile")
        expect(status_of(c.GetVolume, volume_id=copy_id), "NOT_FOUND", "what is not made yet")
        expect(status_of(operator.GetVolume, volume_id=volume.id), "OK", "GetVolume of its source")
        with ready(node) as session:
            read(session, 0)
    finally:
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", pool.path)
    for one in [first, *calls]:
        one.join()
    expect(set(statuses), {"ABORTED", "OK"}, "what those say who waited")
    expect(status_of(c.CreateVolume, **fields), "OK", "a repeat")


def repeats(target, pool):
    """Of a call that the disk keeps: they are told so, and take no thread of the others for good."""
    volume, statuses = Volume(target), []
    snapshot_id = f"{target.server_id}.s-{secrets.token_hex(8)}"
    name = f"kept-{snapshot_id[-16:]}"
    target.controller.ClaimName(name=name, volume_id=snapshot_id, kind=1)
    calls = [threading.Thread(target=lambda: statuses.append(status_of(
        target.controller.CreateSnapshot, snapshot_id=snapshot_id, name=name, source_volume_id=volume.id, timeout_s=60)))
        for _ in range(30)]
    harness.run("/usr/sbin/fsfreeze", "--freeze", pool.path)
    try:
        for one in calls:
            one.start()
        harness.wait_until(lambda: len(statuses) == 29, "the answers to all but the one that the disk keeps")
        expect(set(statuses), {"ABORTED"}, "what they say")
    finally:
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", pool.path)
    for one in calls:
        one.join()
    expect(sorted(statuses)[-1], "OK", "the one that waited")


def deletions(target):
    """Sources and copies are deleted at any moment: nothing is left, and names can be released."""
    c, rng = target.controller, random.Random(7)
    volume = Volume(target, 32 * MIB)
    scattered(volume, 2000)
    for round_number in range(6):
        snapshot = Snapshot(volume, wait=False)
        if round_number % 2:
            snapshot.wait()
            threads = []
            copy_id = f"{target.server_id}.{secrets.token_hex(8)}"
            name = f"gone-{copy_id[-16:]}"
            c.ClaimName(name=name, volume_id=copy_id)
            threads.append(threading.Thread(target=lambda: status_of(
                c.CreateVolume, volume_id=copy_id, name=name, size_bytes=32 * MIB, source_snapshot_id=snapshot.id)))
            for thread in threads:
                thread.start()
            time.sleep(rng.random() / 50)
            status = status_of(c.DeleteSnapshot, snapshot_id=snapshot.id)
            assert status in ("OK", "FAILED_PRECONDITION"), status
            expect(status_of(c.DeleteVolume, volume_id=copy_id), "OK", "the deletion of what is being made")
            for thread in threads:
                thread.join()
            expect(status_of(c.DeleteVolume, volume_id=copy_id), "OK", "the deletion of what was made")
            expect(status_of(c.ReleaseName, name=name, volume_id=copy_id), "OK", "the release of its name")
        expect(status_of(snapshot.delete), "OK", "the snapshot's deletion")
        expect(status_of(c.ReleaseName, name=snapshot.name, volume_id=snapshot.id, kind=1), "OK", "the release of its name")
    snapshot = Snapshot(volume, wait=False)
    expect(status_of(c.DeleteVolume, volume_id=volume.id), "OK", "the deletion of a volume that is being copied")
    snapshot.wait()
    copy = copy_of(target, 32 * MIB, source_snapshot=snapshot.id)
    expect(content(copy, [0, 2]), {0: PATTERNS[0], 2: PATTERNS[1]}, "what was made of it")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        pool = harness.Pool(scratch, size="2GiB")
        target = harness.Target(scratch, tls, pool, loops=3)
        features = set(target.controller.GetServer().features)
        expect({"snapshots", "group-snapshots"} <= features, True, f"features {features}")
        for name, function in (("life", life), ("errors", errors), ("lists", lists), ("beside-writes", beside_writes),
                               ("copies", copies), ("exclusive", exclusive), ("joined", joined), ("deletions", deletions)):
            suite.run(name, function, target)
        suite.run("stuck", stuck, target, pool)
        suite.run("repeats", repeats, target, pool)
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
