#!/usr/bin/python3
"""`mooring node upgrade`: device processes replaced under load, and refused where the new build could not take over. Root is
needed."""
import json
import os
import shutil
import subprocess
import sys

import harness
from controller_stack import equal
from node_fixture import Stack, load, load_is_well

STATE, NOT_FOUND = 5, 3


def upgrade(node, *arguments, expect=0):
    """The rows that it prints, and what it says on stderr. expect: its exit status; None: any but 0."""
    done = subprocess.run([harness.program("mooring"), "-o", "json", "node", "upgrade", "--node-socket", node.endpoint,
                           *arguments], check=False, timeout=120, text=True, capture_output=True)
    if expect is None:
        assert done.returncode, f"exit of mooring node upgrade: 0: {done.stdout}"
    else:
        equal(done.returncode, expect, f"exit of mooring node upgrade: {done.stdout} {done.stderr}")
    return (json.loads(done.stdout) if done.stdout.strip() else []), done.stderr


def install(libexec, text=None, program=None):
    """A new file in the place of mooring-device, as a package's upgrade makes one: the same program, another, or a script."""
    fresh = libexec / "fresh"
    if text is None:
        shutil.copy(program or harness.program("mooring-device"), fresh)
    else:
        fresh.write_text(text)
    fresh.chmod(0o755)
    os.rename(fresh, libexec / "mooring-device")


def with_own_programs(stack, node):
    libexec = stack.scratch.path / "libexec"
    libexec.mkdir(exist_ok=True)
    (libexec / "mooring-holder").unlink(missing_ok=True)
    (libexec / "mooring-holder").symlink_to(harness.program("mooring-holder"))
    install(libexec)
    node.config["libexec_dir"] = str(libexec)
    node.restart()
    return libexec


def test_under_load(stack):
    """One after the other while fio writes to both: the same devices, nothing failed, nothing lost."""
    node = stack.n1
    libexec = with_own_programs(stack, node)
    volumes = sorted((stack.volume(), stack.volume(block=True)), key=lambda one: one.id)
    running = []
    for volume in volumes:
        running.append(load(stack, node.use(volume), 8, block=volume.block))
    before = [(node.device(volume), node.pid(volume), node.pid(volume, "holder")) for volume in volumes]
    rows, _ = upgrade(node)
    equal([row["outcome"] for row in rows], ["the installed program serves it already"] * 2, "nothing is new")
    install(libexec)
    rows, _ = upgrade(node)
    equal([(row["volume_id"], row["outcome"], row["generation"]) for row in rows],
          [(volume.id, "replaced", 2) for volume in volumes], "what is said")
    print("    I/O stalled for", [row["stalled_ms"] for row in rows], "ms")
    for volume, (device, pid, holder) in zip(volumes, before):
        equal(node.device(volume), device, "the block device")
        equal(node.pid(volume, "holder"), holder, "the holder stays")
        assert node.pid(volume) not in (None, pid), "the device's process"
    rows, _ = upgrade(node, "--force", volumes[0].id)
    equal([(row["volume_id"], row["generation"]) for row in rows], [(volumes[0].id, 3)], "one, by force")
    for process in running:
        load_is_well(process)
    for volume in volumes:
        node.leave(volume)


def version_of(program):
    return harness.run(program, "--version").stdout.split()[1]


def writes(path):
    """Requests that write, completed so far (Documentation/block/stat.rst)."""
    with open(f"/sys/block/{os.path.basename(path)}/stat", encoding="ascii") as counts:
        return int(counts.read().split()[4])


def replaced_under_load(stack, volumes, paths, before, device, generation):
    """The installed program takes over from the one before, and then from itself after a crash, while fio writes."""
    node = stack.n1
    running = [load(stack, path, 3, block=volume.block) for volume, path in zip(volumes, paths)]
    for volume in volumes:
        seen = writes(node.device(volume))
        harness.wait_until(lambda of=volume, more=seen + 32: writes(node.device(of)) >= more, "fio writes")
    rows, words = upgrade(node)
    equal([(row["outcome"], row["from_version"], row["to_version"], row["generation"]) for row in rows],
          [("replaced", version_of(before), version_of(device), generation)] * 2, f"what is said: {words}")
    print(f"    {version_of(before)} to {version_of(device)}: I/O stalled for", [row["stalled_ms"] for row in rows], "ms")
    for volume in volumes:
        equal(os.stat(f"/proc/{node.pid(volume)}/exe").st_size, os.stat(device).st_size, "the program that serves")
        node.kill_device(volume)
        node.wait_ready(volume, generation + 1)
    for process in running:
        load_is_well(process)


def there_and_back(stack, first, others):
    """Volumes that begin with the first (device, holder); each of the other devices takes over in turn. The holder stays."""
    node = stack.n1
    libexec = with_own_programs(stack, node)
    install(libexec, program=first[0])
    (libexec / "mooring-holder").unlink()
    (libexec / "mooring-holder").symlink_to(first[1])
    volumes = sorted((stack.volume(), stack.volume(block=True)), key=lambda one: one.id)
    paths = [node.use(volume) for volume in volumes]
    holders, before = [node.pid(volume, "holder") for volume in volumes], first[0]
    for turn, device in enumerate(others):
        install(libexec, program=device)
        replaced_under_load(stack, volumes, paths, before, device, 2 + 2 * turn)
        before = device
    equal([node.pid(volume, "holder") for volume in volumes], holders, "the holders")
    for volume in volumes:
        node.leave(volume)


