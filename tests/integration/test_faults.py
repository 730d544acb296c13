#!/usr/bin/python3
"""A short choice of tests/faults/run, without MariaDB: each fault once, in an order drawn by MOORING_SEED."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))
import own_network  # isort: skip; before anything that starts a thread
# pylint: disable=wrong-import-position
import random

import cases
import cluster as clusters
import harness
import lab as labs

CHOICE = ("kill-at-once", "connections-reset", "headers-flipped", "storage-reboot", "another-address", "disk-enospc",
          "flush-fails")


def main():
    if not own_network.ENTERED:
        raise harness.Skip("a network namespace needs root")
    seed = clusters.seeded().randrange(1 << 31)
    order = [one for one in cases.ALL if one[0] in CHOICE]
    random.Random(seed).shuffle(order)
    failure, rows = "stopped", []
    with harness.Scratch() as scratch:
        lab = labs.Lab(scratch, seed, with_database=False)
        try:
            rows, _, failure = cases.run_all(lab, order, seed)
            failure = failure or cases.finish(lab, seed)
        finally:
            if failure:
                lab.abandon()
                print(f"# logs are kept in {cases.keep_logs(scratch)}", flush=True)
    print("\n".join(cases.table(rows, seed)))
    for row in rows:
        print(f"PASS {row.name}")
    print(f"FAIL faults: {failure.splitlines()[0]}" if failure else "PASS nothing is left over", flush=True)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(harness.main(main))
