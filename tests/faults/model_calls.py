"""One operation of a client: a call that is repeated until its outcome is known. The plan says which of its calls are
cancelled, cut short or made twice at once; the model, which answers are final, and when "not now" is one."""
import re
import time

from model_lab import LONGER_S, Wrong

SETTLE_LIMIT_S = 120
UNEXPLAINED_MAX = 10  # of one operation
UNSURE = ("CANCELLED", "DEADLINE_EXCEEDED")
# What a connection says that was lost with the process at its other end.
BROKEN = ("INTERNAL", "UNKNOWN")
SHARED_WORDS = ("copies are under way", "is being made of", "calls wait for", "for anything: retry later")


class Plan:
    """How an operation's calls are disturbed, and the pauses between them: of one operation, by seed, client and number."""

    def __init__(self, choice):
        self.choice = choice
        self.second = choice.random() < 0.35  # through controller b, while there is one
        self.disturbed = [self._one(weight) for weight in (0.4, 0.3, 0.2)]

    def _one(self, weight):
        if self.choice.random() > weight:
            return "plain", 0
        how = self.choice.choice(("cancel", "cancel", "short", "twice"))
        return how, self.choice.uniform(0.001, 0.06) if how == "cancel" else self.choice.uniform(0.005, 0.15)

    def of(self, attempt):
        return self.disturbed[attempt] if attempt < len(self.disturbed) else ("plain", 0)

    def pause_s(self, attempt):
        return self.choice.uniform(0.005, 0.05) * min(attempt + 1, 8)


class Operation:
    def __init__(self, client, plan, name, method, fields, final, shared=False):
        self.client, self.plan, self.name, self.method, self.fields = client, plan, name, method, fields
        self.final, self.shared = final, shared
        self.lab, self.histories = client.lab, client.histories
        self.began, self.attempts, self.disturbed, self.without_reason = time.monotonic(), 0, False, 0
        self.loose = []  # calls that may go on though nobody waits for them

    def run(self):
        """The call with the final answer."""
        while True:
            answers = self.attempt()
            final = [call for call in answers if call.code in self.final]
            for call in answers:
                if call.code not in self.final:
                    self.check_passing(call)
            if len(final) == 2:
                self.check_same(*final)
            if final:
                self.wait_for_loose()
                return final[0]
            if time.monotonic() > self.began + SETTLE_LIMIT_S:
                raise self.wrong(f"no answer that counts within {SETTLE_LIMIT_S} s: {answers[0].details}")
            self.attempts += 1
            self.histories.count("repeats")
            time.sleep(self.plan.pause_s(self.attempts))

    def attempt(self):
        how, time_s = self.plan.of(self.attempts)
        service = self.service()
        timeout_s = time_s if how == "short" else LONGER_S
        calls = [self.client.caller.begin(service, self.method, timeout_s, self.fields)
                 for _ in range(2 if how == "twice" else 1)]
        for call in calls:
            call.finish(time_s if how == "cancel" else None)
            self.histories.count("calls")
            self.note(call, how)
            if call.code in UNSURE or (call.code in ("UNAVAILABLE", *BROKEN)):
                self.histories.count("unknown outcomes")
                self.disturbed = True
            if call.code in UNSURE:
                self.loose.append(call)
        self.disturbed |= how == "twice"
        return calls

    def service(self):
        """The controller to ask. As of a CO: one that an answer is owed by is asked again for as long as it lives, since
        another one might do the same at the same time, and come to its end when what it did was undone."""
        services, owed = self.lab.services, [call for call in self.loose if call.may_go_on()]
        if owed:
            return owed[-1].service
        return services["b" if self.plan.second and services["b"].up else "a"]

    def note(self, call, how):
        answer = ""
        if call.code == "OK":
            answer = re.sub(r"\s+", " ", str(call.value))[:160]
        self.histories.add(self.name, f"{self.client.name} {call.method} by {call.service.name} ({how}) "
                           f"{self.words()} → {call.code} {call.details[:240] or answer} "
                           f"[{(call.ended - call.began) * 1e3:.0f} ms, {call.id}]")

    def words(self):
        return " ".join(f"{key}={value}" for key, value in self.fields.items()
                        if isinstance(value, (str, int)) and key != "name")

    def wrong(self, text, call=None):
        ids = re.findall(r"s\d\.(?:s-)?[0-9a-f]{16}", self.words())
        return Wrong(f"{self.method} of {self.name}: {text}", self.name, [*ids, *([call.id] if call else [])])

    # ---- answers that are not final ----

    def check_passing(self, call):
        if call.code == "ABORTED":
            known = self.shared or self.disturbed or any(words in call.details for words in SHARED_WORDS)
            if not known and not self.lab.disturbed(self.began, call.ended):
                self.unexplained(f"ABORTED, and nothing else was under way: {call.details}", call)
        elif call.code == "UNAVAILABLE":
            self.check_unavailable(call)
        elif call.code == "CANCELLED":
            if call.details != "by the plan":
                raise self.wrong(f"CANCELLED by somebody else: {call.details}", call)
        elif call.code == "DEADLINE_EXCEEDED":
            if call.ended - call.began < 0.5 * call.timeout_s:
                raise self.wrong(f"DEADLINE_EXCEEDED {call.ended - call.began:.3f} s after its begin, and it had "
                                 f"{call.timeout_s:.3f} s: {call.details}", call)
        elif call.code in BROKEN and call.service.died_since(call.began) and "storage server" not in call.details:
            pass  # what gRPC makes of a connection that its peer's death ends
        else:
            raise self.wrong(f"{call.code}, and the model allows {sorted(self.final)}: {call.details}", call)

    def unexplained(self, text, call):
        """What a killed controller asked of a storage server may be carried out later, when it is another operation's turn;
        and a connection may end for reasons of its own. Neither lasts."""
        self.histories.count("answers without a reason")
        self.without_reason += 1
        if self.without_reason > UNEXPLAINED_MAX:
            raise self.wrong(text, call)

    def check_unavailable(self, call):
        """Only while something is away, or when the caller's time was up before a storage server's answer. Where it is gRPC's
        own word, the controller is not reached: this client's connection may be made anew later than others'."""
        named = set(re.findall(r"storage server (s\d)", call.details))
        if self.lab.disturbed(call.began, call.ended, named) or "keepalive" in call.details:
            return
        if not named:
            if self.client.caller.has_reached(call.service, call.began):
                self.unexplained(f"UNAVAILABLE, and the controller is there: {call.details}", call)
            return
        if call.ended - call.began >= min(0.5 * call.timeout_s, LONGER_S / 2):
            return
        raise self.wrong(f"UNAVAILABLE, and all were there: {call.details}", call)

    def check_same(self, one, other):
        def what(call):
            made = call.value
            return made.snapshot.snapshot_id if self.method == "CreateSnapshot" and made else made
        if "DATA_LOSS" in (one.code, other.code):
            return  # its server ended between the two
        if not self.shared and (one.code, what(one)) != (other.code, what(other)):
            raise self.wrong(f"two calls at once, two answers: {one.code} {one.value} and {other.code} {other.value}", one)

    # ---- what goes on by itself ----

    def wait_for_loose(self):
        """Until each call that was given up has ended, too: what comes next must not race it."""
        while any(call.may_go_on() for call in self.loose):
            time.sleep(0.01)

