#!/usr/bin/python3
"""tests/integration/test_crash_points.py at every system call, whatever it does, with every flush."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
# pylint: disable=wrong-import-position
import harness
import test_crash_points

if __name__ == "__main__":
    sys.exit(harness.main(lambda: test_crash_points.run("--all")))
