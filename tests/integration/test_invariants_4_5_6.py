#!/usr/bin/python3
"""Invariants 4, 5 and 6 over a whole cluster: no stale write, never format data, no I/O error without a cause."""
import errno
import os
import signal
import sys
import time

import cluster as clusters
import harness
import raw_iscsi
from cluster import AUTHORIZATION, BLOCK, UNAVAILABLE, Writer, equal, errno_of, read_block, settle, start_thread

BLANK, FORMATTING, DATA = 1, 2, 3
CLOSED = (raw_iscsi.Closed, OSError)


def content_of(cluster, volume_id):
    return cluster.target_of(volume_id).controller.GetVolume(volume_id=volume_id).volume.content


# ---- 4: no stale write ----


def grant_waits(cluster, _choice):
    """4: generation n + 1 is granted only after n's last write, held in the disk, has ended; n is refused from then on,
    also after kill -9 of the server."""
    target = cluster.targets[0]
    volume_id = cluster.create("grant").volume_id
    attachment = cluster.publish(volume_id, "n1")
    attachment.grant()
    old = attachment.user, attachment.secret
    session = attachment.login()
    equal(session.wait(session.write(0, b"1" * BLOCK))[0], 0, "write")
    target.disk.command("hold 4000")
    session.write(0, b"2" * BLOCK)
    harness.wait_until(target.disk.held, "the disk holds the write")
    grant = start_thread(attachment.grant)
    while target.disk.held():
        ended = grant.ended()
        assert not (ended and target.disk.held()), "the grant answered while the old generation's write was held"
        time.sleep(0.05)
    grant.result()
    for _ in range(2):
        equal(attachment.login_status(user=old[0], secret=old[1]), AUTHORIZATION, "the old generation")
        with attachment.login() as successor:
            equal(successor.wait(successor.read(0, 1))[1], b"2" * BLOCK, "the write that was on its way")
        target.kill()
        target.start()
    session.close()
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")


def second_target(cluster, _choice):
    """4: a mooring-target is killed with a write still in the disk: the next one serves neither iSCSI nor gRPC until
    that write can no longer land, and then does."""
    target = cluster.targets[0]
    volume_id = cluster.create("second").volume_id
    attachment = cluster.publish(volume_id, "n1")
    attachment.grant()
    session = attachment.login()
    equal(session.wait(session.write(0, b"1" * BLOCK))[0], 0, "write")
    target.disk.command("hold 4000")
    session.write(0, b"2" * BLOCK)
    harness.wait_until(target.disk.held, "the disk holds the write")
    target.process.send_signal(signal.SIGKILL)
    mark = len(target.log_text())
    second = target.start(wait=False).process  # the same configuration, on the same ports
    seen = []
    while target.disk.held():
        served = harness.status_of(target.controller.GetServer, timeout_s=1), login(attachment)
        if not target.disk.held():
            break
        seen.append(served)
        time.sleep(0.05)
    assert seen, "the write ended before the second target was asked"
    served = [one for one in seen if one[0] == "OK" or one[1] not in (UNAVAILABLE, None)]
    equal(served, [], "calls and logins served while the killed one's write was held")
    target.wait_ready()
    assert second.poll() is None
    with attachment.login() as successor:
        equal(successor.wait(successor.read(0, 1))[1], b"2" * BLOCK, "the block afterwards")
    session.close()
    assert "waiting" in target.log_text()[mark:], "the second target does not say what it waits for"
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n1")


def login(attachment):
    """A login's status; None: nobody listens."""
    try:
        return attachment.login_status(timeout_s=5)
    except CLOSED:
        return None


def successor_under_load(cluster, choice):
    """4: device processes are killed under a writer: each successor is a new generation, and nothing is lost."""
    node = cluster.nodes["n1"]
    volume = cluster.create("successor")
    writer = Writer(node.attach(volume), choice.random(), fsync=20)
    generations = []
    for _ in range(3):
        writer.wait_for(20)
        status = node.device_status(volume)
        generations.append(status["generation"])
        os.kill(status["pid"], signal.SIGKILL)
        harness.wait_until(lambda pid=status["pid"]: node.device_status(volume).get("pid") != pid, "a successor")
    writer.wait_for(20)
    writer.stop()
    equal(writer.wrong(), 0, "answered blocks lost")
    equal(generations, sorted(set(generations)), "generations grow")
    node.detach(volume)


# ---- 5: never format data ----


