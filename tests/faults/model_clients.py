"""The clients of the random model test. What a client does next is drawn from the seed, its own number, the operation's
number and what stands of its own names, which is known between two operations: so it is the same in each run. How far it
comes in a given time, and how its calls meet the others' and the kills, is not."""
import collections
import random
import re
import time

import model
import raw_iscsi
from model_calls import Operation, Plan
from model_lab import BLOCK, MIB, NODES, Worker, Wrong

AUTHORIZATION, UNAVAILABLE = 0x0202, 0x0301
SIZES_MIB, SIZE_MAX_MIB = (1, 2, 3, 4), 8
BLOCKS = (0, 1, 7, 100, 255)
VOLUMES, SNAPSHOTS = 3, 2
LOGIN_LIMIT_S = 90
WEIGHTS = {"create": 20, "create_again": 5, "create_of_absent": 2, "delete": 9, "publish": 14, "unpublish": 11, "snapshot": 9,
           "delete_snapshot": 5, "expand": 7, "look": 4, "use": 12, "old_login": 3, "shared": 14}


def block_of(stamp):
    return stamp.to_bytes(8, "little") * (BLOCK // 8)


class Client(Worker):
    def __init__(self, run, number):
        super().__init__(run.lab, f"c{number:02}", run.stop)
        self.run_of, self.number, self.histories, self.registry = run, number, run.histories, run.registry
        self.caller = run.caller(self.name)
        self.volumes = {f"{self.name}-v{i}": None for i in range(VOLUMES)}
        self.snapshots = {f"{self.name}-s{i}": None for i in range(SNAPSHOTS)}
        self.last_ids = {}  # of what is gone, by name
        self.count, self.stamp = 0, number << 32
        self.done = collections.Counter()
        self.plan = self.choice = None

    def work(self):
        while not self.stop.is_set():
            self.choice = random.Random(f"{self.run_of.seed}-{self.name}-{self.count}")
            self.plan = Plan(random.Random(f"{self.run_of.seed}-{self.name}-{self.count}-calls"))
            what = self.choice.choices(list(WEIGHTS), WEIGHTS.values())[0]
            if getattr(self, what)() is not False:
                self.done[what] += 1
            self.count += 1

    # ---- calls ----

    def call(self, name, method, final, shared=False, /, **fields):
        """The final answer: `final` are the statuses that are one."""
        return Operation(self, self.plan, name, method, fields, final, shared).run()

    def expect(self, name, method, code="OK", /, **fields):
        """The value of the one answer that can be final."""
        return self.call(name, method, {code}, **fields).value

    def capability(self):
        return self.run_of.capability

    def some_volume(self, wanted=lambda volume: True):
        found = [volume for volume in self.volumes.values() if volume and wanted(volume)]
        return self.choice.choice(found) if found else None

    # ---- volumes ----

    def source(self):
        """What a new volume is made of: nothing; a golden snapshot; a volume or snapshot of this client's."""
        kind = self.choice.choices(("nothing", "golden", "volume", "snapshot"), (5, 2, 2, 3))[0]
        if kind == "golden":
            return self.choice.choice(self.run_of.golden)
        if kind == "volume":
            return self.some_volume()
        found = [snapshot for snapshot in self.snapshots.values() if snapshot]
        return self.choice.choice(found) if kind == "snapshot" and found else None

    def source_fields(self, source):
        if source is None:
            return {}
        if isinstance(source, model.Snapshot):
            return {"volume_content_source": {"snapshot": {"snapshot_id": source.id}}}
        return {"volume_content_source": {"volume": {"volume_id": source.id}}}

    def create_fields(self, size_bytes, source=None, **parameters):
        return {"capacity_range": {"required_bytes": size_bytes}, "volume_capabilities": [self.capability()],
                "parameters": parameters, **self.source_fields(source)}

    def create(self):
        free = [name for name, volume in self.volumes.items() if not volume]
        if not free:
            return False
        name, source = self.choice.choice(free), self.source()
        size_bytes = self.choice.choice(SIZES_MIB) * MIB
        size_bytes = max(size_bytes, source.size_bytes) if source else size_bytes
        thick = self.choice.random() < 0.1
        parameters = {"provisioning": "thick"} if thick else {}
        if not source and self.choice.random() < 0.5:
            parameters["zone"] = f"z{self.choice.randrange(len(self.lab.targets)) + 1}"
        self.registry.begin_create(name)
        made = self.expect(name, "CreateVolume", name=name, **self.create_fields(size_bytes, source, **parameters)).volume
        if made.capacity_bytes != size_bytes:
            raise Wrong(f"{name} was made with {made.capacity_bytes} bytes, not {size_bytes}", name, [made.volume_id])
        if self.last_ids.get(name) == made.volume_id:
            raise Wrong(f"{name} was made anew as {made.volume_id}, which was deleted", name, [made.volume_id])
        volume = model.Volume(name, made.volume_id, size_bytes, source and source.id, source.content if source else {}, thick)
        volume.parameters = parameters
        self.volumes[name] = self.registry.add(volume)
        self.registry.end_create(name)
        return True

    def create_again(self):
        """A repeat long after: the same volume; with something else: ALREADY_EXISTS."""
        volume = self.some_volume()
        if not volume:
            return False
        how = self.choice.choice(("same", "smaller", "larger", "limit", "provisioning"))
        fields = self.create_fields(volume.size_bytes, **volume.parameters)
        if volume.source:
            kind = "snapshot" if ".s-" in volume.source else "volume"
            fields["volume_content_source"] = {kind: {f"{kind}_id": volume.source}}
        wanted = "OK"
        if how == "smaller" and not volume.source:
            fields["capacity_range"] = {"required_bytes": MIB}
        elif how == "larger":
            fields["capacity_range"], wanted = {"required_bytes": volume.size_bytes + MIB}, "ALREADY_EXISTS"
        elif how == "limit" and not volume.source and volume.size_bytes > MIB:
            fields["capacity_range"], wanted = {"limit_bytes": volume.size_bytes - MIB}, "ALREADY_EXISTS"
        elif how == "provisioning":
            fields["parameters"] = {**volume.parameters, "provisioning": "thin" if volume.thick else "thick"}
            wanted = "ALREADY_EXISTS"
        answer = self.expect(volume.name, "CreateVolume", wanted, name=volume.name, **fields)
        if answer and (answer.volume.volume_id, answer.volume.capacity_bytes) != (volume.id, volume.size_bytes):
            raise Wrong(f"a repeat answers {answer.volume.volume_id} of {answer.volume.capacity_bytes} bytes, not "
                        f"{volume.id} of {volume.size_bytes}", volume.name, [volume.id])
        return True

    def create_of_absent(self):
        """Of a snapshot that is gone: NOT_FOUND, and nothing is left of it."""
        free = [name for name, volume in self.volumes.items() if not volume]
        gone = [self.last_ids[name] for name, one in self.snapshots.items() if not one and name in self.last_ids]
        if not free or not gone:
            return False
        fields = self.create_fields(SIZE_MAX_MIB * MIB)
        fields["volume_content_source"] = {"snapshot": {"snapshot_id": gone[0]}}
        self.expect(free[0], "CreateVolume", "NOT_FOUND", name=free[0], **fields)
        return True

    def delete(self):
        name = self.choice.choice(sorted(self.volumes))
        volume = self.volumes[name]
        if not volume:
            return name in self.last_ids and self.expect(name, "DeleteVolume", volume_id=self.last_ids[name])
        if volume.node:
            self.expect(name, "DeleteVolume", "FAILED_PRECONDITION", volume_id=volume.id)
            return True
        volume.asked_away = time.monotonic()
        self.expect(name, "DeleteVolume", volume_id=volume.id)
        volume.away, self.volumes[name], self.last_ids[name] = time.monotonic(), None, volume.id
        return True

    def expand(self):
        volume = self.some_volume()
        if not volume:
            return False
        size_bytes = volume.size_bytes + self.choice.choice((-1, 0, 1, 1, 2, 2)) * MIB
        if size_bytes <= 0 or size_bytes > SIZE_MAX_MIB * MIB:
            return False
        larger = max(size_bytes, volume.size_bytes)
        answer = self.expect(volume.name, "ControllerExpandVolume", volume_id=volume.id,
                             capacity_range={"required_bytes": size_bytes})
        if answer.capacity_bytes != larger:
            raise Wrong(f"grown to {answer.capacity_bytes} bytes, not {larger}", volume.name, [volume.id])
        volume.size_bytes = larger
        return True

    def look(self):
        """One volume, as the controller tells it."""
        name = self.choice.choice(sorted(self.volumes))
        volume = self.volumes[name]
        if not volume:
            return name in self.last_ids and self.expect(name, "ControllerGetVolume", "NOT_FOUND",
                                                         volume_id=self.last_ids[name]) is None
        answer = self.expect(name, "ControllerGetVolume", volume_id=volume.id)
        told = answer.volume.capacity_bytes, list(answer.status.published_node_ids)
        if told != (volume.size_bytes, [volume.node] if volume.node else []):
            raise Wrong(f"{volume.id} is told to be {told}, not {(volume.size_bytes, volume.node)}", name, [volume.id])
        return True

    # ---- attachments ----

    def publish(self):
        name = self.choice.choice(sorted(self.volumes))
        volume, node = self.volumes[name], self.choice.choice(NODES)
        fields = {"node_id": node, "volume_capability": self.capability()}
        if not volume:
            return name in self.last_ids and self.expect(name, "ControllerPublishVolume", "NOT_FOUND",
                                                         volume_id=self.last_ids[name], **fields) is None
        refused = volume.node not in (None, node)
        answer = self.expect(name, "ControllerPublishVolume", "FAILED_PRECONDITION" if refused else "OK",
                             volume_id=volume.id, **fields)
        if refused:
            return True
        epoch = int(answer.publish_context["epoch"])
        if volume.node and epoch != volume.epoch:
            raise Wrong(f"a repeat of a publish has epoch {epoch}, not {volume.epoch}", name, [volume.id])
        volume.attach(node, epoch)
        return True

    def unpublish(self):
        """After OK the node's name and secret are refused for ever."""
        name = self.choice.choice(sorted(self.volumes))
        volume = self.volumes[name]
        if not volume:
            return name in self.last_ids and self.expect(name, "ControllerUnpublishVolume", volume_id=self.last_ids[name],
                                                         node_id=NODES[0])
        node = self.choice.choice((volume.node or NODES[0], volume.node or NODES[0], "", self.choice.choice(NODES)))
        ends = volume.node and node in ("", volume.node)
        held = self.lab.attachment(volume.id, volume.node) if ends and self.choice.random() < 0.4 else None
        self.expect(name, "ControllerUnpublishVolume", volume_id=volume.id, node_id=node)
        if ends:
            if held:
                volume.old_logins.append((volume.node, *held[1:]))
            volume.node = volume.epoch = None
            if held and self.choice.random() < 0.5:
                self.check_refused(volume, volume.old_logins[-1])
        return True

    def old_login(self):
        volume = self.some_volume(lambda one: one.old_logins)
        if not volume:
            return False
        self.check_refused(volume, self.choice.choice(volume.old_logins))
        return True

    def check_refused(self, volume, login):
        status = self.run_of.login_status(volume.id, *login)
        self.histories.count("logins refused")
        self.histories.add(volume.name, f"{self.name} login of {login[:2]}: 0x{status:04x}")
        if status != AUTHORIZATION:
            raise Wrong(f"a login of {login[:2]}, whose removal was acknowledged: 0x{status:04x}", volume.name, [volume.id])

    def use(self):
        """Read what should be there, and write something new, as the node that has the volume."""
        volume = self.some_volume(lambda one: one.node)
        if not volume:
            return False
        writes = {}
        last = volume.size_bytes // BLOCK - 1
        for block in self.choice.sample((*BLOCKS, last), 2):
            self.stamp += 1
            writes[block] = self.stamp
        end = time.monotonic() + LOGIN_LIMIT_S
        while True:
            try:
                self.use_once(volume, writes)
                return True
            except (OSError, raw_iscsi.Closed) as why:
                passing = why
            except raw_iscsi.LoginFailed as why:
                if why.status != UNAVAILABLE:
                    raise Wrong(f"login of {volume.node}, which has it: {why}", volume.name, [volume.id]) from why
                passing = why
            if time.monotonic() > end:
                raise Wrong(f"no login within {LOGIN_LIMIT_S} s: {passing}", volume.name, [volume.id])
            self.histories.count("sessions again")
            time.sleep(0.05)

    def use_once(self, volume, writes):
        epoch, user, secret = self.lab.attachment(volume.id, volume.node)
        if epoch != volume.epoch:
            raise Wrong(f"attached with epoch {epoch}, not {volume.epoch}", volume.name, [volume.id])
        with self.lab.login(volume.id, volume.node, user, secret) as session:
            for block in sorted({*volume.content, *BLOCKS, *writes}):
                allowed = {volume.content.get(block, 0), *(volume.in_doubt.get(block, ()))}
                status, data, _ = session.wait(session.read(block, 1))
                if status or data not in [block_of(stamp) for stamp in allowed]:
                    found = int.from_bytes(data[:8], "little")
                    raise Wrong(f"block {block} holds {found:x}, not {[f'{one:x}' for one in allowed]} (status {status})",
                                volume.name, [volume.id])
            for block, stamp in writes.items():
                volume.in_doubt.setdefault(block, set()).add(stamp)
                status = session.wait(session.write(block, block_of(stamp)))[0]
                if status:
                    raise Wrong(f"a write of block {block} ended with status {status}", volume.name, [volume.id])
                volume.content[block] = stamp
                del volume.in_doubt[block]
        self.histories.add(volume.name, f"{self.name} wrote {({block: hex(stamp) for block, stamp in writes.items()})}")
        self.histories.count("blocks written", len(writes))

    # ---- snapshots ----

    def snapshot(self):
        name = self.choice.choice(sorted(self.snapshots))
        standing, volume = self.snapshots[name], self.some_volume()
        if standing:
            return self.snapshot_again(standing, volume)
        if not volume:
            return False
        self.registry.begin_create(name)
        began = time.monotonic()
        while True:
            answer = self.call(name, "CreateSnapshot", {"OK", "DATA_LOSS"}, name=name, source_volume_id=volume.id)
            made = answer.value.snapshot if answer.code == "OK" else self.take_lost_away(name, volume, answer, began)
            if made and made.ready_to_use:
                break
            time.sleep(0.05)
        if (made.size_bytes, made.source_volume_id) != (volume.size_bytes, volume.id):
            raise Wrong(f"a snapshot of {made.source_volume_id}, {made.size_bytes} bytes", name, [made.snapshot_id, volume.id])
        snapshot = model.Snapshot(name, made.snapshot_id, volume.id, volume.size_bytes, volume.content)
        self.snapshots[name] = self.registry.add(snapshot)
        self.registry.end_create(name)
        return True

    def take_lost_away(self, name, volume, answer, began):
        """What was answered before it was ready, and lost with its server, has no other moment under its name until then."""
        lost = re.search(r"snapshot (s\d\.s-[0-9a-f]{16}) of volume (\S+), cut at \S+, is lost: its storage server ended",
                         answer.details)
        if not lost or lost[2] != volume.id or not self.lab.was_away(volume.id.partition(".")[0], began):
            raise Wrong(f"DATA_LOSS, and its server did not end: {answer.details}", name, [volume.id])
        self.histories.count("snapshots lost")
        self.expect(name, "DeleteSnapshot", snapshot_id=lost[1])

    def snapshot_again(self, standing, other):
        if other and other.id != standing.source_id and self.choice.random() < 0.5:
            self.expect(standing.name, "CreateSnapshot", "ALREADY_EXISTS", name=standing.name, source_volume_id=other.id)
            return True
        made = self.expect(standing.name, "CreateSnapshot", name=standing.name, source_volume_id=standing.source_id).snapshot
        if (made.snapshot_id, made.ready_to_use) != (standing.id, True):
            raise Wrong(f"a repeat answers {made.snapshot_id}, ready: {made.ready_to_use}", standing.name,
                        [made.snapshot_id, standing.id])
        return True

    def delete_snapshot(self):
        name = self.choice.choice(sorted(self.snapshots))
        snapshot = self.snapshots[name]
        if not snapshot:
            return name in self.last_ids and self.expect(name, "DeleteSnapshot", snapshot_id=self.last_ids[name])
        snapshot.asked_away = time.monotonic()
        self.expect(name, "DeleteSnapshot", snapshot_id=snapshot.id)
        snapshot.away, self.snapshots[name], self.last_ids[name] = time.monotonic(), None, snapshot.id
        return True

    # ---- names that others have, too ----

    def shared(self):
        name = self.choice.choice(self.run_of.shared)
        what = self.choice.choices(("create", "delete", "publish", "unpublish"), (5, 2, 3, 2))[0]
        size_bytes = self.choice.choice((MIB, MIB, MIB, 2 * MIB))
        node = NODES[self.number % len(NODES)]
        if what == "create":
            self.shared_create(name, size_bytes)
            return True
        volume = name.newest()
        if not volume:
            return False
        getattr(self, f"shared_{what}")(name, volume, node)
        return True

    def shared_create(self, name, size_bytes):
        fields = self.create_fields(size_bytes)
        fields["capacity_range"]["limit_bytes"] = size_bytes
        span = name.begin_create()
        call = self.call(name.name, "CreateVolume", {"OK", "ALREADY_EXISTS"}, True, name=name.name, **fields)
        if call.code == "OK":
            name.created(call.value.volume.volume_id, call.value.volume.capacity_bytes, call)
        else:
            name.exists_otherwise(size_bytes, call)
        span.end(call.code == "OK")

    def shared_delete(self, name, volume, _node):
        span = name.begin(volume, "deletes")
        call = self.call(name.name, "DeleteVolume", {"OK", "FAILED_PRECONDITION"}, True, volume_id=volume.id)
        if call.code == "OK":
            name.deleted(volume, call)
        else:
            name.held_by_other(volume, None, call)
        name.end_delete(span, call.code == "OK", self.lab.was_away(volume.id.split(".")[0], span.began))

    def shared_publish(self, name, volume, node):
        span = name.begin(volume, "publishes", node)
        call = self.call(name.name, "ControllerPublishVolume", {"OK", "FAILED_PRECONDITION", "NOT_FOUND"}, True,
                         volume_id=volume.id, node_id=node, volume_capability=self.capability())
        if call.code == "OK":
            name.published(volume, node, call)
        elif call.code == "NOT_FOUND":
            name.not_found(volume, call)
        else:
            name.held_by_other(volume, node, call)
        span.end(call.code == "OK")

    def shared_unpublish(self, name, volume, node):
        span = name.begin(volume, "unpublishes", node)
        self.call(name.name, "ControllerUnpublishVolume", {"OK"}, True, volume_id=volume.id, node_id=node)
        span.end(True)


class Lister(Worker):
    """Reads all pages of both lists again and again: what stands all the while is in each, and nothing that is gone."""

    def __init__(self, run):
        super().__init__(run.lab, "lister", run.stop)
        self.run_of, self.caller = run, run.caller(self.name)
        self.choice, self.lists = random.Random(f"{run.seed}-lister"), 0

    def work(self):
        while not self.stop.wait(self.choice.uniform(0, 0.2)):
            service = self.lab.services[self.choice.choice("ab")]
            size = self.choice.choice((3, 10, 50, 0))
            since = time.monotonic()
            for kind, listed in ((model.Volume, self.run_of.volumes_listed), (model.Snapshot, self.run_of.snapshots_listed)):
                found = service.up and listed(self.caller, service, size)
                if found is not None and found is not False:
                    self.run_of.registry.check_list(kind, {key: one[0] for key, one in found.items()}, since, time.monotonic())
                    self.lists += 1
