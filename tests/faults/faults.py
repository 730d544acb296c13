"""The faults. Each is a function of the lab and a source of randomness that makes the fault and takes it away again;
what it returns are words for the table. None of them is allowed to make an I/O error, but those of the disk, which
name the volumes that see what the disk gave."""
import signal
import time

import harness
import wire
from lab import pause, seconds

PROGRAMS = ("device", "holder", "node", "target", "controller")


# ---- kill -9 ----


class Killer:
    """Kills by name, and starts again what systemd or Kubernetes would. A volume's device and holder are never dead
    at once: that is the loss of the data path."""

    def __init__(self, lab, choice):
        self.lab, self.choice, self.down = lab, choice, []

    def kill(self, program):
        getattr(self, f"_{program}")()

    def _device(self):
        names = self.choice.sample(sorted(self.lab.volumes), self.choice.randint(1, len(self.lab.volumes)))
        for name in names:
            self.lab.wait_protected(name)
            self.lab.signal(name, "device", signal.SIGKILL)

    def _holder(self):
        names = self.choice.sample(sorted(self.lab.volumes), self.choice.randint(1, len(self.lab.volumes)))
        for name in names:
            self.lab.wait_protected(name)
            pid = self.lab.signal(name, "holder", signal.SIGKILL)
            harness.wait_until(lambda one=name, old=pid: self.lab.pid(one, "holder") != old, "the holder ends")
        time.sleep(0.3)  # until the devices have said that they are without a holder

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

    def revive(self):
        self.choice.shuffle(self.down)
        for part in self.down:
            pause(self.choice)
            part.start()
        self.down = []


def kill_one(program):
    def fault(lab, choice):
        killer = Killer(lab, choice)
        killer.kill(program)
        pause(choice)
        killer.revive()
        return ""
    return fault


def kill_in_order(lab, choice):
    """Each of them once, in an order that is drawn; mooring-node is alive where a successor must be waited for."""
    order = list(PROGRAMS)
    choice.shuffle(order)
    killer = Killer(lab, choice)
    for program in order:
        if program in ("device", "holder"):
            killer.revive()
        killer.kill(program)
        pause(choice)
        if choice.random() < 0.5:
            killer.revive()
    killer.revive()
    return ", ".join(order)


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


# ---- the network ----


def link_cut(lab, choice):
    length = seconds(choice, lab, 2, 12)
    with lab.filter.cut(wire.ISCSI_PORT):
        time.sleep(length)
    return f"{length} s"


def whole_link_cut(lab, choice):
    """gRPC too: a heartbeat fails, a successor cannot be granted."""
    length = seconds(choice, lab, 2, 12)
    ports = [server.address.rpartition(":")[2] for server in lab.servers]
    with lab.filter.cut(wire.ISCSI_PORT, *ports):
        if choice.random() < 0.5:
            Killer(lab, choice).kill("device")
        time.sleep(length)
    return f"{length} s"


def packets_dropped(lab, choice):
    percent, length = choice.randint(3, 25), seconds(choice, lab, 2, 8)
    with lab.filter.lossy(percent):
        time.sleep(length)
    return f"{percent} % for {length} s"


def packets_reset(lab, choice):
    length = seconds(choice, lab, 1, 5)
    with lab.filter.reset(*(address for one in lab.addresses.values() for address in (one.first, one.second))):
        time.sleep(length)
    return f"{length} s"


