"""The Node service's calls for volumes."""
import os
import pathlib
import stat as modes

from node_fixture import is_mounted
from rules import not_applicable, not_seen, rule
from stack import MIB, equal, refused, same_or_aborted

STAGE, PUBLISH = "NodeStageVolume Errors", "NodePublishVolume Errors"
TABLE = "NodePublishVolume, second table"


def absent(stack):
    return f"{stack.target.server_id}.{0:016x}"


# ---- NodeStageVolume ----


@rule("NodeStageVolume.repeat", "A repeat is OK and changes nothing; the staging path shows the volume.")
def stage_repeat(stack):
    volume, node = stack.in_use(), stack.n1
    for _ in range(2):
        node.stage(volume)
    assert is_mounted(node.staging(volume))


@rule("NodeStageVolume.at-once", "The same call several times at once: OK or ABORTED, and one staging.", "Concurrency")
def stage_at_once(stack):
    volume, node = stack.volume(block=True).publish(stack.n1), stack.n1
    request = {"volume_id": volume.id, "publish_context": volume.context, "volume_context": volume.volume_context,
               "staging_target_path": str(node.staging(volume)), "volume_capability": volume.capability}
    same_or_aborted(stack.at_once("NodeStageVolume", timeout_s=60, **request))
    node.stage(volume)
    same_or_aborted(stack.at_once("NodeUnstageVolume", volume_id=volume.id, staging_target_path=str(node.staging(volume))))
    assert not node.volume_dir(volume).exists(), "the volume is unstaged"
    volume.unpublish(node)


@rule("NodeStageVolume.no-volume", "A volume that is not there: NOT_FOUND.", STAGE)
def stage_no_volume(stack):
    for volume_id in (absent(stack), "another driver's"):
        refused("NOT_FOUND", lambda: stack.n1.stage(stack.attached(), volume_id=volume_id))


@rule("NodeStageVolume.incompatible", "Staged there with another capability: ALREADY_EXISTS.", STAGE)
def stage_incompatible(stack):
    volume, node = stack.in_use(), stack.n1
    for other in (stack.capability("SINGLE_NODE_MULTI_WRITER", block=True),
                  stack.capability("SINGLE_NODE_MULTI_WRITER", block=False, fs_type="xfs"),
                  stack.capability("SINGLE_NODE_SINGLE_WRITER", block=False, fs_type="ext4")):
        refused("ALREADY_EXISTS", lambda: node.stage(volume, volume_capability=other))
    assert is_mounted(node.staging(volume))


@rule("NodeStageVolume.exceeds", "A capability that the volume cannot have: FAILED_PRECONDITION.", STAGE)
def stage_exceeds(stack):
    volume = stack.attached()
    for mode in ("MULTI_NODE_MULTI_WRITER", "MULTI_NODE_SINGLE_WRITER"):
        refused(("FAILED_PRECONDITION", "INVALID_ARGUMENT"),
                lambda: stack.n1.stage(volume, volume_capability=stack.capability(mode, block=False)))
    assert not stack.n1.volume_dir(volume).exists(), "what was refused left something"


@rule("NodeStageVolume.makes-path", "A staging path whose directory is there already is taken.")
def stage_path(stack):
    volume, node = stack.volume(block=True).publish(stack.n1), stack.n1
    node.staging(volume).mkdir()
    node.stage(volume)
    node.unstage(volume)
    volume.unpublish(node)


@rule("NodeStageVolume.after-publish", "Without ControllerPublishVolume before it, the call is refused and attaches nothing.")
def stage_unpublished(stack):
    volume = stack.volume(block=True)
    refused(("NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT"),
            lambda: stack.n1.stage(volume, publish_context=stack.attached().context))
    assert not stack.n1.volume_dir(volume).exists(), "what was refused left something"


# ---- NodeUnstageVolume ----


@rule("NodeUnstageVolume.repeat", "OK again, and for what is not staged there; nothing of the staging is left.")
def unstage_repeat(stack):
    volume, node = stack.volume(fs_type="ext4").publish(stack.n1), stack.n1
    node.stage(volume)
    assert is_mounted(node.staging(volume))
    for _ in range(3):
        node.unstage(volume)
    assert not is_mounted(node.staging(volume)) and not node.volume_dir(volume).exists()
    volume.unpublish(node)


@rule("NodeUnstageVolume.absent", "A volume that is not there: OK (nothing is staged) or NOT_FOUND.", "NodeUnstageVolume Errors")
def unstage_absent(stack):
    stack.n1.unstage(stack.attached(), volume_id=absent(stack))
    refused("NOT_FOUND", lambda: stack.n1.unstage(stack.attached(), volume_id="another driver's"))