def test_other_version(stack):
    """To a build of another version's name and back."""
    ours, other = harness.program("mooring-device"), harness.program("mooring-device-next")
    assert version_of(ours) != version_of(other)
    there_and_back(stack, (ours, harness.program("mooring-holder")), [other, ours])


OLD = "8ae41c4"  # the first that could be replaced by another build


def test_older_build(stack):
    """A build of that commit, device and holder, to this one's and back; then from this one's to that, and back."""
    if not os.environ.get("MOORING_LONG"):
        raise harness.Skip("a long mode: tests/run --long")
    source = stack.scratch.path / "old"
    source.mkdir()
    archive = stack.scratch.path / "old.tar"
    if harness.run("git", "-C", harness.ROOT, "archive", "-o", archive, OLD, check=False).returncode != 0:
        raise harness.Skip(f"no history with the commit {OLD} here")
    harness.run("tar", "-xf", archive, "-C", source)
    harness.run("sed", "-i", "s/^project(mooring VERSION [^ ]*/project(mooring VERSION 0.0.9/", source / "CMakeLists.txt")
    made = harness.run("cmake", "-S", source, "-B", source / "build", "-DMOORING_TESTS=OFF", "-DCMAKE_BUILD_TYPE=Release",
                       check=False, timeout=600)
    if made.returncode != 0:
        raise harness.Skip(f"the older source cannot be configured here: {made.stdout[-300:]}")
    harness.run("cmake", "--build", source / "build", "--target", "mooring-device", "mooring-holder", "-j2", timeout=1200)
    old, ours = ([str(folder / name) for name in ("mooring-device", "mooring-holder")]
                 for folder in (source / "build" / "bin", harness.BUILD / "bin"))
    there_and_back(stack, old, [ours[0], old[0]])
    there_and_back(stack, ours, [old[0], ours[0]])


def test_refused(stack):
    """A build that does not know the old one's log: nothing is ended, and each volume is named."""
    node = stack.n1
    libexec = with_own_programs(stack, node)
    volumes = sorted((stack.volume(block=True), stack.volume(block=True)), key=lambda one: one.id)
    for volume in volumes:
        node.use(volume)
    pids = [node.pid(volume) for volume in volumes]
    check = json.dumps({"auto": "fuse", "version": "9.0", "state_format": 1, "take_over_formats": [99]})
    install(libexec, f"#!/bin/sh\n[ \"$1\" = --check ] && echo '{check}' && exit\n"
                     f"exec {harness.program('mooring-device')} \"$@\"\n")
    rows, words = upgrade(node, expect=STATE)
    equal([row["volume_id"] for row in rows], [volume.id for volume in volumes], "what was tried")
    assert all(text in words for text in ("9.0", "format 1", "2 of 2", volumes[0].id, volumes[1].id)), words
    install(libexec, f"#!/bin/sh\n[ \"$1\" = --check ] && exit 2\nexec {harness.program('mooring-device')} \"$@\"\n")
    upgrade(node, expect=STATE)
    equal([node.pid(volume) for volume in volumes], pids, "the device processes")
    upgrade(node, "s1.0000000000000000", expect=NOT_FOUND)
    install(libexec)
    rows, _ = upgrade(node)
    equal([row["outcome"] for row in rows], ["replaced"] * 2, "with one that knows it")
    for volume in volumes:
        node.leave(volume)


def test_goes_on(stack):
    """One that cannot be taken over keeps no other from being replaced; one that does not come back does."""
    node = stack.n1
    libexec = with_own_programs(stack, node)
    volumes = sorted((stack.volume(block=True) for _ in range(3)), key=lambda one: one.id)
    for volume in volumes:
        node.use(volume)
    install(libexec)
    status = node.volume_dir(volumes[0]) / "device" / "status.json"
    kept = status.read_text()
    status.write_text(json.dumps({**json.loads(kept), "take_over": False}))
    rows, words = upgrade(node, expect=STATE)
    equal([row["outcome"] == "replaced" for row in rows], [False, True, True], f"replaced: {rows}")
    assert "1 of 3" in words and volumes[0].id in words and volumes[1].id not in words, words
    status.write_text(kept)
    check = json.dumps({"auto": "fuse", "version": "9.0", "state_format": 1, "take_over_formats": [1]})
    install(libexec, f"#!/bin/sh\n[ \"$1\" = --check ] && echo '{check}' && exit\nexit 1\n")
    before = [node.pid(volume) for volume in volumes]
    rows, words = upgrade(node, expect=None)
    equal([row["volume_id"] for row in rows], [volumes[0].id], "tried with a program that does not serve")
    assert "2 more are left" in words, words
    equal([node.pid(volume) != pid for volume, pid in zip(volumes, before)], [True, False, False],
          "which device processes ended")  # a successor that is just failing may live for a moment
    install(libexec)
    node.wait_ready(volumes[0])
    for volume in volumes:
        node.leave(volume)


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = Stack(scratch)
        except harness.Skip as why:
            print(f"SKIP node_upgrade: {why}")
            return 0
        suite.run("node_upgrade_under_load", test_under_load, stack)
        suite.run("node_upgrade_other_version", test_other_version, stack)
        suite.run("node_upgrade_older_build", test_older_build, stack)
        suite.run("node_upgrade_refused", test_refused, stack)
        suite.run("node_upgrade_goes_on", test_goes_on, stack)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
