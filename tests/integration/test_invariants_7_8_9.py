#!/usr/bin/python3
"""Invariants 7, 8 and 9 over two controllers and three storage servers: all or nothing, idempotent, absence is
proven."""
import json
import os
import sys
import threading

import cluster as clusters
import harness
from cluster import MIB, UNAVAILABLE, equal, settle, start_thread, status

UNKNOWN = "00000000000000ff"


# ---- 7: all or nothing ----


class Model:
    """What was acknowledged: name → (volume id, node or None). What was asked and not answered may be either way."""

    def __init__(self, cluster, prefix):
        self.cluster, self.prefix = cluster, prefix
        self.volumes, self.open = {}, None  # open: (name, the states that it may be in)

    def step(self, csi, choice):
        """One call at random; what it did is known when it answers."""
        name = f"{self.prefix}-{choice.randrange(6)}"
        volume_id, node = self.volumes.get(name, (None, None))
        if not volume_id:
            self.open = name, {"gone", "there"}
            self.volumes[name] = csi.create(name, parameters={"zone": "z1"}, timeout_s=10).volume_id, None
        elif node:
            self.open = name, {"attached", "there"}
            csi.ControllerUnpublishVolume(volume_id=volume_id, node_id=node, timeout_s=10)
            self.volumes[name] = volume_id, None
        elif choice.random() < 0.5:
            self.open = name, {"attached", "there"}
            csi.publish(volume_id, "n1", timeout_s=10)
            self.volumes[name] = volume_id, "n1"
        else:
            self.open = name, {"gone", "there"}
            csi.DeleteVolume(volume_id=volume_id, timeout_s=10)
            del self.volumes[name]
        self.open = None

    def check(self, server):
        """The server's list is what was acknowledged, but for the one call that was not answered."""
        listed = {volume.name: volume for volume in server.controller.ListVolumes().volumes
                  if volume.name.startswith(f"{self.prefix}-")}
        equal([volume.unreadable for volume in listed.values() if volume.unreadable], [], "unreadable records")
        doubtful = self.open[0] if self.open else None
        for name in {*listed, *self.volumes} - {doubtful}:
            assert name in listed, f"{name} was acknowledged, and is not there"
            assert name in self.volumes, f"{name} is there, and its deletion was acknowledged"
            equal((listed[name].volume_id, [one.node_id for one in listed[name].attachments]),
                  (self.volumes[name][0], [self.volumes[name][1]] if self.volumes[name][1] else []), name)
        if doubtful:
            found = listed.get(doubtful)
            state = "gone" if not found else "attached" if found.attachments else "there"
            assert state in self.open[1], f"{doubtful} is {state}, not one of {self.open[1]}"
            self.volumes.pop(doubtful, None)
            if found:
                self.volumes[doubtful] = found.volume_id, "n1" if found.attachments else None
        self.open = None
        files = {path.name for path in (server.pool.path / "volumes").iterdir()}
        wanted = {volume.volume_id for volume in server.controller.ListVolumes().volumes}
        equal(files, wanted, "what the pool holds")
        left = [str(path) for path in server.pool.path.rglob("*.tmp")]
        equal(left, [], "what is half-made is swept at start")

    def drop(self):
        for volume_id, node in self.volumes.values():
            if node:
                settle(self.cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id=node)
            settle(self.cluster.a.csi.DeleteVolume, volume_id=volume_id)


