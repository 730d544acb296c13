#!/usr/bin/python3
"""mooring-node where a review broke it: what may follow the death of a device or its holder, and what may not. Root is
needed; the storage server has four loops."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import harness
from controller_stack import equal, status
from node_fixture import Background, Node, is_mounted, run_all


def device_of(path):
    """What a container knows a block volume by: the number behind its path."""
    return os.stat(path).st_rdev


def backing(path):
    number = device_of(path)
    at = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/backing_file")
    return at.read_text() if at.exists() else ""


def read(path):
    return harness.run("dd", f"if={path}", "bs=4096", "count=1", "iflag=direct", "status=none", check=False)


def write(path, text, megabyte=0):
    subprocess.run(["dd", f"of={path}", "bs=4096", "count=1", f"seek={megabyte * 256}", "oflag=direct", "status=none"],
                   input=(text * 4096)[:4096].encode(), check=True)


def end(pids, signal_number):
    for pid in pids:
        os.kill(pid, signal_number)
    harness.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the processes are gone")


def both(node, volume):
    return [node.pid(volume, program) for program in ("device", "holder")]


# ---- lost devices ----


def test_all_killed(stack):
    """Holders and devices of published block volumes killed: no path ever leads to another volume."""
    node = stack.n1
    volumes = [stack.volume(block=True) for _ in range(3)]
    for volume in volumes:
        write(node.use(volume), volume.id)
    numbers = [device_of(node.path(volume)) for volume in volumes]
    pids = [pid for volume in volumes for pid in both(node, volume)]
    node.kill()
    end(pids, signal.SIGKILL)
    node.start()
    def lost(volume):
        return f"volume {volume.id} has lost its block device" in node.log_text()
    harness.wait_until(lambda: all(map(lost, volumes)), "the losses are said")
    listed = json.loads(harness.run(harness.program("mooring"), "-o", "json", "node", "devices", "--node-socket",
                                    node.endpoint).stdout)
    equal([row["state"] for row in listed], ["lost"] * 3, "what mooring node devices says of them")
    fresh = stack.volume(block=True)
    assert device_of(node.use(fresh)) not in numbers, "a number that others know is given away"
    time.sleep(1.5)  # three rounds of the supervisor
    for volume in volumes:
        path = node.path(volume)
        assert volume.id in backing(path), f"{path} leads to {backing(path)}"
        assert read(path).returncode != 0
        equal(node.log_text().count(f"volume {volume.id} has lost"), 1, "times that it is said")
        status("FAILED_PRECONDITION", node.publish, volume, name="b", contains="unstage it")
        status("FAILED_PRECONDITION", node.stage, volume, contains="unstage it")
        node.unpublish(volume)
    node.stage(volumes[0])  # anew: nobody knows its old device
    for volume in volumes:
        node.unstage(volume)
        assert not node.volume_dir(volume).exists()
    for volume in volumes:
        node.stage(volume)
        node.publish(volume)
        equal(read(node.path(volume)).stdout[:len(volume.id)], volume.id, "what was written")
        node.leave(volume)
    node.leave(fresh)


def test_holder_and_device_killed_under_mount(stack):
    node, volume = stack.n1, stack.volume()
    node.use(volume)
    end(both(node, volume), signal.SIGKILL)  # at once: one that stays gets the other one anew
    harness.wait_until(lambda: f"volume {volume.id} has lost its block device" in node.log_text(), "the loss is said")
    node.unpublish(volume)
    node.unstage(volume)
    node.use(volume)
    node.leave(volume)


def test_holder_killed_under_mount(stack):
    """The device goes on, and is given another holder, so that its own end is survived too."""
    node, volume = stack.n1, stack.volume(block=True)
    write(node.use(volume), volume.id)
    node.kill_device(volume, "holder")
    harness.wait_until(lambda: node.pid(volume, "holder") and node.status(volume)["take_over"], "there is another holder")
    node.kill_device(volume)
    node.wait_ready(volume, 2)
    equal(read(node.path(volume)).stdout[:len(volume.id)], volume.id, "what was written")
    node.leave(volume)


def test_all_told_to_end(stack):
    """SIGTERM to mooring-node and to all devices, as a stop of the unit sends it: the volumes are where they were."""
    node = stack.n1
    volumes = [stack.volume(block=True) for _ in range(3)]
    for volume in volumes:
        write(node.use(volume), volume.id)
    numbers = [device_of(node.path(volume)) for volume in volumes]
    pids = [node.pid(volume) for volume in volumes]
    node.process.terminate()
    end(pids, signal.SIGTERM)
    node.process.wait()
    node.start()
    for volume, number in zip(volumes, numbers):
        node.wait_ready(volume, 2)
        equal(device_of(node.path(volume)), number, "the device's number")
        equal(os.stat(node.device(volume)).st_rdev, number, "the device's number in its status")
        equal(read(node.path(volume)).stdout[:len(volume.id)], volume.id, "what was written")
        node.leave(volume)


# ---- what is answered and not flushed ----


def test_unstage_with_a_dead_device(stack):
    """Power cut of the storage server, then the device dies: its holder's log is all there is of the writes."""
    node, volume = stack.n1, stack.volume(block=True)
    path = node.use(volume)
    write(path, "kept", megabyte=1)
    node.unpublish(volume)
    stack.target.kill()
    data = stack.target.pool.path / "volumes" / volume.id / "data"
    with open(data, "r+b") as file:  # what a disk loses that was never told to flush
        file.seek(1 << 20)
        file.write(bytes(4096))
        os.fsync(file.fileno())
    try:
        os.kill(node.pid(volume), signal.SIGKILL)
        refused = harness.status_of(node.unstage, volume, timeout_s=20)
        while refused == "ABORTED":  # the supervisor is at it
            refused = harness.status_of(node.unstage, volume, timeout_s=20)
        assert refused in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), refused
    finally:
        stack.target.start()
    harness.wait_until(lambda: harness.status_of(node.unstage, volume) == "OK", "the volume is unstaged")
    harness.wait_until(lambda: harness.status_of(volume.publish, node) == "OK", "the controller reaches the server again")
    node.use(volume)
    assert harness.run("dd", f"if={path}", "bs=4096", "skip=256", "count=1", "iflag=direct", "status=none"
                       ).stdout.startswith("keptkept"), "an answered write is lost"
    node.leave(volume)


