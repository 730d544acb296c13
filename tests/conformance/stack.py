"""What the conformance cases run against: two storage servers in zones a and b, a controller and two compute nodes, all of
them the real programs; and a client of the CSI services that sends secrets along wherever a request can carry them, and
remembers every answer."""
import dataclasses
import pathlib
import random
import sys
import threading
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import controller_stack
import harness
import node_fixture
import rules
from controller_stack import equal
from google.protobuf import descriptor_pb2

MIB = 1 << 20
MARKER = f"conformance-secret-{random.SystemRandom().randrange(1 << 62):016x}"
ZONE = "topology.csi.mooring.storage/zone"


@dataclasses.dataclass
class Failure:
    """A call that did not end with OK."""
    rpc: str
    code: str
    words: str
    has_details: bool


class Seen:
    """Every answer of a run."""

    def __init__(self):
        self.failures, self.answers, self.calls = [], [], 0

    def failure(self, rpc, error):
        details = any(key == "grpc-status-details-bin" and value for key, value in error.trailing_metadata() or ())
        self.failures.append(Failure(rpc, error.code().name, error.details() or "", details))


class Client(controller_stack.Csi):
    """csi.CreateVolume(name=…) → the answer; a list of answers of a stream."""

    def __init__(self, scratch, endpoint, seen):
        super().__init__(scratch, endpoint)
        self.seen = seen
        file = descriptor_pb2.FileDescriptorProto()
        self.messages.DESCRIPTOR.CopyToProto(file)
        self._streams = {method.name for service in file.service for method in service.method
                         if method.server_streaming}

    def request_type(self, rpc):
        return getattr(self.messages, self._services[rpc][1].input_type.name)

    def secret_fields(self, rpc):
        """Those that the protocol marks."""
        mark = self.messages.csi_secret
        return [field.name for field in self.request_type(rpc).DESCRIPTOR.fields if field.GetOptions().Extensions[mark]]

    def __getattr__(self, name):
        service, method = self._services[name]
        request = getattr(self.messages, method.input_type.name)
        response = getattr(self.messages, method.output_type.name)
        make = self._channel.unary_stream if name in self._streams else self._channel.unary_unary
        call = make(f"/{service}/{name}", request_serializer=lambda one: one if isinstance(one, bytes) else
                    one.SerializeToString(), response_deserializer=response.FromString)

        def invoke(timeout_s=30, wait_for_ready=False, raw=None, **fields):
            import grpc
            for field in self.secret_fields(name):
                fields.setdefault(field, {"user.name_1": MARKER, "password": f"{MARKER}-2"})
            self.seen.calls += 1
            try:
                answer = call(request(**fields) if raw is None else raw, timeout=timeout_s, wait_for_ready=wait_for_ready)
                answers = list(answer) if name in self._streams else [answer]
            except grpc.RpcError as error:
                self.seen.failure(name, error)
                raise
            self.seen.answers.extend((name, one) for one in answers)
            return answers if name in self._streams else answer

        return invoke


class Node(node_fixture.Node):
    def __init__(self, stack, node_id, start=True, **config):
        super().__init__(stack, node_id, start=False, **config)
        self.csi = Client(stack.scratch, self.endpoint, stack.seen)
        if start:
            self.start()

    def _serves(self):
        """Also where its answer is that it will never be ready."""
        return super()._serves() or harness.status_of(self.csi.Probe, timeout_s=5) == "FAILED_PRECONDITION"


