#!/usr/bin/python3
"""attach=iscsi: the kernel's own initiator, driven by mooring-node through open-iscsi, against mooring-target. All of
it runs in a guest with one of Debian's kernels, for this machine's kernel need not have an iSCSI initiator.

With --inside this is the part in the guest; the rest starts it and gives its lines on.
"""
import contextlib
import mmap
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / "tests" / "guest")]

# pylint: disable=wrong-import-position
import harness
import node_fixture
from controller_stack import equal, status
from target_fixture import Attachment

BLOCK, MIB = 4096, 1 << 20
XFS_BYTES = node_fixture.XFS_BYTES
SYS = pathlib.Path("/sys")
SLOW_S = 120  # a guest without KVM on a machine that others use


# ---- open-iscsi and the kernel, as an operator would look at them ----


class Iscsid:
    def __init__(self, scratch):
        pathlib.Path("/etc/iscsi/initiatorname.iscsi").write_text("InitiatorName=iqn.2000-01.example:guest\n")
        os.makedirs("/run/lock", exist_ok=True)  # iscsiadm does not make it
        self.log = scratch.path / "iscsid.log"
        self.process = None
        scratch.callback(self.kill)
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["iscsid", "-f"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        harness.wait_until(lambda: "@ISCSIADM_ABSTRACT_NAMESPACE" in pathlib.Path("/proc/net/unix").read_text(),
                           "iscsid listens")

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def sessions(iqn=""):
    """{sid: target name}"""
    found = {}
    for folder in (SYS / "class/iscsi_session").glob("session*"):
        with contextlib.suppress(OSError):
            name = (folder / "targetname").read_text().strip()
            if iqn in name:
                found[int(folder.name[7:])] = name
    return found


def disks():
    return sorted(path.name for path in (SYS / "block").glob("sd*"))


def records():
    return [path for path in pathlib.Path("/etc/iscsi/nodes").glob("*/*")] if os.path.isdir("/etc/iscsi/nodes") else []


def disk_of(volume):
    """Its name, found as an operator would: by the session's target name."""
    (sid,) = sessions(volume.id)
    found = list((SYS / f"class/iscsi_session/session{sid}/device").glob("target*/*/block/*"))
    equal(len(found), 1, f"disks of {volume.id}")
    return found[0].name


def queue(disk, name):
    return (SYS / "block" / disk / "queue" / name).read_text().strip()


def scsi_disk(disk, name):
    (folder,) = (SYS / "block" / disk / "device/scsi_disk").iterdir()
    return (folder / name).read_text().strip()


class Writer(threading.Thread):
    """Writes blocks of a device past every cache, some of them by fdatasync, and knows what was answered; the first
    error ends it."""

    def __init__(self, path, blocks=512, seed=0):
        super().__init__(daemon=True)
        self.path, self.blocks, self.random = path, blocks, random.Random(seed)
        self.answered, self.writes, self.error, self.stopping, self.longest_s = {}, 0, None, False, 0.0
        self.start()

    def run(self):
        page = mmap.mmap(-1, BLOCK)
        try:
            device = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            while not self.stopping:
                at, number = self.random.randrange(self.blocks), self.writes + 1
                page[:] = number.to_bytes(8, "little") * (BLOCK // 8)
                self.answered.pop(at, None)
                begun = time.monotonic()
                os.pwrite(device, page, at * BLOCK)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                self.answered[at], self.writes = number, number
            os.close(device)
        except OSError as error:
            self.error = error

    def more(self, count=20, timeout_s=SLOW_S):
        goal = self.writes + count
        harness.wait_until(lambda: self.error or self.writes >= goal, f"{count} more writes are answered", timeout_s)
        if self.error:
            raise AssertionError(f"an I/O error: {self.error}")

    def finish(self):
        """Stop, and read everything that was answered."""
        self.stopping = True
        self.join(SLOW_S)
        if self.is_alive() or self.error:
            raise AssertionError(f"the writer: {self.error or 'it hangs'}")
        device, page = os.open(self.path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, BLOCK)
        for at, number in self.answered.items():
            os.preadv(device, [page], at * BLOCK)
            equal(int.from_bytes(page[:8], "little"), number, f"block {at}")
        os.close(device)
        return f"{self.writes} writes, the longest {self.longest_s:.1f} s"


class Cluster(node_fixture.Stack):
    """One storage server on the guest's disk, a controller, one node that attaches by the kernel's initiator."""

    def __init__(self, scratch, disk):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        self.target = harness.Target(scratch, self.tls, harness.Pool(scratch, "s1", device=disk), loops=2)
        self.controller = node_fixture.controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        self.iscsid = Iscsid(scratch)
        self.n1 = node_fixture.Node(self, "n1", attach="iscsi").wait_registered()
        harness.wait_until(lambda: self.controller.csi.Probe().ready.value, "the controller is ready", SLOW_S)
        scratch.callback(self.log_out)

    @staticmethod
    def log_out():
        for sid in sessions():
            harness.run("iscsiadm", "-m", "session", "-r", sid, "-u", check=False)

    def block_volume(self, **fields):
        return self.volume(block=True, size=64 * MIB, **fields).publish(self.n1)

    @contextlib.contextmanager
    def staged(self, volume):
        """A block volume's disk, while it is staged."""
        self.n1.stage(volume, timeout_s=SLOW_S)
        yield f"/dev/{disk_of(volume)}"
        self.n1.unstage(volume, timeout_s=SLOW_S)
        volume.unpublish(self.n1)

    @contextlib.contextmanager
    def link_cut(self):
        """Packets to and from the portal are lost."""
        port = self.target.portal.rpartition(":")[2]
        harness.run("nft", f"add table inet cut; add chain inet cut out {{ type filter hook output priority 0; }}; "
                    f"add rule inet cut out tcp dport {port} drop; add rule inet cut out tcp sport {port} drop")
        try:
            yield
        finally:
            harness.run("nft", "delete table inet cut")


def expect_nothing_left(volume):
    equal((sessions(volume.id), [path for path in records() if volume.id in str(path)]), ({}, []),
          "sessions and records after the detach")


# ---- the cases ----


def file_system(cluster, fs_type, size):
    """Blank to mounted and back; what the kernel read from our mode and VPD pages; discard reaches the pool."""
    volume, node = cluster.volume(size=size, fs_type=fs_type).publish(cluster.n1), cluster.n1
    before = disks()
    node.stage(volume, timeout_s=SLOW_S)
    node.publish(volume, timeout_s=SLOW_S)
    disk = disk_of(volume)
    device = SYS / "block" / disk / "device"
    equal(volume.content(), "DATA", "content")
    equal(((device / "vendor").read_text().strip(), (device / "model").read_text().strip()), ("MOORING", "VOLUME"))
    equal((device / "vpd_pg80").read_bytes()[4:].decode(), volume.id, "serial number")
    assert volume.id in (device / "wwid").read_text() or (device / "wwid").read_text().startswith("naa.3"), "wwid"
    equal(int((device / "timeout").read_text()), 86400, "the SCSI layer's timeout")
    equal({name: queue(disk, name) for name in ("rotational", "physical_block_size", "write_cache", "discard_granularity")},
          {"rotational": "0", "physical_block_size": "4096", "write_cache": "write through", "discard_granularity": "4096"})
    for name in ("optimal_io_size", "discard_max_bytes", "write_zeroes_max_bytes"):
        assert int(queue(disk, name)) > 0, name
    equal((scsi_disk(disk, "thin_provisioning"), scsi_disk(disk, "provisioning_mode"), scsi_disk(disk, "FUA"),
           scsi_disk(disk, "cache_type")), ("1", "unmap", "1", "write through"), "provisioning, DPOFUA, cache")
    (found,) = cluster.target.operator.ListSessions(volume_id=volume.id).sessions
    equal((found.initiator_name, found.generation), ("iqn.2026-11.storage.mooring:node:n1", 1), "as the server sees it")

    target = node.path(volume)
    (target / "file").write_bytes(os.urandom(8 * MIB))
    harness.run("sync", "--file-system", target)
    used = cluster.target.controller.GetVolume(volume_id=volume.id).volume.used_bytes
    (target / "file").unlink()
    harness.run("sync", "--file-system", target)
    harness.run("fstrim", target, timeout=SLOW_S)
    less = cluster.target.controller.GetVolume(volume_id=volume.id).volume.used_bytes
    assert less <= used - 7 * MIB, f"fstrim: {used} bytes used before, {less} after"
    node.unpublish(volume)
    node.unstage(volume, timeout_s=SLOW_S)
    volume.unpublish(node)
    equal(disks(), before, "disks after the detach")
    expect_nothing_left(volume)


def secret(cluster):
    """The CHAP secret is in a file that root alone reads, and in no command line; the record is manual."""
    said = cluster.n1.folder / "iscsiadm.said"
    tool = cluster.n1.tools / "iscsiadm"
    tool.write_text(f"#!/bin/sh\necho \"$@\" >>{said}\nexec {harness.program('iscsiadm')} \"$@\"\n")
    tool.chmod(0o755)
    volume = cluster.block_volume()
    with cluster.staged(volume):
        (record,) = [path for path in records() if volume.id in str(path)]
        text = record.read_text()
        word = re.search(r"^node.session.auth.password = (\S+)$", text, re.M).group(1)
        assert len(word) == 32 and "node.startup = manual" in text, text
        equal(record.stat().st_mode & 0o777, 0o600, "mode")
        assert word not in said.read_text(), "a secret on a command line"
        assert word not in cluster.n1.log_text() and word not in cluster.iscsid.log.read_text(), "a secret in a log"
    tool.unlink()
    expect_nothing_left(volume)


def commands(cluster):
    """Discard, zeroes, SYNCHRONIZE CACHE and FUA of sd, the last two once it is told that there is a cache."""
    with cluster.staged(cluster.block_volume()) as path:
        disk = path[5:]
        harness.run("dd", "if=/dev/urandom", f"of={path}", "bs=1M", "count=4", "oflag=direct", "status=none")
        harness.run("blkdiscard", "--offset", MIB, "--length", MIB, path)
        harness.run("blkdiscard", "--zeroout", "--offset", 2 * MIB, "--length", MIB, path)
        with open(path, "rb") as device:
            data = device.read(4 * MIB)
        equal((data[MIB:3 * MIB] == bytes(2 * MIB), bytes(4096) in (data[:MIB], data[3 * MIB:])), (True, False), "zeroes")
        (folder,) = (SYS / "block" / disk / "device/scsi_disk").iterdir()
        (folder / "cache_type").write_text("temporary write back")
        equal(queue(disk, "write_cache"), "write back")
        counts = {}
        for name, flags in (("flush", "conv=fsync"), ("fua", "oflag=direct,dsync")):
            begun = cluster.target.operator.ListSessions().sessions[0].commands
            harness.run("dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=4", flags, "status=none")
            counts[name] = cluster.target.operator.ListSessions().sessions[0].commands - begun
        assert all(count > 0 for count in counts.values()), counts
        (folder / "cache_type").write_text("temporary write through")


def target_killed(cluster):
    """kill -9 of the storage server under a writer, three times: no error, nothing lost."""
    with cluster.staged(cluster.block_volume()) as path:
        writer = Writer(path)
        writer.more()
        for away_s in (0, 3, 12):
            cluster.target.kill()
            time.sleep(away_s)
            cluster.target.start()
            writer.more()
        print(f"# target-killed: {writer.finish()}", flush=True)


def link_cut(cluster):
    """Longer than the NOP-Outs wait, so that the connection is given up and made anew."""
    with cluster.staged(cluster.block_volume()) as path:
        writer = Writer(path)
        writer.more()
        with cluster.link_cut():
            (sid,) = sessions()
            state = SYS / f"class/iscsi_session/session{sid}/state"
            harness.wait_until(lambda: state.read_text().strip() == "FAILED", "the session has failed", SLOW_S)
        writer.more()
        equal(list(sessions()), [sid], "the session")
        print(f"# link-cut: {writer.finish()}", flush=True)


def grown(cluster):
    """The disk grows under a writer; where the server cannot be reached the call ends in time, and a repeat goes on."""
    node, server, volume = cluster.n1, cluster.target.controller, cluster.block_volume()

    def grow(size):
        have = server.GetVolume(volume_id=volume.id).volume
        server.ExpandVolume(volume_id=volume.id, size_bytes=size, record_generation=have.record_generation)

    def expand(timeout_s=SLOW_S):
        return node.csi.NodeExpandVolume(volume_id=volume.id, volume_path=str(node.staging(volume)),
                                         timeout_s=timeout_s).capacity_bytes

    with cluster.staged(volume) as path:
        writer = Writer(path)
        writer.more()
        grow(96 * MIB)
        equal(expand(), 96 * MIB, "capacity_bytes")
        equal(int(harness.run("blockdev", "--getsize64", path).stdout), 96 * MIB, "the disk's size")
        with cluster.link_cut():
            grow(128 * MIB)
            assert harness.status_of(expand, timeout_s=8) in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        harness.wait_until(lambda: harness.status_of(expand) == "OK", "it grows once the server is back", SLOW_S)
        equal(int(harness.run("blockdev", "--getsize64", path).stdout), 128 * MIB, "the disk's size")
        writer.more()
        writer.finish()


def iscsid_killed(cluster):
    """Without iscsid nothing reconnects, and I/O waits; a new one takes the sessions over."""
    with cluster.staged(cluster.block_volume()) as path:
        writer = Writer(path)
        writer.more()
        cluster.iscsid.kill()
        cluster.target.kill()
        cluster.target.start()
        time.sleep(2)
        cluster.iscsid.start()
        writer.more()
        print(f"# iscsid-killed: {writer.finish()}", flush=True)


def node_killed(cluster):
    """mooring-node's end is none of the disk's; its successor adopts the session, and can end it."""
    volume = cluster.block_volume()
    with cluster.staged(volume) as path:
        writer = Writer(path)
        before = sessions()
        cluster.n1.restart()
        cluster.n1.stage(volume, timeout_s=SLOW_S)
        writer.more()
        equal(sessions(), before, "sessions")
        writer.finish()


def half_done(cluster):
    """mooring-node is killed between the login and its end: the repeat has one session, and no record is left over."""
    said, go, tool = (cluster.n1.folder / "said", cluster.n1.folder / "go", cluster.n1.tools / "iscsiadm")
    tool.write_text(f"#!/bin/sh\n{harness.program('iscsiadm')} \"$@\" || exit\ncase \"$*\" in\n*' -l') touch {said}\n"
                    f"while [ ! -e {go} ]; do sleep 0.1; done\nesac\n")
    tool.chmod(0o755)
    volume = cluster.block_volume()
    call = node_fixture.Background(cluster.n1.stage, volume, timeout_s=SLOW_S)
    harness.wait_until(said.exists, "iscsiadm has logged in", SLOW_S)
    cluster.n1.kill()
    go.touch()
    assert call.status() != "OK"
    tool.unlink()
    cluster.n1.start()
    with cluster.staged(volume) as path:
        equal(len(sessions(volume.id)), 1, "sessions")
        Writer(path).finish()
    expect_nothing_left(volume)


def others(cluster):
    """A session that somebody logged in by hand is left alone, whatever we attach and detach."""
    theirs = cluster.block_volume()
    given = Attachment(cluster_volume(cluster, theirs), "n1", theirs.epoch)
    words = ["iscsiadm", "-m", "node", "-T", f"iqn.2026-11.storage.mooring:{theirs.id}", "-p", cluster.target.portal]
    harness.run(*words, "-o", "new")
    for key, value in (("authmethod", "CHAP"), ("username", given.user), ("password", given.secret)):
        harness.run(*words, "-o", "update", "-n", f"node.session.auth.{key}", "-v", value)
    harness.run(*words, "--login", timeout=SLOW_S)
    harness.wait_until(lambda: (SYS / "block" / disk_of(theirs)).exists(), "their disk")
    before = sessions(), disks()
    volume = cluster.block_volume()
    with cluster.staged(volume) as path:
        assert path[5:] not in before[1]
        cluster.n1.restart()
    equal((sessions(), disks()), before, "their sessions and disks")
    status("FAILED_PRECONDITION", cluster.n1.stage, theirs, timeout_s=SLOW_S, contains="did not open")
    equal((sessions(), disks()), before, "their sessions and disks")
    harness.run(*words, "--logout", timeout=SLOW_S)
    harness.run(*words, "-o", "delete")
    theirs.unpublish(cluster.n1)


def cluster_volume(cluster, volume):
    """The volume as target_fixture.Attachment wants it."""
    class Held:
        target, id, iqn = cluster.target, volume.id, f"iqn.2026-11.storage.mooring:{volume.id}"
    return Held


def read_only(cluster):
    """A read-only attachment is a read-only disk, and a write to it an error."""
    volume = cluster.volume(block=True, size=64 * MIB).publish(cluster.n1, readonly=True)
    with cluster.staged(volume) as path:
        equal((SYS / "block" / path[5:] / "ro").read_text().strip(), "1", "ro")
        done = harness.run("dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=1", "oflag=direct", check=False)
        assert done.returncode != 0, "a write to a read-only disk"


def errors(cluster):
    """What is missing is named, with the remedy; nothing stays."""
    volume = cluster.block_volume()
    cluster.iscsid.kill()
    status("FAILED_PRECONDITION", cluster.n1.stage, volume, timeout_s=SLOW_S, contains="iscsid does not run: start it")
    cluster.iscsid.start()
    hidden = pathlib.Path(harness.program("iscsiadm"))
    hidden.rename(f"{hidden}.hidden")
    try:
        status("FAILED_PRECONDITION", cluster.n1.stage, volume, timeout_s=SLOW_S, contains="needs open-iscsi")
    finally:
        pathlib.Path(f"{hidden}.hidden").rename(hidden)
    with cluster.staged(volume):
        pass
    expect_nothing_left(volume)


def unstage_as_a_co(cluster, volume):
    """mooring-node may be at the volume itself, and then says ABORTED: whoever asked tries again."""
    def answer():
        said = harness.status_of(cluster.n1.unstage, volume, timeout_s=SLOW_S)
        return said != "ABORTED" and said
    equal(harness.wait_until(answer, "mooring-node is done with the volume", SLOW_S), "OK", "NodeUnstageVolume")


def fence(cluster):
    """All I/O that waits ends with an error, and the disk, the session and the record go."""
    volume = cluster.block_volume()
    cluster.n1.stage(volume, timeout_s=SLOW_S)
    writer = Writer(f"/dev/{disk_of(volume)}")
    writer.more()
    begun, tries = time.monotonic(), cluster.target.log_text().count("refused")
    cluster.target.operator.FenceNode(node_id="n1", reason="test", timeout_s=SLOW_S)
    try:
        harness.wait_until(lambda: writer.error, "the writer's I/O ends", SLOW_S)
    finally:
        cluster.target.operator.UnfenceNode(node_id="n1")
    took_s, tries = time.monotonic() - begun, cluster.target.log_text().count("refused") - tries
    print(f"# fence: {writer.error} after {took_s:.1f} s and {tries} refused logins", flush=True)
    harness.wait_until(lambda: not sessions(volume.id), "the session is gone", SLOW_S)
    unstage_as_a_co(cluster, volume)
    expect_nothing_left(volume)


def fence_in_mkfs(cluster):
    """Fenced while mkfs runs: what waits ends with an error, and the call with it. Then the volume can be given up."""
    volume = cluster.volume(size=64 * MIB).publish(cluster.n1)
    said, go = cluster.n1.slow_tool("mkfs.ext4")
    call = node_fixture.Background(cluster.n1.stage, volume, timeout_s=SLOW_S)
    harness.wait_until(said.exists, "mkfs runs", SLOW_S)
    cluster.target.operator.FenceNode(node_id="n1", reason="test", timeout_s=SLOW_S)
    try:
        go.touch()
        answer = call.status(2 * SLOW_S)
        harness.wait_until(lambda: not sessions(volume.id), "the session is gone", SLOW_S)
    finally:
        cluster.target.operator.UnfenceNode(node_id="n1")
        (cluster.n1.tools / "mkfs.ext4").unlink()
    assert answer not in ("OK", "DEADLINE_EXCEEDED"), f"NodeStageVolume: {answer}"
    unstage_as_a_co(cluster, volume)
    expect_nothing_left(volume)


CASES = (("ext4", lambda cluster: file_system(cluster, "ext4", 64 * MIB)), ("target-killed", target_killed),
         ("fence", fence), ("fence-in-mkfs", fence_in_mkfs), ("secret", secret), ("commands", commands), ("link-cut", link_cut),
         ("grown", grown),
         ("node-killed", node_killed), ("half-done", half_done), ("others", others), ("errors", errors), ("read-only", read_only),
         ("iscsid-killed", iscsid_killed), ("xfs", lambda cluster: file_system(cluster, "xfs", XFS_BYTES)))


def inside(kernel, disk, names):
    suite = harness.Suite()
    suite.only = []
    quick = harness.wait_until
    harness.wait_until = lambda condition, what, timeout_s=30, pause_s=0.1: quick(condition, what, max(timeout_s, SLOW_S),
                                                                                 pause_s)
    with harness.Scratch() as scratch:
        cluster = Cluster(scratch, disk)
        for name, case in CASES:
            if names and name not in names:
                continue
            before = suite.failed
            suite.run(f"iscsi-{name} on Linux {kernel}", case, cluster)
            if suite.failed > before:
                print(f"# mooring-node: {cluster.n1.log_text()[-1500:]}\n# iscsid: {cluster.iscsid.log.read_text()[-1500:]}",
                      flush=True)
                cluster.log_out()
    return suite.finish()


# ---- on this machine ----


def follow(job, limit_s=1500):
    """Give on what it says as it says it; its exit status."""
    said, end = 0, time.monotonic() + limit_s
    while not job.ended.wait(0.5) and time.monotonic() < end:
        text = job.output[said:]
        print(text, end="", flush=True)
        said += len(text)
    print(job.output[said:], end="", flush=True)
    return job.wait(1)[0]


def skip(kernel, names, why):
    """Each by its name."""
    for name in names:
        print(f"SKIP iscsi-{name} on Linux {kernel}: {why}", flush=True)


def outside(kernels, names):
    import cases
    import debian
    import guest
    worst, asked_for = 0, [name for name, _ in CASES if not names or name in names]
    for kernel in kernels:
        if cases.MODE == "none":
            skip(kernel, asked_for, cases.LEFT_OUT)
            continue
        job = None
        try:
            with guest.Guest(kernel, disks=["4G"], packages=["open-iscsi"], memory="3G") as machine:
                words = ["/usr/bin/python3", __file__, "--inside", machine.version, machine.disks[0], *names]
                job = machine.start(" ".join(map(str, words)))
                code = follow(job)
        except debian.Unavailable as why:
            skip(kernel, asked_for, why)
            continue
        except guest.GuestFailure as why:
            print(f"FAIL guest_iscsi on Linux {kernel}: {str(why).splitlines()[0][:400]}", flush=True)
            code = 1
        said = job.output if job else ""
        skip(kernel, [name for name in asked_for if f" iscsi-{name} on " not in said], "its guest did not come to it")
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(sys.argv[2], sys.argv[3], sys.argv[4:]))
    sys.exit(outside(os.environ.get("MOORING_GUEST_KERNELS", "6.1 6.12").split(), sys.argv[1:]))
