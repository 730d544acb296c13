"""The table of rules: what the CSI specification 1.13 demands of a plugin, by RPC, each in words of our own with the part
of the specification that has it, and how it is checked: by a function of the cases_*.py, or not at all and why.

A rule whose RPC needs a capability that is not advertised is skipped as "not served yet": GetCapabilities says so, never
this table."""
import dataclasses
import typing

# What must be advertised before a CO may call an RPC: the service whose GetCapabilities says so, and the name there.
NEEDS = {
    "CreateVolume": "controller:CREATE_DELETE_VOLUME",
    "DeleteVolume": "controller:CREATE_DELETE_VOLUME",
    "ControllerPublishVolume": "controller:PUBLISH_UNPUBLISH_VOLUME",
    "ControllerUnpublishVolume": "controller:PUBLISH_UNPUBLISH_VOLUME",
    "ListVolumes": "controller:LIST_VOLUMES",
    "ControllerGetVolume": "controller:GET_VOLUME",
    "GetCapacity": "controller:GET_CAPACITY",
    "CreateSnapshot": "controller:CREATE_DELETE_SNAPSHOT",
    "DeleteSnapshot": "controller:CREATE_DELETE_SNAPSHOT",
    "ListSnapshots": "controller:LIST_SNAPSHOTS",
    "GetSnapshot": "controller:GET_SNAPSHOT",
    "ControllerExpandVolume": "controller:EXPAND_VOLUME",
    "ControllerModifyVolume": "controller:MODIFY_VOLUME",
    "ControllerGetVolumeHealth": "controller:GET_VOLUME_HEALTH",
    "ControllerListVolumeHealth": "controller:LIST_VOLUME_HEALTH",
    "GroupControllerGetCapabilities": "plugin:GROUP_CONTROLLER_SERVICE",
    "CreateVolumeGroupSnapshot": "group:CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT",
    "DeleteVolumeGroupSnapshot": "group:CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT",
    "GetVolumeGroupSnapshot": "group:CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT",
    "GetMetadataAllocated": "plugin:SNAPSHOT_METADATA_SERVICE",
    "GetMetadataDelta": "plugin:SNAPSHOT_METADATA_SERVICE",
    "NodeStageVolume": "node:STAGE_UNSTAGE_VOLUME",
    "NodeUnstageVolume": "node:STAGE_UNSTAGE_VOLUME",
    "NodeGetVolumeStats": "node:GET_VOLUME_STATS",
    "NodeGetVolumeHealth": "node:GET_VOLUME_HEALTH",
    "NodeGetStorageHealth": "node:GET_STORAGE_HEALTH",
    "NodeExpandVolume": "node:EXPAND_VOLUME",
}

# Fields marked REQUIRED whose absence is INVALID_ARGUMENT.
REQUIRED = {
    "CreateVolume": ["name", "volume_capabilities"],
    "DeleteVolume": ["volume_id"],
    "ControllerPublishVolume": ["volume_id", "node_id", "volume_capability"],
    "ControllerUnpublishVolume": ["volume_id"],
    "ValidateVolumeCapabilities": ["volume_id", "volume_capabilities"],
    "ControllerGetVolume": ["volume_id"],
    "ControllerModifyVolume": ["volume_id", "mutable_parameters"],
    "ControllerExpandVolume": ["volume_id", "capacity_range"],
    "ControllerGetVolumeHealth": ["volume_id"],
    "CreateSnapshot": ["source_volume_id", "name"],
    "DeleteSnapshot": ["snapshot_id"],
    "GetSnapshot": ["snapshot_id"],
    "CreateVolumeGroupSnapshot": ["name", "source_volume_ids"],
    "DeleteVolumeGroupSnapshot": ["group_snapshot_id", "snapshot_ids"],
    "GetVolumeGroupSnapshot": ["group_snapshot_id", "snapshot_ids"],
    "GetMetadataAllocated": ["snapshot_id"],
    "GetMetadataDelta": ["base_snapshot_id", "target_snapshot_id"],
    "NodeStageVolume": ["volume_id", "staging_target_path", "volume_capability"],
    "NodeUnstageVolume": ["volume_id", "staging_target_path"],
    "NodePublishVolume": ["volume_id", "target_path", "volume_capability"],
    "NodeUnpublishVolume": ["volume_id", "target_path"],
    "NodeGetVolumeStats": ["volume_id", "volume_path"],
    "NodeGetVolumeHealth": ["volume_id"],
    "NodeExpandVolume": ["volume_id", "volume_path"],
}

PATHS = ("staging_target_path", "target_path", "volume_path", "volume_publish_path")

# The chapters of docs/conformance.md, in the specification's order.
ORDER = ["Errors", "Fields", "Secrets", "Protocol", "GetPluginInfo", "GetPluginCapabilities", "Probe", "CreateVolume",
         "DeleteVolume", "ControllerPublishVolume", "ControllerUnpublishVolume", "ValidateVolumeCapabilities",
         "ListVolumes", "ControllerGetVolume", "ControllerGetVolumeHealth", "ControllerListVolumeHealth",
         "ControllerModifyVolume", "GetCapacity", "ControllerGetCapabilities", "CreateSnapshot", "DeleteSnapshot",
         "ListSnapshots", "GetSnapshot", "ControllerExpandVolume", "NodeStageVolume", "NodeUnstageVolume",
         "NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats", "NodeGetVolumeHealth",
         "NodeGetStorageHealth", "NodeGetCapabilities", "NodeGetInfo", "NodeExpandVolume",
         "GroupControllerGetCapabilities", "CreateVolumeGroupSnapshot", "DeleteVolumeGroupSnapshot",
         "GetVolumeGroupSnapshot", "GetMetadataAllocated", "GetMetadataDelta"]


@dataclasses.dataclass(frozen=True)
class Rule:
    rpc: str       # or the chapter of what holds for all
    name: str
    text: str
    part: str      # of the specification
    check: typing.Callable | None
    why: str       # there is no check
    needs: tuple   # capabilities, as "controller:LIST_VOLUMES"
    last: bool     # looks back at what all the others did

    @property
    def id(self):
        return f"{self.rpc}.{self.name}"


TABLE = []


def _add(rule_id, text, part, check, why="", needs=(), last=False):
    rpc, _, name = rule_id.partition(".")
    assert rpc in ORDER and name and all(one.id != rule_id for one in TABLE), rule_id
    every = tuple(one for one in (NEEDS.get(rpc), *needs) if one)
    TABLE.append(Rule(rpc, name, text, part or rpc, check, why, every if name != "as-advertised" else (), last))


def rule(rule_id, text, part="", needs=(), last=False):
    """Marks the function that checks a rule; it gets the Stack."""
    def take(function):
        _add(rule_id, text, part, function, needs=needs, last=last)
        return function
    return take


def not_applicable(rule_id, text, why, part="", needs=()):
    _add(rule_id, text, part, None, f"not applicable: {why}", needs)


def not_seen(rule_id, text, why, part="", needs=()):
    _add(rule_id, text, part, None, f"cannot be seen from outside: {why}", needs)


def ordered():
    """In the specification's order; those that look back come last."""
    return sorted(TABLE, key=lambda one: (one.last, ORDER.index(one.rpc)))
