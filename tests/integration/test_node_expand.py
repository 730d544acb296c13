#!/usr/bin/python3
"""NodeExpandVolume: a volume that grows while it is in use, by ext4, xfs and as a block device, with a storage server that
goes away meanwhile, a device process that is replaced, and each refusal."""
import mmap
import os
import sys
import time

import harness
from controller_stack import equal, status
from node_fixture import MIB, XFS_BYTES, Background, filesystem_bytes, load, load_is_well, run_all


def grow(stack, volume, size):
    """On the storage server, as ControllerExpandVolume has it."""
    server = stack.target.controller
    have = server.GetVolume(volume_id=volume.id).volume
    server.ExpandVolume(volume_id=volume.id, size_bytes=size, record_generation=have.record_generation)


def expand(node, volume, path=None, timeout_s=60, **fields):
    return node.csi.NodeExpandVolume(volume_id=volume.id, volume_path=str(path or node.path(volume)),
                                     timeout_s=timeout_s, **fields).capacity_bytes


def device_bytes(node, volume):
    return int(harness.run("blockdev", "--getsize64", node.device(volume)).stdout)


def need_ext4_growth():
    """The kernel grows a mounted ext4 for CAP_SYS_RESOURCE only, which some machines take from everybody."""
    with open("/proc/self/status", encoding="utf-8") as text:
        bounding = [int(line.split()[1], 16) for line in text if line.startswith("CapBnd:")][0]
    if not bounding >> 24 & 1:
        raise harness.Skip("growing a mounted ext4 needs CAP_SYS_RESOURCE, which this machine does not give to root")


