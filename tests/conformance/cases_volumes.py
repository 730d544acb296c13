"""The Controller service's calls for volumes: CreateVolume, DeleteVolume, publishing, ValidateVolumeCapabilities,
ControllerGetVolume, GetCapacity."""
import uuid

import harness
from rules import not_applicable, not_seen, rule
from stack import MIB, ZONE, equal, refused, same_or_aborted

MODES = ["SINGLE_NODE_WRITER", "SINGLE_NODE_READER_ONLY", "MULTI_NODE_READER_ONLY", "MULTI_NODE_SINGLE_WRITER",
         "MULTI_NODE_MULTI_WRITER", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_MULTI_WRITER"]
BANNED = [*range(0x01, 0x09), 0x0b, 0x0c, *range(0x0e, 0x20), *range(0x7f, 0xa0)]
CREATE_ERRORS, PUBLISH_ERRORS = "CreateVolume Errors", "ControllerPublishVolume Errors"


def name():
    return f"c-{uuid.uuid4().hex[:12]}"


def absent(stack):
    """Ids of volumes that are not there."""
    return [f"{stack.target.server_id}.{0:016x}", "another-driver's volume"]


# ---- CreateVolume ----


@rule("CreateVolume.repeat", "A repeat answers the same volume and makes no second one.")
def create_repeat(stack):
    fields = {"name": name(), "size": 2 * MIB, "parameters": {"provisioning": "thin"}}
    first = stack.csi.create(**fields)
    for _ in range(2):
        equal(stack.csi.create(**fields), first, "the repeat")
    equal(len([1 for entry in stack.csi.ListVolumes().entries
               if entry.volume.volume_context.get("name") == fields["name"]]), 1, "volumes of that name")
    stack.csi.DeleteVolume(volume_id=first.volume_id)


@rule("CreateVolume.at-once", "The same call several times at once makes one volume: OK with it, or ABORTED.", "Concurrency")
def create_at_once(stack):
    fields = {"name": name(), "capacity_range": {"required_bytes": MIB}, "volume_capabilities": [stack.capability()]}
    results = stack.at_once("CreateVolume", **fields)
    same_or_aborted(results)
    equal(len([1 for entry in stack.csi.ListVolumes().entries
               if entry.volume.volume_context.get("name") == fields["name"]]), 1, "volumes")


@rule("CreateVolume.incompatible", "A volume of that name that differs in size, parameters, capabilities or topology: "
      "ALREADY_EXISTS.", CREATE_ERRORS)
def create_incompatible(stack):
    first = stack.csi.create(name := f"c-{uuid.uuid4().hex[:12]}", size=2 * MIB, parameters={"fsType": "ext4", "zone": "a"})
    assert first.volume_id
    for other in ({"size": 4 * MIB}, {"capacity_range": {"required_bytes": MIB, "limit_bytes": MIB}},
                  {"parameters": {"fsType": "xfs", "zone": "a"}}, {"parameters": {"fsType": "ext4", "zone": "b"}},
                  {"parameters": {"fsType": "ext4", "zone": "a", "provisioning": "thick"}},
                  {"volume_capabilities": [stack.capability(block=False, fs_type="xfs")], "parameters": {"zone": "a"}},
                  {"accessibility_requirements": {"requisite": [{"segments": {ZONE: "b"}}]}}):
        fields = {"size": 2 * MIB, "parameters": {"fsType": "ext4", "zone": "a"}, **other}
        refused("ALREADY_EXISTS", lambda: stack.csi.create(name, **fields), name)


@rule("CreateVolume.name-any", "A name is any Unicode text of up to 128 bytes, white space too.")
def create_name_any(stack):
    for text in ("n" * 128, "Zürich ✓ 海", "a/b\\c:d*?\"<>|", "tab\tand\nline\r", ".", "..", " "):
        text = f"{text}"
        volume = stack.create_named(text)
        equal(stack.create_named(text).volume_id, volume.volume_id, "the repeat")
        stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("CreateVolume.name-controls", "A name with a control character (U+0000-0008, B, C, E-1F, 7F-9F) is INVALID_ARGUMENT.")
def create_name_controls(stack):
    for code in BANNED:
        refused("INVALID_ARGUMENT", lambda: stack.csi.create(f"a{chr(code)}b"), "name")
    refused("INVALID_ARGUMENT", lambda: stack.csi.create("a\0b"))


@rule("CreateVolume.capacity", "The volume has at least `required_bytes` and at most `limit_bytes`; the answer says how much.")
def create_capacity(stack):
    for wanted in ({"required_bytes": MIB + 1}, {"limit_bytes": 3 * MIB + 5}, {"required_bytes": MIB, "limit_bytes": MIB},
                   {"required_bytes": 5 * MIB, "limit_bytes": 6 * MIB}):
        volume = stack.csi.create(name(), capacity_range=wanted)
        assert wanted.get("required_bytes", 1) <= volume.capacity_bytes <= wanted.get("limit_bytes", 1 << 62), volume
        stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("CreateVolume.capacity-out-of-range", "A range that no size fits: OUT_OF_RANGE.", CREATE_ERRORS)
def create_out_of_range(stack):
    for wanted in ({"required_bytes": 2 * MIB, "limit_bytes": MIB}, {"required_bytes": MIB + 1, "limit_bytes": MIB + 2},
                   {"limit_bytes": 1}, {"required_bytes": 1 << 62}):
        refused("OUT_OF_RANGE", lambda: stack.csi.create(name(), capacity_range=wanted))


@rule("CreateVolume.capacity-wrong", "A range that says nothing, or is negative, is refused.", "CapacityRange")
def create_capacity_wrong(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), capacity_range={}), "capacity_range")
    for wanted in ({"required_bytes": -1}, {"limit_bytes": -1}, {"required_bytes": MIB, "limit_bytes": -MIB}):
        refused(("INVALID_ARGUMENT", "OUT_OF_RANGE"), lambda: stack.csi.create(name(), capacity_range=wanted), "capacity_range")


