#!/usr/bin/python3
"""mooring-target against initiators that guess, stall, borrow names or take every connection."""
import hashlib
import resource
import struct
import sys
import threading
import time

import harness
import raw_iscsi
from raw_iscsi import COMMAND, DATA_OUT, FINAL, IMMEDIATE, TMF, header
from target_fixture import MIB, MULTI_WRITER, Volume, expect

AUTHORIZATION, UNAVAILABLE = 0x0202, 0x0301
WRITE_FLAGS = FINAL | 0x20 | 1


def write_command(session, tag, cmd_sn, size_bytes):
    """A WRITE (16) without immediate data, as bytes."""
    cdb = struct.pack(">BBQIH", 0x8A, 0, 0, size_bytes // 4096, 0)
    fields = struct.pack(">III", size_bytes, cmd_sn, session.exp_stat_sn) + cdb.ljust(16, b"\0")
    return header(COMMAND, WRITE_FLAGS, 0, tag=tag, fields=fields)


def guessed_data_out(session, transfer_tag, tag, data):
    fields = struct.pack(">IIIIIII", transfer_tag, 0, session.exp_stat_sn, 0, 0, 0, 0)
    return header(DATA_OUT, FINAL, len(data), tag=tag, fields=fields) + data


def abort_task(session, tag):
    fields = struct.pack(">IIIII", tag, session.cmd_sn, session.exp_stat_sn, 0, 0)
    return header(TMF | IMMEDIATE, FINAL | 1, tag=900, fields=fields)


def data_before_its_r2t(target):
    """A Data-Out for an R2T that still waits to be sent, in one segment with the command, its abort and another
    command, which takes the task's place: the R2T in the send queue must not outlive the task."""
    bystander = Volume(target).attach("n1").login()
    attachment = Volume(target).attach("n1")
    for transfer_tag in (1 << 12, 2 << 12):
        session = attachment.login(extra=[("MaxBurstLength", "4096"), ("FirstBurstLength", "4096")])
        ready = header(COMMAND, FINAL | 1, 0, tag=78,
                       fields=struct.pack(">III", 0, session.cmd_sn + 1, session.exp_stat_sn) + bytes(16))
        session.send_raw(write_command(session, 77, session.cmd_sn, 8192) +
                         guessed_data_out(session, transfer_tag, 77, b"x" * 4096) + abort_task(session, 77) + ready)
        if transfer_tag == 2 << 12:
            assert session.closed(), "the session goes on"
        session.close()
    expect(bystander.wait(bystander.read(0, 1))[0], 0, "another volume's read")
    assert "an R2T that was not sent yet" in target.log_text(), "no words in the log"
    bystander.close()


def node_name(node):
    return f"iqn.2026-11.storage.mooring:node:{node}"


def login_up_to_the_last_request(attachment, isid):
    """Authenticated, and nothing asked of the volume's owner yet."""
    initiator = raw_iscsi.Initiator(attachment.volume.target.portal, isid=isid, name=node_name(attachment.node))
    initiator.login_pdu([("InitiatorName", initiator.name), ("TargetName", attachment.volume.iqn),
                         ("AuthMethod", "CHAP")], 0, 1, transit=False)
    initiator.login_answer()
    initiator.login_pdu([("CHAP_A", "5")], 0, transit=False)
    _, keys = initiator.login_answer()
    challenge = bytes.fromhex(keys["CHAP_C"][2:])
    digest = hashlib.md5(bytes([int(keys["CHAP_I"])]) + attachment.secret.encode() + challenge).hexdigest()
    initiator.login_pdu([("CHAP_N", attachment.user), ("CHAP_R", "0x" + digest)], 0, 1)
    initiator.login_answer()
    return initiator


def late_login_of_an_old_generation(target):
    """It is refused, and the newer generation's session under the same nexus goes on."""
    attachment, isid = Volume(target).attach("n1"), raw_iscsi.random_isid()
    attachment.grant()
    late = login_up_to_the_last_request(attachment, isid)
    attachment.grant()
    session = attachment.login(isid=isid, name=node_name("n1"))
    expect(session.wait(session.write(0, b"1" * 4096))[0], 0, "the new generation's write")
    late.login_pdu([("HeaderDigest", "None")], 1, 3)
    try:
        late.login_answer()
        raise AssertionError("the old generation was admitted")
    except raw_iscsi.LoginFailed as failed:
        expect(failed.status, AUTHORIZATION, "the old generation's login")
    expect(session.wait(session.read(0, 1))[:2], (0, b"1" * 4096), "the new generation's read after it")
    late.close()
    session.close()


def a_borrowed_nexus(target):
    """Another attachment under a device's own name and ISID: the device waits, and has it when that one ends."""
    volume, isid = Volume(target), raw_iscsi.random_isid()
    rightful, borrower = volume.attach("n1", MULTI_WRITER), volume.attach("n2", MULTI_WRITER)
    rightful.grant()
    session = borrower.login(isid=isid, name=node_name("n1"))
    expect(rightful.login_status(isid=isid), UNAVAILABLE, "the rightful device's login")
    expect(session.wait(session.read(0, 1))[0], 0, "the other one's read")
    session.close()
    harness.wait_until(lambda: rightful.login_status(isid=isid) == 0, "the rightful device is admitted")


def stalled_sessions(scratch, tls):
    """Initiators that stop in the middle of their writes, or do not take what they read, hold every buffer of the
    loop: those who wait for one get it all the same, and who is slow but goes on is not taken for one of them."""
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-2"), loops=1, limits={"buffer_bytes_per_loop": 8 * MIB})
    bystander, slow = (Volume(target).attach("n1").login(timeout_s=120, extra=[("MaxBurstLength", str(MIB))])
                       for _ in range(2))
    mute = [Volume(target, size_bytes=64 * MIB).attach("n1") for _ in range(4)]
    for stop in (stop_in_writes, stop_in_reads):
        slow_data = b"s" * MIB
        slow_tag = slow.write(0, slow_data, immediate=0)
        request = slow.r2t()
        sessions = [attachment.login() for attachment in mute]
        for session in sessions:
            stop(session)
        read = bystander.read(0, 16)
        for at in range(0, MIB, 65536):
            slow.data_out(request, slow_data[at:at + 65536], at // 65536, at, final=at + 65536 == MIB)
            time.sleep(0.6)
        expect(slow.wait(slow_tag)[0], 0, f"the slow initiator's write, {stop.__name__}")
        expect(bystander.wait(read)[0], 0, f"a read among them, {stop.__name__}")
        harness.wait_until(lambda: bystander.wait(bystander.write(1, b"w" * 4096))[0] == 0,
                           "a write with immediate data among them", timeout_s=120, pause_s=1)
        for session in sessions:
            session.close()
    assert "others wait for its buffers" in target.log_text(), "no words in the log"
    expect(target.stop(), 0, "exit status")


def stop_in_writes(session):
    for number in range(8):
        session.write(number * 256, b"z" * MIB, immediate=0)


def stop_in_reads(session):
    for number in range(16):
        session.read(number * 256, 256)


def descriptors(scratch, tls):
    """The soft limit that the server was started with is not what bounds its volumes and connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        target = harness.Target(scratch, tls, harness.Pool(scratch, "store-4"), loops=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expect(resource.prlimit(target.process.pid, resource.RLIMIT_NOFILE), (hard, hard), "the limits of descriptors")
    assert f"descriptors: at most {hard}" in target.log_text(), "no words in the log"
    expect(target.stop(), 0, "exit status")


def crowd(scratch, tls):
    """Discoveries, which need no secret, and connections that say nothing leave room for logins; and they end."""
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-5"), loops=2, limits={"connections": 16})
    attachments = [Volume(target).attach("n1") for _ in range(2)]
    session = attachments[0].login(timeout_s=100)
    discoveries, silent = [], []
    for _ in range(20):
        discoveries.append(raw_iscsi.Initiator(target.portal, timeout_s=100))
        discoveries[-1].login(None, None, None)
    expect(attachments[1].login_status(), 0, "a login among discoveries")
    for _ in range(20):
        silent.append(raw_iscsi.Initiator(target.portal, timeout_s=100))
    expect(attachments[1].login_status(), 0, "a login among silent connections")
    last = raw_iscsi.Initiator(target.portal, timeout_s=100)
    last.login(None, None, None)
    assert last.closed(), "a discovery goes on for ever"
    expect(session.wait(session.read(0, 1))[0], 0, "a read of a session from before")
    assert "had proved no attachment" in target.log_text(), "no words in the log"
    for initiator in (session, last, *discoveries, *silent):
        initiator.close()
    expect(target.stop(), 0, "exit status")


class LongAdmission:
    """A login that reinstates a session whose last write the disk holds for longer than a silent session lives. It
    takes two minutes, so it begins before the other tests and is looked at after them."""

    def __init__(self, scratch, tls):
        disk = harness.FaultyDisk(scratch)
        self.target = harness.Target(scratch, tls, harness.Pool(scratch, "store-3", device=disk.device), loops=2)
        attachment, isid = Volume(self.target).attach("n1"), raw_iscsi.random_isid()
        old = attachment.login(isid=isid)
        expect(old.wait(old.write(0, b"1" * 4096))[0], 0, "a write")
        disk.command("hold 125000")
        old.write(0, b"2" * 4096)
        harness.wait_until(disk.held, "the disk holds the write")
        self.session = None
        self.login = threading.Thread(target=self._login, args=(attachment, isid), daemon=True)
        self.login.start()

    def _login(self, attachment, isid):
        self.session = attachment.login(isid=isid, timeout_s=300)

    def check(self):
        self.login.join()
        assert self.session, "the login failed"
        time.sleep(2.5)  # the target looks for silent sessions once a second
        expect(self.session.wait(self.session.read(0, 1))[:2], (0, b"2" * 4096), "a read of the session admitted late")
        expect(self.target.stop(), 0, "exit status")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        admissions = []
        suite.run("long-admission", lambda: admissions.append(LongAdmission(scratch, tls)))
        pool = harness.Pool(scratch)
        target = harness.Target(scratch, tls, pool, loops=1)
        suite.run("data-before-its-r2t", data_before_its_r2t, target)
        suite.run("late-login-of-an-old-generation", late_login_of_an_old_generation, target)
        suite.run("a-borrowed-nexus", a_borrowed_nexus, target)
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
        suite.run("stalled-sessions", stalled_sessions, scratch, tls)
        suite.run("descriptors", descriptors, scratch, tls)
        suite.run("crowd", crowd, scratch, tls)
        for admission in admissions:
            suite.run("long-admission", admission.check)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