@rule("NodeUnstageVolume.other-path", "Another path's unstaging is OK and leaves the staging alone.")
def unstage_other(stack):
    volume, node = stack.in_use(), stack.n1
    node.unstage(volume, staging_target_path=str(node.folder / "elsewhere"))
    assert is_mounted(node.staging(volume))


@rule("NodeUnstageVolume.published",
      "While it is published, the volume is not taken away.", "RPC Interactions and Reference Counting")
def unstage_published(stack):
    refused("FAILED_PRECONDITION", lambda: stack.n1.unstage(stack.in_use()))
    assert is_mounted(stack.n1.path(stack.in_use()))


# ---- NodePublishVolume ----


@rule("NodePublishVolume.repeat", "A repeat is OK and changes nothing (same path, same arguments).", TABLE)
def publish_repeat(stack):
    for volume in (stack.in_use(), stack.block_in_use()):
        before = os.stat(stack.n1.path(volume))
        stack.n1.publish(volume)
        after = os.stat(stack.n1.path(volume))
        equal((after.st_dev, after.st_ino, after.st_rdev), (before.st_dev, before.st_ino, before.st_rdev), "the target")


@rule("NodePublishVolume.mount", "A mounted volume is a directory at the target path, which the call makes.")
def publish_mount(stack):
    target = stack.n1.path(stack.in_use())
    assert target.is_dir() and is_mounted(target)
    (target / "file").write_text("kept")
    equal((stack.n1.staging(stack.in_use()) / "file").read_text(), "kept", "the volume")


@rule("NodePublishVolume.block", "A block volume is a block device at the target path, which the call makes.")
def publish_block(stack):
    found = os.stat(stack.n1.path(stack.block_in_use()))
    assert modes.S_ISBLK(found.st_mode)


@rule("NodePublishVolume.no-volume",
      "A volume that is not there: NOT_FOUND, or FAILED_PRECONDITION where it is not staged.", PUBLISH)
def publish_no_volume(stack):
    refused("NOT_FOUND", lambda: stack.n1.publish(stack.attached(), volume_id="another driver's"))
    refused(("NOT_FOUND", "FAILED_PRECONDITION"), lambda: stack.n1.publish(stack.attached(), volume_id=absent(stack)))


@rule("NodePublishVolume.staging-path", "Without `staging_target_path`: FAILED_PRECONDITION.", PUBLISH)
def publish_staging_path(stack):
    refused("FAILED_PRECONDITION", lambda: stack.n1.publish(stack.in_use(), staging_target_path=""), "staging_target_path")


@rule("NodePublishVolume.staged-first", "A volume that is not staged, or staged at another path: FAILED_PRECONDITION.",
      "RPC Interactions and Reference Counting")
def publish_staged_first(stack):
    refused("FAILED_PRECONDITION", lambda: stack.n1.publish(stack.attached()))
    refused("FAILED_PRECONDITION", lambda: stack.n1.publish(stack.in_use(), "b", staging_target_path="/elsewhere"))


@rule("NodePublishVolume.incompatible-readonly", "Published at that path with another `readonly`: ALREADY_EXISTS.", PUBLISH)
def publish_other_readonly(stack):
    refused("ALREADY_EXISTS", lambda: stack.n1.publish(stack.in_use(), readonly=True))


@rule("NodePublishVolume.incompatible-type", "Published at that path, and asked for there as the other kind, block or mounted: "
      "ALREADY_EXISTS.", PUBLISH)
def publish_other_type(stack):
    mode = "SINGLE_NODE_MULTI_WRITER"
    refused("ALREADY_EXISTS", lambda: stack.n1.publish(stack.in_use(), volume_capability=stack.capability(mode, block=True)))
    refused("ALREADY_EXISTS", lambda: stack.n1.publish(stack.block_in_use(),
                                                       volume_capability=stack.capability(mode, block=False)))


@rule("NodePublishVolume.incompatible-mode", "Published at that path with another access mode: ALREADY_EXISTS.", TABLE)
def publish_other_mode(stack):
    other = stack.capability("SINGLE_NODE_SINGLE_WRITER", block=False, fs_type="ext4")
    refused("ALREADY_EXISTS", lambda: stack.n1.publish(stack.in_use(), volume_capability=other))


