#!/usr/bin/python3
"""Invariants 2 and 3 over two controllers and three storage servers with four loops each: one writer, and a fence that
holds."""
import sys
import threading
import uuid

import cluster as clusters
import harness
import raw_iscsi
from cluster import AUTHORIZATION, BLOCK, equal, settle, start_thread, status

HELD_MS = 10000
CLOSED = (raw_iscsi.Closed, OSError)


def drain(cluster, _choice):
    """2: the disk holds one write for 10 s: neither ControllerUnpublishVolume nor its repeat, also after a deadline,
    answers OK, and no other node gets the volume."""
    disk = cluster.targets[0].disk
    volume_id = cluster.create("drain").volume_id
    attachment = cluster.publish(volume_id, "n1")
    attachment.grant()
    session = attachment.login()
    equal(session.wait(session.write(0, b"1" * BLOCK))[0], 0, "write")
    disk.command(f"hold {HELD_MS}")
    session.write(0, b"2" * BLOCK)
    harness.wait_until(disk.held, "the disk holds the write")

    repeats, answers = [], []
    for csi in (cluster.a.csi, cluster.b.csi):
        answers.append(harness.status_of(csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1", timeout_s=2))
        assert disk.held(), "the machine is too slow: the write ended meanwhile"
        repeats.append(start_thread(harness.status_of, csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1",
                                    timeout_s=60))
    assert "OK" not in answers, f"ControllerUnpublishVolume with a write under way: {answers}"
    while disk.held():
        elsewhere = {harness.status_of(csi.publish, volume_id, "n2") for csi in (cluster.a.csi, cluster.b.csi)}
        ended = [repeat.result() for repeat in repeats if repeat.ended()]
        if not disk.held():
            break
        assert elsewhere <= {"FAILED_PRECONDITION", "ABORTED"}, f"publishing elsewhere meanwhile: {elsewhere}"
        assert "OK" not in ended, "a repeat answered OK while the write was held"
        equal(attachment.login_status(), AUTHORIZATION, "a login meanwhile")
    assert {repeat.result() for repeat in repeats} <= {"OK", "ABORTED"}
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
    settle(cluster.b.csi.publish, volume_id, "n2")
    session.close()
    other = cluster.publish(volume_id, "n2")
    with other.login() as successor:
        equal(successor.wait(successor.read(0, 1))[1], b"2" * BLOCK, "the write that was on its way")
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n2")


def removal_races_logins(cluster, choice, rounds=4):
    """2: a storm of logins over four loops while the volume is unpublished: after OK none of them is left or admitted."""
    target = cluster.targets[0]
    volume_id = cluster.create("storm").volume_id
    loops = set()
    for number in range(rounds):
        attachment = cluster.publish(volume_id, "n1", (cluster.a, cluster.b)[number % 2])
        stop, alive, odd = threading.Event(), [], []

        def storm(attachment=attachment, stop=stop, alive=alive, odd=odd):
            while not stop.is_set():
                try:
                    alive.append(attachment.login(timeout_s=10))
                except raw_iscsi.LoginFailed as failed:
                    if failed.status not in (AUTHORIZATION, 0x0302):  # refused, and: too many sessions
                        odd.append(failed.status)
                except CLOSED:
                    pass

        threads = [start_thread(storm) for _ in range(6)]
        try:
            harness.wait_until(lambda alive=alive: len(alive) > choice.randrange(4, 24), "logins succeed")
            loops |= {session.loop for session in target.operator.ListSessions(volume_id=volume_id).sessions}
            settle((cluster.b, cluster.a)[number % 2].csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
            left = list(target.operator.ListSessions(volume_id=volume_id).sessions)
        finally:
            stop.set()
            for thread in threads:
                thread.result()
        equal(left, [], f"sessions after OK, round {number}")
        equal(attachment.login_status(), AUTHORIZATION, "a login after OK")
        for session in alive:
            try:
                session.wait(session.read(0, 1))
                raise AssertionError("a session serves after ControllerUnpublishVolume answered OK")
            except CLOSED:
                session.close()
        equal(odd, [], "other login failures")
    assert len(loops) > 1, f"the sessions were on loops {loops} only"


def attached_anew(cluster, _choice):
    """2: a node that holds the volume anew: its old epoch's credentials are refused, whatever restarts in between."""
    volume_id = cluster.create("anew").volume_id
    old = cluster.publish(volume_id, "n1")
    old_plain = old.user, old.secret
    old.grant()
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n1")
    new = cluster.publish(volume_id, "n1", cluster.b)
    assert new.epoch > old.epoch, f"epoch {new.epoch} after {old.epoch}"
    for _ in range(2):
        equal(old.login_status(), AUTHORIZATION, "the old epoch's generation")
        equal(old.login_status(user=old_plain[0], secret=old_plain[1]), AUTHORIZATION, "the old epoch")
        equal(old.login_status(user=new.user), 0x0201, "the old secret under the new name")
        equal(new.login_status(), 0, "the new epoch")
        cluster.targets[0].kill()
        cluster.targets[0].start()
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")


def unreachable(cluster, _choice):
    """2: a server that cannot be reached: UNAVAILABLE, never OK; afterwards the attachment still stands."""
    victim = cluster.targets[2]
    volume_id = cluster.create("away", "s3").volume_id
    cluster.publish(volume_id, "n1")
    victim.kill()
    for csi in (cluster.a.csi, cluster.b.csi):
        for node in ("n1", "n2", ""):
            status("UNAVAILABLE", csi.ControllerUnpublishVolume, volume_id=volume_id, node_id=node, contains="s3")
        status("UNAVAILABLE", csi.publish, volume_id, "n2", contains="s3")
    victim.start()
    for csi in (cluster.a.csi, cluster.b.csi):
        code = harness.wait_until(lambda csi=csi: harness.status_of(csi.publish, volume_id, "n2").replace("UNAVAILABLE", ""),
                                  "the server is back")
        equal(code, "FAILED_PRECONDITION", "publishing elsewhere once the server is back")
    settle(cluster.b.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
    settle(cluster.a.csi.publish, volume_id, "n2")
    settle(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n2")


def removal_interrupted(cluster, _choice):
    """2: "removing" counts as attached across kill -9 with the write still in the disk; then it is finished."""
    target = cluster.targets[0]
    volume_id = cluster.create("removing").volume_id
    attachment = cluster.publish(volume_id, "n1")
    attachment.grant()
    session = attachment.login()
    equal(session.wait(session.write(0, b"1" * BLOCK))[0], 0, "write")
    target.disk.command("hold 3000")
    session.write(0, b"2" * BLOCK)
    harness.wait_until(target.disk.held, "the disk holds the write")
    code = harness.status_of(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1", timeout_s=1)
    assert code in ("DEADLINE_EXCEEDED", "UNAVAILABLE"), code
    equal([one["removing"] for one in target.record(volume_id)["attachments"]], [True], "the record says so")
    target.process.kill()
    target.start()
    equal(attachment.login_status(), AUTHORIZATION, "a login after the restart")
    settle(cluster.b.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
    equal(target.disk.held(), 0, "writes held when the repeat answered")
    settle(cluster.b.csi.publish, volume_id, "n2")
    settle(cluster.b.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n2")
    session.close()


# ---- 3: a fence holds ----


def fence(cluster, _choice):
    """3: with one of three servers down the fence holds on the others and names the one that is missing; it holds
    through both controllers, after restarts, and for all known boot ids, until the host has a new one."""
    victim = cluster.targets[2]
    boot_id = cluster.register("lost")
    volumes = [cluster.create(f"fenced-{server}", server).volume_id for server in ("s1", "s2", "s3")]
    attachments = [cluster.publish(volume_id, "lost") for volume_id in volumes]
    sessions = [attachment.login() for attachment in attachments]
    victim.kill()
    done = cluster.cli("node", "fence", "lost", "--reason", "test")
    equal(done.returncode, 6, f"exit status with one server missing: {done.stdout}")
    assert "s3" in done.stdout, done.stdout
    for session in sessions[:2]:
        assert session.closed(), "a session outlives the fence"
    for attachment in attachments[:2]:
        equal(attachment.login_status(), AUTHORIZATION, "a fenced node's login")

    def refused(when, which):
        for csi in (cluster.a.csi, cluster.b.csi):
            for volume_id in which:
                code = harness.wait_until(
                    lambda csi=csi, volume_id=volume_id:
                    harness.status_of(csi.publish, volume_id, "lost").replace("UNAVAILABLE", ""), "the controller answers")
                equal(code, "FAILED_PRECONDITION", f"publishing to the fenced node {when}")

    refused("with one server down", volumes[:2])
    victim.start()
    equal(cluster.cli("node", "fence", "lost").returncode, 0, "exit status once the server is back")
    assert sessions[2].closed()
    refused("by the completed fence", volumes)
    for target in cluster.targets:
        target.kill()
        target.start()
    for controller in (cluster.a, cluster.b):
        controller.restart()
    refused("after every server's and controller's restart", volumes)

    def register(boot_id):
        return [target.node("lost").RegisterNode(node_id="lost", boot_id=boot_id, address="test").fenced
                for target in cluster.targets]
    equal(register(boot_id), [True] * 3, "fenced, with the boot id that was known")
    refused("after it registered with the same boot id", volumes)
    equal(register(uuid.uuid4().hex), [False] * 3, "fenced, with a new boot id")
    for volume_id in volumes:
        settle(cluster.a.csi.publish, volume_id, "lost")
        settle(cluster.b.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="lost")


def registrations(cluster):
    """How often the host has registered with each server."""
    return [sum("peer=node:host@" in line and "RegisterNode status=OK" in line for line in target.log_text().splitlines())
            for target in cluster.targets]


def fenced_host(cluster, _choice):
    """3: mooring-node's restart keeps its boot id, and with it the fence; a new life of the host lifts it."""
    node = cluster.node("host")
    volume = cluster.create("host-volume")
    path = node.attach(volume)
    clusters.write_block(path, 0, b"a" * BLOCK, fsync=True)
    equal(cluster.cli("node", "fence", "host").returncode, 0, "fence")
    harness.wait_until(lambda: clusters.errno_of(clusters.read_block, path, 0), "I/O of the fenced node ends with an error")
    node.kill()
    asked = registrations(cluster)
    node.start()
    harness.wait_until(lambda: all(now > before for now, before in zip(registrations(cluster), asked)), "it registers")
    for csi in (cluster.a.csi, cluster.b.csi):
        status("FAILED_PRECONDITION", csi.publish, volume.volume_id, "host", contains="host")
    node.kill_host()
    node.boot()
    node.wait_registered()
    harness.wait_until(lambda: harness.status_of(cluster.a.csi.publish, volume.volume_id, "host") == "OK", "a new life")
    path = node.attach(volume)
    equal(clusters.read_block(path, 0), b"a" * BLOCK, "the data")
    node.detach(volume)


def make(scratch):
    cluster = clusters.Cluster(scratch, disks=("s1",))
    for node in ("n1", "n2"):
        cluster.register(node)
    return cluster


TESTS = (("2-drain", drain), ("2-removal-races-logins", removal_races_logins), ("2-attached-anew", attached_anew),
         ("2-unreachable", unreachable), ("2-removal-interrupted", removal_interrupted), ("3-fence", fence),
         ("3-fenced-host", fenced_host))

if __name__ == "__main__":
    sys.exit(clusters.main(TESTS, make))
