#!/usr/bin/python3
"""In a guest: mooring-node on a real storage server on the disk that is named, with the way to attach that "auto" stands for on
this kernel: ublk from 7.x on, where its driver is loaded first. Started by test_guest_node.py and test_guest_fuse.py:
inside_node.py DISK CASE…; prints a line a case."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness
import node_fixture
import test_node_expand
import test_node_faults
import test_node_upgrade
from controller_stack import equal
from device_fixture import Device
from node_fixture import MIB, filesystem_bytes, is_mounted, load, load_is_well, write_and_sync
from test_node_hardening import both, end

WAY = "ublk" if int(os.uname().release.split(".")[0]) >= 7 else "fuse"
SLOW_S = 120  # no KVM, and a machine that others use


class Node(node_fixture.Node):
    """One whose volumes are attached the way that is meant."""

    def stage(self, volume, timeout_s=SLOW_S, **fields):
        answer = super().stage(volume, timeout_s, **fields)
        equal(json.loads((self.volume_dir(volume) / "stage.json").read_text())["attach"], WAY, "attach")
        assert self.device(volume).startswith("/dev/ublkb" if WAY == "ublk" else "/dev/loop"), self.status(volume)
        return answer

    def _end(self, folder, program):
        """A ublk device outlives both, and whoever unmounts what is on it would wait for a successor."""
        super()._end(folder, program)
        if program == "holder":
            harness.run(harness.program("mooring-device"), "--remove", "--state", folder / "device", check=False, timeout=SLOW_S)


def ublk_devices():
    return sorted(entry.name for entry in pathlib.Path("/sys/class/ublk-char").glob("ublkc*"))


def mounts_of(node):
    return [path for path, _ in node_fixture.mounts() if path.startswith(f"{node.folder}/")]


# ---- what a dead ublk device leaves mounted ----


def newer_epoch(stack):
    test_node_faults.test_newer_epoch(stack)
    equal(mounts_of(stack.n1), [], "mounts")


def lost(stack):
    """Its device and its holder are killed: once unpublished it is staged anew, though somebody still has a file open."""
    node, volume = stack.n1, stack.volume()
    write_and_sync(node.use(volume) / "file", b"kept")
    with open(node.staging(volume) / "file", "rb") as user:
        end(both(node, volume), signal.SIGKILL)
        harness.wait_until(lambda: f"volume {volume.id} has lost its block device" in node.log_text(), "the loss is said")
        node.unpublish(volume)
        node.stage(volume)
        assert user
    node.publish(volume)
    equal((node.path(volume) / "file").read_bytes(), b"kept", "data")
    node.leave(volume)
    equal(mounts_of(node), [], "mounts")


def unknown(stack):
    """The note of what is staged is lost: its mounts are detached, wherever they are."""
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    before = ublk_devices()
    node.kill()
    (node.volume_dir(volume) / "stage.json").unlink()
    node.start()
    equal(mounts_of(node), [], "mounts")
    assert not node.volume_dir(volume).exists(), node.log_text()[-1000:]
    assert ublk_devices() != before or WAY != "ublk", before
    node.use(volume)
    node.leave(volume)


@contextlib.contextmanager
def foreign_device(stack, path):
    """Another's, by the name that ours had, with a file system that is mounted somewhere."""
    device = Device(stack.scratch, stack.target, size_bytes=64 * MIB, node="foreign", start=False, attach="ublk")
    device.start_holder()
    device.start_device()
    device.wait_state("ready", timeout_s=SLOW_S)
    equal(device.path, path, "the foreign device's name")
    mount = device.dir / "mount"
    mount.mkdir()
    harness.run("mkfs.ext4", "-q", "-F", device.path, timeout=SLOW_S)
    harness.run("mount", device.path, mount, timeout=SLOW_S)
    try:
        yield mount
    finally:
        harness.run("umount", mount, timeout=SLOW_S, check=False)
        Device.remove_all()