@rule("NodePublishVolume.exceeds",
      "A capability that the staged volume cannot have, at a new path: FAILED_PRECONDITION.", PUBLISH)
def publish_exceeds(stack):
    mode = "SINGLE_NODE_MULTI_WRITER"
    refused("FAILED_PRECONDITION", lambda: stack.n1.publish(stack.in_use(), "x",
                                                            volume_capability=stack.capability(mode, block=True)))
    refused("FAILED_PRECONDITION", lambda: stack.n1.publish(stack.block_in_use(), "x",
                                                            volume_capability=stack.capability(mode, block=False)))


@rule("NodePublishVolume.several-paths",
      "SINGLE_NODE_MULTI_WRITER and MULTI_NODE modes: a second path is OK, with another `readonly` too.",
      TABLE)
def publish_several(stack):
    volume, node = stack.in_use(), stack.n1
    node.publish(volume, "b")
    node.publish(volume, "ro", readonly=True)
    for name in ("b", "ro"):
        node.unpublish(volume, name)
    readers = stack.volume(block=True, mode="MULTI_NODE_READER_ONLY").publish(node)
    node.stage(readers)
    for name in ("a", "b"):
        node.publish(readers, name, readonly=True)
    for name in ("a", "b"):
        node.unpublish(readers, name)
    node.unstage(readers)
    readers.unpublish(node)


@rule("NodePublishVolume.one-path", "SINGLE_NODE_SINGLE_WRITER, SINGLE_NODE_WRITER and SINGLE_NODE_READER_ONLY: a second path is "
      "FAILED_PRECONDITION.", TABLE)
def publish_one_path(stack):
    node = stack.n1
    for mode in ("SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_WRITER", "SINGLE_NODE_READER_ONLY"):
        volume = stack.volume(block=True, mode=mode).publish(node)
        readonly = mode == "SINGLE_NODE_READER_ONLY"
        node.stage(volume)
        node.publish(volume, readonly=readonly)
        for other in (readonly, True):
            refused(("FAILED_PRECONDITION", "INVALID_ARGUMENT") if other != readonly else "FAILED_PRECONDITION",
                    lambda: node.publish(volume, "b", readonly=other))
        node.leave(volume)


@rule("NodePublishVolume.readonly", "With `readonly`, nothing can be written at that path.", "NodePublishVolumeRequest")
def publish_readonly(stack):
    volume, node = stack.in_use(), stack.n1
    node.publish(volume, "ro", readonly=True)
    try:
        (node.path(volume, "ro") / "new").write_text("x")
        raise AssertionError("a write was taken")
    except OSError:
        pass
    finally:
        node.unpublish(volume, "ro")


@rule("NodePublishVolume.mount-flags", "The capability's mount flags are those of the mount.", "MountVolume")
def publish_flags(stack):
    volume, node = stack.volume(fs_type="ext4", flags=["noatime", "nodev"]).publish(stack.n1), stack.n1
    node.stage(volume)
    node.publish(volume)
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        options = [line.split()[5] for line in table if line.split()[4] == str(node.path(volume))][-1].split(",")
    assert {"noatime", "nodev"} <= set(options), options
    node.leave(volume)


@rule("NodePublishVolume.at-once", "The same call several times at once: OK or ABORTED, and one mount.", "Concurrency")
def publish_at_once(stack):
    volume, node = stack.in_use(), stack.n1
    same_or_aborted(stack.at_once(
        "NodePublishVolume", volume_id=volume.id, publish_context=volume.context, volume_context=volume.volume_context,
        staging_target_path=str(node.staging(volume)), target_path=str(node.path(volume, "once")),
        volume_capability=volume.capability))
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        equal(sum(line.split()[4] == str(node.path(volume, "once")) for line in table), 1, "mounts")
    same_or_aborted(stack.at_once("NodeUnpublishVolume", volume_id=volume.id, target_path=str(node.path(volume, "once"))))
    node.unpublish(volume, "once")
    assert not node.path(volume, "once").exists()


# ---- NodeUnpublishVolume ----


@rule("NodeUnpublishVolume.removes-path", "What the plugin made at the target path is gone, directory or file.",
      "NodeUnpublishVolumeRequest")
def unpublish_removes(stack):
    for volume in (stack.in_use(), stack.block_in_use()):
        stack.n1.publish(volume, "gone")
        assert stack.n1.path(volume, "gone").exists()
        for _ in range(2):
            stack.n1.unpublish(volume, "gone")
            assert not stack.n1.path(volume, "gone").exists()