@rule("CreateVolume.every-capability", "The volume suits each capability of the list, and one that is not supported among "
      "them refuses the call.")
def create_capabilities(stack):
    both = [stack.capability(), stack.capability("MULTI_NODE_READER_ONLY", block=False, fs_type="ext4")]
    volume = stack.create(volume_capabilities=both)
    confirmed = stack.csi.ValidateVolumeCapabilities(volume_id=volume.volume_id, volume_capabilities=both).confirmed
    equal(list(confirmed.volume_capabilities), both, "confirmed")
    for wrong in (stack.capability("MULTI_NODE_MULTI_WRITER", block=False),
                  stack.capability("MULTI_NODE_SINGLE_WRITER", block=False), stack.capability(block=False, fs_type="btrfs")):
        refused("INVALID_ARGUMENT", lambda: stack.create(volume_capabilities=[*both, wrong]))


@rule("CreateVolume.modes", "All seven access modes for block volumes; for mounted ones those with at most one writing node.",
      "AccessMode")
def create_modes(stack):
    for mode in MODES:
        stack.create(volume_capabilities=[stack.capability(mode)])
        if mode not in ("MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER"):
            stack.create(volume_capabilities=[stack.capability(mode, block=False)])


@rule("CreateVolume.parameter-unknown", "A parameter that is not known, or has a value that is not allowed: "
      "INVALID_ARGUMENT, which names it.", "Error Scheme")
def create_parameters(stack):
    for key, value in (("replicas", "2"), ("fsType", "btrfs"), ("attach", "nbd"), ("provisioning", "medium"),
                       ("blockSize", "1000"), ("sessions", "0"), ("pathTimeout", "soon"), ("zone", "-"), ("FSTYPE", "ext4"),
                       ("mountOptions", "noatime,offset=4096")):
        refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), parameters={key: value}), key)


@rule("CreateVolume.mutable-precedence", "`mutable_parameters` win over `parameters` of the same key.",
      needs=("controller:MODIFY_VOLUME",))
