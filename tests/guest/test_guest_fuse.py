#!/usr/bin/python3
"""The FUSE frontend on other kernels: 6.1, where a crashed device's requests come back from the holder's memory, 6.12,
where the kernel sends them again, and, when guests are asked for, 7.x."""
import sys

import cases

CASES = ["attach_mkfs_verify", "crash_and_take_over", "grown_in_use", "fenced"]


def main():
    report = cases.Report()
    for kernel in cases.kernels("6.1", "6.12", more=["7.x"]):
        report.inside(kernel, "inside_fuse.py", CASES, disks=["4G"])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
