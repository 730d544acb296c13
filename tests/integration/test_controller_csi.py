#!/usr/bin/python3
"""mooring-controller as a CO sees it: CSI's Identity and Controller services, each required field and each row of the
error tables, by Python's grpcio, over real storage servers (root is needed for their pools)."""
import re
import sys

import controller_stack
import harness
from controller_stack import MIB, equal, status

SERVED = {"CREATE_DELETE_VOLUME", "PUBLISH_UNPUBLISH_VOLUME", "LIST_VOLUMES", "LIST_VOLUMES_PUBLISHED_NODES",
          "GET_CAPACITY", "PUBLISH_READONLY", "SINGLE_NODE_MULTI_WRITER", "GET_VOLUME", "EXPAND_VOLUME",
          "MODIFY_VOLUME", "GET_VOLUME_HEALTH", "LIST_VOLUME_HEALTH", "CREATE_DELETE_SNAPSHOT", "LIST_SNAPSHOTS",
          "GET_SNAPSHOT", "CLONE_VOLUME"}
MODES = ["SINGLE_NODE_WRITER", "SINGLE_NODE_READER_ONLY", "MULTI_NODE_READER_ONLY", "MULTI_NODE_SINGLE_WRITER",
         "MULTI_NODE_MULTI_WRITER", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_MULTI_WRITER"]


# ---- Identity ----


def test_identity(stack):
    csi = stack.a.csi
    info = csi.GetPluginInfo()
    equal(info.name, "csi.mooring.storage", "name")
    assert info.vendor_version, "vendor_version"
    capabilities = csi.GetPluginCapabilities().capabilities
    kinds = csi.messages.PluginCapability
    equal({kinds.Service.Type.Name(one.service.type) for one in capabilities if one.HasField("service")},
          {"CONTROLLER_SERVICE", "VOLUME_ACCESSIBILITY_CONSTRAINTS", "GROUP_CONTROLLER_SERVICE",
           "SNAPSHOT_METADATA_SERVICE", "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS"}, "plugin capabilities")
    equal({kinds.VolumeExpansion.Type.Name(one.volume_expansion.type) for one in capabilities
           if one.HasField("volume_expansion")}, {"ONLINE", "OFFLINE"}, "volume expansion")
    equal(csi.Probe().ready.value, True, "ready")


def test_capabilities(stack):
    csi = stack.a.csi
    kinds = csi.messages.ControllerServiceCapability.RPC.Type
    equal({kinds.Name(one.rpc.type) for one in csi.ControllerGetCapabilities().capabilities}, SERVED, "capabilities")
    kinds = csi.messages.GroupControllerServiceCapability.RPC.Type
    equal({kinds.Name(one.rpc.type) for one in csi.GroupControllerGetCapabilities().capabilities},
          {"CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT"}, "group capabilities")


# ---- CreateVolume ----


def test_create_required(stack):
    csi = stack.a.csi
    status("INVALID_ARGUMENT", csi.create, "", contains="name")
    status("INVALID_ARGUMENT", csi.create, "x", volume_capabilities=[], contains="volume_capabilities")
    status("INVALID_ARGUMENT", csi.create, "x", volume_capabilities=[csi.messages.VolumeCapability()])
    no_mode = csi.capability()
    no_mode.ClearField("access_mode")
    status("INVALID_ARGUMENT", csi.create, "x", volume_capabilities=[no_mode], contains="access mode")
    no_type = csi.capability()
    no_type.ClearField("block")
    status("INVALID_ARGUMENT", csi.create, "x", volume_capabilities=[no_type], contains="access type")
    status("INVALID_ARGUMENT", csi.create, "x" * 129, contains="128")
    status("INVALID_ARGUMENT", csi.create, "a\x07b", contains="control")
    status("INVALID_ARGUMENT", csi.create, "a\x00b")
    status("INVALID_ARGUMENT", csi.create, "x", capacity_range={})


def test_create_size(stack):
    csi = stack.a.csi
    volume = csi.create("size-rounded", size=MIB + 1)
    equal(volume.capacity_bytes, 2 * MIB, "rounded up")
    equal(csi.create("size-limit", capacity_range={"limit_bytes": 3 * MIB + 5}).capacity_bytes, 3 * MIB, "limit")
    status("OUT_OF_RANGE", csi.create, "x", capacity_range={"required_bytes": 2 * MIB, "limit_bytes": MIB})
    status("OUT_OF_RANGE", csi.create, "x", capacity_range={"required_bytes": MIB + 1, "limit_bytes": 2 * MIB - 1})
    status("OUT_OF_RANGE", csi.create, "x", capacity_range={"required_bytes": -1})
    status("OUT_OF_RANGE", csi.create, "x", capacity_range={"required_bytes": 1 << 60})
    status("RESOURCE_EXHAUSTED", csi.create, "x", size=1 << 40)
    for target in stack.targets:
        equal(stack.claim_of(target, "x"), None, "a claim that was left")


def test_create_repeat(stack):
    csi = stack.a.csi
    first = csi.create("repeat", size=2 * MIB, parameters={"provisioning": "thin"})
    equal(csi.create("repeat", size=2 * MIB).volume_id, first.volume_id, "same")
    equal(stack.b.csi.create("repeat", size=MIB).volume_id, first.volume_id, "a larger one satisfies the range")
    status("ALREADY_EXISTS", csi.create, "repeat", size=3 * MIB, contains=first.volume_id)
    status("ALREADY_EXISTS", csi.create, "repeat", capacity_range={"limit_bytes": MIB})
    status("ALREADY_EXISTS", csi.create, "repeat", size=2 * MIB, parameters={"fsType": "xfs"}, contains="fsType")
    status("ALREADY_EXISTS", csi.create, "repeat", size=2 * MIB, parameters={"provisioning": "thick"})
    status("ALREADY_EXISTS", csi.create, "repeat", size=2 * MIB,
           volume_capabilities=[csi.capability(block=False, fs_type="ext4")])
    longest = "n" * 128
    equal(csi.create(longest).volume_id, csi.create(longest).volume_id, "128 bytes")
    equal(csi.create("Zürich ✓ a/b").volume_id, csi.create("Zürich ✓ a/b").volume_id, "Unicode")


def test_create_parameters(stack):
    csi = stack.a.csi
    volume = csi.create("parameters", parameters={
        "csi.storage.k8s.io/fstype": "ext4", "mkfsOptions": "-O bigalloc", "attach": "fuse", "pathTimeout": "0",
        "sessions": "1", "blockSize": "4096", "csi.storage.k8s.io/pvc/name": "p", "csi.storage.k8s.io/pv/name": "v"},
        volume_capabilities=[csi.capability(block=False, fs_type="ext4")])
    equal(dict(volume.volume_context), {"name": "parameters", "fsType": "ext4", "mkfsOptions": "-O bigalloc",
                                        "attach": "fuse", "pathTimeout": "0", "sessions": "1"}, "volume_context")
    status("INVALID_ARGUMENT", csi.create, "x", parameters={"replicas": "2"}, contains='"replicas"')
    status("INVALID_ARGUMENT", csi.create, "x", parameters={"fsType": "btrfs"}, contains="ext4 or xfs")
    status("INVALID_ARGUMENT", csi.create, "x", parameters={"fsType": "xfs"},
           volume_capabilities=[csi.capability(block=False, fs_type="ext4")])
    status("INVALID_ARGUMENT", csi.create, "x", parameters={"mkfsOptions": "x" * 5000}, contains="parameters")
    status("INVALID_ARGUMENT", csi.create, "x", mutable_parameters={"iops": "5"}, contains="iops")


def test_parameters_documented(stack):
    """The parameters that an unknown one is refused with, against the two places that describe them."""
    text = status("INVALID_ARGUMENT", stack.a.csi.create, "x", parameters={"no-such": ""})
    real = set(re.search(r"the parameters are: ([A-Za-z, ]+)", text)[1].split(", "))
    page = (harness.ROOT / "docs" / "volumes.md").read_text().split("## Parameters")[1].split("\n### ")[0]
    equal(set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)), real, "docs/volumes.md")
    page = (harness.ROOT / "docs" / "man" / "mooring-controller.8").read_text()
    page = page.split(".SH STORAGECLASS PARAMETERS")[1].split(".SH ")[0]
    equal({word for line in re.findall(r"^\.TP\n\.B (.*)$", page, re.MULTILINE)
           for word in re.findall(r"(?:^|\\fB)(\w+)(?=\\fR|$)", line)}, real, "mooring-controller(8)")


