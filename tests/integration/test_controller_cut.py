#!/usr/bin/python3
"""A snapshot that was answered before it was ready, over an end of its storage server: it becomes ready, or every later call
says that it is lost, and none cuts anew. One that was not answered may vanish. (Root is needed for the pools.)"""
import contextlib
import os
import pathlib
import sys
import threading
import time

import controller_stack
import harness
from controller_stack import MIB, equal, settle, status
from test_cli import Cli
from test_controller_snapshot import Writer, expect_bytes, group, snap, source

BRIEFLY_S = 2.5  # is up before a copy that is held
MANY = 64  # volumes of a server that one group may have
LATER = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")


@contextlib.contextmanager
def held(stack):
    """The storage server, started anew, shares nothing of a copy inside of this; and is not another one after it."""
    library = pathlib.Path(harness.BUILD) / "tests" / "hold-clones.so"
    program = pathlib.Path(harness.program("mooring-target")).read_bytes()
    if b"__asan_init" in program or b"__tsan_init" in program:
        raise harness.Skip("a sanitizer's program takes no library before its own")
    target, hold = stack.targets[0], stack.scratch.path / "hold"
    target.stop()
    hold.touch()
    os.environ.update(LD_PRELOAD=str(library), MOORING_HOLD_CLONES=str(hold))
    try:
        target.start()
    finally:
        del os.environ["LD_PRELOAD"], os.environ["MOORING_HOLD_CLONES"]
    stack.a.csi.wait_for_servers()
    stack.b.csi.wait_for_servers()
    try:
        yield target
    finally:
        hold.unlink()


def start_again(stack):
    stack.targets[0].kill()
    stack.targets[0].start()
    stack.a.csi.wait_for_servers()
    stack.b.csi.wait_for_servers()


def written(stack, name):
    """A volume whose block 0 is 1."""
    volume_id = stack.a.csi.create(name, size=4 * MIB).volume_id
    with Writer(stack, volume_id) as writer:
        writer.write(0, 1)
    return volume_id


def test_becomes_ready(stack):
    """Its copying goes on after the answer; the moment is the first call's."""
    volume_id = written(stack, "slow")
    with held(stack):
        one = settle(snap, stack.a.csi, "slow", volume_id, timeout_s=BRIEFLY_S, answers=LATER)
        equal(one.ready_to_use, False, "ready_to_use of the first answer")
    two = settle(snap, stack.b.csi, "slow", volume_id, answers=LATER)
    equal((two.ready_to_use, two.snapshot_id, two.creation_time), (True, one.snapshot_id, one.creation_time), "the repeat")
    start_again(stack)
    equal(snap(stack.a.csi, "slow", volume_id), two, "after a restart")
    stack.a.csi.DeleteSnapshot(snapshot_id=one.snapshot_id)


def expect_lost(stack, cli, one):
    csi, name, volume_id = stack.a.csi, "quiesced", one.source_volume_id
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.creation_time.seconds))
    for each in (stack.a.csi, stack.b.csi):
        words = status("DATA_LOSS", snap, each, name, volume_id, contains=f"cut at {when}, is lost")
        assert "delete it" in words and one.snapshot_id in words, words
    equal(csi.GetSnapshot(snapshot_id=one.snapshot_id).snapshot, one, "GetSnapshot")
    equal([entry.snapshot for entry in csi.ListSnapshots(source_volume_id=volume_id).entries], [one], "ListSnapshots")
    status("DATA_LOSS", csi.create, "restored", size=4 * MIB, contains="is lost", **source(snapshot_id=one.snapshot_id))
    equal(stack.claim_of(stack.targets[0], "restored"), None, "the claim of a volume that was not made")
    status("DATA_LOSS", csi.GetMetadataAllocated, snapshot_id=one.snapshot_id, contains="is lost")
    equal([row["state"] for row in cli.json("snapshot", "list")], ["lost"], "mooring snapshot list")
    assert "is lost" in cli.json("snapshot", "show", one.snapshot_id)["lost"]
    cli.run("snapshot", "show", one.snapshot_id, contains="is lost")


def test_lost(stack):
    """The database was still for the first call only: no later one may give its name to another moment."""
    cli, volume_id = Cli(stack), written(stack, "quiesced")
    with held(stack):
        one = settle(snap, stack.a.csi, "quiesced", volume_id, timeout_s=BRIEFLY_S, answers=LATER)
        equal(one.ready_to_use, False, "ready_to_use")
        stack.targets[0].kill()
    stack.targets[0].start()
    stack.a.csi.wait_for_servers()
    with Writer(stack, volume_id) as writer:
        writer.write(0, 2)
    expect_lost(stack, cli, one)
    start_again(stack)
    expect_lost(stack, cli, one)
    equal(stack.claim_of(stack.targets[0], "quiesced", "NAME_SNAPSHOT"), one.snapshot_id, "its name")
    stack.b.csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    stack.a.csi.DeleteSnapshot(snapshot_id=one.snapshot_id)
    equal(stack.claim_of(stack.targets[0], "quiesced", "NAME_SNAPSHOT"), None, "its name")
    equal(os.listdir(stack.targets[0].pool.path / "snapshots"), [], "what is left of it")
    two = snap(stack.a.csi, "quiesced", volume_id)
    equal(two.ready_to_use, True, "another one")
    assert two.snapshot_id != one.snapshot_id, "an id that is used again"
    expect_bytes(stack, stack.a.csi.create("restored", size=4 * MIB, **source(snapshot_id=two.snapshot_id)).volume_id, {0: 2})
    stack.a.csi.DeleteSnapshot(snapshot_id=two.snapshot_id)


def test_not_answered(stack):
    """Nobody knows of its moment: a repeat takes another one."""
    volume_id = written(stack, "unheard")
    answers = []
    with held(stack) as target:
        caller = threading.Thread(target=lambda: answers.append(harness.status_of(snap, stack.a.csi, "unheard", volume_id)))
        caller.start()
        harness.wait_until(lambda: stack.snapshots(target, source_volume_id=volume_id), "it is cut")
        target.kill()
    caller.join()
    assert answers != ["OK"], answers
    target.start()
    stack.a.csi.wait_for_servers()
    equal(stack.snapshots(target, source_volume_id=volume_id), [], "what is left of it")
    equal(settle(snap, stack.a.csi, "unheard", volume_id).ready_to_use, True, "the repeat")


def test_group_of_many(stack):
    """As many copies at once as a group may have volumes here, and none of them ends before all are cut."""
    csi, first = stack.a.csi, written(stack, "many")
    volumes = [first, *(csi.create(f"many-{i}", size=4 * MIB, **source(volume_id=first)).volume_id for i in range(1, MANY))]
    answers = []
    caller = threading.Thread(target=lambda: answers.append(settle(group, csi, "many", volumes, answers=LATER)))

    def held_members():
        return sum(one.held for one in stack.snapshots(stack.targets[0], provisional=True))

    with held(stack):
        caller.start()
        harness.wait_until(lambda: held_members() == MANY, "all are cut, and let go")
    caller.join()
    made = answers[0]
    equal((made.ready_to_use, len(made.snapshots)), (True, MANY), "the group")
    csi.DeleteVolumeGroupSnapshot(group_snapshot_id=made.group_snapshot_id,
                                  snapshot_ids=[one.snapshot_id for one in made.snapshots])
    for volume_id in volumes:
        csi.DeleteVolume(volume_id=volume_id)


TESTS = [test_becomes_ready, test_lost, test_not_answered, test_group_of_many]


if __name__ == "__main__":
    sys.exit(controller_stack.main("controller_cut", TESTS, servers=1))
