#!/usr/bin/python3
"""mooring.storage.v1: each role tries each call, on its own objects and on another's."""
import sys

import harness
from harness import status_of
from target_fixture import Volume, expect, register

# Who may, as proto/storage.proto says it: C controller, N the node itself, O operator.
ALLOWED = {
    "GetServer": "CNO", "ClaimName": "C", "ReleaseName": "C", "CreateVolume": "C", "DeleteVolume": "C",
    "GetVolume": "CNO", "ListVolumes": "CO", "AttachVolume": "C", "DetachVolume": "C", "GetAttachment": "NO",
    "GrantGeneration": "N", "BeginFormat": "N", "EndFormat": "N", "RegisterNode": "N", "ListNodes": "CO",
    "FenceNode": "CO", "UnfenceNode": "O", "ListSessions": "CO", "ClearWriteFailed": "O", "ExpandVolume": "C",
    "ModifyVolume": "C", "CreateSnapshot": "C", "DeleteSnapshot": "C", "GetSnapshot": "CO", "ListSnapshots": "CO",
    "HoldVolumes": "C", "ReleaseVolumes": "C", "CommitSnapshots": "C", "ListExtents": "C",
    "GetScrub": "CO", "StartScrub": "O",
}
NODE_CALLS = [name for name, roles in ALLOWED.items() if "N" in roles and name not in ("GetServer", "GetVolume")]


def arguments(storage, call, volume_id, node_id):
    """Something harmless for each call: what is refused is refused before it is looked at."""
    fields = {"volume_id": volume_id, "node_id": node_id, "boot_id": "ab" * 16, "name": "a-name"}
    message = storage.request_fields(call)
    return {name: value for name, value in fields.items() if name in message}


def each_role(target):
    volume = Volume(target)
    volume.attach("n1")
    absent = f"{target.server_id}.{'1' * 16}"
    clients = {"C": target.controller, "O": target.operator, "N": target.node("n1")}
    strangers = {"a server": target.client("mooring:server:store-9"), "nobody": target.client("somebody"),
                 "a role that is none": target.client("mooring:root")}
    expect(sorted(target.controller.methods()), sorted(ALLOWED), "the calls of the service")
    for call, roles in ALLOWED.items():
        for role, client in clients.items():
            own = volume.id if role == "N" and call == "GetVolume" else absent
            status = status_of(getattr(client, call), **arguments(client, call, own, "n1"))
            expect(status == "PERMISSION_DENIED", role not in roles, f"{call} by {role} is refused ({status})")
        for who, client in strangers.items():
            status = status_of(getattr(client, call), **arguments(client, call, absent, "n1"))
            assert status in ("PERMISSION_DENIED", "UNAUTHENTICATED"), f"{call} by {who}: {status}"


def others_objects(target):
    volume = Volume(target)
    volume.attach("n1")
    register(target, "n2")
    stranger = target.node("n2")
    for call in NODE_CALLS:
        fields = arguments(stranger, call, volume.id, "n1")
        expect(status_of(getattr(stranger, call), **fields), "PERMISSION_DENIED", f"{call} for another node")
    expect(status_of(stranger.GetVolume, volume_id=volume.id), "PERMISSION_DENIED", "another node's volume")
    expect(status_of(stranger.GetVolume, volume_id=f"{target.server_id}.{'1' * 16}"), "PERMISSION_DENIED",
           "whether a volume exists")
    expect(status_of(stranger.GetAttachment, volume_id=volume.id, node_id="n2"), "NOT_FOUND", "its own, which is none")
    got = target.operator.GetAttachment(volume_id=volume.id, node_id="n1")
    assert got.chap_secret and not target.controller.GetVolume(volume_id=volume.id).volume.parameters


def no_certificate(target):
    """A client without a certificate does not get as far as a call."""
    import grpc
    channel = grpc.secure_channel(target.address, grpc.ssl_channel_credentials(target.tls.ca.read_bytes()),
                                  [("grpc.ssl_target_name_override", target.server_id)])
    call = channel.unary_unary("/mooring.storage.v1.Storage/GetServer", request_serializer=bytes,
                               response_deserializer=bytes)
    status = status_of(call, b"", timeout=5)
    channel.close()
    assert status in ("UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED"), status


