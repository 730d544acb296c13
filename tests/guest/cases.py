"""What the guests' test programs share: which kernels, and a guest's own PASS, FAIL and SKIP lines handed on under the
name of its kernel."""
import os
import re
import signal
import sys

import guest

MODE = os.environ.get("MOORING_GUEST", "")  # "all": tests/run --guest; "none": only names; else what is short
WHOLE = MODE == "all"
LEFT_OUT = "a long mode: tests/run --guest"


def kernels(*always, more=()):
    """Each kernel, and why it has no turn in this run: "" where it has."""
    return [(name, LEFT_OUT if MODE == "none" else "") for name in always] + [(name, "" if WHOLE else LEFT_OUT) for name in more]


class Report:
    """Lines on standard output, and the exit status."""

    def __init__(self):
        self.failed = 0
        self.told = set()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(self, word, name, why=""):
        self.failed += word == "FAIL"
        self.told.add(name)
        print(f"{word} {name}{': ' if why else ''}{why}", flush=True)

    def hand_on(self, prefix, output, known=(), program=""):
        """Its cases' lines. A case in `known` without a line has not been run; where the program skipped itself, it says why."""
        for line in output.splitlines():
            found = re.match(r"(PASS|FAIL|SKIP) (\w+)(?:: (.*))?$", line)
            if found:
                if found[1] == "SKIP" and found[2] == program:
                    self.skip(prefix, known, found[3])
                    known = []
                    continue
                known = [name for name in known if name != found[2]]
                self.say(found[1], f"{prefix} {found[2]}", found[3] or "")
            else:
                print(line, flush=True)
        for name in known:
            self.say("FAIL", f"{prefix} {name}", "it was not run")

    def skip(self, kernel, known, why):
        """Each of these cases that nothing was said of yet, by its name."""
        for name in known:
            if f"{kernel} {name}" not in self.told:
                self.say("SKIP", f"{kernel} {name}", why)

    def on(self, kernel, what, known, body, left_out="", **options):
        """body(machine) on a guest of its own, unless it is left out. What fails beside the known cases is told under `what`;
        which of them were not run, by name."""
        if left_out:
            self.skip(kernel, known, left_out)
            return
        try:
            with guest.Guest(kernel, **options) as machine:
                print(f"{kernel}: Linux {machine.version}", flush=True)
                body(machine)
        except guest.Unavailable as why:
            self.skip(kernel, known, str(why))
        except guest.GuestFailure as why:
            print(why, file=sys.stderr)
            self.say("FAIL", f"{kernel} {what}", str(why).splitlines()[0][:400])
            self.skip(kernel, known, "its guest had failed")

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
        known = [case for words in (cases, *(words for _, words, _ in more)) for case in words]
        self.on(kernel, program.removesuffix(".py"), known, body, **options)

    def finish(self):
        return 1 if self.failed else 0
