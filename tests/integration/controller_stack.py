"""What the controller's and the CLI's tests share: storage servers with pools of their own, controllers in front of
them, and a client of the CSI services on a unix socket."""
import importlib
import json
import os
import socket
import sys
import time
import uuid

import harness
import raw_iscsi

MIB = 1 << 20


def poll_often():
    """gRPC's client looks after idle channels every 5 s only: reconnecting, and closing when a server drains, take that
    long. Every 0.1 s here, and only in this process: our own programs must not inherit it."""
    name = "GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS"
    try:
        import grpc
    except ImportError:
        return
    os.environ[name] = "100"
    grpc.insecure_channel("127.0.0.1:9").close()  # the variable is read when the library starts
    del os.environ[name]


poll_often()
CSI_PROTO = harness.ROOT / "proto" / "csi.proto"


def csi_messages(scratch):
    """The generated Python module of csi.proto."""
    folder = scratch.path / "python-csi"
    if not folder.exists():
        folder.mkdir()
        harness.run(harness.program("protoc"), "-I", CSI_PROTO.parent, "--python_out", folder, CSI_PROTO)
        sys.path.insert(0, str(folder))
    return importlib.import_module("csi_pb2")


class Csi:
    """A client: csi.CreateVolume(name=…, …) → response, of whichever service has the method; of a stream, a list."""

    def __init__(self, scratch, endpoint):
        self.messages = csi_messages(scratch)
        self._endpoint, self._channel = endpoint, None
        self.connect()
        self._services = {}
        for service in self.messages.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                self._services[method.name] = (service.full_name, method)
        scratch.callback(lambda: self._channel.close())

    def connect(self):
        """A new channel: one that was refused, or lost its server, looks again only after seconds."""
        import grpc
        if self._channel:
            self._channel.close()
        # grpcio's default authority for a unix socket is percent-encoded, which libgrpc's server refuses.
        self._channel = grpc.insecure_channel(self._endpoint, [("grpc.default_authority", "localhost"),
                                                               ("grpc.use_local_subchannel_pool", 1)])

    def __getattr__(self, name):
        service, method = self._services[name]
        request = getattr(self.messages, method.input_type.name)
        response = getattr(self.messages, method.output_type.name)
        streams = service.endswith(".SnapshotMetadata")
        make = self._channel.unary_stream if streams else self._channel.unary_unary
        call = make(f"/{service}/{name}", request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString)

        def invoke(timeout_s=30, wait_for_ready=False, **fields):
            answer = call(request(**fields), timeout=timeout_s, wait_for_ready=wait_for_ready)
            return list(answer) if streams else answer

        return invoke

    def capability(self, mode="SINGLE_NODE_WRITER", block=True, fs_type="", **mount):
        capability = self.messages.VolumeCapability()
        capability.access_mode.mode = self.messages.VolumeCapability.AccessMode.Mode.Value(mode)
        if block:
            capability.block.SetInParent()
        else:
            capability.mount.SetInParent()
            capability.mount.fs_type = fs_type
            for key, value in mount.items():
                setattr(capability.mount, key, value)
        return capability

    def create(self, name, size=MIB, timeout_s=30, **fields):
        """CreateVolume with what most tests do not care for."""
        fields.setdefault("volume_capabilities", [self.capability()])
        fields.setdefault("capacity_range", {"required_bytes": size})
        return self.CreateVolume(name=name, timeout_s=timeout_s, **fields).volume

    def wait_for_servers(self):
        """Until the controller reaches every storage server: it looks for one that was away once in a second."""
        harness.wait_until(lambda: harness.status_of(self.ControllerListVolumeHealth) == "OK",
                           "the controller reaches each storage server")

    def publish(self, volume_id, node_id, timeout_s=30, **fields):
        fields.setdefault("volume_capability", self.capability())
        return self.ControllerPublishVolume(volume_id=volume_id, node_id=node_id, timeout_s=timeout_s, **fields)


class Controller:
    """One mooring-controller; start() and kill() as often as wanted."""

    def __init__(self, scratch, tls, name, servers):
        self.scratch, self.name = scratch, name
        self.endpoint = f"unix://{scratch.path}/{name}.sock"
        self.log = scratch.path / f"{name}.log"
        self.config_path = scratch.path / f"{name}.json"
        self.config = {"endpoint": self.endpoint, "servers": servers, "tls": tls.config("mooring:controller")}
        self.process = None
        self.csi = Csi(scratch, self.endpoint)
        self.start()
        scratch.callback(lambda: self.kill())  # not in order: idle clients of ours would hold it up

    def start(self):
        self.config_path.write_text(json.dumps(self.config))
        self.process = self.scratch.start(harness.program("mooring-controller"), "--config", self.config_path,
                                          log=self.log)

        def listens():
            if self.process.poll() is not None:
                raise AssertionError(f"mooring-controller ended: {self.log_text()[-2000:]}")
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(self.endpoint.removeprefix("unix://")) == 0

        harness.wait_until(listens, "mooring-controller listens")
        self.csi.connect()
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self, **config):
        self.kill()
        self.config.update(config)
        return self.start()

    def log_text(self):
        return self.log.read_text(errors="replace")


