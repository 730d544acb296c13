#!/usr/bin/python3
"""The scrub: a disk that cannot read some of a volume is found, told, and told no more once it was written anew."""
import errno
import json
import re
import sys

import harness
from harness import status_of
from target_fixture import MIB, Volume, expect

READ_ERRORS = 5
BLOCK = 4096


def kinds(health):
    return sorted(entry.kind for entry in health)


def write(session, block, byte):
    data = byte * BLOCK
    while True:
        status = session.wait(session.write(block, data))[0]
        if status != 2:  # CHECK CONDITION: of a unit attention, at first
            expect(status, 0, "a write")
            return


def place_on_disk(target, volume, offset):
    """Where a byte of the volume is on the pool's disk."""
    data = target.pool.path / "volumes" / volume.id / "data"
    listed = harness.run(harness.program("xfs_io"), "-r", "-c", "fiemap -v", data).stdout
    for low, high, start in re.findall(r"^\s*\d+:\s+\[(\d+)\.\.(\d+)\]:\s+(\d+)\.\.", listed, re.MULTILINE):
        if int(low) * 512 <= offset < (int(high) + 1) * 512:
            return int(start) * 512 + offset - int(low) * 512
    raise AssertionError(f"nothing at {offset}: {listed}")


def rounds(target):
    return target.log_text().count("scrub: a round begins"), target.log_text().count("has ended: read ")


def scrubbed(target):
    """A round from its beginning to its end."""
    harness.wait_until(lambda: len(set(rounds(target))) == 1, "no round runs")
    before = rounds(target)[1]
    expect(status_of(target.operator.StartScrub), "OK", "StartScrub")
    harness.wait_until(lambda: rounds(target)[1] > before, "a round has ended")
    return target.operator.GetScrub()


def found(answer):
    return [(entry.id, entry.offset, entry.length, entry.error) for entry in answer.errors]


def cli(scratch, target, *words):
    """What mooring prints, as JSON, and as a table."""
    config = scratch.path / "mooring.json"
    config.write_text(json.dumps({
        "servers": [{"id": target.server_id, "address": target.address, "pool_uuid": target.pool.uuid}],
        "tls": target.tls.config("mooring:operator")}))
    run = harness.program("mooring"), "--config", config
    return json.loads(harness.run(*run, "-o", "json", *words).stdout), harness.run(*run, *words).stdout


def unreadable_and_rewritten(scratch, tls):
    disk = harness.FaultyDisk(scratch)
    target = harness.Target(scratch, tls, harness.Pool(scratch, device=disk.device), scrub_bytes_per_s=1 << 30)
    volume, other = Volume(target, 8 * MIB), Volume(target, 8 * MIB)
    session = volume.attach().login()
    for block in range(64):
        write(session, block, b"x")
    answer = scrubbed(target)
    expect(found(answer), [], "what cannot be read of a good disk")
    expect(answer.last.read_bytes, 64 * BLOCK, "what was read")
    expect(answer.last.files_count, 2, "how many were read")
    assert volume.get().scrubbed_unix_s and other.get().scrubbed_unix_s, "when they were last read is not told"

    place = place_on_disk(target, volume, 20 * BLOCK)
    expect(disk.command(f"fail read -1 {errno.EIO} {place} {place + BLOCK}"), "ok", "the disk")
    answer = scrubbed(target)
    expect(found(answer), [(volume.id, 20 * BLOCK, BLOCK, "EIO")], "what cannot be read")
    expect(answer.last.unreadable_bytes, BLOCK, "how much cannot be read")
    expect(kinds(volume.get().health), [READ_ERRORS], "the volume's health")
    expect(kinds(other.get().health), [], "the other volume's")
    listed = {entry.volume_id: kinds(entry.health) for entry in target.controller.ListVolumes().volumes}
    expect(listed, {volume.id: [READ_ERRORS], other.id: []}, "health in the list")
    harness.wait_until(lambda: kinds(target.controller.GetServer().health) == [READ_ERRORS], "the server says so")
    assert f"{volume.id}: {BLOCK} bytes at offset {20 * BLOCK} cannot be read" in target.log_text(), "no line in the log"

    rows, table = cli(scratch, target, "pool", "scrub")
    expect((rows[0]["state"], rows[0]["errors_count"], rows[0]["last_unreadable_bytes"]), ("waiting", 1, BLOCK), table)
    rows, table = cli(scratch, target, "pool", "list")
    assert len(rows[0]["health"]) == 1 and volume.id in rows[0]["health"][0], rows
    assert rows[0]["health"][0] in table, table
    rows, table = cli(scratch, target, "pool", "scrub", "--errors")
    expect([(row["id"], row["offset"], row["length"], row["error"]) for row in rows], found(answer), "errors by mooring")
    assert volume.id in table and "EIO" in table, table

    session.close()
    expect(target.stop(), 0, "exit status")
    target.start()
    expect(found(target.operator.GetScrub()), [(volume.id, 20 * BLOCK, BLOCK, "EIO")], "after a restart")
    expect(target.operator.GetScrub().last.began_unix_s, answer.last.began_unix_s, "the last round after a restart")
    expect(kinds(volume.get().health), [READ_ERRORS], "the volume's health after a restart")

    session = volume.attach().login()
    write(session, 21, b"y")  # beside it
    expect(disk.command("fail read 0 0"), "ok", "the disk")
    write(session, 20, b"y")  # as a disk puts a sector elsewhere when it is written
    harness.wait_until(lambda: kinds(volume.get().health) == [], "the volume is well again")
    harness.wait_until(lambda: kinds(target.controller.GetServer().health) == [], "the server says so")
    rows, table = cli(scratch, target, "pool", "scrub", "--start", "--server", target.server_id)
    assert rows[0]["state"].startswith("reading") or rows[0]["state"] == "waiting", table
    expect(scrubbed(target).errors_count, 0, "what cannot be read in the end")
    session.close()
    expect(target.stop(), 0, "exit status")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        suite.run("unreadable-and-rewritten", unreadable_and_rewritten, scratch, tls)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
