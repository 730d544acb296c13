"""The model: what was acknowledged, what may therefore stand, and which answers it allows.

A name of one client's own has exactly one state between two operations, since each is repeated until its outcome is known.
A name that clients share is changed by several at once: of it the model keeps who asked for what from when to when, and
holds each answer against that (SharedName)."""
import collections
import threading
import time

from model_lab import Wrong

HISTORY = 80
NEVER = float("inf")


class Histories:
    """By name: what was asked and answered, the newest last. Any thread."""

    def __init__(self):
        self._of = collections.defaultdict(lambda: collections.deque(maxlen=HISTORY))
        self.counts, self._lock = collections.Counter(), threading.Lock()

    def add(self, name, text):
        self._of[name].append((time.monotonic(), text))

    def count(self, what, more=1):
        with self._lock:
            self.counts[what] += more

    def lines(self, name, since):
        return [f"{at - since:8.3f} s  {text}" for at, text in list(self._of[name])]


class Volume:
    """One that was acknowledged, until its deletion was."""

    def __init__(self, name, volume_id, size_bytes, source=None, content=None, thick=False):
        self.name, self.id, self.size_bytes = name, volume_id, size_bytes
        self.source, self.content, self.thick = source, dict(content or {}), thick
        self.in_doubt = {}    # block → stamps that were written and not answered
        self.parameters = {}  # that it was made with
        self.node = self.epoch = None
        self.old_logins = []  # (node, CHAP name, secret) of attachments whose removal was acknowledged
        self.acked, self.asked_away, self.away = time.monotonic(), None, None

    def attach(self, node, epoch):
        self.node, self.epoch = node, epoch


class Snapshot:
    def __init__(self, name, snapshot_id, source_id, size_bytes, content):
        self.name, self.id, self.source_id, self.size_bytes = name, snapshot_id, source_id, size_bytes
        self.content = dict(content)
        self.acked, self.asked_away, self.away = time.monotonic(), None, None


class Registry:
    """All that was acknowledged, by id, and the names that a create is under way for. For whoever lists."""

    def __init__(self):
        self.objects, self.creating = {}, {}

    def begin_create(self, name):
        self.creating[name] = (time.monotonic(), NEVER)

    def end_create(self, name):
        self.creating[name] = (self.creating[name][0], time.monotonic())

    def add(self, one):
        self.objects[one.id] = one
        return one

    def check_list(self, kind, listed, since, until):
        """listed: id → name, as one list, asked for from since to until, had it."""
        for one in list(self.objects.values()):
            if not isinstance(one, kind):
                continue
            if one.id in listed and one.away and one.away < since:
                raise Wrong(f"{one.id} is in a list, and its deletion had been acknowledged", one.name, [one.id])
            stands = one.acked < since and (one.asked_away is None or one.asked_away > until)
            if stands and one.id not in listed:
                raise Wrong(f"{one.id} is not in a list, and it was there all the while", one.name, [one.id])
        for object_id, name in listed.items():
            began, ended = self.creating.get(name, (NEVER, NEVER))
            if name and object_id not in self.objects and (began > until or ended < since):
                raise Wrong(f"{object_id} is in a list, and nobody made it", name, [object_id])


# ---- names that clients share ----


class Span:
    """Something that was asked for from `began` on, and whose outcome was known at `ended`."""

    def __init__(self):
        self.began, self.ended, self.done = time.monotonic(), NEVER, False
        self.sure = True  # of a delete: see SharedName.end_delete()

    def end(self, done):
        self.ended, self.done = time.monotonic(), done

    def meets(self, other):
        return self.began <= other.ended and other.began <= self.ended


class SharedVolume:
    """One volume that a shared name has had. A span is of a whole operation, with its repeats."""

    def __init__(self, volume_id, size_bytes):
        self.id, self.size_bytes = volume_id, size_bytes
        self.known = NEVER            # when somebody was told of it first
        self.deletes = []
        self.publishes, self.unpublishes = collections.defaultdict(list), collections.defaultdict(list)

    def gone_before(self, when):
        return any(span.done and span.sure and span.ended < when for span in self.deletes)

    def may_be_gone(self, until):
        return any(span.began < until and (span.done or span.ended == NEVER) for span in self.deletes)

    def may_be_on(self, node, since, until):
        """Could it be attached to the node at some time between?"""
        for publish in self.publishes[node]:
            if publish.began > until or (not publish.done and publish.ended < since):
                continue  # what was refused in the end did not attach, or was removed before the refusal
            removed = [span.ended for span in self.unpublishes[node] if span.done and span.began > publish.ended]
            if min(removed, default=NEVER) >= since:
                return True
        return False

    def is_on(self, node, since, until):
        """Was it surely attached to the node all the while?"""
        for publish in self.publishes[node]:
            if not publish.done or publish.ended > since:
                continue
            if all(span.ended < publish.began or span.began > until for span in self.unpublishes[node]):
                return True
        return False


