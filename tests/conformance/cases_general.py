"""What holds for every RPC: errors, required fields, size limits, secrets, the socket; and the Identity service."""
import os
import pathlib
import re
import socket
import stat
import subprocess

import harness
import rules
from controller_stack import status
from rules import not_applicable, not_seen, rule
from stack import MARKER, ZONE, Node, equal, refused

SIZES = "Size Limits"
SOCKET = "Protocol, Connectivity"


# ---- every RPC: required fields, size limits, capabilities ----


def _required(rpc, field):
    def check(stack):
        request = stack.request(rpc)
        del request[field]
        refused("INVALID_ARGUMENT", lambda: stack.call(rpc, **request), field)
    rule(f"{rpc}.{field.replace('_', '-')}-required", f"Without `{field}`: INVALID_ARGUMENT, which names it.",
         "REQUIRED vs. OPTIONAL")(check)


def _too_long(stack, rpc):
    """(field, value beyond its limit) for each field that has one of its own."""
    fields = stack.client_of(rpc).request_type(rpc).DESCRIPTOR.fields
    for field in fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            yield field.name, {"k": "v" * 4096}
            yield field.name, {f"key-{i}": "v" * 100 for i in range(41)}
        elif field.type == field.TYPE_STRING and field.name not in rules.PATHS:
            long = "x" * (257 if field.name == "node_id" else 129)
            yield field.name, [long] if field.label == field.LABEL_REPEATED else long


def _sizes(rpc):
    def check(stack):
        for field, value in _too_long(stack, rpc):
            codes = ("INVALID_ARGUMENT", "ABORTED") if field == "starting_token" else "INVALID_ARGUMENT"
            refused(codes, lambda: stack.call(rpc, **{**stack.request(rpc), field: value}), field)
    rule(f"{rpc}.sizes", "A string of more than 128 bytes (`node_id`: 256), or a map of more than 4 KiB: "
         "INVALID_ARGUMENT, which names the field.", SIZES)(check)


def _paths(rpc, fields):
    def check(stack):
        for field in fields:
            deep = "/".join([str(stack.n1.folder), *["d" * 100] * 8])
            request = {**stack.request(rpc), field: deep}
            said = _words(stack, rpc, request)
            assert not said.startswith("INVALID_ARGUMENT"), said
            if not said and rpc == "NodeStageVolume":
                stack.call("NodeUnstageVolume", volume_id=request["volume_id"], staging_target_path=deep)
            refused("INVALID_ARGUMENT", lambda: stack.call(rpc, **{**stack.request(rpc), field: "relative/path"}), field)
    rule(f"{rpc}.paths", f"{', '.join(f'`{one}`' for one in fields)}: longer than 128 bytes is taken, and one that is not "
         "absolute is INVALID_ARGUMENT.")(check)


def _words(stack, rpc, request):
    import grpc
    try:
        stack.call(rpc, **request)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return ""


def _advertised(rpc, needs):
    def check(stack):
        import grpc
        try:
            stack.call(rpc)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        if needs in stack.capabilities:
            assert code != "UNIMPLEMENTED", f"{needs} is advertised, and the call is not served"
        else:
            equal(code, "UNIMPLEMENTED", f"{needs} is not advertised")
    rule(f"{rpc}.as-advertised", f"Served exactly if {needs.rpartition(':')[2]} is advertised, and UNIMPLEMENTED "
         "otherwise.", "Error Scheme")(check)