def create_mutable_precedence(stack):
    fields = {"parameters": {"iopsLimit": "1000"}, "mutable_parameters": {"iopsLimit": "2000"}}
    text = name()
    volume = stack.csi.create(text, **fields)
    limits = stack.target_of(volume.volume_id).controller.GetVolume(volume_id=volume.volume_id).volume.limits
    equal(limits.iops, 2000, "the limit")
    equal(stack.csi.create(text, **fields).volume_id, volume.volume_id, "the repeat")


@rule("CreateVolume.mutable-unknown", "A mutable parameter that is not known, or cannot be served: INVALID_ARGUMENT, which "
      "names it.", "Error Scheme")
def create_mutable_unknown(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), mutable_parameters={"colour": "red"}), "colour")


@rule("CreateVolume.topology", "With `requisite`, the volume is reachable from one of them, and says from where.",
      "TopologyRequirement")
def create_topology(stack):
    for zone in ("a", "b"):
        volume = stack.create(accessibility_requirements={"requisite": [{"segments": {ZONE: zone}}]})
        equal([dict(one.segments) for one in volume.accessible_topology], [{ZONE: zone}], "accessible_topology")


@rule("CreateVolume.topology-case", "Topology keys are compared without regard to letter case.", "Topology")
def create_topology_case(stack):
    volume = stack.create(accessibility_requirements={"requisite": [{"segments": {ZONE.replace("zone", "ZONE"): "b"}}]})
    equal([dict(one.segments) for one in volume.accessible_topology], [{ZONE: "b"}], "accessible_topology")


@rule("CreateVolume.topology-preferred", "Preferred topologies are tried in their order.", "TopologyRequirement")
def create_preferred(stack):
    places = [{"segments": {ZONE: zone}} for zone in ("a", "b")]
    for preferred in (places, places[::-1], [places[1]]):
        volume = stack.create(accessibility_requirements={"requisite": places, "preferred": preferred})
        equal(dict(volume.accessible_topology[0].segments), preferred[0]["segments"], "the first that is preferred")
    volume = stack.create(accessibility_requirements={"preferred": [{"segments": {ZONE: "nowhere"}}, places[1]]})
    equal(dict(volume.accessible_topology[0].segments), {ZONE: "b"}, "the first that can be had")


@rule("CreateVolume.topology-unavailable", "A topology that is well-formed and has no room for the volume: "
      "RESOURCE_EXHAUSTED, and nothing is left.", CREATE_ERRORS)
def create_unavailable(stack):
    text = name()
    refused("RESOURCE_EXHAUSTED", lambda: stack.csi.create(text, accessibility_requirements={
        "requisite": [{"segments": {ZONE: "nowhere"}}]}))
    refused("RESOURCE_EXHAUSTED", lambda: stack.csi.create(text, size=1 << 40))
    volume = stack.csi.create(text)
    equal(volume.capacity_bytes, MIB, "the name is free again")


@rule("CreateVolume.topology-empty", "Accessibility requirements without any topology: INVALID_ARGUMENT.",
      "TopologyRequirement")
def create_topology_empty(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), accessibility_requirements={}), "accessibility_requirements")


@rule("CreateVolume.volume-id", "The volume's id is given, differs from every other, and is what the later calls take.",
      "Volume")
def create_id(stack):
    ids = {stack.create().volume_id for _ in range(4)}
    equal(len(ids), 4, "ids")
    for volume_id in ids:
        equal(stack.csi.ControllerGetVolume(volume_id=volume_id).volume.volume_id, volume_id, "the volume")
        stack.csi.DeleteVolume(volume_id=volume_id)


@rule("CreateVolume.context-fixed", "`volume_context` of a volume is the same in every answer.", "Volume")
def create_context(stack):
    volume = stack.create(parameters={"fsType": "ext4"})
    stack.csi.publish(volume.volume_id, "n1")
    for answer in (stack.csi.ControllerGetVolume(volume_id=volume.volume_id).volume,
                   *(one.volume for one in stack.csi.ListVolumes().entries if one.volume.volume_id == volume.volume_id)):
        equal(dict(answer.volume_context), dict(volume.volume_context), "volume_context")
    stack.csi.ControllerUnpublishVolume(volume_id=volume.volume_id)


@rule("CreateVolume.source-empty", "A content source without its type, or without an id, is INVALID_ARGUMENT.",
      "VolumeContentSource")
