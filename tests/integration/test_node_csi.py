#!/usr/bin/python3
"""mooring-node as a CO sees it: the CSI Node service over a real device, a real controller and a real storage server
with four loops (root is needed for mounts)."""
import json
import os
import pathlib
import signal
import stat
import sys

import harness
from controller_stack import equal, status
from node_fixture import MIB, XFS_BYTES, Background, Node, is_mounted, mounts, run_all


def options_of(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return [line.split()[5] for line in table if line.split()[4] == str(path)][-1].split(",")


# ---- a volume's way ----


def life(stack, volume, fs_type):
    """Each call repeated, from the attachment to its end."""
    node = stack.n1
    volume.publish(node)
    staging, target = node.staging(volume), node.path(volume)
    for _ in range(2):
        node.stage(volume)
    equal([kind for at, kind in mounts() if at == str(staging)], [fs_type], "mounts at the staging path")
    for _ in range(2):
        node.publish(volume)
    equal([kind for at, kind in mounts() if at == str(target)], [fs_type], "mounts at the target path")
    (target / "file").write_bytes(b"kept" * 4096)
    usage = {entry.unit: entry for entry in node.stats(volume, target).usage}
    equal(sorted(usage), [1, 2], "bytes and inodes")
    for entry in usage.values():
        assert 0 < entry.used <= entry.total and 0 < entry.available <= entry.total, entry
    status("NOT_FOUND", node.stats, volume, "/nowhere")
    status("FAILED_PRECONDITION", node.unstage, volume, contains="still published")
    for _ in range(2):
        node.unpublish(volume)
    assert not target.exists(), "the target path is ours to remove"
    for _ in range(2):
        node.unstage(volume)
    assert not is_mounted(staging) and not node.volume_dir(volume).exists()
    status("NOT_FOUND", node.stats, volume, target)
    node.use(volume)
    equal((target / "file").read_bytes(), b"kept" * 4096, "data after staging anew")
    node.leave(volume)


def noted(path):
    """What libmount's own table, which systemd reads, has of a mount."""
    lines = pathlib.Path("/run/mount/utab").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if f"TARGET={path} " in f"{line} "]


def test_network_mounts(stack):
    """Both mounts of a volume are network mounts to systemd, and their notes end with them."""
    node, volume = stack.n1, stack.volume()
    paths = [node.use(volume), node.staging(volume)]
    for path in paths:
        assert "_netdev" in harness.run("findmnt", "--mtab", "--noheadings", "--output", "OPTIONS", path).stdout, noted(path)
    node.leave(volume)
    equal([noted(path) for path in paths], [[], []], "notes that are left")


def test_life_ext4(stack):
    life(stack, stack.volume(fs_type="ext4"), "ext4")


def test_life_default_is_ext4(stack):
    life(stack, stack.volume(), "ext4")


def test_life_xfs(stack):
    life(stack, stack.volume(size=XFS_BYTES, fs_type="xfs"), "xfs")


def test_fsck(stack):
    """What mkfs and the kernel wrote through our device is what their own checkers expect."""
    node = stack.n1
    for kind, size, check in (("ext4", 64 * MIB, ["fsck.ext4", "-f", "-n"]), ("xfs", XFS_BYTES, ["xfs_repair", "-n"])):
        volume = stack.volume(size=size, fs_type=kind)
        target = node.use(volume)
        for i in range(8):
            (target / f"file{i}").write_bytes(os.urandom(MIB))
        node.unpublish(volume)
        harness.run("umount", node.staging(volume))
        harness.run(harness.program(check[0]), *check[1:], node.device(volume))
        node.unstage(volume)
        volume.unpublish(node)


def test_life_block(stack):
    node, volume = stack.n1, stack.volume(block=True)
    volume.publish(node)
    target = node.path(volume)
    for _ in range(2):
        node.stage(volume)
    for _ in range(2):
        node.publish(volume)
    equal(os.stat(target).st_rdev, os.stat(node.device(volume)).st_rdev, "the device node")
    assert stat.S_ISBLK(os.stat(target).st_mode)
    usage = list(node.stats(volume, target).usage)
    equal([(entry.total, entry.unit) for entry in usage], [(64 * MIB, 1)], "usage")
    harness.run(harness.program("fio"), "--name=verify", f"--filename={target}", "--direct=1", "--ioengine=io_uring",
                "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=8", "--size=32M", "--verify=crc32c",
                "--verify_state_save=0", "--fsync=64")
    for _ in range(2):
        node.unpublish(volume)
    assert not target.exists()
    for _ in range(2):
        node.unstage(volume)
    volume.unpublish(node)


