#!/usr/bin/python3
"""Volumes that grow, whose limits change, and whose health is asked for, as a CO does it: CSI's calls and each row of
their error tables, over real storage servers (root is needed for their pools)."""
import sys

import controller_stack
from controller_stack import MIB, equal, needs, status

MISSING = "s1.00000000000000ff"


# ---- ControllerExpandVolume ----


def expand(csi, volume_id, required=0, limit=0, **fields):
    return csi.ControllerExpandVolume(volume_id=volume_id, capacity_range={
        "required_bytes": required, "limit_bytes": limit}, **fields)


def test_expand_refused(stack):
    csi = stack.a.csi
    volume_id = csi.create("expand-refused", size=4 * MIB, parameters={"fsType": "xfs", "provisioning": "thin"}).volume_id
    status("INVALID_ARGUMENT", expand, csi, "", MIB, contains="volume_id")
    status("INVALID_ARGUMENT", csi.ControllerExpandVolume, volume_id=volume_id, contains="capacity_range")
    status("INVALID_ARGUMENT", expand, csi, volume_id)
    status("INVALID_ARGUMENT", expand, csi, volume_id, 5 * MIB,
           volume_capability=csi.capability("MULTI_NODE_MULTI_WRITER", block=False))
    status("INVALID_ARGUMENT", expand, csi, volume_id, 5 * MIB, contains="xfs",
           volume_capability=csi.capability(block=False, fs_type="ext4"))
    status("NOT_FOUND", expand, csi, MISSING, MIB)
    status("NOT_FOUND", expand, csi, "not-ours", MIB)
    status("OUT_OF_RANGE", expand, csi, volume_id, -1)
    status("OUT_OF_RANGE", expand, csi, volume_id, MIB, 2 * MIB)
    status("OUT_OF_RANGE", expand, csi, volume_id, 4 * MIB + 1, 5 * MIB - 1)
    status("OUT_OF_RANGE", expand, csi, volume_id, (1 << 63) - 1)
    equal(csi.ControllerGetVolume(volume_id=volume_id).volume.capacity_bytes, 4 * MIB, "the size")


def test_expand_enough(stack):
    """What is large enough needs nobody to grow it."""
    csi = stack.a.csi
    volume_id = csi.create("expand-enough", size=4 * MIB).volume_id
    for answer in (expand(csi, volume_id, 4 * MIB), expand(csi, volume_id, MIB, 4 * MIB),
                   expand(csi, volume_id, 0, 8 * MIB)):
        equal((answer.capacity_bytes, answer.node_expansion_required), (4 * MIB, True), "the answer")


def test_expand(stack):
    needs(stack, "expand")
    csi = stack.a.csi
    for block in (True, False):
        volume_id = csi.create(f"expand-{block}", size=4 * MIB).volume_id
        csi.publish(volume_id, "node-a")  # ONLINE
        answer = expand(csi, volume_id, 5 * MIB + 1, volume_capability=csi.capability(block=block))
        equal((answer.capacity_bytes, answer.node_expansion_required), (6 * MIB, True), "rounded as CreateVolume's")
        equal(expand(stack.b.csi, volume_id, 5 * MIB + 1).capacity_bytes, 6 * MIB, "a repeat")
        equal(csi.ControllerGetVolume(volume_id=volume_id).volume.capacity_bytes, 6 * MIB, "the size")
        csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="node-a")
        equal(expand(csi, volume_id, 7 * MIB).capacity_bytes, 7 * MIB, "OFFLINE")
        equal(csi.publish(volume_id, "node-a").publish_context["sizeBytes"], str(7 * MIB), "published with its size")
        csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="node-a")


def test_expand_no_space(stack):
    needs(stack, "expand")
    csi = stack.a.csi
    volume_id = csi.create("expand-no-space").volume_id
    status("RESOURCE_EXHAUSTED", expand, csi, volume_id, 1 << 40)
    equal(csi.ControllerGetVolume(volume_id=volume_id).volume.capacity_bytes, MIB, "the size")


# ---- ControllerModifyVolume, mutable_parameters ----


def limits_of(stack, volume_id):
    limits = stack.target_of(volume_id).controller.GetVolume(volume_id=volume_id).volume.limits
    return limits.iops, limits.bytes_per_s, limits.burst_s


def modify(csi, volume_id, **parameters):
    return csi.ControllerModifyVolume(volume_id=volume_id, mutable_parameters=parameters)


def test_modify_refused(stack):
    csi = stack.a.csi
    volume_id = csi.create("modify-refused").volume_id
    status("INVALID_ARGUMENT", modify, csi, "", iopsLimit="100", contains="volume_id")
    status("INVALID_ARGUMENT", modify, csi, volume_id, contains="mutable_parameters")
    status("INVALID_ARGUMENT", modify, csi, volume_id, iops="100", contains='"iops"')
    status("INVALID_ARGUMENT", modify, csi, volume_id, fsType="xfs", contains='"fsType"')
    for key, value in (("iopsLimit", "9"), ("iopsLimit", "many"), ("bandwidthLimit", "1000"),
                       ("bandwidthLimit", "20MB"), ("burstSeconds", "3601"), ("burstSeconds", "-1")):
        status("INVALID_ARGUMENT", modify, csi, volume_id, **{key: value}, contains=f'"{value}"')
    status("INVALID_ARGUMENT", modify, csi, volume_id, iopsLimit="1" * 5000, contains="mutable_parameters")
    status("NOT_FOUND", modify, csi, MISSING, iopsLimit="100")
    status("NOT_FOUND", modify, csi, "not-ours", iopsLimit="100")
    status("INVALID_ARGUMENT", csi.create, "x", mutable_parameters={"iopsLimit": "1"}, contains="iopsLimit")
    status("INVALID_ARGUMENT", csi.create, "x", parameters={"burstSeconds": "x"}, contains="burstSeconds")