def _capability(rpc, field):
    """What every request with a volume capability has in common."""
    def send(stack, capability, *words):
        value = [capability] if field.endswith("ies") else capability
        refused("INVALID_ARGUMENT", lambda: stack.call(rpc, **{**stack.request(rpc), field: value}), *words)

    def incomplete(stack):
        for part in ("access_mode", "block"):
            capability = stack.capability()
            capability.ClearField(part)
            send(stack, capability, "access")
        unknown = stack.capability()
        unknown.access_mode.mode = 0
        send(stack, unknown, "access")

    def unsupported(stack, capability, *words):
        """Refused; what ValidateVolumeCapabilities says is that it does not confirm it."""
        if rpc != "ValidateVolumeCapabilities":
            return send(stack, capability, *words)
        answer = stack.call(rpc, **{**stack.request(rpc), field: [capability]})
        assert not answer.HasField("confirmed") and answer.message, answer
        return None

    def not_known(stack):
        capability = stack.capability()
        capability.access_mode.mode = 99
        unsupported(stack, capability, "access")

    def flags(stack):
        send(stack, _flags(stack), "mount_flags")
        send(stack, stack.capability(block=False, fs_type="x" * 129), "fs_type")

    def group(stack):
        unsupported(stack, stack.capability(block=False, volume_mount_group="1000"), "volume_mount_group")

    def _flags(stack):
        capability = stack.capability(block=False)
        capability.mount.mount_flags.extend(["nosuid" * 100] * 7)
        return capability

    rule(f"{rpc}.capability-complete", "A volume capability without access type or access mode: INVALID_ARGUMENT.",
         "VolumeCapability")(incomplete)
    rule(f"{rpc}.capability-known", "An access mode that the plugin does not know is refused, not taken for another.",
         "VolumeCapability")(not_known)
    rule(f"{rpc}.capability-sizes", "`mount_flags` of more than 4 KiB in all, or `fs_type` of more than 128 bytes: "
         "INVALID_ARGUMENT.", "MountVolume")(flags)
    rule(f"{rpc}.mount-group", "`volume_mount_group`, whose capability is not advertised, is refused, not silently "
         "dropped.", "MountVolume")(group)


for _rpc, _fields in rules.REQUIRED.items():
    for _field in _fields:
        _required(_rpc, _field)
for _rpc in rules.ORDER[7:]:
    if _rpc in rules.REQUIRED or _rpc.startswith("List") or _rpc in ("GetCapacity", "ControllerListVolumeHealth",
                                                                      "NodeGetStorageHealth"):
        _sizes(_rpc)
    if _rpc in rules.NEEDS:
        _advertised(_rpc, rules.NEEDS[_rpc])
for _rpc, _fields in (("NodeStageVolume", ["staging_target_path"]), ("NodeUnstageVolume", ["staging_target_path"]),
                      ("NodePublishVolume", ["target_path"]), ("NodeUnpublishVolume", ["target_path"]),
                      ("NodeGetVolumeStats", ["volume_path", "staging_target_path"]),
                      ("NodeExpandVolume", ["volume_path", "staging_target_path"])):
    _paths(_rpc, _fields)
for _rpc, _field in (("CreateVolume", "volume_capabilities"), ("ControllerPublishVolume", "volume_capability"),
                     ("ValidateVolumeCapabilities", "volume_capabilities"), ("NodeStageVolume", "volume_capability"),
                     ("NodePublishVolume", "volume_capability")):
    _capability(_rpc, _field)


# ---- the error scheme ----


@rule("Errors.message", "Every status but OK comes with words that a person can read.", "Error Scheme", last=True)
def errors_message(stack):
    silent = [one for one in stack.seen.failures if not one.words.strip()]
    assert not silent, f"{silent[0].rpc}: {silent[0].code} without a word"
    assert len(stack.seen.failures) > 100, "this run saw too few errors to say so"


@rule("Errors.details-empty", "`details` of a status is empty.", "Error Scheme", last=True)
def errors_details(stack):
    filled = [one for one in stack.seen.failures if one.has_details]
    assert not filled, f"{filled[0].rpc}: details"


@rule("Errors.canonical", "Only gRPC's canonical codes, and never UNKNOWN or INTERNAL for what the specification has a "
      "code for.", "Error Scheme", last=True)
def errors_canonical(stack):
    odd = [one for one in stack.seen.failures if one.code in ("UNKNOWN", "INTERNAL", "DATA_LOSS")]
    assert not odd, f"{odd[0].rpc}: {odd[0].code}: {odd[0].words}"


@rule("Errors.unknown-call", "A call that the plugin does not have is UNIMPLEMENTED.", "Error Scheme")
def errors_unknown(stack):
    for client in (stack.csi, stack.n1.csi):
        for path in ("/csi.v1.Controller/NoSuchCall", "/csi.v9.Nothing/AtAll"):
            call = client._channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            status("UNIMPLEMENTED", call, b"", timeout=10)


not_applicable("Errors.permission", "An identity that the secrets name and that may not make the call: PERMISSION_DENIED.",
               "no call derives an identity from its secrets", "Error Scheme")
not_applicable("Errors.unauthenticated", "Secrets that are needed and not valid: UNAUTHENTICATED.",
               "no call needs a secret of the CO; storage is reached by the plugin's own certificates", "Error Scheme")


