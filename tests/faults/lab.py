"""A whole cluster in a network namespace of the test's own, with load on its volumes, for faults to happen to: two
storage servers on disks that fail on command, a controller, one compute node with the real mooring-node.

    s1   "fio" (block) and "ledger" (block)
    s2   "victim" (block, a ledger) and "db" (ext4, MariaDB): the disk that fails is theirs

Every server has two addresses of its own and one of a proxy; it listens on one of its own, and tells the devices that one
and the proxy's."""
import contextlib
import itertools
import json
import os
import pathlib
import random
import time

import cluster as clusters
import harness
import loads
import wire

MIB = 1 << 20
FIO_BYTES = 48 * MIB
BLOCKS = 2048
DB_BYTES = 192 * MIB


class Addresses:
    def __init__(self, number):
        self.first, self.second, self.proxy = (f"127.0.{number}.{i}" for i in (2, 3, 4))


def fill(path):
    """Every block of a device written as it is and flushed, so that later writes change nothing of the pool's own file
    system: no block to allocate, none that counts as unwritten."""
    with open(path, "r+b") as device:
        for offset in range(0, device.seek(0, os.SEEK_END), MIB):
            device.seek(offset)
            content = device.read(MIB)
            device.seek(offset)
            device.write(content)
        device.flush()
        os.fsync(device.fileno())