class Records:
    """The same of records that a CSI call changes in passing or never: claims of names, a fence, generations. Asked of
    the storage server itself. key → value; `open` is the key that was asked to change, and what it may be."""

    FENCE, GENERATION = "fence", "generation"

    def __init__(self, cluster, prefix):
        self.cluster, self.server = cluster, cluster.targets[0]
        self.volume_id = cluster.create(f"steady-{prefix}").volume_id
        self.attachment = cluster.publish(self.volume_id, "n2")
        self.names = [f"{prefix}-claim-{number}" for number in range(3)]
        self.state, self.open = self.found(), None

    def found(self):
        """As the server has it. A claim is asked for with an id that nobody makes, and taken back."""
        state, probe, server = {}, f"s1.{UNKNOWN}", self.server.controller
        for name in self.names:
            holder = server.ClaimName(name=name, volume_id=probe).volume_id
            if holder == probe:
                server.ReleaseName(name=name, volume_id=probe)
            state[name] = None if holder == probe else holder
        state[self.FENCE] = any(node.fenced for node in server.ListNodes().nodes if node.node_id == "n9")
        state[self.GENERATION] = server.GetVolume(volume_id=self.volume_id).volume.attachments[0].generation
        return state

    def step(self, choice):
        key = choice.choice((*self.names, self.FENCE, self.GENERATION))
        before, options = self.state[key], {"timeout_s": 10, "wait_for_ready": False}
        if key == self.FENCE:
            after = not before
            call = self.server.operator.UnfenceNode if before else self.server.operator.FenceNode
            options["node_id"] = "n9"
        elif key == self.GENERATION:
            after, call = before + 1, self.server.node("n2").GrantGeneration
            options.update(volume_id=self.volume_id, node_id="n2", epoch=self.attachment.epoch, holding_generation=before)
        else:
            after = None if before else f"s1.{choice.getrandbits(64):016x}"
            call = self.server.controller.ReleaseName if before else self.server.controller.ClaimName
            options.update(name=key, volume_id=before or after)
        self.open = key, (before, after)
        call(**options)
        self.state[key], self.open = after, None

    def check(self):
        state = self.found()
        for key, value in state.items():
            allowed = self.open[1] if self.open and self.open[0] == key else (self.state[key],)
            assert value in allowed, f"{key} is {value}, not one of {allowed}"
        self.state, self.open = state, None

    def drop(self):
        self.server.operator.UnfenceNode(node_id="n9")
        for name in self.names:
            if self.state[name]:
                self.server.controller.ReleaseName(name=name, volume_id=self.state[name])
        settle(self.cluster.a.csi.ControllerUnpublishVolume, volume_id=self.volume_id, node_id="n2")
        settle(self.cluster.a.csi.DeleteVolume, volume_id=self.volume_id)


def interrupted(cluster, choice, rounds, prefix, interrupt):
    """Calls at random until interrupt() ends the server in the middle of one; then all is as acknowledged."""
    import grpc
    server, model, records = cluster.targets[0], Model(cluster, prefix), Records(cluster, prefix)
    for _ in range(rounds):
        ended, asked = threading.Event(), choice.random() * 0.3
        killer = threading.Timer(asked, lambda: (interrupt(server), ended.set()))
        killer.start()
        try:
            while not ended.is_set():
                if choice.random() < 0.5:
                    records.step(choice)
                else:
                    model.step((cluster.a, cluster.b)[choice.randrange(2)].csi, choice)
        except grpc.RpcError as error:
            assert error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"), error.details()
        killer.join()
        if server.disk and not server.disk.process:
            server.power_on()
        else:
            server.start()
        harness.wait_until(lambda: "OK" == harness.status_of(cluster.a.csi.ListVolumes)
                           == harness.status_of(cluster.b.csi.ListVolumes), "the controllers reach it again")
        model.check(server)
        records.check()
    model.drop()
    records.drop()


def killed(cluster, choice, rounds=12):
    """7: kill -9 of the storage server at random moments of create, delete, attach and detach."""
    interrupted(cluster, choice, rounds, "killed", lambda server: server.kill())


def power_cut(cluster, choice, rounds=6):
    """7: the same, and its host loses power: unflushed sectors are lost."""
    interrupted(cluster, choice, rounds, "cut",
                lambda server: server.cut_power(choice.randrange(1 << 31), choice.choice((0, 30, 70))))