def test_attach_options(stack):
    """The StorageClass's way to attach, path timeout and lease reach the device, and each successor of it."""
    def told(volume):
        device = json.loads((node.volume_dir(volume) / "device" / "device.json").read_text())
        return [device[key] for key in ("attach", "path_timeout_ms", "lease_ms", "sessions")]
    node, volume = stack.n1, stack.volume(block=True, attach="fuse", pathTimeout="30s", lease="1m", sessions="1")
    node.use(volume)
    equal(told(volume), ["fuse", 30000, 60000, 1], "device.json")
    node.kill_device(volume)
    node.wait_ready(volume, 2)
    equal(told(volume), ["fuse", 30000, 60000, 1], "device.json of the successor")
    node.leave(volume)
    plain = stack.volume(block=True)
    node.use(plain)
    equal(told(plain)[1:], [0, 0, 1], "device.json where nothing was asked for")
    node.leave(plain)
    for key, value in (("pathTimeout", "soon"), ("pathTimeout", "1ms"), ("lease", "1s"), ("attach", "nbd"), ("sessions", "9")):
        volume.publish(node)
        status("INVALID_ARGUMENT", node.stage, volume, volume_context={key: value}, contains=key)
        volume.unpublish(node)


def test_attach_that_does_not_work(stack):
    """A way that this host lacks is refused with its reason, and nothing is left of the try."""
    if os.path.exists("/dev/ublk-control"):
        raise harness.Skip("this host has ublk")
    node, volume = stack.n1, stack.volume(block=True, attach="ublk").publish(stack.n1)
    status("FAILED_PRECONDITION", node.stage, volume, contains="ublk")
    node.unstage(volume)
    assert not node.volume_dir(volume).exists()
    volume.unpublish(node)


def test_mkfs_options(stack):
    node, volume = stack.n1, stack.volume(fs_type="ext4", mkfsOptions="-L moored -m 0")
    node.use(volume)
    shown = harness.run(harness.program("dumpe2fs"), "-h", node.device(volume)).stdout
    assert "moored" in shown, shown
    node.leave(volume)
    status("INVALID_ARGUMENT", stack.volume, fs_type="ext4", mkfsOptions="--no-such-option", contains="mkfs.ext4")
    status("INVALID_ARGUMENT", stack.volume, mkfsOptions="-d etc", contains="-d")
    by_hand = stack.volume(fs_type="ext4").publish(node)
    by_hand.volume_context["mkfsOptions"] = "-d etc"
    status("INVALID_ARGUMENT", node.stage, by_hand, contains="mkfs.ext4")
    by_hand.volume_context["mkfsOptions"] = "-O journal_dev"  # which is no file system
    status("INVALID_ARGUMENT", node.stage, by_hand, contains="mkfsOptions")
    equal(by_hand.content(), "FORMATTING", "what mkfs made by mistake is not data")
    del by_hand.volume_context["mkfsOptions"]
    node.use(by_hand)
    node.leave(by_hand)


def test_mount_flags(stack):
    node, volume = stack.n1, stack.volume(flags=["noatime", "nosuid", "nodev"])
    node.use(volume)
    assert {"noatime", "nosuid", "nodev", "rw"} <= set(options_of(node.path(volume))), options_of(node.path(volume))
    node.publish(volume, "ro", readonly=True)
    assert {"noatime", "nosuid", "nodev", "ro"} <= set(options_of(node.path(volume, "ro"))), "a read-only path"
    node.unpublish(volume, "ro")
    node.leave(volume)
    wrong = stack.volume(flags=["no_such_flag"]).publish(node)
    status("INVALID_ARGUMENT", node.stage, wrong, contains="no_such_flag")
    node.unstage(wrong)
    other = stack.volume().publish(node)  # what would mount something else could not be taken away
    for flag in ("loop", "loop=/dev/loop99", "offset=4096", "bind", "rbind", "remount"):
        other.capability.mount.mount_flags[:] = ["noatime", flag]
        status("INVALID_ARGUMENT", node.stage, other, contains=flag)
        other.volume_context["mountOptions"] = f"noatime,{flag}"
        del other.capability.mount.mount_flags[:]
        status("INVALID_ARGUMENT", node.stage, other, contains=flag)
        del other.volume_context["mountOptions"]
    assert not node.volume_dir(other).exists()
    other.unpublish(node)