def test_modify(stack):
    needs(stack, "limits")
    csi = stack.a.csi
    volume_id = csi.create("modify").volume_id
    equal(limits_of(stack, volume_id), (0, 0, 0), "unlimited")
    modify(csi, volume_id, iopsLimit="500", burstSeconds="3")
    equal(limits_of(stack, volume_id), (500, 0, 3), "set")
    modify(csi, volume_id, iopsLimit="500", burstSeconds="3")
    modify(stack.b.csi, volume_id, bandwidthLimit="20MiB")
    equal(limits_of(stack, volume_id), (500, 20 * MIB, 3), "what is not named stays")
    csi.publish(volume_id, "node-a")
    modify(csi, volume_id, iopsLimit="0", bandwidthLimit="0")
    equal(limits_of(stack, volume_id)[:2], (0, 0), "lifted, while it is in use")
    csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="node-a")


def test_create_limited(stack):
    needs(stack, "limits")
    csi = stack.a.csi
    wanted = {"parameters": {"iopsLimit": "100", "bandwidthLimit": "10MiB"}, "mutable_parameters": {"iopsLimit": "200"}}
    volume_id = csi.create("limited", **wanted).volume_id
    equal(limits_of(stack, volume_id), (200, 10 * MIB, 0), "mutable_parameters take precedence")
    equal(csi.create("limited", **wanted).volume_id, volume_id, "a repeat")
    burst = csi.create("burst", parameters={"burstSeconds": "5"}).volume_id
    equal(csi.create("burst", parameters={"burstSeconds": "5"}).volume_id, burst, "a repeat with a burst of nothing")
    status("ALREADY_EXISTS", csi.create, "limited", parameters={"iopsLimit": "100"}, contains="iopsLimit")
    good = {"volume_id": volume_id, "volume_capabilities": [csi.capability()]}
    answer = csi.ValidateVolumeCapabilities(**good, mutable_parameters={"iopsLimit": "200"})
    equal(dict(answer.confirmed.mutable_parameters), {"iopsLimit": "200"}, "confirmed")
    answer = csi.ValidateVolumeCapabilities(**good, mutable_parameters={"iopsLimit": "300"})
    equal(answer.HasField("confirmed"), False, "another limit")


# ---- health ----


def test_health(stack):
    csi = stack.a.csi
    volume_id = csi.create("health").volume_id
    status("INVALID_ARGUMENT", csi.ControllerGetVolumeHealth, contains="volume_id")
    status("NOT_FOUND", csi.ControllerGetVolumeHealth, volume_id=MISSING)
    status("NOT_FOUND", csi.ControllerGetVolumeHealth, volume_id="not-ours")
    health = csi.ControllerGetVolumeHealth(volume_id=volume_id).volume_health
    equal((health.volume_id, len(health.health_statuses)), (volume_id, 0), "well")
    status("INVALID_ARGUMENT", csi.ControllerListVolumeHealth, max_entries=-1)
    status("ABORTED", csi.ControllerListVolumeHealth, starting_token="wrong")
    assert volume_id not in [one.volume_id for one in csi.ControllerListVolumeHealth().entries], "nothing to say"


def test_health_unreadable(stack):
    """A record that cannot be read: said by both calls, of this volume alone."""
    csi = stack.a.csi
    kinds = csi.messages.VolumeHealthErrorType
    volume_id = csi.create("unreadable").volume_id
    target = stack.target_of(volume_id)
    target.kill()
    record = target.pool.path / "volumes" / volume_id / "volume.json"
    good = record.read_bytes()
    record.write_bytes(good[:len(good) // 2])
    target.start()
    csi.wait_for_servers()
    for health in ([csi.ControllerGetVolumeHealth(volume_id=volume_id).volume_health],
                   csi.ControllerListVolumeHealth().entries):
        equal([(one.volume_id, [(kinds.Name(each.status), each.reason) for each in one.health_statuses])
               for one in health], [(volume_id, [("DATA_LOSS", "Unreadable")])], "health")
        assert health[0].health_statuses[0].message, "words for people"
    target.kill()
    record.write_bytes(good)
    target.start()
    csi.wait_for_servers()
    equal(len(csi.ControllerListVolumeHealth().entries), 0, "well again")


def test_server_away(stack):
    csi = stack.a.csi
    victim = stack.targets[1]
    volume_id = csi.create("away", parameters={"zone": "b"}).volume_id
    victim.kill()
    status("UNAVAILABLE", expand, csi, volume_id, 2 * MIB, contains="s2")
    status("UNAVAILABLE", modify, csi, volume_id, iopsLimit="100", contains="s2")
    status("UNAVAILABLE", csi.ControllerGetVolumeHealth, volume_id=volume_id, contains="s2")
    status("UNAVAILABLE", csi.ControllerListVolumeHealth, contains="s2")
    victim.start()
    csi.wait_for_servers()


TESTS = [test_expand_refused, test_expand_enough, test_expand, test_expand_no_space, test_modify_refused, test_modify,
         test_create_limited, test_health, test_health_unreadable, test_server_away]


if __name__ == "__main__":
    sys.exit(controller_stack.main("controller_change", TESTS))