def grows_online(stack, kind, size, larger):
    """Twice, under load; the data is what it was, and the file system is well."""
    node, volume = stack.n1, stack.volume(size=size, fs_type=kind)
    target = node.use(volume)
    writes = load(stack, target, 4)
    time.sleep(0.5)
    for wanted in larger:
        before = filesystem_bytes(target)
        grow(stack, volume, wanted)
        equal(expand(node, volume, capacity_range={"required_bytes": wanted}), wanted, "capacity_bytes")
        equal(device_bytes(node, volume), wanted, "the device's size")
        assert filesystem_bytes(target) > (before + wanted) // 2, "it has not grown"
        equal(expand(node, volume), wanted, "a repeat")
    load_is_well(writes)
    filler = target / "filler"  # needs the new space
    with open(filler, "wb") as file:
        for _ in range(larger[-1] // MIB * 3 // 4):
            file.write(os.urandom(4096) * 256)
        file.flush()
        os.fsync(file.fileno())
    node.unpublish(volume)
    harness.run("umount", node.staging(volume))
    check = ["fsck.ext4", "-f", "-n"] if kind == "ext4" else ["xfs_repair", "-n"]
    harness.run(harness.program(check[0]), *check[1:], node.device(volume))
    node.unstage(volume)
    volume.unpublish(node)


def test_online_ext4(stack):
    need_ext4_growth()
    grows_online(stack, "ext4", 64 * MIB, [128 * MIB, 256 * MIB])


def test_online_xfs(stack):
    grows_online(stack, "xfs", XFS_BYTES, [2 * XFS_BYTES])


def test_online_block(stack):
    """The new end is written and read under the load that began before; the path knows its device by the same number."""
    node, volume = stack.n1, stack.volume(block=True)
    target = node.use(volume)
    number = os.stat(target).st_rdev
    writes = load(stack, target, 3, block=True)
    grow(stack, volume, 96 * MIB)
    equal(expand(node, volume, volume_capability=volume.capability), 96 * MIB, "capacity_bytes")
    equal(os.stat(target).st_rdev, number, "the device's number")
    usage = list(node.stats(volume, target).usage)
    equal([(entry.total, entry.unit) for entry in usage], [(96 * MIB, 1)], "usage")
    data = os.urandom(MIB)
    fd = os.open(target, os.O_RDWR)
    os.pwrite(fd, data, 95 * MIB)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    equal(os.pread(fd, MIB, 95 * MIB), data, "what was written behind the old end")
    os.close(fd)
    load_is_well(writes)
    node.leave(volume)


def test_without_being_asked(stack):
    """The server's unit attention is enough for the device, where I/O meets it."""
    node, volume = stack.n1, stack.volume(block=True)
    target = node.use(volume)
    grow(stack, volume, 80 * MIB)

    def grown():
        fd = os.open(target, os.O_RDONLY | os.O_DIRECT)
        os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
        os.close(fd)
        return device_bytes(node, volume) == 80 * MIB
    harness.wait_until(grown, "the device has grown")
    harness.wait_until(lambda: node.status(volume)["size_bytes"] == 80 * MIB, "status.json says so")
    node.leave(volume)


def test_while_the_server_is_away(stack):
    """Grown, and the server gone before anybody learns of it: the next session tells."""
    node, volume = stack.n1, stack.volume(block=True)
    node.use(volume)
    grow(stack, volume, 72 * MIB)
    stack.target.kill()
    assert harness.status_of(expand, node, volume, timeout_s=3) in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    stack.target.start()
    stack.controller.csi.wait_for_servers()
    harness.wait_until(lambda: device_bytes(node, volume) == 72 * MIB, "the device has grown")
    equal(expand(node, volume), 72 * MIB, "capacity_bytes")
    node.leave(volume)


def test_successor(stack):
    """A device process that is killed before and after: its successor has the size, and so has the block device."""
    node, volume = stack.n1, stack.volume(block=True)
    target = node.use(volume)
    writes = load(stack, target, 4, block=True)
    grow(stack, volume, 100 * MIB)
    node.kill_device(volume)
    equal(expand(node, volume), 100 * MIB, "capacity_bytes")
    node.kill_device(volume)
    node.wait_ready(volume, 3)
    harness.wait_until(lambda: node.status(volume)["size_bytes"] == 100 * MIB, "the successor has it")
    equal(device_bytes(node, volume), 100 * MIB, "the device's size")
    load_is_well(writes)
    node.leave(volume)


def grows_offline(stack, kind, size):
    """Grown while detached: staging grows the file system, and NodeExpandVolume finds nothing to do."""
    node, volume = stack.n1, stack.volume(size=size, fs_type=kind)
    target = node.use(volume)
    (target / "file").write_bytes(b"kept")
    before = filesystem_bytes(target)
    node.leave(volume)
    grow(stack, volume, 2 * size)
    node.use(volume)
    assert filesystem_bytes(target) > before * 3 // 2, (kind, before, filesystem_bytes(target))
    equal((target / "file").read_bytes(), b"kept", "the data")
    equal(expand(node, volume), 2 * size, "capacity_bytes")
    node.leave(volume)


def test_offline_ext4(stack):
    need_ext4_growth()
    grows_offline(stack, "ext4", 64 * MIB)


def test_offline_xfs(stack):
    grows_offline(stack, "xfs", XFS_BYTES)


def test_ext4_without_the_right(stack):
    """Where the host does not let ext4 grow, the block device grows, the answer says why, and staging goes on."""
    try:
        need_ext4_growth()
    except harness.Skip:
        pass
    else:
        raise harness.Skip("root may grow a mounted ext4 here")
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    grow(stack, volume, 128 * MIB)
    status("FAILED_PRECONDITION", expand, node, volume, contains="CAP_SYS_RESOURCE")
    equal(device_bytes(node, volume), 128 * MIB, "the device's size")
    node.leave(volume)
    node.use(volume)
    node.leave(volume)


def test_refusals(stack):
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    size = 64 * MIB
    call = node.csi.NodeExpandVolume
    status("INVALID_ARGUMENT", call, volume_path=str(target), contains="volume_id")
    status("INVALID_ARGUMENT", call, volume_id=volume.id, contains="volume_path")
    status("INVALID_ARGUMENT", call, volume_id=volume.id, volume_path="here", contains="absolute")
    status("NOT_FOUND", call, volume_id="nothing", volume_path=str(target))
    status("NOT_FOUND", call, volume_id=stack.volume().id, volume_path=str(target), contains="not staged")
    status("NOT_FOUND", expand, node, volume, path="/nowhere", contains="/nowhere")
    status("NOT_FOUND", expand, node, volume, staging_target_path="/elsewhere", contains="/elsewhere")
    status("INVALID_ARGUMENT", expand, node, volume, volume_capability=volume.csi.capability(block=True),
           contains="with a file system")
    status("INVALID_ARGUMENT", expand, node, volume, volume_capability=volume.csi.capability(block=False, fs_type="xfs"),
           contains="ext4")
    status("OUT_OF_RANGE", expand, node, volume, capacity_range={"required_bytes": size + 1},
           contains="ControllerExpandVolume")
    status("OUT_OF_RANGE", expand, node, volume, capacity_range={"limit_bytes": size - 1}, contains="limit")
    status("OUT_OF_RANGE", expand, node, volume, capacity_range={"required_bytes": 2, "limit_bytes": 1})
    status("OUT_OF_RANGE", expand, node, volume, capacity_range={"required_bytes": -1})
    equal(expand(node, volume, path=node.staging(volume), staging_target_path=str(node.staging(volume))), size,
          "by its staging path")
    node.leave(volume)


def test_one_at_a_time(stack):
    """A file system that is being grown for long: a repeat is told what runs, and the growth gets to its end."""
    node, volume = stack.n1, stack.volume(size=XFS_BYTES, fs_type="xfs")
    target = node.use(volume)
    grow(stack, volume, 2 * XFS_BYTES)
    said, go = node.slow_tool("xfs_growfs")
    first = Background(expand, node, volume, timeout_s=60)
    harness.wait_until(said.exists, "xfs_growfs runs")
    status("ABORTED", expand, node, volume, contains="NodeExpandVolume has been running for")
    go.touch()
    equal(first.status(), "OK", "the first call")
    (node.tools / "xfs_growfs").unlink()
    assert filesystem_bytes(target) > 3 * XFS_BYTES // 2
    node.leave(volume)


def test_read_only(stack):
    """A file system that may not be written to keeps its size, and that is said."""
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    node.leave(volume)
    grow(stack, volume, 128 * MIB)
    volume.publish(node, readonly=True)
    node.stage(volume)
    node.publish(volume)
    status("FAILED_PRECONDITION", expand, node, volume, contains="read-only")
    node.leave(volume)


def test_mounted_read_only(stack):
    """Mount options that only read: the volume is staged with the size that its file system has, and grows another time."""
    node, volume = stack.n1, stack.volume(size=XFS_BYTES, fs_type="xfs")
    before = filesystem_bytes(node.use(volume))
    node.leave(volume)
    grow(stack, volume, 2 * XFS_BYTES)
    volume.capability.mount.mount_flags.append("ro")
    equal(filesystem_bytes(node.use(volume)), before, "read-only")
    status("FAILED_PRECONDITION", expand, node, volume, contains="read-only")
    node.leave(volume)
    del volume.capability.mount.mount_flags[:]
    assert filesystem_bytes(node.use(volume)) > before * 3 // 2
    node.leave(volume)


if __name__ == "__main__":
    sys.exit(run_all(globals(), prefix="node_expand"))
