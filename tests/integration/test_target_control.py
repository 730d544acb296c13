#!/usr/bin/python3
"""mooring-target's control plane: late calls, fences beside busy volumes, repeats, full and damaged pools."""
import sys

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


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        target = harness.Target(scratch, harness.Tls(scratch), harness.Pool(scratch))
        for name, test in (("late-attach", late_attach), ("late-detach", late_detach)):
            suite.run(name, test, target)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
