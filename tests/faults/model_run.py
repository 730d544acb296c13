"""The random model test: 32 clients at random over create, delete, publish, unpublish, snapshot, clone and expand, with
repeats, duplicates and cancels, while controllers and storage servers are killed; then all that stands is compared with what
was acknowledged. docs/faults.md tells what is checked."""
import collections
import random
import sys
import threading
import time
import traceback

import cases
import harness
import model
import raw_iscsi
from model_clients import Client, Lister, block_of
from model_end import End
from model_lab import BLOCK, KILLS_MIN, MIB, NODES, Caller, Lab, LogReader, Prober, Wrong, controller_killer, server_killer

CLIENTS, SHARED = 32, 6
LOGIN_LIMIT_S = 90
END_LIMIT_S = 300


class Run:
    def __init__(self, lab, seed, clients):
        self.lab, self.seed = lab, seed
        self.choice = random.Random(f"{seed}-run")
        self.histories, self.registry = model.Histories(), model.Registry()
        self.stop, self.began, self.kills = threading.Event(), time.monotonic(), 0
        self.capability = lab.services["a"].controller.csi.capability()
        self.callers = []
        self.end_caller = self.caller("end")
        self.shared = [model.SharedName(f"shared-{number}", NODES) for number in range(SHARED)]
        for name in self.shared:
            self.registry.creating[name.name] = (0, model.NEVER)
        self.golden = [self.make_golden(target) for target in lab.targets]
        self.clients = [Client(self, number) for number in range(clients)]
        self.helpers = [LogReader(lab, "reader", self.stop), Prober(lab, "prober", self.stop)]
        self.lister = Lister(self)

    def caller(self, name):
        self.callers.append(Caller(self.lab, name))
        return self.callers[-1]

    def make_golden(self, target):
        """A volume with a content, and a snapshot of it, for all to clone."""
        csi, name = self.lab.services["a"].controller.csi, f"golden-{target.server_id}"
        made = csi.create(name, 2 * MIB, parameters={"zone": f"z{target.server_id[1:]}"})
        volume = self.registry.add(model.Volume(name, made.volume_id, 2 * MIB))
        csi.publish(volume.id, NODES[0])
        _, user, secret = self.lab.attachment(volume.id, NODES[0])
        with self.lab.login(volume.id, NODES[0], user, secret) as session:
            for block in (0, 3, 100, 2 * MIB // BLOCK - 1):
                volume.content[block] = (int(target.server_id[1:]) << 56) + block + 1
                if session.wait(session.write(block, block_of(volume.content[block])))[0]:
                    raise AssertionError("a write was refused")
        csi.ControllerUnpublishVolume(volume_id=volume.id, node_id=NODES[0])
        snapshot = csi.CreateSnapshot(name=name, source_volume_id=volume.id).snapshot
        return self.registry.add(model.Snapshot(name, snapshot.snapshot_id, volume.id, 2 * MIB, volume.content))

    def standing(self):
        return [one for one in self.registry.objects.values() if one.away is None]

    # ---- what several use ----

    def login_status(self, volume_id, node, user, secret):
        """0, or what the login is refused with for good."""
        end = time.monotonic() + LOGIN_LIMIT_S
        while True:
            try:
                self.lab.login(volume_id, node, user, secret).close()
                return 0
            except raw_iscsi.LoginFailed as failed:
                if failed.status != 0x0301 or time.monotonic() > end:
                    return failed.status
            except (OSError, raw_iscsi.Closed):
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def pages(self, caller, service, method, size):
        """The entries of all pages; None when a page is not to be had now."""
        entries, token = [], ""
        while True:
            call = caller.begin(service, method, 10, {"max_entries": size, "starting_token": token})
            if call.finish() != "OK":
                if call.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and not service.died_since(call.began):
                    raise Wrong(f"{method}: {call.code} {call.details}", None, [call.id])
                return None
            if size and len(call.value.entries) > size:
                raise Wrong(f"{method}: {len(call.value.entries)} entries in a page of {size}")
            entries += call.value.entries
            token = call.value.next_token
            if not token:
                return entries

    def volumes_listed(self, caller, service, size):
        entries = self.pages(caller, service, "ListVolumes", size)
        return entries if entries is None else self.by_id("ListVolumes", [
            (one.volume.volume_id, (one.volume.volume_context["name"], one.volume.capacity_bytes,
                                    tuple(one.status.published_node_ids))) for one in entries])

    def snapshots_listed(self, caller, service, size):
        entries = self.pages(caller, service, "ListSnapshots", size)
        return entries if entries is None else self.by_id("ListSnapshots", [
            (one.snapshot.snapshot_id, (None, one.snapshot.source_volume_id, one.snapshot.size_bytes,
                                        one.snapshot.ready_to_use)) for one in entries])

    @staticmethod
    def by_id(method, pairs):
        twice = [key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise Wrong(f"{method}: twice in a list: {twice}", None, twice)
        return dict(pairs)

    # ---- the run ----

    def run(self, seconds, gap_s):
        """Clients and kills for so long; then everything is there again."""
        killers = [server_killer(self.lab, self.stop, self.seed, seconds, gap_s),
                   controller_killer(self.lab, self.stop, self.seed, seconds, gap_s)]
        self.lab.services["b"].kill()
        workers = [*self.clients, self.lister, *killers]
        for worker in (*self.helpers, *workers):
            worker.start()
        self.stop.wait(seconds)
        while not self.stop.wait(0.05) and any(killer.rounds < KILLS_MIN for killer in killers):
            pass
        self.stop.set()
        end = time.monotonic() + END_LIMIT_S
        for worker in (*killers, self.lister, *self.clients):
            worker.join(max(0, end - time.monotonic()))
        self.kills = sum(killer.count for killer in killers)
        for killer in killers:
            self.histories.count(f"kills of {killer.name}", killer.count)
        for worker in (*self.helpers, *workers):
            if worker.failure:
                raise worker.failure
        stuck = [worker.name for worker in workers if worker.is_alive()]
        if stuck:
            raise Wrong(f"still at work {END_LIMIT_S} s after the end: {stuck}")

    def report(self):
        """Lines."""
        done = sum((client.done for client in self.clients), collections.Counter())
        counts = self.histories.counts
        yield f"{sum(done.values())} operations: " + ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
        yield ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) + f", {self.lister.lists} lists"

    def explain(self, why):
        """What a failure prints: the history of the name, and what the programs logged of it."""
        if not isinstance(why, Wrong):
            return
        names = [why.name] if why.name else [one.name for one in self.registry.objects.values() if one.id in why.ids]
        for name in names[:3]:
            print(f"# what was asked of {name}:", *self.histories.lines(name, self.began)[-40:], sep="\n#   ")
        words = {*why.ids, *names}
        words.update(one.id for one in self.registry.objects.values() if one.name in names)
        logs = [target.log for target in self.lab.targets] + [one.controller.log for one in self.lab.services.values()]
        for log in logs:
            with open(log, encoding="utf-8", errors="replace") as text:
                lines = [line.rstrip() for line in text if any(word in line for word in words)]
            if lines:
                print(f"# {log.name}:", *lines[-12:], sep="\n#   ")


def main(scratch, seed, seconds, gap_s, clients=CLIENTS):
    """(lines that tell what was done, what was wrong or None). Prints the seed first."""
    print(f"# seed {seed}", flush=True)
    lab = Lab(scratch)
    run, lines = Run(lab, seed, clients), []
    try:
        run.run(seconds, gap_s)
        lines = list(run.report())
        began = time.monotonic()
        End(run).check()
        lines.append(f"the end: {len(run.standing())} volumes and snapshots compared in {time.monotonic() - began:.1f} s")
        return lines, None
    except Exception as why:  # whatever it was, the seed tells
        traceback.print_exc(file=sys.stderr)
        run.explain(why)
        print(f"# logs are kept in {cases.keep_logs(scratch)}", flush=True)
        return lines, f"seed {seed}: {why}"
    finally:
        run.stop.set()
        for caller in run.callers:
            caller.close()


def program(name, seed, seconds, gap_s):
    """A test program's exit status."""
    with harness.Scratch() as scratch:
        lines, failure = main(scratch, seed, seconds, gap_s)
        print("\n".join(f"# {line}" for line in lines))
    if failure:
        print(f"FAIL {name}: {failure.splitlines()[0]}", flush=True)
        return 1
    print(f"PASS {name}", flush=True)
    return 0
