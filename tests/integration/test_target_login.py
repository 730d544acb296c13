#!/usr/bin/python3
"""mooring-target: who gets in, and what malformed or unruly initiators meet."""
import json
import os
import struct
import sys
import threading

import harness
import raw_iscsi
from raw_iscsi import Closed, Initiator, LoginFailed
from target_fixture import MIB, Volume, expect

TASK_SET_FULL = 0x28
AUTHENTICATION, AUTHORIZATION, NOT_FOUND, REMOVED, NO_RESOURCES = 0x0201, 0x0202, 0x0203, 0x0204, 0x0302


def failed_status(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except LoginFailed as failed:
        return failed.status
    return 0


def wrong_names(target, attachment):
    volume = attachment.volume
    wrong_secret = "0" * 32
    expect(attachment.login_status(secret=wrong_secret), AUTHENTICATION, "a wrong secret")
    expect(attachment.login_status(user="nobody"), AUTHENTICATION, "a wrong name")
    expect(attachment.login_status(user=f"{volume.id}/99/0"), AUTHENTICATION, "an epoch that never was")
    expect(attachment.login_status(user=f"{volume.id}/1/7"), AUTHENTICATION, "a generation that never was")
    other = Volume(target).attach()
    expect(attachment.login_status(user=other.user, secret=other.secret), AUTHENTICATION, "another volume's name")
    for server, status in ((target.server_id, REMOVED), ("another", NOT_FOUND)):
        absent = f"{server}.{'0' * 16}"
        with Initiator(target.portal) as initiator:
            expect(failed_status(initiator.login, f"iqn.2026-11.storage.mooring:{absent}", f"{absent}/1/0", wrong_secret),
                   status, "a volume that is not there")
    with Initiator(target.portal) as initiator:
        expect(failed_status(initiator.login, volume.iqn, None, None), AUTHENTICATION, "a login without CHAP")
    expect(attachment.login_status(), 0, "the right name and secret")


def text_keys(target, attachment):
    volume = attachment.volume
    with Initiator(target.portal) as initiator:  # no InitiatorName
        initiator.login_pdu([("TargetName", volume.iqn), ("AuthMethod", "CHAP")], 0, 1, transit=False)
        expect(failed_status(initiator.login_answer), 0x0207, "a login without InitiatorName")
        assert initiator.closed(), "the connection stays open after a refused login"
    with Initiator(target.portal) as initiator:
        initiator.login_pdu([("InitiatorName", "iqn.x:y")] * 2, 0, 1, transit=False)
        expect(failed_status(initiator.login_answer) >> 8, 2, "a key that came twice")
    keys = attachment.login(extra=[("X-com.example", "1"), ("MaxConnections", "8"), ("ErrorRecoveryLevel", "2")])
    keys.close()
    with Initiator(target.portal, isid=raw_iscsi.random_isid()) as initiator:
        agreed = initiator.login(volume.iqn, attachment.user, attachment.secret,
                                 [("X-com.example", "1"), ("MaxConnections", "8"), ("InitialR2T", "No")])
        expect(agreed["X-com.example"], "NotUnderstood", "an unknown key")
        expect(agreed["MaxConnections"], "1", "MaxConnections")
        expect(agreed["InitialR2T"], "Yes", "InitialR2T")


def discovery(target, attachment):
    volume = attachment.volume
    with Initiator(target.portal) as initiator:
        initiator.login(None, None, None)
        expect(initiator.text([("SendTargets", "All")]), [""], "SendTargets=All without CHAP")
        assert f"TargetName={volume.iqn}" in initiator.text([("SendTargets", volume.iqn)]), "the named target"
        initiator.logout()
    other = Volume(target).attach()
    with Initiator(target.portal) as initiator:
        initiator.login(None, attachment.user, attachment.secret)
        listed = initiator.text([("SendTargets", "All")])
        assert f"TargetName={volume.iqn}" in listed and f"TargetAddress={target.portal},1" in listed, listed
        assert f"TargetName={other.volume.iqn}" not in listed, "another volume is listed"
        initiator.command(b"\0")
        assert initiator.closed(), "a SCSI command in a discovery session"
    with Initiator(target.portal) as initiator:
        expect(failed_status(initiator.login, None, attachment.user, "0" * 32), AUTHENTICATION, "discovery, wrong secret")


def data_paths(_, attachment):
    """Immediate data, R2T in bursts, small segments, digest-free: what is written comes back."""
    data = os.urandom(MIB)
    with attachment.login(extra=[("MaxBurstLength", "262144"), ("FirstBurstLength", "8192"),
                                 ("MaxRecvDataSegmentLength", "8192")]) as session:
        tag = session.write(0, data, immediate=8192)
        sent = 8192
        while sent < len(data):
            r2t = session.receive()
            expect(r2t.opcode, raw_iscsi.R2T, "opcode while data are due")
            offset, wanted = struct.unpack(">II", r2t.header[40:48])
            expect((offset, wanted), (sent, min(262144, len(data) - sent)), "what the R2T asks for")
            session.data_out_all(r2t, data)
            sent += wanted
        expect(session.wait(tag)[0], 0, "status of the write")
        status, back, _ = session.wait(session.read(0, 256))
        assert status == 0 and back == data, "what was read back differs"
        expect(session.ping(b"hello").data, b"hello", "NOP-In")


def digests(_, attachment):
    """CRC32C both ways, each alone and together; a wrong one ends this session and no other."""
    data = os.urandom(20480)
    with attachment.login() as witness:
        for keys in ({"HeaderDigest": "CRC32C"}, {"DataDigest": "CRC32C"},
                     {"HeaderDigest": "CRC32C,None", "DataDigest": "CRC32C,None"}):
            with attachment.login(extra=list(keys.items())) as session:
                expect((session.header_digest, session.data_digest), ("HeaderDigest" in keys, "DataDigest" in keys),
                       "the digests that were agreed")
                tag = session.write(0, data, immediate=4096)
                session.data_out_all(session.receive(), data)
                expect(session.wait(tag)[0], 0, "status of a write")
                status, back, _ = session.wait(session.read(0, 5))
                assert status == 0 and back == data, "what was read back differs"
                ping = raw_iscsi.header(raw_iscsi.NOP_OUT | raw_iscsi.IMMEDIATE, length=3, tag=99,
                                        fields=b"\xff" * 4 + struct.pack(">I", session.cmd_sn))
                session.send(ping, b"abc", spoil_header=True, spoil_data=True)
                assert session.closed(), "a wrong digest is not answered by closing"
            expect(witness.wait(witness.read(0, 1))[0], 0, "another session's read")


def malformed(target, attachment):
    """Whatever one connection sends, another session goes on and the process stays up."""
    garbage = [os.urandom(4096) for _ in range(20)]
    garbage += [b"GET / HTTP/1.1\r\n\r\n" + b"\0" * 64, b"\x43" + b"\xff" * 47, b"\x03" + b"\0" * 47, b""]
    in_session = {
        "a response opcode": lambda s: s.send_raw(raw_iscsi.header(raw_iscsi.RESPONSE)),
        "a login in the full feature phase": lambda s: s.login_pdu([("a", "b")], 1, 3),
        "AHS beyond the limit": lambda s: s.send_raw(b"\x01\x80\0\0\xff" + b"\0" * 43),
        "more data than was agreed": lambda s: s.send_raw(b"\x00\x80\0\0\0\xff\xff\xff" + b"\0" * 40),
        "data with a read": lambda s: s.command(b"\x28", read=4096, data=b"x" * 512),
        "a left-out CmdSN": lambda s: s.command(b"\0", cmd_sn=s.cmd_sn + 1),
        "unsolicited Data-Out": lambda s: s.send_raw(raw_iscsi.header(raw_iscsi.DATA_OUT, fields=b"\xff" * 4)),
        "Data-Out for no R2T": lambda s: s.send_raw(raw_iscsi.header(raw_iscsi.DATA_OUT, fields=b"\0\0\x0f\xfe")),
        "an announced unsolicited burst": lambda s: s.command(b"\x2a", write=8192, flags=0),
        "malformed text": lambda s: s.text([("no pair", "x\0y\0")]),
    }
    with attachment.login() as witness:
        for piece in garbage:
            with Initiator(target.portal) as initiator:
                try:
                    initiator.send_raw(piece)
                    initiator.socket.shutdown(1)
                except (Closed, OSError):
                    pass
                assert initiator.closed(), f"garbage {piece[:16]!r} is not answered by closing"
        for what, send in in_session.items():
            with attachment.login() as session:
                try:
                    send(session)
                except Closed:
                    pass
                assert session.closed(), f"{what} is not answered by closing"
            expect(witness.wait(witness.read(0, 1))[0], 0, f"another session's read after {what}")
    assert target.process.poll() is None, "the process is down"


def data_sequence_errors(_, attachment):
    with attachment.login() as session:
        for what, options in {"DataSN": {"data_sn": 5}, "offset": {"offset": 4096}, "F bit": {"final": False}}.items():
            tag = session.write(0, b"x" * 8192, immediate=0)
            session.data_out(session.receive(), b"x" * 8192, **options)
            status, _, sense = session.wait(tag)
            expect((status, sense[2] & 15), (2, 0xB), f"a wrong {what}: status and sense key")
        expect(session.wait(session.read(0, 1))[0], 0, "a read afterwards")


def limits(scratch, tls):
    """Invariant 10: each limit has its answer."""
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-2"), loops=2, limits={
        "sessions_per_volume": 2, "connections": 6, "commands_per_session": 6, "buffer_bytes_per_loop": 4 * MIB})
    attachment = Volume(target).attach()
    with attachment.login() as one, attachment.login():
        expect(attachment.login_status(), NO_RESOURCES, "a session too many")
        # The window: what is sent beyond it is ignored, what is within it is served.
        tags = [one.write(0, b"y" * 8192, immediate=0) for _ in range(6)]
        r2ts = [one.receive() for _ in tags]
        expect([pdu.opcode for pdu in r2ts], [raw_iscsi.R2T] * 6, "an R2T for each")
        expect(r2ts[-1].max_cmd_sn, r2ts[-1].exp_cmd_sn - 1, "the window is closed")
        beyond, number = one.read(0, 1), one.cmd_sn
        one.cmd_sn = number - 1
        for r2t in r2ts:
            one.data_out(r2t, b"y" * 8192)
        for tag in tags:
            expect(one.wait(tag)[0], 0, "a write in the window")
        expect(one.wait(one.read(0, 1))[0], 0, "the next read")
        assert beyond
    connections = [one.login() for one in [Volume(target).attach() for _ in range(3)] for _ in range(2)]
    with Initiator(target.portal) as extra:
        try:
            extra.login(None, None, None)
            raise AssertionError("a connection beyond the limit is served")
        except Closed:
            pass
    for connection in connections:
        connection.close()
    buffers(attachment)
    expect(target.stop(), 0, "exit status")


