#!/usr/bin/python3
"""Invariant 1, acked is kept, over a whole cluster: kill -9 and power cuts of a storage server under a writer on a
mooring-device, a failed flush, and write-through for those that are not mooring-device."""
import errno
import os
import sys
import time

import cluster as clusters
import harness
from cluster import BLOCK, Writer, equal, errno_of, read_block, settle, write_block


def keeps_after_kill(cluster, choice):
    """1a: kill -9 of mooring-target: what was answered, with and without fsync, reads back; no error."""
    node, server = cluster.nodes["n1"], cluster.targets[0]
    volumes = [cluster.create(f"kill-{i}") for i in range(2)]
    writers = [Writer(node.attach(volume), choice.random(), fsync=fsync) for volume, fsync in zip(volumes, (0, 4))]
    for _ in range(3):
        for writer in writers:
            writer.wait_for(30)
        time.sleep(choice.random() * 0.1)
        server.kill()
        server.start()
    for writer in writers:
        writer.wait_for(10)
        writer.stop()
        equal(writer.wrong(), 0, f"answered blocks that are wrong, fsync {writer.fsync}")
    for volume in volumes:
        node.detach(volume)
    other = cluster.nodes["n2"]
    equal([writer.wrong(other.attach(volume)) for writer, volume in zip(writers, volumes)], [0, 0], "on another node")
    for volume in volumes:
        other.detach(volume)


def power_cut(cluster, choice, node, name, fsync=0):
    """One cut under a writer: (blocks answered and lost, sectors that the disk lost)."""
    server = cluster.targets[0]
    volume = cluster.create(name)
    path = node.attach(volume)
    writer = Writer(path, choice.random(), fsync=fsync)
    writer.wait_for(100)
    lost = server.cut_power(choice.randrange(1 << 31), keep_percent=choice.choice((0, 30, 60)))
    time.sleep(0.3)
    server.power_on()
    try:
        writer.wait_for(5)
    except AssertionError as why:
        raise AssertionError(f"{why}; the node says: {node.log_text()[-3000:]}; the server: {server.log_text()[-3000:]}") from why
    writer.stop()
    wrong = writer.wrong()
    node.detach(volume)
    return wrong, lost


def keeps_after_power_cut(cluster, choice):
    """1b: the storage host loses power: answered, unflushed writes are there again, by the replay."""
    wrong, lost = power_cut(cluster, choice, cluster.nodes["n1"], "cut")
    assert lost, "the disk lost nothing: the cut proves nothing"
    equal(wrong, 0, f"answered blocks lost with the replay ({lost} sectors lost by the disk)")


def keeps_flushed_after_power_cut(cluster, choice):
    """1b: the same with an fsync now and then."""
    wrong, _ = power_cut(cluster, choice, cluster.nodes["n1"], "cut-fsync", fsync=7)
    equal(wrong, 0, "answered blocks lost")


def loses_without_replay(cluster, choice):
    """1b: the same cut, told not to replay, does lose some: the test above can fail. What was flushed is kept."""
    wrong, lost = power_cut(cluster, choice, cluster.nodes["unsafe"], "cut-unsafe")
    assert wrong, f"no block was lost without the replay ({lost} sectors lost by the disk)"


def keeps_commits(cluster, choice):
    """1b: the same cut and no replay, each write flushed: all are kept, but for the one that was being committed."""
    wrong, _ = power_cut(cluster, choice, cluster.nodes["unsafe"], "cut-commits", fsync=1)
    assert wrong <= 1, f"{wrong} commits were lost"


def flush_failure(cluster, _choice):
    """1c: a flush fails: its waiter gets the error; the volume is write-failed, also after a restart, until cleared."""
    node, server = cluster.nodes["n1"], cluster.targets[0]
    volume = cluster.create("flush")
    path = node.attach(volume)
    content = os.urandom(BLOCK)
    for block in (3, 4):  # so that the flush that fails has only data to write: XFS itself gives up when its log fails
        write_block(path, block, content, fsync=True)
    write_block(path, 3, content)  # and not a write alone, which would be stable before it is flushed
    server.disk.command(f"fail flush 1 {errno.EIO}")
    equal(errno_of(write_block, path, 4, content, fsync=True), errno.EIO, "errno of the flush that failed")
    server.disk.command("fail flush 0 0")

    def write_failed():
        return server.controller.GetVolume(volume_id=volume.volume_id).volume.write_failed

    assert write_failed(), "the volume is not write-failed after the failed flush"
    equal(errno_of(write_block, path, 5, content, fsync=True), errno.EIO, "a write and flush afterwards")
    equal(read_block(path, 3), content, "a read afterwards")
    assert '"write_failed": true' in cluster.cli("volume", "show", volume.volume_id, "-o", "json", check=True).stdout
    server.kill()
    server.start()
    assert write_failed(), "the volume is not write-failed after a restart"
    equal(read_block(path, 3), content, "a read by the device after the restart")
    equal(errno_of(write_block, path, 6, content, fsync=True), errno.EIO, "a write by the device after the restart")
    # The device answers for a server that refuses its replay; another session of its generation shows the server.
    with granted(cluster, volume, "n1").login() as session:
        equal(session.wait(session.read(3, 1))[1], content, "a read after the restart")
        for command in (session.write(9, content), session.command(b"\x35")):
            equal(session.wait(command)[0], 2, "status of a write and of a flush after the restart")
    cluster.cli("volume", "clear-failed", volume.volume_id, check=True)
    harness.wait_until(lambda: writes(path, 6, content), "a write once the volume is cleared and the log replayed", 90)
    for block in (3, 4, 6):
        equal(read_block(path, block), content, f"block {block} once the volume is cleared")
    node.detach(volume)