def test_create_modes(stack):
    csi = stack.a.csi
    for mode in MODES:
        csi.create(f"block-{mode}", volume_capabilities=[csi.capability(mode)])
        refused = mode in ("MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER")
        status("INVALID_ARGUMENT" if refused else "OK", csi.create, f"mount-{mode}",
               volume_capabilities=[csi.capability(), csi.capability(mode, block=False)])
    status("INVALID_ARGUMENT", csi.create, "x", volume_capabilities=[
        csi.capability(block=False, volume_mount_group="1000")], contains="volume_mount_group")


def test_create_topology(stack):
    csi = stack.a.csi
    zone_b = {"requisite": [{"segments": {"zone": "b"}}]}
    volume = csi.create("topology", accessibility_requirements=zone_b)
    equal(volume.volume_id.split(".")[0], "s2", "the server in zone b")
    equal([dict(one.segments) for one in volume.accessible_topology], [{"zone": "b"}], "accessible_topology")
    status("ALREADY_EXISTS", csi.create, "topology",
           accessibility_requirements={"requisite": [{"segments": {"zone": "a"}}]})
    status("RESOURCE_EXHAUSTED", csi.create, "x", accessibility_requirements={
        "requisite": [{"segments": {"zone": "nowhere"}}]})
    status("INVALID_ARGUMENT", csi.create, "x", accessibility_requirements={})
    preferred = csi.create("preferred", accessibility_requirements={
        "requisite": [{"segments": {"zone": "a"}}, {"segments": {"zone": "b"}}],
        "preferred": [{"segments": {"zone": "b"}}]})
    equal(preferred.volume_id.split(".")[0], "s2", "preferred")
    equal(csi.create("zone", parameters={"zone": "a"}).volume_id.split(".")[0], "s1", "zone")