def create_source_empty(stack):
    for source in ({}, {"snapshot": {}}, {"volume": {}}):
        refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), volume_content_source=source))


@rule("CreateVolume.source-unsupported", "A content source whose capability is not advertised: INVALID_ARGUMENT.", CREATE_ERRORS)
def create_source_unsupported(stack):
    sources = {"controller:CREATE_DELETE_SNAPSHOT": {"snapshot": {"snapshot_id": f"s1.s-{0:016x}"}},
               "controller:CLONE_VOLUME": {"volume": {"volume_id": stack.some().volume_id}}}
    open_ones = {key: source for key, source in sources.items() if key not in stack.capabilities}
    if not open_ones:
        raise harness.Skip("not applicable: both sources are advertised")
    for source in open_ones.values():
        refused("INVALID_ARGUMENT", lambda: stack.csi.create(name(), volume_content_source=source))


# ---- DeleteVolume ----


@rule("DeleteVolume.repeat", "Deleting is OK for a volume that is gone, and for one that never was.")
def delete_repeat(stack):
    volume_id = stack.create().volume_id
    for one in (volume_id, volume_id, *absent(stack)):
        stack.csi.DeleteVolume(volume_id=one)
    refused("NOT_FOUND", lambda: stack.csi.ControllerGetVolume(volume_id=volume_id))


@rule("DeleteVolume.at-once", "The same call several times at once: OK or ABORTED, and the volume is gone.", "Concurrency")
def delete_at_once(stack):
    volume_id = stack.create().volume_id
    same_or_aborted(stack.at_once("DeleteVolume", volume_id=volume_id))
    refused("NOT_FOUND", lambda: stack.csi.ControllerGetVolume(volume_id=volume_id))


@rule("DeleteVolume.in-use", "A volume that is attached is not deleted: FAILED_PRECONDITION, and it stays as it is.",
      "DeleteVolume Errors")
def delete_in_use(stack):
    volume_id = stack.create().volume_id
    context = dict(stack.csi.publish(volume_id, "n1").publish_context)
    refused("FAILED_PRECONDITION", lambda: stack.csi.DeleteVolume(volume_id=volume_id), "n1")
    equal(dict(stack.csi.publish(volume_id, "n1").publish_context), context, "the attachment")
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n1")
    stack.csi.DeleteVolume(volume_id=volume_id)


@rule("DeleteVolume.snapshots-stay", "Snapshots outlive their volume: listed, and good as a source.",
      needs=("controller:CREATE_DELETE_SNAPSHOT",))
def delete_snapshots_stay(stack):
    volume_id = stack.create(size=4 * MIB).volume_id
    snapshot = stack.cut(volume_id)
    stack.csi.DeleteVolume(volume_id=volume_id)
    if "controller:LIST_SNAPSHOTS" in stack.capabilities:
        equal([one.snapshot.snapshot_id for one in stack.csi.ListSnapshots(snapshot_id=snapshot.snapshot_id).entries],
              [snapshot.snapshot_id], "listed")
    restored = stack.csi.create(name(), size=4 * MIB,
                                volume_content_source={"snapshot": {"snapshot_id": snapshot.snapshot_id}})
    stack.csi.DeleteVolume(volume_id=restored.volume_id)
    stack.csi.DeleteSnapshot(snapshot_id=snapshot.snapshot_id)


not_applicable("DeleteVolume.snapshots-bind", "Where snapshots depend on their volume: FAILED_PRECONDITION, and nothing changes.",
               "snapshots are independent of their volume")


# ---- ControllerPublishVolume ----


@rule("ControllerPublishVolume.repeat", "A repeat is OK with the same publish context.")
def publish_repeat(stack):
    volume = stack.create()
    contexts = [dict(stack.csi.publish(volume.volume_id, "n1", volume_context=volume.volume_context).publish_context)
                for _ in range(3)]
    assert contexts[0] == contexts[1] == contexts[2], contexts
    stack.csi.ControllerUnpublishVolume(volume_id=volume.volume_id)


