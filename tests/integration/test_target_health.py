#!/usr/bin/python3
"""Health: a pool that fills up and is full, volumes that are write-failed or unreadable, and what is lost then: nothing."""
import errno
import os
import re
import struct
import sys

import harness
from controller_stack import Controller
from harness import status_of
from target_fixture import MIB, Volume, expect
from target_metrics import pool_states, scrape

SPACE_ALLOCATION_FAILED = 0x2707
WRITE_FAILED, UNREADABLE, POOL_FILLING, POOL_FULL = 1, 2, 3, 4
FLUSH = b"\x35".ljust(10, b"\0")


def kinds(health):
    return sorted(entry.kind for entry in health)


def server_health(target):
    return kinds(target.controller.GetServer().health)


def ready(attachment):
    session = attachment.login(extra=[("MaxBurstLength", str(MIB))])
    while session.wait(session.command(b"\0" * 6))[0]:
        pass
    return session


def code_of(answer):
    return struct.unpack(">H", answer[2][12:14])[0] if answer[2] else 0


def unmap(session, mib, count):
    """`count` MiB from there on."""
    data = struct.pack(">HH4xQI4x", 22, 16, mib * 256, count * 256)
    return session.wait(session.command(struct.pack(">BB5xH", 0x42, 0, len(data)), write=len(data), data=data))[0]


WARNING_PERCENT = 70
SHARE = 180  # MiB of each volume: one alone never fills the pool, together they promise more than it has


