"""The main job: a MariaDB server keeps its data and its clients while its compute is upgraded, moved and lost.

Run by examples/mysql/run, which installs and builds first.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pymysql

import database
import proxy
from blockcheck import BlockCheck
from compute import Compute, Control
from hosts import Failure, Network, run
from load import DATABASE, Load, missing_rows
from storage_host import StorageHost

DISK_BYTES = 3 << 30
VOLUME_SIZE = "1GiB"
CHECK_SIZE = "64MiB"
CHECK_BYTES = 32 << 20
CHECK_S = 1.0 # of writing before the cut
CUTS_MAX = 5 # a cut may by chance lose nothing, and then proves nothing: another one
SETTLE_S = 2.0 # of load before and after each step


class Step:
    """One row of the table."""

    def __init__(self, name, outage, acknowledged, lost, disk_errors, note=""):
        self.name, self.outage, self.acknowledged = name, outage, acknowledged
        self.lost, self.disk_errors, self.note = lost, disk_errors, note

    @property
    def good(self):
        return not self.lost and not self.disk_errors


class Example:
    def __init__(self, programs, cache_dir, seed):
        self.programs = programs
        self.cache_dir = cache_dir
        self.seed = seed
        self.steps = []
        self.skipped = []
        self.network = self.storage = self.load = self.container = None
        self.retired = [] # containers whose disk errors count no more
        self.work_dir = tempfile.mkdtemp(prefix="mooring.", dir="/tmp")
        self.log_dir = os.path.join(self.work_dir, "log")
        os.makedirs(self.log_dir)

    # ---- everything up ----

    def start(self):
        say("four hosts: a storage host, compute nodes a and b, and a front with the address of the service")
        self.network = Network(self.log_dir)
        front = self.network.add("front", "10.77.0.1")
        store = self.network.add("store", "10.77.0.2")
        compute_hosts = [self.network.add("a", "10.77.0.3"), self.network.add("b", "10.77.0.4")]
        self.control = Control(front, self.programs, self.work_dir)
        self.a, self.b = (Compute(host, self.control, self.work_dir) for host in compute_hosts)
        self.control.make_certificates(store, (self.a, self.b))
        self.storage = StorageHost(store, self.programs, self.control.tls_dir, self.work_dir, DISK_BYTES)
        self.storage.power_on_disk(make=True)
        self.storage.make_pool()
        self.storage.start_target()
        self.control.use_server(store.address, self.storage.pool_uuid)
        self.control.start()
        for node in (self.a, self.b):
            node.boot()
        for node in (self.a, self.b):
            node.wait_registered()

    def start_database(self):
        self.old_root = database.make_root("bookworm", self.cache_dir)
        self.new_root = self.find_new_root()
        self.volume = self.control.create_volume("orders", VOLUME_SIZE, "--fs-type", "xfs")
        self.database = database.Database(self.work_dir, self.log_dir, self.network.prefix)
        data = self.data_path(self.a.mount(self.volume))
        self.database.initialize(self.a.host, self.old_root, data)
        self.run_on(self.a, self.old_root)
        self.container.sql(
            f"CREATE DATABASE {DATABASE}; CREATE USER app@'%' IDENTIFIED BY 'app'; GRANT ALL ON {DATABASE}.* TO app@'%';"
            f"CREATE TABLE {DATABASE}.orders (id BIGINT PRIMARY KEY, payload VARCHAR(400) NOT NULL) ENGINE=InnoDB")
        front = self.network.hosts["front"]
        self.proxy = proxy.Proxy(front, self.work_dir)
        self.proxy.point_at(self.a.host.address)
        self.load = Load(front, front.address, proxy.PORT, os.path.join(self.work_dir, "ledger"), self.seed)
        self.load.start()
        self.load.wait_for_commits()
        say(f"MariaDB {self.container.version()} serves on a; clients write through {front.address}:{proxy.PORT}")

    def find_new_root(self):
        try:
            return database.make_root("trixie", self.cache_dir)
        except Failure as reason:
            self.skipped.append(f"upgrade to a newer MariaDB: no Debian 13 root file system: {str(reason)[:200]}")
            return None

    @staticmethod
    def data_path(mounted):
        path = os.path.join(mounted, "mysql")
        os.makedirs(path, exist_ok=True)
        return path

    def run_on(self, node, root, wait=True):
        """Start mariadbd on the node's mount of the volume."""
        data = self.data_path(node.path("target", self.volume))
        self.container = self.database.start(node.host, root, data)
        self.home, self.root = node, root
        if wait:
            self.container.wait_ready()

    # ---- steps ----

    def step(self, name, action):
        """Run one step under load, then check the ledger against the database."""
        say(name)
        time.sleep(SETTLE_S)
        mark = self.load.mark()
        note = action() or ""
        self.load.wait_for_commits()
        time.sleep(SETTLE_S)
        outage = self.load.longest_gap(mark)
        acknowledged = self.load.mark()[1] - mark[1]
        lost = missing_rows(self.load)
        errors = self.container.disk_errors()
        self.steps.append(Step(name, outage, acknowledged, len(lost), len(errors), note))
        say(f"    {outage:.1f} s without a commit, {acknowledged} commits, {len(lost)} lost, "
            f"{len(errors)} I/O errors{'; ' + note if note else ''}")

    def upgrade(self):
        self.container.stop()
        self.run_on(self.home, self.new_root)
        self.container.upgrade_tables()
        return f"now {self.container.version()}"

    def move(self):
        there = self.b if self.home is self.a else self.a
        self.container.stop()
        self.home.unmount(self.volume)
        there.mount(self.volume)
        self.run_on(there, self.root)
        self.proxy.point_at(there.host.address)
        return f"now on {there.name}"

    def take_over(self, lost, there):
        """Fence the lost node, and start on the other one."""
        self.control.mooring("node", "fence", lost.name, "--reason", "lost")
        there.mount(self.volume)
        self.run_on(there, self.root)
        self.proxy.point_at(there.host.address)

    def lose_dead(self):
        lost = self.home
        there = self.a if lost is self.b else self.b
        lost.host.link("down")
        lost.host.kill_all()
        self.container.delete()
        self.take_over(lost, there)
        lost.host.link("up")
        lost.end()
        return f"{lost.name} died; now on {there.name}"

    def lose_cut(self):
        """Only the cable is cut: the old server still runs, and writes to what it thinks is its disk."""
        lost, old = self.home, self.container
        there = self.a if lost is self.b else self.b
        lost.host.link("down")
        self.take_over(lost, there)
        self.load.wait_for_commits()
        lost.host.link("up")
        refused = self.old_server_is_refused(old)
        lost.end()
        old.delete()
        if not refused:
            raise Failure(f"the fenced server on {lost.name} committed a row")
        return f"{lost.name} cut off; its writes refused; now on {there.name}"

    def old_server_is_refused(self, old):
        """The fenced server must not commit; what it says of it does not matter, a hang included."""
        row = 1 << 62
        try:
            old.sql(f"SET SESSION lock_wait_timeout=5; INSERT INTO {DATABASE}.orders VALUES ({row}, 'from the fenced "
                    "server')", timeout=10)
        except Exception: # pylint: disable=broad-except
            pass
        return not self.container.sql(f"SELECT id FROM {DATABASE}.orders WHERE id = {row}").strip()

    def restart_target(self):
        self.storage.target.kill()
        self.storage.start_target()

    def restart_controller(self):
        self.control.process.kill()
        self.control.start()

    def restart_node(self):
        self.home.process.kill()
        self.home.start()

    def cut_power(self):
        """The storage host loses power: with the replay nothing is lost, without it the same cut loses blocks."""
        idle = self.a if self.home is self.b else self.b
        idle.host.kill_all()
        idle.boot(unsafe_no_replay=True)
        idle.wait_registered()
        nodes = (self.home, idle)
        volumes = [self.control.create_volume(name, CHECK_SIZE) for name in ("check-replay", "check-no-replay")]
        paths = [node.mount(volume, "--block") for node, volume in zip(nodes, volumes)]
        for cut in range(1, CUTS_MAX + 1):
            lost, wrong = self.cut_once([BlockCheck(path, CHECK_BYTES, self.seed + cut) for path in paths], self.seed + cut)
            if wrong[0]:
                raise Failure(f"{wrong[0]} answered blocks were lost although the log was replayed")
            if wrong[1]:
                break
        else:
            raise Failure(f"no block was lost without the replay in {CUTS_MAX} cuts: they prove nothing")
        for node, volume in zip(nodes, volumes):
            node.unmount(volume)
        return (f"cut {cut}: the disk lost {lost} unflushed sectors; answered blocks lost: 0 with replay, "
                f"{wrong[1]} without")

    def cut_once(self, checks, seed):
        """One power cut while `checks` write; the sectors lost by the disk, and each check's wrong blocks."""
        for check in checks:
            check.start()
        time.sleep(CHECK_S)
        lost = self.storage.cut_power(seed, 50)
        self.storage.power_on()
        for check in checks:
            check.stop()
        return lost, [check.wrong() for check in checks]

    def run_steps(self):
        if self.new_root:
            self.step("1  upgrade mariadbd in place", self.upgrade)
        self.step("2  move to the other node", self.move)
        self.step("3a lose the node: killed, link cut", self.lose_dead)
        self.step("3b lose the node: link cut only", self.lose_cut)
        self.step("4a kill -9 mooring-target", self.restart_target)
        self.step("4b kill -9 mooring-controller", self.restart_controller)
        self.step("4c kill -9 mooring-node", self.restart_node)
        self.step("5  cut the storage host's power", self.cut_power)

    # ---- the end ----

    def close(self, keep_logs):
        if self.load:
            self.load.stopping.set()
        if self.network:
            for host in self.network.hosts.values():
                if host.name != "store":
                    host.kill_all()
            for node in (self.a, self.b):
                clean_mounts(node.dir)
        if self.storage:
            self.storage.close()
        if self.network:
            self.network.close()
        if keep_logs:
            say(f"logs are in {self.log_dir}")
        else:
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def table(self):
        print(f"\n{'step':38} {'outage s':>9} {'commits':>8} {'lost':>5} {'I/O errors':>10}")
        for step in self.steps:
            print(f"{step.name:38} {step.outage:9.1f} {step.acknowledged:8} {step.lost:5} {step.disk_errors:10}  {step.note}")
        for reason in self.skipped:
            print(f"skipped: {reason}")
        sys.stdout.flush()


