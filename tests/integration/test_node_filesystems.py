#!/usr/bin/python3
"""File systems as other drivers get them wrong: copies with equal UUIDs, on the same node and larger than their source; unclean
ones; features that older kernels do not know; mounts that are stacked, or that nobody knows any more."""
import sys

import harness
from controller_stack import equal, status
from node_fixture import MIB, XFS_BYTES, Node, filesystem_bytes, is_mounted, mounts, run_all, write_and_sync


def copy_of(stack, source, size, larger):
    """A volume of `larger` bytes that begins with what the other's data file has now, while its file system is in use."""
    node, volume = stack.n1, stack.volume(size=larger, block=True)
    target = node.use(volume)
    write_and_sync(target, b"no blank volume any more".ljust(4096), "r+b")
    node.leave(volume)
    folder = stack.target.pool.path / "volumes"
    harness.run(harness.program("xfs_io"), "-c", f"reflink {folder / source.id / 'data'} 0 0 {size}", folder / volume.id / "data")
    return as_mounted(volume)


def as_mounted(volume):
    volume.block, volume.capability = False, volume.csi.capability("SINGLE_NODE_MULTI_WRITER", block=False)
    return volume


def copies(stack, kind, size):
    """Two copies, taken while the source is written to and mounted; all three are mounted at once."""
    node, source = stack.n1, stack.volume(size=size, fs_type=kind)
    target = node.use(source)
    write_and_sync(target / "file", b"before")
    same = copy_of(stack, source, size, size)
    larger = copy_of(stack, source, size, 2 * size)
    for copy in (same, larger):
        node.use(copy)
        equal((node.path(copy) / "file").read_bytes(), b"before", "what was synced before the copy")
        write_and_sync(node.path(copy) / "file", b"its own")
    equal((target / "file").read_bytes(), b"before", "the source")
    uuids = {harness.run("blkid", "-p", "-s", "UUID", "-o", "value", node.device(one)).stdout
             for one in (source, same, larger)}
    equal(len(uuids), 1, f"UUIDs: {uuids}")
    grown = filesystem_bytes(node.path(larger)) > 3 * filesystem_bytes(node.path(same)) // 2
    for one in (larger, same, source):
        node.leave(one)
    return grown


def test_copies_xfs(stack):
    assert copies(stack, "xfs", XFS_BYTES), "the larger copy did not grow"


def test_copies_ext4(stack):
    with open("/proc/self/status", encoding="utf-8") as text:
        bounding = [int(line.split()[1], 16) for line in text if line.startswith("CapBnd:")][0]
    equal(copies(stack, "ext4", 64 * MIB), bool(bounding >> 24 & 1), "growth, where CAP_SYS_RESOURCE is given")


def test_unclean_ext4_is_checked(stack):
    """e2fsck sees it before the kernel does; what only a person may repair is not mounted."""
    node, source = stack.n1, stack.volume(fs_type="ext4")
    write_and_sync(node.use(source) / "file", b"synced")
    copy = copy_of(stack, source, 64 * MIB, 64 * MIB)
    node.leave(source)
    said = node.folder / "e2fsck.said"
    tool = node.tools / "e2fsck"
    tool.write_text(f"#!/bin/sh\n{harness.program('dumpe2fs')} -h $2 2>/dev/null |"
                    f" grep -q needs_recovery && echo unclean >{said}\n"
                    f"exec {harness.program('e2fsck')} \"$@\"\n")
    tool.chmod(0o755)
    node.use(copy)
    tool.unlink()
    equal(said.read_text(), "unclean\n", "what e2fsck was given")
    equal((node.path(copy) / "file").read_bytes(), b"synced", "the data")
    node.unpublish(copy)
    node.unstage(copy)
    copy.unpublish(node)
    for request in ("clri <2>", "set_super_value state 0"):  # found by the kernel; then by e2fsck, which is told to look
        damage(stack, copy, request)
        message = status("FAILED_PRECONDITION", node.stage, copy, contains="repair by hand")
        assert "e2fsck -f" in message, message
        assert not is_mounted(node.staging(copy))
        node.unstage(copy)
        copy.unpublish(node)