# ---- read-only ----


def refuses_writes(path):
    try:
        (path / "new").write_text("x")
    except OSError:
        return True
    return False


def test_readonly_path(stack):
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    (target / "file").write_text("there")
    for _ in range(2):
        node.publish(volume, "ro", readonly=True)
    assert refuses_writes(node.path(volume, "ro")) and not refuses_writes(target)
    equal((node.path(volume, "ro") / "file").read_text(), "there", "read")
    status("ALREADY_EXISTS", node.publish, volume, "ro", readonly=False, contains="read-only")
    status("ALREADY_EXISTS", node.publish, volume, readonly=True, contains="writable")
    node.unpublish(volume, "ro")
    node.leave(volume)


def test_readonly_attachment(stack):
    node = stack.n1
    blank = stack.volume().publish(node, readonly=True)
    status("FAILED_PRECONDITION", node.stage, blank, contains="read-only")
    node.unstage(blank)
    blank.unpublish(node)
    for kind, size in (("ext4", 64 * MIB), ("xfs", XFS_BYTES)):
        volume = stack.volume(size=size, fs_type=kind)
        (node.use(volume) / "file").write_text("there")
        node.leave(volume)
        volume.publish(node, readonly=True)
        node.stage(volume)
        node.publish(volume, readonly=True)
        target = node.path(volume)
        assert refuses_writes(target) and refuses_writes(node.staging(volume))
        equal((target / "file").read_text(), "there", "read")
        node.leave(volume)


# ---- required fields, and the error tables ----


def test_required(stack):
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    for call in (node.stage, node.unstage, node.publish, node.unpublish):
        status("INVALID_ARGUMENT", call, volume, volume_id="", contains="volume_id")
        status("NOT_FOUND", call, volume, volume_id="not one of ours")
    status("INVALID_ARGUMENT", node.stage, volume, staging_target_path="", contains="staging_target_path")
    status("INVALID_ARGUMENT", node.stage, volume, staging_target_path="rel", contains="absolute")
    status("INVALID_ARGUMENT", node.unstage, volume, staging_target_path="", contains="staging_target_path")
    status("INVALID_ARGUMENT", node.publish, volume, target_path="", contains="target_path")
    status("FAILED_PRECONDITION", node.publish, volume, staging_target_path="", contains="staging_target_path")
    status("INVALID_ARGUMENT", node.unpublish, volume, target_path="", contains="target_path")
    csi = node.csi
    status("INVALID_ARGUMENT", csi.NodeGetVolumeStats, volume_path="/x", contains="volume_id")
    status("INVALID_ARGUMENT", csi.NodeGetVolumeStats, volume_id=volume.id, contains="volume_path")
    for call in (node.stage, node.publish):
        status("INVALID_ARGUMENT", call, volume, volume_capability=None, contains="volume_capability")
        for field in ("access_mode", "mount"):
            lacking = csi.capability(block=False)
            lacking.ClearField(field)
            status("INVALID_ARGUMENT", call, volume, volume_capability=lacking, contains="volume_capability")
    status("INVALID_ARGUMENT", node.stage, volume, publish_context={}, contains="epoch")
    status("INVALID_ARGUMENT", node.stage, volume, publish_context={"epoch": "x"}, contains="epoch")
    status("INVALID_ARGUMENT", node.stage, volume, volume_capability=csi.capability(block=False, fs_type="btrfs"))
    assert not node.volume_dir(volume).exists(), "what was refused left something"
    volume.unpublish(node)


def test_not_there(stack):
    node, volume = stack.n1, stack.volume()
    volume.context = {"epoch": "1"}
    status("NOT_FOUND", node.stage, volume)  # not attached to this node
    status("FAILED_PRECONDITION", node.publish, volume, contains="not staged")
    absent = "s1.0123456789abcdef"
    status("NOT_FOUND", node.stage, volume, volume_id=absent)
    status("INVALID_ARGUMENT", node.stage, volume, volume_id="other.0123456789abcdef", contains="other")
    equal(harness.status_of(node.unstage, volume, volume_id=absent), "OK", "unstaging the unknown")
    equal(harness.status_of(node.unpublish, volume, volume_id=absent), "OK", "unpublishing the unknown")
    status("NOT_FOUND", node.csi.NodeGetVolumeStats, volume_id=absent, volume_path="/")