# ---- fields ----


@rule("Fields.answers-within-limits", "No answer has a string, `node_id` or map beyond its limit, or a negative size.",
      SIZES, last=True)
def fields_answers(stack):
    for rpc, answer in stack.seen.answers:
        _check_answer(rpc, answer)
    assert len(stack.seen.answers) > 100, "this run saw too few answers to say so"


def _check_answer(rpc, message):
    for field, value in message.ListFields():
        where = f"{rpc}: {message.DESCRIPTOR.name}.{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            size = sum(len(key.encode()) + len(text.encode()) for key, text in value.items())
            assert size <= 4096, f"{where}: {size} bytes"
        elif field.type == field.TYPE_MESSAGE:
            for one in value if field.label == field.LABEL_REPEATED else [value]:
                _check_answer(rpc, one)
        elif field.type == field.TYPE_STRING and field.name not in ("message", "mount_flags"):
            for text in value if field.label == field.LABEL_REPEATED else [value]:
                assert len(text.encode()) <= (256 if "node_id" in field.name else 128), f"{where}: {text}"
        elif field.type == field.TYPE_INT64:
            assert value >= 0, f"{where}: {value}"


@rule("Fields.unknown-ignored", "Fields of a newer version of the protocol are skipped.", "ValidateVolumeCapabilities")
def fields_unknown(stack):
    request = stack.csi.messages.ControllerGetVolumeRequest(volume_id=stack.some().volume_id)
    extra = b"\xfa\x3e\x03abc" + b"\x98\x3f\x07"  # numbers 1007 (bytes) and 1011 (varint)
    equal(stack.call("ControllerGetVolume", raw=request.SerializeToString() + extra).volume.volume_id,
          stack.some().volume_id, "the volume")


@rule("Fields.malformed", "Bytes that are no such message, and strings that are not UTF-8 or hold a NUL: INVALID_ARGUMENT.",
      "Error Scheme")
def fields_malformed(stack):
    for rpc in ("CreateVolume", "DeleteVolume", "NodeUnstageVolume"):
        for raw in (b"\xff\xff\xff", b"\x0a\x04a\xc3(b", b"\x0a\x03a\x00b", b"\x0a\x7fshort"):
            refused("INVALID_ARGUMENT", lambda: stack.call(rpc, raw=raw))


# ---- secrets ----


@rule("Secrets.accepted", "The same secrets may come with every call that has a field for them; they change nothing.",
      "Secrets Requirements", last=True)
def secrets_accepted(stack):
    with_secrets = {rpc for rpc, _ in stack.seen.answers if stack.client_of(rpc).secret_fields(rpc)}
    assert {"CreateVolume", "DeleteVolume", "ControllerPublishVolume", "NodeStageVolume"} <= with_secrets, with_secrets


@rule("Secrets.not-logged", "No value of a field that the protocol marks as secret is in a log, a status, a process's command "
      "line or a file of the plugin.", "Secrets Requirements", last=True)
def secrets_not_logged(stack):
    logs = stack.logs()
    assert any("CreateVolume" in text for text in logs.values()), "the logs do not show the calls"
    for path, text in logs.items():
        assert MARKER not in text, f"{path} has a secret"
    for failure in stack.seen.failures:
        assert MARKER not in failure.words, f"{failure.rpc}: {failure.words}"
    for answer in stack.seen.answers:
        assert MARKER not in str(answer[1]), f"{answer[0]} answers a secret"
    for node in (stack.n1, stack.n2):
        for path in node.state.rglob("*"):
            if path.is_file() and not path.is_symlink() and "fuse" not in path.parts:
                assert MARKER.encode() not in path.read_bytes(), f"{path} has a secret"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        assert MARKER.encode() not in text, f"process {pid} shows a secret"


@rule("Secrets.marks", "Each field that the specification marks as secret is marked in the protocol file served here.",
      "csi_secret")
