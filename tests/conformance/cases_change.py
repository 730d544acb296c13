"""What changes while a volume lives: its size, its limits, its health."""
import os

import harness
from node_fixture import XFS_BYTES
from rules import not_applicable, rule
from stack import MIB, equal, refused, same_or_aborted

EXPAND, MODE = "ControllerExpandVolume Errors", "SINGLE_NODE_MULTI_WRITER"


def ext4_grows():
    """Growing a mounted ext4 needs CAP_SYS_RESOURCE, which some containers have not even in their bounding set."""
    with open("/proc/self/status", encoding="utf-8") as status:
        bounding = next(line for line in status if line.startswith("CapBnd:")).split()[1]
    return int(bounding, 16) >> 24 & 1


def absent(stack):
    return [f"{stack.target.server_id}.{0:016x}", "another driver's"]


def grow(stack, volume_id, size, **fields):
    return stack.csi.ControllerExpandVolume(volume_id=volume_id, capacity_range={"required_bytes": size}, **fields)


# ---- ControllerExpandVolume ----


@rule("ControllerExpandVolume.grows", "The volume has at least the size that was asked for, in every later answer.")
def expand_grows(stack):
    volume_id = stack.create().volume_id
    answer = grow(stack, volume_id, 3 * MIB)
    assert answer.capacity_bytes >= 3 * MIB, answer
    equal(stack.csi.ControllerGetVolume(volume_id=volume_id).volume.capacity_bytes, answer.capacity_bytes, "capacity")


@rule("ControllerExpandVolume.repeat", "OK for a volume that has the size already, or more; it never shrinks.")
def expand_repeat(stack):
    volume_id = stack.create(size=4 * MIB).volume_id
    for size in (8 * MIB, 8 * MIB, 2 * MIB, 1):
        equal(grow(stack, volume_id, size).capacity_bytes, 8 * MIB, "capacity")


@rule("ControllerExpandVolume.at-once", "The same call several times at once: OK or ABORTED.", "Concurrency")
def expand_at_once(stack):
    volume_id = stack.create().volume_id
    same_or_aborted(stack.at_once("ControllerExpandVolume", volume_id=volume_id, capacity_range={"required_bytes": 2 * MIB}))


def grows_in_use(stack, kind, size):
    volume = stack.volume(mode=MODE, size=size, **({"block": True} if kind == "block" else {"fs_type": kind}))
    target = stack.n1.use(volume)
    answer = grow(stack, volume.id, size + 64 * MIB, volume_capability=volume.capability)
    equal(answer.node_expansion_required, True, f"node_expansion_required of {kind}")
    before = os.statvfs(target).f_blocks if kind != "block" else 0
    for _ in range(2):
        stack.n1.csi.NodeExpandVolume(volume_id=volume.id, volume_path=str(target), timeout_s=60,
                                      capacity_range={"required_bytes": size + 64 * MIB}, volume_capability=volume.capability,
                                      staging_target_path=str(stack.n1.staging(volume)))
    if kind == "block":
        with open(target, "rb") as device:
            equal(device.seek(0, os.SEEK_END), size + 64 * MIB, "the device's size")
    else:
        assert os.statvfs(target).f_blocks > before, f"{kind} has not grown"
    stack.n1.leave(volume)


@rule("ControllerExpandVolume.online", "With ONLINE, a volume in use grows, and its user sees it: a block device, and xfs.",
      "VolumeExpansion", needs=("plugin:ONLINE", "node:EXPAND_VOLUME"))
def expand_online(stack):
    for kind, size in (("block", 64 * MIB), ("xfs", XFS_BYTES)):
        grows_in_use(stack, kind, size)


@rule("ControllerExpandVolume.online-ext4", "With ONLINE, so does ext4.", "VolumeExpansion",
      needs=("plugin:ONLINE", "node:EXPAND_VOLUME"))
def expand_online_ext4(stack):
    if not ext4_grows():
        raise harness.Skip("not checked here: growing a mounted ext4 needs CAP_SYS_RESOURCE")
    grows_in_use(stack, "ext4", 64 * MIB)


