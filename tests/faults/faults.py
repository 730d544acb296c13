"""The faults of the network and of hosts; kills.py has the deaths, disk_faults.py and database_faults.py those of disks.
Each is a function of the lab and a source of randomness that makes the fault and takes it away again; what it returns are
words for the table. None of them is allowed to make an I/O error, but those of the disk, which name the volumes that see
what the disk gave."""
import signal
import time

import harness
import wire
from kills import Killer, some
from lab import pause, seconds

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


def stop_devices(lab, choice, length):
    names = some(lab, choice)
    for name in names:
        lab.signal(name, "device", signal.SIGSTOP)
    time.sleep(length)
    for name in names:
        lab.signal(name, "device", signal.SIGCONT)
    return f"{', '.join(names)}, {length} s"


def device_stopped(lab, choice):
    return stop_devices(lab, choice, seconds(choice, lab, 10, 20))


def device_stopped_60(lab, choice):
    """A minute: the server gives the session up meanwhile."""
    return stop_devices(lab, choice, 60)