class SharedName:
    def __init__(self, name, nodes):
        self.name, self.nodes = name, nodes
        self.lock = threading.Lock()
        self.volumes = {}  # id → SharedVolume
        self.creates = []

    def newest(self):
        """What was told last of this name."""
        with self.lock:
            return max(self.volumes.values(), key=lambda one: one.known, default=None)

    def all_nodes(self, volume, how, since, until):
        return [node for node in self.nodes if getattr(volume, how)(node, since, until)]

    def wrong(self, text, *ids):
        return Wrong(f"{self.name}: {text}", self.name, ids)

    # Each is told the call that was answered so.

    def created(self, volume_id, size_bytes, call):
        with self.lock:
            volume = self.volumes.setdefault(volume_id, SharedVolume(volume_id, size_bytes))
            if volume.gone_before(call.began):
                raise self.wrong(f"CreateVolume answered {volume_id}, whose deletion had been acknowledged", volume_id)
            for other in self.volumes.values():
                if other is not volume and other.known < call.began and not other.may_be_gone(call.ended):
                    raise self.wrong(f"a second volume, {volume_id}, while {other.id} stands", volume_id, other.id)
            if volume.size_bytes != size_bytes and not any(span.done for span in volume.deletes):
                raise self.wrong(f"{volume_id} has {size_bytes} bytes, and had {volume.size_bytes}", volume_id)
            volume.size_bytes = size_bytes
            volume.known = min(volume.known, call.ended)

    def exists_otherwise(self, size_bytes, call):
        """ALREADY_EXISTS: there is one of another size."""
        with self.lock:
            named = [one for one in self.volumes.values() if one.id in call.details]
            if any(one.size_bytes == size_bytes or one.gone_before(call.began) for one in named):
                raise self.wrong(f"ALREADY_EXISTS for a size of {size_bytes}: {call.details}", named[0].id)

    def begin_create(self):
        span = Span()
        with self.lock:
            self.creates.append(span)
        return span

    def end_delete(self, span, done, killed):
        """Where the volume's server was killed meanwhile, it may have come back without the volume and with its claim, and a
        create at the same time may then have made the very id anew: the delete's answer leaves open whether it is there."""
        with self.lock:
            span.sure = not killed or not any(create.meets(span) for create in self.creates)
            span.end(done)

    def begin(self, volume, what, node=None):
        span = Span()
        with self.lock:
            (getattr(volume, what)[node] if node else getattr(volume, what)).append(span)
        return span

    def not_found(self, volume, call):
        with self.lock:
            if not volume.may_be_gone(call.ended):
                raise self.wrong(f"NOT_FOUND for {volume.id}, which nobody deleted: {call.details}", volume.id)

    def deleted(self, volume, call):
        with self.lock:
            on = self.all_nodes(volume, "is_on", call.began, call.ended)
            if on:
                raise self.wrong(f"{volume.id} was deleted while it was published to {on}", volume.id)

    def held_by_other(self, volume, node, call):
        """FAILED_PRECONDITION of a publish (node), or of a delete (None)."""
        with self.lock:
            on = set(self.all_nodes(volume, "may_be_on", call.began, call.ended)) - {node}
            if not on:
                raise self.wrong(f"refused, and {volume.id} is published nowhere else: {call.details}", volume.id)

    def published(self, volume, node, call):
        with self.lock:
            if volume.gone_before(call.began):
                raise self.wrong(f"{volume.id} was published, and its deletion had been acknowledged", volume.id)
            on = set(self.all_nodes(volume, "is_on", call.began, call.ended)) - {node}
            if on:
                raise self.wrong(f"{volume.id} was published to {node} while it was on {on}", volume.id)

    def standing(self):
        """When nothing is under way: the volumes that must stand, and those that may."""
        now = time.monotonic()
        with self.lock:
            must = [one for one in self.volumes.values() if not any(span.done for span in one.deletes)]
            may = [one for one in self.volumes.values() if one not in must and not one.gone_before(now)]
        return must, may

    def attached(self, volume):
        """When nothing is under way: the sets of nodes that it must and may be on."""
        now = time.monotonic()
        with self.lock:
            return (set(self.all_nodes(volume, "is_on", now, now)), set(self.all_nodes(volume, "may_be_on", now, now)))
