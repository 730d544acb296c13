#!/usr/bin/python3
"""What a controller leaves that ends in the middle of a group snapshot, when nobody asks for that group again: the
storage servers delete what was not held until all was cut, and a controller commits or deletes the rest. The test is the
controller that ends: it makes its calls up to each step (root is needed for the pools)."""
import secrets
import sys

import controller_stack
import harness
from controller_stack import equal, needs, status

HOLD_MS = 5000


class Begun:
    """A group snapshot of one volume on each server, by hand."""

    def __init__(self, stack, name):
        self.stack, self.name, self.id = stack, name, f"g-{secrets.token_hex(8)}"
        self.volumes = [stack.b.csi.create(f"{name}-{zone}", parameters={"zone": zone}).volume_id for zone in "ab"]
        self.members, self.hold = [], ""
        for target in stack.targets:
            target.controller.ClaimName(name=name, volume_id=self.id, kind="NAME_GROUP")

    def cut(self, hold_ms=HOLD_MS):
        self.hold, attempt = secrets.token_hex(16), secrets.token_hex(4)
        for target, volume_id in zip(self.stack.targets, self.volumes):
            target.controller.HoldVolumes(hold_id=self.hold, volume_ids=[volume_id], hold_ms=hold_ms)
        for target, volume_id in zip(self.stack.targets, self.volumes):
            snapshot_id = f"{target.server_id}.s-{attempt}{secrets.token_hex(4)}"
            target.controller.CreateSnapshot(snapshot_id=snapshot_id, name=self.name, source_volume_id=volume_id,
                                             group_id=self.id, hold_id=self.hold)
            self.members.append(snapshot_id)

    def release(self, count):
        for target, member in list(zip(self.stack.targets, self.members))[:count]:
            target.controller.ReleaseVolumes(hold_id=self.hold)
            harness.wait_until(lambda t=target, m=member: t.controller.GetSnapshot(snapshot_id=m).snapshot.ready, "ready")

    def commit(self, count):
        for target, member in list(zip(self.stack.targets, self.members))[:count]:
            target.controller.CommitSnapshots(group_id=self.id, snapshot_ids=[member])

    def standing(self):
        return [snapshot.snapshot_id for target in self.stack.targets
                for snapshot in self.stack.snapshots(target, group_id=self.id)]

    def gone(self):
        harness.wait_until(lambda: not self.standing(), "nothing of the group is left")

    def name_is_free(self):
        harness.wait_until(lambda: {self.stack.claim_of(target, self.name, "NAME_GROUP") for target in self.stack.targets}
                           == {None}, "the name is free")


def test_prepare(stack):
    needs(stack, "group-snapshots")
    stack.a.kill()  # one controller does it: the other must not help
    stack.b.restart(abandoned_group_s=2)
    harness.wait_until(lambda: stack.b.csi.Probe().ready.value, "the controller is ready")


def test_not_released(stack):
    """By the servers alone, when they start: no hold stands then."""
    stack.b.restart(abandoned_group_s=86400)
    harness.wait_until(lambda: stack.b.csi.Probe().ready.value, "the controller is ready")
    begun = Begun(stack, "killed")
    begun.cut()
    harness.wait_until(lambda: all(target.controller.GetSnapshot(snapshot_id=member).snapshot.ready for target, member
                                   in zip(stack.targets, begun.members)), "ready")
    for target in stack.targets:
        target.kill()
        target.start()
    equal(begun.standing(), [], "what is left after a restart")


def test_released_in_part(stack):
    """The second server deletes its member when the hold ends, and then the controller the other one."""
    begun = Begun(stack, "part")
    begun.cut(hold_ms=3000)
    begun.release(1)
    begun.gone()
    begun.name_is_free()


def test_released(stack):
    """And a repeat before the time is up is not hindered: see test_controller_snapshot.py."""
    begun = Begun(stack, "released")
    begun.cut()
    equal({snapshot.snapshot_id for target in stack.targets for snapshot in stack.snapshots(target, provisional=True)}
          >= set(begun.members), True, "provisional ones are listed")
    begun.release(2)
    begun.gone()
    begun.name_is_free()


def test_committed_in_part(stack):
    begun = Begun(stack, "committed")
    begun.cut()
    begun.release(2)
    begun.commit(1)
    harness.wait_until(lambda: len(stack.b.csi.ListSnapshots().entries) == 2, "both members are listed")
    found = stack.b.csi.GetVolumeGroupSnapshot(group_snapshot_id=begun.id, snapshot_ids=begun.members).group_snapshot
    equal({each.snapshot_id for each in found.snapshots}, set(begun.members), "the group")
    again = stack.b.csi.CreateVolumeGroupSnapshot(name=begun.name, source_volume_ids=begun.volumes).group_snapshot
    equal(again.group_snapshot_id, begun.id, "a repeat")
    status("OK", stack.b.csi.DeleteVolumeGroupSnapshot, group_snapshot_id=begun.id, snapshot_ids=begun.members)
    begun.name_is_free()


def test_left_to_the_co(stack):
    """Where the time is long, what nobody committed stays, and a repeat makes it whole."""
    stack.b.restart(abandoned_group_s=86400)
    harness.wait_until(lambda: stack.b.csi.Probe().ready.value, "the controller is ready")
    begun = Begun(stack, "kept")
    begun.cut()
    begun.release(2)
    one = stack.b.csi.CreateVolumeGroupSnapshot(name=begun.name, source_volume_ids=begun.volumes).group_snapshot
    equal((one.group_snapshot_id, {each.snapshot_id for each in one.snapshots}), (begun.id, set(begun.members)), "adopted")


TESTS = [test_prepare, test_released_in_part, test_released, test_committed_in_part, test_not_released, test_left_to_the_co]


if __name__ == "__main__":
    sys.exit(controller_stack.main("controller_sweep", TESTS))