def format_cut_off(cluster, _choice):
    """5: a crash between BeginFormat and EndFormat leaves "formatting"; the next one to format discards first; marks of
    any but the current epoch and generation are refused."""
    target = cluster.targets[0]
    volume_id = cluster.create("format").volume_id
    first = cluster.publish(volume_id, "n1")
    equal(harness.status_of(first.begin_format, generation=1), "ABORTED", "BeginFormat without a generation")
    first.grant()
    first.begin_format()
    with first.login() as session:
        equal(session.wait(session.write(5, b"f" * BLOCK, fua=True))[0], 0, "a write of the format")
    target.kill()
    target.start()
    equal(content_of(cluster, volume_id), FORMATTING, "content after the crash")
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
    equal(harness.status_of(first.begin_format), "ABORTED", "BeginFormat of a removed epoch")
    equal(harness.status_of(first.end_format), "ABORTED", "EndFormat of a removed epoch")
    second = cluster.publish(volume_id, "n2", cluster.b)
    second.grant()
    equal(harness.status_of(second.end_format), "ABORTED", "EndFormat of one that did not begin")
    older = second.generation
    assert second.begin_format().discarded, "the cut-off format was not discarded"
    with second.login() as session:
        equal(session.wait(session.read(5, 1))[1], b"\0" * BLOCK, "a block of the cut-off format")
    second.grant()
    for name in ("begin_format", "end_format"):
        equal(harness.status_of(getattr(second, name), generation=older), "ABORTED", f"{name} of an older generation")
        equal(harness.status_of(getattr(second, name), epoch=first.epoch), "ABORTED", f"{name} of an older epoch")
    assert second.begin_format().discarded
    second.end_format()
    target.kill()
    target.start()
    equal(content_of(cluster, volume_id), DATA, "content after EndFormat and kill -9")
    equal(harness.status_of(second.begin_format), "FAILED_PRECONDITION", "BeginFormat on data")
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n2")


def write_makes_data(cluster, _choice):
    """5: a blank volume is data, durably, before the first foreign write is carried out: kill -9 and a power cut right
    after its answer, or while the disk holds it."""
    target = cluster.targets[0]
    volume_id = cluster.create("blank").volume_id
    plain = cluster.publish(volume_id, "n1")
    equal(content_of(cluster, volume_id), BLANK, "content at first")
    with plain.login() as session:
        equal(session.wait(session.write(7, b"d" * BLOCK))[0], 0, "write")
        target.cut_power(3)
    target.power_on()
    equal(content_of(cluster, volume_id), DATA, "content after one answered write")
    plain.grant()
    equal(harness.status_of(plain.begin_format), "FAILED_PRECONDITION", "BeginFormat on data")
    with plain.login() as session:
        equal(session.wait(session.read(7, 1))[1], b"d" * BLOCK, "the write")
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")


def stage_after_foreign_write(cluster, _choice):
    """5: mooring-node does not make a file system over what a virtual machine wrote, although no probe finds any; and
    after a crash within mkfs it starts over."""
    node = cluster.nodes["n1"]
    volume = cluster.create("foreign")
    cluster.register("vm")
    attachment = cluster.publish(volume.volume_id, "vm")
    with attachment.login() as session:
        equal(session.wait(session.write(100, b"v" * BLOCK))[0], 0, "write")
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume.volume_id, node_id="vm")
    equal(harness.status_of(node.attach, volume, block=False, fs_type="ext4"), "FAILED_PRECONDITION", "staging")
    node.detach(volume)
    cut = cluster.create("cut-mkfs", size=64 << 20)
    attachment = cluster.publish(cut.volume_id, "vm")
    attachment.grant()
    attachment.begin_format()
    with attachment.login() as session:
        equal(session.wait(session.write(0, b"x" * BLOCK, fua=True))[0], 0, "a write of the cut-off mkfs")
    cluster.a.csi.ControllerUnpublishVolume(volume_id=cut.volume_id, node_id="vm")
    place = node.attach(cut, block=False, fs_type="ext4")
    assert os.path.ismount(place)
    equal(content_of(cluster, cut.volume_id), DATA, "content once it is mounted")
    node.detach(cut)


# ---- 6: no I/O error without a cause ----