class Stack:
    def __init__(self, scratch):
        self.scratch, self.tls, self.seen = scratch, harness.Tls(scratch), Seen()
        self.targets = [self._target("s1", "8GiB", "a"), self._target("s2", "512MiB", "b")]
        self.target = self.targets[0]
        self.controller = controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        self.controller.restart(log_level="debug")
        self.csi = self.controller.csi = Client(scratch, self.controller.endpoint, self.seen)
        self.n1 = Node(self, "n1", topology={ZONE: "a"}).wait_registered()
        self.n2 = Node(self, "n2", topology={ZONE: "b"}).wait_registered()
        for plugin in (self, self.n1, self.n2):
            harness.wait_until(lambda csi=plugin.csi: csi.Probe().ready.value, "the plugins are ready")
        self.capabilities = self._capabilities()
        self._kept = {}

    def _target(self, server_id, size, zone):
        return harness.Target(self.scratch, self.tls, harness.Pool(self.scratch, server_id, size=size), loops=2,
                              topology={ZONE: zone})

    def servers(self):
        return [{"id": one.server_id, "address": one.address, "pool_uuid": one.pool.uuid} for one in self.targets]

    # ---- what is advertised ----

    def _capabilities(self):
        messages, found = self.csi.messages, set()
        for one in self.csi.GetPluginCapabilities().capabilities:
            if one.HasField("service"):
                found.add(f"plugin:{messages.PluginCapability.Service.Type.Name(one.service.type)}")
            else:
                found.add(f"plugin:{messages.PluginCapability.VolumeExpansion.Type.Name(one.volume_expansion.type)}")
        for one in self.csi.ControllerGetCapabilities().capabilities:
            found.add(f"controller:{messages.ControllerServiceCapability.RPC.Type.Name(one.rpc.type)}")
        for one in self.n1.csi.NodeGetCapabilities().capabilities:
            found.add(f"node:{messages.NodeServiceCapability.RPC.Type.Name(one.rpc.type)}")
        if "plugin:GROUP_CONTROLLER_SERVICE" in found:
            for one in self.csi.GroupControllerGetCapabilities().capabilities:
                found.add(f"group:{messages.GroupControllerServiceCapability.RPC.Type.Name(one.rpc.type)}")
        return found

    def lacking(self, rule):
        return [one for one in rule.needs if one not in self.capabilities]

    # ---- volumes ----

    def capability(self, *arguments, **fields):
        return self.csi.capability(*arguments, **fields)

    def create(self, size=MIB, **fields):
        """CSI's Volume of a new one, on server s1 unless the fields say otherwise."""
        fields.setdefault("accessibility_requirements", {"requisite": [{"segments": {ZONE: "a"}}]})
        return self.csi.create(f"c-{uuid.uuid4().hex[:12]}", size=size, **fields)

    def create_named(self, name, **fields):
        return self.csi.create(name, **fields)

    def target_of(self, volume_id):
        return next(one for one in self.targets if volume_id.startswith(f"{one.server_id}."))

    def volume(self, **fields):
        """One that goes through the node's calls (node_fixture)."""
        return node_fixture.Volume(self, zone="a", **fields)

    def kept(self, key, make):
        """Made once a run: what several rules only look at."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def some(self):
        """A volume that stays, for requests of which something else is wrong."""
        return self.kept("some", self.create)

    def attached(self):
        """Block, attached to n1, neither staged nor published: for requests of which something else is wrong."""
        return self.kept("attached", lambda: self.volume(block=True).publish(self.n1))

    def in_use(self):
        """ext4, staged and published at n1; its mode allows several paths."""
        def make():
            volume = self.volume(mode="SINGLE_NODE_MULTI_WRITER", fs_type="ext4")
            self.n1.use(volume)
            return volume
        return self.kept("in use", make)

    def block_in_use(self):
        def make():
            volume = self.volume(mode="SINGLE_NODE_MULTI_WRITER", block=True)
            self.n1.use(volume)
            return volume
        return self.kept("block in use", make)

    def snapshot(self):
        """A snapshot that stays, ready."""
        return self.kept("snapshot", lambda: self.cut(self.some().volume_id))

    def cut(self, volume_id, name=None):
        return self.ready(name or f"c-{uuid.uuid4().hex[:12]}", volume_id)

    def ready(self, name, volume_id):
        """CreateSnapshot again and again, as a CO does, until it is ready to use."""
        def made():
            snapshot = self.csi.CreateSnapshot(name=name, source_volume_id=volume_id).snapshot
            return snapshot if snapshot.ready_to_use else None
        return harness.wait_until(made, f"snapshot {name} is ready to use")

    def group(self):
        """A group of snapshots of two volumes on two servers, that stays."""
        def make():
            other = self.create(accessibility_requirements={"requisite": [{"segments": {ZONE: "b"}}]})
            return self.csi.CreateVolumeGroupSnapshot(
                name=f"c-{uuid.uuid4().hex[:12]}",
                source_volume_ids=[self.some().volume_id, other.volume_id]).group_snapshot
        return self.kept("group", make)

    # ---- requests that are right ----

    def client_of(self, rpc):
        return self.n1.csi if rpc.startswith("Node") else self.csi

    def request(self, rpc):
        """A good request's fields. What sends it changes at least one of them into something that is refused."""
        if rpc.startswith("Node"):
            return self._node_request(rpc)
        block, volume_id = self.capability(), self.some().volume_id
        if "Group" in rpc or "Snapshot" in rpc or rpc.startswith("GetMetadata"):
            return self._snapshot_request(rpc, volume_id)
        return {
            "CreateVolume": {"name": "never", "capacity_range": {"required_bytes": MIB}, "volume_capabilities": [block]},
            "DeleteVolume": {"volume_id": self.kept("to delete", self.create).volume_id},
            "ControllerPublishVolume": {"volume_id": volume_id, "node_id": "n1", "volume_capability": block},
            "ControllerUnpublishVolume": {"volume_id": volume_id, "node_id": "n1"},
            "ValidateVolumeCapabilities": {"volume_id": volume_id, "volume_capabilities": [block]},
            "ListVolumes": {"max_entries": 1},
            "ControllerGetVolume": {"volume_id": volume_id},
            "ControllerGetVolumeHealth": {"volume_id": volume_id},
            "ControllerListVolumeHealth": {"max_entries": 1},
            "ControllerModifyVolume": {"volume_id": volume_id, "mutable_parameters": {"iopsLimit": "1000"}},
            "ControllerExpandVolume": {"volume_id": volume_id, "capacity_range": {"required_bytes": MIB}},
            "GetCapacity": {"volume_capabilities": [block]},
        }.get(rpc, {})

    def _snapshot_request(self, rpc, volume_id):
        if rpc in ("CreateSnapshot", "CreateVolumeGroupSnapshot"):
            source = {"source_volume_id": volume_id} if rpc == "CreateSnapshot" else {"source_volume_ids": [volume_id]}
            return {"name": f"never-{rpc}", **source}
        if "Group" in rpc:
            if rpc == "GroupControllerGetCapabilities":
                return {}
            group = self.group()
            return {"group_snapshot_id": group.group_snapshot_id,
                    "snapshot_ids": [one.snapshot_id for one in group.snapshots]}
        if rpc == "ListSnapshots":
            return {"max_entries": 1}
        snapshot_id = self.snapshot().snapshot_id
        if rpc == "DeleteSnapshot":
            return {"snapshot_id": self.kept("to delete too", lambda: self.cut(volume_id)).snapshot_id}
        if rpc == "GetMetadataDelta":
            return {"base_snapshot_id": snapshot_id, "target_snapshot_id": snapshot_id}
        return {"snapshot_id": snapshot_id}

    def _node_request(self, rpc):
        volume, node = self.attached(), self.n1
        known = {"volume_id": volume.id, "volume_capability": volume.capability, "publish_context": volume.context,
                 "volume_context": volume.volume_context, "staging_target_path": str(node.staging(volume)),
                 "target_path": str(node.path(volume)), "volume_path": str(node.staging(volume)),
                 "volume_publish_path": str(node.path(volume)), "capacity_range": {"required_bytes": 64 * MIB}}
        fields = self.n1.csi.request_type(rpc).DESCRIPTOR.fields_by_name
        return {key: value for key, value in known.items() if key in fields}

    # ---- calls ----

    def call(self, rpc, timeout_s=30, raw=None, **fields):
        return getattr(self.client_of(rpc), rpc)(timeout_s=timeout_s, raw=raw, **fields)

    def at_once(self, rpc, count=4, **fields):
        """The same call from several threads; [(code, answer or None)]."""
        import grpc
        results, gate = [], threading.Barrier(count)

        def run():
            gate.wait()
            try:
                results.append(("OK", self.call(rpc, **fields)))
            except grpc.RpcError as error:
                results.append((error.code().name, None))

        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def logs(self):
        """Every log of the run, by its name."""
        paths = {self.controller.log, self.n1.log, self.n2.log, *(one.log for one in self.targets)}
        for node in (self.n1, self.n2):
            paths.update((node.state / "volumes").glob("*/log"))
        return {str(path): path.read_text(errors="replace") for path in paths if path.exists()}


def refused(codes, call, *words, **fields):
    """The call must end with this gRPC status (or one of these), in words that name what they must; the words."""
    import grpc
    codes = (codes,) if isinstance(codes, str) else codes
    try:
        call(**fields)
    except grpc.RpcError as error:
        code, said = error.code().name, error.details() or ""
        assert code in codes, f"{code} ({said}), not {' or '.join(codes)}"
        for word in words:
            assert word in said, f"{said!r} does not name {word!r}"
        return said
    raise AssertionError(f"OK, not {' or '.join(codes)}")


def same_or_aborted(results, key=lambda answer: answer.SerializeToString(deterministic=True)):
    """Several calls at once: each has the one outcome, or was told to come again."""
    codes = {code for code, _ in results}
    assert codes <= {"OK", "ABORTED"} and "OK" in codes, sorted(code for code, _ in results)
    assert len({key(answer) for code, answer in results if code == "OK"}) == 1, "answers differ"


__all__ = ["MARKER", "MIB", "ZONE", "Stack", "equal", "refused", "rules", "same_or_aborted"]