@rule("ControllerPublishVolume.at-once", "The same call several times at once: one attachment; OK or ABORTED.", "Concurrency")
def publish_at_once(stack):
    volume_id = stack.create().volume_id
    same_or_aborted(stack.at_once("ControllerPublishVolume", volume_id=volume_id, node_id="n1",
                                  volume_capability=stack.capability()))
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.no-volume", "A volume that is not there: NOT_FOUND.", PUBLISH_ERRORS)
def publish_no_volume(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: stack.csi.publish(volume_id, "n1"))


@rule("ControllerPublishVolume.no-node", "A node that is not there: NOT_FOUND.", PUBLISH_ERRORS)
def publish_no_node(stack):
    for node_id in ("never-registered", "NOT A NODE", "n" * 200, "n" * 256):
        refused("NOT_FOUND", lambda: stack.csi.publish(stack.some().volume_id, node_id))


@rule("ControllerPublishVolume.incompatible", "Published to that node with another capability or `readonly`: ALREADY_EXISTS.",
      PUBLISH_ERRORS)
def publish_incompatible(stack):
    volume_id = stack.create().volume_id
    stack.csi.publish(volume_id, "n1")
    refused("ALREADY_EXISTS", lambda: stack.csi.publish(volume_id, "n1", readonly=True))
    for mode in ("SINGLE_NODE_MULTI_WRITER", "MULTI_NODE_READER_ONLY"):
        refused("ALREADY_EXISTS", lambda: stack.csi.publish(volume_id, "n1", volume_capability=stack.capability(mode)))
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.elsewhere", "Published to another node, without a MULTI_NODE mode: FAILED_PRECONDITION, which "
      "names that node.", PUBLISH_ERRORS)
def publish_elsewhere(stack):
    for mode in (one for one in MODES if one.startswith("SINGLE")):
        volume_id = stack.create().volume_id
        for readonly in (False, True):
            capability = stack.capability(mode)
            stack.csi.publish(volume_id, "n1", volume_capability=capability, readonly=readonly)
            refused("FAILED_PRECONDITION", lambda: stack.csi.publish(volume_id, "n2", volume_capability=capability,
                                                                     readonly=readonly), "n1")
            stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.mixed-modes",
      "A volume that one node has alone goes to no other, whatever mode that one asks for, "
      "nor the other way round.", PUBLISH_ERRORS)
def publish_mixed(stack):
    volume_id = stack.create().volume_id
    for first, second in (("SINGLE_NODE_WRITER", "MULTI_NODE_MULTI_WRITER"), ("MULTI_NODE_READER_ONLY", "SINGLE_NODE_WRITER"),
                          ("MULTI_NODE_MULTI_WRITER", "SINGLE_NODE_SINGLE_WRITER")):
        stack.csi.publish(volume_id, "n1", volume_capability=stack.capability(first))
        refused("FAILED_PRECONDITION", lambda: stack.csi.publish(volume_id, "n2", volume_capability=stack.capability(second)))
        stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.multi-node", "With a MULTI_NODE mode, several nodes: readers, one writer and readers, or writers.",
      "AccessMode")
def publish_multi_node(stack):
    for mode in (one for one in MODES if one.startswith("MULTI")):
        volume_id = stack.create().volume_id
        capability = stack.capability(mode)
        stack.csi.publish(volume_id, "n1", volume_capability=capability)
        stack.csi.publish(volume_id, "n2", volume_capability=capability, readonly=mode == "MULTI_NODE_SINGLE_WRITER")
        equal(sorted(stack.csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), ["n1", "n2"], mode)
        stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.one-writer", "MULTI_NODE_SINGLE_WRITER: a second node that would write is refused.", "AccessMode")
def publish_one_writer(stack):
    volume_id = stack.create().volume_id
    capability = stack.capability("MULTI_NODE_SINGLE_WRITER")
    stack.csi.publish(volume_id, "n1", volume_capability=capability)
    refused("FAILED_PRECONDITION", lambda: stack.csi.publish(volume_id, "n2", volume_capability=capability))
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerPublishVolume.readonly", "`readonly` and reader modes give an attachment that takes no writes.",
      needs=("controller:PUBLISH_READONLY",))