@rule("NodeUnpublishVolume.repeat", "OK again, and for a path where nothing was published, which stays as it is.")
def unpublish_repeat(stack):
    foreign = pathlib.Path(stack.n1.folder) / "foreign"
    foreign.mkdir(exist_ok=True)
    for _ in range(2):
        stack.n1.unpublish(stack.in_use(), target_path=str(foreign))
    assert foreign.is_dir(), "what somebody else made is gone"


@rule("NodeUnpublishVolume.absent",
      "A volume that is not there: OK (nothing is published) or NOT_FOUND.", "NodeUnpublishVolume Errors")
def unpublish_absent(stack):
    stack.n1.unpublish(stack.attached(), volume_id=absent(stack))
    refused("NOT_FOUND", lambda: stack.n1.unpublish(stack.attached(), volume_id="another driver's"))


# ---- NodeGetVolumeStats, NodeGetVolumeHealth, NodeGetStorageHealth ----


@rule("NodeGetVolumeStats.mounted", "Bytes and inodes of a mounted volume, each total given and no number negative.")
def stats_mounted(stack):
    for path in (stack.n1.path(stack.in_use()), stack.n1.staging(stack.in_use())):
        usage = {entry.unit: entry for entry in stack.n1.stats(stack.in_use(), path).usage}
        equal(sorted(usage), [1, 2], "units")
        for entry in usage.values():
            assert 0 <= entry.used <= entry.total and 0 <= entry.available <= entry.total and entry.total > 0, entry


@rule("NodeGetVolumeStats.block", "The size of a block volume.")
def stats_block(stack):
    usage = list(stack.n1.stats(stack.block_in_use(), stack.n1.path(stack.block_in_use())).usage)
    equal([(entry.unit, entry.total) for entry in usage], [(1, 64 * MIB)], "usage")


@rule("NodeGetVolumeStats.not-there", "A volume that is not there, or not at that path: NOT_FOUND.", "NodeGetVolumeStats Errors")
def stats_not_there(stack):
    refused("NOT_FOUND", lambda: stack.n1.stats(stack.in_use(), "/"))
    refused("NOT_FOUND", lambda: stack.n1.stats(stack.in_use(), stack.n1.folder / "nowhere"))
    refused("NOT_FOUND", lambda: stack.n1.csi.NodeGetVolumeStats(volume_id=absent(stack), volume_path="/"))


@rule("NodeGetVolumeHealth.healthy", "A volume that is well has no entry; the answer names the volume.")
def health_volume(stack):
    volume = stack.in_use()
    for paths in ({}, {"staging_target_path": str(stack.n1.staging(volume))},
                  {"volume_publish_path": str(stack.n1.path(volume)), "staging_target_path": str(stack.n1.staging(volume))}):
        health = stack.n1.csi.NodeGetVolumeHealth(volume_id=volume.id, **paths).volume_health
        equal((health.volume_id, list(health.health_statuses)), (volume.id, []), "health")


@rule("NodeGetVolumeHealth.not-there", "A volume that is not there: NOT_FOUND.")
def health_not_there(stack):
    refused("NOT_FOUND", lambda: stack.n1.csi.NodeGetVolumeHealth(volume_id="another driver's"))


@rule("NodeGetVolumeHealth.entries", "Each entry has a status and a reason, and no two have both alike.", "VolumeHealth")
def health_entries(stack):
    volume = stack.in_use()
    stack.n1.publish(volume, "lost")
    os.system(f"umount {stack.n1.path(volume, 'lost')}")
    try:
        entries = stack.n1.csi.NodeGetVolumeHealth(
            volume_id=volume.id, volume_publish_path=str(stack.n1.path(volume, "lost"))).volume_health.health_statuses
        assert entries, "a mount that is gone goes unnoticed"
        assert all(one.status and one.reason for one in entries), entries
        equal(len({(one.status, one.reason) for one in entries}), len(entries), "each once")
    finally:
        stack.n1.unpublish(volume, "lost")


@rule("NodeGetStorageHealth.healthy", "With all storage servers in reach there is no entry.")
def storage_health(stack):
    equal(list(stack.n1.csi.NodeGetStorageHealth().backend_health), [], "health")


not_applicable("NodeStageVolume.resize-at-stage",
               "A volume restored into a larger size has its file system grown by NodePublishVolume.",
               "checked as CreateVolume.source-larger", "CreateVolume")
not_seen("NodeGetInfo.once",
         "The plugin does not need NodeGetInfo more than once.", "a call that is not made has no effect to look for")