def foreign(stack):
    """A ublk device of another's that has the name, and the number, of one that we had: its mounts stay where they are,
    whatever is left of ours, and in whichever boot."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    path, kept = node.device(volume), node.folder / "kept"
    number = os.stat(path).st_rdev
    node.kill()
    end(both(node, volume), signal.SIGKILL)
    harness.run(harness.program("mooring-device"), "--remove", "--state", node.volume_dir(volume) / "device", timeout=SLOW_S)
    for at in (target, node.staging(volume)):
        harness.run("umount", at, timeout=SLOW_S)
    harness.wait_until(lambda: not os.path.exists(path), "ours is gone")
    shutil.copytree(node.volume_dir(volume), kept, ignore=shutil.ignore_patterns("*.sock"))
    with foreign_device(stack, path) as mount:
        equal(os.stat(path).st_rdev, number, "the foreign device's number")
        for boot in ("this boot", "another boot"):
            for known in (False, True):
                shutil.rmtree(node.volume_dir(volume), ignore_errors=True)
                shutil.copytree(kept, node.volume_dir(volume))
                if not known:
                    (node.volume_dir(volume) / "stage.json").unlink()
                if boot == "another boot":
                    node.new_boot()
                target.mkdir(exist_ok=True)
                harness.run("mount", "--bind", mount, target)
                node.start()
                assert is_mounted(mount), f"{boot}, {known}: a foreign mount was taken away: {node.log_text()[-800:]}"
                assert is_mounted(target), f"{boot}, {known}: a foreign mount was taken from our path: {node.log_text()[-800:]}"
                write_and_sync(mount / "file", b"served")
                harness.run("umount", target)
                node.kill()
    node.start()
    node.use(volume)
    node.leave(volume)


# ---- what is the same with each way ----


def adopted(stack):
    test_node_faults.test_node_killed_under_load(stack)


def device_killed(stack):
    test_node_faults.test_device_killed_under_load(stack)


def killed_in_unmount(stack):
    test_node_faults.test_device_killed_in_unmount(stack)


def fenced(stack):
    """All I/O ends with an error, and the volumes can be given back. What was answered and not flushed when the fence came is
    lost, where there was any: that is said once."""
    node, volumes = stack.n2, (stack.volume(), stack.volume(block=True))
    paths = [node.use(volume) for volume in volumes]
    stack.target.operator.FenceNode(node_id="n2", reason="test")
    for volume in volumes:
        harness.wait_until(lambda one=volume: node.status(one)["state"] == "failed", "the device is refused")
    assert test_node_faults.read_fails(paths[1])
    for volume in volumes:
        node.unpublish(volume)
        try:
            node.unstage(volume)
        except grpc.RpcError as why:
            assert "the last flush failed" in why.details(), why.details()
            node.unstage(volume)
        assert not node.volume_dir(volume).exists()
    equal((mounts_of(node), ublk_devices()), ([], []), "mounts and ublk devices")
    stack.target.operator.UnfenceNode(node_id="n2")
    for volume in volumes:
        volume.unpublish(node)
        node.use(volume)
        node.leave(volume)


def no_record(stack):
    test_node_faults.test_left_over_without_a_record(stack)


def upgraded(stack):
    test_node_upgrade.test_under_load(stack)


def block_grown(stack):
    test_node_expand.test_online_block(stack)


def ext4_grown(stack):
    """By NodeExpandVolume, while fio writes to it: then it takes more than it had room for, and is well."""
    node, volume = stack.n1, stack.volume(fs_type="ext4")
    target = node.use(volume)
    writes = load(stack, target, 2)
    test_node_expand.grow(stack, volume, 128 * MIB)
    equal(test_node_expand.expand(node, volume), 128 * MIB, "capacity_bytes")
    equal(test_node_expand.device_bytes(node, volume), 128 * MIB, "the device's size")
    assert filesystem_bytes(target) > 112 * MIB, filesystem_bytes(target)
    load_is_well(writes)
    write_and_sync(target / "more", os.urandom(MIB) * 48)
    node.unpublish(volume)
    harness.run("umount", node.staging(volume), timeout=SLOW_S)
    harness.run(harness.program("fsck.ext4"), "-f", "-n", node.device(volume), timeout=SLOW_S)
    node.unstage(volume)
    volume.unpublish(node)


def ext4_grown_at_stage(stack):
    """A clone that is larger than its source: the file system has that size once it is staged."""
    node, source = stack.n1, stack.volume(fs_type="ext4")
    target = node.use(source)
    (target / "file").write_bytes(b"kept")
    before = filesystem_bytes(target)
    node.leave(source)
    clone = stack.volume(size=192 * MIB, fs_type="ext4", source=source)
    target = node.use(clone)
    assert filesystem_bytes(target) > before * 5 // 2, (before, filesystem_bytes(target))
    equal((target / "file").read_bytes(), b"kept", "data")
    equal(test_node_expand.expand(node, clone), 192 * MIB, "capacity_bytes")
    node.leave(clone)


CASES = (newer_epoch, lost, unknown, foreign, adopted, device_killed, killed_in_unmount, fenced, no_record, upgraded, block_grown,
         ext4_grown, ext4_grown_at_stage)


def slow_down():
    quick = harness.wait_until
    harness.wait_until = lambda condition, what, timeout_s=30, pause_s=0.1: quick(condition, what, max(timeout_s, SLOW_S),
                                                                                 pause_s)


def main():
    disk, names = sys.argv[1], sys.argv[2:]
    suite = harness.Suite()
    suite.only = names
    slow_down()
    if WAY == "ublk":
        harness.run("modprobe", "ublk_drv")
    node_fixture.Node = Node
    with harness.Scratch() as scratch:
        stack = node_fixture.Stack(scratch, device=disk)
        for case in CASES:
            before = suite.failed
            suite.run(case.__name__, case, stack)
            if suite.failed > before:
                print(f"# mooring-node: {stack.n1.log_text()[-2500:]}", flush=True)
                for node in (stack.n1, stack.n2):
                    if node.process.poll() is not None:
                        node.start()
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