def unreadable(cluster, _choice):
    """7: a record that cannot be read, of a newer format or torn: that volume alone is not served, and nothing of it
    is touched, claimed absent or given away; repaired, it is what it was."""
    server, csi = cluster.targets[1], cluster.a.csi
    sound, volume = cluster.create("sound", "s2"), cluster.create("unreadable", "s2")
    attachment = cluster.publish(volume.volume_id, "n1")
    free_bytes = server.operator.GetServer().free_bytes
    path = server.pool.path / "volumes" / volume.volume_id / "volume.json"
    before = path.read_text()
    try:
        for damaged in (json.dumps({**json.loads(before), "format": 99}), before[:len(before) // 2], ""):
            server.stop()
            path.write_text(damaged)
            server.start()
            for controller in (cluster.a, cluster.b):
                controller.csi.wait_for_servers()
            refused(cluster, server, volume.volume_id, attachment)
            gained = server.operator.GetServer().free_bytes - free_bytes
            assert abs(gained) < 16 * MIB, f"the space of a volume of 32 MiB is given away: {gained} bytes"
            equal(csi.ControllerGetVolume(volume_id=sound.volume_id).volume.volume_id, sound.volume_id, "the other one")
            equal(path.read_text(), damaged, "the record")
    finally:
        server.stop()
        path.write_text(before)
        server.start()
    equal(attachment.login_status(), 0, "login after the repair")
    settle(csi.ControllerUnpublishVolume, volume_id=volume.volume_id, node_id="n1")
    for volume_id in (volume.volume_id, sound.volume_id):
        settle(csi.DeleteVolume, volume_id=volume_id)


def refused(cluster, server, volume_id, attachment):
    """Every call on the volume says DATA_LOSS and names the file; its devices wait; lists have it, marked."""
    csi, words = cluster.b.csi, f"volume {volume_id}"
    status("DATA_LOSS", csi.DeleteVolume, volume_id=volume_id, contains=words)
    status("DATA_LOSS", csi.ControllerGetVolume, volume_id=volume_id, contains=words)
    status("DATA_LOSS", csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1", contains=words)
    status("DATA_LOSS", csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="", contains=words)
    status("DATA_LOSS", csi.publish, volume_id, "n2", contains=words)
    status("DATA_LOSS", csi.publish, volume_id, "n1", contains=words)
    status("DATA_LOSS", csi.create, "unreadable", size=32 * MIB, contains=words)
    status("DATA_LOSS", server.node("n1").GetAttachment, volume_id=volume_id, node_id="n1", contains=words)
    status("DATA_LOSS", server.operator.ClearWriteFailed, volume_id=volume_id, contains=words)
    equal(attachment.login_status(), UNAVAILABLE, "login while the record is unreadable")
    listed = {entry.volume.volume_id: entry.volume.volume_context.get("unreadable") for entry in csi.ListVolumes().entries}
    assert "volume.json" in listed[volume_id], listed
    equal([other for other, why in listed.items() if why and other != volume_id], [], "others that are unreadable")
    table = cluster.cli("volume", "list")
    row = next(line for line in table.stdout.splitlines() if line.startswith(volume_id))
    equal(row.split()[-1], "unreadable", "the state in mooring volume list")
    assert f"{volume_id} is unreadable: " in table.stdout, table.stdout
    shown = cluster.cli("volume", "show", "unreadable")
    assert shown.returncode == 1 and words in shown.stdout, shown


# ---- 8: idempotent ----


def one_name(cluster, _choice, rounds=15):
    """8: two controllers create one name at once, over three servers: one volume, and both come to it."""
    for number in range(rounds):
        name = f"one-{number}"
        calls = [start_thread(settled_create, csi, name) for csi in (cluster.a.csi, cluster.b.csi) * 2]
        ids = {call.result() for call in calls}
        equal(len(ids), 1, f"volume ids of {name}: {ids}")
        equal([volume.volume_id for volume in cluster.volumes() if volume.name == name], list(ids), name)
        deletes = [start_thread(settle, csi.DeleteVolume, volume_id=next(iter(ids)))
                   for csi in (cluster.a.csi, cluster.b.csi)]
        for delete in deletes:
            delete.result()
        equal([volume.name for volume in cluster.volumes() if volume.name == name], [], "after both deletes")


def settled_create(csi, name):
    return settle(csi.create, name).volume_id


def second_call_aborted(cluster, _choice):
    """8: while one operation of a volume is under way, a concurrent one is ABORTED, through either controller."""
    target = cluster.targets[0]
    volume_id = cluster.create("busy").volume_id
    attachment = cluster.publish(volume_id, "n1")
    attachment.grant()
    with attachment.login() as session:
        equal(session.wait(session.write(0, b"1" * 4096))[0], 0, "write")
        target.disk.command("hold 3000")
        session.write(0, b"2" * 4096)
        harness.wait_until(target.disk.held, "the disk holds the write")
        first = start_thread(harness.status_of, cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
        harness.wait_until(lambda: target.record(volume_id)["attachments"][0]["removing"], "the removal has begun")
        second = harness.status_of(cluster.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1", timeout_s=2)
        other = harness.status_of(cluster.a.csi.publish, volume_id, "n1", timeout_s=2)
        assert target.disk.held(), "the machine is too slow: the write ended meanwhile"
    equal(second, "ABORTED", "the same call at once")
    equal(other, "ABORTED", "another call of the volume at once")
    equal(first.result(), "OK", "the first call")
    settle(cluster.a.csi.DeleteVolume, volume_id=volume_id)


def repeats(cluster, _choice):
    """8: every RPC again, through the other controller: the same outcome."""
    a, b = cluster.a.csi, cluster.b.csi

    def both(call, *arguments, **fields):
        codes = [harness.status_of(getattr(csi, call), *arguments, **fields) for csi in (a, b)]
        equal(codes, ["OK", "OK"], f"{call}, and again")
        answers = [getattr(csi, call)(*arguments, **fields) for csi in (a, b, a)]
        assert answers[0] == answers[1] == answers[2], f"{call}: {answers}"
        return answers[0]

    volume_id = both("create", "again", size=2 * MIB).volume_id
    status("ALREADY_EXISTS", b.create, "again", size=4 * MIB)
    context = both("publish", volume_id, "n1").publish_context
    status("FAILED_PRECONDITION", b.publish, volume_id, "n2")
    both("ValidateVolumeCapabilities", volume_id=volume_id, volume_capabilities=[a.capability()])
    both("ControllerGetVolume", volume_id=volume_id)
    both("ListVolumes")
    status("FAILED_PRECONDITION", b.DeleteVolume, volume_id=volume_id)
    both("ControllerUnpublishVolume", volume_id=volume_id, node_id="n1")
    again = both("publish", volume_id, "n1").publish_context
    assert int(again["epoch"]) > int(context["epoch"]), "the epoch grows"
    both("ControllerUnpublishVolume", volume_id=volume_id, node_id="n1")
    both("DeleteVolume", volume_id=volume_id)
    status("NOT_FOUND", b.ControllerGetVolume, volume_id=volume_id)
    boot_id = cluster.register("again")
    for _ in range(2):
        for target in cluster.targets:
            target.node("again").RegisterNode(node_id="again", boot_id=boot_id, address="test")
        equal(cluster.cli("node", "fence", "again").returncode, 0, "fence")
    for _ in range(2):
        equal(cluster.cli("node", "unfence", "again").returncode, 0, "unfence")


# ---- 9: absence is proven ----


def unavailable(cluster, server_id, volume_id):
    """Every claim of absence that would need this server is UNAVAILABLE, through both controllers and the CLI."""
    for csi in (cluster.a.csi, cluster.b.csi):
        for one in (volume_id, f"{server_id}.{UNKNOWN}"):
            status("UNAVAILABLE", csi.DeleteVolume, volume_id=one, contains=server_id)
            status("UNAVAILABLE", csi.ControllerGetVolume, volume_id=one, contains=server_id)
            status("UNAVAILABLE", csi.ControllerUnpublishVolume, volume_id=one, node_id="n1", contains=server_id)
        status("UNAVAILABLE", csi.ListVolumes)
    equal(cluster.cli("volume", "show", f"{server_id}.{UNKNOWN}").returncode, 4, "exit status of mooring volume show")
    equal(cluster.cli("volume", "delete", f"{server_id}.{UNKNOWN}").returncode, 4, "exit status of mooring volume delete")


def back(cluster, volume_id):
    for csi in (cluster.a.csi, cluster.b.csi):
        harness.wait_until(lambda csi=csi: harness.status_of(csi.ControllerGetVolume, volume_id=volume_id) == "OK",
                           "the volume is there again")
        status("OK", csi.DeleteVolume, volume_id=f"{volume_id.split('.')[0]}.{UNKNOWN}")
        status("OK", csi.ListVolumes)


def server_down(cluster, _choice):
    """9: a server is down."""
    volume_id = cluster.create("down", "s2").volume_id
    cluster.targets[1].kill()
    unavailable(cluster, "s2", volume_id)
    cluster.targets[1].start()
    back(cluster, volume_id)
    settle(cluster.a.csi.DeleteVolume, volume_id=volume_id)


def unmounted_pool(cluster, _choice):
    """9: a server whose pool is not mounted refuses to serve, and says what to do; nothing is absent meanwhile."""
    server = cluster.targets[1]
    volume_id = cluster.create("unmounted", "s2").volume_id
    server.stop()
    server.pool.unmount()
    mark = len(server.log_text())
    server.start(wait=False)
    harness.wait_until(lambda: "mount" in server.log_text()[mark:] or server.process.poll() is not None, "it says so")
    said = server.log_text()[mark:]
    assert "mount" in said and str(server.pool.path) in said, f"no remedy: {said}"
    unavailable(cluster, "s2", volume_id)
    equal(os.listdir(server.pool.path), [], "what the refused server wrote below the mount point")
    harness.end_process(server.process)
    harness.run("mount", "-o", "loop", server.pool.image, server.pool.path)
    server.start()
    back(cluster, volume_id)
    settle(cluster.a.csi.DeleteVolume, volume_id=volume_id)


def other_pool(cluster, _choice):
    """9: another pool than the configuration names by UUID: refused by the server, and by controllers."""
    server = cluster.targets[1]
    volume_id = cluster.create("other", "s2").volume_id
    server.stop()
    right = server.config["pool_uuid"]
    server.config["pool_uuid"] = wrong = "00000000-0000-4000-8000-000000000000"
    mark = len(server.log_text())
    server.start(wait=False)
    harness.wait_until(lambda: right in server.log_text()[mark:] or server.process.poll() is not None, "it says so")
    said = server.log_text()[mark:]
    assert right in said and wrong in said, said
    unavailable(cluster, "s2", volume_id)
    harness.end_process(server.process)
    server.config["pool_uuid"] = right
    server.start()
    back(cluster, volume_id)
    for controller in (cluster.a, cluster.b):
        controller.restart(servers=[{**one, "pool_uuid": wrong} if one["id"] == "s2" else one
                                    for one in cluster.servers()])
    unavailable(cluster, "s2", volume_id)
    for controller in (cluster.a, cluster.b):
        controller.restart(servers=cluster.servers())
    back(cluster, volume_id)
    settle(cluster.a.csi.DeleteVolume, volume_id=volume_id)


def declared_gone(cluster, _choice):
    """9: what is on a server that an operator declared gone is absent; until then it is UNAVAILABLE."""
    volume_id = cluster.create("gone", "s3").volume_id
    cluster.targets[2].kill()
    unavailable(cluster, "s3", volume_id)
    for controller in (cluster.a, cluster.b):
        controller.restart(servers=cluster.servers(gone={"s3"}))
        status("NOT_FOUND", controller.csi.ControllerGetVolume, volume_id=volume_id, wait_for_ready=True)
        status("OK", controller.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="n1")
        harness.wait_until(lambda csi=controller.csi: harness.status_of(csi.ListVolumes) == "OK", "the list")
    cluster.targets[2].start()
    for controller in (cluster.a, cluster.b):
        controller.restart(servers=cluster.servers())
    back(cluster, volume_id)
    settle(cluster.a.csi.DeleteVolume, volume_id=volume_id)


def make(scratch):
    cluster = clusters.Cluster(scratch, disks=("s1",))
    for node in ("n1", "n2"):
        cluster.register(node)
    return cluster


TESTS = (("7-killed", killed), ("7-power-cut", power_cut), ("7-unreadable", unreadable), ("8-one-name", one_name),
         ("8-second-call", second_call_aborted), ("8-repeats", repeats), ("9-server-down", server_down),
         ("9-unmounted-pool", unmounted_pool), ("9-other-pool", other_pool), ("9-declared-gone", declared_gone))

if __name__ == "__main__":
    sys.exit(clusters.main(TESTS, make))
