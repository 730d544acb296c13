#!/usr/bin/python3
"""The ublk frontend on Debian's 6.12 and, when guests are asked for, 7.x; on 6.1 it says that it cannot."""
import sys

import cases

CASES = ["loaded", "crash_under_load", "file_system", "fenced", "leftover", "saturated", "busy", "attach_and_data"]


def main():
    report = cases.Report()
    for kernel in cases.kernels("6.12", more=["7.x"]):
        report.inside(kernel, "inside_ublk.py", CASES, timeout_s=900, disks=["4G"])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