class Lab:
    """Made once; cases follow each other on it. close() says what was left over."""

    def __init__(self, scratch, seed, long_mode=False, with_database=True, digests=True):
        self.scratch, self.seed, self.long = scratch, seed, long_mode
        self.orders = []
        self.filter = wire.Filter()
        self.addresses = {f"s{number}": Addresses(number) for number in (1, 2)}
        self.cluster = clusters.Cluster(scratch, servers=2, disks=("s1", "s2"), size="700MiB", loops=2)
        for server in self.servers:
            server.kill()
            self.listen(server, self.addresses[server.server_id].first)
            server.start()
        self.node = self.cluster.node("n1", **({"header_digest": True} if digests else {}))
        self.volumes = {name: self.cluster.create(name, server, size) for name, server, size in (
            ("fio", "s1", FIO_BYTES), ("ledger", "s1", BLOCKS * loads.BLOCK), ("victim", "s2", BLOCKS * loads.BLOCK))}
        self.paths = {name: self.node.attach(volume) for name, volume in self.volumes.items()}
        for path in self.paths.values():
            fill(path)
        self.ledgers = {name: loads.Ledger(self.paths[name], f"{seed}-{name}", BLOCKS) for name in ("ledger", "victim")}
        self.database = None
        self.fio_count = 0
        if with_database:
            self.start_database()

    @property
    def servers(self):
        return self.cluster.targets

    @property
    def controller(self):
        return self.cluster.a

    def server_of(self, name):
        return self.cluster.target_of(self.volumes[name].volume_id)

    def listen(self, server, address):
        server.portal = f"{address}:{wire.ISCSI_PORT}"
        server.config["portals"] = [server.portal]
        server.config["advertise"] = [server.portal, f"{self.addresses[server.server_id].proxy}:{wire.ISCSI_PORT}"]

    # ---- loads ----

    def start_database(self):
        self.database = loads.MariaDb(self.scratch, self.seed)
        self.volumes["db"] = self.cluster.create("db", "s2", DB_BYTES)
        device = self.node.attach(self.volumes["db"])
        harness.run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device)
        fill(device)
        self.node.detach(self.volumes["db"])
        self.paths["db"] = self.node.attach(self.volumes["db"], block=False, fs_type="ext4")
        self.database.start(self.paths["db"])

    def start_fio(self):
        self.fio_count += 1
        return loads.Fio(self.scratch, self.paths["fio"], FIO_BYTES, self.seed + self.fio_count, f"fio-{self.fio_count}")

    def wait_progress(self, completions=40):
        """All loads go on."""
        for ledger in self.ledgers.values():
            ledger.wait_for(completions)
        if self.database:
            self.database.load.wait_for_commits(5)

    # ---- processes ----

    def next_order(self, programs):
        """Another one of all their orders, drawn by the seed, before any comes again."""
        if not self.orders:
            self.orders = list(itertools.permutations(programs))
            random.Random(f"{self.seed}-orders").shuffle(self.orders)
        return self.orders.pop()

    def pid(self, name, program):
        """Of a volume's mooring-device or mooring-holder; None when it does not live."""
        try:
            pid = int((self.folder(name) / f"{program}.pid").read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self.node.dir).encode() in command else None

    def folder(self, name):
        return self.node.dir / "state" / "volumes" / self.volumes[name].volume_id

    def status(self, name):
        """By its own path: who looks through the folders waits in the mount of a device that nobody serves."""
        try:
            return json.loads((self.folder(name) / "device" / "status.json").read_text())
        except (OSError, json.JSONDecodeError):
            return {"state": "none"}

    def device_serves(self, name):
        now = self.status(name)
        return now["state"] == "ready" and now.get("pid") == self.pid(name, "device") is not None

    def held(self, name, program):
        """What its process has of what a successor needs: nothing when there is none."""
        links = []
        with contextlib.suppress(OSError):
            for entry in pathlib.Path(f"/proc/{self.pid(name, program)}/fd").iterdir():
                with contextlib.suppress(OSError):
                    links.append(os.readlink(entry))
        return {"log": any("mooring-replay-log" in link for link in links), "channels": links.count("/dev/fuse"),
                "requests": any("mooring-requests" in link for link in links)}

    def has_everything(self, name, program):
        """The other one of device and holder may die: the log is there and, of fuse, its channels and their requests."""
        held = self.held(name, program)
        kernels_own = self.status(name).get("block_device", "").startswith("/dev/ublk")
        return held["log"] and (kernels_own or (held["requests"] and held["channels"] >= 2))

    def protected(self, name):
        """A crash of the device would be survived, and it says so."""
        return self.has_everything(name, "holder") and self.status(name).get("take_over", False)

    def wait_protected(self, name):
        harness.wait_until(lambda: self.device_serves(name) and self.protected(name),
                           f"device and holder of {name} are there: {self.status(name)}", 90)

    def wait_devices(self):
        for name in self.volumes:
            self.wait_protected(name)

    def signal(self, name, program, number):
        pid = self.pid(name, program)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    # ---- the end ----

    def abandon(self):
        """After a failure: what hangs on a device ends with it, so that all can be taken away."""
        for ledger in self.ledgers.values():
            ledger.stopping.set()
        if self.database and self.database.load:
            self.database.load.stopping.set()
        self.node.remove()

    def close(self):
        """Everything detached and deleted, in order. AssertionError: what was left over, or what was lost."""
        problems = []
        if self.database:
            self.database.check()
            self.database.end_load()
            self.database.stop()
            if self.database.process.returncode:
                problems.append(f"mariadbd's exit status {self.database.process.returncode}")
        for ledger in self.ledgers.values():
            ledger.stop()
            ledger.check()
        for volume in self.volumes.values():
            self.node.detach(volume)
            clusters.settle(self.controller.csi.DeleteVolume, volume_id=volume.volume_id)
        problems += self.leftovers()
        if problems:
            raise AssertionError(f"left over: {problems}")

    def leftovers(self):
        found = [f"process {pid}" for pid in self.node.pids()]
        found += [f"volume {volume.volume_id}" for volume in self.cluster.volumes()]
        for server in self.servers:
            found += [f"session on {server.server_id}" for _ in server.operator.ListSessions().sessions]
            found += [str(path) for part in ("volumes", "trash") for path in (server.pool.path / part).glob("*")]
        found += [str(path) for path in (self.node.dir / "state" / "volumes").glob("*")]
        with open("/proc/self/mounts", encoding="utf-8") as table:
            found += [line.split()[1] for line in table if line.split()[1].startswith(f"{self.node.dir}/")]
        loops = harness.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout
        found += [line for line in loops.splitlines() if f"{self.node.dir}/" in line]
        return found


def seconds(choice, lab, short, long):
    """How long something lasts, drawn; in the short mode at most `short`."""
    return round(choice.uniform(0.2, long if lab.long else short), 1)


def pause(choice, longest_s=0.6):
    time.sleep(choice.uniform(0, longest_s))