def test_unstage_with_a_dead_device_and_no_attachment(stack):
    """Nothing can be delivered any more: the volume can still be given back."""
    node, volume = stack.n1, stack.volume(block=True)
    write(node.use(volume), "lost")
    node.unpublish(volume)
    node.kill()
    node.kill_device(volume)
    volume.unpublish(node)
    node.start()
    harness.wait_until(lambda: harness.status_of(node.unstage, volume) == "OK", "the volume is unstaged")
    assert not node.volume_dir(volume).exists()


# ---- publishing what is not there ----


def test_publish_onto_a_bare_directory(stack):
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    node.stage(volume)
    harness.run("umount", node.staging(volume))
    status("FAILED_PRECONDITION", node.publish, volume, contains="stage it again")
    assert not is_mounted(node.path(volume))
    node.stage(volume)
    node.publish(volume)
    assert is_mounted(node.path(volume))
    node.leave(volume)


def test_publish_after_half_an_unstage(stack):
    """The file system is unmounted, the device waits for a user: nothing is published until it is staged again."""
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    node.stage(volume)
    user = os.open(node.device(volume), os.O_RDONLY)
    try:
        status("DEADLINE_EXCEEDED", node.unstage, volume, timeout_s=20, contains="")
        status("FAILED_PRECONDITION", node.publish, volume, contains="not staged")
        assert not is_mounted(node.path(volume))
    finally:
        os.close(user)
    harness.wait_until(lambda: harness.status_of(node.unstage, volume) == "OK", "the volume is unstaged")
    volume.unpublish(node)


def test_unstage_of_a_busy_mount(stack):
    """Refused, and still staged."""
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    node.stage(volume)
    with open(node.staging(volume) / "file", "wb"):
        status("FAILED_PRECONDITION", node.unstage, volume, contains="in use")
        node.publish(volume)
    node.leave(volume)


# ---- devices that are ending, and those that keep ending ----


