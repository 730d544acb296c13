#!/usr/bin/python3
"""What is installed beside the programs of a compute node: the udev rule, and the systemd units."""
import fnmatch
import os
import re
import shutil
import sys

import harness
from node_fixture import Stack

RULES = harness.ROOT / "deploy" / "udev" / "60-mooring.rules"
UNITS = harness.ROOT / "deploy" / "systemd"


def backing_file(device):
    with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", encoding="utf-8") as file:
        return file.read().strip()


def test_rule_parses():
    udevadm = harness.program("udevadm")
    if harness.run(udevadm, "verify", "--help", check=False).returncode == 0:
        harness.run(udevadm, "verify", RULES)
        return
    if not os.path.isdir("/run/udev"):
        raise harness.Skip("udevadm here cannot verify, and no udev runs to test with")
    shutil.copy(RULES, "/run/udev/rules.d/")
    try:
        said = harness.run(udevadm, "test", "/sys/block/loop0", check=False).stdout
        wrong = [line for line in said.splitlines() if RULES.name in line and "nvalid" in line]
        assert not wrong, wrong
    finally:
        os.unlink(f"/run/udev/rules.d/{RULES.name}")


def test_rule_fits(scratch):
    """The rule's pattern is that of a real device's backing file, and not of another loop device's."""
    pattern = re.search(r'ATTR\{loop/backing_file\}=="([^"]+)"', RULES.read_text()).group(1)
    stack = Stack(scratch)
    volume = stack.volume(block=True)
    stack.n1.use(volume)
    ours = backing_file(stack.n1.device(volume))
    assert fnmatch.fnmatchcase(ours, pattern), f"{ours} does not match {pattern}"
    pool = harness.run("losetup", "--noheadings", "--output", "NAME", "--associated", stack.target.pool.image).stdout.strip()
    assert not fnmatch.fnmatchcase(backing_file(pool), pattern), "the pool's own device matches"
    stack.n1.leave(volume)


def test_units_parse(scratch):
    """systemd-analyze finds no fault in the units; their programs and their man pages are there."""
    analyze = harness.program("systemd-analyze")
    for template in sorted(UNITS.glob("*.service.in")):
        text = template.read_text().replace("@CMAKE_INSTALL_FULL_BINDIR@", str(harness.BUILD / "bin"))
        assert "@" not in text, template.name
        unit = scratch.path / template.name.removesuffix(".in")
        unit.write_text(text)
        harness.run(analyze, "verify", "--man=no", unit)
        for page in re.findall(r"^Documentation=man:(\S+)\((\d)\)$", text, re.MULTILINE):
            assert (harness.ROOT / "docs" / "man" / ".".join(page)).exists(), page


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        suite.run("node_udev_rule_parses", test_rule_parses)
        suite.run("node_udev_rule_fits", test_rule_fits, scratch)
        suite.run("node_units_parse", test_units_parse, scratch)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