class Target(harness.Target):
    """A storage server whose clients are made when it listens: one that was refused once looks again only after
    half a minute."""

    def wait_ready(self):
        def listens():
            if self.process.poll() is not None:
                raise AssertionError(f"mooring-target ended ({self.process.returncode}): {self.log_text()[-2000:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))) == 0

        harness.wait_until(listens, "mooring-target listens")
        self._clients.clear()
        super().wait_ready()


class Stack:
    """Storage servers s1, s2, … and two controllers over all of them."""

    def __init__(self, scratch, servers=3, topologies=None):
        self.scratch = scratch
        self.tls = harness.Tls(scratch)
        self.targets = []
        for i in range(servers):
            pool = harness.Pool(scratch, f"s{i + 1}", size="512MiB")
            extra = {"topology": topologies[i]} if topologies and topologies[i] else {}
            self.targets.append(Target(scratch, self.tls, pool, loops=1, **extra))
        self.a = Controller(scratch, self.tls, "controller-a", self.servers())
        self.b = Controller(scratch, self.tls, "controller-b", self.servers())
        harness.wait_until(lambda: self.a.csi.Probe().ready.value, "the controller is ready")

    def servers(self, gone=()):
        return [{"id": target.server_id, "address": target.address, "pool_uuid": target.pool.uuid,
                 "gone": target.server_id in gone} for target in self.targets]

    def target_of(self, volume_id):
        return next(target for target in self.targets if volume_id.startswith(target.server_id + "."))

    def register(self, node_id):
        """Register a compute node with every server, as mooring-node does. Its boot id."""
        boot_id = uuid.uuid4().hex
        for target in self.targets:
            target.node(node_id).RegisterNode(node_id=node_id, boot_id=boot_id, address="test")
        return boot_id

    def volumes(self, target):
        return list(target.controller.ListVolumes().volumes)

    def claim_of(self, target, name, kind="NAME_VOLUME"):
        """Whose claim of a name stands on a server: asked with an id that nobody makes, and taken back."""
        probe = {"NAME_VOLUME": f"{target.server_id}.{0:016x}", "NAME_SNAPSHOT": f"{target.server_id}.s-{0:016x}",
                 "NAME_GROUP": f"g-{0:016x}"}[kind]
        holder = target.controller.ClaimName(name=name, volume_id=probe, kind=kind).volume_id
        if holder != probe:
            return holder
        target.controller.ReleaseName(name=name, volume_id=probe, kind=kind)
        return None

    def session(self, volume_id, node_id):
        """An iSCSI session of the attachment (raw_iscsi.Initiator); the caller closes it."""
        target = self.target_of(volume_id)
        held = target.node(node_id).GetAttachment(volume_id=volume_id, node_id=node_id)
        initiator = raw_iscsi.Initiator(target.portal, isid=raw_iscsi.random_isid(),
                                        name=f"iqn.2026-11.storage.mooring:node:{node_id}")
        initiator.login(held.target_name, held.chap_name, held.chap_secret)
        return initiator

    def snapshots(self, target, **fields):
        return list(target.controller.ListSnapshots(**fields).snapshots)


def equal(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, not {expected!r}")


def status(expected, call, *arguments, contains="", **fields):
    """The call must end with this gRPC status, and its text contain these words."""
    import grpc
    try:
        call(*arguments, **fields)
    except grpc.RpcError as error:
        equal(error.code().name, expected, error.details())
        if contains not in error.details():
            raise AssertionError(f"{error.details()!r} does not name {contains!r}") from None
        return error.details()
    equal("OK", expected, f"{arguments} {fields}")
    return ""


def settle(call, *arguments, answers=("ABORTED", "UNAVAILABLE"), limit_s=30, **fields):
    """What a CO does: again while the answer says that it may work later. The result."""
    import grpc
    end = time.monotonic() + limit_s
    while True:
        try:
            return call(*arguments, **fields)
        except grpc.RpcError as error:
            if error.code().name not in answers or time.monotonic() > end:
                raise
        time.sleep(0.02)


def needs(stack, feature):
    """Skip unless every storage server serves it (GetServer.features)."""
    for target in stack.targets:
        if feature not in target.controller.GetServer().features:
            raise harness.Skip(f"this mooring-target does not serve {feature!r}")


def main(program, tests, servers=2):
    """Run a program's tests over one stack: servers in the zones a, b, …, and the nodes node-a and node-b."""
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = Stack(scratch, servers=servers, topologies=[{"zone": "abcdef"[i]} for i in range(servers)])
        except harness.Skip as why:
            for test in tests:
                print(f"SKIP {program}.{test.__name__[5:]}: {why}")
            return 0
        for node in ("node-a", "node-b"):
            stack.register(node)
        for test in tests:
            suite.run(f"{program}.{test.__name__[5:]}", test, stack)
    return suite.finish()
