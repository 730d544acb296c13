#!/usr/bin/python3
"""What mooring-node says and does when a storage server or its disk is in trouble: one server delays no other's volumes, and
a volume that takes no writes, or lost some, is named as such. Root is needed."""
import json
import signal
import subprocess
import sys

import controller_stack
import harness
from controller_stack import equal, status
from node_fixture import MIB, Node, Stack, run_all


class TwoServers(Stack):
    """Storage servers s1 and s2 in zones of their own, and node n1."""

    def __init__(self, scratch):  # pylint: disable=super-init-not-called
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        pools = [harness.Pool(scratch, name, size="2GiB") for name in ("s1", "s2")]
        self.targets = [harness.Target(scratch, self.tls, pool, loops=2, topology={"zone": pool.server_id})
                        for pool in pools]
        self.target = self.targets[0]
        self.controller = controller_stack.Controller(scratch, self.tls, "controller", self.servers())
        self.n1 = Node(self, "n1", topology={"zone": "s1"}).wait_registered()
        harness.wait_until(lambda: self.controller.csi.Probe().ready.value, "the controller is ready")

    def servers(self):
        return [{"id": target.server_id, "address": target.address, "pool_uuid": target.pool.uuid}
                for target in self.targets]


def test_hung_server_delays_no_other(stack):
    """A server that takes connections and answers nothing keeps only its own volumes without a successor."""
    node = stack.n1
    hung, well = stack.volume(block=True, zone="s1"), stack.volume(block=True, zone="s2")
    equal([one.id.split(".")[0] for one in (hung, well)], ["s1", "s2"], "where they are")
    for volume in (hung, well):
        node.use(volume)
    stack.targets[0].process.send_signal(signal.SIGSTOP)
    try:
        node.kill_device(hung)
        node.kill_device(well)
        node.wait_ready(well, 2)
        row = [row for row in devices_of(node) if row["volume_id"] == hung.id][0]
        assert row["state"] == "waiting" and "has ended" in row["error"], f"what is listed of a device that is gone: {row}"
        assert f"volume {hung.id}: mooring-device has ended, and no successor yet" not in node.log_text(), \
            "the call of the server that hangs ended first: the other volume waited for it"
    finally:
        stack.targets[0].process.send_signal(signal.SIGCONT)
    node.wait_ready(hung, 2)
    for volume in (hung, well):
        node.leave(volume)


def test_end_waits_for_no_round(stack):
    """Told to end while many volumes wait for a server that hangs, mooring-node does not try each of them first."""
    node, volumes = stack.n1, [stack.volume(block=True, zone="s1") for _ in range(3)]
    for volume in volumes:
        node.use(volume)
    stack.targets[0].process.send_signal(signal.SIGSTOP)
    try:
        for volume in volumes:
            node.kill_device(volume)
        node.process.terminate()
        node.process.wait()
    finally:
        stack.targets[0].process.send_signal(signal.SIGCONT)
    tries = node.log_text().rpartition("devices stay attached")[2].count("no successor yet")
    assert tries < len(volumes), f"tries after the signal: {tries}"
    node.start()
    for volume in volumes:
        node.wait_ready(volume, 2)
        node.leave(volume)


def set_write_failed(stack, volume):
    """In the volume's record, while the server is down: as after an error of its disk."""
    path = stack.target.pool.path / "volumes" / volume.id / "volume.json"
    stack.target.kill()
    path.write_text(json.dumps({**json.loads(path.read_text()), "write_failed": True}))
    stack.target.start()
    stack.controller.csi.wait_for_servers()


def test_write_failed_is_not_mounted(stack):
    """Stage of a write-failed volume says what is wrong and what to do; once cleared it works."""
    node, volume = stack.n1, stack.volume(size=64 * MIB, zone="s1")
    target = node.use(volume)
    (target / "file").write_text("there")
    node.leave(volume)
    set_write_failed(stack, volume)
    volume.publish(node)
    status("FAILED_PRECONDITION", node.stage, volume, contains="clear-failed")
    status("FAILED_PRECONDITION", node.publish, volume, contains="not staged")
    node.unstage(volume)
    stack.target.operator.ClearWriteFailed(volume_id=volume.id)
    node.stage(volume)
    node.publish(volume)
    equal((target / "file").read_text(), "there", "what was there before")
    node.leave(volume)


def test_failed_last_flush_is_reported(stack):
    """A device that cannot flush at its end: NodeUnstageVolume says so, once, and goes on with the repeat."""
    node, volume = stack.n1, stack.volume(size=64 * MIB, block=True, zone="s1")
    target = node.use(volume)
    subprocess.run(["dd", "if=/dev/urandom", f"of={target}", "bs=4096", "count=8", "oflag=direct", "conv=notrunc"],
                   stderr=subprocess.DEVNULL, check=True)
    set_write_failed(stack, volume)
    harness.wait_until(lambda: node.status(volume).get("error"), "the device tells that it takes no writes")
    listed = ("fuse", "ready", node.device(volume))
    rows = []

    def is_listed():
        rows[:] = [row for row in devices_of(node) if row["volume_id"] == volume.id]
        return (rows[0]["attach"], rows[0]["state"], rows[0]["block_device"]) == listed

    harness.wait_until(is_listed, "the device is listed as ready again, now that the server is back")
    row = rows[0]
    assert "only reads" in row["error"], row
    node.unpublish(volume)
    seen = [status_and_words(node, volume) for _ in range(2)]
    assert seen[0][0] != "OK" and "may be lost" in seen[0][1], seen
    equal(seen[1][0], "OK", f"the repeat: {seen[1][1]}")
    assert "ended with an error" in node.log_text(), "the log says it too"
    assert not node.volume_dir(volume).exists()
    volume.unpublish(node)


def devices_of(node):
    """What `mooring node devices` lists."""
    done = subprocess.run([harness.program("mooring"), "-o", "json", "node", "devices", "--node-socket", node.endpoint],
                          check=True, stdout=subprocess.PIPE, timeout=30)
    return json.loads(done.stdout)


def status_and_words(node, volume):
    import grpc  # as in harness
    try:
        node.unstage(volume)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


if __name__ == "__main__":
    sys.exit(run_all(globals(), make_stack=TwoServers))