def commit_failure(cluster, _choice):
    """1c: the disk cannot make a commit's one write stable: that write fails, nothing else is lost, the volume goes on."""
    node, server = cluster.nodes["n1"], cluster.targets[0]
    volume = cluster.create("commit")
    path = node.attach(volume)
    content = os.urandom(BLOCK)
    for _ in range(4):
        write_block(path, 3, content, fsync=True)
    server.disk.command(f"fail flush 1 {errno.EIO}")
    equal(errno_of(write_block, path, 3, content, fsync=True), errno.EIO, "errno of the commit that failed")
    server.disk.command("fail flush 0 0")
    assert not server.controller.GetVolume(volume_id=volume.volume_id).volume.write_failed, "write-failed"
    write_block(path, 3, content, fsync=True)
    equal(read_block(path, 3), content, "block 3")
    node.detach(volume)


def flush_of_another(cluster, _choice):
    """1c: the disk loses its cache at one volume's flush: so does another volume whose writes were not flushed, and is
    write-failed too, durably; a third one, all flushed, is not."""
    node, server = cluster.nodes["n1"], cluster.targets[0]
    volumes = {name: cluster.create(f"cache-{name}") for name in ("flushed", "told", "untold")}
    paths = {name: node.attach(volume) for name, volume in volumes.items()}
    content = os.urandom(BLOCK)

    def failed():
        return {name for name, volume in volumes.items()
                if server.controller.GetVolume(volume_id=volume.volume_id).volume.write_failed}

    for path in paths.values():
        for block in (3, 4):
            write_block(path, block, content, fsync=True)
    for name in ("told", "untold"):
        write_block(paths[name], 3, content)
    write_block(paths["untold"], 4, content)
    server.disk.command(f"fail flush 1 {errno.EIO}")
    equal(errno_of(write_block, paths["told"], 4, content, fsync=True), errno.EIO, "errno of the flush that failed")
    server.disk.command("fail flush 0 0")
    harness.wait_until(lambda: failed() == {"told", "untold"}, f"both are write-failed, and no other: {failed()}")
    said = f"since the disk failed to flush those of {volumes['told'].volume_id}"
    line = f"volume {volumes['untold'].volume_id}: its newest writes may be lost, {said}"
    harness.wait_until(lambda: line in server.log_text(), "the log says whose flush it was")
    equal(errno_of(write_block, paths["untold"], 5, content, fsync=True), errno.EIO, "a flush of the other's")
    write_block(paths["flushed"], 5, content, fsync=True)
    server.kill()
    server.start()
    equal(failed(), {"told", "untold"}, "write-failed after a restart")
    write_block(paths["flushed"], 6, content, fsync=True)
    for name in ("told", "untold"):
        cluster.cli("volume", "clear-failed", volumes[name].volume_id, check=True)
    for name in ("told", "untold"):
        harness.wait_until(lambda path=paths[name]: writes(path, 6, content), "a write once it is cleared", 90)
    for name, volume in volumes.items():
        equal(read_block(paths[name], 6), content, f"block 6 of {name}")
        node.detach(volume)


def writes(path, block, content):
    """Whether it is written and flushed; the device tries its replay again after up to 30 s."""
    try:
        write_block(path, block, content, fsync=True)
    except OSError:
        return False
    return True


def granted(cluster, volume, node):
    """The attachment with its newest generation's secret, out of the pool's record, as only the storage host can."""
    record = cluster.target_of(volume.volume_id).record(volume.volume_id)
    found = next(one for one in record["attachments"] if one["node"] == node)
    attachment = cluster.attachment(volume.volume_id, node, found["epoch"])
    attachment.user = f"{volume.volume_id}/{found['epoch']}/{found['generation']}"
    attachment.secret = found["generation_secret"]
    return attachment


def write_through(cluster, _choice):
    """1d: QEMU's initiator, generation 0: an answered write is on the disk, although the power goes right after."""
    server = cluster.targets[0]
    volume = cluster.create("through")
    cluster.register("vm")
    attachment = cluster.publish(volume.volume_id, "vm")
    done = harness.run(harness.program("qemu-io"), "-n", "-t", "none", "-f", "raw", "-c", "write -P 0x5a 64k 64k",
                       attachment.url())  # it has no flush: QEMU sends one at the end only when WCE is set
    assert "wrote 65536" in done.stdout, done.stdout
    with attachment.login() as session:
        lost_before = server.disk.stat("flushes")
        for block in range(20):
            equal(session.wait(session.write(block, bytes([block + 1]) * BLOCK))[0], 0, "write")
        assert server.disk.stat("flushes") > lost_before, "an answered write did not reach the disk's medium"
        server.cut_power(1, keep_percent=0)
    server.power_on()
    with attachment.login() as session:
        for block in range(16):
            equal(session.wait(session.read(block, 1))[1], bytes([block + 1]) * BLOCK, f"block {block}")
        equal(session.wait(session.read(24, 1))[1], b"\x5a" * BLOCK, "qemu-io's")
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume.volume_id, node_id="vm")


def make(scratch):
    cluster = clusters.Cluster(scratch, disks=("s1",), nodes=("n1", "n2"))
    cluster.node("unsafe", unsafe_no_replay=True)
    return cluster


TESTS = (("1a-kill-target", keeps_after_kill), ("1b-power-cut", keeps_after_power_cut),
         ("1b-power-cut-fsync", keeps_flushed_after_power_cut), ("1b-without-replay", loses_without_replay),
         ("1b-power-cut-commits", keeps_commits), ("1c-flush-failure", flush_failure),
         ("1c-flush-of-another", flush_of_another), ("1c-commit-failure", commit_failure), ("1d-write-through", write_through))

if __name__ == "__main__":
    sys.exit(clusters.main(TESTS, make))