def secrets_marks(stack):
    listed, message = set(), ""
    for line in (harness.ROOT / "tests/integration/csi-1.13-fields.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("message "):
            message = line.split()[1]
        elif found := re.match(r"  \d+: \S+ (\w+).* SECRET", line):
            listed.add((message, found[1]))
    marked = {(kind, field.name) for kind, one in stack.csi.messages.DESCRIPTOR.message_types_by_name.items()
              for field in one.fields if field.GetOptions().Extensions[stack.csi.messages.csi_secret]}
    equal(marked, listed, "fields marked as secret")
    assert len(marked) > 15, marked


# ---- the socket ----


def _configured(stack, program, socket_path, folder, environment):
    """The program, started with this environment and ended again; what is then beside its socket."""
    config = dict((stack.controller if program == "mooring-controller" else stack.n2).config)
    config["endpoint"] = f"unix://{folder}/configured.sock"
    if program == "mooring-node":
        config.update(node_id="n9", state_dir=str(folder / "state"), tls=stack.tls.config("mooring:node:n9"))
    path = folder.parent / f"{folder.name}.json"
    path.write_text(harness.json.dumps(config))
    with open(folder.parent / f"{folder.name}.log", "ab") as log:
        process = subprocess.Popen([harness.program(program), "--config", str(path)], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, env={**os.environ, **environment})
    try:
        def listens():
            assert process.poll() is None, f"{program} ended: {path.with_suffix('.log').read_text()}"
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(socket_path)) == 0
        harness.wait_until(listens, f"{program} listens at {socket_path}", timeout_s=10)
        return sorted(one.name for one in socket_path.parent.iterdir())
    finally:
        harness.end_process(process)


@rule("Protocol.endpoint", "`CSI_ENDPOINT` says where the plugin listens.", "CSI_ENDPOINT")
def protocol_endpoint(stack):
    for program in ("mooring-controller", "mooring-node"):
        folder = stack.scratch.path / f"endpoint-{program}"
        folder.mkdir()
        equal(_configured(stack, program, folder / "csi.sock", folder, {"CSI_ENDPOINT": f"unix://{folder}/csi.sock"}),
              ["csi.sock"] if program == "mooring-controller" else ["csi.sock", "state"], "files beside the socket")


@rule("Protocol.endpoint-wrong", "An endpoint that is no unix socket is refused at the start: a plugin that is wrongly "
      "configured fails at once.", "Available Services")
def protocol_endpoint_wrong(stack):
    for program, config in (("mooring-controller", stack.controller.config), ("mooring-node", stack.n2.config)):
        path = stack.scratch.path / f"wrong-{program}.json"
        path.write_text(harness.json.dumps({**config, "endpoint": f"unix://{stack.scratch.path}/unused.sock"}))
        done = harness.run(harness.program(program), "--config", path, check=False, timeout=20,
                           env={**os.environ, "CSI_ENDPOINT": "tcp://127.0.0.1:9"})
        assert done.returncode != 0 and "tcp://127.0.0.1:9" in done.stdout, done.stdout


@rule("Protocol.socket-access", "The socket is not open to every user of the host.", "Security")
def protocol_socket(stack):
    for client in (stack.csi, stack.n1.csi):
        mode = os.stat(client._endpoint.removeprefix("unix://")).st_mode
        assert stat.S_ISSOCK(mode), "a socket"
        equal(stat.S_IMODE(mode) & 0o007, 0, "what others may do")


@rule("Protocol.nothing-beside", "The plugin makes no other file beside its socket.", "Filesystem")
def protocol_beside(stack):
    folder = stack.scratch.path / "beside"
    folder.mkdir()
    equal(_configured(stack, "mooring-controller", folder / "configured.sock", folder, {}), ["configured.sock"], "files")


@rule("Protocol.identity-everywhere", "Both plugins serve the Identity service at their socket.", "RPC Interface")
def protocol_identity(stack):
    for client in (stack.csi, stack.n1.csi, stack.n2.csi):
        client.GetPluginInfo()
        client.Probe()


@rule("Protocol.log-to-stderr", "Logs go to standard output or standard error.", "Logging", last=True)
def protocol_logs(stack):
    for path, text in stack.logs().items():
        assert "mooring" in text or not text, f"{path} holds no log"
    for node in (stack.n1, stack.n2):
        assert "NodeGetInfo" in node.log_text() or "Probe" in node.log_text(), "the log of a node"


not_seen("Protocol.environment", "Variables of our own do not begin with `CSI_`.",
         "the programs read CSI_ENDPOINT and none of their own from the environment", "Environment Variables")


# ---- Identity ----


