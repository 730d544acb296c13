"""After the random model test's run: does all that stands agree with what was acknowledged? Asked of the controller, of each
storage server, of the command line; then looked at in the pools' directories; then everything is deleted, and nothing may
stay."""
import concurrent.futures
import json
import time

import harness
import model
from model_lab import BLOCK, Wrong

SETTLE_S = 120
DELETERS = 6


def differing(found, wanted, what):
    """found and wanted: by id. The first few that differ."""
    if found == wanted:
        return
    wrong = [f"{key}: {found.get(key, 'nothing')}, not {wanted.get(key, 'nothing')}"
             for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    raise Wrong(f"{what}: {'; '.join(wrong[:5])}{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}", None,
                [word.split(":")[0] for word in wrong[:3]])


class End:
    def __init__(self, run):
        self.run, self.lab = run, run.lab
        self.service = run.lab.services["a"]
        self.volumes = {one.id: one for one in run.standing() if isinstance(one, model.Volume)}
        self.snapshots = {one.id: one for one in run.standing() if isinstance(one, model.Snapshot)}

    def check(self):
        self.settle_shared()
        self.by_controller()
        self.by_servers()
        self.by_command()
        self.claims()
        self.restart()
        self.by_servers()
        self.drop()

    def ask(self, method, code=("OK",), caller=None, /, **fields):
        """Of controller a, again while it says "not now"; in the end nothing is away, so that this ends soon."""
        end = time.monotonic() + SETTLE_S
        while True:
            call = (caller or self.run.end_caller).begin(self.service, method, 30, fields)
            call.finish()
            if call.code in code:
                return call.value
            if call.code not in ("ABORTED", "UNAVAILABLE") or time.monotonic() > end:
                raise Wrong(f"{method} {fields}: {call.code} {call.details}", None, [call.id])
            time.sleep(0.02)

    # ---- what clients shared ----

    def settle_shared(self):
        """What the model knows of them: which there is, and where it is attached. What calls at once leave open is asked, or
        settled here."""
        for name in self.run.shared:
            must, may = name.standing()
            there = must + [one for one in may if self.is_there(one.id)]
            if len(there) > 1:
                raise Wrong(f"{name.name}: more than one: {[one.id for one in there]}", name.name, [one.id for one in there])
            for one in there:
                self.volumes[one.id] = self.settled(name, one)

    def is_there(self, volume_id):
        found = self.ask("ControllerGetVolume", ("OK", "NOT_FOUND"), volume_id=volume_id)
        self.run.histories.count("deletes that left it open")
        return found is not None

    def settled(self, name, one):
        volume, (must, may) = model.Volume(name.name, one.id, one.size_bytes), name.attached(one)
        if len(must) > 1:
            raise Wrong(f"{one.id} is on {must}", name.name, [one.id])
        if must == may:
            volume.node = next(iter(must), None)
            return volume
        for node in may:
            self.ask("ControllerUnpublishVolume", volume_id=one.id, node_id=node)
        return volume

    # ---- lists ----

    def by_controller(self):
        for size in (1 + self.run.seed % 7, 0):
            listed = self.run.volumes_listed(self.run.end_caller, self.service, size)
            differing(listed, {one.id: (one.name, one.size_bytes, (one.node,) if one.node else ())
                               for one in self.volumes.values()}, f"ListVolumes by {size}")
            listed = self.run.snapshots_listed(self.run.end_caller, self.service, size)
            differing(listed, {one.id: (None, one.source_id, one.size_bytes, True) for one in self.snapshots.values()},
                      f"ListSnapshots by {size}")

    def of_server(self, target, objects):
        return [one for one in objects.values() if one.id.startswith(f"{target.server_id}.")]

    def by_servers(self):
        for target in self.lab.targets:
            operator = self.lab.storage(target, "mooring:operator")
            found = {one.volume_id: (one.name, one.size_bytes, one.source_volume_id or one.source_snapshot_id or None,
                                     one.thick, [(each.node_id, each.removing) for each in one.attachments])
                     for one in operator.ListVolumes().volumes}
            differing(found, {one.id: (one.name, one.size_bytes, one.source, one.thick, [(one.node, False)] if one.node else [])
                              for one in self.of_server(target, self.volumes)}, f"what {target.server_id} has of volumes")
            found = {one.snapshot_id: (one.name, one.source_volume_id, one.size_bytes, one.ready, one.provisional)
                     for one in operator.ListSnapshots().snapshots}
            differing(found, {one.id: (one.name, one.source_id, one.size_bytes, True, False)
                              for one in self.of_server(target, self.snapshots)}, f"what {target.server_id} has of snapshots")
            server = operator.GetServer()
            counts = server.volumes_count, server.snapshots_count
            wanted = len(self.of_server(target, self.volumes)), len(self.of_server(target, self.snapshots))
            if counts != wanted:
                raise Wrong(f"{target.server_id} counts {counts}, not {wanted}")
            if len(operator.ListSessions().sessions):
                raise Wrong(f"{target.server_id} has sessions that nobody holds: {operator.ListSessions()}")

    def by_command(self):
        path = self.lab.scratch.path / "cli.json"
        path.write_text(json.dumps({"controller": self.service.controller.endpoint, "servers": self.lab.servers(),
                                    "tls": self.lab.tls.config("mooring:operator")}))
        for noun, objects in (("volume", self.volumes), ("snapshot", self.snapshots)):
            text = harness.run(harness.program("mooring"), "--config", path, noun, "list", "-o", "json").stdout
            found = {one[f"{noun}_id"] for one in json.loads(text)}
            differing({key: True for key in found}, {key: True for key in objects}, f"mooring {noun} list")

    # ---- the pools ----

    def claims_of(self, target):
        found = {}
        for path in (target.pool.path / "names").iterdir():
            claim = json.loads(path.read_text())
            found[claim.get("kind", "volume"), claim["name"]] = claim.get("volume_id") or claim["holder_id"]
        return found

    def wanted_claims(self):
        wanted = {("volume", one.name): one.id for one in self.volumes.values()}
        return {**wanted, **{("snapshot", one.name): one.id for one in self.snapshots.values()}}

    def claims(self):
        """On each server those of what stands. A call that a kill cut off may leave one of a name that nothing has: the name's
        next use clears it up, which is tried here."""
        wanted = self.wanted_claims()
        stray = {key for target in self.lab.targets for key in self.claims_of(target)} - set(wanted)
        self.run.histories.count("claims left by kills", len(stray))
        if stray and not self.run.kills:
            raise Wrong(f"claims of nothing, and nothing was killed: {stray}")
        golden = self.run.golden[0]
        for kind, name in sorted(stray):
            if kind == "volume":
                made = self.ask("CreateVolume", name=name, volume_capabilities=[self.run.capability]).volume
                self.ask("DeleteVolume", volume_id=made.volume_id)
            else:
                made = self.ask("CreateSnapshot", name=name, source_volume_id=golden.source_id).snapshot
                self.ask("DeleteSnapshot", snapshot_id=made.snapshot_id)
        for target in self.lab.targets:
            differing(self.claims_of(target), wanted, f"the claims on {target.server_id}")

    def restart(self):
        """All in order; meanwhile the pools are only files."""
        for target in self.lab.targets:
            status = target.stop()
            if status != 0:
                raise Wrong(f"{target.server_id} ended with status {status}")
        for target in self.lab.targets:
            self.files(target)
        for target in self.lab.targets:
            target.start()
        for target in self.lab.targets:
            self.ask("ControllerGetVolume", ("NOT_FOUND",), volume_id=f"{target.server_id}.00000000000000ff")

    def files(self, target):
        for folder, record, objects in (("volumes", "volume.json", self.volumes), ("snapshots", "snapshot.json", self.snapshots)):
            mine = {one.id: one for one in self.of_server(target, objects)}
            place = target.pool.path / folder
            differing({path.name: sorted(one.name for one in path.iterdir()) for path in place.iterdir()},
                      {key: ["data", record] for key in mine}, f"{target.server_id}: {folder}/")
            for object_id, one in mine.items():
                self.content(place / object_id / "data", one)
        left = [path for path in (target.pool.path / "trash").iterdir()]
        left += list(target.pool.path.rglob("*.tmp"))
        if left:
            raise Wrong(f"{target.server_id}: left over: {left}")

    def content(self, path, one):
        """Byte by byte: each block as it was written last, and zeroes between them."""
        data = path.read_bytes()
        if len(data) != one.size_bytes:
            raise Wrong(f"{path} has {len(data)} bytes, not {one.size_bytes}", one.name, [one.id])
        wanted = bytearray(one.size_bytes)
        for block, stamp in one.content.items():
            wanted[block * BLOCK:(block + 1) * BLOCK] = stamp.to_bytes(8, "little") * (BLOCK // 8)
        if data == wanted:
            return
        wrong = [block for block in range(one.size_bytes // BLOCK)
                 if data[block * BLOCK:(block + 1) * BLOCK] != wanted[block * BLOCK:(block + 1) * BLOCK]]
        raise Wrong(f"{path}: {len(wrong)} blocks are not as written last: {wrong[:8]}", one.name, [one.id])

    # ---- the end of everything ----

    def delete(self, objects, caller):
        for one in objects:
            if isinstance(one, model.Snapshot):
                self.ask("DeleteSnapshot", ("OK",), caller, snapshot_id=one.id)
                continue
            if one.node:
                self.ask("ControllerUnpublishVolume", ("OK",), caller, volume_id=one.id, node_id=one.node)
            self.ask("DeleteVolume", ("OK",), caller, volume_id=one.id)

    def drop(self):
        """Delete all, in an order that is drawn; each server then promises as much more as was deleted, and has no file."""
        operators = {target.server_id: self.lab.storage(target, "mooring:operator") for target in self.lab.targets}
        before = {server_id: operator.GetServer().free_bytes for server_id, operator in operators.items()}
        promised = dict.fromkeys(operators, 0)
        for server_id, operator in operators.items():
            promised[server_id] += sum(one.size_bytes for one in operator.ListVolumes().volumes)
            promised[server_id] += sum(one.used_bytes for one in operator.ListSnapshots().snapshots)
        objects = [*self.volumes.values(), *self.snapshots.values()]
        self.run.choice.shuffle(objects)
        with concurrent.futures.ThreadPoolExecutor(DELETERS) as pool:
            list(pool.map(self.delete, (objects[i::DELETERS] for i in range(DELETERS)),
                          [self.run.caller(f"end-{i}") for i in range(DELETERS)]))
        for target in self.lab.targets:
            gained = operators[target.server_id].GetServer().free_bytes - before[target.server_id]
            if gained != promised[target.server_id]:
                raise Wrong(f"{target.server_id}: {gained} bytes are free again of {promised[target.server_id]}")
            left = [path for folder in ("volumes", "snapshots", "names", "trash")
                    for path in (target.pool.path / folder).iterdir()]
            if left:
                raise Wrong(f"{target.server_id}: left over: {left}")