def publish_readonly(stack):
    for mode, readonly in (("SINGLE_NODE_WRITER", True), ("SINGLE_NODE_READER_ONLY", False), ("MULTI_NODE_READER_ONLY", False)):
        volume = stack.volume(block=True, mode=mode)
        target = stack.n1.path(volume)
        volume.publish(stack.n1, readonly=readonly)
        stack.n1.stage(volume)
        stack.n1.publish(volume, readonly=True)
        try:
            with open(target, "r+b", buffering=0) as device:
                device.write(bytes(4096))
            raise AssertionError(f"{mode} readonly={readonly}: a write was taken")
        except OSError:
            pass
        stack.n1.leave(volume)


@rule("ControllerPublishVolume.capability-unsupported",
      "A capability that the volume cannot have: INVALID_ARGUMENT.", PUBLISH_ERRORS)
def publish_unsupported(stack):
    bind = stack.capability(block=False)
    bind.mount.mount_flags.append("bind")
    for capability in (stack.capability("MULTI_NODE_MULTI_WRITER", block=False), stack.capability(block=False, fs_type="btrfs"),
                       bind):
        refused("INVALID_ARGUMENT", lambda: stack.csi.publish(stack.some().volume_id, "n1", volume_capability=capability))


@rule("ControllerPublishVolume.context-mismatch", "A `volume_context` that is not the volume's: INVALID_ARGUMENT.",
      "ControllerPublishVolumeRequest")
def publish_context(stack):
    refused("INVALID_ARGUMENT", lambda: stack.csi.publish(stack.some().volume_id, "n1", volume_context={"fsType": "xfs"}),
            "fsType")


@rule("ControllerPublishVolume.context-no-secret", "The publish context holds nothing secret: what a node proves itself with is "
      "not in it.", "ControllerPublishVolumeResponse")
def publish_no_secret(stack):
    volume = stack.attached()
    held = stack.target.node("n1").GetAttachment(volume_id=volume.id, node_id="n1")
    assert held.chap_secret and held.chap_secret not in str(volume.context), "the secret"
    for path, text in stack.logs().items():
        assert held.chap_secret not in text, path


@rule("ControllerPublishVolume.max-volumes", "A node that has its maximum of volumes: RESOURCE_EXHAUSTED.", PUBLISH_ERRORS)
def publish_max_volumes(stack):
    for target in stack.targets:  # as mooring-node registers; no process is needed for this
        target.node("full").RegisterNode(node_id="full", boot_id="f" * 32, address="test", volumes_max=1)
    first, second = (stack.csi.create(f"max-volumes-{i}").volume_id for i in range(2))
    stack.csi.publish(first, "full")
    refused("RESOURCE_EXHAUSTED", lambda: stack.csi.publish(second, "full"))
    stack.csi.publish(first, "full")
    stack.csi.ControllerUnpublishVolume(volume_id=first, node_id="full")
    stack.csi.publish(second, "full")
    stack.csi.ControllerUnpublishVolume(volume_id=second, node_id="full")
    for volume_id in (first, second):
        stack.csi.DeleteVolume(volume_id=volume_id)


not_seen("ControllerPublishVolume.not-on-node", "The call does not need to run on the node that it is for.",
         "these tests have one host; the controller reaches storage servers only (tests/guest has several)")


# ---- ControllerUnpublishVolume ----


@rule("ControllerUnpublishVolume.repeat", "OK again and again, and where the volume is not published to that node.")
def unpublish_repeat(stack):
    volume_id = stack.create().volume_id
    stack.csi.publish(volume_id, "n1")
    for node_id in ("n2", "n1", "n1", "n2"):
        stack.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id=node_id)
    equal(list(stack.csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), [], "nodes")


@rule("ControllerUnpublishVolume.this-node", "Only the node that is named loses the volume.", "ControllerUnpublishVolumeRequest")
def unpublish_this(stack):
    volume_id = _readers(stack)
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n2")
    equal(list(stack.csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), ["n1"], "nodes")
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ControllerUnpublishVolume.all-nodes", "Without `node_id`, every node loses it.", "ControllerUnpublishVolumeRequest")
def unpublish_all(stack):
    volume_id = _readers(stack)
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)
    equal(list(stack.csi.ControllerGetVolume(volume_id=volume_id).status.published_node_ids), [], "nodes")


