#!/usr/bin/python3
"""Two controllers over three storage servers when things go wrong: invariants 2, 3, 8 and 9 as far as they are the
controller's. Servers are killed and started again, pools unmounted and swapped, names fought over."""
import random
import signal
import sys
import threading
import time

import controller_stack
import harness
from controller_stack import MIB, equal, settle, status
from node_fixture import Background


def volumes_named(stack, name):
    return [volume for target in stack.targets for volume in stack.volumes(target) if volume.name == name]


def test_two_controllers(stack):
    """The same names from both at once, and deletes in between: never two volumes of one name."""
    seed = harness.seed()
    failures = []

    def client(csi, choice):
        try:
            for _ in range(12):
                name = f"race-{choice.randrange(3)}"
                volume = settle(csi.create, name)
                if choice.random() < 0.3:
                    settle(csi.DeleteVolume, volume_id=volume.volume_id)
        except Exception as why:  # pylint: disable=broad-except
            failures.append(why)

    threads = [threading.Thread(target=client, args=(csi, random.Random(seed + i)))
               for i, csi in enumerate((stack.a.csi, stack.b.csi, stack.a.csi, stack.b.csi))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    for name in ("race-0", "race-1", "race-2"):
        first = settle(stack.a.csi.create, name)
        equal(settle(stack.b.csi.create, name).volume_id, first.volume_id, "one volume for both")
        equal(len(volumes_named(stack, name)), 1, name)
        equal({stack.claim_of(target, name) for target in stack.targets}, {first.volume_id}, "the claims")
        settle(stack.a.csi.DeleteVolume, volume_id=first.volume_id)


def test_controller_killed(stack):
    """kill -9 in the middle of CreateVolume: a retry by the other controller comes to one volume."""
    choice = random.Random(harness.seed())
    for i in range(8):
        name = f"killed-{i}"
        call = threading.Thread(target=harness.status_of, args=(stack.a.csi.create, name))
        call.start()
        time.sleep(choice.random() * 0.05)  # anywhere in the call; which place decides nothing
        stack.a.kill()
        call.join()
        volume_id = settle(stack.b.csi.create, name).volume_id
        equal([volume.volume_id for volume in volumes_named(stack, name)], [volume_id], name)
        equal({stack.claim_of(target, name) for target in stack.targets}, {volume_id}, "the claims")
        stack.a.start()
        settle(stack.a.csi.DeleteVolume, volume_id=volume_id)


def test_server_away(stack):
    """Nothing that needs an unreachable server is OK or NOT_FOUND."""
    csi = stack.a.csi
    victim = stack.targets[2]
    volume_id = csi.create("away", parameters={"zone": "c"}).volume_id
    csi.publish(volume_id, "node-a")
    victim.kill()
    missing = "s3.00000000000000ff"
    for some_id in (volume_id, missing):
        status("UNAVAILABLE", csi.DeleteVolume, volume_id=some_id, contains="s3")
        status("UNAVAILABLE", csi.ControllerUnpublishVolume, volume_id=some_id, node_id="node-a", contains="s3")
        status("UNAVAILABLE", csi.publish, some_id, "node-b", contains="s3")
        status("UNAVAILABLE", csi.ControllerGetVolume, volume_id=some_id, contains="s3")
        status("UNAVAILABLE", csi.ValidateVolumeCapabilities, volume_id=some_id,
               volume_capabilities=[csi.capability()])
    status("UNAVAILABLE", csi.ListVolumes)
    status("UNAVAILABLE", csi.GetCapacity)
    status("UNAVAILABLE", csi.create, "x")
    equal(csi.Probe().ready.value, True, "the others answer")
    victim.start()
    settle(csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="node-a")
    settle(csi.DeleteVolume, volume_id=volume_id)
    status("OK", settle, csi.ListVolumes)


def test_delete_cut_off(stack):
    """The first server is away when a volume is deleted: its claim is left there, and no new volume gets the old one's id."""
    csi = stack.a.csi
    volume_id = settle(csi.create, "cut-off", parameters={"zone": "c"}).volume_id
    stack.targets[0].kill()
    status("UNAVAILABLE", csi.DeleteVolume, volume_id=volume_id, contains="s1")
    stack.targets[0].start()
    equal(stack.claim_of(stack.targets[0], "cut-off"), volume_id, "the claim that is left")
    other_id = settle(csi.create, "cut-off", parameters={"zone": "c"}).volume_id
    assert other_id != volume_id, f"{volume_id} is there again"
    settle(csi.DeleteVolume, volume_id=volume_id)
    equal([volume.volume_id for volume in volumes_named(stack, "cut-off")], [other_id], "the new one")
    equal({stack.claim_of(target, "cut-off") for target in stack.targets}, {other_id}, "the claims")
    settle(csi.DeleteVolume, volume_id=other_id)


def test_server_hangs(stack):
    """A server that is stopped, not gone, holds the calls for its own volumes, more than a CO has at a time; those for
    another's are answered meanwhile."""
    csi = stack.a.csi
    other = settle(csi.create, "answered", parameters={"zone": "a"}).volume_id
    victim = stack.targets[2]
    victim.process.send_signal(signal.SIGSTOP)
    try:
        held = [Background(csi.ControllerGetVolume, volume_id=f"s3.{number:016x}", timeout_s=60) for number in range(24)]
        time.sleep(0.5)  # so that they stand before the next ones
        for _ in range(3):
            status("OK", csi.ControllerGetVolume, volume_id=other, timeout_s=10)
        assert any(call.running() for call in held), "nothing was held"
    finally:
        victim.process.send_signal(signal.SIGCONT)
    for call in held:
        assert call.status() in ("NOT_FOUND", "UNAVAILABLE"), call.status()
    status("OK", settle, csi.DeleteVolume, volume_id=other)


def disk_held_calls(csi, volumes, thawed):
    """Calls that the disk of these volumes keeps, more than there are places; at it again when they are refused, as a CO is."""
    def remove(volume_id):
        while harness.status_of(csi.DeleteVolume, volume_id=volume_id, timeout_s=120) == "UNAVAILABLE":
            if thawed.wait(0.5):
                return

    held = [Background(csi.CreateSnapshot, source_volume_id=volumes.pop(), name=f"held-{i}", timeout_s=120) for i in range(16)]
    held += [Background(csi.CreateVolumeGroupSnapshot, source_volume_ids=[volumes.pop()], name=f"held-{i}", timeout_s=120)
             for i in range(4)]
    return held + [Background(remove, volume_id) for volume_id in volumes]


def refused_for_places(call, *arguments, **fields):
    """A call that needs s1, among others: while that has places left, it waits there like the rest."""
    try:
        call(*arguments, timeout_s=5, **fields)
    except Exception as why:
        return "storage server s1" in why.details() and "calls waiting for it already" in why.details()
    raise AssertionError("it was done without s1")


def remove_all(csi, volumes):
    for one in [entry.snapshot for entry in csi.ListSnapshots().entries]:
        if one.group_snapshot_id:
            settle(csi.DeleteVolumeGroupSnapshot, group_snapshot_id=one.group_snapshot_id, snapshot_ids=[one.snapshot_id])
        else:
            settle(csi.DeleteSnapshot, snapshot_id=one.snapshot_id)
    for volume_id in volumes:
        settle(csi.DeleteVolume, volume_id=volume_id)


def test_disk_hangs(stack):
    """A server whose disk hangs, while it answers what it knows by heart, holds its share of calls and no more: what asks the
    others is carried out meanwhile, and what needs this one is told so."""
    csi, frozen, thawed = stack.a.csi, stack.targets[0].pool.path, threading.Event()
    before = len(csi.ListVolumes().entries)
    other = settle(csi.create, "beside", parameters={"zone": "b"}).volume_id
    beside = settle(csi.create, "beside-too", parameters={"zone": "b"}).volume_id
    made = [Background(lambda name=f"kept-{i}": settle(csi.create, name, parameters={"zone": "a"})) for i in range(130)]
    equal({call.status() for call in made}, {"OK"}, "the volumes")
    volumes, held = [volume.volume_id for volume in stack.volumes(stack.targets[0])], []
    harness.run("/usr/sbin/fsfreeze", "--freeze", frozen)
    try:
        held = disk_held_calls(csi, list(volumes), thawed)
        # A name is claimed on every server, and its claims are released there.
        harness.wait_until(lambda: refused_for_places(csi.create, "needs-all", parameters={"zone": "b"}), "a creation is refused")
        harness.wait_until(lambda: refused_for_places(csi.DeleteVolume, volume_id=beside), "a deletion is refused")
        for _ in range(2):
            status("OK", csi.publish, other, "node-a")
            status("OK", csi.ControllerUnpublishVolume, volume_id=other, node_id="node-a")
        status("OK", csi.ControllerExpandVolume, volume_id=other, capacity_range={"required_bytes": 2 * MIB})
        status("OK", csi.ControllerGetVolume, volume_id=other)
        equal(len(csi.ListVolumes().entries), before + 131, "the volumes that are there")
        status("OK", csi.GetCapacity)
        status("OK", csi.ListSnapshots)
        status("NOT_FOUND", csi.GetSnapshot, snapshot_id=f"s2.s-{0:016x}")
        status("NOT_FOUND", csi.GetVolumeGroupSnapshot, group_snapshot_id=f"g-{0:016x}", snapshot_ids=[f"s2.s-{0:016x}"])
        equal(csi.Probe().ready.value, True, "readiness")
        assert any(call.running() for call in held), "the disk held nothing"
    finally:
        harness.run("/usr/sbin/fsfreeze", "--unfreeze", frozen)
        thawed.set()
    for call in held:
        call.status()
    remove_all(csi, [*volumes, other, beside, settle(csi.create, "needs-all", parameters={"zone": "b"}).volume_id])


def scattered_snapshot(stack, name, zone):
    """A snapshot whose ranges are more than the buffers on their way to a reader take."""
    volume_id = settle(stack.a.csi.create, name, size=64 * MIB, parameters={"zone": zone}).volume_id
    settle(stack.a.csi.publish, volume_id, "node-a")
    session = stack.session(volume_id, "node-a")
    for start in range(0, 8000, 64):
        for tag in [session.write(2 * (start + i), bytes([i + 1]) * 4096) for i in range(64)]:
            equal(session.wait(tag)[0], 0, "a write's status")
    session.close()
    settle(stack.a.csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="node-a")
    return volume_id, settle(stack.a.csi.CreateSnapshot, source_volume_id=volume_id, name=name).snapshot.snapshot_id


def test_slow_readers(stack):
    """Readers of one server's snapshots that take nothing hold its share of the streams, and leave those of others."""
    import grpc
    csi = stack.a.csi
    made = [scattered_snapshot(stack, f"read-{zone}", zone) for zone in "ab"]
    (_, slow), (_, other) = made
    for _, snapshot_id in made:
        harness.wait_until(lambda one=snapshot_id: csi.GetSnapshot(snapshot_id=one).snapshot.ready_to_use,
                           "the snapshot is ready")
    whole = sum(len(answer.block_metadata) for answer in csi.GetMetadataAllocated(snapshot_id=slow))
    assert whole > 7900, f"{whole} ranges"
    messages = csi.messages
    with grpc.insecure_channel(stack.a.endpoint, [("grpc.http2.lookahead_bytes", 1024)]) as channel:
        ask = channel.unary_stream("/csi.v1.SnapshotMetadata/GetMetadataAllocated",
                                   request_serializer=messages.GetMetadataAllocatedRequest.SerializeToString,
                                   response_deserializer=messages.GetMetadataAllocatedResponse.FromString)
        readers = [ask(messages.GetMetadataAllocatedRequest(snapshot_id=slow, max_results=1)) for _ in range(4)]
        for reader in readers:
            next(reader)  # so that it stands
        status("UNAVAILABLE", csi.GetMetadataAllocated, snapshot_id=slow, contains="storage server s1")
        assert len(csi.GetMetadataAllocated(snapshot_id=other, max_results=1)) == whole, "the other server's ranges"
        assert all(reader.is_active() for reader in readers), "a reader has ended"
        equal(len(list(readers[0])), whole - 1, "what a reader gets that goes on")
        settle(csi.GetMetadataAllocated, snapshot_id=slow)
        for reader in readers:
            reader.cancel()
    for volume_id, snapshot_id in made:
        settle(csi.DeleteSnapshot, snapshot_id=snapshot_id)
        settle(csi.DeleteVolume, volume_id=volume_id)


def test_declared_gone(stack):
    csi = stack.a.csi
    volume_id = settle(csi.create, "gone", parameters={"zone": "c"}).volume_id
    stack.targets[2].kill()
    stack.a.restart(servers=stack.servers(gone={"s3"}))
    status("NOT_FOUND", csi.ControllerGetVolume, volume_id=volume_id, wait_for_ready=True)
    status("OK", csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="node-a")
    status("OK", csi.ListVolumes)
    replacement = settle(csi.create, "gone").volume_id
    assert replacement.split(".")[0] in ("s1", "s2"), replacement
    settle(csi.DeleteVolume, volume_id=replacement)
    status("OK", csi.DeleteVolume, volume_id=volume_id)
    stack.targets[2].start()
    stack.a.restart(servers=stack.servers())
    settle(stack.a.csi.DeleteVolume, volume_id=volume_id)


def test_wrong_pool(stack):
    """A server that answers with another pool than configured proves nothing, and is named."""
    csi = stack.a.csi
    volume_id = settle(csi.create, "wrong", parameters={"zone": "c"}).volume_id
    servers = stack.servers()
    servers[2]["pool_uuid"] = "00000000-0000-4000-8000-000000000000"
    stack.a.restart(servers=servers)
    for call, fields in ((csi.DeleteVolume, {}), (csi.ControllerGetVolume, {}),
                         (csi.ControllerUnpublishVolume, {"node_id": "node-a"})):
        status("UNAVAILABLE", call, volume_id=volume_id, contains=stack.targets[2].pool.uuid, wait_for_ready=True,
               **fields)
        status("UNAVAILABLE", call, volume_id="s3.00000000000000ff", contains="s3", **fields)
    status("UNAVAILABLE", csi.create, "x")
    status("UNAVAILABLE", csi.ListVolumes)
    stack.a.restart(servers=stack.servers())
    settle(csi.DeleteVolume, volume_id=volume_id)


def test_other_server_at_address(stack):
    csi = stack.a.csi
    servers = stack.servers()
    servers[2]["address"] = servers[1]["address"]
    stack.a.restart(servers=servers)
    status("UNAVAILABLE", csi.ControllerGetVolume, volume_id="s3.00000000000000ff", contains="s3", wait_for_ready=True)
    stack.a.restart(servers=stack.servers())


def test_unconfigured_server(stack):
    csi = stack.a.csi
    status("UNAVAILABLE", csi.DeleteVolume, volume_id="s9.00000000000000ff", contains="s9")
    status("UNAVAILABLE", csi.ControllerUnpublishVolume, volume_id="s9.00000000000000ff", contains="s9")


def test_fenced(stack):
    csi = stack.a.csi
    boot_id = stack.register("node-f")
    volume_id = settle(csi.create, "fenced").volume_id
    csi.publish(volume_id, "node-f")
    for target in stack.targets:
        target.operator.FenceNode(node_id="node-f", reason="test", boot_ids=[boot_id])
    equal(list(csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), [], "detached by the fence")
    status("FAILED_PRECONDITION", csi.publish, volume_id, "node-f", contains="node-f")
    csi.publish(volume_id, "node-a")
    csi.ControllerUnpublishVolume(volume_id=volume_id)
    for target in stack.targets:
        target.operator.UnfenceNode(node_id="node-f")
    csi.publish(volume_id, "node-f")
    csi.ControllerUnpublishVolume(volume_id=volume_id)
    settle(csi.DeleteVolume, volume_id=volume_id)


def test_claims_survive_crash(stack):
    """The servers killed after a create: the same volume afterwards, and its claims; Probe tells when they are away."""
    csi = stack.a.csi
    volume_id = settle(csi.create, "durable", size=2 * MIB).volume_id
    for target in stack.targets:
        target.kill()
    harness.wait_until(lambda: not csi.Probe().ready.value, "the controller is not ready: nobody answers it")
    for target in stack.targets:
        target.start()
    harness.wait_until(lambda: csi.Probe().ready.value, "the controller is ready again")
    equal(settle(csi.create, "durable", size=2 * MIB).volume_id, volume_id, "the same volume")
    settle(csi.DeleteVolume, volume_id=volume_id)


def test_bad_configuration(stack):
    folder = stack.scratch.path
    good = {"endpoint": f"unix://{folder}/x.sock", "servers": stack.servers(),
            "tls": stack.tls.config("mooring:controller")}
    cases = [({**good, "extra": 1}, "extra"), ({**good, "endpoint": "127.0.0.1:1"}, "unix socket"),
             ({**good, "servers": "s1"}, "servers"), ({**good, "log_level": "loud"}, "log_level"),
             ({"servers": stack.servers()}, "tls"), ({**good, "servers": good["servers"] * 2}, "two servers")]
    for config, words in cases:
        path = folder / "bad.json"
        path.write_text(controller_stack.json.dumps(config))
        done = harness.run(harness.program("mooring-controller"), "--config", path, check=False)
        equal(done.returncode, 2, f"{words}: {done.stdout}")
        assert words in done.stdout, f"{done.stdout!r} does not name {words!r}"
    taken = folder / "taken.json"
    taken.write_text(controller_stack.json.dumps({**good, "endpoint": stack.a.endpoint}))
    done = harness.run(harness.program("mooring-controller"), "--config", taken, check=False)
    equal(done.returncode, 1, done.stdout)
    status("OK", stack.a.csi.GetPluginInfo)


def test_certificates_renewed(stack):
    """Certificates that expire are replaced while the programs run: new connections are made with the new ones."""
    target, csi, valid_s = stack.targets[0], stack.a.csi, 4
    server, controller = ("mooring:server:s1", ["s1", "localhost"]), ("mooring:controller", ())

    def newcomer():
        client = harness.Storage(stack.scratch, stack.tls, target.address, "mooring:operator", "s1")
        return harness.status_of(client.GetServer, wait_for_ready=False)

    volume_id = settle(csi.create, "renewed", parameters={"zone": "a"}).volume_id
    for name, dns in (server, controller):
        stack.tls.renew(name, dns, valid_s)
    expired = time.monotonic() + valid_s + 1.5  # what a certificate says is in whole seconds
    equal(newcomer(), "OK", "before it expires")
    status("OK", csi.ControllerGetVolume, volume_id=volume_id)
    time.sleep(max(0, expired - time.monotonic()))
    equal(newcomer(), "UNAVAILABLE", "a new connection to a server whose certificate has expired")
    status("OK", csi.ControllerGetVolume, volume_id=volume_id)  # on a connection that stands
    stack.tls.renew(*server, 3600)
    equal(newcomer(), "OK", "after the server's renewal")
    target.kill()
    target.start(wait=False)
    harness.wait_until(lambda: newcomer() == "OK", "the server is back")
    status("UNAVAILABLE", csi.ControllerGetVolume, volume_id=volume_id, contains="certificate")
    stack.tls.renew(*controller, 3600)
    settle(csi.ControllerGetVolume, volume_id=volume_id)
    settle(csi.DeleteVolume, volume_id=volume_id)


TESTS = [test_two_controllers, test_controller_killed, test_server_away, test_delete_cut_off, test_server_hangs,
         test_disk_hangs, test_slow_readers,
         test_declared_gone, test_wrong_pool, test_other_server_at_address, test_unconfigured_server, test_fenced,
         test_claims_survive_crash, test_bad_configuration, test_certificates_renewed]


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = controller_stack.Stack(scratch, topologies=[{"zone": "a"}, {"zone": "b"}, {"zone": "c"}])
        except harness.Skip as why:
            for test in TESTS:
                print(f"SKIP controller_faults.{test.__name__[5:]}: {why}")
            return 0
        for node in ("node-a", "node-b"):
            stack.register(node)
        for test in TESTS:
            suite.run(f"controller_faults.{test.__name__[5:]}", test, stack)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
