#!/usr/bin/python3
"""tests/faults/run for MOORING_HOURS with MOORING_SEED, as tests/run --long runs it."""
import os
import pathlib
import sys

if __name__ == "__main__":
    program = pathlib.Path(__file__).resolve().with_name("run")
    os.execv(program, [str(program), *sys.argv[1:]])