# ---- DeleteVolume ----


def test_delete(stack):
    csi = stack.a.csi
    status("INVALID_ARGUMENT", csi.DeleteVolume, contains="volume_id")
    volume = csi.create("delete")
    csi.publish(volume.volume_id, "node-a")
    status("FAILED_PRECONDITION", csi.DeleteVolume, volume_id=volume.volume_id)
    csi.ControllerUnpublishVolume(volume_id=volume.volume_id, node_id="node-a")
    csi.DeleteVolume(volume_id=volume.volume_id)
    csi.DeleteVolume(volume_id=volume.volume_id)
    for target in stack.targets:
        equal(stack.claim_of(target, "delete"), None, "the claim")
    status("OK", csi.DeleteVolume, volume_id="not-ours")
    status("OK", csi.DeleteVolume, volume_id="s1.00000000000000ff")
    status("INVALID_ARGUMENT", csi.DeleteVolume, volume_id="x" * 129)
    assert csi.create("delete").volume_id != volume.volume_id, "a new volume has a new id"


# ---- ControllerPublishVolume, ControllerUnpublishVolume ----


def test_publish_required(stack):
    csi = stack.a.csi
    volume_id = csi.create("publish-required").volume_id
    status("INVALID_ARGUMENT", csi.publish, "", "node-a", contains="volume_id")
    status("INVALID_ARGUMENT", csi.publish, volume_id, "", contains="node_id")
    status("INVALID_ARGUMENT", csi.ControllerPublishVolume, volume_id=volume_id, node_id="node-a")
    status("INVALID_ARGUMENT", csi.publish, volume_id, "node-a",
           volume_capability=csi.capability("MULTI_NODE_MULTI_WRITER", block=False))
    status("NOT_FOUND", csi.publish, "s1.00000000000000ff", "node-a")
    status("NOT_FOUND", csi.publish, "not-ours", "node-a")
    status("NOT_FOUND", csi.publish, volume_id, "never-registered")
    status("NOT_FOUND", csi.publish, volume_id, "NOT A NODE")
    status("INVALID_ARGUMENT", csi.publish, volume_id, "node-a", volume_context={"fsType": "xfs"}, contains="fsType")