def buffers(attachment):
    """Writers of 1 MiB on loops with 4 MiB of buffers: R2Ts are held back, immediate data meet TASK SET FULL."""
    large = [("MaxBurstLength", str(MIB))]
    with attachment.login(extra=large) as one, attachment.login() as two:  # one on each loop
        tags = [one.write(256 * number, bytes([number]) * MIB, immediate=0) for number in range(4)]
        expect(two.wait(two.write(2048, b"w" * 4096))[0], 0, "a write on the other loop")
        first, second = one.r2t(), one.r2t()  # half of the loop's buffers; the others wait
        expect(one.wait(one.write(2048, b"v" * 4096))[0], TASK_SET_FULL, "immediate data without a buffer")
        one.data_out_all(first, bytes([0]) * MIB)
        expect(one.wait(tags[0])[0], 0, "the first large write")
        third = one.r2t()
        one.data_out_all(second, bytes([1]) * MIB)
        one.data_out_all(third, bytes([2]) * MIB)
        expect([one.wait(tag)[0] for tag in tags[1:3]], [0, 0], "the next large writes")
        one.data_out_all(one.r2t(), bytes([3]) * MIB)
        expect(one.wait(tags[3])[0], 0, "the last large write")
        for number in range(4):
            status, data, _ = one.wait(one.read(256 * number, 256))
            assert status == 0 and data == bytes([number]) * MIB, f"large write {number}"