class Detour:
    """The devices' connections go through proxies while it lasts, since their servers' own addresses refuse."""

    def __init__(self, lab, choice):
        self.lab, self.choice = lab, choice
        self.proxies = []

    def __enter__(self):
        for server in self.lab.servers:
            address = self.lab.addresses[server.server_id]
            host, _, port = server.portal.rpartition(":")
            # From an address of the proxy's own, which the rule lets through.
            self.proxies.append(wire.Proxy((address.proxy, wire.ISCSI_PORT), (host, int(port)), address.proxy,
                                           self.choice.random()))
        own = ",".join(one.proxy for one in self.lab.addresses.values())
        every = ",".join(f"{one.first},{one.second}" for one in self.lab.addresses.values())
        self.rule = self.lab.filter.rule(f"ip saddr != {{{own}}} ip daddr {{{every}}} tcp dport {wire.ISCSI_PORT} "
                                         "reject with tcp reset")
        self.rule.__enter__()
        # Of each volume one connection that carries I/O.
        harness.wait_until(lambda: sum(len(one.connections) for one in self.proxies) >= len(self.lab.volumes),
                           "the devices take the detour", 60)
        for name in self.lab.ledgers:
            self.lab.ledgers[name].wait_for(10)
        return self

    def __exit__(self, *_):
        self.rule.__exit__(None, None, None)
        for proxy in self.proxies:
            proxy.close()

    def total(self, what):
        return sum(getattr(one, what) for one in self.proxies)


def by_proxy(words, long_s, short_s=2, **modes):
    """A mode's value is drawn from a range."""
    def fault(lab, choice):
        drawn = {name: choice.uniform(*span) if isinstance(span[1], float) else choice.randint(*span)
                 for name, span in modes.items()}
        length = seconds(choice, lab, short_s, long_s)
        with Detour(lab, choice) as detour:
            for proxy in detour.proxies:
                for name, value in drawn.items():
                    setattr(proxy, name, value)
            time.sleep(length)
            for proxy in detour.proxies:
                proxy.calm()
        return words.format(**drawn) + f" for {length} s"
    return fault


def stalled(lab, choice):
    """Open connections on which nothing moves."""
    length = seconds(choice, lab, 3, 15)
    with Detour(lab, choice) as detour:
        for proxy in detour.proxies:
            proxy.stalled = True
        time.sleep(length)
        for proxy in detour.proxies:
            proxy.calm()
    return f"{length} s"


def headers_flipped(lab, choice):
    """Bits of headers flip on the wire. Only where the session has header digests, since nothing else would notice."""
    length = seconds(choice, lab, 2, 8)
    with Detour(lab, choice) as detour:
        if detour.total("with_digests") < len(lab.volumes):
            raise AssertionError(f"{detour.total('with_digests')} of {len(lab.volumes)} sessions have header digests")
        for proxy in detour.proxies:
            proxy.flip = 40
        end = time.monotonic() + length
        harness.wait_until(lambda: time.monotonic() > end and detour.total("flips") > 1, "bits flip", 60)
        for proxy in detour.proxies:
            proxy.calm()
        flips = detour.total("flips")
    return f"{flips} bits in {length} s"


# ---- the storage host ----


def storage_reboot(lab, choice):
    """Power lost, part of what was not flushed lost, a new boot id."""
    server, keep = choice.choice(lab.servers), choice.choice((0, 50, 90))
    lost = server.cut_power(choice.randrange(1 << 31), keep)
    pause(choice, 2)
    server.power_on()
    return f"{server.server_id}, {lost} sectors lost"


def another_address(lab, choice):
    """The server comes back on the other of its addresses, which its devices do not know."""
    server = choice.choice(lab.servers)
    address = lab.addresses[server.server_id]
    there = address.second if server.portal.startswith(address.first + ":") else address.first
    server.kill()
    lab.listen(server, there)
    pause(choice)
    server.start()
    return f"{server.server_id} now on {there}"


def target_stopped(lab, choice):
    server, length = choice.choice(lab.servers), seconds(choice, lab, 3, 15)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(length)
    server.process.send_signal(signal.SIGCONT)
    return f"{server.server_id}, {length} s"


def device_stopped(lab, choice):
    names = choice.sample(sorted(lab.volumes), choice.randint(1, len(lab.volumes)))
    length = 60 if lab.long and choice.random() < 0.2 else seconds(choice, lab, 10, 20)
    for name in names:
        lab.signal(name, "device", signal.SIGSTOP)
    time.sleep(length)
    for name in names:
        lab.signal(name, "device", signal.SIGCONT)
    return f"{', '.join(names)}, {length} s"