def test_publish(stack):
    csi = stack.a.csi
    volume = csi.create("publish")
    context = dict(csi.publish(volume.volume_id, "node-a", volume_context={
        **volume.volume_context, "storage.kubernetes.io/csiProvisionerIdentity": "x"}).publish_context)
    target = stack.target_of(volume.volume_id)
    equal(context, {"portals": target.portal, "iqn": f"iqn.2026-11.storage.mooring:{volume.volume_id}", "lun": "0",
                    "epoch": "1", "server": target.server_id, "serverAddress": target.address,
                    "poolUuid": target.pool.uuid, "sizeBytes": str(MIB), "blockSize": "4096", "readonly": "false"},
          "publish_context")
    equal(dict(stack.b.csi.publish(volume.volume_id, "node-a").publish_context), context, "a repeat")
    status("ALREADY_EXISTS", csi.publish, volume.volume_id, "node-a", readonly=True)
    status("ALREADY_EXISTS", csi.publish, volume.volume_id, "node-a",
           volume_capability=csi.capability("SINGLE_NODE_MULTI_WRITER"))
    status("FAILED_PRECONDITION", csi.publish, volume.volume_id, "node-b", contains="node-a")
    equal(list(csi.ControllerGetVolume(volume_id=volume.volume_id).status.published_node_ids), ["node-a"], "nodes")
    csi.ControllerUnpublishVolume(volume_id=volume.volume_id, node_id="node-b")
    equal(list(csi.ControllerGetVolume(volume_id=volume.volume_id).status.published_node_ids), ["node-a"], "nodes")
    csi.ControllerUnpublishVolume(volume_id=volume.volume_id, node_id="node-a")
    csi.ControllerUnpublishVolume(volume_id=volume.volume_id, node_id="node-a")
    context = csi.publish(volume.volume_id, "node-b").publish_context
    equal(context["epoch"], "2", "epochs only grow")
    csi.ControllerUnpublishVolume(volume_id=volume.volume_id)
    equal(list(csi.ControllerGetVolume(volume_id=volume.volume_id).status.published_node_ids), [], "nodes")


def test_publish_readers(stack):
    csi = stack.a.csi
    volume_id = csi.create("readers").volume_id
    readers = csi.capability("MULTI_NODE_READER_ONLY")
    for node in ("node-a", "node-b"):
        context = csi.publish(volume_id, node, volume_capability=readers).publish_context
        equal(context["readonly"], "true", "a reader")
    equal(sorted(csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), ["node-a", "node-b"], "")
    csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="")
    csi.publish(volume_id, "node-a")


def test_publish_modes(stack):
    """Each mode on two nodes: who may be second, writing or reading."""
    csi = stack.a.csi
    second = {"MULTI_NODE_READER_ONLY": ("OK", "OK"), "MULTI_NODE_SINGLE_WRITER": ("FAILED_PRECONDITION", "OK"),
              "MULTI_NODE_MULTI_WRITER": ("OK", "OK")}
    for mode in MODES:
        capability = csi.capability(mode)
        for readonly, expected in zip((False, True), second.get(mode, ("FAILED_PRECONDITION",) * 2)):
            volume_id = csi.create(f"mode-{mode}-{readonly}", volume_capabilities=[capability]).volume_id
            first = csi.publish(volume_id, "node-a", volume_capability=capability).publish_context
            equal(first["readonly"], str(mode.endswith("READER_ONLY")).lower(), f"{mode}: the first")
            status(expected, csi.publish, volume_id, "node-b", volume_capability=capability, readonly=readonly)
            csi.ControllerUnpublishVolume(volume_id=volume_id)
            csi.DeleteVolume(volume_id=volume_id)
    volume_id = csi.create("mode-mounted").volume_id
    for mode in ("MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER"):
        status("INVALID_ARGUMENT", csi.publish, volume_id, "node-a", contains="Block",
               volume_capability=csi.capability(mode, block=False, fs_type="ext4"))


