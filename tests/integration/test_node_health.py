#!/usr/bin/python3
"""NodeGetVolumeHealth, NodeGetStorageHealth and NodeGetVolumeStats: what they say of a device that waits, fails or has
errors, of a file system that gave up, of servers that are away or have fenced the node; and that none of them waits."""
import os
import signal
import sys
import threading

import harness
from controller_stack import equal, status
from node_fixture import MIB, XFS_BYTES, Background, run_all, write_and_sync


def health(node, volume, timeout_s=10, **fields):
    """The entries of a volume, "INACCESSIBLE StorageUnreachable" each, and their messages."""
    messages = node.csi.messages
    answer = node.csi.NodeGetVolumeHealth(volume_id=volume.id, timeout_s=timeout_s, **fields).volume_health
    equal(answer.volume_id, volume.id, "the volume")
    kinds = messages.VolumeHealthErrorType
    return {f"{kinds.Name(one.status)} {one.reason}": one.message for one in answer.health_statuses}


def storage_health(node):
    kinds = node.csi.messages.StorageHealthErrorType
    answer = node.csi.NodeGetStorageHealth(timeout_s=10).backend_health
    return {f"{kinds.Name(one.status)} {one.reason}": one.message for one in answer}


def becomes(node, volume, name, **fields):
    """Until that entry is there; its message."""
    harness.wait_until(lambda: name in health(node, volume, **fields), f"{name}: {health(node, volume, **fields)}")
    return health(node, volume, **fields)[name]


def is_well(node, volume):
    harness.wait_until(lambda: not health(node, volume), f"no entry: {health(node, volume)}")


def back(stack):
    stack.target.start()
    stack.controller.csi.wait_for_servers()


def test_well(stack):
    node = stack.n1
    for fields in ({"fs_type": "ext4"}, {"fs_type": "xfs", "size": XFS_BYTES}, {"block": True}):
        volume = stack.volume(**fields)
        target = node.use(volume)
        equal(health(node, volume), {}, "entries")
        equal(health(node, volume, volume_publish_path=str(target), staging_target_path=str(node.staging(volume))), {},
              "entries with paths")
        node.leave(volume)
        status("NOT_FOUND", health, node, volume)
    harness.wait_until(lambda: not storage_health(node), f"no entry: {storage_health(node)}")


def test_refusals(stack):
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    call = node.csi.NodeGetVolumeHealth
    status("INVALID_ARGUMENT", call, contains="volume_id")
    status("NOT_FOUND", call, volume_id="nothing")
    status("NOT_FOUND", call, volume_id=volume.id, volume_publish_path="/nowhere", contains="/nowhere")
    status("NOT_FOUND", call, volume_id=volume.id, staging_target_path="/nowhere", contains="/nowhere")
    status("INVALID_ARGUMENT", call, volume_id=volume.id, volume_publish_path="here", contains="absolute")
    node.leave(volume)


def test_server_away(stack):
    """The volume and the server are told of, with since when; stats end in time, and do not pile up while a write hangs."""
    node, volume = stack.n1, stack.volume(size=XFS_BYTES, fs_type="xfs")
    target = node.use(volume)
    stack.target.kill()
    message = becomes(node, volume, "INACCESSIBLE StorageUnreachable")
    assert "waits" in message and " s:" in message, message
    harness.wait_until(lambda: "STORAGE_UNREACHABLE StorageUnreachable" in storage_health(node), "the server is told of")
    message = storage_health(node)["STORAGE_UNREACHABLE StorageUnreachable"]
    assert "storage server s1" in message and "has not answered for" in message, message
    writer = threading.Thread(target=write_and_sync, args=(target / "file", os.urandom(MIB)), daemon=True)
    writer.start()
    calls = [Background(node.stats, volume, target, timeout_s=20) for _ in range(8)]
    calls += [Background(health, node, volume, timeout_s=20) for _ in range(8)]
    for call in calls:
        assert call.status() in ("OK", "UNAVAILABLE"), call.status()
    back(stack)
    writer.join(60)
    is_well(node, volume)
    harness.wait_until(lambda: not storage_health(node), "the server is well")
    node.stats(volume, target)
    node.leave(volume)