def target_away(cluster, choice):
    """6: the storage server is away, and back without its pool for a while: I/O waits, without an error."""
    node, target = cluster.nodes["n1"], cluster.targets[0]
    volume = cluster.create("wait")
    path = node.attach(volume)
    writer = Writer(path, choice.random(), fsync=10)
    writer.wait_for(50)
    target.kill()
    time.sleep(2)
    assert not writer.error, f"an I/O error while the server is away: {writer.error}"
    # Back, but its pool is held by another process: it answers "service unavailable".
    target.start()
    writer.wait_for(20)
    holder = target.process
    second = harness.Target(cluster.scratch, cluster.tls, target.pool, start=False)
    second.start(wait=False)
    harness.wait_until(lambda: "waiting" in second.log_text(), "the second target waits for the pool")
    probe = raw_iscsi.Initiator(second.portal)
    probe.login_pdu([("InitiatorName", "iqn.2026-11.storage.mooring:node:n1"),
                     ("TargetName", f"iqn.2026-11.storage.mooring:{volume.volume_id}"), ("AuthMethod", "CHAP")], 0, 1,
                    transit=False)
    try:
        probe.login_answer()
        code = 0
    except raw_iscsi.LoginFailed as failed:
        code = failed.status
    equal(code, UNAVAILABLE, "login status while the pool is not loaded")
    harness.end_process(second.process)
    probe.close()
    assert holder.poll() is None
    writer.wait_for(20)
    writer.stop()
    equal(writer.wrong(), 0, "wrong blocks")
    node.detach(volume)


def pool_not_loaded(cluster, choice):
    """6: the restarted server cannot load its pool yet, since another process has it: the device's logins are answered
    "service unavailable", its I/O waits, and goes on when the pool is free."""
    node, target = cluster.nodes["n1"], cluster.targets[0]
    volume = cluster.create("unloaded")
    writer = Writer(node.attach(volume), choice.random())
    writer.wait_for(30)
    squatter = harness.Target(cluster.scratch, cluster.tls, target.pool, start=False)
    squatter.start(wait=False)
    harness.wait_until(lambda: "waiting" in squatter.log_text(), "the other process waits for the pool")
    target.kill()
    harness.wait_until(lambda: harness.status_of(squatter.controller.GetServer, timeout_s=2, wait_for_ready=True) == "OK",
                       "the other process has the pool")
    mark = len(target.log_text())
    target.start(wait=False)
    harness.wait_until(lambda: "waiting" in target.log_text()[mark:], "the server waits for its pool")
    count = writer.count
    harness.wait_until(lambda: "nvailable" in node.log_text() or node.device_status(volume)["state"] == "waiting",
                       "the device waits")
    time.sleep(1)
    assert not writer.error, f"an I/O error while the pool is not loaded: {writer.error}"
    assert writer.count <= count + 1, "writes are answered although the pool is not loaded"
    squatter.kill()
    target.wait_ready()
    writer.wait_for(20)
    writer.stop()
    equal(writer.wrong(), 0, "wrong blocks")
    node.detach(volume)


def fenced_ends(cluster, choice):
    """6: fenced: I/O ends with EIO, that which waits for the server included."""
    node, target = cluster.node("fenced"), cluster.targets[0]
    volume = cluster.create("fenced")
    path = node.attach(volume)
    writer = Writer(path, choice.random())
    writer.wait_for(20)
    target.kill()
    time.sleep(0.3)
    target.start()
    equal(cluster.cli("node", "fence", "fenced").returncode, 0, "fence")
    harness.wait_until(lambda: not writer.is_alive(), "the writer's I/O ends")
    equal(writer.error and writer.error.errno, errno.EIO, "its errno")
    equal(errno_of(read_block, path, 0), errno.EIO, "errno of a read")
    code = harness.status_of(node.detach, volume, unpublish=False)
    if code == "FAILED_PRECONDITION":  # said once: what was not flushed may be lost
        code = harness.status_of(node.detach, volume, unpublish=False)
    equal(code, "OK", "detach")


def make(scratch):
    cluster = clusters.Cluster(scratch, disks=("s1",), nodes=("n1",))
    cluster.register("n2")
    return cluster


TESTS = (("4-grant-waits", grant_waits), ("4-second-target", second_target), ("4-successor", successor_under_load),
         ("5-format-cut-off", format_cut_off), ("5-write-makes-data", write_makes_data),
         ("5-stage-after-foreign-write", stage_after_foreign_write), ("6-target-away", target_away),
         ("6-pool-not-loaded", pool_not_loaded), ("6-fenced", fenced_ends))

if __name__ == "__main__":
    sys.exit(clusters.main(TESTS, make))