def _readers(stack):
    volume_id = stack.create().volume_id
    for node_id in ("n1", "n2"):
        stack.csi.publish(volume_id, node_id, volume_capability=stack.capability("MULTI_NODE_READER_ONLY"))
    return volume_id


@rule("ControllerUnpublishVolume.absent", "OK for a volume or node that is not there, since then nothing is published.",
      "ControllerUnpublishVolume Errors")
def unpublish_absent(stack):
    for volume_id in absent(stack):
        stack.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id="n1")
    for node_id in ("never-registered", "NOT A NODE", "n" * 256):
        stack.csi.ControllerUnpublishVolume(volume_id=stack.some().volume_id, node_id=node_id)


@rule("ControllerUnpublishVolume.at-once",
      "The same call several times at once: OK or ABORTED, and the volume is free.", "Concurrency")
def unpublish_at_once(stack):
    volume_id = stack.create().volume_id
    stack.csi.publish(volume_id, "n1")
    same_or_aborted(stack.at_once("ControllerUnpublishVolume", volume_id=volume_id, node_id="n1"))
    stack.csi.DeleteVolume(volume_id=volume_id)


@rule("ControllerUnpublishVolume.then-elsewhere", "After OK, another node can have it.")
def unpublish_then(stack):
    volume_id = stack.create().volume_id
    for node_id in ("n1", "n2", "n1"):
        stack.csi.publish(volume_id, node_id)
        stack.csi.ControllerUnpublishVolume(volume_id=volume_id, node_id=node_id)


not_applicable("ControllerUnpublishVolume.not-found", "NOT_FOUND where a missing volume or node may still be published.",
               "a volume that is gone has no attachment; a server that cannot say so makes the call UNAVAILABLE",
               "ControllerUnpublishVolume Errors")


# ---- ValidateVolumeCapabilities, ControllerGetVolume, GetCapacity ----


@rule("ValidateVolumeCapabilities.confirmed", "What is supported is confirmed with all that was asked: capabilities, context, "
      "parameters.")
def validate_confirmed(stack):
    volume = stack.create(parameters={"fsType": "ext4"})
    asked = [stack.capability(mode) for mode in MODES] + [stack.capability(block=False, fs_type="ext4")]
    for _ in range(2):
        answer = stack.csi.ValidateVolumeCapabilities(volume_id=volume.volume_id, volume_capabilities=asked,
                                                      volume_context=volume.volume_context, parameters={"fsType": "ext4"})
        equal(list(answer.confirmed.volume_capabilities), asked, "capabilities")
        equal(dict(answer.confirmed.volume_context), dict(volume.volume_context), "context")
        equal(dict(answer.confirmed.parameters), {"fsType": "ext4"}, "parameters")


@rule("ValidateVolumeCapabilities.not-confirmed",
      "One capability, parameter or context that is not supported: no `confirmed`, and "
      "a message.")
def validate_not_confirmed(stack):
    volume = stack.create(parameters={"fsType": "ext4"})
    good, looped = [stack.capability()], stack.capability(block=False)
    looped.mount.mount_flags.append("loop")
    for wrong in ({"volume_capabilities": [*good, looped]},
                  {"volume_capabilities": good, "parameters": {"mountOptions": "loop"}},
                  {"volume_capabilities": [*good, stack.capability("MULTI_NODE_MULTI_WRITER", block=False)]},
                  {"volume_capabilities": [*good, stack.capability(block=False, fs_type="xfs")]},
                  {"volume_capabilities": good, "parameters": {"fsType": "xfs"}},
                  {"volume_capabilities": good, "parameters": {"replicas": "3"}},
                  {"volume_capabilities": good, "mutable_parameters": {"colour": "red"}},
                  {"volume_capabilities": good, "volume_context": {"fsType": "xfs"}}):
        answer = stack.csi.ValidateVolumeCapabilities(volume_id=volume.volume_id, **wrong)
        assert not answer.HasField("confirmed") and answer.message, wrong


