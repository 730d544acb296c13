#!/usr/bin/python3
"""mooring-target's control plane: late calls, fences beside busy volumes, repeats, full and damaged pools."""
import pathlib
import sys
import threading

import harness
from harness import status_of
from target_fixture import Volume, expect, register

# ---- late calls (invariant 8) ----


def late_attach(target):
    volume = Volume(target)
    register(target, "n1")
    read = volume.get().record_generation
    attach = lambda generation: status_of(target.controller.AttachVolume, volume_id=volume.id, node_id="n1",
                                          access_mode=1, record_generation=generation)
    volume.detach("n1")  # the caller gave up, and detaches what it never saw attached
    expect(attach(read), "ABORTED", "an attach that was decided before a detach")
    expect(list(volume.get().attachments), [], "attachments after a late attach")
    expect(attach(volume.get().record_generation), "OK", "an attach decided on what is")
    epoch = volume.get().attachments[0].epoch
    expect(attach(read), "OK", "a repeat whose attachment stands")
    expect(volume.get().attachments[0].epoch, epoch, "its epoch")


def late_detach(target):
    volume = Volume(target)
    old = volume.attach("n1")
    detach = lambda **decided: status_of(target.controller.DetachVolume, volume_id=volume.id, node_id="n1", **decided)
    before = volume.get().record_generation
    volume.detach("n1")
    new = volume.attach_only("n1")
    with new.login() as session:
        expect(detach(epoch=old.epoch), "ABORTED", "a detach that was decided on an older attachment")
        expect(detach(record_generation=before), "ABORTED", "a detach that was decided on an older record")
        expect(detach(), "INVALID_ARGUMENT", "a detach that was decided on nothing")
        expect(session.wait(session.read(0, 1))[0], 0, "a read of the newer attachment afterwards")
    expect(detach(epoch=new.epoch), "OK", "a detach of what stands")
    expect(detach(epoch=new.epoch), "OK", "its repeat")


# ---- a fence (invariant 3) ----


def fence_beside_busy(scratch, tls):
    """A grant that waits for a held write has one volume; the node's others are taken away all the same."""
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-3", device=disk.device))
    volumes = sorted((Volume(target) for _ in range(3)), key=lambda volume: volume.id)
    register(target, "n1")
    attachments = [volume.attach_only("n1") for volume in volumes]
    for attachment in attachments:
        attachment.grant()
    sessions = [attachment.login() for attachment in attachments]
    for session in sessions:
        expect(session.wait(session.write(0, b"1" * 4096))[0], 0, "a write")
        expect(session.wait(session.command(b"\x35".ljust(10, b"\0")))[0], 0, "SYNCHRONIZE CACHE")
    disk.command("hold 60000")
    sessions[0].write(0, b"2" * 4096)
    harness.wait_until(disk.held, "a write is held")
    grant = threading.Thread(target=lambda: status_of(attachments[0].grant, timeout_s=60))
    grant.start()
    running = lambda: status_of(attachments[0].begin_format, timeout_s=1) == "ABORTED"
    harness.wait_until(running, "the grant has the first volume")
    status = []
    fence = threading.Thread(
        target=lambda: status.append(status_of(target.operator.FenceNode, node_id="n1", reason="lost", timeout_s=60)))
    fence.start()
    harness.wait_until(lambda: not any(volume.get().attachments for volume in volumes[1:]),
                       "the removal from the volumes that nothing keeps busy")
    expect(len(volumes[0].get().attachments), 1, "attachments of the busy volume")
    expect(status, [], "the answer of the fence while one volume is busy")
    disk.command("release")
    grant.join()
    fence.join()
    expect(status, ["OK"], "the fence")
    expect([list(volume.get().attachments) for volume in volumes], [[], [], []], "attachments after the fence")


# ---- calls that cannot end ----


def stuck(scratch, tls):
    """A target whose disk holds a write of n1's volume: (target, disk, volume)."""
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-3", device=disk.device))
    volume = Volume(target)
    session = volume.attach("n1").login()
    for wait in (session.write(0, b"1" * 4096), session.command(b"\x35".ljust(10, b"\0"))):
        expect(session.wait(wait)[0], 0, "a write that opens the volume")
    disk.command("hold 60000")
    session.write(0, b"2" * 4096)
    harness.wait_until(disk.held, "a write is held")
    return target, disk, volume


