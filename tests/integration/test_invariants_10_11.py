#!/usr/bin/python3
"""Invariants 10 and 11 over a whole cluster: every limit has its answer and disturbs nobody else; no secret is shown."""
import os
import pathlib
import stat
import struct
import sys

import cluster as clusters
import harness
import raw_iscsi
from cluster import BLOCK, Writer, equal, status

SESSIONS, CONNECTIONS, WINDOW = 6, 24, 128  # of commands: the default
TOO_MANY_SESSIONS = 0x0302  # out of resources
CLOSED = (raw_iscsi.Closed, OSError)


# ---- 10: bounded ----


def undisturbed(cluster, choice, name, disturb):
    """disturb() while a writer works on another volume of the same server: no error, and it goes on."""
    node = cluster.nodes["n1"]
    volume = cluster.create(f"beside-{name}")
    writer = Writer(node.attach(volume), choice.random(), fsync=10)
    writer.wait_for(10)
    try:
        disturb()
        writer.wait_for(10)
    finally:
        writer.stopping.set()
    writer.stop()
    equal(writer.wrong(), 0, "wrong blocks beside it")
    node.detach(volume)


def sessions(cluster, choice):
    """10: a volume's sessions are limited: the next login is told that there are no resources."""
    volume_id = cluster.create("sessions").volume_id
    attachment = cluster.publish(volume_id, "vm")

    def disturb():
        held = [attachment.login() for _ in range(SESSIONS)]
        for _ in range(3):
            equal(attachment.login_status(), TOO_MANY_SESSIONS, f"login {SESSIONS + 1}")
        equal(held[0].wait(held[0].read(0, 1))[1], b"\0" * BLOCK, "a session that is in")
        held.pop().close()
        harness.wait_until(lambda: attachment.login_status() == 0, "there is room again")
        for session in held:
            session.close()
    undisturbed(cluster, choice, "sessions", disturb)
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="vm")


def connections(cluster, choice):
    """10: the server's connections are limited, those that never log in included: the next one is closed."""
    target = cluster.targets[0]

    def disturb():
        held, refused = [], 0
        for _ in range(CONNECTIONS + 8):
            one = raw_iscsi.Initiator(target.portal, timeout_s=2)
            held.append(one)
        for one in held:
            try:
                one.login_pdu([("InitiatorName", one.name), ("SessionType", "Discovery"), ("AuthMethod", "None")], 0, 1)
                one.login_answer()
            except CLOSED:
                refused += 1
            except raw_iscsi.LoginFailed as failed:
                refused += failed.status == TOO_MANY_SESSIONS
        assert refused >= 8, f"{refused} of {len(held)} connections were refused"
        assert refused < len(held), "all connections were refused"
        for one in held:
            one.close()
        equal(harness.status_of(target.controller.GetServer), "OK", "gRPC meanwhile")

        def served():
            try:
                with raw_iscsi.Initiator(target.portal, timeout_s=2) as one:
                    one.login(None, None, None)
                return True
            except (raw_iscsi.LoginFailed, *CLOSED):
                return False
        harness.wait_until(served, "there is room again")
    undisturbed(cluster, choice, "connections", disturb)


def oversize(cluster, choice):
    """10: a message that is too large: RESOURCE_EXHAUSTED by gRPC; a PDU: the connection ends."""
    target = cluster.targets[0]
    volume_id = cluster.create("oversize").volume_id
    attachment = cluster.publish(volume_id, "vm")

    def disturb():
        huge = "x" * (16 << 20)
        for call, fields in ((cluster.a.csi.CreateVolume, {"name": huge}), (cluster.a.csi.DeleteVolume, {"volume_id": huge}),
                             (target.controller.GetVolume, {"volume_id": huge})):
            equal(harness.status_of(call, **fields), "RESOURCE_EXHAUSTED", "a message of 16 MiB")
        status("INVALID_ARGUMENT", cluster.a.csi.create, "x" * 129)
        with attachment.login() as session:
            head = bytearray(raw_iscsi.header(raw_iscsi.COMMAND, 0xA0, 0, tag=99))
            head[5:8] = b"\xff\xff\xff"
            session.send_raw(bytes(head))
            assert session.closed(), "the connection stays after a PDU of 16 MiB"
        with raw_iscsi.Initiator(target.portal) as session:
            session.send_raw(struct.pack(">B4s", 0x43, b"\x87\0\0\xff") + b"\xff" * 59)
            assert session.closed(), "the connection stays after an oversize login"
        equal(attachment.login_status(), 0, "a login afterwards")
    undisturbed(cluster, choice, "oversize", disturb)
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="vm")