def damage(stack, volume, request):
    """A file system without a root directory, and one that says so: no preening mends that."""
    node = stack.n1
    volume.block, volume.capability = True, volume.csi.capability("SINGLE_NODE_MULTI_WRITER", block=True)
    target = node.use(volume)
    harness.run(harness.program("debugfs"), "-w", "-R", request, target)
    node.leave(volume)
    as_mounted(volume).publish(node)


def test_features(stack):
    """What mkfs makes is for older kernels too, whatever this host's mkfs takes for its default."""
    node, volume = stack.n1, stack.volume(fs_type="ext4", mkfsOptions="-O stable_inodes -m 0")
    node.use(volume)
    shown = harness.run(harness.program("dumpe2fs"), "-h", node.device(volume)).stdout
    features = [line.split(":")[1].split() for line in shown.splitlines() if line.startswith("Filesystem features")][0]
    assert {"has_journal", "extent", "64bit", "metadata_csum", "resize_inode", "stable_inodes"} <= set(features), features
    assert not {"orphan_file", "metadata_csum_seed", "FEATURE_C12"} & set(features), features
    node.leave(volume)
    volume = stack.volume(size=XFS_BYTES, fs_type="xfs", mkfsOptions="-m reflink=0")
    target = node.use(volume)
    shown = harness.run(harness.program("xfs_info"), target).stdout.replace(" ", "")
    for feature in ("crc=1", "finobt=1", "bigtime=1", "inobtcount=1", "rmapbt=0", "nrext64=0", "sparse=1", "reflink=0"):
        assert feature in shown, (feature, shown)
    node.leave(volume)


def test_stacked_mounts(stack):
    """The same mounts on top of one another, as a CO's retries leave them, go as one."""
    node, volume = stack.n1, stack.volume()
    target, staging = node.use(volume), node.staging(volume)
    for path in (target, target, staging):
        harness.run("mount", "--bind", staging, path)
    node.publish(volume)
    node.stage(volume)
    node.unpublish(volume)
    assert not is_mounted(target) and not target.exists()
    node.unstage(volume)
    assert not is_mounted(staging)
    volume.unpublish(node)


def test_paths_through_links(stack):
    """A kubelet's root on another disk, behind a symbolic link, and mooring-node's own folder too: the kernel's tables show
    neither as it was given."""
    node = Node(stack, "n3", start=False)
    link = node.folder / "link"
    link.symlink_to(node.folder)
    node.config["state_dir"] = str(link / "s")
    node.start().wait_registered()
    volume, staging, target = stack.volume().publish(node), str(link / "staging"), str(link / "target")
    for _ in range(2):
        node.stage(volume, staging_target_path=staging)
        node.publish(volume, staging_target_path=staging, target_path=target)
    equal([at for at, _ in mounts() if at.endswith("/target")], [str(node.folder / "target")], "mounts")
    write_and_sync(link / "target" / "file", b"there")
    equal(node.stats(volume, target).usage[0].unit, 1, "stats")
    health = node.csi.NodeGetVolumeHealth(volume_id=volume.id, volume_publish_path=target, staging_target_path=staging)
    equal(list(health.volume_health.health_statuses), [], "health")
    node.restart()
    node.csi.NodeExpandVolume(volume_id=volume.id, volume_path=target, staging_target_path=staging)
    node.unpublish(volume, target_path=target)
    assert not (node.folder / "target").exists()
    node.unstage(volume, staging_target_path=staging)
    assert not is_mounted(node.folder / "staging") and not node.volume_dir(volume).exists()
    volume.unpublish(node)


def test_mounts_that_nobody_knows(stack):
    """stage.json is lost while the volume is in use: at mooring-node's start what is left is found, and staging works."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    elsewhere = node.folder / "elsewhere"
    elsewhere.mkdir()
    harness.run("mount", "--bind", target, elsewhere)
    node.kill()
    (node.volume_dir(volume) / "stage.json").unlink()
    node.start()
    equal([at for at, _ in mounts() if at in (str(target), str(elsewhere), str(node.staging(volume)))], [], "mounts")
    node.stage(volume)
    node.publish(volume)
    write_and_sync(target / "file", b"new")
    node.leave(volume)


if __name__ == "__main__":
    sys.exit(run_all(globals(), prefix="node_filesystems"))
