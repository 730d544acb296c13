#!/usr/bin/python3
"""mooring-node when what it works with dies: half-done calls, adoption, successors, a reboot, hung storage, and
invariant 5 (never format data) with everything killed around mkfs. Root is needed; the storage server has four loops."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import harness
from controller_stack import equal, status
from node_fixture import (MIB, XFS_BYTES, Background, Stack, is_mounted, load, load_is_well, loop_devices,
                          write_and_sync)


# ---- half-done calls ----


def test_killed_in_stage(stack):
    """kill -9 at random moments of a Stage: the repeat finishes it."""
    rng, node = random.Random(harness.seed()), stack.n1
    for fs_type, size in (("ext4", 64 * MIB), ("xfs", XFS_BYTES)):
        volume = stack.volume(size=size, fs_type=fs_type).publish(node)
        for _ in range(4):
            call = Background(node.stage, volume)
            time.sleep(rng.uniform(0, 0.4))
            node.kill()
            call.status()
            node.start()
        harness.wait_until(lambda one=volume: harness.status_of(node.stage, one) == "OK", "the repeat works")
        node.publish(volume)
        (node.path(volume) / "file").write_text("there")
        equal(len([at for at in loop_devices().values() if volume.id in at]), 1, "loop devices of the volume")
        node.leave(volume)
        assert not node.volume_dir(volume).exists()


def test_killed_in_unstage(stack):
    rng, node = random.Random(harness.seed()), stack.n1
    volume = stack.volume()
    node.use(volume)
    node.unpublish(volume)
    for _ in range(3):
        call = Background(node.unstage, volume)
        time.sleep(rng.uniform(0, 0.15))
        node.kill()
        call.status()
        node.start()
    node.unstage(volume)
    assert not is_mounted(node.staging(volume)) and not node.volume_dir(volume).exists()
    volume.unpublish(node)


# ---- adoption, and successors ----


def test_node_killed_under_load(stack):
    """The device processes live on, and are adopted."""
    node, volume = stack.n1, stack.volume()
    writer = load(stack, node.use(volume), 4)
    pids = node.pid(volume), node.pid(volume, "holder")
    for _ in range(3):
        time.sleep(0.5)
        node.restart()
        equal((node.pid(volume), node.pid(volume, "holder")), pids, "the device's processes")
        node.stage(volume)
        node.publish(volume)
    load_is_well(writer)
    equal((node.pid(volume), node.pid(volume, "holder")), pids, "the device's processes")
    node.leave(volume)


def test_device_killed_under_load(stack):
    """A successor of the next generation, and no I/O error; also when it died while mooring-node was away."""
    for block in (False, True):
        node, volume = stack.n1, stack.volume(block=block)
        writer = load(stack, node.use(volume), 5, block)
        for generation in (2, 3):
            time.sleep(0.5)
            node.kill_device(volume)
            node.wait_ready(volume, generation)
        node.kill()
        node.kill_device(volume)
        time.sleep(0.3)
        node.start()
        node.wait_ready(volume, 4)
        load_is_well(writer)
        node.leave(volume)


def test_device_killed_in_unmount(stack):
    """The call waits for I/O that only a successor can finish: it gets one."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    node.unpublish(volume)
    (node.staging(volume) / "file").write_bytes(os.urandom(8 * MIB))  # not written back yet
    os.kill(stack.target.process.pid, signal.SIGSTOP)
    try:
        call = Background(node.unstage, volume)
        harness.wait_until(lambda: harness.status_of(node.unstage, volume) == "ABORTED", "the call runs")
        time.sleep(0.5)
        node.kill_device(volume)
    finally:
        os.kill(stack.target.process.pid, signal.SIGCONT)
    equal(call.status(), "OK", "unstaging")
    node.use(volume)
    equal((target / "file").stat().st_size, 8 * MIB, "what was written")
    node.leave(volume)


# ---- epochs ----


def test_stale_epoch(stack):
    node, volume = stack.n1, stack.volume()
    (node.use(volume) / "file").write_text("first")
    stale = dict(volume.context)
    pid = node.pid(volume)
    status("FAILED_PRECONDITION", node.stage, volume, publish_context={**stale, "epoch": "999"}, contains="999")
    equal(node.pid(volume), pid, "a wrong context took the device down")
    assert is_mounted(node.path(volume)), "a wrong context took the mount down"
    node.leave(volume)
    volume.publish(node)
    status("FAILED_PRECONDITION", node.stage, volume, publish_context=stale, contains="publish the volume again")
    node.stage(volume)
    status("FAILED_PRECONDITION", node.stage, volume, publish_context=stale, contains="publish the volume again")
    node.unstage(volume)
    volume.unpublish(node)