class Writer:
    """Writes of 1 MiB with R2T over several volumes, each block marked with its place."""

    def __init__(self, sessions):
        self.sessions, self.stands = sessions, 0

    @staticmethod
    def data(mib):
        return struct.pack("<QQ", mib, ~mib & (1 << 64) - 1) * 65536

    def write(self, mib):
        session = self.sessions[mib // SHARE]
        tag = session.write(mib % SHARE * 256, self.data(mib), immediate=0)
        session.data_out_all(session.r2t(), self.data(mib))
        return session.wait(tag)

    def until_used(self, target, percent):
        """Until the pool's file system has that much of itself in use, and hardly more."""
        server = target.controller.GetServer()
        while server.used_bytes * 100 < server.capacity_bytes * percent:
            expect(self.write(self.stands)[0], 0, f"the write of MiB {self.stands}")
            self.stands += 1
            server = target.controller.GetServer()

    def until_refused(self):
        """The answer that ends it."""
        while True:
            answer = self.write(self.stands)
            if answer[0]:
                return answer
            self.stands += 1

    def check(self):
        for mib in range(self.stands):
            session = self.sessions[mib // SHARE]
            status, data, _ = session.wait(session.read(mib % SHARE * 256, 256))
            assert status == 0 and data == self.data(mib), f"MiB {mib} is not what was answered (status {status})"

    def close(self):
        for session in self.sessions:
            session.close()


def csi_health(csi, volume):
    """What CSI says of it, the same by both calls: (status, reason) of each entry."""
    one = csi.ControllerGetVolumeHealth(volume_id=volume.id).volume_health
    listed = [entry for entry in csi.ControllerListVolumeHealth().entries if entry.volume_id == volume.id]
    expect(listed, [one] if one.health_statuses else [], "the entry in the list")
    names = csi.messages.VolumeHealthErrorType
    return [(names.Name(entry.status), entry.reason) for entry in one.health_statuses]


def beyond_free(target, csi):
    """What is free of a pool that overcommits is what nobody uses yet; a volume may be larger."""
    server = target.controller.GetServer()
    assert 0 < server.free_bytes < server.capacity_bytes - server.used_bytes, server
    capacity = csi.GetCapacity()
    expect(capacity.available_capacity, server.free_bytes // MIB * MIB, "available_capacity")
    expect(capacity.maximum_volume_size.value, server.promise_max_bytes // MIB * MIB, "maximum_volume_size")
    expect(csi.GetCapacity(parameters={"provisioning": "thick"}).maximum_volume_size.value, capacity.available_capacity,
           "maximum_volume_size of what is allocated at once")
    made = csi.create("beyond", size=capacity.maximum_volume_size.value)
    csi.DeleteVolume(volume_id=made.volume_id)
    expect(status_of(csi.create, "beyond", size=capacity.maximum_volume_size.value + MIB), "RESOURCE_EXHAUSTED",
           "more than can be promised")


def warned(target, csi, volumes, writer):
    """Writes that stop where the warning begins: it is in the log, and in the health of all that it concerns."""
    expect(server_health(target), [], "the health of an empty pool")
    expect(csi_health(csi, volumes[0]), [], "CSI's health of its volumes")
    writer.until_used(target, WARNING_PERCENT)
    harness.wait_until(lambda: server_health(target) == [POOL_FILLING], "the server warns")
    for volume in volumes:
        expect(kinds(volume.get().health), [POOL_FILLING], "the volume's health")
        expect(csi_health(csi, volume), [("DEGRADED", "PoolFilling")], "CSI's health of the volume")
    samples = scrape(target.config["metrics_address"])
    expect((pool_states(samples), samples["mooring_pool_overcommitted"]), (["filling"], 1), "the metrics")
    text = csi.ControllerGetVolumeHealth(volume_id=volumes[0].id).volume_health.health_statuses[0].message
    assert "is filling up: " in text and "before it is full, delete" in text, text
    beyond_free(target, csi)
    expect([target.log_text().count(words) for words in (" is filling up: ", " is full: ")], [1, 0], "lines in the log")


def full(target, csi):
    """Writes until the pool is full; what was answered is there, after a restart too; then there is space again."""
    volumes = [Volume(target, SHARE * MIB) for _ in range(2)]
    other = Volume(target, MIB)
    attachments = [volume.attach() for volume in volumes]
    writer = Writer([ready(attachment) for attachment in attachments])
    warned(target, csi, volumes, writer)
    expect(code_of(writer.until_refused()), SPACE_ALLOCATION_FAILED, "the sense of what has no space")
    assert writer.stands > SHARE, f"{writer.stands} MiB were written"
    expect(writer.sessions[1].wait(writer.sessions[1].command(FLUSH))[0], 0, "a flush on a full pool")
    harness.wait_until(lambda: server_health(target) == [POOL_FULL], "the server says so")
    expect(kinds(volumes[1].get().health), [POOL_FULL], "the volume's health")
    expect(csi_health(csi, volumes[1]), [("DEGRADED", "PoolFull")], "CSI's health of the volume")
    samples = scrape(target.config["metrics_address"])
    expect((pool_states(samples), samples["mooring_writes_refused_total"] > 0), (["full"], True), "the metrics")
    expect((csi.GetCapacity().available_capacity, csi.GetCapacity().maximum_volume_size.value), (0, 0), "capacity")
    expect(volumes[1].get().write_failed, False, "write-failed")
    assert "is full: " in target.log_text(), "the log does not say so"
    expect(writer.write(0)[0], 0, "a write to what has its space")
    expect(status_of(other.attach), "OK", "an attach on a full pool")
    writer.check()
    writer.close()
    target.kill()
    before = len(target.log_text())
    target.start()
    harness.wait_until(lambda: server_health(target) == [POOL_FULL], "the server says so after a restart")
    words = re.findall(r" is (filling up|full): ", target.log_text()[before:])
    expect(words, ["filling up", "full"], "what the log says of a pool that one look finds good and the next one full")
    writer.sessions = [ready(attachment) for attachment in attachments]
    writer.check()
    expect(code_of(writer.write(writer.stands)), SPACE_ALLOCATION_FAILED, "a write after a restart")
    expect(unmap(writer.sessions[0], 50, 40), 0, "an UNMAP on a full pool")
    for mib in range(50, 80):
        expect(writer.write(mib)[0], 0, "a write when there is space again")
    harness.wait_until(lambda: server_health(target) == [POOL_FILLING], "the pool is not full any more")
    writer.close()
    volumes[1].detach()
    volumes[0].detach()
    expect(status_of(target.controller.DeleteVolume, volume_id=volumes[0].id), "OK", "a deletion")
    harness.wait_until(lambda: server_health(target) == [], "the pool is not filling up any more")
    expect(target.log_text().count("is full: "), 2, "lines that say that it is full, in two lives")
    expect(status_of(target.controller.DeleteVolume, volume_id=volumes[1].id), "OK", "a deletion")


def promises_kept(target):
    """A pool that has all that it promised: how much of it is in use concerns the operator, and no volume."""
    expect(target.stop(), 0, "exit status")
    target.config.update(overcommit=False, pool_warning_percent=1)
    target.start()
    volume = Volume(target)
    harness.wait_until(lambda: server_health(target) == [POOL_FILLING], "the server warns")
    expect(kinds(volume.get().health), [], "the volume's health")


def write_failed(scratch, tls):
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, "store-3", device=disk.device))
    volume, other = Volume(target), Volume(target)
    session = ready(volume.attach())
    expect(session.wait(session.write(0, b"1" * 4096))[0], 0, "a write")
    disk.command(f"fail flush 1 {errno.EIO}")
    session.wait(session.command(FLUSH))
    harness.wait_until(lambda: volume.get().write_failed, "the volume is write-failed")
    expect(kinds(volume.get().health), [WRITE_FAILED], "its health")
    expect(kinds(other.get().health), [], "the health of another")
    harness.wait_until(lambda: server_health(target) == [WRITE_FAILED], "the server says so")
    text = target.controller.GetServer().health[0].message
    assert volume.id in text, text
    target.operator.ClearWriteFailed(volume_id=volume.id)
    expect(kinds(volume.get().health), [], "its health after it was cleared")
    harness.wait_until(lambda: server_health(target) == [], "the server is well again")
    expect(target.stop(), 0, "exit status")


def unreadable(scratch, tls):
    pool = harness.Pool(scratch, "store-4")
    target = harness.Target(scratch, tls, pool)
    volume, other = Volume(target), Volume(target)
    expect(target.stop(), 0, "exit status")
    record = pool.path / "volumes" / volume.id / "volume.json"
    os.truncate(record, 10)
    target.start()
    listed = {entry.volume_id: kinds(entry.health) for entry in target.controller.ListVolumes().volumes}
    expect(listed, {volume.id: [UNREADABLE], other.id: []}, "health in the list")
    harness.wait_until(lambda: server_health(target) == [UNREADABLE], "the server says so")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        small = harness.Target(scratch, tls, harness.Pool(scratch, size="320MiB"), overcommit=True,
                               pool_warning_percent=WARNING_PERCENT,
                               metrics_address=f"127.0.0.1:{harness.free_port()}")
        controller = Controller(scratch, tls, "controller", [
            {"id": small.server_id, "address": small.address, "pool_uuid": small.pool.uuid}])
        suite.run("full", full, small, controller.csi)
        suite.run("promises-kept", promises_kept, small)
        suite.run("exit-status", lambda: expect(small.stop(), 0, "exit status"))
        suite.run("write-failed", write_failed, scratch, tls)
        suite.run("unreadable", unreadable, scratch, tls)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
