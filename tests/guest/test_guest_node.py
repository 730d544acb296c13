#!/usr/bin/python3
"""mooring-node with ublk, on Debian's 7.x: what a dead device leaves mounted is taken away and another's is not, devices are
adopted, followed, replaced and grown. As long as all guests are not asked for, nothing."""
import sys

import cases
from inside_node import CASES


def main():
    report = cases.Report()
    names = [case.__name__ for case in CASES]
    for kernel, left_out in cases.kernels(more=["7.x"]):
        report.inside(kernel, "inside_node.py", names, arguments="/dev/vda", timeout_s=1500, disks=["4G"], left_out=left_out)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