def repeats(scratch, tls):
    """More repeats of a detach than there are threads, and of a fence, while a drain cannot end."""
    target, disk, volume = stuck(scratch, tls)
    other = Volume(target).attach("n2")
    operator = target.operator  # its certificate is made once
    epoch = volume.get().attachments[0].epoch
    statuses = []
    calls = [threading.Thread(target=lambda: statuses.append(status_of(volume.detach, "n1", epoch=epoch, timeout_s=60)))
             for _ in range(30)]
    for call in calls:
        call.start()
    harness.wait_until(lambda: len(statuses) >= 24, "the answers to the repeats that cannot wait")
    expect(set(statuses), {"ABORTED"}, "what they say")
    fences = []
    calls += [threading.Thread(target=lambda: fences.append(
        status_of(operator.FenceNode, node_id="n1", reason="lost", timeout_s=60))) for _ in range(10)]
    for call in calls[30:]:
        call.start()
    harness.wait_until(lambda: len(fences) >= 8, "the answers to the repeated fences")
    expect(set(fences), {"ABORTED"}, "what they say")
    expect(status_of(target.controller.GetServer, timeout_s=30), "OK", "GetServer meanwhile")
    expect(status_of(other.grant, timeout_s=30), "OK", "another volume's grant meanwhile")
    expect(status_of(operator.FenceNode, node_id="n2", reason="x", timeout_s=30), "OK", "another node's fence")
    disk.command("release")
    for call in calls:
        call.join()
    expect(sorted(set(statuses)), ["ABORTED", "OK"], "the answers to the detaches")
    expect(fences.count("OK"), 2, "fences that waited")


def stuck_claims(scratch, tls):
    """As many calls that change something as there are threads for them, while the pool takes no write."""
    pool = harness.Pool(scratch)
    target = harness.Target(scratch, tls, pool)
    operator = target.operator
    expect(status_of(target.controller.GetServer), "OK", "GetServer")
    harness.run("/usr/sbin/fsfreeze", "--freeze", pool.path)
    try:
        stuck_claims_frozen(target, operator)
    finally:
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", pool.path)
    harness.wait_until(lambda: len(target.controller.ListVolumes().volumes) == 24, "the claims and creates")


def stuck_claims_frozen(target, operator):
    calls = [threading.Thread(target=lambda: status_of(Volume, target)) for _ in range(24)]
    for call in calls:
        call.start()
    full = lambda: status_of(target.controller.DeleteVolume, volume_id="no id", timeout_s=1) == "DEADLINE_EXCEEDED"
    harness.wait_until(full, "every thread for changes waits for the disk")
    for what, call in (("GetServer", target.controller.GetServer), ("ListNodes", target.controller.ListNodes),
                       ("ListVolumes", target.controller.ListVolumes)):
        expect(status_of(call, timeout_s=30), "OK", f"{what} meanwhile")
    expect(status_of(operator.UnfenceNode, node_id="never", timeout_s=30), "NOT_FOUND", "UnfenceNode meanwhile")


# ---- starting ----


def record_path(pool, volume):
    return pathlib.Path(pool.path) / "volumes" / volume.id / "volume.json"


def unfinished_removal(scratch, tls):
    """A removal that a crash interrupted cannot be recorded at the next start: the server starts all the same."""
    pool = harness.Pool(scratch)
    target = harness.Target(scratch, tls, pool)
    volume, other = Volume(target), Volume(target)
    volume.attach("n1")
    target.kill()
    record = record_path(pool, volume)
    record.write_text(record.read_text().replace('"removing": false', '"removing": true '))
    harness.run("/usr/bin/chattr", "+i", record.parent)
    try:
        target.start()
        expect(status_of(other.get), "OK", "another volume")
        expect([one.removing for one in volume.get().attachments], [True], "what stays of the attachment")
        expect(status_of(volume.attach, "n1"), "INTERNAL", "an attach while its record cannot be written")
        expect(status_of(volume.detach, "n1"), "INTERNAL", "a detach that cannot be recorded")
    finally:
        harness.run("/usr/bin/chattr", "-i", record.parent)
    volume.detach("n1")
    expect(list(volume.get().attachments), [], "attachments after the repeated detach")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        target = harness.Target(scratch, harness.Tls(scratch), harness.Pool(scratch))
        for name, test in (("late-attach", late_attach), ("late-detach", late_detach)):
            suite.run(name, test, target)
    for name, test in (("fence-beside-busy", fence_beside_busy), ("repeats", repeats),
                       ("stuck-claims", stuck_claims), ("unfinished-removal", unfinished_removal)):
        with harness.Scratch() as scratch:
            suite.run(name, test, scratch, harness.Tls(scratch))
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