def stalled_initiator(scratch, tls):
    """One that stops in the middle of its writes does not stop another session on the same loop."""
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-5"), loops=1, limits={
        "commands_per_session": 16, "buffer_bytes_per_loop": 4 * MIB})
    attachment = Volume(target).attach()
    with attachment.login(extra=[("MaxBurstLength", str(MIB))]) as stalled, attachment.login(timeout_s=10) as other:
        for number in range(10):
            stalled.write(256 * number, b"s" * MIB, immediate=0)
        expect([stalled.receive().opcode for _ in range(2)], [raw_iscsi.R2T] * 2, "R2Ts")
        for _ in range(3):
            expect(other.wait(other.write(0, b"o" * 65536))[0], 0, "another session's write")
            expect(other.wait(other.read(0, 256))[0], 0, "another session's read of 1 MiB")
        expect(stalled.wait(stalled.management(raw_iscsi.ABORT_TASK_SET))[0], 0, "ABORT TASK SET of those that wait")
        expect(stalled.wait(stalled.read(0, 1))[0], 0, "a read afterwards")
    expect(target.stop(), 0, "exit status")


def hidden_secret(target, attachments):
    text = target.log_text()
    for attachment in attachments:
        assert attachment.secret not in text, "a secret is in the log"


def bad_configuration(scratch, target):
    """Each ends with the exit status and the words that name the thing; the running server is not disturbed."""
    path = scratch.path / "bad.json"
    cases = [({"pool": str(scratch.path)}, 1, "holds no pool"), ({"pool": "/nonexistent"}, 1, "no directory"),
             ({"pool_uuid": "11111111-1111-1111-1111-111111111111"}, 1, "which the configuration names"),
             ({"server_id": "store-9"}, 1, "is of server store-1"), ({"portals": ["localhost:1"]}, 1, "numeric"),
             ({"bogus": 1}, 2, 'unknown key "bogus"'), ({"tls": {**target.config["tls"], "cert": "/none"}}, 1, "/none"),
             ({}, 1, "Address already in use")]
    for change, status, words in cases:
        own = {"listen": f"127.0.0.1:{harness.free_port()}", "portals": [f"127.0.0.1:{harness.free_port()}"]}
        path.write_text(json.dumps({**target.config, **(own if change else {}), **change}))
        done = harness.run(harness.program("mooring-target"), "--config", path, check=False)
        assert done.returncode == status and words in done.stdout, f"{change}: {done.returncode}: {done.stdout[-300:]}"
    for flags in (("--bogus",), ("--config", "/nonexistent")):
        expect(harness.run(harness.program("mooring-target"), *flags, check=False).returncode, 2, f"exit status of {flags}")
    target.controller.GetServer()


def parallel_logins(attachment):
    """Logins at once on all loops, and all of them serve."""
    failures = []

    def one():
        try:
            with attachment.login() as session:
                expect(session.wait(session.read(0, 1))[0], 0, "a read")
        except Exception as why:
            failures.append(why)

    threads = [threading.Thread(target=one) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(failures, [], "failures")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        pool = harness.Pool(scratch)
        target = harness.Target(scratch, tls, pool)
        attachment = Volume(target).attach()
        suite.run("wrong-names", wrong_names, target, attachment)
        suite.run("text-keys", text_keys, target, attachment)
        suite.run("discovery", discovery, target, attachment)
        suite.run("data-paths", data_paths, target, attachment)
        suite.run("digests", digests, target, attachment)
        suite.run("malformed-pdus", malformed, target, attachment)
        suite.run("data-sequence-errors", data_sequence_errors, target, attachment)
        suite.run("bad-configuration", bad_configuration, scratch, target)
        suite.run("parallel-logins", parallel_logins, attachment)
        suite.run("no-secret-in-the-log", hidden_secret, target, [attachment])
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
        suite.run("limits", limits, scratch, tls)
        suite.run("stalled-initiator", stalled_initiator, scratch, tls)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