def test_publish_max(stack):
    """A node takes as many volumes as its mooring-node says, over all servers; a repeat is none more."""
    csi, node = stack.a.csi, "node-max"

    def takes(count):
        for target in stack.targets:
            target.node(node).RegisterNode(node_id=node, boot_id="d" * 32, address="test", volumes_max=count)

    takes(2)
    ids = [csi.create(f"max-{i}", parameters={"zone": zone}).volume_id for i, zone in enumerate("aabb")]
    csi.publish(ids[0], node)
    csi.publish(ids[2], node)
    for volume_id in (ids[1], ids[3]):
        status("RESOURCE_EXHAUSTED", csi.publish, volume_id, node, contains=f"{node} has 2")
    csi.publish(ids[0], node)
    csi.ControllerUnpublishVolume(volume_id=ids[2], node_id=node)
    csi.publish(ids[1], node)
    takes(1)
    first = stack.targets[0]
    csi.ControllerUnpublishVolume(volume_id=ids[1], node_id=node)
    first.kill()
    first.start()  # it is remembered, and decided where the volume is
    volume = first.controller.GetVolume(volume_id=ids[1]).volume
    status("RESOURCE_EXHAUSTED", first.controller.AttachVolume, volume_id=ids[1], node_id=node, access_mode=1,
           record_generation=volume.record_generation, contains="volumes_max")
    takes(0)
    csi.wait_for_servers()
    for volume_id in ids:
        csi.publish(volume_id, node)
    for volume_id in ids:
        csi.ControllerUnpublishVolume(volume_id=volume_id, node_id=node)


def test_publish_no_secret(stack):
    csi = stack.a.csi
    volume_id = csi.create("no-secret").volume_id
    context = csi.publish(volume_id, "node-a").publish_context
    held = stack.target_of(volume_id).node("node-a").GetAttachment(volume_id=volume_id, node_id="node-a")
    assert held.chap_secret, "there is a secret"
    assert held.chap_secret not in str(context), "the secret is in the publish context"
    assert held.chap_secret not in stack.a.log_text(), "the secret is in the log"


def test_unpublish(stack):
    csi = stack.a.csi
    status("INVALID_ARGUMENT", csi.ControllerUnpublishVolume, node_id="node-a", contains="volume_id")
    status("OK", csi.ControllerUnpublishVolume, volume_id="not-ours", node_id="node-a")
    status("OK", csi.ControllerUnpublishVolume, volume_id="s1.00000000000000ff", node_id="node-a")
    volume_id = csi.create("unpublish").volume_id
    status("OK", csi.ControllerUnpublishVolume, volume_id=volume_id, node_id="never-registered")


# ---- ValidateVolumeCapabilities, ControllerGetVolume ----


def test_validate(stack):
    csi = stack.a.csi
    volume = csi.create("validate", parameters={"fsType": "xfs"})
    good = [csi.capability(), csi.capability("MULTI_NODE_READER_ONLY", block=False, fs_type="xfs")]
    status("INVALID_ARGUMENT", csi.ValidateVolumeCapabilities, volume_capabilities=good, contains="volume_id")
    status("INVALID_ARGUMENT", csi.ValidateVolumeCapabilities, volume_id=volume.volume_id)
    status("NOT_FOUND", csi.ValidateVolumeCapabilities, volume_id="s1.00000000000000ff", volume_capabilities=good)
    answer = csi.ValidateVolumeCapabilities(volume_id=volume.volume_id, volume_capabilities=good,
                                            volume_context=volume.volume_context, parameters={"fsType": "xfs"})
    equal(list(answer.confirmed.volume_capabilities), good, "confirmed")
    equal(dict(answer.confirmed.volume_context), dict(volume.volume_context), "context")
    equal(dict(answer.confirmed.parameters), {"fsType": "xfs"}, "parameters")
    for bad in ({"volume_capabilities": [csi.capability("MULTI_NODE_MULTI_WRITER", block=False)]},
                {"volume_capabilities": [csi.capability(block=False, fs_type="ext4")]},
                {"volume_capabilities": good, "parameters": {"fsType": "ext4"}},
                {"volume_capabilities": good, "volume_context": {"fsType": "ext4"}}):
        answer = csi.ValidateVolumeCapabilities(volume_id=volume.volume_id, **bad)
        equal(answer.HasField("confirmed"), False, f"{bad}")
        assert answer.message, "a message says why"


