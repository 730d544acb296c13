"""Snapshots, volumes made of snapshots and volumes, groups of snapshots, and the ranges that changed."""
import copy as copy_module
import os
import uuid

from node_fixture import XFS_BYTES
from rules import not_applicable, not_seen, rule
from stack import MIB, ZONE, equal, refused, same_or_aborted

SNAPSHOTS, CLONES = "controller:CREATE_DELETE_SNAPSHOT", "controller:CLONE_VOLUME"
CREATE_ERRORS = "CreateVolume Errors"
MODE = "SINGLE_NODE_MULTI_WRITER"


def name():
    return f"c-{uuid.uuid4().hex[:12]}"


def no_snapshot(stack):
    return [f"{stack.target.server_id}.s-{0:016x}", "another driver's snapshot"]


def sources(stack):
    """CreateVolume's content sources of one volume of 4 MiB."""
    volume_id = stack.kept("source", lambda: stack.create(size=4 * MIB)).volume_id
    snapshot_id = stack.kept("source snapshot", lambda: stack.cut(volume_id)).snapshot_id
    return {"snapshot": {"snapshot": {"snapshot_id": snapshot_id}}, "volume": {"volume": {"volume_id": volume_id}}}


# ---- CreateVolume from a source ----


@rule("CreateVolume.source", "A volume made from a snapshot or a volume says so, and has at least its size.",
      "VolumeContentSource", needs=(SNAPSHOTS, CLONES))
def create_source(stack):
    for kind, source in sources(stack).items():
        fields = {"size": 4 * MIB, "volume_content_source": source}
        text = name()
        volume = stack.csi.create(text, **fields)
        equal(volume.content_source.WhichOneof("type"), kind, "content_source")
        assert volume.capacity_bytes >= 4 * MIB
        equal(stack.csi.create(text, **fields), volume, "the repeat")
        stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("CreateVolume.source-differs",
      "A volume of that name with another source: ALREADY_EXISTS.", CREATE_ERRORS, needs=(SNAPSHOTS, CLONES))
def create_source_differs(stack):
    both = sources(stack)
    volume = stack.csi.create(text := name(), size=4 * MIB, volume_content_source=both["snapshot"])
    for other in ({"volume_content_source": both["volume"]}, {}):
        refused("ALREADY_EXISTS", lambda: stack.csi.create(text, size=4 * MIB, **other))
    stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("CreateVolume.source-absent", "A source that does not exist: NOT_FOUND.", CREATE_ERRORS, needs=(SNAPSHOTS, CLONES))
def create_source_absent(stack):
    for wrong in no_snapshot(stack):
        refused("NOT_FOUND", lambda: stack.csi.create(name(), volume_content_source={"snapshot": {"snapshot_id": wrong}}))
    for wrong in (f"{stack.target.server_id}.{0:016x}", "another driver's volume"):
        refused("NOT_FOUND", lambda: stack.csi.create(name(), volume_content_source={"volume": {"volume_id": wrong}}))


@rule("CreateVolume.source-incompatible", "A source that the parameters do not go with: INVALID_ARGUMENT.", CREATE_ERRORS,
      needs=(SNAPSHOTS, CLONES))
def create_source_incompatible(stack):
    for source in sources(stack).values():
        refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), size=4 * MIB, volume_content_source=source,
                                                             parameters={"blockSize": "512"}))


@rule("CreateVolume.source-smaller",
      "A range that excludes the source's size: OUT_OF_RANGE.", CREATE_ERRORS, needs=(SNAPSHOTS, CLONES))
def create_source_smaller(stack):
    for source in sources(stack).values():
        refused("OUT_OF_RANGE", lambda: stack.csi.create(name(), capacity_range={"limit_bytes": 2 * MIB},
                                                         volume_content_source=source))


@rule("CreateVolume.source-larger",
      "A larger size is honoured: a mounted volume shows the source's files, and all of its size, as soon as it "
      "is published.", needs=(SNAPSHOTS, CLONES))
