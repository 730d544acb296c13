#!/usr/bin/python3
"""The random model test (tests/faults/model_run.py) for a few seconds, in which a controller and a storage server are killed
twice at least. MOORING_SEED reproduces the plan; tests/faults/test_model_long.py goes on for minutes."""
import os
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))
# pylint: disable=wrong-import-position
import harness
import model_run

SECONDS, GAP_S = 6, (1.0, 1.6)


def main():
    seed = int(os.environ.get("MOORING_SEED") or random.randrange(1 << 31))
    return model_run.program("model", seed, SECONDS, GAP_S)


if __name__ == "__main__":
    sys.exit(harness.main(main))
