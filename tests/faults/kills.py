"""Faults that are deaths: kill -9 of each program, of several at once, in each order, and of a device's successor amid its
take-over. See faults.py for what a fault is."""
import contextlib
import os
import signal
import time

import harness
from lab import pause

PROGRAMS = ("device", "holder", "node", "target", "controller")


def some(lab, choice):
    """Volumes, one at least."""
    return choice.sample(sorted(lab.volumes), choice.randint(1, len(lab.volumes)))


class Killer:
    """Kills by name, and starts again what systemd or Kubernetes would. A volume's device and holder are never dead at
    once, nor one of them while the other has not got everything yet: that is the loss of the data path. Whatever else is
    away at that moment stays away."""

    def __init__(self, lab, choice):
        self.lab, self.choice, self.down = lab, choice, []
        self.words = []

    def kill(self, program):
        self.words.append(program)
        getattr(self, f"_{program}")()

    def _device(self):
        for name in some(self.lab, self.choice):
            self._wait_other(name, "holder", self.lab.node)
            self.lab.signal(name, "device", signal.SIGKILL)
        self._note_away()

    def _holder(self):
        for name in some(self.lab, self.choice):
            self._wait_other(name, "device", self.lab.node, self.lab.server_of(name))
            pid = self.lab.signal(name, "holder", signal.SIGKILL)
            harness.wait_until(lambda one=name, old=pid: self.lab.pid(one, "holder") != old, "the holder ends")
        self._note_away()

    def _wait_other(self, name, other, *needed):
        """The other one of the pair has everything; where it does not, what starts it, and lets it begin, comes back."""
        if not self.lab.has_everything(name, other):
            self._start(part for part in needed if part in self.down)
        harness.wait_until(lambda: self.lab.has_everything(name, other),
                           f"mooring-{other} of {name} has everything: {self.lab.status(name)}", 90)

    def _note_away(self):
        if self.down:
            self.words[-1] += f" ({len(self.down)} away)"

    def _node(self):
        self._end(self.lab.node)

    def _controller(self):
        self._end(self.lab.controller)

    def _target(self):
        self._end(self.choice.choice(self.lab.servers))

    def _end(self, part):
        if part not in self.down:
            part.kill()
            self.down.append(part)

    def _start(self, parts):
        for part in list(parts):
            pause(self.choice)
            part.start()
            self.down.remove(part)

    def revive(self):
        self.choice.shuffle(self.down)
        self._start(self.down)


def kill_one(program):
    def fault(lab, choice):
        killer = Killer(lab, choice)
        killer.kill(program)
        pause(choice)
        killer.revive()
        return ""
    return fault


def kill_in_order(lab, choice):
    """Each of them once; a hundred and twenty of these have every order. In most, who is dead stays so until the end."""
    killer, back = Killer(lab, choice), choice.choice((0, 0, 0.5))
    for program in lab.next_order(PROGRAMS):
        killer.kill(program)
        pause(choice)
        if choice.random() < back:
            killer.revive()
    killer.revive()
    return ", ".join(killer.words)


def kill_at_once(lab, choice):
    """Several at the same moment; of device and holder at most one."""
    programs = choice.sample(["node", "target", "controller"], choice.randint(1, 3))
    programs.insert(0, choice.choice(("device", "holder")))
    killer = Killer(lab, choice)
    for program in programs:
        killer.kill(program)
    pause(choice)
    killer.revive()
    return ", ".join(programs)


# ---- amid a take-over ----

# How far the successor gets before it is killed: what it has got of the holder, or some time later.
REACHED = {
    "begun": lambda lab, name: True,
    "has the log": lambda lab, name: lab.held(name, "device")["log"],
    "has everything": lambda lab, name: lab.has_everything(name, "device"),
    "tells of itself": lambda lab, name: lab.status(name).get("pid") == lab.pid(name, "device"),
}


def kill_successor(lab, choice, name, old):
    """Kill the next process of that volume; it, and whether it served already."""
    def next_one():
        pid = lab.pid(name, "device")
        return pid if pid and pid != old else None
    point = choice.choice((*REACHED, "later"))
    pid = harness.wait_until(next_one, f"a successor of {name}: {lab.status(name)}", 90, 0.001)
    if point == "later":
        time.sleep(choice.uniform(0, 0.4))
    else:
        harness.wait_until(lambda: REACHED[point](lab, name) or lab.pid(name, "device") != pid, point, 90, 0.001)
    # By its number: a process that is being executed has no command line to know it by.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # so that what it is killed amid is known
        served = lab.device_serves(name)
        os.kill(pid, signal.SIGKILL)
        return pid, served
    return pid, True  # it had ended by itself


def killed_taking_over(lab, choice):
    """The successor of a killed device is killed amid its take-over itself, of each volume once at least."""
    names, amid, late = some(lab, choice), 0, 0
    for name in names:
        harness.wait_until(lambda one=name: lab.has_everything(one, "holder"), f"mooring-holder of {name} has everything", 90)
        pid, wanted = lab.signal(name, "device", signal.SIGKILL), choice.randint(1, 3)
        while wanted > 0 and late < 20:
            pid, served = kill_successor(lab, choice, name, pid)
            wanted, amid, late = wanted - (not served), amid + (not served), late + served
    if not amid:
        raise AssertionError("no successor was killed before it served")
    return f"{', '.join(names)}: {amid} successors amid it, {late} when they served"
