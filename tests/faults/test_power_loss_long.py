#!/usr/bin/python3
"""tests/integration/test_power_loss.py, with new and longer histories for MOORING_HOURS."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
# pylint: disable=wrong-import-position
import harness
import test_power_loss

if __name__ == "__main__":
    sys.exit(harness.main(lambda: test_power_loss.main(float(os.environ["MOORING_HOURS"]))))