def test_incompatible(stack):
    node, volume = stack.n1, stack.volume(fs_type="ext4")
    node.use(volume)
    csi = node.csi
    other = {"staging_target_path": str(node.folder / "elsewhere")}
    status("ALREADY_EXISTS", node.stage, volume, contains="staged at", **other)
    status("ALREADY_EXISTS", node.stage, volume, volume_capability=csi.capability(block=True))
    status("ALREADY_EXISTS", node.stage, volume, volume_capability=csi.capability(block=False, fs_type="xfs"))
    status("ALREADY_EXISTS", node.stage, volume,
           volume_capability=csi.capability("SINGLE_NODE_SINGLE_WRITER", block=False, fs_type="ext4"))
    status("FAILED_PRECONDITION", node.publish, volume, contains="not staged at", **other)
    status("ALREADY_EXISTS", node.publish, volume, volume_capability=csi.capability(block=True))
    equal(harness.status_of(node.unstage, volume, **other), "OK", "nothing is staged there")
    assert is_mounted(node.staging(volume)), "another path's unstaging took it away"
    node.leave(volume)
    volume.publish(node)
    other_kind = csi.capability(block=False, fs_type="xfs")
    status("FAILED_PRECONDITION", node.stage, volume, volume_capability=other_kind, contains="ext4")
    node.unstage(volume)
    volume.unpublish(node)


def test_single_writer(stack):
    node = stack.n1
    for block in (False, True):
        volume = stack.volume(block=block, mode="SINGLE_NODE_SINGLE_WRITER")
        node.use(volume)
        status("FAILED_PRECONDITION", node.publish, volume, "b", contains="one path only")
        node.publish(volume)
        node.unpublish(volume)
        node.publish(volume, "b")
        node.unpublish(volume, "b")
        node.unstage(volume)
        volume.unpublish(node)
    volume = stack.volume(mode="SINGLE_NODE_MULTI_WRITER")
    node.use(volume)
    node.publish(volume, "b")
    node.unpublish(volume, "b")
    node.leave(volume)


def test_taken_paths(stack):
    """What others put at a path stays, and the call names it."""
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    for path in (node.staging(volume), node.path(volume)):
        path.mkdir()
        harness.run("mount", "-t", "tmpfs", "foreign", path)
    try:
        status("FAILED_PRECONDITION", node.stage, volume, contains="taken")
        harness.run("umount", node.staging(volume))
        node.stage(volume)
        status("FAILED_PRECONDITION", node.publish, volume, contains="taken")
        equal(harness.status_of(node.unpublish, volume), "OK", "never published there")
        assert is_mounted(node.path(volume)), "another's mount was taken away"
    finally:
        harness.run("umount", node.path(volume))
    node.path(volume).rmdir()
    node.path(volume).write_text("a file")
    status("INVALID_ARGUMENT", node.publish, volume, contains="taken")
    node.path(volume).unlink()
    node.publish(volume)
    harness.run("mount", "-t", "tmpfs", "foreign", node.path(volume))  # on top of ours, behind our back
    status("FAILED_PRECONDITION", node.unpublish, volume, contains="foreign")
    harness.run("umount", node.path(volume))
    node.leave(volume)


def test_busy(stack):
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    with open(target / "open", "w", encoding="ascii"):
        status("FAILED_PRECONDITION", node.unpublish, volume, contains="in use")
        equal(harness.status_of(node.publish, volume), "OK", "still published")
    node.leave(volume)


# ---- what the node says of itself ----


def test_info(stack):
    node = stack.n1
    info = node.csi.NodeGetInfo()
    equal((info.node_id, info.max_volumes_per_node), ("n1", 64), "NodeGetInfo")
    kinds = node.csi.messages.NodeServiceCapability.RPC.Type
    equal({kinds.Name(one.rpc.type) for one in node.csi.NodeGetCapabilities().capabilities},
          {"STAGE_UNSTAGE_VOLUME", "GET_VOLUME_STATS", "EXPAND_VOLUME", "SINGLE_NODE_MULTI_WRITER", "GET_VOLUME_HEALTH",
           "GET_STORAGE_HEALTH"}, "capabilities")
    equal(node.csi.GetPluginInfo().name, "csi.mooring.storage", "name")