def bad_values(target):
    c = target.controller
    register(target, "n1")
    expect(status_of(c.CreateVolume, volume_id="../etc", name="x", size_bytes=1 << 20), "INVALID_ARGUMENT", "a bad id")
    expect(status_of(c.CreateVolume, volume_id=f"store-9.{'2' * 16}", name="x", size_bytes=1 << 20), "INVALID_ARGUMENT",
           "another server's id")
    volume_id = f"{target.server_id}.{'3' * 16}"
    expect(status_of(c.CreateVolume, volume_id=volume_id, name="unclaimed", size_bytes=1 << 20), "ABORTED",
           "a name that nobody claimed")
    c.ClaimName(name="claimed", volume_id=volume_id)
    expect(status_of(c.CreateVolume, volume_id=f"{target.server_id}.{'4' * 16}", name="claimed", size_bytes=1 << 20),
           "ABORTED", "a name that is claimed for another volume")
    expect(c.ClaimName(name="claimed", volume_id=f"{target.server_id}.{'4' * 16}").volume_id, volume_id, "whose claim stands")
    for what, fields in {"size 0": {"size_bytes": 0}, "a size between blocks": {"size_bytes": 4097}}.items():
        expect(status_of(c.CreateVolume, volume_id=volume_id, name="claimed", **fields), "OUT_OF_RANGE", what)
    expect(status_of(c.CreateVolume, volume_id=volume_id, name="claimed", size_bytes=1 << 50), "RESOURCE_EXHAUSTED",
           "more than the pool has")
    c.CreateVolume(volume_id=volume_id, name="claimed", size_bytes=1 << 20)
    c.CreateVolume(volume_id=volume_id, name="claimed", size_bytes=1 << 20)
    expect(status_of(c.CreateVolume, volume_id=volume_id, name="claimed", size_bytes=2 << 20), "ALREADY_EXISTS",
           "the same volume with another size")
    expect(status_of(c.ReleaseName, name="claimed", volume_id=volume_id), "FAILED_PRECONDITION", "release in use")
    expect(status_of(c.AttachVolume, volume_id=volume_id, node_id="never-seen", access_mode=1), "NOT_FOUND",
           "attach to a node that never registered")
    expect(status_of(c.AttachVolume, volume_id=volume_id, node_id="n1", access_mode=0), "INVALID_ARGUMENT", "no mode")
    read = lambda: c.GetVolume(volume_id=volume_id).volume.record_generation
    expect(status_of(c.AttachVolume, volume_id=volume_id, node_id="n1", access_mode=1), "INVALID_ARGUMENT",
           "an attach that was decided on nothing")
    c.AttachVolume(volume_id=volume_id, node_id="n1", access_mode=1, record_generation=read())
    expect(status_of(c.DetachVolume, volume_id=volume_id, node_id="n1"), "INVALID_ARGUMENT",
           "a detach that was decided on nothing")
    expect(status_of(c.DeleteVolume, volume_id=volume_id), "FAILED_PRECONDITION", "delete of an attached volume")
    expect(status_of(c.AttachVolume, volume_id=volume_id, node_id="n1", access_mode=5), "ALREADY_EXISTS", "another mode")
    c.DetachVolume(volume_id=volume_id, node_id="")
    c.DeleteVolume(volume_id=volume_id)
    c.DeleteVolume(volume_id=volume_id)
    c.ReleaseName(name="", volume_id=volume_id)
    expect(c.ClaimName(name="claimed", volume_id=f"{target.server_id}.{'4' * 16}").volume_id[-1], "4", "the released name")
    expect(status_of(c.GetVolume, volume_id=volume_id), "NOT_FOUND", "a deleted volume")
    c.DetachVolume(volume_id=volume_id, node_id="n1")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        target = harness.Target(scratch, tls, harness.Pool(scratch), loops=2)
        suite.run("each-role-each-call", each_role, target)
        suite.run("others-objects", others_objects, target)
        suite.run("no-certificate", no_certificate, target)
        suite.run("bad-values", bad_values, target)
        suite.run("exit-status", lambda: expect(target.stop(), 0, "exit status"))
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
