#!/usr/bin/python3
"""The tests of the invariants that gain from hours: power cuts, kills, races, each over and over with new random
choices. MOORING_HOURS is shared among them; MOORING_SEED reproduces the choices."""
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
# pylint: disable=wrong-import-position
import cluster as clusters
import harness
import test_invariants_1 as kept
import test_invariants_2_3 as writers
import test_invariants_7_8_9 as store
from cluster import Writer, equal


def many_power_cuts(cluster, choice, end):
    """1: one volume under one writer through many cuts of the storage host's power and kills of its server."""
    server, node = cluster.targets[0], cluster.nodes["n1"]
    volume = cluster.create("cuts")
    writer = Writer(node.attach(volume), choice.random(), fsync=50)
    cuts = 0
    while time.monotonic() < end:
        writer.wait_for(choice.randrange(1, 300))
        if choice.random() < 0.3:
            server.kill()
            server.start()
        else:
            server.cut_power(choice.randrange(1 << 31), choice.randrange(100))
            server.power_on()
        cuts += 1
    writer.wait_for(5)
    writer.stop()
    print(f"# {cuts} cuts and kills, {writer.count} writes, the longest {writer.longest_s:.1f} s", flush=True)
    equal(writer.wrong(), 0, "answered blocks lost")
    node.detach(volume)


def again(function):
    """The short test, over and over."""
    def run(cluster, choice, end):
        rounds = 0
        while time.monotonic() < end:
            function(cluster, choice)
            rounds += 1
        print(f"# {rounds} rounds", flush=True)
    return run


def make(scratch):
    cluster = clusters.Cluster(scratch, disks=("s1",), nodes=("n1",))
    cluster.register("n2")
    return cluster


TESTS = (("1-many-power-cuts", many_power_cuts), ("2-removal-races-logins", again(writers.removal_races_logins)),
         ("2-drain", again(writers.drain)), ("7-killed", again(store.killed)), ("7-power-cut", again(store.power_cut)),
         ("8-one-name", again(store.one_name)), ("1-kept-after-power-cut", again(kept.keeps_after_power_cut)))


def main():
    share_s = float(os.environ.get("MOORING_HOURS") or 0.1) * 3600 / len(TESTS)
    suite, choice = harness.Suite(), clusters.seeded()
    with harness.Scratch() as scratch:
        try:
            cluster = make(scratch)
        except harness.Skip as why:
            for name, _ in TESTS:
                suite.skip(name, why)
            return 0
        for name, function in TESTS:
            suite.run(name, function, cluster, random.Random(choice.random()), time.monotonic() + share_s)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
