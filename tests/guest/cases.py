"""What the guests' test programs share: which kernels, and a guest's own PASS, FAIL and SKIP lines handed on under the
name of its kernel."""
import os
import re
import signal
import sys

import guest

WHOLE = os.environ.get("MOORING_GUEST") == "all"  # tests/run --guest; without it only what is short


def kernels(*always, more=()):
    return [*always, *more] if WHOLE else [*always]


class Report:
    """Lines on standard output, and the exit status."""

    def __init__(self):
        self.failed = 0
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(self, word, name, why=""):
        self.failed += word == "FAIL"
        print(f"{word} {name}{': ' if why else ''}{why}", flush=True)

    def hand_on(self, prefix, output, known=(), program=""):
        """Its cases' lines. A case in `known` without a line has not been run, unless the program skipped itself."""
        for line in output.splitlines():
            found = re.match(r"(PASS|FAIL|SKIP) (\w+)(?:: (.*))?$", line)
            if found:
                whole = found[1] == "SKIP" and found[2] == program
                known = [name for name in known if name != found[2] and not whole]
                self.say(found[1], f"{prefix} {found[2]}", found[3] or "")
            else:
                print(line, flush=True)
        for name in known:
            self.say("FAIL", f"{prefix} {name}", "it was not run")

    def on(self, kernel, what, body, **options):
        """body(machine) on a guest of its own. What happens before any of its cases could is told under `what`."""
        try:
            with guest.Guest(kernel, **options) as machine:
                print(f"{kernel}: Linux {machine.version}", flush=True)
                body(machine)
        except guest.Unavailable as why:
            self.say("SKIP", f"{kernel} {what}", str(why))
        except guest.GuestFailure as why:
            print(why, file=sys.stderr)
            self.say("FAIL", f"{kernel} {what}", str(why).splitlines()[0][:400])

    def run_in(self, machine, kernel, program, cases, timeout_s=400, arguments=""):
        """These cases of a Python program of this folder, run in this guest."""
        status, output = machine.run(f"/usr/bin/python3 {guest.HERE / program} {arguments} {' '.join(cases)}", timeout_s,
                                     MOORING_SEED=os.environ.get("MOORING_SEED", ""))
        self.hand_on(kernel, output, cases, program.removesuffix(".py"))
        if status not in (0, 1):
            self.say("FAIL", f"{kernel} {program}", f"exit {status}")

    def inside(self, kernel, program, cases, timeout_s=400, arguments="", more=(), **options):
        """The same in a guest of their own; more: such programs after it, each with its cases and arguments."""
        def body(machine):
            for name, words, extra in ((program, cases, arguments), *more):
                self.run_in(machine, kernel, name, words, timeout_s, extra)
        self.on(kernel, program.removesuffix(".py"), body, **options)

    def finish(self):
        return 1 if self.failed else 0