def test_stats_that_hang(stack):
    """A program that does not end: the call does, in words, and so does a repeat, at once; then it is forgotten."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    said = node.folder / "stat.said"
    tool = node.tools / "stat"
    tool.write_text(f"#!/bin/sh\necho $$ >>{said}\ntrap '' TERM\nwhile :; do sleep 1; done\n")
    tool.chmod(0o755)
    status("UNAVAILABLE", node.stats, volume, target, contains="did not end within")
    tool.unlink()
    harness.wait_until(lambda: not os.path.exists(f"/proc/{said.read_text().split()[0]}"), "it was ended")
    assert node.stats(volume, target).usage
    node.leave(volume)


def test_device_that_died(stack):
    """Without a successor, since mooring-node cannot start one; then one."""
    node, volume = stack.n1, stack.volume(block=True)
    node.use(volume)
    pid = node.pid(volume)
    os.kill(pid, signal.SIGSTOP)
    equal(health(node, volume), {}, "its word stands while it lives")
    os.kill(pid, signal.SIGCONT)
    stack.target.kill()
    node.kill_device(volume)
    message = becomes(node, volume, "INACCESSIBLE DeviceRestarting")
    assert "successor" in message, message
    back(stack)
    is_well(node, volume)
    node.leave(volume)


def test_device_that_is_lost(stack):
    node, volume = stack.n1, stack.volume(block=True)
    node.use(volume)
    node.kill()
    node.kill_device(volume, "holder")
    node.kill_device(volume)
    node.start()
    message = becomes(node, volume, "INACCESSIBLE DeviceLost")
    assert "unstage it" in message, message
    node.unpublish(volume)
    node.unstage(volume)
    volume.unpublish(node)


def test_io_errors(stack):
    """Requests that ended with an error are counted, and told of while they are new."""
    node, volume = stack.n1, stack.volume(block=True, pathTimeout="1s")
    target = node.use(volume)
    stack.target.kill()
    call = Background(read_directly, target)
    assert "Input/output" in call.status(), call.status()
    message = becomes(node, volume, "DEGRADED IoErrors")
    assert "ended with an error" in message, message
    back(stack)
    node.leave(volume)


def read_directly(path):
    import mmap
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
    finally:
        os.close(fd)


def test_fenced(stack):
    """The fence of a server is told of, and what it does to a volume."""
    node, volume = stack.n2, stack.volume(block=True)
    node.use(volume)
    stack.target.operator.FenceNode(node_id=node.id, reason="test")
    harness.wait_until(lambda: "STORAGE_UNREACHABLE NodeFenced" in storage_health(node), "the server's fence is told of")
    becomes(node, volume, "INACCESSIBLE NodeFenced")
    message = becomes(node, volume, "INACCESSIBLE DeviceFailed")
    assert "its I/O ends with errors" in message, message
    node.unpublish(volume)
    node.unstage(volume)
    stack.target.operator.UnfenceNode(node_id=node.id)
    harness.wait_until(lambda: not storage_health(node), "no entry after the fence")


def test_file_systems(stack):
    """ext4 that found an error, one that is read-only for it, and an XFS that was shut down."""
    node, volume = stack.n1, stack.volume(fs_type="ext4")
    target = node.use(volume)
    name = node.device(volume).rpartition("/")[2]
    with open(f"/sys/fs/ext4/{name}/trigger_fs_error", "w", encoding="utf-8") as file:
        file.write("a test")
    message = becomes(node, volume, "DEGRADED FilesystemErrors")
    assert "1 errors" in message, message
    harness.run("mount", "-o", "remount,ro", node.staging(volume))
    becomes(node, volume, "DEGRADED FilesystemReadOnly")
    node.leave(volume)
    node.use(volume)  # it is checked
    is_well(node, volume)
    (target / "file").write_bytes(b"writable")
    node.leave(volume)
    volume = stack.volume(size=XFS_BYTES, fs_type="xfs")
    node.use(volume)
    harness.run(harness.program("xfs_io"), "-x", "-c", "shutdown", node.staging(volume))
    becomes(node, volume, "INACCESSIBLE FilesystemShutDown")
    node.leave(volume)
    node.use(volume)
    is_well(node, volume)
    node.leave(volume)


def test_mounts(stack):
    """A mount that somebody took away."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    harness.run("umount", target)
    becomes(node, volume, "INACCESSIBLE NotPublished", volume_publish_path=str(target))
    status("NOT_FOUND", node.stats, volume, target, contains="nothing is mounted")
    harness.run("umount", node.staging(volume))
    becomes(node, volume, "INACCESSIBLE NotMounted")
    node.leave(volume)


if __name__ == "__main__":
    sys.exit(run_all(globals(), prefix="node_health"))