@rule("ControllerExpandVolume.exceeds", "A capability that the volume cannot have: INVALID_ARGUMENT.", EXPAND)
def expand_exceeds(stack):
    wrong = stack.capability("MULTI_NODE_MULTI_WRITER", block=False)
    refused("INVALID_ARGUMENT", lambda: grow(stack, stack.some().volume_id, 2 * MIB, volume_capability=wrong))


@rule("ControllerExpandVolume.no-volume", "A volume that is not there: NOT_FOUND.", EXPAND)
def expand_absent(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: grow(stack, volume_id, MIB))


@rule("ControllerExpandVolume.out-of-range", "A range that no size fits, or that the volume exceeds: OUT_OF_RANGE.", EXPAND)
def expand_range(stack):
    volume_id = stack.create(size=4 * MIB).volume_id
    for wanted in ({"required_bytes": 2 * MIB, "limit_bytes": MIB}, {"limit_bytes": 2 * MIB}, {"required_bytes": 1 << 62}):
        refused("OUT_OF_RANGE", lambda: stack.csi.ControllerExpandVolume(volume_id=volume_id, capacity_range=wanted))
    equal(stack.csi.ControllerGetVolume(volume_id=volume_id).volume.capacity_bytes, 4 * MIB, "the size")


@rule("ControllerExpandVolume.range-wrong", "A range that says nothing or is negative is refused.", "CapacityRange")
def expand_range_wrong(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.ControllerExpandVolume(volume_id=stack.some().volume_id, capacity_range={}),
            "capacity_range")
    refused(("INVALID_ARGUMENT", "OUT_OF_RANGE"), lambda: grow(stack, stack.some().volume_id, -1))


not_applicable("ControllerExpandVolume.in-use", "Published, without ONLINE: FAILED_PRECONDITION.", "ONLINE is advertised", EXPAND)


# ---- NodeExpandVolume ----


@rule("NodeExpandVolume.no-volume", "A volume that is not there, or not at that path: NOT_FOUND.", "NodeExpandVolume Errors")
def node_expand_absent(stack):
    for volume_id, path in (*((one, "/") for one in absent(stack)), (stack.in_use().id, "/nowhere")):
        refused("NOT_FOUND", lambda: stack.n1.csi.NodeExpandVolume(volume_id=volume_id, volume_path=path))


@rule("NodeExpandVolume.not-needed", "OK where the volume has the size already, with and without a range.")
def node_expand_repeat(stack):
    for volume in (stack.in_use(), stack.block_in_use()):
        for fields in ({}, {"capacity_range": {"required_bytes": 64 * MIB}}, {"capacity_range": {"required_bytes": MIB}}):
            stack.n1.csi.NodeExpandVolume(volume_id=volume.id, volume_path=str(stack.n1.path(volume)), timeout_s=60, **fields)


@rule("NodeExpandVolume.out-of-range",
      "A size that the volume does not have, or a range that no size fits: OUT_OF_RANGE.", "NodeExpandVolume Errors")
def node_expand_range(stack):
    for wanted in ({"required_bytes": 1 << 40}, {"required_bytes": 2 * MIB, "limit_bytes": MIB}):
        refused(("OUT_OF_RANGE", "FAILED_PRECONDITION") if wanted["required_bytes"] > MIB << 10 else "OUT_OF_RANGE",
                lambda: stack.n1.csi.NodeExpandVolume(volume_id=stack.in_use().id, volume_path=str(stack.n1.path(stack.in_use())),
                                                      capacity_range=wanted, timeout_s=60))


@rule("NodeExpandVolume.exceeds", "A capability that the volume does not have: INVALID_ARGUMENT.", "NodeExpandVolume Errors")
def node_expand_exceeds(stack):
    refused("INVALID_ARGUMENT", lambda: stack.n1.csi.NodeExpandVolume(
        volume_id=stack.in_use().id, volume_path=str(stack.n1.path(stack.in_use())),
        volume_capability=stack.capability("MULTI_NODE_MULTI_WRITER", block=False)))


