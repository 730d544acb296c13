#!/usr/bin/python3
"""The ublk frontend on Debian's 7.x; on 6.1 and 6.12 it says why it is not used."""
import sys

import cases

CASES = ["loaded", "crash_under_load", "killed_taking_over", "file_system", "grown_in_use", "fenced", "leftover", "saturated",
         "busy", "attach_and_data"]


def main():
    report = cases.Report()
    for kernel, left_out in cases.kernels("6.1", "6.12"):
        report.inside(kernel, "inside_ublk.py", ["refused"], timeout_s=300, disks=["4G"], left_out=left_out)
    for kernel, left_out in cases.kernels("7.x"):
        report.inside(kernel, "inside_ublk.py", CASES, timeout_s=900, disks=["4G"], left_out=left_out)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
