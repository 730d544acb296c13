#!/usr/bin/python3
"""mooring, the operators' command line, against real storage servers and a real controller: what it prints, what it
changes, and its exit statuses."""
import json
import os
import stat
import sys

import controller_stack
import harness
from controller_stack import MIB, equal
from target_fixture import Volume

OK, FAILED, USAGE, NOT_FOUND, RETRY, STATE, PARTIAL, PERMISSION, LIMIT = range(9)


class Cli:
    def __init__(self, stack):
        self.path = stack.scratch.path / "mooring.json"
        self.config = {"controller": stack.a.endpoint, "servers": stack.servers(),
                       "node": f"unix://{stack.scratch.path}/no-node.sock", "tls": stack.tls.config("mooring:operator")}
        self.write()

    def write(self, **config):
        self.path.write_text(json.dumps({**self.config, **config}))

    def run(self, *arguments, expect=OK, contains=""):
        """stdout and stderr together; the exit status must be the expected one, and the words be there."""
        done = harness.run(harness.program("mooring"), "--config", self.path, *arguments, check=False)
        equal(done.returncode, expect, f"mooring {arguments}: {done.stdout}")
        if contains not in done.stdout:
            raise AssertionError(f"mooring {arguments}: {done.stdout!r} does not say {contains!r}")
        return done.stdout

    def json(self, *arguments, expect=OK):
        """The JSON on stdout."""
        import subprocess
        done = subprocess.run([harness.program("mooring"), "--config", str(self.path), "-o", "json", *map(str, arguments)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        equal(done.returncode, expect, f"mooring {arguments}: {done.stderr}")
        return json.loads(done.stdout)


def test_usage(stack, cli):
    for words in ((), ("volume",), ("nope",), ("volume", "nope"), ("volume", "create"), ("volume", "list", "x"),
                  ("volume", "create", "n"), ("volume", "create", "n", "--size", "tall"),
                  ("volume", "create", "n", "--size", "1GiB", "--access-mode", "any"),
                  ("volume", "create", "n", "--size", "1GiB", "fsType"),
                  ("volume", "create", "n", "--size", "1GiB", "--block", "--fs-type", "xfs"),
                  ("volume", "detach", "s1.00000000000000ff"), ("node", "fence", "NOT A NODE"),
                  ("volume", "delete", "some-name"), ("volume", "list", "--frobnicate")):
        cli.run(*words, expect=USAGE)
    for words in (("--help",), ("volume", "--help"), ("volume", "create", "--help"), ("--version",)):
        cli.run(*words)
    cli.run("volume", "create", "n", "--size=1GiB", "replicas=3", expect=USAGE, contains='"replicas"')


def test_config(stack, cli):
    cli.write(extra=1)
    cli.run("volume", "list", expect=USAGE, contains="extra")
    cli.run("volume", "list", "--help")
    cli.write()
    done = harness.run(harness.program("mooring"), "volume", "list", check=False,
                       env={**os.environ, "MOORING_CONFIG": str(cli.path)})
    equal(done.returncode, OK, done.stdout)
    cli.run("--config", stack.scratch.path / "absent.json", "volume", "list", expect=USAGE, contains="absent.json")
    cli.write(controller=f"unix://{stack.scratch.path}/nobody.sock")
    cli.run("volume", "show", "some", expect=RETRY, contains="not running")
    cli.run("volume", "list", contains="not running")  # the storage servers know it all
    cli.write()


def test_volume_life(stack, cli):
    made = cli.json("volume", "create", "life", "--size", "3MiB", "--fs-type", "xfs", "pathTimeout=0")
    volume_id = made["volume_id"]
    equal(made["size_bytes"], 300 * MIB, "size, raised to the least that mkfs.xfs makes")
    equal(made["context"], {"name": "life", "fsType": "xfs", "pathTimeout": "0"}, "context")
    equal(cli.json("volume", "create", "life", "--size", "3MiB", "--fs-type", "xfs", "pathTimeout=0")["volume_id"],
          volume_id, "again")
    cli.run("volume", "create", "life", "--size", "4MiB", expect=STATE, contains=volume_id)
    cli.run("volume", "create", "huge", "--size", "1TiB", expect=LIMIT)
    equal([row["volume_id"] for row in cli.json("volume", "list") if row["name"] == "life"], [volume_id], "list")
    cli.run("volume", "list", contains="life")
    context = cli.json("volume", "attach", "life", "--node", "node-a")
    equal(context["epoch"], "1", "epoch")
    equal(context["iqn"], f"iqn.2026-11.storage.mooring:{volume_id}", "iqn")
    equal(cli.json("volume", "attach", volume_id, "--node=node-a"), context, "attach again")
    cli.run("volume", "attach", "life", "--node", "node-b", expect=STATE, contains="node-a")
    cli.run("volume", "attach", "life", "--node", "never-seen", expect=NOT_FOUND)
    shown = cli.json("volume", "show", "life")
    equal(shown["nodes"], ["node-a"], "nodes")
    equal((shown["content"], shown["write_failed"], shown["attachments"][0]["epoch"]), ("blank", False, 1), "details")
    cli.run("volume", "show", "life", contains="node-a")
    cli.run("volume", "delete", volume_id, expect=STATE, contains="detach")
    cli.run("volume", "detach", volume_id, "--node", "node-a")
    cli.run("volume", "detach", volume_id, "--all")
    cli.run("volume", "clear-failed", volume_id)
    cli.run("volume", "delete", volume_id)
    cli.run("volume", "delete", volume_id)
    cli.run("volume", "show", "life", expect=NOT_FOUND)
    cli.run("volume", "show", volume_id, expect=NOT_FOUND)
    cli.run("volume", "clear-failed", volume_id, expect=NOT_FOUND)


def test_parameters_are_told(stack, cli):
    """The help names each parameter that the controller takes, and show what stands."""
    refusal = cli.run("volume", "create", "n", "--size=1GiB", "replicas=3", expect=USAGE, contains='"replicas"')
    known = refusal.split("the parameters are: ")[1].replace(",", " ").split()
    told = cli.run("volume", "create", "--help")
    equal([name for name in known if name not in told], [], "parameters that --help keeps quiet about")
    made = cli.json("volume", "create", "held", "--size=8MiB", "iopsLimit=100", "bandwidthLimit=2MiB")
    shown = cli.json("volume", "show", "held")
    equal([shown[key] for key in ("iops_limit", "bandwidth_limit", "burst_s", "source", "health")],
          [100, 2 * MIB, None, "", []], "limits, source and health")
    cli.run("volume", "modify", "held", "iopsLimit=0", "burstSeconds=2")
    shown = cli.json("volume", "show", "held")
    equal([shown[key] for key in ("iops_limit", "bandwidth_limit", "burst_s")], [None, 2 * MIB, 2], "modified")
    copy = cli.json("volume", "create", "copied", f"--from={made['volume_id']}")
    equal(cli.json("volume", "show", "copied")["source"], made["volume_id"], "source")
    cli.run("volume", "show", "copied", contains=made["volume_id"])
    for volume in (copy, made):
        cli.run("volume", "delete", volume["volume_id"])


def test_snapshots(stack, cli):
    volume_id = cli.json("volume", "create", "photographed", "--size", "8MiB")["volume_id"]
    cli.run("snapshot", "create", "nobody", "s", expect=NOT_FOUND)
    made = cli.json("snapshot", "create", "photographed", "monday")
    snapshot_id = made["snapshot_id"]
    equal((made["source_volume_id"], made["size_bytes"], made["state"]), (volume_id, 8 * MIB, "ready"), "made")
    equal(cli.json("snapshot", "create", volume_id, "monday")["snapshot_id"], snapshot_id, "again")
    other = cli.json("volume", "create", "another", "--size", "8MiB")["volume_id"]
    cli.run("snapshot", "create", "another", "monday", expect=STATE)
    listed = cli.json("snapshot", "list")
    equal([(row["snapshot_id"], row["name"]) for row in listed], [(snapshot_id, "monday")], "list")
    equal(cli.json("snapshot", "list", f"--volume={other}"), [], "another's")
    cli.run("snapshot", "list", contains="monday")
    shown = cli.json("snapshot", "show", snapshot_id)
    equal((shown["name"], shown["state"], shown["exclusive_bytes"]), ("monday", "ready", 0), "show")
    for words in (("snapshot", "show", "monday"), ("snapshot", "delete", volume_id),
                  ("volume", "create", "v", "--from=monday"), ("volume", "create", "v")):
        cli.run(*words, expect=USAGE)
    restored = cli.json("volume", "create", "restored", f"--from={snapshot_id}")
    equal(restored["size_bytes"], 8 * MIB, "the source's size")
    clone = cli.json("volume", "create", "cloned", f"--from={volume_id}", "--size=16MiB")
    equal((clone["size_bytes"], clone["volume_id"].split(".")[0]), (16 * MIB, volume_id.split(".", maxsplit=1)[0]), "clone")
    cli.run("volume", "create", "small", f"--from={volume_id}", "--size=4MiB", "--limit=4MiB", expect=LIMIT)
    cli.run("snapshot", "delete", snapshot_id)
    cli.run("snapshot", "delete", snapshot_id)
    cli.run("snapshot", "show", snapshot_id, expect=NOT_FOUND)
    cli.run("volume", "create", "late", f"--from={snapshot_id}", expect=NOT_FOUND)
    for one in (volume_id, other, restored["volume_id"], clone["volume_id"]):
        cli.run("volume", "delete", one)


def test_space(stack, cli):
    """What a volume and a snapshot take, what of that they share, and what is theirs alone."""
    def space(*words):
        shown = cli.json(*words)
        equal(shown["shared_bytes"] + shown["exclusive_bytes"], shown["used_bytes"], "both together")
        return shown

    volume = Volume(stack.targets[0], 8 * MIB)
    equal(space("volume", "show", volume.id)["used_bytes"], 0, "of a blank volume")
    session = volume.attach("node-a").login()
    while session.wait(session.command(b"\0" * 6))[0]:
        pass  # unit attentions
    equal(session.wait(session.write(0, b"x" * 65536))[0], 0, "a write")
    session.close()
    volume.detach("node-a")
    alone = space("volume", "show", volume.id)
    assert alone["shared_bytes"] == 0 < alone["exclusive_bytes"], alone
    snapshot_id = cli.json("snapshot", "create", volume.id, "space")["snapshot_id"]
    kept = space("snapshot", "show", snapshot_id)
    assert kept["shared_bytes"] == 65536, kept
    both = space("volume", "show", volume.id)
    equal((both["used_bytes"], both["shared_bytes"]), (alone["used_bytes"], 65536), "with a snapshot")
    for words in (("volume", "show", volume.id), ("snapshot", "show", snapshot_id)):
        lines = [line.split() for line in cli.run(*words).splitlines()]
        equal([line[1:] for line in lines if line[0] == "shared"], [["64.0", "KiB"]], words)
        equal([line[0] for line in lines if line[0] in ("used", "exclusive")], ["used", "exclusive"], words)
    cli.run("volume", "delete", volume.id)
    harness.wait_until(lambda: space("snapshot", "show", snapshot_id)["shared_bytes"] == 0, "XFS has freed the volume's part")
    cli.run("snapshot", "delete", snapshot_id)


def test_changes(stack, cli):
    volume_id = cli.json("volume", "create", "changing", "--size", "8MiB")["volume_id"]
    equal(cli.json("volume", "expand", "changing", "24MiB"),
          {"volume_id": volume_id, "size_bytes": 24 * MIB, "node_expansion_required": True}, "expand")
    equal(cli.json("volume", "expand", volume_id, "8MiB")["size_bytes"], 24 * MIB, "never smaller")
    cli.run("volume", "expand", "changing", "1TiB", expect=LIMIT)
    cli.run("volume", "expand", "changing", "tall", expect=USAGE)
    cli.run("volume", "modify", "changing", "iopsLimit=500", "bandwidthLimit=10MiB")
    cli.run("volume", "modify", "changing", "fsType=xfs", expect=USAGE, contains="fsType")
    cli.run("volume", "modify", "changing", "iopsLimit", expect=USAGE, contains="PARAMETER=VALUE")
    cli.run("volume", "modify", "nobody", "iopsLimit=5", expect=NOT_FOUND)
    cli.run("volume", "delete", volume_id)


def test_no_node(stack, cli):
    """mount and unmount without a node service: nothing is attached."""
    volume_id = cli.json("volume", "create", "unmounted", "--size", "1MiB")["volume_id"]
    cli.run("volume", "mount", "unmounted", "--target", stack.scratch.path / "mnt", expect=RETRY, contains="mooring-node")
    cli.run("volume", "unmount", volume_id, "--target", stack.scratch.path / "mnt", expect=RETRY)
    equal(cli.json("volume", "show", volume_id)["nodes"], [], "nothing is attached")
    cli.run("node", "check", expect=STATE, contains="mooring-node answers")
    cli.run("volume", "delete", volume_id)


def start_node(stack, node_id):
    """mooring-node on this host, with the processes that it starts; all is gone with the scratch directory."""
    folder = stack.scratch.path / node_id
    folder.mkdir()
    (folder / "boot_id").write_text("0f0e0d0c-0b0a-4908-8706-050403020100\n")
    endpoint = f"unix://{folder}/csi.sock"
    config = {"endpoint": endpoint, "node_id": node_id, "state_dir": str(folder / "s"), "servers": stack.servers(),
              "tls": stack.tls.config(f"mooring:node:{node_id}"), "boot_id_file": str(folder / "boot_id"),
              "libexec_dir": str(harness.BUILD / "bin"), "place": "fork"}
    (folder / "node.json").write_text(json.dumps(config))
    process = stack.scratch.start(harness.program("mooring-node"), "--config", folder / "node.json", log=folder / "log")
    harness.wait_until(lambda: process.poll() is not None or (folder / "csi.sock").exists(), "mooring-node listens")
    return endpoint, folder


def test_mount(stack, cli):
    """attach, format, mount, and back, with nothing but the command line."""
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(device):
            raise harness.Skip(f"{device} is not here")
    for name in ("mooring-device", "mooring-holder"):
        harness.program(name)
    endpoint, folder = start_node(stack, "node-m")
    cli.write(node=endpoint)
    volume_id = cli.json("volume", "create", "mounted", "--size", "64MiB", "--fs-type", "ext4")["volume_id"]
    target, staging = folder / "target", folder / "staging"
    places = ("--target", target, "--staging", staging)
    try:
        harness.wait_until(lambda: "node-m" in [row["node_id"] for row in cli.json("node", "list")], "it registers")
        equal(cli.json("volume", "mount", "mounted", *places)["node_id"], "node-m", "the node's own id")
        equal(os.path.ismount(target), True, "mounted")
        (target / "file").write_text("kept")
        cli.run("volume", "mount", "mounted", *places)
        equal(cli.json("volume", "show", volume_id)["content"], "data", "formatted")
        cli.run("session", "list", contains="node-m")
        rows = {row["check"]: row for row in cli.json("node", "check")}
        assert rows["attach=auto takes"]["detail"] in ("ublk", "fuse"), rows
        for way in ("ublk", "fuse"):
            row = rows[f"attach={way}"]
            assert row["ok"] or row["detail"] not in ("", "not known"), f"no reason is given: {row}"
        rows = cli.json("node", "check", "--libexec-dir", folder, expect=STATE)
        assert [row["check"] for row in rows if row["required"] and not row["ok"]] == ["mooring-device"], rows
    finally:
        cli.run("volume", "unmount", volume_id, *places, "--detach")
    equal(os.path.ismount(target), False, "unmounted")
    equal(cli.json("volume", "show", volume_id)["nodes"], [], "detached")
    try:
        cli.run("volume", "mount", "mounted", *places, "--read-only")
        equal((target / "file").read_text(), "kept", "what was written")
    finally:
        cli.run("volume", "unmount", volume_id, *places, "--detach")
    cli.run("volume", "unmount", volume_id, *places, "--detach")
    cli.run("volume", "delete", volume_id)
    grow_mounted(cli, target, places)
    cli.write()


def grow_mounted(cli, target, places):
    volume_id = cli.json("volume", "create", "growing", "--size", "300MiB", "--fs-type", "xfs")["volume_id"]
    try:
        cli.run("volume", "mount", "growing", *places)
        before = os.statvfs(target)
        cli.run("volume", "expand", "growing", "324MiB", "--target", target)
        grown = os.statvfs(target)
        equal((grown.f_blocks - before.f_blocks) * grown.f_frsize, 24 * MIB, "the file system has grown by")
    finally:
        cli.run("volume", "unmount", volume_id, *places, "--detach")
    cli.run("volume", "delete", volume_id)


def test_pools(stack, cli):
    rows = cli.json("pool", "list")
    equal([(row["server_id"], row["state"], row["pool_uuid"]) for row in rows],
          [(target.server_id, "ready", target.pool.uuid) for target in stack.targets], "pools")
    cli.run("pool", "list", contains="ready")
    pool = stack.targets[0].pool
    equal(cli.json("pool", "import", "--path", pool.path)["uuid"], pool.uuid, "import")
    cli.run("pool", "import", "--path", pool.path, contains='"pool_uuid": "' + pool.uuid)
    cli.run("pool", "import", "--path", stack.scratch.path, expect=FAILED)
    cli.run("pool", "create", "--path", stack.scratch.path, "--server-id", "BAD ID", expect=USAGE)


def test_fence(stack, cli):
    boot_id = stack.register("node-f")
    volume_id = cli.json("volume", "create", "fence", "--size", "1MiB")["volume_id"]
    cli.run("volume", "attach", volume_id, "--node", "node-f")
    rows = cli.json("node", "fence", "node-f", "--reason", "lost in a test")
    equal([row["fenced"] for row in rows], [True] * len(stack.targets), "fenced on all")
    equal([one for row in rows for one in row["detached_volume_ids"]], [volume_id], "detached")
    node = next(row for row in cli.json("node", "list") if row["node_id"] == "node-f")
    equal((node["fenced"], node["boot_ids"], node["fence_reason"]), (True, [boot_id], "lost in a test"), "listed")
    cli.run("volume", "attach", volume_id, "--node", "node-f", expect=STATE, contains="node-f")
    cli.run("node", "unfence", "node-f")
    cli.run("volume", "attach", volume_id, "--node", "node-f")
    cli.run("volume", "detach", volume_id, "--all")
    cli.run("volume", "delete", volume_id)


def test_fence_partial(stack, cli):
    """A fence holds where it is recorded, names the server that is away, and can be completed. The boot id that only
    one server knows is refused by the others too."""
    only = "ab" * 16
    stack.targets[0].node("node-p").RegisterNode(node_id="node-p", boot_id=only, address="test")
    stack.targets[1].kill()
    cli.run("node", "fence", "node-p", expect=PARTIAL, contains="s2")
    equal([row["fenced"] for row in cli.json("node", "fence", "node-p", expect=PARTIAL)], [True, False], "fenced")
    rows = cli.json("pool", "list", expect=PARTIAL)
    equal([row["state"] for row in rows], ["ready", "unavailable"], "states")
    cli.run("node", "unfence", "node-p", expect=PARTIAL, contains="s2")
    stack.targets[1].start()
    cli.run("node", "fence", "node-p")
    answer = stack.targets[1].node("node-p").RegisterNode(node_id="node-p", boot_id=only, address="test")
    equal(answer.fenced, True, "s2 never saw this boot id before the fence")
    stack.targets[0].kill()
    stack.targets[1].kill()
    cli.run("node", "fence", "node-p", expect=RETRY)
    for target in stack.targets:
        target.start()
    stack.a.csi.wait_for_servers()
    cli.run("node", "unfence", "node-p")
    cli.run("node", "unfence", "node-x", expect=NOT_FOUND, contains="node-x")


def test_retry(stack, cli):
    """--retry outlasts a restart of the controller."""
    cli.run("volume", "create", "retry", "--size", "1MiB")
    stack.a.kill()
    cli.run("volume", "show", "retry", expect=RETRY)
    process = stack.scratch.start(harness.program("mooring"), "--config", cli.path, "--retry", "--timeout", "60",
                                  "volume", "show", "retry")
    stack.a.start()
    equal(process.wait(70), OK, "with --retry")


def test_lists_partial(stack, cli):
    """A server that is away: each list prints what the others have, names that one, and says so by its exit status."""
    for number in range(3):
        cli.run("volume", "create", f"part-{number}", "--size", "1MiB")
    all_of_them = {row["volume_id"]: row for row in cli.json("volume", "list")}
    stack.targets[1].kill()
    rows = cli.json("volume", "list", expect=PARTIAL)
    equal({row["volume_id"] for row in rows}, {one for one in all_of_them if one.startswith("s1.")}, "the volumes of s1")
    for row in rows:
        equal({key: row[key] for key in ("name", "size_bytes", "nodes", "state")},
              {key: all_of_them[row["volume_id"]][key] for key in ("name", "size_bytes", "nodes", "state")}, "a row")
    for words in (("volume", "list"), ("pool", "list"), ("session", "list"), ("node", "list")):
        cli.run(*words, expect=PARTIAL, contains="s2")
    stack.targets[0].kill()
    for words in (("volume", "list"), ("pool", "list"), ("session", "list"), ("node", "list")):
        cli.run(*words, expect=RETRY, contains="s2")
    for target in stack.targets:
        target.start()
    stack.a.csi.wait_for_servers()


def test_roles(stack, cli):
    """A certificate of another role is refused, and the exit status says so."""
    cli.write(tls=stack.tls.config("mooring:node:node-a"))
    cli.run("node", "fence", "node-b", expect=PERMISSION)
    cli.run("session", "list", expect=PERMISSION)
    cli.write()
    cli.run("session", "list")
    equal(cli.json("session", "list"), [], "no sessions")


def test_tls(stack, cli):
    folder = stack.scratch.path / "ca"
    cli.run("tls", "init", "--dir", folder)
    cli.run("tls", "init", "--dir", folder, expect=STATE)
    for words in (("operator",), ("controller",), ("node", "node-a"), ("server", "s1", "127.0.0.1")):
        issued = cli.json("tls", "issue", *words, "--dir", folder)
        equal(issued["name"], "mooring:" + ":".join(words[:2]), "common name")
        equal(stat.S_IMODE(os.stat(issued["key"]).st_mode), 0o600, "the key is secret")
        harness.run(harness.program("openssl"), "verify", "-CAfile", folder / "ca.crt", issued["cert"])
    names = harness.run(harness.program("openssl"), "x509", "-in", folder / "server-s1.crt", "-noout", "-ext",
                        "subjectAltName").stdout
    assert "DNS:s1" in names and "IP Address:127.0.0.1" in names, names
    for words in (("nobody",), ("node",), ("server", "BAD"), ("operator", "x"), ("operator", "--days", "0")):
        cli.run("tls", "issue", *words, "--dir", folder, expect=USAGE)
    cli.run("tls", "issue", "operator", "--dir", folder, expect=STATE)


TESTS = [test_usage, test_config, test_volume_life, test_parameters_are_told, test_snapshots, test_space,
         test_changes, test_no_node, test_mount, test_pools, test_fence, test_fence_partial, test_retry, test_lists_partial,
         test_roles, test_tls]


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        try:
            stack = controller_stack.Stack(scratch, servers=2)
        except harness.Skip as why:
            for test in TESTS:
                print(f"SKIP cli.{test.__name__[5:]}: {why}")
            return 0
        for node in ("node-a", "node-b"):
            stack.register(node)
        cli = Cli(stack)
        for test in TESTS:
            suite.run(f"cli.{test.__name__[5:]}", test, stack, cli)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