not_applicable("NodeExpandVolume.in-use", "A file system that cannot grow while it is used: FAILED_PRECONDITION.",
               "ext4 and xfs both can", "NodeExpandVolume Errors")


# ---- ControllerModifyVolume ----


def limits(stack, volume_id):
    return stack.target.controller.GetVolume(volume_id=volume_id).volume.limits


@rule("ControllerModifyVolume.repeat", "The parameters hold, also after a repeat.")
def modify_repeat(stack):
    volume_id = stack.create().volume_id
    for _ in range(2):
        stack.csi.ControllerModifyVolume(volume_id=volume_id, mutable_parameters={"iopsLimit": "1234"})
        equal(limits(stack, volume_id).iops, 1234, "iops")


@rule("ControllerModifyVolume.only-given", "A key that is not given keeps its value.", "ControllerModifyVolumeRequest")
def modify_only_given(stack):
    volume_id = stack.create().volume_id
    stack.csi.ControllerModifyVolume(volume_id=volume_id, mutable_parameters={"iopsLimit": "1234"})
    before = limits(stack, volume_id).iops
    stack.csi.ControllerModifyVolume(volume_id=volume_id, mutable_parameters={"bandwidthLimit": "10MiB"})
    equal((limits(stack, volume_id).iops, limits(stack, volume_id).bytes_per_s), (before, 10 * MIB), "limits")


@rule("ControllerModifyVolume.unsupported",
      "A parameter that is not known, or cannot have that value: INVALID_ARGUMENT, which names it; nothing "
      "changes.", "ControllerModifyVolume Errors")
def modify_unsupported(stack):
    volume_id = stack.create().volume_id
    for key, value in (("colour", "red"), ("iopsLimit", "many"), ("iopsLimit", "-1"), ("fsType", "xfs")):
        refused("INVALID_ARGUMENT", lambda: stack.csi.ControllerModifyVolume(
            volume_id=volume_id, mutable_parameters={key: value}), key)
        equal(limits(stack, volume_id).iops, 0, "iops")


@rule("ControllerModifyVolume.no-volume", "A volume that is not there: NOT_FOUND.", "ControllerModifyVolume Errors")
def modify_absent(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: stack.csi.ControllerModifyVolume(
            volume_id=volume_id, mutable_parameters={"iopsLimit": "1000"}))


@rule("ControllerModifyVolume.same-volume", "CreateVolume's repeat still finds the volume.", "CreateVolume")
def modify_then_create(stack):
    fields = {"size": MIB, "parameters": {"zone": "a"}}
    volume = stack.csi.create("modified", **fields)
    stack.csi.ControllerModifyVolume(volume_id=volume.volume_id, mutable_parameters={"iopsLimit": "1234"})
    equal(stack.csi.create("modified", **fields).volume_id, volume.volume_id, "the volume")


# ---- health ----


@rule("ControllerGetVolumeHealth.healthy", "A volume that is well has no entry; the answer names the volume.")
def health_healthy(stack):
    health = stack.csi.ControllerGetVolumeHealth(volume_id=stack.some().volume_id).volume_health
    equal((health.volume_id, list(health.health_statuses)), (stack.some().volume_id, []), "health")


@rule("ControllerGetVolumeHealth.no-volume", "A volume that is not there: NOT_FOUND.")
def health_absent(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: stack.csi.ControllerGetVolumeHealth(volume_id=volume_id))


@rule("ControllerListVolumeHealth.omits-healthy", "Volumes that are well need no entry.")
def health_list(stack):
    assert stack.some().volume_id not in [one.volume_id for one in stack.csi.ControllerListVolumeHealth().entries]


@rule("ControllerListVolumeHealth.as-get", "Each entry is what ControllerGetVolumeHealth says of the volume.", "VolumeHealth")
def health_same(stack):
    for entry in stack.csi.ControllerListVolumeHealth().entries:
        equal(stack.csi.ControllerGetVolumeHealth(volume_id=entry.volume_id).volume_health, entry, "health")
