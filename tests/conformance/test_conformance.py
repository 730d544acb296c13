#!/usr/bin/python3
"""Mooring against the CSI specification 1.13, rule by rule (rules.py), as a CO sees it at the unix sockets of the real
mooring-controller and mooring-node, over two real storage servers. Root is needed for pools and mounts.

  test_conformance.py              every rule: a line each, `PASS id`, `FAIL id: why` or `SKIP id: why`
  test_conformance.py ID…          only these
  test_conformance.py --write-doc  every rule, and docs/conformance.md with the results
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # isort: skip
# The cases register their rules.
import cases_change  # noqa: F401  pylint: disable=unused-import
import cases_general  # noqa: F401  pylint: disable=unused-import
import cases_lists  # noqa: F401  pylint: disable=unused-import
import cases_node  # noqa: F401  pylint: disable=unused-import
import cases_snapshots  # noqa: F401  pylint: disable=unused-import
import cases_volumes  # noqa: F401  pylint: disable=unused-import
import document
import rules
from stack import Stack


class Results(harness.Suite):
    """As the other programs' suite, and remembers."""

    def __init__(self):
        super().__init__()
        self.of = {}

    def _say(self, line):
        kind, _, rest = line.partition(" ")
        self.of[rest.split(": ")[0]] = (kind, rest.partition(": ")[2])
        harness.Suite._say(line)


def run_rule(suite, stack, rule):
    lacking = stack.lacking(rule)
    if suite.only and rule.id not in suite.only:
        return
    if lacking:
        suite.skip(rule.id, f"not served yet: {lacking[0].rpartition(':')[2]} is not advertised")
    elif rule.check is None:
        suite.skip(rule.id, rule.why)
    else:
        suite.run(rule.id, rule.check, stack)


def main():
    write = "--write-doc" in sys.argv[1:]
    if write:
        sys.argv.remove("--write-doc")
    suite = Results()
    suite.run("document.rules", document.check)
    with harness.Scratch() as scratch:
        try:
            stack = Stack(scratch)
        except harness.Skip as why:
            for rule in rules.ordered():
                suite.skip(rule.id, why)
            return suite.finish()
        for rule in rules.ordered():
            run_rule(suite, stack, rule)
    if write:
        document.write(suite.of)
    elif not suite.only:
        suite.run("document.results", document.check_results, suite.of)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