def test_newer_epoch(stack):
    """Detached by force and attached anew: the old staging is taken down first, whoever uses it."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    (target / "file").write_text("kept")
    harness.run("sync", target / "file")  # fsync(2) of that file alone
    old, pid = volume.epoch, node.pid(volume)
    with open(target / "file", "rb") as user:
        volume.unpublish(node)
        harness.wait_until(lambda: node.status(volume)["state"] == "failed", "the old device is refused")
        volume.publish(node)
        assert volume.epoch > old
        node.stage(volume)
        assert user
    assert node.pid(volume) != pid and not is_mounted(target)
    node.publish(volume)
    equal((target / "file").read_text(), "kept", "data")
    node.leave(volume)


def read_fails(path):
    """A read of a device node past every cache fails; one that hangs hangs the test."""
    return harness.run("dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", check=False).returncode != 0


def test_fenced(stack):
    """All I/O ends with an error, the volumes can be given back, and after unfencing all is as before."""
    node = stack.n2
    volume, block = stack.volume(), stack.volume(block=True)
    (node.use(volume) / "file").write_text("not flushed")
    target = node.use(block)
    stack.target.operator.FenceNode(node_id="n2", reason="test")
    for one in (volume, block):
        harness.wait_until(lambda it=one: node.status(it)["state"] == "failed", "the device is refused")
    assert read_fails(target)
    status("NOT_FOUND", node.stage, volume)
    for one in (volume, block):
        node.unpublish(one)
        node.unstage(one)
        assert not node.volume_dir(one).exists()
    status("FAILED_PRECONDITION", volume.publish, node)
    stack.target.operator.UnfenceNode(node_id="n2")
    for one in (volume, block):
        node.use(one)
        node.leave(one)


def test_detached_while_all_were_dead(stack):
    """The attachment went while neither mooring-node nor the device lived: what waits ends with an error."""
    node, volume = stack.n1, stack.volume(block=True)
    target = node.use(volume)
    node.kill()
    node.kill_device(volume)
    reader = Background(read_fails, target)
    volume.unpublish(node)
    node.start()
    harness.wait_until(lambda: node.status(volume)["state"] == "failed", "the device is refused")
    reader.status()
    assert read_fails(target)
    node.unpublish(volume)
    node.unstage(volume)


def test_reboot(stack):
    """A new boot id: what we left on this host is swept; a foreign mount and loop device stay."""
    node = stack.n1
    mount, block = stack.volume(), stack.volume(block=True)
    node.use(mount)
    node.use(block)
    foreign = stack.scratch.path / "foreign.img"
    with open(foreign, "wb") as file:
        file.truncate(64 * MIB)
    device = harness.run("losetup", "--find", "--show", foreign).stdout.strip()
    try:
        node.kill()
        harness.run("mount", "-t", "tmpfs", "foreign", node.path(mount))  # where ours was
        for volume in (mount, block):
            for program in ("device", "holder"):
                node.kill_device(volume, program)
        node.new_boot()
        node.start()
        for volume in (mount, block):
            assert not node.volume_dir(volume).exists(), node.log_text()[-1000:]
            assert not [at for at in loop_devices().values() if volume.id in at], "a loop device stays"
            assert not is_mounted(node.staging(volume))
        assert is_mounted(node.path(mount)), "a foreign mount was taken away"
        assert not node.path(block).exists(), "what was made for its mount stays, and nobody will take it away"
        equal(loop_devices().get(device), str(foreign), "a foreign loop device")
        harness.run("umount", node.path(mount))
    finally:
        harness.run("losetup", "--detach", device)
    for path in (node.path(mount), node.path(block)):
        if is_mounted(path):
            harness.run("umount", path)  # ours, below the foreign one
    for volume in (mount, block):
        node.use(volume)
        node.leave(volume)


def test_left_over_without_a_record(stack):
    """What has a folder and no record is swept at the start, its processes too; what others have is not."""
    node, volume, kept = stack.n1, stack.volume(block=True), stack.volume(block=True)
    volume.publish(node)
    node.stage(volume)
    node.use(kept)
    pid = node.pid(kept)
    node.kill()
    (node.volume_dir(volume) / "stage.json").unlink()
    processes = [node.pid(volume, program) for program in ("device", "holder")]
    node.start()
    assert not node.volume_dir(volume).exists(), node.log_text()[-1000:]
    assert not [at for at in loop_devices().values() if volume.id in at], "a loop device stays"
    harness.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes), "no process is left")
    equal(node.pid(kept), pid, "the device that is staged")
    node.leave(kept)
    volume.unpublish(node)


# ---- storage that hangs ----


def test_hung_storage(stack):
    """Stages and unmounts that hang leave Probe, the node's info, stats and refusals alone; later they end well."""
    node = stack.n1
    used, fresh, other = stack.volume(), stack.volume().publish(node), stack.volume(block=True)
    node.use(used)
    node.unpublish(used)
    node.use(other)
    (node.staging(used) / "file").write_bytes(os.urandom(4 * MIB))  # not written back yet
    os.kill(stack.target.process.pid, signal.SIGSTOP)
    try:
        calls = [Background(node.unstage, used), Background(node.stage, fresh)]
        time.sleep(0.5)
        assert all(call.running() for call in calls)
        equal(node.csi.Probe(timeout_s=10).ready.value, True, "Probe")
        equal(node.csi.NodeGetInfo(timeout_s=10).node_id, "n1", "NodeGetInfo")
        equal(node.stats(other, node.path(other)).usage[0].total, 64 * MIB, "stats of a device")
        status("ABORTED", node.unstage, used, contains="NodeUnstageVolume has been running for")
        status("ABORTED", node.stage, fresh, contains="NodeStageVolume has been running for")
        equal(harness.status_of(node.stage, other, timeout_s=2), "DEADLINE_EXCEEDED", "a call's deadline")
    finally:
        os.kill(stack.target.process.pid, signal.SIGCONT)
    for call in calls:
        assert call.status() in ("OK", "UNAVAILABLE"), call.status()
    harness.wait_until(lambda: harness.status_of(node.stage, fresh) == "OK", "the repeat works")
    node.unstage(fresh)
    node.unstage(used)
    node.leave(other)