def test_get_volume(stack):
    csi = stack.a.csi
    volume = csi.create("get-volume", parameters={"fsType": "ext4"})
    equal(csi.ControllerGetVolume(volume_id=volume.volume_id).volume, volume, "as it was created")
    status("INVALID_ARGUMENT", csi.ControllerGetVolume)
    status("NOT_FOUND", csi.ControllerGetVolume, volume_id="s1.00000000000000ff")
    status("NOT_FOUND", csi.ControllerGetVolume, volume_id="not-ours")


# ---- ListVolumes, GetCapacity ----


def pages(csi, max_entries):
    token, entries, count = "", [], 0
    while True:
        page = csi.ListVolumes(max_entries=max_entries, starting_token=token)
        assert len(page.entries) <= max_entries, "more than max_entries"
        assert page.entries, "an empty page"
        entries.extend(page.entries)
        token, count = page.next_token, count + 1
        if not token:
            return entries, count


def test_list(stack):
    csi = stack.a.csi
    made = {csi.create(f"list-{i}").volume_id for i in range(5)}
    everything = csi.ListVolumes()
    equal(everything.next_token, "", "no further page")
    ids = [entry.volume.volume_id for entry in everything.entries]
    equal(len(ids), len(set(ids)), "each once")
    assert made <= set(ids), "all that were made"
    on_servers = {volume.volume_id for target in stack.targets for volume in stack.volumes(target)}
    equal(set(ids), on_servers, "what the servers have")
    for max_entries in (1, 2, 7, len(ids)):
        entries, count = pages(csi, max_entries)
        equal([entry.volume.volume_id for entry in entries], ids, "the pages together")
        equal(count, -(-len(ids) // max_entries), "pages")
    status("INVALID_ARGUMENT", csi.ListVolumes, max_entries=-1)
    status("ABORTED", csi.ListVolumes, starting_token="wrong")
    volume_id = min(made)
    csi.publish(volume_id, "node-b")
    entry = next(one for one in csi.ListVolumes().entries if one.volume.volume_id == volume_id)
    equal(list(entry.status.published_node_ids), ["node-b"], "published_node_ids")
    page = csi.ListVolumes(max_entries=2)
    stack.a.restart()
    equal(stack.a.csi.ListVolumes(max_entries=1, starting_token=page.next_token, wait_for_ready=True)
          .entries[0].volume.volume_id, ids[2], "a token outlives the controller")


def test_capacity(stack):
    csi = stack.a.csi
    free = [target.controller.GetServer().free_bytes // MIB * MIB for target in stack.targets]
    answer = csi.GetCapacity()
    equal(answer.available_capacity, sum(free), "all servers")
    equal(answer.maximum_volume_size.value, max(free), "the largest volume")
    assert answer.minimum_volume_size.value > 0
    equal(csi.GetCapacity(accessible_topology={"segments": {"zone": "b"}}).available_capacity, free[1], "zone b")
    equal(csi.GetCapacity(parameters={"zone": "a"}).available_capacity, free[0], "zone a")
    equal(csi.GetCapacity(accessible_topology={"segments": {"zone": "x"}}).available_capacity, 0, "nowhere")
    status("INVALID_ARGUMENT", csi.GetCapacity, parameters={"replicas": "3"}, contains="replicas")


TESTS = [test_identity, test_capabilities, test_create_required, test_create_size, test_create_repeat,
         test_create_parameters, test_parameters_documented, test_create_modes, test_create_topology, test_delete,
         test_publish_required, test_publish, test_publish_readers, test_publish_modes, test_publish_max,
         test_publish_no_secret, test_unpublish, test_validate, test_get_volume, test_list, test_capacity]


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = controller_stack.Stack(scratch, servers=2, topologies=[{"zone": "a"}, {"zone": "b"}])
        except harness.Skip as why:
            for test in TESTS:
                print(f"SKIP controller_csi.{test.__name__[5:]}: {why}")
            return 0
        for node in ("node-a", "node-b"):
            stack.register(node)
        for test in TESTS:
            suite.run(f"controller_csi.{test.__name__[5:]}", test, stack)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