def r2ts_before_a_ping(session):
    """How many R2Ts the target sends for what it was sent before, and the number of commands that it took."""
    asked, taken = 0, session.cmd_sn
    session.ping_only()
    while True:
        pdu = session.receive()
        if pdu.opcode == raw_iscsi.NOP_IN:
            return asked, pdu.exp_cmd_sn - taken
        equal(pdu.opcode, raw_iscsi.R2T, "opcode")
        asked += 1


def login_in_time(attachment):
    """A login when the session that was closed last may still count among those that are allowed."""
    admitted = []

    def admit():
        try:
            admitted.append(attachment.login(timeout_s=20))
        except raw_iscsi.LoginFailed as refused:
            equal(refused.status, TOO_MANY_SESSIONS, "status of a login beyond the limit")
        return admitted
    harness.wait_until(admit, "a login is admitted")
    return admitted[0]


def command_window(cluster, choice):
    """10: commands beyond the window are not taken, and writes whose data never comes hold up only their own session."""
    volume_id = cluster.create("window").volume_id
    attachment = cluster.publish(volume_id, "vm")

    def disturb():
        held = [attachment.login() for _ in range(SESSIONS - 1)]
        for session in held:  # data that never comes: R2Ts out, and what they may take of the buffers is bounded
            for _ in range(32):
                session.write(0, b"x" * 65536, immediate=0)
        with attachment.login(timeout_s=20) as flood:
            first = flood.cmd_sn
            for _ in range(WINDOW + 24):
                flood.write(0, b"x" * BLOCK, immediate=0)
            flood.cmd_sn = first
            equal(r2ts_before_a_ping(flood), (WINDOW, WINDOW), "R2Ts and commands taken of more than the window")
        with login_in_time(attachment) as one:
            equal(one.wait(one.read(0, 1))[1], b"\0" * BLOCK, "another session of the same volume")
        for session in held:
            session.close()
    undisturbed(cluster, choice, "window", disturb)
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="vm", timeout_s=30)


# ---- 11: no secret ----


def secrets_of(target):
    """Every CHAP secret in the pool: attachments' and generations'."""
    found = set()
    for path in (target.pool.path / "volumes").glob("*/volume.json"):
        for attachment in target.record(path.parent.name)["attachments"]:
            found |= {attachment["secret"], attachment["generation_secret"]}
    return {secret for secret in found if secret}


def readable_by_all(path, top):
    """By its own mode, and by those of the folders above it up to (and without) top."""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents if top in folder.parents)


def small_files(top):
    for folder, _, names in os.walk(top):
        for name in names:
            path = pathlib.Path(folder, name)
            if path.is_file() and path.stat().st_size < 64 << 20 and path.name not in ("disk", "volume"):
                yield path