def move(target):
    """The server's iSCSI on a port that nobody was told; it is stopped."""
    target.portal = f"127.0.0.1:{harness.free_port()}"
    target.config["portals"] = [target.portal]


def test_server_elsewhere(stack):
    """The storage server comes back where its devices do not look for it: mooring-node asks it, and what waits goes on.
    Also when mooring-node was away meanwhile, and for what is attached and ended after that."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    path = node.volume_dir(volume) / "device" / "device.json"
    before, pid = json.loads(path.read_text()), node.pid(volume)
    for away in (False, True):
        stack.target.kill()
        call = Background(write_and_sync, target / "file", os.urandom(4 * MIB))
        harness.wait_until(lambda: node.status(volume)["state"] == "waiting", "the device waits")
        if away:
            node.kill()
        move(stack.target)
        stack.target.start()
        if away:
            node.start()
        node.wait_ready(volume)
        equal(call.status(), "OK", "what waited")
        now = json.loads(path.read_text())
        equal(now, {**before, "portals": [stack.target.portal]}, "device.json")
        equal(path.stat().st_mode & 0o777, 0o600, "its mode")
    equal(node.pid(volume), pid, "the device's process")
    node.kill_device(volume)
    node.wait_ready(volume, before["generation"] + 1)
    (target / "file").write_text("there")
    node.leave(volume)


# ---- invariant 5 ----


def url(stack, volume, node):
    got = stack.target.node(node.id).GetAttachment(volume_id=volume.id, node_id=node.id)
    return f"iscsi://{got.chap_name}%{got.chap_secret}@{stack.target.portal}/{got.target_name}/0"


def test_foreign_data_is_not_formatted(stack):
    """What another initiator wrote makes the volume data: an LVM label, and bytes that are no signature at all."""
    node = stack.n1
    label = stack.scratch.path / "label.raw"
    label.write_bytes(bytes(512) + b"LABELONE" + (1).to_bytes(8, "little") + bytes(4) + (32).to_bytes(4, "little") +
                      b"LVM2 001" + bytes(4096 - 544))
    for write, check in (("write -P 0x4c 64k 4k", "read -P 0x4c 64k 4k"), (f"write -s {label} 0 4k", "read -P 0x4c 512 1")):
        volume = stack.volume().publish(node)
        harness.run(harness.program("qemu-io"), "-f", "raw", "-c", write, "-c", "flush", url(stack, volume, node))
        equal(volume.content(), "DATA", "content")
        status("FAILED_PRECONDITION", node.stage, volume, contains="not formatted over")
        node.unstage(volume)
        volume.unpublish(node)
        volume.publish(node)  # a name and secret for initiators that are not mooring-device
        out = harness.run(harness.program("qemu-io"), "-f", "raw", "-c", check, url(stack, volume, node)).stdout
        assert "verification failed" not in out, out
        volume.unpublish(node)


def test_blank_with_a_signature_is_not_formatted(stack):
    """The server holds it for blank, libblkid does not: written into the pool's file behind the server's back."""
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    image = stack.scratch.path / "signed.raw"
    image.write_bytes(bytes(1 << 20))
    harness.run(harness.program("mkswap"), image)
    data = stack.target.pool.path / "volumes" / volume.id / "data"
    harness.run("dd", f"if={image}", f"of={data}", "bs=1M", "conv=notrunc,fsync", "oflag=direct")
    equal(volume.content(), "BLANK", "content")
    status("FAILED_PRECONDITION", node.stage, volume, contains="swap: it is not formatted")
    equal(volume.content(), "BLANK", "content after the refusal")
    with open(data, "rb") as file:
        equal(file.read(4096)[-10:], b"SWAPSPACE2", "the signature")
    node.unstage(volume)
    volume.unpublish(node)


def interrupted_format(stack, node, volume, before):
    """Stage until mkfs waits; then mooring-node, its device and mkfs die at once. Its epoch's and generation's marks."""
    said, _ = node.slow_tool("mkfs.ext4", before=before)
    call = Background(node.stage, volume)
    harness.wait_until(said.exists, "mkfs runs")
    equal(volume.content(), "FORMATTING", "content while mkfs runs")
    mark = {"volume_id": volume.id, "node_id": node.id, "epoch": volume.epoch,
            "generation": node.status(volume)["generation"]}
    node.kill()
    node.kill_device(volume)
    call.status()
    (node.tools / "mkfs.ext4").unlink()
    return mark


def end_wrapper(node):
    (node.folder / "mkfs.ext4.go").touch()


def test_crash_in_format(stack):
    """The next Stage discards what mkfs left and formats: on this node, and on another one with a newer epoch."""
    for before in (True, False):
        node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
        interrupted_format(stack, node, volume, before)
        end_wrapper(node)
        node.start()
        harness.wait_until(lambda one=volume: harness.status_of(stack.n1.stage, one) == "OK", "the repeat works")
        equal(volume.content(), "DATA", "content")
        node.publish(volume)
        (node.path(volume) / "file").write_text("there")
        node.leave(volume)

        volume = stack.volume(fs_type="ext4").publish(node)
        late = interrupted_format(stack, node, volume, before)
        volume.unpublish(node)
        volume.publish(stack.n2)
        assert volume.epoch > late["epoch"]
        stack.n2.stage(volume)
        stack.n2.publish(volume)
        (stack.n2.path(volume) / "file").write_text("n2")
        for call in ("EndFormat", "BeginFormat"):
            refused = harness.status_of(getattr(stack.target.node("n1"), call), **late)
            assert refused in ("ABORTED", "NOT_FOUND", "FAILED_PRECONDITION"), f"a late {call}: {refused}"
        end_wrapper(node)
        node.start()
        equal((stack.n2.path(volume) / "file").read_text(), "n2", "data on the other node")
        stack.n2.leave(volume)
        node.unstage(volume)


def test_crash_with_mkfs_in_flight(stack):
    """mooring-node and the device die while a write of mkfs waits: no successor sends it, so the volume stays
    "formatting" until the repeat discards it."""
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    said, _ = node.slow_tool("mkfs.ext4")
    (node.tools / "mkfs.ext4").write_text(
        "#!/usr/bin/python3\nimport mmap, os, sys\nfd = os.open(sys.argv[-1], os.O_RDWR | os.O_DIRECT)\n"
        "page = mmap.mmap(-1, 4096)\npage.write(b'half' * 1024)\nat = 0\n"
        f"while True:\n    os.pwrite(fd, page, 8192 * (at % 4096))\n    at += 1\n    open('{said}', 'w').close()\n")
    call = Background(node.stage, volume)
    harness.wait_until(said.exists, "mkfs writes")
    node.kill()
    node.kill_device(volume)
    call.status()
    (node.tools / "mkfs.ext4").unlink()
    time.sleep(0.2)  # mkfs comes to its next write, which waits for a device
    node.start()
    harness.wait_until(lambda: harness.status_of(node.stage, volume) == "OK", "the repeat works")
    node.publish(volume)
    (node.path(volume) / "file").write_text("there")
    node.leave(volume)


def test_late_end_of_format(stack):
    """EndFormat of an older generation or epoch makes nothing data."""
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    late = interrupted_format(stack, node, volume, True)
    end_wrapper(node)
    volume.unpublish(node)
    volume.publish(stack.n2)
    said, go = stack.n2.slow_tool("mkfs.ext4")
    call = Background(stack.n2.stage, volume)
    harness.wait_until(said.exists, "mkfs runs on the other node")
    refused = harness.status_of(stack.target.node("n1").EndFormat, **late)
    assert refused in ("ABORTED", "NOT_FOUND"), refused
    equal(volume.content(), "FORMATTING", "content after a late EndFormat")
    go.touch()
    equal(call.status(), "OK", "the other node's Stage")
    (stack.n2.tools / "mkfs.ext4").unlink()
    stack.n2.unstage(volume)
    node.start()
    node.unstage(volume)
    volume.unpublish(stack.n2)


def test_device_killed_in_format(stack):
    """mooring-device alone dies under mkfs: the call ends, nothing was made data, and the repeat formats."""
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    said, go = node.slow_tool("mkfs.ext4")
    call = Background(node.stage, volume)
    harness.wait_until(said.exists, "mkfs runs")
    node.kill_device(volume)
    equal(call.status(), "UNAVAILABLE", "the call whose device died")
    equal(volume.content(), "FORMATTING", "content")
    go.touch()
    (node.tools / "mkfs.ext4").unlink()
    harness.wait_until(lambda: harness.status_of(node.stage, volume) == "OK", "the repeat works")
    node.unstage(volume)
    volume.unpublish(node)


def test_earlier_mkfs_still_runs(stack):
    """mooring-node alone dies under mkfs, which lives on: the repeat waits for its end before it discards."""
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    said, go = node.slow_tool("mkfs.ext4")
    # What mkfs does with the device from its first write on: it has it for itself.
    (node.tools / "mkfs.ext4").write_text(
        "#!/usr/bin/python3\nimport os, sys, time\nfd = os.open(sys.argv[-1], os.O_RDWR | os.O_EXCL)\n"
        f"open('{said}', 'w').close()\nwhile not os.path.exists('{go}'): time.sleep(0.05)\n"
        "os.pwrite(fd, b'late' * 1024, 1 << 20)\n")
    call = Background(node.stage, volume)
    harness.wait_until(said.exists, "mkfs runs")
    node.kill()
    call.status()
    (node.tools / "mkfs.ext4").unlink()
    node.start()
    status("ABORTED", node.stage, volume, contains="in use")
    go.touch()
    harness.wait_until(lambda: harness.status_of(node.stage, volume) == "OK", "the repeat works")
    node.publish(volume)
    (node.path(volume) / "file").write_text("there")
    node.leave(volume)


def test_read_error_is_not_blank(scratch):
    """The pool's own disk fails reads: Stage says so and formats nothing; when the disk is well again, it does."""
    disk = harness.FaultyDisk(scratch, size_bytes=2 << 30)
    stack = Stack(scratch, device=disk.device)
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    # A hole is never read from the disk: the probed regions are written, as a volume's space may be.
    data = stack.target.pool.path / "volumes" / volume.id / "data"
    subprocess.run(["dd", "if=/dev/zero", f"of={data}", "bs=1M", "count=16", "conv=notrunc,fsync", "oflag=direct"],
                   check=True, stderr=subprocess.DEVNULL)
    disk.command("fail read -1 5")
    refused = harness.status_of(node.stage, volume)
    assert refused not in ("OK", "FAILED_PRECONDITION"), refused
    equal(volume.content(), "BLANK", "content")
    disk.command("fail read 0 5")
    harness.wait_until(lambda: harness.status_of(node.stage, volume) == "OK", "the repeat works")
    node.unstage(volume)
    volume.unpublish(node)


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = Stack(scratch)
        except harness.Skip as why:
            print(f"SKIP node_faults: {why}")
            return 0
        for name, function in sorted(globals().items()):
            if name.startswith("test_") and name != "test_read_error_is_not_blank":
                suite.run(f"node_{name[5:]}", function, stack)
    with harness.Scratch() as scratch:
        suite.run("node_read_error_is_not_blank", test_read_error_is_not_blank, scratch)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
