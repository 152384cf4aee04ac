"""Proves from the committed topics alone that the gate kept its promises. Pure; serves the simulation and real brokers.

Feed the records of the request topics first, then those of the retries and the delayed ones, then all others; within a
partition in order of offset. What is remembered per request is small, so that a million fit.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gate.admission.state import ScheduledRecord, SegmentRecord, decode
from gate.limits import Spec
from gate.policy import Deduplicate, Policy
from gate.protocol import control
from gate.protocol.answers import FINAL, Answer, AnswerState, Audit, decode_answer, decode_audit
from gate.protocol.headers import Malformed, RequestOptions, read_options
from gate.protocol.topics import Names
from gate.shard.changelog_records import META_KEY, read_meta
from gate.shard.operator_commands import CommandRecord
from gate.shard.records import Headers, Partition
from gate.shard.state import ShardState
from tests.sim import oracle
from tests.sim.picky import EASY, Picky
from tests.sim.running import RunningChecker

MS: Final = 1_000_000
SHOWN: Final = 20  # problems of one kind
LATEST_MS: Final = 500  # after a request could have gone, when nothing is wrong
SEEN_MS: Final = 2_000  # from a decision until all can see it, in a network that is slow now and then
STAMPED: Final = frozenset({"gate", "gate-not-before", "gate-error"})
STAMP: Final = re.compile(
    rb'(admitted|delayed|rejected);id="([^"]+)-(\d+)@(\d+)";at=(\d+);attempt=(\d+);(?:origin="(?P<origin>[^"]+)";)?policy="([0-9a-f]{6})"'
    rb'(?:;reason=([a-z-]+))?(?:;limit=%?"[^"]*")?(?:;running)?(?:;first="([^"]+)")?(?:;created=(\d+))?'
)
PLACE: Final = re.compile(rb"(.+)-(\d+)@(\d+)")


class Committed(NamedTuple):
    """A record as a reader with `read_committed` sees it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    visible: int = -1  # when its transaction ended, ms; -1 where that can't be told


@dataclass(slots=True)
class _Request:
    options: RequestOptions | None  # None: malformed
    arrived: int
    print: int  # of all that must not be touched
    bare: int = 0  # the same without the value, where the rejected topic does not take that
    strange: bool = False  # an output topic does not take it
    admitted: int = 0
    rejected: int = 0
    delayed: int = 0
    at: int = -1  # of the last decision
    decided: int = -1  # at the first one
    ids: dict[str, bytes | None] = field(default_factory=dict)  # what may name it, by header
    repeats: str = ""  # the id of the request that it repeats, as the gate says
    visible: int = -1
    not_before: int = -1
    origin: str = ""  # of one that was put back: the id of the first one

    @property
    def start(self) -> int:
        """When it counts as come: at its own time, where it names a later one; ms."""
        named = self.options.start_ms if self.options is not None else None
        return self.arrived if named is None else max(self.arrived, named)

    def passed(self, at: int) -> bool:
        """Tell whether it was not rejected, or had waited and was only later than `at`."""
        return not self.rejected or (self.delayed > 0 and self.at > at)

    @property
    def is_scheduled(self) -> bool:
        return self.options is not None and self.options.start_ms is not None


@dataclass(slots=True)
class _Service:
    name: str
    requests: dict[tuple[int, int], _Request] = field(default_factory=dict)  # by partition and offset
    parked: dict[tuple[int, int], _Request] = field(default_factory=dict)  # by place in the delayed topic
    used: dict[tuple[int, str], int] = field(default_factory=dict)  # units by moment and policy
    by_tenant: dict[str, dict[tuple[int, str], int]] = field(default_factory=dict)
    last: dict[tuple[int, str, str], int] = field(default_factory=dict)  # admitted offset by partition, lane, tenant
    newest: dict[tuple[str, int], int] = field(default_factory=dict)  # decision, by kind of output and partition
    dropped: bool = False  # a request that waited was refused, so that those behind it moved up
    shed: bool = False  # a request was refused on arrival, after others were planned behind it
    versions: dict[str, None] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)  # when they were parked
    disorder: list[str] = field(default_factory=list)  # what went out of its order
    reordered: bool = False  # some of what waited was let go first, or put into another lane, or came once more
    put_back: int = 0  # requests
    taken: list[int] = field(default_factory=list)  # when commands on it were


