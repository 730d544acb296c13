#!/usr/bin/python3
"""The store, killed at each system call of each of its operations that changes something, and opened again: the old
state or the new, nothing left over (tests/faults/crash_points.c). Root is needed."""
import os
import subprocess
import sys

import harness

LIMIT_S = 3600


def run(*options):
    """The exit status: the program's own lines are those of the tests."""
    with harness.Scratch() as scratch:
        pool = harness.Pool(scratch)
        command = [harness.program("crash-points"), "--pool", pool.path, "--server-id", pool.server_id, "--uuid", pool.uuid,
                   *options, *[name.removeprefix("crash_points_") for name in sys.argv[1:]]]
        return subprocess.run(command, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL,
                              env={**os.environ, "LSAN_OPTIONS": "detect_leaks=0"}).returncode  # not under ptrace(2)


if __name__ == "__main__":
    sys.exit(harness.main(run))
