#!/usr/bin/python3
"""Snapshots, clones, group snapshots and changed ranges, as a CO sees them: CSI's calls and each row of their error
tables, by two controllers over real storage servers (root is needed for their pools)."""
import random
import sys
import threading
import time

import controller_stack
import harness
from controller_stack import MIB, equal, needs, settle, status

MISSING_VOLUME, MISSING = "s1.00000000000000ff", "s1.s-00000000000000ff"
BLOCK = 65536


class Writer:
    """A session of node-a that writes whole blocks of 64 KiB and reads them back."""

    def __init__(self, stack, volume_id):
        self.stack, self.volume_id = stack, volume_id
        stack.a.csi.publish(volume_id, "node-a")
        self.initiator = stack.session(volume_id, "node-a")

    def write(self, block, byte):
        self._run(self.initiator.write(block * BLOCK // 4096, bytes([byte]) * BLOCK))

    def read(self, block):
        return self._run(self.initiator.read(block * BLOCK // 4096, BLOCK // 4096))

    def _run(self, tag):
        code, data, sense = self.initiator.wait(tag)
        equal(code, 0, f"SCSI status, sense {sense.hex()}")
        return data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.initiator.close()
        self.stack.a.csi.ControllerUnpublishVolume(volume_id=self.volume_id, node_id="node-a")


def expect_bytes(stack, volume_id, blocks):
    """{block: byte} of a volume's blocks."""
    with Writer(stack, volume_id) as reader:
        for block, byte in blocks.items():
            equal(reader.read(block) == bytes([byte]) * BLOCK, True, f"block {block} of {volume_id} has {byte}")


def snap(csi, name, volume_id, **fields):
    return csi.CreateSnapshot(name=name, source_volume_id=volume_id, **fields).snapshot


# ---- CreateSnapshot, DeleteSnapshot, GetSnapshot ----


def test_refused(stack):
    csi = stack.a.csi
    volume_id = csi.create("refused").volume_id
    status("INVALID_ARGUMENT", snap, csi, "", volume_id, contains="name")
    status("INVALID_ARGUMENT", snap, csi, "x", "", contains="source_volume_id")
    status("INVALID_ARGUMENT", snap, csi, "x" * 129, volume_id, contains="128")
    status("INVALID_ARGUMENT", snap, csi, "a\x07b", volume_id, contains="control")
    status("INVALID_ARGUMENT", snap, csi, "x", volume_id, parameters={"copies": "2"}, contains='"copies"')
    status("INVALID_ARGUMENT", snap, csi, "x", volume_id, accessibility_requirements={})
    status("NOT_FOUND", snap, csi, "x", "not-ours")
    status("INVALID_ARGUMENT", csi.DeleteSnapshot, contains="snapshot_id")
    status("INVALID_ARGUMENT", csi.DeleteSnapshot, snapshot_id="s" * 129)
    status("INVALID_ARGUMENT", csi.GetSnapshot, contains="snapshot_id")
    status("NOT_FOUND", csi.GetSnapshot, snapshot_id="not-ours")
    status("NOT_FOUND", csi.GetSnapshot, snapshot_id=MISSING)
    status("OK", csi.DeleteSnapshot, snapshot_id="not-ours")
    status("OK", csi.DeleteSnapshot, snapshot_id=MISSING)
    status("UNAVAILABLE", csi.GetSnapshot, snapshot_id="s9.s-00000000000000ff", contains="s9")
    status("UNAVAILABLE", csi.DeleteSnapshot, snapshot_id="s9.s-00000000000000ff", contains="s9")
    status("INVALID_ARGUMENT", csi.ListSnapshots, max_entries=-1)
    status("ABORTED", csi.ListSnapshots, starting_token="wrong")
    status("ABORTED", csi.ListSnapshots, starting_token=f"v1:{MISSING_VOLUME}")


def test_create(stack):
    needs(stack, "snapshots")
    csi = stack.a.csi
    volume = csi.create("create", size=4 * MIB, parameters={"zone": "a"})
    status("NOT_FOUND", snap, csi, "first", MISSING_VOLUME)
    before = time.time()
    one = snap(csi, "first", volume.volume_id, parameters={"csi.storage.k8s.io/volumesnapshot/name": "p"})
    equal((one.size_bytes, one.source_volume_id, one.ready_to_use, one.group_snapshot_id),
          (4 * MIB, volume.volume_id, True, ""), "the snapshot")
    assert before - 2 < one.creation_time.seconds < time.time() + 2, "creation_time"
    equal([dict(each.segments) for each in one.accessible_topology], [{"zone": "a"}], "accessible_topology")
    equal(snap(stack.b.csi, "first", volume.volume_id), one, "a repeat")
    equal(csi.GetSnapshot(snapshot_id=one.snapshot_id).snapshot, one, "GetSnapshot")
    status("FAILED_PRECONDITION", stack.targets[0].controller.DeleteSnapshot, snapshot_id=one.snapshot_id,
           provisional_only=True, contains="provisional")
    other = csi.create("other").volume_id
    status("ALREADY_EXISTS", snap, csi, "first", other, contains=one.snapshot_id)
    equal({stack.claim_of(target, "first", "NAME_SNAPSHOT") for target in stack.targets}, {one.snapshot_id}, "claims")
    csi.DeleteVolume(volume_id=volume.volume_id)
    equal(csi.GetSnapshot(snapshot_id=one.snapshot_id).snapshot.snapshot_id, one.snapshot_id, "outlives its volume")
    equal(snap(csi, "first", volume.volume_id).snapshot_id, one.snapshot_id, "a repeat without its volume")
    csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    equal({stack.claim_of(target, "first", "NAME_SNAPSHOT") for target in stack.targets}, {None}, "claims")
    status("NOT_FOUND", csi.GetSnapshot, snapshot_id=one.snapshot_id)


def test_create_topology(stack):
    needs(stack, "snapshots")
    csi = stack.a.csi
    volume_id = csi.create("topology", parameters={"zone": "b"}).volume_id
    status("RESOURCE_EXHAUSTED", snap, csi, "x", volume_id, contains="s2",
           accessibility_requirements={"requisite": [{"segments": {"zone": "a"}}]})
    equal(stack.claim_of(stack.targets[0], "x", "NAME_SNAPSHOT"), None, "a claim that was left")
    one = snap(csi, "placed", volume_id, accessibility_requirements={"requisite": [{"segments": {"zone": "b"}}]})
    csi.DeleteSnapshot(snapshot_id=one.snapshot_id)


def test_restore(stack):
    """Under writes: the bytes of that moment, also in a larger volume; then all of it deleted in any order."""
    needs(stack, "snapshots")
    csi = stack.a.csi
    volume_id = csi.create("restore", size=4 * MIB).volume_id
    with Writer(stack, volume_id) as writer:
        writer.write(0, 1)
        writer.write(9, 1)
        one = snap(csi, "restore", volume_id)
        writer.write(0, 2)
        writer.write(5, 2)
    restored = csi.create("restored", size=6 * MIB, volume_content_source={"snapshot": {"snapshot_id": one.snapshot_id}})
    equal(restored.capacity_bytes, 6 * MIB, "larger")
    equal(restored.content_source.snapshot.snapshot_id, one.snapshot_id, "content_source")
    expect_bytes(stack, restored.volume_id, {0: 1, 5: 0, 9: 1, 90: 0})
    clone = csi.create("clone", size=4 * MIB, volume_content_source={"volume": {"volume_id": volume_id}})
    equal(clone.content_source.volume.volume_id, volume_id, "content_source")
    equal(csi.ControllerGetVolume(volume_id=clone.volume_id).volume, clone, "as it was created")
    csi.DeleteVolume(volume_id=volume_id)
    csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    expect_bytes(stack, clone.volume_id, {0: 2, 5: 2, 9: 1})
    expect_bytes(stack, restored.volume_id, {0: 1, 9: 1})
    for made in (clone, restored):
        csi.DeleteVolume(volume_id=made.volume_id)


def source(volume_id=None, snapshot_id=None):
    return {"volume_content_source": {"volume": {"volume_id": volume_id}} if volume_id else
            {"snapshot": {"snapshot_id": snapshot_id}}}


def test_source_refused(stack):
    csi = stack.a.csi
    volume_id = csi.create("source-refused", size=4 * MIB, parameters={"zone": "b", "fsType": "xfs"}).volume_id
    status("INVALID_ARGUMENT", csi.create, "x", volume_content_source={})
    status("INVALID_ARGUMENT", csi.create, "x", volume_content_source={"volume": {}}, contains="volume_id")
    status("INVALID_ARGUMENT", csi.create, "x", volume_content_source={"snapshot": {}}, contains="snapshot_id")
    for fields in (source(volume_id=MISSING_VOLUME), source(volume_id="not-ours"), source(snapshot_id=MISSING),
                   source(snapshot_id="not-ours")):
        status("NOT_FOUND", csi.create, "x", **fields)
    status("OUT_OF_RANGE", csi.create, "x", size=3 * MIB, contains="smaller", **source(volume_id=volume_id))
    status("OUT_OF_RANGE", csi.create, "x", capacity_range={"limit_bytes": 3 * MIB}, **source(volume_id=volume_id))
    status("INVALID_ARGUMENT", csi.create, "x", size=4 * MIB, parameters={"blockSize": "512"}, contains="blockSize",
           **source(volume_id=volume_id))
    status("INVALID_ARGUMENT", csi.create, "x", size=4 * MIB, parameters={"fsType": "ext4"}, contains="xfs",
           **source(volume_id=volume_id))
    status("RESOURCE_EXHAUSTED", csi.create, "x", size=4 * MIB, contains="s2", accessibility_requirements={
        "requisite": [{"segments": {"zone": "a"}}]}, **source(volume_id=volume_id))
    for target in stack.targets:
        equal(stack.claim_of(target, "x"), None, "a claim that was left")


def test_source_repeat(stack):
    needs(stack, "snapshots")
    csi = stack.a.csi
    volume_id = csi.create("source", size=4 * MIB, parameters={"zone": "b"}).volume_id
    one = snap(csi, "source", volume_id)
    made = csi.create("made", size=4 * MIB, **source(snapshot_id=one.snapshot_id))
    equal(made.volume_id.split(".")[0], "s2", "beside its source")
    equal(stack.b.csi.create("made", size=4 * MIB, **source(snapshot_id=one.snapshot_id)), made, "a repeat")
    status("ALREADY_EXISTS", csi.create, "made", size=4 * MIB, **source(volume_id=volume_id))
    status("ALREADY_EXISTS", csi.create, "made", size=4 * MIB)
    csi.create("plain", size=4 * MIB, parameters={"zone": "b"})
    status("ALREADY_EXISTS", csi.create, "plain", size=4 * MIB, **source(volume_id=volume_id))
    equal(csi.create("no-range", capacity_range=None, **source(volume_id=volume_id)).capacity_bytes, 4 * MIB, "its size")
    csi.ControllerExpandVolume(volume_id=volume_id, capacity_range={"required_bytes": 8 * MIB})
    equal(csi.create("no-range", size=4 * MIB, **source(volume_id=volume_id)).capacity_bytes, 4 * MIB,
          "a repeat after its source has grown")
    status("OUT_OF_RANGE", csi.create, "smaller", size=4 * MIB, **source(volume_id=volume_id))
    equal([stack.claim_of(target, "smaller") for target in stack.targets], [None] * len(stack.targets), "claims that are left")
    csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    equal(csi.create("made", size=4 * MIB, **source(snapshot_id=one.snapshot_id)).volume_id, made.volume_id,
          "a repeat after its source went")


# ---- ListSnapshots ----


def test_list(stack):
    needs(stack, "snapshots")
    csi = stack.a.csi
    volumes = [csi.create(f"list-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    made = [snap(csi, f"list-{i}", volumes[i % 2]).snapshot_id for i in range(6)]
    ids = [one.snapshot.snapshot_id for one in csi.ListSnapshots().entries]
    assert set(made) <= set(ids), "all that were made"
    on_servers = {one.snapshot_id for target in stack.targets for one in stack.snapshots(target)}
    equal(set(ids), on_servers, "what the servers have")
    for max_entries in (1, 2, 5, len(ids)):
        token, pages = "", []
        while True:
            page = csi.ListSnapshots(max_entries=max_entries, starting_token=token)
            assert 0 < len(page.entries) <= max_entries, "a page's entries"
            pages += [one.snapshot.snapshot_id for one in page.entries]
            token = page.next_token
            if not token:
                break
        equal(pages, ids, "the pages together")
    equal(sorted(one.snapshot.snapshot_id for one in csi.ListSnapshots(source_volume_id=volumes[1]).entries),
          sorted(made[1::2]), "of one volume")
    equal([one.snapshot.snapshot_id for one in csi.ListSnapshots(snapshot_id=made[0]).entries], made[:1], "by id")
    for nothing in ({"snapshot_id": MISSING}, {"snapshot_id": "not-ours"}, {"source_volume_id": MISSING_VOLUME},
                    {"source_volume_id": "not-ours"}, {"snapshot_id": made[0], "source_volume_id": volumes[1]}):
        equal(len(csi.ListSnapshots(**nothing).entries), 0, f"{nothing}")
    for snapshot_id in made:
        csi.DeleteSnapshot(snapshot_id=snapshot_id)


def test_server_away(stack):
    """What needs an unreachable server is neither OK nor NOT_FOUND nor a list without its entries."""
    needs(stack, "snapshots")
    csi = stack.a.csi
    volumes = [csi.create(f"away-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    one, other = (snap(csi, f"away-{i}", volume_id).snapshot_id for i, volume_id in enumerate(volumes))
    stack.targets[1].kill()
    status("UNAVAILABLE", csi.ListSnapshots, contains="s2")
    status("UNAVAILABLE", csi.ListSnapshots, snapshot_id=other, contains="s2")
    status("UNAVAILABLE", csi.ListSnapshots, source_volume_id=volumes[1], contains="s2")
    equal(len(csi.ListSnapshots(source_volume_id=volumes[0]).entries), 1, "of a volume elsewhere")
    status("UNAVAILABLE", csi.GetSnapshot, snapshot_id=other, contains="s2")
    status("UNAVAILABLE", csi.GetSnapshot, snapshot_id="s2.s-00000000000000ff", contains="s2")
    status("UNAVAILABLE", csi.DeleteSnapshot, snapshot_id="s2.s-00000000000000ff", contains="s2")
    status("UNAVAILABLE", snap, csi, "x", volumes[0], contains="s2")
    stack.targets[1].start()
    for snapshot_id in (one, other):
        settle(csi.DeleteSnapshot, snapshot_id=snapshot_id)


def test_two_controllers(stack):
    """The same names for two volumes from both at once, and deletes in between: never two snapshots of one name."""
    needs(stack, "snapshots")
    seed = harness.seed()
    volumes = [stack.a.csi.create(f"race-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    failures = []

    def client(csi, choice):
        try:
            for _ in range(8):
                name = f"race-{choice.randrange(2)}"
                try:
                    one = settle(snap, csi, name, choice.choice(volumes))
                except Exception as why:  # pylint: disable=broad-except
                    if getattr(why, "code", lambda: None)() is None or why.code().name != "ALREADY_EXISTS":
                        raise
                    continue
                if choice.random() < 0.5:
                    settle(csi.DeleteSnapshot, snapshot_id=one.snapshot_id)
        except Exception as why:  # pylint: disable=broad-except
            failures.append(why)

    threads = [threading.Thread(target=client, args=(csi, random.Random(seed + i)))
               for i, csi in enumerate((stack.a.csi, stack.b.csi, stack.a.csi, stack.b.csi))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    names = [one.name for target in stack.targets for one in stack.snapshots(target) if one.name.startswith("race-")]
    equal(len(names), len(set(names)), f"each name once: {names}")
    for entry in stack.a.csi.ListSnapshots().entries:
        if entry.snapshot.source_volume_id in volumes:
            settle(stack.a.csi.DeleteSnapshot, snapshot_id=entry.snapshot.snapshot_id)
    for name in ("race-0", "race-1"):
        equal({stack.claim_of(target, name, "NAME_SNAPSHOT") for target in stack.targets}, {None}, "claims")


# ---- GroupController ----


def group(csi, name, volume_ids, **fields):
    return csi.CreateVolumeGroupSnapshot(name=name, source_volume_ids=volume_ids, **fields).group_snapshot


def test_group_refused(stack):
    csi = stack.a.csi
    volume_id = csi.create("group-refused").volume_id
    status("INVALID_ARGUMENT", group, csi, "", [volume_id], contains="name")
    status("INVALID_ARGUMENT", group, csi, "x", [], contains="source_volume_ids")
    status("INVALID_ARGUMENT", group, csi, "x", [volume_id, volume_id], contains="twice")
    status("INVALID_ARGUMENT", group, csi, "x", [""])
    status("INVALID_ARGUMENT", group, csi, "x", [f"s1.{number:016x}" for number in range(65)], contains="64 volumes")
    equal(stack.claim_of(stack.targets[0], "x", "NAME_GROUP"), None, "a claim that was left")
    status("INVALID_ARGUMENT", group, csi, "x", [volume_id], parameters={"copies": "2"}, contains='"copies"')
    status("INVALID_ARGUMENT", csi.DeleteVolumeGroupSnapshot, contains="group_snapshot_id")
    status("INVALID_ARGUMENT", csi.GetVolumeGroupSnapshot, contains="group_snapshot_id")
    for group_id in ("not-ours", "g-00000000000000ff"):
        status("NOT_FOUND", csi.GetVolumeGroupSnapshot, group_snapshot_id=group_id, snapshot_ids=[MISSING])
        status("OK", csi.DeleteVolumeGroupSnapshot, group_snapshot_id=group_id, snapshot_ids=[MISSING])


def nothing_left(stack, name):
    equal({stack.claim_of(target, name, "NAME_GROUP") for target in stack.targets}, {None}, "claims")


def test_group(stack):
    """One writer goes over volumes of two servers in turn, each with a counter: no snapshot of a group may have a later
    write without the earlier one."""
    needs(stack, "group-snapshots")
    csi = stack.a.csi
    volumes = [csi.create(f"group-{zone}", size=2 * MIB, parameters={"zone": zone}).volume_id for zone in "ab"]
    stop = threading.Event()
    failures = []

    def write():
        try:
            with Writer(stack, volumes[0]) as first, Writer(stack, volumes[1]) as second:
                count = 0
                while not stop.is_set():
                    count += 1
                    first.write(0, count % 256)
                    second.write(0, count % 256)
        except Exception as why:  # pylint: disable=broad-except
            failures.append(why)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [settle(group, csi, f"group-{i}", volumes) for i in range(4)]
    finally:
        stop.set()
        writer.join()
    if failures:
        raise failures[0]
    for one in made:
        equal(one.ready_to_use, True, "ready")
        equal({each.source_volume_id for each in one.snapshots}, set(volumes), "the members' volumes")
        equal({each.group_snapshot_id for each in one.snapshots}, {one.group_snapshot_id}, "the members' group")
        members = {each.source_volume_id: each.snapshot_id for each in one.snapshots}
        counts = []
        for volume_id in volumes:
            restored = csi.create(f"of-{members[volume_id]}", size=2 * MIB, **source(snapshot_id=members[volume_id]))
            with Writer(stack, restored.volume_id) as reader:
                data = reader.read(0)
            equal(len(set(data)), 1, "a torn block")
            counts.append(data[0])
            csi.DeleteVolume(volume_id=restored.volume_id)
        assert (counts[0] - counts[1]) % 256 in (0, 1), f"not of one moment: {counts}"
    one = made[0]
    ids = [each.snapshot_id for each in one.snapshots]
    equal(group(stack.b.csi, "group-0", list(reversed(volumes))), one, "a repeat")
    status("ALREADY_EXISTS", group, csi, "group-0", volumes[:1])
    equal(csi.GetVolumeGroupSnapshot(group_snapshot_id=one.group_snapshot_id, snapshot_ids=ids).group_snapshot, one, "get")
    listed = {entry.snapshot.snapshot_id for entry in csi.ListSnapshots().entries}
    assert set(ids) <= listed, "members are listed"
    status("INVALID_ARGUMENT", csi.DeleteSnapshot, snapshot_id=ids[0], contains=one.group_snapshot_id)
    for bad in ([], ids[:1], ids + ["not-ours"], ids + [made[1].snapshots[0].snapshot_id]):
        for call in (csi.GetVolumeGroupSnapshot, csi.DeleteVolumeGroupSnapshot):
            status("INVALID_ARGUMENT", call, group_snapshot_id=one.group_snapshot_id, snapshot_ids=bad)
    for each in made:
        fields = {"group_snapshot_id": each.group_snapshot_id, "snapshot_ids": [one.snapshot_id for one in each.snapshots]}
        csi.DeleteVolumeGroupSnapshot(**fields)
        csi.DeleteVolumeGroupSnapshot(**fields)
        status("NOT_FOUND", csi.GetVolumeGroupSnapshot, **fields)
    for i in range(4):
        nothing_left(stack, f"group-{i}")


def test_group_fails_whole(stack):
    """A volume that is not there, and a server that is not there."""
    needs(stack, "group-snapshots")
    csi = stack.a.csi
    volumes = [csi.create(f"whole-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    status("NOT_FOUND", group, csi, "whole", [volumes[0], "s2.00000000000000ff"])
    status("NOT_FOUND", group, csi, "whole", [volumes[0], "not-ours"])
    nothing_left(stack, "whole")
    stack.targets[1].kill()
    status("UNAVAILABLE", group, csi, "whole", volumes, contains="s2")
    stack.targets[1].start()
    equal([one for target in stack.targets for one in stack.snapshots(target) if one.source_volume_id in volumes], [],
          "members that were left")
    with Writer(stack, volumes[0]) as writer:
        writer.write(0, 1)  # nothing is held
    one = settle(group, csi, "whole", volumes)
    csi.DeleteVolumeGroupSnapshot(group_snapshot_id=one.group_snapshot_id,
                                  snapshot_ids=[each.snapshot_id for each in one.snapshots])


def test_group_two_controllers(stack):
    """One name from both controllers at once: one whole group, the same for both, and nothing else is left."""
    needs(stack, "group-snapshots")
    volumes = [stack.a.csi.create(f"both-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    for i in range(4):
        made, failures = [], []

        def client(csi, name):
            try:
                made.append(settle(group, csi, name, volumes))  # pylint: disable=cell-var-from-loop
            except Exception as why:  # pylint: disable=broad-except
                failures.append(why)  # pylint: disable=cell-var-from-loop

        threads = [threading.Thread(target=client, args=(one.csi, f"both-{i}")) for one in (stack.a, stack.b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        last = settle(group, stack.a.csi, f"both-{i}", volumes)
        standing = {each.snapshot_id for target in stack.targets for each in stack.snapshots(target)
                    if each.source_volume_id in volumes}
        equal(standing, {each.snapshot_id for each in last.snapshots}, "what the servers have")
        equal({each.source_volume_id for each in last.snapshots}, set(volumes), "the members' volumes")
        equal([one.group_snapshot_id for one in made], [last.group_snapshot_id] * 2, "one group")
        settle(stack.b.csi.DeleteVolumeGroupSnapshot, group_snapshot_id=last.group_snapshot_id,
               snapshot_ids=sorted(standing))
        nothing_left(stack, f"both-{i}")


def group_survives(stack, prefix, kill, restore):
    """Kill something anywhere in CreateVolumeGroupSnapshot: a repeat by the other controller comes to one whole group."""
    choice = random.Random(harness.seed())
    volumes = [stack.b.csi.create(f"{prefix}-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
    for i in range(3):
        call = threading.Thread(target=harness.status_of, args=(group, stack.a.csi, f"{prefix}-{i}", volumes))
        call.start()
        time.sleep(choice.random() * 0.08)  # anywhere in the call; which place decides nothing
        kill()
        call.join()
        restore()
        one = settle(group, stack.b.csi, f"{prefix}-{i}", volumes)
        members = {each.snapshot_id for each in one.snapshots}
        standing = {each.snapshot_id for target in stack.targets
                    for each in stack.snapshots(target, group_id=one.group_snapshot_id)}
        equal(standing, members, "what the servers have of the group")
        equal({each.source_volume_id for each in one.snapshots}, set(volumes), "the members' volumes")
        equal(one.ready_to_use, True, "ready")
        settle(stack.b.csi.DeleteVolumeGroupSnapshot, group_snapshot_id=one.group_snapshot_id,
               snapshot_ids=sorted(members))
        nothing_left(stack, f"{prefix}-{i}")


def test_group_controller_killed(stack):
    needs(stack, "group-snapshots")
    group_survives(stack, "killed", stack.a.kill, stack.a.start)


def test_group_server_killed(stack):
    needs(stack, "group-snapshots")
    group_survives(stack, "lost", stack.targets[1].kill, stack.targets[1].start)


# ---- SnapshotMetadata ----


def tuples(answers):
    return [(one.byte_offset, one.size_bytes) for answer in answers for one in answer.block_metadata]


def covers(ranges, offset, length):
    return any(start <= offset and offset + length <= start + size for start, size in ranges)


def test_metadata(stack):
    needs(stack, "extents")
    csi = stack.a.csi
    volume_id = csi.create("metadata", size=16 * MIB).volume_id
    blocks = [0, 3, 70, 71, 150, 255]
    with Writer(stack, volume_id) as writer:
        for block in blocks:
            writer.write(block, 1)
        base = snap(csi, "base", volume_id).snapshot_id
        for block in (3, 100):
            writer.write(block, 2)
        target = snap(csi, "target", volume_id).snapshot_id
    answers = csi.GetMetadataAllocated(snapshot_id=base)
    for answer in answers:
        equal((answer.block_metadata_type, answer.volume_capacity_bytes), (2, 16 * MIB), "VARIABLE_LENGTH, capacity")
    ranges = tuples(answers)
    equal(ranges, sorted(ranges), "in order")
    for first, second in zip(ranges, ranges[1:]):
        assert first[0] + first[1] <= second[0], "apart"
    for block in blocks:
        assert covers(ranges, block * BLOCK, BLOCK), f"block {block} is missing in {ranges}"
    print(f"# allocated: {sum(size for _, size in ranges)} bytes for {len(blocks) * BLOCK}")
    few = csi.GetMetadataAllocated(snapshot_id=base, max_results=1)
    assert all(len(answer.block_metadata) <= 1 for answer in few), "max_results"
    equal(tuples(few), ranges, "the same in other messages")
    for start, size in ranges:  # resumed after each range, and within it
        equal(tuples(csi.GetMetadataAllocated(snapshot_id=base, starting_offset=start + size)),
              [one for one in ranges if one[0] >= start + size], "resumed")
        within = tuples(csi.GetMetadataAllocated(snapshot_id=base, starting_offset=start + 1))
        assert within and within[0][0] + within[0][1] > start + 1, "not before the offset"
        assert covers(within, start + 1, size - 1), "nothing of it is missed"
    equal(tuples(csi.GetMetadataAllocated(snapshot_id=base, starting_offset=16 * MIB)), [], "at the end")
    changed = tuples(csi.GetMetadataDelta(base_snapshot_id=base, target_snapshot_id=target))
    for block in (3, 100):
        assert covers(changed, block * BLOCK, BLOCK), f"block {block} is missing in {changed}"
    print(f"# changed: {sum(size for _, size in changed)} bytes for {2 * BLOCK}")
    assert sum(size for _, size in changed) < sum(size for _, size in ranges), "not simply everything"


def test_metadata_refused(stack):
    csi = stack.a.csi
    status("INVALID_ARGUMENT", csi.GetMetadataAllocated, contains="snapshot_id")
    status("INVALID_ARGUMENT", csi.GetMetadataAllocated, snapshot_id=MISSING, max_results=-1)
    status("OUT_OF_RANGE", csi.GetMetadataAllocated, snapshot_id=MISSING, starting_offset=-1)
    status("NOT_FOUND", csi.GetMetadataAllocated, snapshot_id=MISSING)
    status("NOT_FOUND", csi.GetMetadataAllocated, snapshot_id="not-ours")
    status("INVALID_ARGUMENT", csi.GetMetadataDelta, target_snapshot_id=MISSING, contains="base_snapshot_id")
    needs(stack, "snapshots")
    volume_id = csi.create("metadata-refused").volume_id
    one, two = snap(csi, "one", volume_id).snapshot_id, snap(csi, "two", volume_id).snapshot_id
    other = snap(csi, "three", csi.create("metadata-other").volume_id).snapshot_id
    status("OUT_OF_RANGE", csi.GetMetadataAllocated, snapshot_id=one, starting_offset=MIB + 1)
    status("INVALID_ARGUMENT", csi.GetMetadataDelta, base_snapshot_id=one, contains="target_snapshot_id")
    status("NOT_FOUND", csi.GetMetadataDelta, base_snapshot_id=one, target_snapshot_id=MISSING)
    status("NOT_FOUND", csi.GetMetadataDelta, base_snapshot_id=MISSING, target_snapshot_id=one)
    status("INVALID_ARGUMENT", csi.GetMetadataDelta, base_snapshot_id=other, target_snapshot_id=one)
    status("INVALID_ARGUMENT", csi.GetMetadataDelta, base_snapshot_id=one, target_snapshot_id=one)
    status("OUT_OF_RANGE", csi.GetMetadataDelta, base_snapshot_id=one, target_snapshot_id=two, starting_offset=MIB + 1)
    status("OUT_OF_RANGE", csi.GetMetadataDelta, base_snapshot_id=one, target_snapshot_id=two, starting_offset=-1)
    needs(stack, "extents")
    status("INVALID_ARGUMENT", csi.GetMetadataDelta, base_snapshot_id=two, target_snapshot_id=one)


TESTS = [test_refused, test_create, test_create_topology, test_restore, test_source_refused, test_source_repeat, test_list,
         test_server_away, test_two_controllers, test_group_refused, test_group, test_group_fails_whole,
         test_group_two_controllers, test_group_controller_killed, test_group_server_killed, test_metadata, test_metadata_refused]


if __name__ == "__main__":
    sys.exit(controller_stack.main("controller_snapshot", TESTS))
