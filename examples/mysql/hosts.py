"""Hosts on one machine: a network namespace each, joined by a switch, and the processes that run there.

All share one kernel and one mount table. Everything made here is taken away by Network.close(), in reverse order.
"""

import os
import signal
import subprocess
import time


class Failure(Exception):
    """What went wrong, in words for the person at the terminal."""


def run(*command, check=True, timeout=120, **options):
    """Run a command to its end; its output as text. Failure carries what it printed."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
                            check=False, **options)
    if check and result.returncode:
        raise Failure(f"{' '.join(command)}: exit {result.returncode}: {result.stdout.strip()}")
    return result.stdout


def wait_until(what, condition, timeout=30.0, step=0.02):
    """Poll condition() until it is true; its value. Failure names what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(step)


class Process:
    """A long-lived program on a host, with its output in a log file."""

    def __init__(self, host, name, command, log_path):
        self.name = name
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.popen = subprocess.Popen(host.enter(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        if self.alive():
            self.popen.send_signal(number)

    def kill(self):
        """kill -9, and reap."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, timeout=20):
        """SIGTERM, and SIGKILL for one that does not listen."""
        self.signal(signal.SIGTERM)
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self, lines=8):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])


class Host:
    """One network namespace with an address of its own."""

    def __init__(self, network, name, address):
        self.network = network
        self.name = name
        self.address = address
        self.namespace = f"{network.prefix}-{name}"
        self.port = f"to-{name}"
        self.processes = {}
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.port, "netns", network.switch, "type", "veth", "peer", "name", "eth0", "netns",
            self.namespace)
        run("ip", "-n", network.switch, "link", "set", self.port, "master", "bridge", "up")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        run("ip", "-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", self.namespace, "link", "set", "eth0", "up")

    @property
    def namespace_path(self):
        return f"/run/netns/{self.namespace}"

    def enter(self, command):
        """The command line that runs here. Only the network is another: `ip netns exec` would hide our mounts."""
        return ["nsenter", f"--net={self.namespace_path}", "--", *command]

    def run(self, *command, **options):
        return run(*self.enter(command), **options)

    def start(self, name, *command):
        log_path = os.path.join(self.network.log_dir, f"{self.name}-{name}.log")
        self.processes[name] = Process(self, name, command, log_path)
        return self.processes[name]

    def link(self, state):
        """Pull the cable ("down") or plug it in ("up")."""
        run("ip", "-n", self.network.switch, "link", "set", self.port, state)

    def pids(self):
        """Every process of this host, ours or not: what a power switch would end."""
        inode = os.stat(self.namespace_path).st_ino
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def kill_all(self):
        """kill -9 of everything that runs here, until nothing does."""
        deadline = time.monotonic() + 30
        while self.pids():
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for process in self.processes.values():
                process.popen.poll()
            if time.monotonic() > deadline:
                raise Failure(f"host {self.name}: processes {self.pids()} do not end")
            time.sleep(0.01)


class Network:
    """The switch and the hosts on it."""

    def __init__(self, log_dir):
        self.log_dir = log_dir
        self.prefix = f"mooring-{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.hosts = {}
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "bridge", "up")

    def add(self, name, address):
        self.hosts[name] = Host(self, name, address)
        return self.hosts[name]

    def close(self):
        for host in self.hosts.values():
            host.kill_all()
            run("ip", "netns", "del", host.namespace, check=False)
        run("ip", "netns", "del", self.switch, check=False)
