#!/usr/bin/python3
"""A compute node under systemd and udev, as installed: the units, the end of mooring-node's whole service under load, the
udev rule against LVM and MD, a shutdown with mounted volumes, and a power cut half-way through a Stage."""
import os
import sys

import cases
import debian
import guest

CASES = {
    "run": ["units_verify", "units_start", "service_killed", "lvm_stays_off", "md_stays_off"],
    "shut": ["shutdown_was_clean"],
    "cut": ["swept_after_cut"],
}


def body(report, kernel, machine):
    files = machine.folder / "files"

    def phase(name):
        _, output = machine.run(f"/usr/bin/python3 {guest.HERE}/inside_system.py {name}", 1200, GUEST_FILES=str(files))
        report.hand_on(kernel, output, CASES[name])

    debian.run("cmake", "--install", guest.BUILD, env={**os.environ, "DESTDIR": str(files)})
    machine.boot()
    phase("run")
    machine.start("systemctl poweroff")
    try:
        machine.wait_end(300)
        report.say("PASS", f"{kernel} shutdown_ends")
    except guest.GuestFailure as why:
        report.say("FAIL", f"{kernel} shutdown_ends", str(why)[:600])
        machine.power_off()
    machine.boot()
    phase("shut")
    machine.reboot()
    phase("cut")


def main():
    report = cases.Report()
    known = [*CASES["run"], "shutdown_ends", *CASES["shut"], *CASES["cut"]]
    for kernel, left_out in cases.kernels("6.12", more=["6.1", "7.x"]):
        report.on(kernel, "system", known, lambda machine, name=kernel: body(report, name, machine), left_out, disks=["4G"],
                  system=True, boot=False)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