class Checker:
    """Takes records by `feed`; `finish` returns what is wrong, in words."""

    def __init__(self, names: Names, policies: Mapping[str, Policy], shards: int, picky: Picky = EASY) -> None:
        self._picky = picky  # what the broker refuses
        self._names = names
        self._policies = policies  # by version
        self._shards = shards
        self._services: dict[str, _Service] = {}
        self._state: dict[int, dict[str, bytes]] = {}
        self._alerts: dict[bytes | None, list[str]] = {}
        self._ends: dict[str, list[Answer]] = {}  # last answers, by command
        self._audits: dict[str, list[Audit]] = {}
        self._newest_at = 0
        self.running = RunningChecker(names, policies)
        self._counts: dict[str, int] = {}
        self._problems: list[str] = []
        self._topics: dict[str, tuple[str, _Service]] = {}  # kind and service

    def feed(self, record: Committed) -> None:
        """Take one record."""
        if record.topic == self._names.state:
            newest = self._state.setdefault(record.partition, {})
            key = (record.key or b"").decode()
            self.running.write(record.partition, key, record.value)
            if record.value is None:
                newest.pop(key, None)
            else:
                newest[key] = record.value
                if key.startswith("command/"):
                    self._feed_command(key, record.value)
        elif record.topic == self._names.alerts:
            self._alerts.setdefault(record.key, []).append((record.value or b"").decode())
        elif record.topic == self._names.answers:
            self._feed_answer(decode_answer(record.value))
        elif record.topic == self._names.audit:
            audit = decode_audit(record.value)
            if audit.command:
                self._audits.setdefault(audit.command, []).append(audit)
        elif (retried := self._names.service_of(record.topic, "retries")) is not None:
            self._feed_put_back(self._service(retried), record)
        elif not self.running.tell(record.topic, record.partition, record.offset, record.value):
            self._feed_service(record)

    def _feed_command(self, key: str, value: bytes) -> None:
        """What is let go first, or elsewhere, goes out of its order, and others later than they were told."""
        given = control.decode(decode(key, value, CommandRecord).command)
        if isinstance(given, control.Expedite | control.Move):
            self._service(given.service).reordered = True

    def _feed_answer(self, answer: Answer) -> None:
        if answer.state is AnswerState.TAKEN:
            self._service(answer.service).taken.append(answer.at)
        elif answer.state in FINAL:
            self._ends.setdefault(answer.command, []).append(answer)

    def _feed_put_back(self, service: _Service, record: Committed) -> None:
        """Take what came back from a topic: a request of its own, which is as the first one was."""
        place = f"{record.topic}-{record.partition}@{record.offset}"
        origin = dict(record.headers).get("gate-job-id")
        found = PLACE.fullmatch(origin or b"")
        first = service.requests.get((int(found[2]), int(found[3]))) if found is not None else None
        if origin is None or found is None or first is None or found[1].decode() != self._names.requests(service.name):
            self._add("put back", f"{place} names {origin!r} as the first one")
            return
        plain = record._replace(headers=[h for h in record.headers if h[0] != "gate-job-id"])
        if _print(plain) not in {first.print, first.bare}:
            self._add("touched", f"{place}: key, value or headers differ from those of {origin.decode()}")
        service.reordered = True
        service.put_back += 1
        options = read_options(record.headers)
        service.requests[-1 - record.partition, record.offset] = _Request(
            None if isinstance(options, Malformed) else options,
            record.timestamp,
            _print(record),
            origin=origin.decode(),
        )

    def _feed_service(self, record: Committed) -> None:
        name = self._names.service_of(record.topic)
        if name is not None:
            service = self._service(name)
            options = read_options(record.headers)
            service.requests[record.partition, record.offset] = _Request(
                None if isinstance(options, Malformed) else options, record.timestamp, _print(record)
            )
            given = dict(record.headers)
            request = service.requests[record.partition, record.offset]
            request.ids = {name: given[name] for name in ("gate-id", "key-of-mine") if name in given}
            if self._picky.part or self._picky.stubborn:
                request.strange = self._picky.is_strange(record.key, record.value)
                if self._picky.is_stubborn(record.key, record.value):
                    request.bare = _print(record._replace(value=None))
        elif record.topic in self._topics:
            kind, service = self._topics[record.topic]
            self._feed_output(kind, service, record)

    def _service(self, name: str) -> _Service:
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = _Service(name)
            for kind in ("admitted", "delayed", "rejected"):
                self._topics[getattr(self._names, kind)(name)] = kind, service
        return service

    def _feed_output(self, kind: str, service: _Service, record: Committed) -> None:
        place = f"{record.topic}-{record.partition}@{record.offset}"
        stamps = [value for name, value in record.headers if name == "gate"]
        found = STAMP.fullmatch(stamps[0] or b"") if len(stamps) == 1 else None
        if found is None:
            self._add("stamp", f"{place} has no stamp of its own: {stamps}")
            return
        verdict, topic, partition, offset, at, attempt, origin, version, reason, first, created = found.groups()
        retried = topic.decode() == self._names.retries(service.name)
        number = -1 - int(partition) if retried else int(partition)
        request = service.requests.get((number, int(offset)))
        if (
            request is None
            or not (retried or topic.decode() == self._names.requests(service.name))
            or verdict.decode() != kind
            or (origin or b"").decode() != request.origin
            or record.partition != (int(request.origin.rpartition("-")[2].partition("@")[0]) if retried else number)
        ):
            self._add("stamp", f"{place} is stamped {stamps[0]!r}, which fits no request of this topic")
            return
        if _print(record) != (request.bare if kind == "rejected" and request.bare else request.print):
            self._add("touched", f"{place}: key, value or headers differ from the request's")
        if created is None or int(created) != request.arrived:
            self._add("touched", f"{place}: created={created}, but its producer's timestamp was {request.arrived}")
        if record.timestamp != int(at):
            self._add("dated", f"{place}: its timestamp is {record.timestamp}, but it was decided at {int(at)}")
        if int(attempt) != 1 + (kind != "delayed" and request.delayed > 0):
            self._add("attempt", f"{place} is decision {int(attempt)} about a request delayed {request.delayed} times")
        if request.decided < 0:
            request.decided = int(at)
        if int(at) < request.at:
            self._add("order", f"{place} was decided at {int(at)}, before it was delayed")
        newest = service.newest.get((kind, record.partition), 0)
        if int(at) < newest:
            self._add("order", f"{place} was decided at {int(at)}, behind one decided at {newest}")
        waits_since, request.at = request.at, int(at)
        service.newest[kind, record.partition] = request.at
        request.visible = record.visible
        self._newest_at = max(self._newest_at, int(at))
        service.versions[version.decode()] = None
        if kind == "delayed":
            request.delayed += 1
            service.parked[record.partition, record.offset] = request
            request.not_before = next((int(v) for n, v in record.headers if n == "gate-not-before" and v), -1)
            untold = request.not_before < 0 and self._waits_for_workers(service.name, version.decode())
            if request.not_before < int(at) and not untold:
                self._add("not-before", f"{place} waits until {request.not_before}, before its decision")
        elif kind == "rejected":
            request.rejected += 1
            request.repeats = first.decode() if first is not None and reason == b"duplicate" else ""
            if (reason == b"duplicate") != (first is not None):
                self._add("duplicate", f"{place} is rejected as {reason!r}, and names {first!r} as the first one")
            service.dropped |= request.delayed > 0 or reason == b"unforwardable"
            if reason == b"unforwardable" and not request.strange:
                self._add("unforwardable", f"{place} was rejected as such, and nothing refuses it")
            if reason == b"cancelled":
                service.cancelled.append(waits_since)
                if not request.delayed:
                    self._add("command", f"{place} was cancelled, and never waited")
            service.shed |= reason in {b"deadline", b"max-delay"}
            if (reason == b"malformed") != (request.options is None):
                self._add("malformed", f"{place} was rejected as {reason!r}")
        else:
            request.admitted += 1
            self._feed_admitted(service, record, request, int(offset), version.decode())

    def _waits_for_workers(self, service: str, version: str) -> bool:
        """Tell whether nobody may know when a request goes, as it depends on when others are done."""
        policy = self._policies[version].effective(service)
        group = None if policy.group is None else self._policies[version].group(policy.group)
        return policy.counts_running or (group is not None and group.spec.running is not None)

    def _feed_admitted(
        self, service: _Service, record: Committed, request: _Request, offset: int, version: str
    ) -> None:
        if request.options is None:
            self._add(
                "malformed", f"{service.name}: request {record.partition}@{offset} can't be read and was admitted"
            )
            return
        if request.options.start_ms is not None and request.at < request.options.start_ms:
            self._add("early", f"{service.name}: {record.partition}@{offset} went at {request.at},"
                      f" not to go before {request.options.start_ms}")  # fmt: skip
        moment = request.at * MS, version
        tenant, cost = request.options.tenant, request.options.cost
        if any(name == "gate" and b";running" in (value or b"") for name, value in record.headers):
            name = f"{self._names.requests(service.name)}-{record.partition}@{offset}"
            self.running.admit(service.name, name, moment[0], tenant, version)
        service.used[moment] = service.used.get(moment, 0) + cost
        own = service.by_tenant.setdefault(tenant, {})
        own[moment] = own.get(moment, 0) + cost
        queue = record.partition, request.options.lane, tenant
        if request.is_scheduled or request.origin:
            return
        if service.last.get(queue, -1) >= offset:
            behind = f"{service.name}: {offset} of {queue} was admitted behind {service.last[queue]}"
            service.disorder.append(behind)
        service.last[queue] = max(offset, service.last.get(queue, -1))

    def _add(self, kind: str, problem: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= SHOWN:
            self._problems.append(f"{kind}: {problem}")

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(
        self,
        *,
        policy: Policy,
        offsets: Mapping[Partition, int],
        drained: bool = False,
        open_transactions: Sequence[str] = (),
        last_fault_ms: int | None = None,
        timely_from_ms: int | None = None,
        torn: bool = False,
        commands: Collection[str] = (),
    ) -> list[str]:
        """Return all problems.

        `policy` is the one in force, `offsets` what the group has committed. `drained`: nothing may wait any more.
        `last_fault_ms`: something must have been admitted after it. `timely_from_ms`: nothing went
        wrong since then, so no request that came later may have waited for anything but its limits. `torn`: a broker
        died in the middle of a transaction; an alert may then be told twice, and offsets be behind until the next one.
        """
        for name in open_transactions:
            self._add("open", f"a transaction of {name} is still open")
        if last_fault_ms is not None and self._newest_at <= last_fault_ms:
            self._add("dead", f"nothing was decided after the last fault at {last_fault_ms}")
        places = self._restore(policy)
        for service in self._services.values():
            self._check_ends(service, offsets, places, drained=drained, torn=torn)
            self._check_not_before(service)
            for behind in () if service.reordered else service.disorder:
                self._add("order", behind)
            self._check_once(service, policy.effective(service.name).deduplicate)
        self._check_limits()
        for problem in self.running.problems():
            self._add("running", problem)
        if not torn:
            self._check_alerts()
            self._check_commands(commands if drained else ())
        if timely_from_ms is not None:
            for service in self._services.values():
                self._check_timely(service, timely_from_ms)
        return self._problems

    def _restore(self, policy: Policy) -> dict[Partition, set[int]]:
        """Restore every shard as a new owner would. Returns the offsets that wait, by partition of a delayed topic."""
        places: dict[Partition, set[int]] = {}
        for number, stored in self._state.items():
            for key, value in stored.items():
                if key.startswith(("parked/", "scheduled/")):
                    _, service, partition, _ = key.split("/")
                    found = places.setdefault(Partition(self._names.delayed(service), int(partition)), set())
                    kind = SegmentRecord if key.startswith("parked/") else ScheduledRecord
                    for offset in _offsets(decode(key, value, kind)):
                        if offset in found:
                            self._add("state", f"{key} holds {offset}, which another segment holds too")
                        found.add(offset)
            meta = read_meta(stored.get(META_KEY), self._shards)
            state = ShardState(self._names, policy, meta, {}, self._newest_at * MS)
            for _ in state.restore(dict(stored), self._newest_at * MS):
                pass
            for served in state.services.values():
                for partition in range(64):
                    mark = served.engine.low_watermark(partition)
                    wait = places.get(Partition(served.topics.delayed, partition))
                    if mark != (min(wait) if wait else None):
                        self._add("state", f"shard {number}: {served.name}-{partition} restores to {mark}, not {wait}")
        return places

    def _check_ends(
        self,
        service: _Service,
        offsets: Mapping[Partition, int],
        places: Mapping[Partition, set[int]],
        *,
        drained: bool,
        torn: bool,
    ) -> None:
        delayed = self._names.delayed(service.name)
        for (number, offset), request in service.requests.items():
            topic = (self._names.requests if number >= 0 else self._names.retries)(service.name)
            partition = number if number >= 0 else -1 - number
            what = f"{topic}-{partition}@{offset}"
            ends = request.admitted + request.rejected
            decided = offset < offsets.get(Partition(topic, partition), 0)
            if ends > 1 or request.delayed > 1:
                self._add("twice", f"{what}: {request.admitted} x admitted, {request.rejected} x rejected,"
                          f" {request.delayed} x delayed")  # fmt: skip
            if not ends and drained:
                self._add("lost", f"{what} was never decided")
            if decided != (ends + request.delayed > 0) and (drained or not torn):
                self._add("offsets", f"{what}: committed offset says decided={decided}, the topics say {not decided}")
        waiting: dict[int, set[int]] = {}
        for (partition, offset), request in service.parked.items():
            wait = waiting.setdefault(partition, set())
            if not request.admitted + request.rejected:
                wait.add(offset)
        for partition, wait in waiting.items():
            place = Partition(delayed, partition)
            kept = places.get(place, set())
            if kept != wait:
                lost, gone = sorted(wait - kept)[:5], sorted(kept - wait)[:5]
                self._add("state", f"{place}: not in the state: {lost}; in the state, but decided or not there: {gone}")
            # where nothing waits, a new owner need not know how far others have come: below the end is as good
            newest = max(offset for number, offset in service.parked if number == partition)
            committed, oldest = offsets.get(place, -1), min(wait, default=newest + 1)
            if not torn and not (committed == oldest or (not wait and 0 <= committed < oldest)):
                self._add("offsets", f"{place}: committed {committed}, oldest waiting {oldest}")

    def _check_not_before(self, service: _Service) -> None:
        """A time that was promised holds, unless the policy changed or others left the queue.

        Under a shared budget or limits of tenants it is an estimate, which may be late by a turn of another.
        """
        if service.dropped or service.reordered or len(service.versions) != 1:
            return
        policy = self._policies[next(iter(service.versions))].effective(service.name)
        if policy.group is not None or policy.tenants is not None or (service.shed and len(policy.lanes) > 1):
            return
        for (partition, offset), request in service.requests.items():
            if request.admitted and request.at < request.not_before and not request.is_scheduled:
                self._add("not-before", f"{service.name}: {partition}@{offset} was promised {request.not_before} and"
                          f" admitted at {request.at}")  # fmt: skip

    def _check_once(self, service: _Service, rules: Deduplicate | None) -> None:
        """Of the requests of one id that are not rejected, none comes within the time of another, and who is told to
        repeat one does.
        """
        named: dict[tuple[str, bytes], list[tuple[int, str, _Request]]] = {}
        for (partition, offset), request in service.requests.items():
            own = "" if rules is None or request.origin else request.ids.get({"id": "gate-id"}.get(rules.by, rules.by))
            name = f"{self._names.requests(service.name)}-{partition}@{offset}"
            if own and request.decided >= 0 and request.options is not None:
                named.setdefault((request.options.tenant, own), []).append((request.decided, name, request))
            elif request.repeats:
                self._add("duplicate", f"{name} has no id, and was refused as if it repeated {request.repeats}")
        for alike in named.values():
            assert rules is not None
            time = rules.time // MS
            for at, name, request in alike:
                others = [(then, other, it) for then, other, it in alike if it is not request]
                if request.repeats:
                    if not any(o == request.repeats and t <= at < t + time and it.passed(at) for t, o, it in others):
                        self._add("duplicate", f"{name} was refused at {at}, but {request.repeats} is no reason to")
                elif request.passed(at):
                    for then, other, it in others:
                        if then < at < then + time and it.passed(at) and it.passed(then):
                            self._add("duplicate", f"{name} passed at {at}, although {other} had at {then}")

    def _check_limits(self) -> None:
        groups: dict[str, dict[tuple[int, str], int]] = {}
        for service in self._services.values():
            policies = {version: self._policies[version].effective(service.name) for version in service.versions}
            if any(policy.shadow for policy in policies.values()):
                continue
            self._over(service.name, service.used, {version: p.spec for version, p in policies.items()})
            for tenant, used in service.by_tenant.items():
                self._over(
                    f"{service.name}/{tenant}", used, {version: p.tenant(tenant) for version, p in policies.items()}
                )
            for (at, version), units in service.used.items():
                group = policies[version].group
                if group is not None:
                    shared = groups.setdefault(group, {})
                    shared[at, version] = shared.get((at, version), 0) + units
        for group, used in groups.items():
            specs = {version: found.spec for version, p in self._policies.items() if (found := p.group(group))}
            self._over(f"group {group}", used, specs)

    def _over(self, name: str, used: Mapping[tuple[int, str], int], specs: Mapping[str, Spec | None]) -> None:
        counted: dict[tuple[int, Spec | None], int] = {}
        for (at, version), units in used.items():
            moment = at, specs[version]
            counted[moment] = counted.get(moment, 0) + units
        for problem in oracle.excesses(name, counted):
            self._add("over", problem)

    def _check_alerts(self) -> None:
        """Opened and resolved once per breach, in turn."""
        for key, told in self._alerts.items():
            breach = [line.split() for line in told if not line.startswith("near_limit")]
            open_: str | None = None
            for kind, since in breach:
                if (kind == "opened") == (open_ is not None) or (kind != "opened" and since != open_):
                    self._add("alerts", f"{key!r}: {kind} {since} while {open_} was open")
                open_ = None if kind == "resolved" else since

    def _check_commands(self, commands: Collection[str]) -> None:
        """Each of these commands has an end, and each that has one had it once: what was told is what was done."""
        for command in commands:
            if command not in self._ends:
                self._add("command", f"{command} was never answered")
        told: dict[tuple[str, str], list[int]] = {}  # how many each command was about, by service and what it is
        for command, ends in self._ends.items():
            last, audits = ends[-1], self._audits.get(command, [])
            if any((end.state, end.done, end.of) != (last.state, last.done, last.of) for end in ends):
                self._add("command", f"{command} had several ends: {ends}")
            if len(audits) != 1:
                self._add("command", f"{command} has {len(audits)} records in the audit")
            elif (audits[0].result, audits[0].after["done"]) != (last.state, last.done):
                self._add("command", f"{command}: the answer says {last}, the audit {audits[0]}")
            meant = last.of or 0
            if last.done > meant or (audits and audits[0].what == "redrive" and meant != last.done + last.skipped):
                self._add("command", f"{command} was about {meant}, of which {last.done} were done: {last}")
            if audits and last.done:
                told.setdefault((last.service, audits[0].what), []).append(last.done)
        for name, service in self._services.items():
            cancelled, redriven = (told.get((name, what), []) for what in ("cancel", "redrive"))
            if commands and len(service.cancelled) != sum(cancelled):
                self._add("command", f"{name}: {len(service.cancelled)} were cancelled, {cancelled} told")
            if commands and service.put_back != sum(redriven):
                self._add("command", f"{name}: {service.put_back} were put back, {redriven} told")
            if service.cancelled and max(service.cancelled) > max(service.taken, default=0):
                self._add("command", f"{name}: what was parked at {max(service.cancelled)} was cancelled by a command"
                          f" that was taken at {max(service.taken, default=0)}")  # fmt: skip

    def _check_timely(self, service: _Service, start_ms: int) -> None:
        """No request went later than it could have: its limits, as they stood, were what it waited for."""
        (version,) = service.versions or {""}
        if not version or self._policies[version].effective(service.name).group is not None:
            return
        policy = self._policies[version].effective(service.name)
        if self._waits_for_workers(service.name, version):
            return
        for request in service.requests.values():
            if start_ms < request.at < request.visible - SEEN_MS:
                self._add("late", f"{service.name}: decided at {request.at}, but to be seen from {request.visible} on")
        if policy.tenants is not None:
            return
        if len(policy.lanes) == 1 and not service.reordered:
            for request in service.requests.values():
                promised = start_ms < request.not_before and not request.is_scheduled
                if request.admitted and promised and request.not_before < request.at - LATEST_MS:
                    self._add("late", f"{service.name}: admitted at {request.at}, promised {request.not_before}")
        admitted = [
            (r.at * MS, r.start * MS, r.options.cost) for r in service.requests.values() if r.admitted and r.options
        ]
        if len({cost for _, _, cost in admitted}) > 1:
            return  # a cheap request waits behind a dear one, as its queue is first in, first out
        for at, ready in oracle.late(sorted(admitted), policy.spec, LATEST_MS * MS):
            if ready >= start_ms * MS:
                self._add("late", f"{service.name}: admitted at {at // MS}, could have gone at {ready // MS}")


def _print(record: Committed) -> int:
    names = ["", *(name for name, _ in record.headers)]
    kept = tuple(
        header
        for header, before in zip(record.headers, names, strict=False)
        if header[0] not in STAMPED and (before, header[0]) != ("gate", "retry-after")
    )
    return hash((record.key, record.value, kept))


def _offsets(record: SegmentRecord | ScheduledRecord) -> Iterator[int]:
    from array import array

    for offset, count in zip(array("I", record.offset), array("H", record.count), strict=True):
        yield from range(record.base + offset, record.base + offset + count)
