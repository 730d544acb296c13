#!/usr/bin/python3
"""Power loss of the storage host, at any moment of a random history of a server's operations: a disk below the pool
writes down what it is told (tests/faults/disk_journal.h), and is made anew as a cut may have left it. Then the file
system is sound, the server starts, each operation that was answered stands, the one that was not is whole or not there,
and each block holds what was flushed or something newer.

MOORING_SEED reproduces history and cuts. tests/faults/test_power_loss_long.py goes on with new histories for hours."""
import copy
import os
import pathlib
import random
import secrets
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))
# pylint: disable=wrong-import-position
import cluster as clusters
import harness
import power_loss
from target_fixture import MIB, register

DISK_BYTES = 640 * MIB
BLOCK, BLOCKS = 4096, 256
OPERATIONS, CUTS = 50, 8
NODES = ("n1", "n2")
FORMATTING, DATA = 2, 3  # of storage.proto's Content


def block_of(number):
    return number.to_bytes(8, "little") * (BLOCK // 8)


class History:
    """Random operations on one server, one after the other, and what stood after each."""

    def __init__(self, target, disk, choice):
        self.target, self.disk, self.choice = target, disk, choice
        self.sessions, self.number, self.claimed = {}, 0, []
        self.formatting = {}  # volume: the generation that began to format it
        self.blocks = {}   # data file, relative to the pool: {block: [allowed numbers, the newest last]}
        self.states = []   # after operation n; n is its mark
        self.features = set(target.controller.GetServer().features)
        for node in NODES:
            register(target, node)
        self.done("register")

    def done(self, what):
        """It was answered: what stands now, and a mark in the disk's journal."""
        self.states.append((what, view(self.target), copy.deepcopy(self.blocks)))
        answer = self.disk.command(f"mark {len(self.states) - 1}")
        if answer != "ok":
            raise AssertionError(f"the journal: {answer}")

    def run(self, count):
        doable = [(name, function) for name, function in OPERATION_LIST if self.can(name)]
        while count > 0:
            name, function = self.choice.choice(doable)
            words = function(self)
            if words:
                self.done(f"{name} {words}")
                count -= 1
        for initiator, _ in self.sessions.values():
            initiator.close()

    def can(self, name):
        need = {"snapshot": "snapshots", "delete_snapshot": "snapshots", "group": "snapshots", "delete_group": "snapshots",
                "clone": "snapshots", "expand": "expand", "limits": "limits"}.get(name)
        return need is None or need in self.features

    def volumes(self):
        return {volume.volume_id: volume for volume in self.target.controller.ListVolumes().volumes}

    def pick(self, attached=None):
        found = [volume for volume in self.volumes().values()
                 if attached is None or bool(volume.attachments) == attached]
        return self.choice.choice(found) if found else None

    # ---- names and volumes ----

    def claim(self):
        if len(self.claimed) + len(self.volumes()) >= 6:
            return None
        volume_id = f"{self.target.server_id}.{secrets.token_hex(8)}"
        self.claimed.append(volume_id)
        self.target.controller.ClaimName(name=f"name-{volume_id[-16:]}", volume_id=volume_id)
        return volume_id

    def create(self):
        if not self.claimed:
            return None
        volume_id = self.claimed.pop()
        self.target.controller.CreateVolume(volume_id=volume_id, name=f"name-{volume_id[-16:]}",
                                            size_bytes=BLOCKS * BLOCK, thick=self.choice.random() < 0.3)
        self.blocks[f"volumes/{volume_id}/data"] = {}
        return volume_id

    def delete(self):
        volume = self.pick(attached=False)
        if not volume:
            return None
        self.target.controller.DeleteVolume(volume_id=volume.volume_id)
        self.blocks.pop(f"volumes/{volume.volume_id}/data")
        self.done(f"delete {volume.volume_id}")
        self.target.controller.ReleaseName(name=volume.name, volume_id=volume.volume_id)
        return f"its name {volume.volume_id}"

    def expand(self):
        volume = self.pick()
        if not volume:
            return None
        self.target.controller.ExpandVolume(volume_id=volume.volume_id, size_bytes=volume.size_bytes + BLOCKS * BLOCK,
                                            record_generation=volume.record_generation)
        return volume.volume_id

    def limits(self):
        volume = self.pick()
        if not volume:
            return None
        self.target.controller.ModifyVolume(volume_id=volume.volume_id, record_generation=volume.record_generation,
                                            limits={"iops": self.choice.randrange(100000, 200000)})
        return volume.volume_id

    # ---- snapshots ----

    def snapshot(self):
        volume = self.pick()
        if not volume or len(self.target.controller.ListSnapshots().snapshots) >= 4:
            return None
        snapshot_id = f"{self.target.server_id}.s-{secrets.token_hex(8)}"
        name = f"name-{snapshot_id[-16:]}"
        self.target.controller.ClaimName(name=name, volume_id=snapshot_id, kind="NAME_SNAPSHOT")
        self.done(f"claim {snapshot_id}")
        fields = dict(snapshot_id=snapshot_id, name=name, source_volume_id=volume.volume_id)
        self.target.controller.CreateSnapshot(**fields)
        self.blocks[f"snapshots/{snapshot_id}/data"] = self.newest(volume.volume_id)
        if self.choice.random() < 0.5:  # from here on it is there, whole or lost
            self.target.controller.CreateSnapshot(**fields, record_cut=True)
            self.done(f"record {snapshot_id}")
        harness.wait_until(lambda: self.target.controller.GetSnapshot(snapshot_id=snapshot_id).snapshot.ready,
                           f"{snapshot_id} is ready")
        return f"{snapshot_id} of {volume.volume_id}"

    def delete_snapshot(self):
        found = [one for one in self.target.controller.ListSnapshots().snapshots if not one.group_id]
        if not found:
            return None
        snapshot = self.choice.choice(found)
        self.target.controller.DeleteSnapshot(snapshot_id=snapshot.snapshot_id)
        self.blocks.pop(f"snapshots/{snapshot.snapshot_id}/data")
        self.done(f"delete {snapshot.snapshot_id}")
        self.target.controller.ReleaseName(name=snapshot.name, volume_id=snapshot.snapshot_id, kind="NAME_SNAPSHOT")
        return f"its name {snapshot.snapshot_id}"

    def group(self):
        volumes = list(self.volumes().values())
        if not volumes or len(self.target.controller.ListSnapshots().snapshots) >= 4:
            return None
        members = {f"{self.target.server_id}.s-{secrets.token_hex(8)}": volume.volume_id
                   for volume in self.choice.sample(volumes, min(2, len(volumes)))}
        group_id, hold_id = f"g-{secrets.token_hex(8)}", secrets.token_hex(16)
        self.target.controller.ClaimName(name=f"name-{group_id}", volume_id=group_id, kind="NAME_GROUP")
        self.done(f"claim {group_id}")
        self.target.controller.HoldVolumes(hold_id=hold_id, volume_ids=list(members.values()), hold_ms=5000)
        for snapshot_id, volume_id in members.items():
            self.target.controller.CreateSnapshot(snapshot_id=snapshot_id, name=f"name-{group_id}", source_volume_id=volume_id,
                                                  group_id=group_id, hold_id=hold_id)
            self.done(f"cut {snapshot_id}")
        self.target.controller.ReleaseVolumes(hold_id=hold_id)
        for snapshot_id in members:
            harness.wait_until(lambda one=snapshot_id: self.target.controller.GetSnapshot(snapshot_id=one).snapshot.ready,
                               f"{snapshot_id} is ready")
        self.done(f"hold {group_id}")
        self.target.controller.CommitSnapshots(group_id=group_id, snapshot_ids=list(members))
        for snapshot_id, volume_id in members.items():
            self.blocks[f"snapshots/{snapshot_id}/data"] = self.newest(volume_id)
        return f"{group_id} {' '.join(members)}"

    def delete_group(self):
        found = [one for one in self.target.controller.ListSnapshots().snapshots if one.group_id]
        if not found:
            return None
        group_id = self.choice.choice(found).group_id
        for one in (one for one in found if one.group_id == group_id):
            self.target.controller.DeleteSnapshot(snapshot_id=one.snapshot_id)
            self.blocks.pop(f"snapshots/{one.snapshot_id}/data")
            self.done(f"remove {one.snapshot_id}")
        self.target.controller.ReleaseName(name=f"name-{group_id}", volume_id=group_id, kind="NAME_GROUP")
        return f"its name {group_id}"

    def clone(self):
        source = self.pick()
        if not source or not self.claimed:
            return None
        volume_id = self.claimed.pop()
        self.target.controller.CreateVolume(volume_id=volume_id, name=f"name-{volume_id[-16:]}",
                                            size_bytes=source.size_bytes, source_volume_id=source.volume_id)
        self.blocks[f"volumes/{volume_id}/data"] = self.newest(source.volume_id)
        return f"{volume_id} of {source.volume_id}"

    def newest(self, volume_id):
        """What a copy holds: the answered writes, flushed or not."""
        return {block: numbers[-1:] for block, numbers in self.blocks[f"volumes/{volume_id}/data"].items()}

    # ---- attachments, fences ----

    def attach(self):
        volume = self.pick(attached=False)
        return self.attach_to(volume) if volume else None

    def attach_to(self, volume):
        free = [node.node_id for node in self.target.controller.ListNodes().nodes if not node.fenced]
        if not free:
            return None
        node = self.choice.choice(free)
        epoch = self.target.controller.AttachVolume(volume_id=volume.volume_id, node_id=node, access_mode=1,
                                                    record_generation=volume.record_generation).attachment.epoch
        self.done(f"attach {volume.volume_id} {node}")
        granted = self.target.node(node).GrantGeneration(volume_id=volume.volume_id, node_id=node, epoch=epoch)
        return f"grant {volume.volume_id} {node} {granted.generation}"

    def detach(self):
        volume = self.pick(attached=True)
        if not volume:
            return None
        self.forget(volume.volume_id)
        self.target.controller.DetachVolume(volume_id=volume.volume_id, node_id=volume.attachments[0].node_id,
                                            epoch=volume.attachments[0].epoch)
        return volume.volume_id

    def fence(self):
        node = self.choice.choice(NODES)
        for volume in self.volumes().values():
            if any(attachment.node_id == node for attachment in volume.attachments):
                self.forget(volume.volume_id)
        self.target.operator.FenceNode(node_id=node, reason="a test")
        self.done(f"fence {node}")
        self.target.operator.UnfenceNode(node_id=node)
        return f"un{node}"

    # ---- formats ----

    def begin_format(self):
        """Often twice, with data on disk between, which the second time is to be discarded."""
        blank = [one for one in self.volumes().values() if one.content != DATA]
        volume = self.choice.choice(blank) if blank else None
        if volume and not volume.attachments:
            words = self.attach_to(volume)
            if words:
                self.done(f"attach {words}")
                volume = self.volumes()[volume.volume_id]
        if not volume or not volume.attachments:
            return None
        words = self.begin_once(volume)
        if self.choice.random() < 0.7:
            self.done(f"begin_format {words}")
            self.done(f"write {self.write_to(volume)}")
            self.done(f"flush {self.flush_of(volume)}")
            words = self.begin_once(volume)
        return words

    def begin_once(self, volume):
        self.session(volume)
        attachment, granted = volume.attachments[0], self.sessions[volume.volume_id][1]
        begun = self.target.node(attachment.node_id).BeginFormat(volume_id=volume.volume_id, node_id=attachment.node_id,
                                                                 epoch=attachment.epoch, generation=granted.generation)
        self.formatting[volume.volume_id] = granted.generation
        if begun.discarded:
            self.blocks[f"volumes/{volume.volume_id}/data"] = {}
        return f"{volume.volume_id}{' again' if begun.discarded else ''}"

    def end_format(self):
        volume = self.pick(attached=True)
        if not volume or volume.content != FORMATTING or volume.volume_id not in self.sessions:
            return None
        attachment, granted = volume.attachments[0], self.sessions[volume.volume_id][1]
        if self.formatting.get(volume.volume_id) != granted.generation:
            return None
        self.target.node(attachment.node_id).EndFormat(volume_id=volume.volume_id, node_id=attachment.node_id,
                                                       epoch=attachment.epoch, generation=granted.generation)
        return volume.volume_id

    # ---- data ----

    def session(self, volume):
        """A generation of its own, whose writes are not stable when they are answered."""
        if volume.volume_id not in self.sessions:
            attachment = volume.attachments[0]
            granted = self.target.node(attachment.node_id).GrantGeneration(
                volume_id=volume.volume_id, node_id=attachment.node_id, epoch=attachment.epoch,
                holding_generation=attachment.generation)
            self.done(f"grant {volume.volume_id} {granted.generation}")
            initiator = power_login(self.target, volume, attachment.node_id, granted)
            self.sessions[volume.volume_id] = initiator, granted
        return self.sessions[volume.volume_id][0]

    def forget(self, volume_id):
        if volume_id in self.sessions:
            self.sessions.pop(volume_id)[0].close()

    def write(self):
        volume = self.pick(attached=True)
        return self.write_to(volume) if volume else None

    def write_to(self, volume):
        initiator, blocks = self.session(volume), self.blocks[f"volumes/{volume.volume_id}/data"]
        written = []
        for _ in range(self.choice.randrange(1, 6)):
            block, fua = self.choice.randrange(volume.size_bytes // BLOCK), self.choice.random() < 0.2
            self.number += 1
            answered(initiator, lambda block=block, fua=fua: initiator.write(block, block_of(self.number), fua=fua))
            blocks[block] = [self.number] if fua else blocks.get(block, [0]) + [self.number]
            written.append(f"{block}={self.number}{'!' if fua else ''}")
            if len(written) < 5 and self.choice.random() < 0.5:
                self.done(f"write {volume.volume_id} {written[-1]}")
        return f"{volume.volume_id} {' '.join(written)}"

    def flush(self):
        volume = self.pick(attached=True)
        return self.flush_of(volume) if volume else None

    def flush_of(self, volume):
        initiator, blocks = self.session(volume), self.blocks[f"volumes/{volume.volume_id}/data"]
        answered(initiator, lambda: initiator.command(bytes([0x35]) + bytes(15)))
        for block in blocks:
            blocks[block] = blocks[block][-1:]
        return volume.volume_id


OPERATION_LIST = [("claim", History.claim), ("create", History.create), ("create", History.create),
                  ("delete", History.delete), ("expand", History.expand), ("limits", History.limits),
                  ("snapshot", History.snapshot), ("delete_snapshot", History.delete_snapshot),
                  ("clone", History.clone), ("attach", History.attach), ("detach", History.detach),
                  ("group", History.group), ("delete_group", History.delete_group), ("begin_format", History.begin_format),
                  ("begin_format", History.begin_format), ("end_format", History.end_format),
                  ("fence", History.fence)] + [("write", History.write)] * 6 + [("flush", History.flush)] * 2


def power_login(target, volume, node, granted):
    import raw_iscsi
    initiator = raw_iscsi.Initiator(target.portal, isid=raw_iscsi.random_isid(),
                                    name=f"iqn.2026-11.storage.mooring:node:{node}")
    initiator.login(f"iqn.2026-11.storage.mooring:{volume.volume_id}", granted.chap_name, granted.chap_secret)
    return initiator


def answered(initiator, send):
    """Sends a command, once more after a unit attention (the volume has grown)."""
    status, _, sense = initiator.wait(send())
    if status == 0x02 and sense[2] & 0xF == 6:
        status, _, sense = initiator.wait(send())
    if status:
        raise AssertionError(f"a command ended with status 0x{status:02x}, sense {sense.hex()}")


def view(target):
    """What a server tells, and the names that are claimed. What only grows is left out."""
    volumes = {}
    for one in target.controller.ListVolumes().volumes:
        attachments = [(attachment.node_id, attachment.epoch, attachment.generation)
                       for attachment in one.attachments]
        volumes[one.volume_id] = (one.name, one.size_bytes, one.content, one.write_failed, one.limits.iops,
                                  one.unreadable, one.source_volume_id, attachments)
    snapshots = {}
    if "snapshots" in target.controller.GetServer().features:
        snapshots = {one.snapshot_id: (one.name, one.source_volume_id, one.size_bytes, one.ready, one.unreadable,
                                       bool(one.lost))
                     for one in target.controller.ListSnapshots().snapshots}
    nodes = {node.node_id: node.fenced for node in target.controller.ListNodes().nodes}
    return volumes, snapshots, nodes, sorted(os.listdir(target.pool.path / "names"))


# ---- after a cut ----


def differences(pool, old, new):
    """Blocks of data files that hold neither what was allowed before nor after the operation in flight."""
    found = []
    for name in sorted(set(old) | set(new)):
        path = pool / name
        if not path.exists():
            continue  # whether it must be there is view()'s
        with open(path, "rb") as data:
            for block in range(path.stat().st_size // BLOCK):
                content = data.read(BLOCK)
                number = int.from_bytes(content[:8], "little")
                allowed = set(old.get(name, {}).get(block, [0])) | set(new.get(name, {}).get(block, [0]))
                if number not in allowed or content != block_of(number):
                    found.append(f"{name} block {block} holds {number}, not one of {sorted(allowed)}")
    return found


def either_way(states, number):
    """What may stand after an operation. Of a snapshot whose cut was recorded: not ready, for good, or ready."""
    what, (volumes, snapshots, nodes, names), _ = states[number]
    if not what.startswith("record "):
        return [states[number][1]]
    recorded = what.split()[1]
    name, source, size, _, unreadable, _ = snapshots[recorded]
    return [(volumes, {**snapshots, recorded: (name, source, size, ready, unreadable, not ready)}, nodes, names)
            for ready in (False, True)]


def check_cut(target, history, journal, disks, index, choice, scratch):
    marks = journal.marks()
    before = max((number for number, at in marks.items() if at < index), default=0)
    after = min(before + 1, len(history.states) - 1)
    where = f"cut after record {index} of {len(journal.records)}, amid {history.states[after][0]}"
    image = scratch.path / "cut.img"
    lost = disks.after(index, image, choice)
    device = harness.run("losetup", "--find", "--show", image).stdout.strip()
    try:
        harness.run("mount", device, target.pool.path)
        try:
            target.start()
            stands = view(target)
            left = os.listdir(target.pool.path / "trash")
            target.stop()
            found = differences(target.pool.path, history.states[before][2], history.states[after][2])
        finally:
            if target.process.poll() is None:
                target.kill()
            harness.unmount(target.pool.path)
        repair = harness.run("xfs_repair", "-n", device, check=False)
    finally:
        harness.run("losetup", "--detach", device)
    allowed = [*either_way(history.states, before), *either_way(history.states, after)]
    if history.states[after][0].startswith("delete "):  # first the thing, then its name; a repeat ends the rest
        allowed.append((*allowed[-1][:3], allowed[0][3]))
    if history.states[after][0].startswith("group "):  # of a commit, any part; a repeat ends the rest
        old, new = allowed[0], allowed[-1]
        allowed += [(new[0], {**old[1], one: new[1][one]}, *new[2:]) for one in new[1].keys() - old[1].keys()]
    if repair.returncode:
        raise AssertionError(f"{where}: xfs_repair: {repair.stdout[-500:]}")
    if left:
        raise AssertionError(f"{where}: trash holds {left}")
    if stands not in allowed:
        raise AssertionError(f"{where}: what stands is neither old nor new: {stands}\nold {allowed[0]}\nnew {allowed[1]}")
    if found:
        raise AssertionError(f"{where}: {found[0]} ({len(found)} in all)")
    return lost


def moments(journal, first, count, choice):
    """Half of them right before the first flush after an answer: nothing that this answer promised may need it."""
    answers, end = [at for at in journal.marks().values() if at >= first], len(journal.records)
    chosen = [next((at for at in range(answer, end) if journal.records[at][0] == b"f"), end)
              for answer in choice.sample(answers, count // 2)]
    return sorted(chosen + choice.sample(range(first, end), count - count // 2))


def one_history(choice, operations, cuts):
    with harness.Scratch() as scratch:
        disk = clusters.Disk(scratch, "store-1", DISK_BYTES)
        path = scratch.path / "journal"
        if (answer := disk.command(f"record {path}")) != "ok":
            raise AssertionError(f"the disk keeps no journal: {answer!r}")
        target = harness.Target(scratch, harness.Tls(scratch), harness.Pool(scratch, device=disk.device), loops=2)
        torn = power_loss.log_of(disk.device) if choice.random() < 0.5 else (0, 0)
        history = History(target, disk, choice)
        history.run(operations)
        target.stop()
        target.pool.unmount()
        disk.off()
        journal = power_loss.Journal(path)
        first = journal.marks()[0]
        disks = power_loss.Disks(journal, scratch.path, DISK_BYTES, torn)
        lost = 0
        for index in moments(journal, first + 1, cuts, choice):
            lost += check_cut(target, history, journal, disks, index, choice, scratch)
        print(f"# {len(history.states)} operations, {len(journal.records)} records, {cuts} cuts, {lost} pieces lost, "
              f"{'sectors' if torn[1] else 'blocks'} of the log",
              flush=True)


def power_loss_of_a_history(choice, hours):
    missing = power_loss.needs()
    if missing:
        raise harness.Skip(f"{missing} is not here")
    end = time.monotonic() + hours * 3600
    one_history(choice, OPERATIONS, CUTS)
    while time.monotonic() < end:
        seed = choice.randrange(1 << 31)
        print(f"# history {seed}", flush=True)
        one_history(random.Random(seed), 200, 40)


def main(hours=0.0):
    suite = harness.Suite()
    suite.run("power_loss", power_loss_of_a_history, clusters.seeded(), hours)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