def clean_mounts(below):
    """Give a dead host's loop devices back and unmount what it left below a folder: in this order, since a loop device
    whose mount is gone no longer tells where its file was."""
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
        name, _, backing = line.partition(" ")
        if backing.strip().startswith(below + "/"):
            run("losetup", "--detach", name, check=False)
    for line in reversed(run("findmnt", "--noheadings", "--list", "--output", "TARGET").splitlines()):
        if line.startswith(below + "/"):
            run("umount", "--lazy", line.strip(), check=False)


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def stopped(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    parser = argparse.ArgumentParser(prog="examples/mysql/run", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of what is random")
    parser.add_argument("--programs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stopped)

    say(f"seed {arguments.seed}")
    example = Example(os.path.abspath(arguments.programs), os.path.abspath(arguments.cache), arguments.seed)
    good = failed = False
    try:
        example.start()
        example.start_database()
        example.run_steps()
        good = bool(example.steps) and all(step.good for step in example.steps)
        failed = not good
        example.table()
        if arguments.keep:
            front = example.network.hosts["front"]
            print(f"\nstill running; connect with\n  {' '.join(front.enter(['mariadb']))} --host={front.address} --user=app "
                  f"--password=app {DATABASE}\nCtrl-C ends it", flush=True)
            signal.pause()
    except KeyboardInterrupt as reason:
        say(f"stopped{f' ({reason})' if str(reason) else ''}")
    except (Failure, OSError, subprocess.SubprocessError, pymysql.MySQLError) as reason:
        say(f"failed: {reason}")
        good, failed = False, True
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        example.close(keep_logs=failed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