@rule("ValidateVolumeCapabilities.understood-only", "What is confirmed holds no field that the plugin does not understand.")
def validate_understood(stack):
    messages = stack.csi.messages
    newer = messages.VolumeCapability.FromString(stack.capability().SerializeToString() + b"\xfa\x3e\x03new")
    answer = stack.csi.ValidateVolumeCapabilities(volume_id=stack.some().volume_id, volume_capabilities=[newer])
    for one in answer.confirmed.volume_capabilities:
        assert b"new" not in one.SerializeToString(), "a field that nobody here knows is confirmed"


@rule("ValidateVolumeCapabilities.no-volume", "A volume that is not there: NOT_FOUND.", "ValidateVolumeCapabilities Errors")
def validate_no_volume(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: stack.csi.ValidateVolumeCapabilities(volume_id=volume_id,
                                                                          volume_capabilities=[stack.capability()]))


@rule("ControllerGetVolume.current", "The volume as it was made, with a status that names the nodes it is published to.")
def get_current(stack):
    volume = stack.create()
    for node_ids in ([], ["n1"], []):
        if node_ids:
            stack.csi.publish(volume.volume_id, "n1")
        else:
            stack.csi.ControllerUnpublishVolume(volume_id=volume.volume_id)
        answer = stack.csi.ControllerGetVolume(volume_id=volume.volume_id)
        assert answer.HasField("status")
        equal((answer.volume, list(answer.status.published_node_ids)), (volume, node_ids), "the answer")


@rule("ControllerGetVolume.no-volume", "A volume that is not there: NOT_FOUND.", "ControllerGetVolume Errors")
def get_no_volume(stack):
    for volume_id in absent(stack):
        refused("NOT_FOUND", lambda: stack.csi.ControllerGetVolume(volume_id=volume_id))


@rule("GetCapacity.available", "What is available is not negative, and so are the largest and the smallest size of a volume.")
def capacity_available(stack):
    answer = stack.csi.GetCapacity()
    assert 0 < answer.available_capacity and 0 < answer.minimum_volume_size.value <= answer.maximum_volume_size.value, answer


@rule("GetCapacity.topology", "Capacity of one topology only, where that is asked for.", "GetCapacityRequest")
def capacity_topology(stack):
    found = [stack.csi.GetCapacity(accessible_topology={"segments": {ZONE: zone}}).available_capacity
             for zone in ("a", "b", "nowhere")]
    assert found[0] > found[1] > found[2] == 0, found
    equal(stack.csi.GetCapacity().available_capacity, found[0] + found[1], "without")


@rule("GetCapacity.parameters", "Parameters and capabilities are taken into account.", "GetCapacityRequest")
def capacity_parameters(stack):
    equal(stack.csi.GetCapacity(parameters={"zone": "b"}).available_capacity,
          stack.csi.GetCapacity(accessible_topology={"segments": {ZONE: "b"}}).available_capacity, "zone b")
    refused("INVALID_ARGUMENT", lambda: stack.csi.GetCapacity(parameters={"replicas": "3"}), "replicas")


@rule("GetCapacity.sizes-are-real", "A volume of the smallest size can be had, and one beyond the largest cannot.",
      "GetCapacityResponse")
def capacity_real(stack):
    place = {"accessible_topology": {"segments": {ZONE: "b"}}}
    answer = stack.csi.GetCapacity(**place)
    where = {"accessibility_requirements": {"requisite": [{"segments": {ZONE: "b"}}]}}
    least = stack.csi.create(name(), capacity_range={"limit_bytes": answer.minimum_volume_size.value}, **where)
    stack.csi.DeleteVolume(volume_id=least.volume_id)
    most = stack.csi.create(name(), size=stack.csi.GetCapacity(**place).maximum_volume_size.value, **where)
    stack.csi.DeleteVolume(volume_id=most.volume_id)
    refused(("RESOURCE_EXHAUSTED", "OUT_OF_RANGE"),
            lambda: stack.csi.create(name(), size=answer.maximum_volume_size.value + 64 * MIB, **where))