def no_secret(cluster, _choice):
    """11: no CHAP secret and no private key in a log, a process's arguments or environment, an answer to the CO, or a
    file that all may read."""
    node, scratch = cluster.nodes["n1"], cluster.scratch.path
    volumes = [cluster.create(f"secret-{server}", server) for server in ("s1", "s2")]
    cluster.register("vm")
    for volume, other in zip(volumes, (None, "vm")):
        clusters.write_block(node.attach(volume), 0, b"s" * BLOCK, fsync=True)
        if other:
            status("FAILED_PRECONDITION", cluster.a.csi.publish, volume.volume_id, other)
    plain = cluster.publish(cluster.create("secret-vm").volume_id, "vm")
    with plain.login() as session:
        session.wait(session.read(0, 1))
    equal(plain.login_status(secret="wrong" * 4), 0x0201, "a login with a wrong secret")
    os.kill(node.device_status(volumes[0])["pid"], 9)  # its successor logs in too
    clusters.write_block(node.dir / "targets" / volumes[0].volume_id, 1, b"t" * BLOCK, fsync=True)
    for words in (("volume", "list"), ("volume", "show", volumes[0].volume_id), ("session", "list"), ("node", "list")):
        for form in ("table", "json"):
            answer = cluster.cli("-o", form, *words).stdout
            shown = [secret for target in cluster.targets for secret in secrets_of(target) if secret in answer]
            equal(shown, [], f"secrets that mooring {' '.join(words)} prints")

    secrets = set().union(*(secrets_of(target) for target in cluster.targets))
    assert len(secrets) >= 5, f"only {len(secrets)} secrets to look for"
    needles = {secret.encode() for secret in secrets}
    needles |= {path.read_bytes().splitlines()[1] for path in (scratch / "tls").glob("*.key")}
    places, logs = {}, 0
    for pid in [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]:
        try:
            if str(harness.BUILD) in os.readlink(f"/proc/{pid}/exe"):
                for name in ("cmdline", "environ", "comm"):
                    places[f"{name} of process {pid}"] = pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:
            continue
    assert len(places) >= 3 * 9, f"only {len(places)} places of processes to look at"
    for volume_id, context in node.contexts.items():
        places[f"the publish context of {volume_id}"] = repr(dict(context)).encode()
    for volume in volumes:
        places[f"the volume context of {volume.volume_id}"] = repr(dict(volume.volume_context)).encode()
    for path in small_files(scratch):
        if "log" in path.name:
            logs += 1
            places[f"the log {path}"] = path.read_bytes()
        elif readable_by_all(path, scratch):
            places[f"{path}, which all may read"] = path.read_bytes()
    assert logs >= 8, f"only {logs} logs to look at"
    shown = [place for place, content in places.items() if any(needle in content for needle in needles)]
    equal(shown, [], "places that show a secret")
    for volume in volumes:
        node.detach(volume)
    cluster.a.csi.ControllerUnpublishVolume(volume_id=plain.volume.id, node_id="vm")


def own_attachments_only(cluster, _choice):
    """11: a node's certificate reads its own attachments and secrets, not another node's, whatever it says it is."""
    volume_id = cluster.create("own").volume_id
    cluster.publish(volume_id, "vm")
    target, node = cluster.targets[0], cluster.targets[0].node("n2")
    cluster.register("n2")
    for fields in ({"node_id": "vm"}, {"node_id": "vm", "epoch": 1}, {"node_id": "vm", "epoch": 1, "generation": 1}):
        for name in ("GetAttachment", "GrantGeneration", "BeginFormat", "EndFormat"):
            known = {key: value for key, value in fields.items()
                     if key in [field.name for field in request_of(node, name).DESCRIPTOR.fields]}
            equal(harness.status_of(getattr(node, name), volume_id=volume_id, **known), "PERMISSION_DENIED", name)
    equal(harness.status_of(node.GetAttachment, volume_id=volume_id, node_id="n2"), "NOT_FOUND", "its own")
    assert harness.status_of(node.GetVolume, volume_id=volume_id) in ("PERMISSION_DENIED", "NOT_FOUND")
    equal(harness.status_of(node.RegisterNode, node_id="vm", boot_id="0" * 32), "PERMISSION_DENIED", "RegisterNode")
    for name in ("ListVolumes", "ListNodes", "ListSessions"):
        equal(harness.status_of(getattr(node, name)), "PERMISSION_DENIED", name)
    equal(harness.status_of(target.controller.GetAttachment, volume_id=volume_id, node_id="vm"), "PERMISSION_DENIED",
          "the controller asks for a secret")
    cluster.a.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="vm")


def request_of(client, name):
    messages = client._messages  # pylint: disable=protected-access
    return getattr(messages, messages.DESCRIPTOR.services_by_name["Storage"].methods_by_name[name].input_type.name)


def make(scratch):
    cluster = clusters.Cluster(scratch, nodes=("n1",), limits={"sessions_per_volume": SESSIONS, "connections": CONNECTIONS})
    cluster.register("vm")
    return cluster


TESTS = (("10-sessions", sessions), ("10-connections", connections), ("10-oversize", oversize),
         ("10-command-window", command_window), ("11-no-secret", no_secret), ("11-own-only", own_attachments_only))

if __name__ == "__main__":
    sys.exit(clusters.main(TESTS, make))