def test_no_secret_and_modes(stack):
    """Invariant 11."""
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    folder = node.volume_dir(volume)
    secret = harness.json.loads((folder / "device" / "device.json").read_text())["chap_secret"]
    assert len(secret) >= 12 and secret not in str(volume.context)
    for program in ("device", "holder"):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{node.pid(volume, program)}/{name}", "rb") as file:
                assert secret.encode() not in file.read(), f"{program} {name}"
    for text in (node.log_text(), (folder / "log").read_text(), (folder / "stage.json").read_text(),
                 stack.target.log_text(), stack.controller.log_text()):
        assert secret not in text
    for path in [node.state, *[one for one in node.state.rglob("*") if "fuse" not in one.parts]]:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            equal(oct(stat.S_IMODE(mode)), oct(0o700 if stat.S_ISDIR(mode) else 0o600), str(path))
    node.leave(volume)


def test_end_in_order(stack):
    """SIGTERM ends mooring-node alone, with status 0; the next one goes on with what is there."""
    node, volume = stack.n1, stack.volume()
    target = node.use(volume)
    pid = node.pid(volume)
    equal(harness.end_process(node.process), 0, f"exit status; {node.log_text()[-500:]}")
    (target / "file").write_text("written meanwhile")
    node.start()
    equal(node.pid(volume), pid, "the device")
    node.leave(volume)


def test_wrong_configuration(stack):
    """A wrong key is named, and nothing is started."""
    path = stack.n1.folder / "wrong.json"
    for change, words in (({"attach": "magic"}, "magic"), ({"no_such_key": 1}, "no_such_key"), ({"node_id": "N!"}, "N!"),
                          ({"state_dir": "rel"}, "absolute"), ({"volumes_max": 0}, "volumes_max"),
                          ({"boot_id_file": "/dev/null"}, "UUID")):
        path.write_text(harness.json.dumps({**stack.n1.config, **change}))
        done = harness.run(harness.program("mooring-node"), "--config", path, check=False, timeout=20)
        equal(done.returncode, 2, done.stdout)
        assert words in done.stdout, done.stdout
    path.write_text(harness.json.dumps({**stack.n1.config, "state_dir": "/dev/null/state"}))  # right, and does not work
    done = harness.run(harness.program("mooring-node"), "--config", path, check=False, timeout=20)
    equal(done.returncode, 1, done.stdout)


def test_probe(stack):
    """Ready when a storage server has taken the registration, not before; and whatever comes then."""
    victim = stack.target.process
    victim.send_signal(signal.SIGSTOP)
    try:
        node = Node(stack, "n-probe")
        for _ in range(3):
            equal(node.csi.Probe().ready.value, False, "before it is registered")
        victim.send_signal(signal.SIGCONT)
        harness.wait_until(lambda: node.csi.Probe().ready.value, "it is ready once it is registered")
        victim.send_signal(signal.SIGSTOP)
        harness.wait_until(lambda: "cannot register" in node.log_text(), "a heartbeat gets no answer")
        equal(node.csi.Probe().ready.value, True, "when the storage server is away later")
        node.restart()
        equal(node.csi.Probe().ready.value, False, "of another life, without volumes")
    finally:
        victim.send_signal(signal.SIGCONT)


def test_two_stages_at_once(stack):
    """Different volumes do not wait for one another; the same one is refused with words."""
    node = stack.n1
    first, second = stack.volume(fs_type="ext4").publish(node), stack.volume(size=XFS_BYTES, fs_type="xfs").publish(node)
    said, go = node.slow_tool("mkfs.ext4")
    call = Background(node.stage, first)
    harness.wait_until(said.exists, "mkfs runs")
    status("ABORTED", node.stage, first, contains="NodeStageVolume has been running for")
    status("ABORTED", node.unstage, first, contains="NodeStageVolume has been running for")
    node.stage(second)
    go.touch()
    equal(call.status(), "OK", "the first call")
    node.stage(first)
    for volume in (first, second):
        node.unstage(volume)
        volume.unpublish(node)


if __name__ == "__main__":
    sys.exit(run_all(globals()))