def create_source_larger(stack):
    volume, node = stack.volume(mode=MODE, fs_type="xfs", size=XFS_BYTES), stack.n1  # ext4: see ext4_grows()
    (node.use(volume) / "file").write_bytes(b"kept" * 1000)
    before = os.statvfs(node.path(volume)).f_blocks
    node.leave(volume)
    snapshot = stack.cut(volume.id)
    for source in ({"snapshot": {"snapshot_id": snapshot.snapshot_id}}, {"volume": {"volume_id": volume.id}}):
        larger = copy_of(stack, volume, source, XFS_BYTES * 3 // 2)
        target = node.use(larger)
        equal((target / "file").read_bytes(), b"kept" * 1000, "the source's file")
        assert os.statvfs(target).f_blocks > before * 5 // 4, "the file system has the source's size"
        node.leave(larger)
        stack.csi.DeleteVolume(volume_id=larger.id)


def copy_of(stack, volume, source, size):
    """As stack.volume(), of a source."""
    copy = copy_module.copy(volume)
    made = stack.csi.create(name(), size=size, volume_capabilities=[volume.capability], volume_content_source=source)
    copy.id, copy.volume_context = made.volume_id, dict(made.volume_context)
    return copy


@rule("CreateVolume.source-content", "The volume has the bytes of its source.", "VolumeContentSource", needs=(SNAPSHOTS, CLONES))
def create_source_content(stack):
    volume, node = stack.volume(block=True, size=4 * MIB), stack.n1
    data = os.urandom(MIB)
    with open(node.use(volume), "r+b", buffering=0) as device:
        device.write(data)
        os.fsync(device)
    snapshot = stack.cut(volume.id)
    with open(node.path(volume), "r+b", buffering=0) as device:
        device.write(bytes(MIB))
        os.fsync(device)
    for source, expected in (({"snapshot": {"snapshot_id": snapshot.snapshot_id}}, data),
                             ({"volume": {"volume_id": volume.id}}, bytes(MIB))):
        copy = copy_of(stack, volume, source, 4 * MIB)
        with open(node.use(copy), "rb") as device:
            assert device.read(MIB) == expected, "other bytes"
        node.leave(copy)
    node.leave(volume)


# ---- CreateSnapshot, DeleteSnapshot, ListSnapshots, GetSnapshot ----


@rule("CreateSnapshot.answer",
      "Size, id, source, time of creation and readiness are given; the time does not change.", "Snapshot")
def snapshot_answer(stack):
    snapshot = stack.snapshot()
    equal((snapshot.source_volume_id, snapshot.size_bytes, snapshot.ready_to_use), (stack.some().volume_id, MIB, True),
          "snapshot")
    assert snapshot.snapshot_id and snapshot.creation_time.seconds > 1500000000 and not snapshot.group_snapshot_id
    equal(stack.csi.GetSnapshot(snapshot_id=snapshot.snapshot_id).snapshot.creation_time, snapshot.creation_time, "creation_time")


@rule("CreateSnapshot.repeat", "A repeat answers the same snapshot and cuts no second one.")
def snapshot_repeat(stack):
    first = stack.cut(stack.some().volume_id, text := name())
    for _ in range(2):
        equal(stack.csi.CreateSnapshot(name=text, source_volume_id=stack.some().volume_id).snapshot, first, "the repeat")
    stack.csi.DeleteSnapshot(snapshot_id=first.snapshot_id)


@rule("CreateSnapshot.at-once", "The same call several times at once: OK with one snapshot, or ABORTED.", "CreateSnapshot Errors")
def snapshot_at_once(stack):
    results = stack.at_once("CreateSnapshot", name=name(), source_volume_id=stack.some().volume_id)
    same_or_aborted(results, key=lambda answer: answer.snapshot.snapshot_id)


@rule("CreateSnapshot.incompatible", "A snapshot of that name of another volume: ALREADY_EXISTS.", "CreateSnapshot Errors")
def snapshot_incompatible(stack):
    stack.cut(stack.some().volume_id, text := name())
    for zone in ("a", "b"):
        other = stack.create(accessibility_requirements={"requisite": [{"segments": {ZONE: zone}}]})
        refused("ALREADY_EXISTS", lambda: stack.csi.CreateSnapshot(name=text, source_volume_id=other.volume_id), text)


@rule("CreateSnapshot.name",
      "Any Unicode name of up to 128 bytes but control characters, which are INVALID_ARGUMENT.", "CreateSnapshotRequest")
def snapshot_name(stack):
    for text in ("n" * 128, "Zürich ✓", "a/../b"):
        snapshot = stack.cut(stack.some().volume_id, text)
        equal(stack.cut(stack.some().volume_id, text).snapshot_id, snapshot.snapshot_id, "the repeat")
        stack.csi.DeleteSnapshot(snapshot_id=snapshot.snapshot_id)
    for code in (0x01, 0x08, 0x0b, 0x1f, 0x7f, 0x9f):
        refused("INVALID_ARGUMENT", lambda: stack.csi.CreateSnapshot(
            name=f"a{chr(code)}", source_volume_id=stack.some().volume_id), "name")


@rule("CreateSnapshot.no-volume", "A source volume that is not there: NOT_FOUND.", "CreateSnapshot Errors")
def snapshot_no_volume(stack):
    for wrong in (f"{stack.target.server_id}.{0:016x}", "another driver's"):
        refused("NOT_FOUND", lambda: stack.csi.CreateSnapshot(name=name(), source_volume_id=wrong))


@rule("CreateSnapshot.parameters", "A parameter that is not known: INVALID_ARGUMENT, which names it.", "CreateSnapshotRequest")
def snapshot_parameters(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.CreateSnapshot(name=name(), source_volume_id=stack.some().volume_id,
                                                                 parameters={"colour": "red"}), "colour")


@rule("CreateSnapshot.topology",
      "A snapshot says from where it can be reached; one that is wanted elsewhere is RESOURCE_EXHAUSTED.",
      "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS", needs=("plugin:SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",))
def snapshot_topology(stack):
    here, there = ({"requisite": [{"segments": {ZONE: zone}}]} for zone in ("a", "b"))
    made = stack.csi.CreateSnapshot(name=name(), source_volume_id=stack.some().volume_id,
                                    accessibility_requirements=here).snapshot
    equal([dict(one.segments) for one in made.accessible_topology], [{ZONE: "a"}], "accessible_topology")
    refused("RESOURCE_EXHAUSTED", lambda: stack.csi.CreateSnapshot(
        name=name(), source_volume_id=stack.some().volume_id, accessibility_requirements=there))


not_seen("CreateSnapshot.no-space", "Not enough space: RESOURCE_EXHAUSTED.",
         "a cut copies no bytes; a pool that fills is tested with the store", "CreateSnapshot Errors")


@rule("DeleteSnapshot.repeat", "OK again, and for one that never was; then it is gone.")
def snapshot_delete(stack):
    snapshot_id = stack.cut(stack.some().volume_id).snapshot_id
    for one in (snapshot_id, snapshot_id, *no_snapshot(stack)):
        stack.csi.DeleteSnapshot(snapshot_id=one)
    refused("NOT_FOUND", lambda: stack.csi.GetSnapshot(snapshot_id=snapshot_id))


@rule("DeleteSnapshot.at-once", "The same call several times at once: OK or ABORTED, and it is gone.", "DeleteSnapshot Errors")
def snapshot_delete_at_once(stack):
    snapshot_id = stack.cut(stack.some().volume_id).snapshot_id
    same_or_aborted(stack.at_once("DeleteSnapshot", snapshot_id=snapshot_id))
    refused("NOT_FOUND", lambda: stack.csi.GetSnapshot(snapshot_id=snapshot_id))


@rule("DeleteSnapshot.of-group", "A member of a group is not deleted alone: INVALID_ARGUMENT.", "DeleteSnapshot Errors",
      needs=("group:CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT",))
def snapshot_of_group(stack):
    member = stack.group().snapshots[0]
    assert member.group_snapshot_id
    refused("INVALID_ARGUMENT", lambda: stack.csi.DeleteSnapshot(snapshot_id=member.snapshot_id))
    stack.csi.GetSnapshot(snapshot_id=member.snapshot_id)


not_seen("DeleteSnapshot.in-use", "A snapshot that is in use: FAILED_PRECONDITION.",
         "it is in use only while a volume is copied from it, which takes no time that a test could meet without a pause in the "
         "server; "
         "the storage server's own tests stop it there", "DeleteSnapshot Errors")


@rule("ListSnapshots.all", "Every snapshot is listed, those of groups too, and none that is deleted.")
def list_all(stack):
    kept, gone = stack.snapshot().snapshot_id, stack.cut(stack.some().volume_id).snapshot_id
    stack.csi.DeleteSnapshot(snapshot_id=gone)
    found = [entry.snapshot.snapshot_id for entry in stack.csi.ListSnapshots().entries]
    assert kept in found and gone not in found, found
    if "group:CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT" in stack.capabilities:
        group = stack.group()
        entries = {entry.snapshot.snapshot_id: entry.snapshot for entry in stack.csi.ListSnapshots().entries}
        for member in group.snapshots:
            equal(entries[member.snapshot_id].group_snapshot_id, group.group_snapshot_id, "group_snapshot_id")


@rule("ListSnapshots.by-source", "Only those of one volume, where that is asked for; none where there is no such volume.",
      "ListSnapshotsRequest")
def list_by_source(stack):
    volume_id = stack.create().volume_id
    made = {stack.cut(volume_id).snapshot_id for _ in range(2)}
    entries = stack.csi.ListSnapshots(source_volume_id=volume_id).entries
    equal({entry.snapshot.snapshot_id for entry in entries}, made, "snapshots")
    for wrong in (f"{stack.target.server_id}.{0:016x}", "another driver's"):
        equal(len(stack.csi.ListSnapshots(source_volume_id=wrong).entries), 0, wrong)


@rule("ListSnapshots.by-id",
      "One only, where that is asked for; an empty list where there is no such snapshot.", "ListSnapshotsRequest")
def list_by_id(stack):
    snapshot = stack.snapshot()
    entries = stack.csi.ListSnapshots(snapshot_id=snapshot.snapshot_id).entries
    equal([entry.snapshot for entry in entries], [snapshot], "snapshots")
    for wrong in no_snapshot(stack):
        equal(len(stack.csi.ListSnapshots(snapshot_id=wrong).entries), 0, wrong)
    other = stack.create().volume_id
    equal(len(stack.csi.ListSnapshots(snapshot_id=snapshot.snapshot_id, source_volume_id=other).entries), 0, "of another volume")


@rule("GetSnapshot.current", "The snapshot as it was made.")
def get_current(stack):
    equal(stack.csi.GetSnapshot(snapshot_id=stack.snapshot().snapshot_id).snapshot, stack.snapshot(), "snapshot")


@rule("GetSnapshot.absent", "A snapshot that is not there: NOT_FOUND.", "GetSnapshot Errors")
def get_absent(stack):
    for wrong in no_snapshot(stack):
        refused("NOT_FOUND", lambda: stack.csi.GetSnapshot(snapshot_id=wrong))


# ---- groups ----


def pair(stack):
    return [stack.some().volume_id, stack.kept("in b", lambda: stack.create(
        accessibility_requirements={"requisite": [{"segments": {ZONE: "b"}}]})).volume_id]


@rule("GroupControllerGetCapabilities.known", "Each capability is a known one and is there once.")
def group_capabilities(stack):
    found = [one.rpc.type for one in stack.csi.GroupControllerGetCapabilities().capabilities]
    assert found and len(found) == len(set(found)) and 0 not in found, found


@rule("CreateVolumeGroupSnapshot.answer", "One snapshot of each volume, all with the group's id; ready when all of them are.",
      "VolumeGroupSnapshot")
def group_answer(stack):
    group = stack.group()
    assert group.group_snapshot_id and group.creation_time.seconds > 1500000000
    equal(len(group.snapshots), 2, "snapshots")
    equal({one.group_snapshot_id for one in group.snapshots}, {group.group_snapshot_id}, "group_snapshot_id")
    equal(group.ready_to_use, all(one.ready_to_use for one in group.snapshots), "ready_to_use")


@rule("CreateVolumeGroupSnapshot.repeat", "A repeat answers the same group, whatever the order of the volumes.")
def group_repeat(stack):
    fields = {"name": name(), "source_volume_ids": pair(stack)}
    first = stack.csi.CreateVolumeGroupSnapshot(**fields).group_snapshot
    for ids in (pair(stack), pair(stack)[::-1]):
        again = stack.csi.CreateVolumeGroupSnapshot(**{**fields, "source_volume_ids": ids}).group_snapshot
        equal((again.group_snapshot_id, {one.snapshot_id for one in again.snapshots}),
              (first.group_snapshot_id, {one.snapshot_id for one in first.snapshots}), "the repeat")


@rule("CreateVolumeGroupSnapshot.at-once", "The same call several times at once: OK with one group, or ABORTED.", "Concurrency")
def group_at_once(stack):
    results = stack.at_once("CreateVolumeGroupSnapshot", name=name(), source_volume_ids=pair(stack))
    same_or_aborted(results, key=lambda answer: answer.group_snapshot.group_snapshot_id)


@rule("CreateVolumeGroupSnapshot.incompatible",
      "A group of that name with other volumes: ALREADY_EXISTS.", "CreateVolumeGroupSnapshot Errors")
def group_incompatible(stack):
    stack.csi.CreateVolumeGroupSnapshot(name=(text := name()), source_volume_ids=pair(stack))
    for other in (pair(stack)[:1], pair(stack)[1:], [pair(stack)[0], stack.create().volume_id]):
        refused("ALREADY_EXISTS", lambda: stack.csi.CreateVolumeGroupSnapshot(name=text, source_volume_ids=other))


@rule("CreateVolumeGroupSnapshot.all-or-none", "A volume that is not there: an error, and no snapshot is left of the others.")
def group_all(stack):
    before = len(stack.csi.ListSnapshots().entries)
    refused("NOT_FOUND", lambda: stack.csi.CreateVolumeGroupSnapshot(
        name=name(), source_volume_ids=[*pair(stack), f"{stack.target.server_id}.{0:016x}"]))
    equal(len(stack.csi.ListSnapshots().entries), before, "snapshots")


@rule("CreateVolumeGroupSnapshot.name", "Control characters in the name: INVALID_ARGUMENT.", "CreateVolumeGroupSnapshotRequest")
def group_name(stack):
    for code in (0x01, 0x0b, 0x1f, 0x7f, 0x9f):
        refused("INVALID_ARGUMENT", lambda: stack.csi.CreateVolumeGroupSnapshot(
            name=f"a{chr(code)}", source_volume_ids=pair(stack)), "name")


@rule("CreateVolumeGroupSnapshot.member-restores", "Each member is good as a volume's source.")
def group_restores(stack):
    for member in stack.group().snapshots:
        volume = stack.csi.create(name(), volume_content_source={"snapshot": {"snapshot_id": member.snapshot_id}})
        stack.csi.DeleteVolume(volume_id=volume.volume_id)


not_seen("CreateVolumeGroupSnapshot.one-moment", "All members are of one point in time.",
         "tests/integration holds and compares writers over several servers", "CreateVolumeGroupSnapshot")
not_applicable("CreateVolumeGroupSnapshot.cannot", "Volumes that cannot be taken together: FAILED_PRECONDITION.",
               "any volumes of the configured servers can", "CreateVolumeGroupSnapshot Errors")


@rule("DeleteVolumeGroupSnapshot.repeat", "OK again; the group and its members are gone.")
def group_delete(stack):
    group = stack.csi.CreateVolumeGroupSnapshot(name=name(), source_volume_ids=pair(stack)).group_snapshot
    fields = {"group_snapshot_id": group.group_snapshot_id, "snapshot_ids": [one.snapshot_id for one in group.snapshots]}
    for _ in range(2):
        stack.csi.DeleteVolumeGroupSnapshot(**fields)
    refused("NOT_FOUND", lambda: stack.csi.GetVolumeGroupSnapshot(**fields))
    for one in fields["snapshot_ids"]:
        refused("NOT_FOUND", lambda: stack.csi.GetSnapshot(snapshot_id=one))


def _mismatch(rpc):
    def check(stack):
        group = stack.group()
        ids = [one.snapshot_id for one in group.snapshots]
        for wrong in (ids[:1], [*ids, stack.snapshot().snapshot_id], [stack.snapshot().snapshot_id]):
            refused("INVALID_ARGUMENT", lambda: stack.call(rpc, group_snapshot_id=group.group_snapshot_id, snapshot_ids=wrong))
        for one in ids:
            stack.csi.GetSnapshot(snapshot_id=one)
    rule(f"{rpc}.mismatch",
         "A list of snapshots that is not the group's: INVALID_ARGUMENT, and nothing changes.", f"{rpc} Errors")(check)


_mismatch("DeleteVolumeGroupSnapshot")
_mismatch("GetVolumeGroupSnapshot")


@rule("GetVolumeGroupSnapshot.current", "The group as it was made.")
def group_current(stack):
    group = stack.group()
    found = stack.csi.GetVolumeGroupSnapshot(group_snapshot_id=group.group_snapshot_id,
                                             snapshot_ids=[one.snapshot_id for one in group.snapshots]).group_snapshot
    equal((found.group_snapshot_id, {one.snapshot_id for one in found.snapshots}, found.creation_time),
          (group.group_snapshot_id, {one.snapshot_id for one in group.snapshots}, group.creation_time), "the group")


@rule("GetVolumeGroupSnapshot.absent", "A group that is not there: NOT_FOUND.", "GetVolumeGroupSnapshot Errors")
def group_absent(stack):
    refused("NOT_FOUND", lambda: stack.csi.GetVolumeGroupSnapshot(group_snapshot_id="another driver's",
                                                                 snapshot_ids=[no_snapshot(stack)[0]]))


# ---- metadata ----


def ladder(stack):
    """(volume, two snapshots of it): 64 KiB written at 0, at 1 MiB and at 2 MiB before the first, and at 1 MiB and at
    3 MiB between the two."""
    def make():
        volume, node = stack.volume(block=True, size=4 * MIB), stack.n1
        snapshots, target = [], node.use(volume)
        for places in ((0, MIB, 2 * MIB), (MIB, 3 * MIB)):
            with open(target, "r+b", buffering=0) as device:
                for place in places:
                    os.pwrite(device.fileno(), os.urandom(65536), place)
                os.fsync(device)
            snapshots.append(stack.cut(volume.id).snapshot_id)
        return volume, snapshots
    return stack.kept("ladder", make)


def requests(stack, rpc):
    _, (first, second) = ladder(stack)
    if rpc == "GetMetadataAllocated":
        return {"snapshot_id": second}, (0, MIB, 2 * MIB, 3 * MIB)
    return {"base_snapshot_id": first, "target_snapshot_id": second}, (MIB, 3 * MIB)


def ranges(answers):
    return [(one.byte_offset, one.size_bytes) for answer in answers for one in answer.block_metadata]


def _metadata(rpc):
    def covers(stack):
        fields, places = requests(stack, rpc)
        found = ranges(stack.call(rpc, **fields))
        for place in places:
            assert any(at <= place and place + 65536 <= at + size for at, size in found), f"{place} is missed: {found}"

    def shape(stack):
        answers = stack.call(rpc, **requests(stack, rpc)[0])
        equal({(one.block_metadata_type, one.volume_capacity_bytes) for one in answers},
              {(answers[0].block_metadata_type, 4 * MIB)}, "type and capacity")
        assert answers[0].block_metadata_type in (1, 2)
        found = ranges(answers)
        assert all(size > 0 and 0 <= at and at + size <= 4 * MIB for at, size in found), found
        assert all(one[0] + one[1] <= two[0] for one, two in zip(found, found[1:])), found
        if answers[0].block_metadata_type == 1:
            equal(len({size for _, size in found}), 1, "sizes")

    def resumed(stack):
        fields, _ = requests(stack, rpc)
        whole = ranges(stack.call(rpc, **fields))
        for start in (0, 4096, MIB, 2 * MIB + 65536, 3 * MIB + 1, 4 * MIB - 1):
            found = ranges(stack.call(rpc, starting_offset=start, **fields))
            assert all(at + size > start for at, size in found), (start, found)
            wanted = sum(min(size, at + size - start) for at, size in whole if at + size > start)
            assert sum(min(size, at + size - start) for at, size in found) >= wanted, (start, found, whole)

    def results(stack):
        fields, _ = requests(stack, rpc)
        whole = ranges(stack.call(rpc, **fields))
        for count in (1, 2, 1000):
            answers = stack.call(rpc, max_results=count, **fields)
            assert all(len(one.block_metadata) <= count for one in answers)
            equal(ranges(answers), whole, f"at most {count} in a message")
        refused("INVALID_ARGUMENT", lambda: stack.call(rpc, max_results=-1, **fields), "max_results")

    def offset(stack):
        for wrong in (-1, 4 * MIB + 1, 1 << 62):
            refused("OUT_OF_RANGE", lambda: stack.call(rpc, starting_offset=wrong, **requests(stack, rpc)[0]))

    def no_such(stack):
        fields, _ = requests(stack, rpc)
        for key in fields:
            for wrong in no_snapshot(stack):
                refused("NOT_FOUND", lambda: stack.call(rpc, **{**fields, key: wrong}))

    part = f"{rpc}Response"
    rule(f"{rpc}.covers", "Every range that may differ is in the answer.", rpc)(covers)
    rule(f"{rpc}.shape",
         "Ranges in ascending order, none empty, none overlapping; type and capacity the same in each message.", part)(shape)
    rule(f"{rpc}.resumed",
         "From `starting_offset` on, nothing is missing, and no range ends before it.", f"{rpc}Request")(resumed)
    rule(f"{rpc}.max-results", "At most `max_results` ranges a message, and the same ranges in all; below 0 INVALID_ARGUMENT.",
         f"{rpc}Request")(results)
    rule(f"{rpc}.offset-out-of-range", "A starting offset below 0 or beyond the volume: OUT_OF_RANGE.", f"{rpc} Errors")(offset)
    rule(f"{rpc}.absent", "A snapshot that is not there: NOT_FOUND.", f"{rpc} Errors")(no_such)


_metadata("GetMetadataAllocated")
_metadata("GetMetadataDelta")


@rule("GetMetadataDelta.one-volume",
      "Snapshots of two volumes, or a target that is not younger: INVALID_ARGUMENT.", "GetMetadataDelta Errors")
def delta_one_volume(stack):
    _, (first, second) = ladder(stack)
    for base, target in ((stack.snapshot().snapshot_id, second), (second, first), (first, first)):
        refused("INVALID_ARGUMENT", lambda: stack.csi.GetMetadataDelta(base_snapshot_id=base, target_snapshot_id=target))


not_seen("GetMetadataAllocated.interrupted", "A stream that ends well is whole; one that fails ends with an error.",
         "tests/integration stops a storage server in the middle", "Special considerations")