def test_stage_while_the_device_ends(stack):
    """A device that waits for its last user is not ready; when it is gone, another one is made."""
    node, volume = stack.n1, stack.volume(block=True).publish(stack.n1)
    node.stage(volume)
    first = node.pid(volume)
    user = os.open(node.device(volume), os.O_RDONLY)
    try:
        status("DEADLINE_EXCEEDED", node.unstage, volume, timeout_s=20, contains=f"is in use by python3 (pid {os.getpid()})")
        equal(node.pid(volume), first, "the device's process")
        call = Background(node.stage, volume)
        harness.wait_until(lambda: harness.status_of(node.publish, volume) == "ABORTED", "the call runs")
        time.sleep(0.5)
        assert call.running(), call.status()
    finally:
        os.close(user)
    equal(call.status(), "OK", "staging")
    assert node.pid(volume) != first
    node.publish(volume)
    equal(read(node.path(volume)).returncode, 0, "exit of a read")
    node.leave(volume)


def test_device_that_cannot_start(stack):
    """Successors that end at once come ever later: no storm of generations. One that works ends the pauses."""
    volume = stack.volume(block=True)
    libexec = stack.scratch.path / "libexec"
    libexec.mkdir()
    broken, starts = libexec / "broken", libexec / "starts"
    for name in ("mooring-holder", "mooring-device"):
        (libexec / name).symlink_to(harness.program(name))
    broken.write_text(f"#!/bin/sh\necho >> {starts}\nexit 1\n")
    broken.chmod(0o755)
    node = Node(stack, "n3", libexec_dir=str(libexec)).wait_registered()
    node.use(volume)
    (libexec / "mooring-device").unlink()
    (libexec / "mooring-device").symlink_to(broken)
    node.kill_device(volume)
    time.sleep(6)  # starts at 0, 0.5, 1.5, 3.5, 7.5 s, or later; without pauses, one each 0.1 s
    count = len(starts.read_text())
    assert 2 <= count <= 5, f"{count} starts"
    (libexec / "mooring-device").unlink()
    (libexec / "mooring-device").symlink_to(harness.program("mooring-device"))
    node.wait_ready(volume, count + 2)
    equal(read(node.path(volume)).returncode, 0, "exit of a read")
    node.leave(volume)
    node.process.terminate()
    equal(node.process.wait(), 0, "exit of mooring-node")


# ---- secrets ----


def test_memory_is_private(_stack):
    """From its start on: what /proc has of it belongs to root, whoever its user is (PR_SET_DUMPABLE in prctl(2))."""
    nobody = 65534
    drop = [harness.program("setpriv"), f"--reuid={nobody}", "--clear-groups", "--"]
    if harness.run(*drop, "test", "-x", harness.program("mooring-node"), check=False).returncode != 0:
        raise harness.Skip("another user cannot reach this build's programs")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the test's own scratch folder is closed to others
        os.chmod(folder, 0o755)
        config = os.path.join(folder, "node.json")
        os.mkfifo(config, 0o644)  # it waits for a writer
        os.chmod(config, 0o644)
        process = subprocess.Popen([*drop, harness.program("mooring-node"), "--config", config])
        try:
            def waits():
                assert process.poll() is None, "mooring-node ended"
                return "mooring-node" in os.readlink(f"/proc/{process.pid}/exe")
            harness.wait_until(waits, "mooring-node is there")
            harness.wait_until(lambda: os.stat(f"/proc/{process.pid}/environ").st_uid == 0, "its memory is root's", 5)
        finally:
            process.kill()
            process.wait()


# ---- two of us ----


def test_two_on_one_state_dir(stack):
    """The second waits for the first to end; while the first does not, it touches nothing and says what to do."""
    node, volume = stack.n1, stack.volume(block=True)
    node.use(volume)
    config = node.folder / "second.json"
    config.write_text(json.dumps({**node.config, "endpoint": f"unix://{node.folder}/second.sock"}))
    log = node.folder / "second.log"
    second = stack.scratch.start(harness.program("mooring-node"), "--config", config, log=log)
    assert second.wait(60) != 0
    assert "another mooring-node works on" in log.read_text() and "end it first" in log.read_text(), log.read_text()
    equal(node.status(volume)["generation"], 1, "generation")
    second = stack.scratch.start(harness.program("mooring-node"), "--config", config, log=log)
    time.sleep(0.5)
    assert not (node.folder / "second.sock").exists()
    node.process.terminate()
    node.process.wait()
    harness.wait_until((node.folder / "second.sock").exists, "the second serves")
    second.terminate()
    equal(second.wait(30), 0, "exit of the second")
    node.start()
    node.leave(volume)


if __name__ == "__main__":
    sys.exit(run_all(globals()))