@rule("GetPluginInfo.name", "`name` is a domain name of at most 63 characters, a letter or digit at both ends.")
def info_name(stack):
    for client in (stack.csi, stack.n1.csi):
        name = client.GetPluginInfo().name
        assert len(name) <= 63 and re.fullmatch(r"[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?", name), name
        assert all(re.fullmatch(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", part) for part in name.split(".")), name


@rule("GetPluginInfo.version", "`vendor_version` is given, and the same of all instances.")
def info_version(stack):
    versions = {client.GetPluginInfo().vendor_version for client in (stack.csi, stack.n1.csi, stack.n2.csi)}
    assert len(versions) == 1 and "" not in versions, versions


@rule("GetPluginInfo.same", "Controller and node plugin are one plugin: they have one name.")
def info_same(stack):
    equal(len({client.GetPluginInfo().name for client in (stack.csi, stack.n1.csi)}), 1, "names")


@rule("GetPluginCapabilities.same", "Every instance of a version reports the same capabilities, whatever it serves.")
def capabilities_same(stack):
    answers = {client.GetPluginCapabilities().SerializeToString(deterministic=True)
               for client in (stack.csi, stack.n1.csi, stack.n2.csi)}
    equal(len(answers), 1, "answers")


@rule("GetPluginCapabilities.known", "Each capability is a known one and is there once.")
def capabilities_known(stack):
    found = [one.SerializeToString() for one in stack.csi.GetPluginCapabilities().capabilities]
    equal(len(found), len(set(found)), "each once")
    assert "plugin:UNKNOWN" not in stack.capabilities, stack.capabilities


@rule("GetPluginCapabilities.controller-service", "With CONTROLLER_SERVICE the Controller service's calls are there.")
def capabilities_controller(stack):
    assert "plugin:CONTROLLER_SERVICE" in stack.capabilities
    stack.csi.ControllerGetCapabilities()


@rule("GetPluginCapabilities.topology", "Volumes and nodes name topologies only with VOLUME_ACCESSIBILITY_CONSTRAINTS.")
def capabilities_topology(stack):
    if stack.some().accessible_topology or stack.n1.csi.NodeGetInfo().HasField("accessible_topology"):
        assert "plugin:VOLUME_ACCESSIBILITY_CONSTRAINTS" in stack.capabilities, stack.capabilities


@rule("GetPluginCapabilities.expansion", "ONLINE or OFFLINE expansion needs EXPAND_VOLUME of the controller or the node.",
      "VolumeExpansion")
def capabilities_expansion(stack):
    if stack.capabilities & {"plugin:ONLINE", "plugin:OFFLINE"}:
        assert stack.capabilities & {"controller:EXPAND_VOLUME", "node:EXPAND_VOLUME"}, stack.capabilities


@rule("Probe.ready", "A plugin that can serve says so.")
def probe_ready(stack):
    for client in (stack.csi, stack.n1.csi):
        equal(client.Probe().ready.value, True, "ready")


@rule("Probe.starting", "A plugin that is healthy and not ready yet answers OK with `ready` false.", "ProbeResponse")
def probe_starting(stack):
    import controller_stack
    away = f"127.0.0.1:{harness.free_port()}"
    other = controller_stack.Controller(stack.scratch, stack.tls, "starting",
                                        [{**one, "address": away} for one in stack.servers()])
    try:
        answer = other.csi.Probe(wait_for_ready=True)
        assert answer.HasField("ready") and not answer.ready.value, answer
    finally:
        other.kill()
    node = Node(stack, "starting", servers=[{**one, "address": away} for one in stack.servers()])
    try:
        answer = node.csi.Probe()
        assert answer.HasField("ready") and not answer.ready.value, answer
    finally:
        node.kill()


@rule("Probe.unhealthy", "A plugin that lacks what it cannot work without: FAILED_PRECONDITION.", "Probe Errors")
def probe_unhealthy(stack):
    import controller_stack
    other = controller_stack.Controller(stack.scratch, stack.tls, "unhealthy", [])
    try:
        refused("FAILED_PRECONDITION", lambda: other.csi.Probe(wait_for_ready=True))
    finally:
        other.kill()
    node = Node(stack, "unhealthy", start=False, libexec_dir=str(stack.scratch.path / "nothing"))
    (node.tools / "iscsiadm").write_text("#!/bin/sh\nexit 127\n")
    (node.tools / "iscsiadm").chmod(0o755)
    node.start()
    try:
        harness.wait_until(lambda: harness.status_of(node.csi.Probe) == "FAILED_PRECONDITION", "it found no way to attach")
        refused("FAILED_PRECONDITION", node.csi.Probe, "mooring-device", "iscsiadm")
    finally:
        node.kill()


# ---- capabilities of the services ----


@rule("ControllerGetCapabilities.known", "Each capability is a known one and is there once.")
def controller_capabilities(stack):
    found = [one.rpc.type for one in stack.csi.ControllerGetCapabilities().capabilities]
    equal(len(found), len(set(found)), "each once")
    assert 0 not in found, found


@rule("ControllerGetCapabilities.consistent", "LIST_VOLUMES_PUBLISHED_NODES comes with PUBLISH_UNPUBLISH_VOLUME.")
def controller_consistent(stack):
    if "controller:LIST_VOLUMES_PUBLISHED_NODES" in stack.capabilities:
        assert "controller:PUBLISH_UNPUBLISH_VOLUME" in stack.capabilities


@rule("ControllerGetCapabilities.writers", "With SINGLE_NODE_MULTI_WRITER, SINGLE_NODE_WRITER is served all the same.",
      needs=("controller:SINGLE_NODE_MULTI_WRITER",))
def controller_writers(stack):
    for mode in ("SINGLE_NODE_WRITER", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_MULTI_WRITER"):
        volume = stack.create(volume_capabilities=[stack.capability(mode)])
        stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("NodeGetCapabilities.known", "Each capability is a known one and is there once.")
def node_capabilities(stack):
    found = [one.rpc.type for one in stack.n1.csi.NodeGetCapabilities().capabilities]
    equal(len(found), len(set(found)), "each once")
    assert 0 not in found, found


@rule("NodeGetCapabilities.no-mount-group", "VOLUME_MOUNT_GROUP is not advertised: the CO sets the group itself, which ext4 "
      "and xfs need.", "NodeGetCapabilities")
def node_no_mount_group(stack):
    assert "node:VOLUME_MOUNT_GROUP" not in stack.capabilities, "advertised"


not_applicable("NodeGetCapabilities.mount-group", "With VOLUME_MOUNT_GROUP the group goes to the mount call.",
               "VOLUME_MOUNT_GROUP is not advertised")


@rule("NodeGetInfo.node-id", "`node_id` is given, of at most 256 bytes, differs between nodes, and is what "
      "ControllerPublishVolume takes.")
def info_node_id(stack):
    ids = [node.csi.NodeGetInfo().node_id for node in (stack.n1, stack.n2)]
    assert len(set(ids)) == 2 and all(0 < len(one.encode()) <= 256 for one in ids), ids
    volume = stack.create()
    stack.csi.publish(volume.volume_id, ids[1])
    stack.csi.ControllerUnpublishVolume(volume_id=volume.volume_id)
    stack.csi.DeleteVolume(volume_id=volume.volume_id)


@rule("NodeGetInfo.max-volumes", "`max_volumes_per_node` is not negative.")
def info_max(stack):
    assert stack.n1.csi.NodeGetInfo().max_volumes_per_node >= 0


@rule("NodeGetInfo.topology", "The node's topology has well-formed keys and values, with the prefix that volumes have.",
      "Topology")
def info_topology(stack):
    place = stack.n1.csi.NodeGetInfo().accessible_topology.segments
    equal(dict(place), {ZONE: "a"}, "the node's")
    prefixes = {key.rpartition("/")[0] for one in (place, *(one.segments for one in stack.some().accessible_topology))
                for key in one}
    equal(len(prefixes), 1, "prefixes")


@rule("NodeGetInfo.topology-refused", "A topology with a key or value that the specification bars, or with two keys that "
      "differ in letter case alone, is refused when the program starts.", "Topology")
def info_topology_refused(stack):
    for wrong in ({"zone": "-a"}, {"zone": "x" * 64}, {"zone": ""}, {"-zone": "a"}, {"UPPER.example/zone": "a"},
                  {"a/b/c": "x"}, {"z" * 64: "a"}, {"Zone": "a", "zone": "b"}, {"zone": "a b"}):
        for program, config in (("mooring-node", stack.n2.config), ("mooring-target", stack.target.config)):
            path = stack.scratch.path / "topology.json"
            path.write_text(harness.json.dumps({**config, "topology": wrong}))
            done = harness.run(harness.program(program), "--config", path, check=False, timeout=20)
            assert done.returncode != 0 and "topology" in done.stdout, f"{program} takes {wrong}: {done.stdout}"

