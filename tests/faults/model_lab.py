"""What the random model test runs on: three storage servers, a controller and at times a second one, and who kills them by
a plan that the seed alone decides; which calls a controller has ended; and when an answer may be "not now"."""
import random
import re
import threading
import time

import controller_stack
import grpc
import harness
import raw_iscsi

MIB = 1 << 20
BLOCK = 4096
NODES = ("n1", "n2", "n3", "n4")
ABSENT = "00000000000000ff"
POOL_SIZE = "3GiB"
LONGER_S = 10  # a call's time where the plan does not shorten it
CHANNEL = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1),
           ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 500),
           ("grpc.max_reconnect_backoff_ms", 500), ("grpc.enable_retries", 0)]


class Wrong(AssertionError):
    """What the model does not allow. `name` is what it was seen of; `ids` are what the logs are searched for."""

    def __init__(self, text, name=None, ids=()):
        super().__init__(text)
        self.name, self.ids = name, set(ids)


class Break:
    """Something is away from `began` on; until `ended` calls may be told so."""

    def __init__(self, what):
        self.what, self.began, self.back, self.ended = what, time.monotonic(), False, None

    def meets(self, since, until):
        return self.began <= until and (self.ended is None or self.ended >= since)


class Service:
    """A controller that comes and goes. What it has logged as ended is known by the id that the caller gave the call."""

    def __init__(self, lab, name):
        self.name, self.up, self.killed_at = name, False, 0.0
        self.ended, self._read = set(), 0
        self.controller = controller_stack.Controller(lab.scratch, lab.tls, f"controller-{name}", lab.servers())
        self.up = True

    def start(self):
        self.controller.start()
        self.up = True

    def kill(self):
        self.up = False
        self.controller.kill()
        self.killed_at = time.monotonic()

    def died_since(self, when):
        return not self.up or self.killed_at >= when

    def read_log(self):
        """Which calls have ended since it was read last. By one thread."""
        with open(self.controller.log, "rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        self.ended.update(re.findall(r"call id=(m-\S+)", text[:whole].decode(errors="replace")))


class Lab:
    """Made once; close() is the scratch directory's."""

    def __init__(self, scratch, servers=3, pool_size=POOL_SIZE):
        self.scratch, self.tls = scratch, harness.Tls(scratch)
        self.targets = [controller_stack.Target(scratch, self.tls, harness.Pool(scratch, f"s{i + 1}", size=pool_size),
                                                loops=2, log_level="info", topology={"zone": f"z{i + 1}"})
                        for i in range(servers)]
        self.breaks, self.breaks_lock = [], threading.Lock()
        self.services = {name: Service(self, name) for name in "ab"}
        for service in self.services.values():
            harness.wait_until(lambda csi=service.controller.csi: csi.Probe().ready.value, "the controller is ready")
        self.messages = self.services["a"].controller.csi.messages
        self.clients = {}  # (server id, role): one for the whole run, whatever is killed
        for node in NODES:
            for target in self.targets:
                self.storage(target, f"mooring:node:{node}").RegisterNode(node_id=node, boot_id="0" * 31 + node[-1],
                                                                          address="test")

    def servers(self):
        return [{"id": target.server_id, "address": target.address, "pool_uuid": target.pool.uuid}
                for target in self.targets]

    def target_of(self, object_id):
        return next(target for target in self.targets if object_id.startswith(target.server_id + "."))

    def storage(self, target, role):
        """A client of the Storage service that outlives the server's processes."""
        key = target.server_id, role
        if key not in self.clients:
            self.clients[key] = harness.Storage(self.scratch, self.tls, target.address, role, target.server_id)
        return self.clients[key]

    # ---- iSCSI ----

    def attachment(self, volume_id, node, limit_s=60):
        """(epoch, CHAP name, secret) of an attachment that stands."""
        client, end = self.storage(self.target_of(volume_id), f"mooring:node:{node}"), time.monotonic() + limit_s
        while True:
            try:
                held = client.GetAttachment(volume_id=volume_id, node_id=node, timeout_s=10)
                return held.attachment.epoch, held.chap_name, held.chap_secret
            except grpc.RpcError as error:
                if error.code().name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED") or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def login(self, volume_id, node, user, secret):
        """A session; the caller closes it. LoginFailed when it is refused, OSError or Closed when nobody answers."""
        initiator = raw_iscsi.Initiator(self.target_of(volume_id).portal, isid=raw_iscsi.random_isid(), timeout_s=20,
                                        name=f"iqn.2026-11.storage.mooring:node:{node}")
        try:
            initiator.login(f"iqn.2026-11.storage.mooring:{volume_id}", user, secret)
        except BaseException:
            initiator.close()
            raise
        return initiator

    # ---- breaks ----

    def broken(self, what):
        one = Break(what)
        with self.breaks_lock:
            self.breaks.append(one)
        return one

    def disturbed(self, since, until, servers=None):
        """Was anything away meanwhile: a controller, or one of these storage servers (None: any)?"""
        with self.breaks_lock:
            return any(one.meets(since, until) for one in self.breaks
                       if not servers or one.what in servers or one.what in self.services)

    def was_away(self, what, since):
        with self.breaks_lock:
            return any(one.meets(since, time.monotonic()) for one in self.breaks if one.what == what)

    def open_breaks(self):
        with self.breaks_lock:
            return [one for one in self.breaks if one.ended is None]


class Caller:
    """CSI calls of one client to both controllers, each with an id of its own."""

    def __init__(self, lab, name):
        self.lab, self.name, self.count = lab, name, 0
        self.channels, self.calls, self.reached = {}, {}, {}

    def close(self):
        for channel in self.channels.values():
            channel.close()

    def _stub(self, service, method):
        if (service.name, method) not in self.calls:
            if service.name not in self.channels:
                self.channels[service.name] = grpc.insecure_channel(service.controller.endpoint, CHANNEL)
            csi = service.controller.csi.messages.DESCRIPTOR.services_by_name["Controller"]
            found = csi.methods_by_name[method]
            request, response = (getattr(self.lab.messages, one.name) for one in (found.input_type, found.output_type))
            self.calls[service.name, method] = request, self.channels[service.name].unary_unary(
                f"/{csi.full_name}/{method}", request_serializer=request.SerializeToString,
                response_deserializer=response.FromString)
        return self.calls[service.name, method]

    def begin(self, service, method, timeout_s, fields):
        """A call under way."""
        request, stub = self._stub(service, method)
        self.count += 1
        return Call(self, service, f"m-{self.name}-{self.count}", method, timeout_s, lambda call_id: stub.future(
            request(**fields), timeout=timeout_s, metadata=[("x-request-id", call_id)]))

    def has_reached(self, service, before):
        """Was there an answer, before then, of the process that runs now?"""
        return service.up and service.killed_at < self.reached.get(service.name, 0) <= before


class Call:
    def __init__(self, caller, service, call_id, method, timeout_s, begin):
        self.caller, self.service, self.id, self.method = caller, service, call_id, method
        self.timeout_s, self.began, self.ended = timeout_s, time.monotonic(), None
        self.code, self.details, self.value = None, "", None
        self._future = begin(call_id)

    def finish(self, cancel_after_s=None):
        """Wait for its end, or cancel it. The name of the status."""
        if cancel_after_s is not None:
            try:
                self._future.exception(cancel_after_s)
            except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
                self._future.cancel()
        try:
            self.value = self._future.result()
            self.code = "OK"
        except grpc.FutureCancelledError:
            self.code, self.details = "CANCELLED", "by the plan"
        except grpc.RpcError as error:
            self.code, self.details = error.code().name, error.details() or ""
        self.ended = time.monotonic()
        if self.code not in ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL"):
            self.caller.reached[self.service.name] = self.began  # its end is seen late, perhaps after that process's own
        return self.code

    def may_go_on(self):
        """The caller gave up, and the controller has neither ended it nor been killed since, and the call's time is left."""
        if self.code not in ("CANCELLED", "DEADLINE_EXCEEDED") or self.service.killed_at > self.ended:
            return False
        return self.id not in self.service.ended and time.monotonic() < self.began + self.timeout_s + 0.5


# ---- who kills ----


class Worker(threading.Thread):
    """A thread whose failure is kept, and ends the run."""

    def __init__(self, lab, name, stop):
        super().__init__(name=name, daemon=True)
        self.lab, self.stop, self.failure = lab, stop, None

    def run(self):
        try:
            self.work()
        except BaseException as why:  # pylint: disable=broad-except
            self.failure = why
            self.stop.set()


class LogReader(Worker):
    def work(self):
        while True:
            for service in self.lab.services.values():
                service.read_log()
            time.sleep(0.02)


class Prober(Worker):
    """Ends breaks: when each controller that runs has reached what is back."""

    def work(self):
        callers = Caller(self.lab, self.name)
        while True:
            for one in self.lab.open_breaks():
                if one.back and self.reached(callers, one):
                    one.ended = time.monotonic()
            time.sleep(0.05)

    def reached(self, callers, one):
        away = {other.what for other in self.lab.open_breaks() if other is not one}
        if one.what in self.lab.services:
            services, servers = [self.lab.services[one.what]], [target.server_id for target in self.lab.targets]
        else:
            services, servers = list(self.lab.services.values()), [one.what]
        return all(self.proves(callers, service, server) for service in services if service.up
                   for server in servers if server not in away and service.name not in away)

    def proves(self, callers, service, server):
        call = callers.begin(service, "ControllerGetVolume", 5, {"volume_id": f"{server}.{ABSENT}"})
        return call.finish() == "NOT_FOUND"


class Killer(Worker):
    """kill -9 of one kind of process, at times that the plan says; each comes back after a while, or is killed again
    while it starts."""

    def __init__(self, lab, name, stop, kills, begin, end):
        super().__init__(lab, name, stop)
        self.kills, self.begin, self.end, self.count, self.rounds = kills, begin, end, 0, 0

    def work(self):
        began = time.monotonic()
        for at_s, victim, down_s, again_s in self.kills:
            if self.stop.wait(max(0, began + at_s - time.monotonic())):
                return
            one = self.lab.broken(victim)
            self.begin(victim)
            self.count += 1
            self.stop.wait(down_s)
            self.end(victim, again_s)
            self.count += again_s is not None
            one.back = True
            self.rounds += 1


KILLS_MIN = 4  # of each killer, however short or slow the run is


def kill_times(choice, until_s, first, victims, gap_s):
    """(when, who, for how long, killed again after so long while it starts, or None), by the seed alone."""
    at_s, times = 0.0, []
    while at_s < until_s or len(times) < KILLS_MIN:
        at_s += choice.uniform(*gap_s)
        victim = first[len(times)] if len(times) < len(first) else choice.choice(victims)
        times.append((at_s, victim, choice.choice((0, 0, choice.uniform(0, 0.8))),
                      choice.uniform(0, 0.3) if choice.random() < 0.15 else None))
    return times


def server_killer(lab, stop, seed, until_s, gap_s):
    targets = {target.server_id: target for target in lab.targets}

    def end(victim, again_s):
        target = targets[victim]
        if again_s is not None:
            target.start(wait=False)
            stop.wait(again_s)
            target.kill()
        target.start()

    kills = kill_times(random.Random(f"{seed}-servers"), until_s, "", sorted(targets), gap_s)
    return Killer(lab, "servers", stop, kills, lambda victim: targets[victim].kill(), end)


def controller_killer(lab, stop, seed, until_s, gap_s):
    """a is killed and comes back; b, the second one, comes at one of its turns and goes at the next."""
    leaving = set()

    def begin(victim):
        if lab.services[victim].up:
            lab.services[victim].kill()
            leaving.update(victim if victim == "b" else "")

    def end(victim, again_s):
        service = lab.services[victim]
        if victim in leaving:
            leaving.discard(victim)
            return
        if again_s is not None:
            service.start()
            stop.wait(again_s)
            service.kill()
        service.start()

    kills = kill_times(random.Random(f"{seed}-controllers"), until_s, "aba", "aab", gap_s)
    return Killer(lab, "controllers", stop, kills, begin, end)
