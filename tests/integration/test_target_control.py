#!/usr/bin/python3
"""mooring-target's control plane: late calls, fences beside busy volumes, repeats, full and damaged pools."""
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


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        target = harness.Target(scratch, harness.Tls(scratch), harness.Pool(scratch))
        for name, test in (("late-attach", late_attach), ("late-detach", late_detach)):
            suite.run(name, test, target)
    for name, test in (("fence-beside-busy", fence_beside_busy),):
        with harness.Scratch() as scratch:
            suite.run(name, test, scratch, harness.Tls(scratch))
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
