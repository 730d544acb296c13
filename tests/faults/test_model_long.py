#!/usr/bin/python3
"""The random model test (model_run.py) for ten minutes, or for MOORING_HOURS where that is longer. With an argument: for so
many seconds."""
import os
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
os.environ.setdefault("MOORING_BUILD", str(HERE.parents[1] / "build" / "release"))
# pylint: disable=wrong-import-position
import harness
import model_run

GAP_S = (1.0, 5.0)


def main():
    seed = int(os.environ.get("MOORING_SEED") or random.randrange(1 << 31))
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else max(600, float(os.environ.get("MOORING_HOURS") or 0) * 3600)
    return model_run.program("model", seed, seconds, GAP_S)


if __name__ == "__main__":
    sys.exit(harness.main(main))
