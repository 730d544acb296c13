#!/usr/bin/python3
"""The FUSE frontend on other kernels: 6.1, where a crashed device's requests come back from the holder's memory, 6.12,
where the kernel sends them again, and, when guests are asked for, 7.x. And mooring-node with an ext4 that grows."""
import sys

import cases

CASES = ["attach_mkfs_verify", "crash_and_take_over", "grown_in_use", "fenced", "fit_for_writeback"]
LONG = ["written_back_under_a_limit"]
NODE = ("inside_node.py", ["ext4_grown", "ext4_grown_at_stage"], "/dev/vdb")  # ext4 grows in use, which not every machine lets it


def main():
    report = cases.Report()
    for kernel, left_out in cases.kernels("6.1", "6.12", more=["7.x"]):
        node = [NODE] if kernel != "7.x" and cases.WHOLE else []
        names = CASES + (LONG if cases.WHOLE else [])
        report.inside(kernel, "inside_fuse.py", names, more=node, disks=["4G", "4G"], left_out=left_out)
        if not cases.WHOLE:
            report.skip(kernel, LONG + (NODE[1] if kernel != "7.x" else []), cases.LEFT_OUT)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
