"""State of a shard in its owner's memory: the engines of its services, and how far each partition is decided.

No I/O: the shard task brings requests and takes away what is to be written.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import Final

import msgspec
import structlog

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, UNTIL_RESUMED, Event, Pull, Reason, Step, Usage, Verdict
from gate.admission.state import decode
from gate.errors import GateError
from gate.limits import Limiter, Spec
from gate.policy import Overflow, Policy
from gate.protocol.control import (
    FOREVER_MS,
    Abort,
    BacklogCommand,
    LimitCommand,
    NewGeneration,
    PauseUntil,
    WriteFormat,
    within,
)
from gate.protocol.policies import group_of
from gate.protocol.topics import Names
from gate.shard import duplicates
from gate.shard.buffer import FetchBuffer, weight_of
from gate.shard.changelog_records import (
    FLOORS_KEY,
    FORMAT,
    LEAVING_KEY,
    META_KEY,
    FloorsRecord,
    Meta,
    encode_leaving,
    encode_meta,
    readable,
)
from gate.shard.feedback_actions import FeedbackBatch, FeedbackResult, act, too_large
from gate.shard.feedback_state import FeedbackState
from gate.shard.group_limits import refusal_of
from gate.shard.live_limits import LiveLimits
from gate.shard.mesh import KIND as MESH
from gate.shard.mesh import Mesh
from gate.shard.operator_commands import OperatorCommands
from gate.shard.owner_views import Feedback, Received, RetainedOffsets
from gate.shard.placement import shard_of
from gate.shard.positions import OFFSETS_KIND, Positions
from gate.shard.read_ahead import MOST, ReadAhead
from gate.shard.records import CommittedOffset, Outgoing, Partition, Raw, Record
from gate.shard.refusal_history import NO_REJECTIONS, Rejections, job_of, request_of
from gate.shard.routing import (
    NO_JUDGES,
    Batch,
    Judges,
    PartitionSlice,
    RefusedRequest,
    TakenRecords,
    Topics,
    number_through,
    read_runs,
    without_start,
)
from gate.shard.running_ids import running_ids
from gate.shard.usage_schedule import UsageSchedule
from gate.shard.wake_times import WakeTimes

log = structlog.get_logger("gate.shard")

PULLS: Final = 1_000  # parked requests that one service releases in one batch
PULLED_BYTES: Final = 2 << 20  # that they should be at most; where they are too many by far, the session learns it
LARGE_PULLED: Final = 16 << 10  # bytes of a parked request: a batch of such ones takes much memory
QUIET: Final = 0.05  # requests per second
HOLD_ROOM: Final = 16  # requests of a partition that are looked at although the last look had some held
SCHEDULES: Final = 2  # the first format of the state that keeps what is not to go before a time
MOST_ROOM: Final = 4_000
SORTED: Final = 4_000  # records of the state that are sorted in one piece: some ms


@dataclass(slots=True)
class ServiceState:
    """One service of the shard."""

    name: str
    engine: Engine
    topics: Topics
    delayed_end: dict[int, int] = field(default_factory=dict)  # behind the newest parked record that was seen
    emptied: set[int] = field(default_factory=set)  # partitions of the delayed topic of which something was forgotten
    admitted: int = 0  # requests, since this state was restored
    codec: int = 0  # how the newest requests were compressed
    settled: bool = False  # it has been looked at since its rates sank to nothing
    room: int | None = None  # requests to take from each partition at a look, where most would only be held; None: all
    first: int = 0  # which of the partitions has its turn first while requests are held
    resting: dict[int, int] = field(default_factory=dict)  # retries that wait: when the first is due, ns, by partition
    forgets: bool = False  # it was told that ids are forgotten before their time
    pulls_large: bool = False  # those of the last batch were so large that it took much memory
    # Parked requests to release in one batch, as large as those of the last one were. Few at first would be capacity
    # lost at each take-over, as the bucket runs over.
    pulls: int = PULLS

    def weigh(self, pulled: Sequence[tuple[Pull, Sequence[Record]]]) -> None:
        """Learn from what was pulled how many to pull at a time."""
        count = sum(len(records) for _, records in pulled)
        if count:
            size = weight_of([record for _, records in pulled for record in records])
            self.pulls_large = size > LARGE_PULLED * count
            fitting = max(1, PULLED_BYTES * count // max(1, size))
            self.pulls = min(PULLS, fitting)


@dataclass(slots=True)
class ServiceBatch:
    """What one batch does with one service."""

    served: ServiceState
    pieces: list[PartitionSlice]
    step: Step
    refused: Sequence[RefusedRequest]
    clean: bool = False  # see `routing.Reading`
    pulled: list[tuple[Pull, Sequence[Record]]] = field(default_factory=list)
    parked: list[tuple[Partition, int]] = field(default_factory=list)
    returned: list[Pull] = field(default_factory=list)  # what an earlier owner had pulled, decided anew


class ShardState:
    """The engines of a shard. Thrown away at the first error, and built anew, by `restore`, from what is committed."""

    def __init__(
        self, names: Names, policy: Policy, meta: Meta, marks: Mapping[Partition, CommittedOffset], now: int
    ) -> None:
        self._names = names
        self.file = policy  # without what is set live
        self._policy = policy
        self._meta = meta
        self.positions = Positions(names, marks, meta.since)
        self._decided: dict[Partition, int] = {}  # by batches since this state was restored
        self.missed: set[Partition] = set()  # of delayed topics, from which a request was gone when its turn came
        self.feedback = FeedbackState(names)
        self.commands = OperatorCommands(names)
        self.live = LiveLimits(names)
        self._number: int | None = None  # of the shard
        self._relimited: set[str] = (
            set()
        )  # services and groups of which other limits are in force than their engines have
        self.large: set[str] = set()  # services whose parked requests are so large that few are released at a time
        self.measured: set[str] = set()  # services whose workers' lag is known
        self.count = object()  # of what is admitted: it tells what was measured beside it from what was for another one
        self._new: set[str] = set()  # services of which nothing is stored: commands may have come before them
        self._floors: Mapping[str, int] = {}  # commands before were carried out, by services that came with a reshard
        self.unwritten = False  # the description of the changelog has changed: to be written although nothing else has
        self._ends: dict[int, Outgoing] = {}  # of alerts, by the offset of what ends
        self._open_alerts: Collection[int] = ()
        self._stored: dict[str, dict[str, bytes]] = {}
        self.budgets = Budgets(now, _specs(policy), version=meta.format)
        self.services: dict[str, ServiceState] = {}
        self._wakes = WakeTimes()
        self.read_ahead = ReadAhead()
        self._publication = UsageSchedule(now)
        self.mesh = Mesh(
            meta.shards, policy, lambda: self._meta.format, self._engine, self._group_limiter, self._queues
        )

    def _engine(self, service: str) -> Engine | None:
        served = self.services.get(service)
        return None if served is None else served.engine

    def _queues(self) -> list[tuple[str, str | None]]:
        return [(name, self._policy.effective(name).group) for name in self.services]

    def _group_limiter(self, group: str) -> Limiter | None:
        budget = self.budgets.get(group)
        return None if budget is None else budget.limiter

    def restore(self, state: dict[str, bytes], now: int) -> Generator[None, None, None]:
        """Take what is committed, in slices of some ms; `state` is taken apart, or its records would be held twice."""
        groups: dict[str, bytes] = {}
        for number, key in enumerate(list(state)):
            value = state.pop(key)
            if number % SORTED == 0:
                yield
            kind, _, rest = key.partition("/")
            if key in {META_KEY, LEAVING_KEY}:
                continue
            if key == FLOORS_KEY:
                with readable("which commands were carried out"):
                    self._floors = decode(key, value, FloorsRecord).floors
                continue
            if kind == "group":
                groups[key] = value
            elif kind == MESH:
                self.mesh.keep(rest, value)
            elif kind == OFFSETS_KIND:
                with readable(f"how far {rest} was decided"):
                    self.positions.restore(rest, key, value)
            elif rest and not self._entered(key, value):
                self._stored.setdefault(rest.partition("/")[0], {})[key] = value
        with readable("limits set while it runs"):
            yield from self.live.restored()
        self.unwritten |= bool(self.live.expire(now))
        self._policy = self.file.overlaid(self.live.in_force())
        self.mesh.set_policy(self._policy, now)
        with readable("the state of the groups"):
            self.budgets = Budgets(now, _specs(self._policy), groups, self._meta.format)
        for service in list(self._stored):
            yield from self._open(service, now)

    def _entered(self, key: str, value: bytes) -> bool:
        with readable(f"what was told or commanded, {key}"):
            entered = self.feedback.restore(key, value) or self.commands.restore(key, value)
            return entered or self.live.restore(key, value)

    def serve(self, service: str, now: int) -> ServiceState:
        """Return the service, with an engine made from what is stored of it."""
        if service not in self.services:
            for _ in self._open(service, now):
                pass
        return self.services[service]

    def _open(self, service: str, now: int) -> Generator[None, None, None]:
        policy, stored = self._policy.effective(service), self._stored.pop(service, {})
        if not stored:
            self._new.add(service)
        with readable(f"the state of {service}"):
            version = self._policy.version_of(service)
            engine = yield from Engine.restoring(service, policy, self.budgets, now, version, stored)
        served = self.services[service] = ServiceState(service, engine, Topics.of(self._names, service))
        self._assume_busy(served, now)
        self._touch(served)

    def decided(self, service: str, partition: Partition) -> int | None:
        """Return up to which offset a request partition is decided; None: nothing of it is, as far as is known."""
        found = self._decided.get(partition)
        return self.positions.start(service, partition) if found is None else found

    def publish(self, undecided: Mapping[str, int]) -> None:
        """Have the usage of services published soon, although nothing may be decided. Of each so much is undecided."""
        for service, requests in undecided.items():
            if service in self.services:
                self.services[service].engine.holding.behind = requests
                self._publication.plan(service, len(self.services))

    def tell_soon(self, services: Iterable[str]) -> None:
        """Have the usage of services published soon, although nothing may be decided."""
        for service in services:
            if service in self.services:
                self._publication.plan(service, len(self.services))

    def outputs(self, service: str) -> tuple[str, ...]:
        """Return the topics that requests of a service may go to."""
        topics = self.services[service].topics
        delays = self._policy.effective(service).overflow is Overflow.DELAY
        return (topics.admitted, topics.delayed) if delays else (topics.admitted,)

    def read_up_to(self, partition: Partition) -> int:
        """Return the next offset that is read of requests, retries or feedback."""
        service = self._names.service_of(partition.topic)
        known = self.feedback.start(partition) if service is None else self.decided(service, partition)
        return known or 0

    def close(self) -> None:
        """Let go of what the engines hold."""
        for served in self.services.values():
            served.engine.close()
        self.services.clear()

    @property
    def schedules(self) -> bool:
        """Whether the state keeps what is not to go before a later time."""
        return self._meta.format >= SCHEDULES

    def governs(self, service: str) -> bool:
        """Tell whether a policy says what may pass, or the gate fails open where none does."""
        return self._policy.settings.fail_open or self._policy.service(service) is not None

    def follow_policy(self, policy: Policy, now: int) -> Generator[None, None, None]:
        """Decide by `policy`, and what is set live over it, from now on; in slices of some ms."""
        self.file = policy
        self._policy = policy.overlaid(self.live.in_force())
        self.budgets.set_groups(now, _specs(self._policy))
        self._relimited.clear()
        for served in self.services.values():
            yield from self._follow(served, now)
        self.mesh.set_policy(self._policy, now)

    def start_mesh(self, number: int, now: int, lease_ns: int) -> None:
        """Go on with what processes hold, as the owner of shard `number`; call it after `restore`."""
        self._number = number
        with readable("what processes hold of limits"):
            self.mesh.start(number, now, lease_ns)
        self.share_limits(now)

    def share_limits(self, now: int) -> None:
        """See to it that requests leave to calls in processes what these hold of the same limits."""
        if not self.mesh.is_used:
            return
        changed = self.mesh.share()
        for service in changed:
            self.services[service].engine.share(self.mesh.shared.get(service))
        for service in {*changed, *self.mesh.open_queues(now)}:
            self._touch(self.services[service])

    def follow_limits(self, now: int) -> Generator[None, None, None]:
        """Decide by what is set live as of now; in slices of some ms."""
        self._relimited |= self.live.expire(now)
        if not self._relimited:
            return
        self._policy = self.file.overlaid(self.live.in_force())
        changed, self._relimited, self.unwritten = self._relimited, set(), True
        if groups := {group for subject in changed if (group := group_of(subject)) is not None}:
            self.budgets.set_groups(now, _specs(self._policy))
            changed |= {name for name in self.services if self._policy.effective(name).group in groups}
        for service in sorted(changed & self.services.keys()):
            yield from self._follow(self.services[service], now)
        self.mesh.set_policy(self._policy, now)

    def has_new_limits(self, now: Callable[[], int]) -> bool:
        """Tell whether something that is set live has come into force, or to its end, which `follow_limits` heeds."""
        end = self.live.next_end()
        return bool(self._relimited) or (end is not None and end <= now())

    def _follow(self, served: ServiceState, now: int) -> Generator[None, None, None]:
        policy, version = self._policy.effective(served.name), self._policy.version_of(served.name)
        yield from served.engine.changing_policy(now, policy, version)
        self._assume_busy(served, now)
        self._touch(served)

    def lowest(self, *, scheduled: bool = True) -> dict[Partition, int]:
        """Return the oldest parked offset of each partition of the delayed topics in which something is parked.

        Not `scheduled`: of services in which nothing waits for its time.
        """
        return {
            Partition(served.topics.delayed, number): offset
            for served in self.services.values()
            if (served.engine.waiting or served.engine.scheduled) and (scheduled or not served.engine.scheduled)
            for number, offset in served.engine.low_watermarks().items()
        }

    def write_soon(self) -> None:
        """Have a batch written soon, although nothing may be decided."""
        for service in self.services:
            self._publication.plan(service, len(self.services))
            break

    def waits(self, rooms: Mapping[str, Sequence[Partition]]) -> RetainedOffsets:
        """Return what waits in the delayed and retries topics of services, as of the last batch."""
        lowest = self.lowest()
        floors: dict[Partition, int | None] = {}
        for service in rooms.keys() & self.services.keys():
            delayed = self.services[service].topics.delayed
            for partition in rooms[service]:
                if partition.topic == delayed:
                    floors[partition] = lowest.get(partition)
                elif (read := self.feedback.start(partition)) is not None:
                    floors[partition] = read
        return RetainedOffsets(self._meta.at, self._meta.since, floors)

    def forget_parked(self, begins: Mapping[Partition, int], now: int) -> None:
        """Forget what was parked in front of where partitions of delayed topics begin: it is gone."""
        for served in self.services.values():
            for number in served.engine.partitions if begins else ():
                partition = Partition(served.topics.delayed, number)
                if (begin := begins.get(partition)) and (gone := served.engine.forget(now, number, begin)):
                    log.error(
                        "parked requests were deleted from the delayed topic (by hand, or by its retention), and are "
                        "forgotten; what waits behind them comes earlier",
                        service=served.name, topic=partition.topic, partition=number, begins=begin, gone=gone,
                    )  # fmt: skip
                    served.delayed_end[number] = max(served.delayed_end.get(number, 0), begin)
                    served.emptied.add(number)
                    self._touch(served)

    def apply(self, feedback: Feedback, now: int) -> None:
        """Carry out new commands, and take in how far workers are behind."""
        for received in feedback.since(0 if self._new else self._meta.control):
            if received.offset >= self._meta.control:
                self._meta = msgspec.structs.replace(self._meta, control=received.offset + 1)
            elif received.service not in self._new:
                continue
            command = received.command
            if isinstance(command, WriteFormat):
                if received.by_operator:
                    self._write_format(command.format)
                continue
            if isinstance(command, NewGeneration):
                continue  # the gate around it heeds that
            if received.offset < self._floors.get(received.service, 0):
                continue
            if group_of(received.service) is not None:
                self._limit_group(received, now)
                continue
            served = self.services.get(received.service)
            if served is None:
                continue
            self._carry_out(served, received, now)
            self._touch(served)
        self._new.clear()
        for service, lag in feedback.lags.items():
            served = self.services.get(service)
            if served is not None and lag.counted_by is self.count:  # else it was measured for an earlier owner
                self.measured.add(service)
                # what was admitted during the measurement may or may not be in it: count it
                served.engine.set_in_flight(now, lag.requests + served.admitted - lag.admitted)
                self._touch(served)

    def _carry_out(self, served: ServiceState, received: Received, now: int) -> None:
        command, engine = received.command, served.engine
        if isinstance(command, Abort) and self.live.abort(received, command, now):
            return
        if isinstance(command, BacklogCommand | Abort):
            self.commands.take(received, engine, now)
            return
        if isinstance(command, LimitCommand):
            if self.live.take(received, now):
                self._relimited.add(served.name)
            return
        assert not isinstance(command, WriteFormat | NewGeneration)  # these are not about a service
        if received.by_operator and isinstance(command, PauseUntil) and command.until <= received.at:
            self.commands.refuse(
                received, "pause", now, "its end is over already", "`until` is unix ms, of a time to come"
            )
            return
        before = engine.paused_until(command.tenant)
        if isinstance(command, PauseUntil):
            until = command.until_ns if received.by_operator else within(command.until_ns, now)
            engine.pause(now, until, command.tenant)
            said = {"until_ms": None if command.until >= FOREVER_MS else command.until}
        else:
            engine.resume(now, command.tenant)
            said = {}
        if received.by_operator:
            if received.id:  # else nobody could ask for it
                self.commands.answer(received, now)
            what = "pause" if isinstance(command, PauseUntil) else "resume"
            tenant = {"tenant": command.tenant} if command.tenant else {}
            self.commands.audit(
                received, what, now, said | tenant, _paused(before), _paused(engine.paused_until(command.tenant))
            )

    def _limit_group(self, received: Received, now: int) -> None:
        """Carry out a command about a group of this shard, of which no service need have come."""
        command = received.command
        if isinstance(command, LimitCommand) and shard_of(received.service, self._meta.shards) == self._number:
            if self.live.take(received, now, refusal_of(command, self.file.groups)):
                self._relimited.add(received.service)
            self.unwritten = True  # what is told of it waits for no service

    def _write_format(self, number: int) -> None:
        """Write state in a newer format from the next batch on. Never in an older one: some of it is written."""
        if number > FORMAT:
            log.error(
                "asked to write state in a format that this gate does not know; going on with the one in force",
                asked=number, known=FORMAT, written=self._meta.format,
            )  # fmt: skip
        elif number > self._meta.format:
            self._meta = msgspec.structs.replace(self._meta, format=number)
            self.budgets.version = number
            self.unwritten = True

    def _assume_busy(self, served: ServiceState, now: int) -> None:
        """Until the workers' lag has been measured, take it that they have all that they may have."""
        limit = self._policy.effective(served.name).max_in_flight
        if limit is not None and served.name not in self.measured:
            served.engine.set_in_flight(now, limit)

    def _touch(self, served: ServiceState) -> None:
        self._wakes.wake_soon(served.name)
        self._schedule(served)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    # -- the batch -------------------------------------------------------------------------------------------------

    def due(self, now: int) -> set[str]:
        """Return the services that have something to do although nothing arrived."""
        return self._wakes.pop_due(now)

    def next_wake(self) -> int | None:
        """Return when `due` will next have something; None: not by itself."""
        return 0 if self.unwritten else self._wakes.next(self._publication.next())

    def _schedule(self, served: ServiceState) -> None:
        moment = served.engine.wake_at()
        if served.resting:
            moment = min(served.resting.values()) if moment is None else min(moment, *served.resting.values())
        if moment is not None:
            self._wakes.wake_at(served.name, moment)
        self.read_ahead.plan(served.name, served.engine.next_start)

    def upcoming(self, now: int) -> dict[Partition, list[int]]:
        """Return the offsets of scheduled requests that are due soon and were not told yet."""
        found: dict[Partition, list[int]] = {}
        for service, (after, until) in self.read_ahead.take(now).items():
            if (served := self.services.get(service)) is None:
                continue
            for number, offset in served.engine.upcoming(after, until, MOST):
                found.setdefault(Partition(served.topics.delayed, number), []).append(offset)
            self.read_ahead.plan(service, served.engine.next_start)
        return found

    def rest(self, service: str, number: int, moment: int) -> None:
        """Look at a service at `moment`: then the first retry in a partition of its retries topic is due."""
        self.services[service].resting[number] = moment
        self._wakes.wake_at(service, moment)

    def postpone(self, service: str, moment: int) -> None:
        """Look at a service at `moment` although it was due before."""
        self._wakes.wake_at(service, moment)

    def decide(
        self,
        served: ServiceState,
        now: int,
        taken: Sequence[TakenRecords],
        buffer: FetchBuffer,
        judges: Judges = NO_JUDGES,
        pulls: int = PULLS,
        retried: Sequence[TakenRecords] = (),
        homes: int = 1,
    ) -> ServiceBatch:
        """Decide about requests `taken` of a service, and about what is parked, of which at most `pulls` leave.

        What the engine holds goes back into the buffer. `judges` are those of `routing.read_runs`. Behind the requests
        come those `retried`, whose jobs began in one of `homes` partitions. Partitions of which fewer came go first, so
        that a replay knows their order, as `gate.kafka.recorded_decisions` does.
        """
        taken, retried = sorted(taken, key=_fewest_first), sorted(retried, key=_fewest_first)
        if served.room is not None:
            taken.sort(key=lambda part: (part[0] < served.first, part[0]))
        pieces = number_through(taken)
        if retried:
            count = sum(len(piece.records) for piece in pieces)
            pieces += number_through(retried, homes=homes, start=count)
        recent, repeats = served.engine.recent, None
        ids = None if recent.rules is None or not taken else duplicates.IdReader(recent.rules)
        reading = read_runs(pieces, judges, ids)
        if not self.schedules:
            reading = without_start(reading, now, self._meta.format)
        refused, runs = reading.refused, reading.runs
        if ids is not None:
            repeats = duplicates.find(recent, now, pieces, runs, ids.ids)
            runs = duplicates.without(runs, repeats)
            if repeats.cut is not None:
                cut = repeats.cut
                pieces = [self._give_back(served, piece, cut - piece.first, buffer) for piece in pieces]
                refused = [wish for wish in refused if wish.index < cut]
                self._wakes.wake_soon(served.name)  # they are looked at again at once
        holding = served.engine.holding
        again = [(piece.first, _seen(piece, holding.seen)) for piece in pieces] if holding.seen else []
        most = min(pulls, served.pulls)
        commanded = self.commands.work(served.engine, now, most)
        if served.name in self.live.imports:
            if self.live.work(served.name, now):
                self._relimited.add(served.name)
            self._wakes.wake_soon(served.name)  # it goes on with the next batch
        step = served.engine.step(now, runs, most, [span for span in again if span[1]])
        if commanded:
            step = replace(step, pulls=(*commanded, *step.pulls))
        if served.name in self.commands.services and served.name not in self.commands.awaited:
            self._wakes.wake_soon(served.name)  # it goes on with the next batch
        if repeats is not None:
            refused = [
                *refused,
                *duplicates.settle(recent, now, served.topics.requests, pieces, step.decisions, repeats),
            ]
        served.admitted += sum(d.count for d in step.decisions if d.verdict is Verdict.ADMITTED)
        served.admitted += sum(pull.count for pull in step.pulls if pull.verdict is Verdict.ADMITTED)
        held = min((d.first for d in step.decisions if d.verdict is Verdict.HELD), default=None)
        if held is not None:
            refused = [wish for wish in refused if wish.index < held]  # behind it they are read again
            served.room = max(HOLD_ROOM, 2 * held)
            if held:
                last = next((piece for piece in reversed(pieces) if piece.first < held and not piece.retried), None)
                served.first = last.partition + 1 if last else 0
            for piece in pieces:
                holding.looked(piece.source, piece.end, held=held - piece.first < len(piece.records))
            pieces = [self._give_back(served, piece, held - piece.first, buffer) for piece in pieces]
        else:
            for piece in pieces if holding.seen else ():
                holding.looked(piece.source, piece.end, held=False)
            if served.room is not None:
                served.room = 2 * served.room if served.room < MOST_ROOM else None
        for piece in pieces:
            if piece.retried:
                self.feedback.advance(Partition(served.topics.retries, piece.partition), piece.end)
        self._schedule(served)
        self._wake_group(served)
        return ServiceBatch(served, pieces, step, refused, reading.clean)

    @staticmethod
    def _give_back(served: ServiceState, piece: PartitionSlice, keep: int, buffer: FetchBuffer) -> PartitionSlice:
        """Put what is behind the first `keep` requests back into the buffer, and return the rest."""
        rest = piece.records[max(0, keep) :]
        if not rest:
            return piece
        topic = served.topics.retries if piece.retried else served.topics.requests
        buffer.give_back(Partition(topic, piece.partition), rest, piece.end, served.codec)
        return replace(piece, records=piece.records[: max(0, keep)], end=rest[0].offset)

    def reconsider(self, service: str, taken: Sequence[tuple[Pull, Sequence[Record]]], now: int) -> ServiceBatch:
        """Decide anew about requests that an earlier owner took off the delayed topic, as if they had just come.

        Some may be out already: they are charged again, so that nothing is admitted beyond the limits.
        """
        served = self.serve(service, now)
        parts = [(pull.partition, records, pull.offset + pull.count) for pull, records in taken]
        pieces = number_through(parts, returned=True)
        reading = read_runs(pieces)
        step = served.engine.step(now, reading.runs, 0)
        records = list(chain.from_iterable(piece.records for piece in pieces))
        for decision in step.decisions:
            if decision.verdict is Verdict.REJECTED:
                self._forget_ids(served, records[decision.first : decision.first + decision.count])
        if any(decision.verdict is Verdict.HELD for decision in step.decisions):
            raise GateError(f"{service} holds requests that were on their way out; trying again when its limits allow")
        self._schedule(served)
        return ServiceBatch(served, pieces, step, reading.refused, returned=[pull for pull, _ in taken])

    def route(self, turn: ServiceBatch, batch: Batch, rejections: Rejections = NO_REJECTIONS) -> None:
        """Route what was decided in a turn: what was parked first, as it is older."""
        served, version = turn.served, self._policy.version_of(turn.served.name)
        served.weigh(turn.pulled)
        (self.large.add if served.pulls_large else self.large.discard)(served.name)
        running = served.engine.tracks_running
        if turn.step.started:
            parts = turn.step.started, served.topics, turn.pieces, turn.pulled, rejections
            served.engine.name_running(running_ids(*parts))
        for pull, records in turn.pulled:
            batch.release(served.topics, version, pull, records, rejections, running=running)
            if served.engine.recent.rules is not None and (rejections or pull.verdict is Verdict.REJECTED):
                whole = pull.verdict is Verdict.REJECTED
                self._forget_ids(served, [r for r in records if whole or _is_condemned(r, rejections)])
            end = pull.offset + pull.count
            served.delayed_end[pull.partition] = max(served.delayed_end.get(pull.partition, 0), end)
            if len(records) < pull.count:
                served.engine.count_gone(pull.count - len(records))
                if pull.reason is Reason.CANCELLED:
                    self.commands.missing(served.name, pull.count - len(records))
                self.missed.add(Partition(served.topics.delayed, pull.partition))
        turn.parked = batch.route(
            served.topics, version, turn.pieces, turn.step.decisions, clean=turn.clean, running=running
        )
        batch.refuse(served.topics, version, turn.pieces, turn.refused)
        if served.name in self.commands.services:
            self._put_back(served.topics, served.name, batch, rejections)

    def _put_back(self, topics: Topics, service: str, batch: Batch, rejections: Rejections) -> None:
        """Write what goes back into the service: it is read like retries from then on."""
        limit = batch.limit(topics.retries)

        def takes(request: Outgoing) -> bool:
            job = job_of(request.headers)
            refused = job is not None and job[1] in rejections.get(job[0], {})
            return not refused and too_large(request, limit, topics.retries) is None

        if requests := self.commands.put_back(service, takes):
            at = batch.now // MS
            batch.to(topics.retries, 0).extend(request._replace(timestamp=at) for request in requests)

    def touch(self, service: str) -> None:
        """Look at a service with the next batch."""
        if service in self.services:
            self._touch(self.services[service])

    @staticmethod
    def _forget_ids(served: ServiceState, records: Sequence[Record]) -> None:
        """Let others come in place of requests that waited and are rejected now."""
        places = [(record, place[0].number, place[1]) for record in records if (place := request_of(record.headers))]
        duplicates.forget(served.engine.recent, [(record, (number, offset)) for record, number, offset in places])

    def hear(self, part: FeedbackBatch, batch: Batch, rejections: Rejections = NO_REJECTIONS) -> FeedbackResult:
        """Write what follows from what workers told, and leave the service alone where they ask for it."""
        served = self.services[part.service]
        waits_out = self._policy.effective(part.service).overflow is Overflow.REJECT
        followed = act(
            part, served.topics, self.feedback, batch, rejections, waits_out=waits_out, scheduled=self.schedules
        )
        if followed.paused_until_ms * MS > batch.now:
            served.engine.pause(batch.now, followed.paused_until_ms * MS)
            self._touch(served)
        if followed.done:
            served.engine.done(batch.now, followed.done)
            self._touch(served)
            self._wake_group(served)
        return followed

    def _wake_group(self, served: ServiceState) -> None:
        """Have others of the group look whether they may go on, where requests that ran have ended."""
        if not served.engine.pop_freed():
            return
        group = self._policy.effective(served.name).group
        for other in self.services.values() if group is not None else ():
            waits = other is not served and (other.engine.waiting or other.engine.holding.seen)
            if waits and self._policy.effective(other.name).group == group:
                self._touch(other)

    def parked(self, turns: Iterable[ServiceBatch], offsets: Mapping[Partition, Sequence[int]]) -> None:
        """Tell the engines where the broker has put what was parked."""
        for turn in turns:
            served = turn.served
            places = [(partition.number, offsets[partition][index]) for partition, index in turn.parked]
            if places:
                for number, offset in places:
                    served.delayed_end[number] = max(served.delayed_end.get(number, 0), offset + 1)
                served.engine.parked(places)
                self._schedule(served)

    @staticmethod
    def delayed(
        turns: Iterable[ServiceBatch], outputs: Mapping[Partition, Sequence[Outgoing | Raw]]
    ) -> dict[Partition, Sequence[Outgoing | Raw]]:
        """Return those outputs that go to delayed topics."""
        topics = {turn.served.topics.delayed for turn in turns}
        return {partition: records for partition, records in outputs.items() if partition.topic in topics}

    def leaving(self, turns: Iterable[ServiceBatch]) -> bytes | None:
        """Return a note of the parked requests that leave in a batch; None: none does."""
        notes = [(turn.served.name, pull) for turn in turns for pull in (*turn.returned, *turn.step.pulls)]
        return encode_leaving(notes, self._meta.format) if notes else None

    def changes(self, turns: Iterable[ServiceBatch]) -> dict[str, bytes | None]:
        """Return the state records that a batch has changed."""
        changed = self.live.changes()
        for turn in turns:
            changed.update(turn.served.engine.drain_changes())
        return changed

    def noted(self, turns: Iterable[ServiceBatch]) -> dict[str, bytes | None]:
        """Return the state records of how far the services of a batch are decided."""
        changed: dict[str, None] = {}
        for turn in turns:
            for piece in (piece for piece in turn.pieces if piece.is_fresh):
                self.positions.advance(turn.served.name, piece.partition, piece.records, piece.end)
                changed[turn.served.name] = None
        return {f"{OFFSETS_KIND}/{service}": self.positions.record(service, self._meta.format) for service in changed}

    def told(self) -> dict[str, bytes | None]:
        """Return the state records of what workers told and operators commanded, and of how far that has come."""
        return {**self.feedback.changes(self._meta.format), **self.commands.changes(self._meta.format)}

    @property
    def decided_until(self) -> int:
        """By what time the last batch was decided, ns."""
        return self._meta.at

    @staticmethod
    def codecs(turns: Iterable[ServiceBatch]) -> dict[str, int]:
        """Return how the requests of a batch were compressed, by the topics that they go to."""
        return {topic: turn.served.codec for turn in turns for topic in turn.served.topics.outputs}

    @staticmethod
    def scheduled(turns: Iterable[ServiceBatch]) -> set[str]:
        """Return the delayed topics to which a batch writes requests that have a time of their own."""
        return {
            turn.served.topics.delayed
            for turn in turns
            if any(decision.reason is Reason.SCHEDULED for decision in turn.step.decisions)
        }

    def meta(self, now: int) -> bytes:
        """Return the record that goes with every batch."""
        self.unwritten = False
        self._meta = msgspec.structs.replace(self._meta, at=now)
        return encode_meta(self._meta)

    @property
    def alerts_begin(self) -> int | None:
        """Before which offset of the alerts topic none is open of those that a gate may leave; None: not known."""
        return self._meta.alerts

    def end_alerts(self, ends: Mapping[int, Outgoing], still_open: Collection[int], begins: int) -> None:
        """Write these ends with the next batch, by the offset of what they end, unless that is done."""
        self._open_alerts = still_open
        if begins != self._meta.alerts:
            self._meta = msgspec.structs.replace(self._meta, alerts=begins)  # with whatever is written next
        self._ends = {at: end for at, end in ends.items() if at not in self._meta.ended}
        self.unwritten |= bool(self._ends)

    @property
    def ends_alerts(self) -> bool:
        """Whether the next batch ends alerts."""
        return bool(self._ends)

    def pop_ends(self) -> list[Outgoing]:
        """Return the ends of alerts that go with this batch, and note in its description that they do.

        What is known to have ended is noted no longer. Without transactions there may be a note and no end, so there
        is none: it may be told twice.
        """
        ends, self._ends = self._ends, {}
        if ends and self.commands.exact:
            noted = {at for at in self._meta.ended if at in self._open_alerts} | ends.keys()
            self._meta = msgspec.structs.replace(self._meta, ended=tuple(sorted(noted)))
        return list(ends.values())

    def usages(self, turns: Iterable[ServiceBatch], now: int) -> list[Usage]:
        """Return what is to be published now, of services that had a turn or whose rates have not sunk to nothing."""
        for turn in turns:
            turn.served.settled &= not (turn.pieces or turn.pulled)
            self._publication.plan(turn.served.name, len(self.services))
        told = []
        for name in self._publication.due(now):
            served = self.services[name]
            usage = served.engine.usage(now)
            told.append(self.live.shown(usage, self._policy.effective(name).group))
            if usage.forgotten and not served.forgets:
                served.forgets = True
                log.warning(
                    "ids had to make room before their time: who repeats one of them passes; raise `at_most` of "
                    "`deduplicate`",
                    service=name, forgotten=usage.forgotten, remembered=usage.remembered,
                )  # fmt: skip
            if usage.offered_per_second > QUIET or usage.requests_per_second > QUIET:
                self._publication.plan(name, len(self.services))
            elif not served.settled:  # a last look: what is told once must be ready to be told again
                served.settled = True
                self._wakes.wake_at(name, now + UsageSchedule.EVERY)
        return told

    def marks(self, turns: Iterable[ServiceBatch], now: int) -> dict[Partition, CommittedOffset]:
        """Return the offsets to commit: behind the last decided request, and the oldest parked one.

        `now` 0: without the state.
        """
        result: dict[Partition, CommittedOffset] = {}
        at = now // MS
        for turn in turns:
            served = turn.served
            for piece in (piece for piece in turn.pieces if piece.is_fresh):
                partition = Partition(served.topics.requests, piece.partition)
                result[partition] = CommittedOffset(piece.end, at)
                self._decided[partition] = piece.end
            pulled = {pull.partition for pull, _ in turn.pulled}
            for number in {p.number for p, _ in turn.parked} | pulled | served.emptied:
                mark = served.engine.low_watermark(number)
                end = served.delayed_end[number] if mark is None else mark
                result[Partition(served.topics.delayed, number)] = CommittedOffset(end, at)
            served.emptied.clear()
        return result

    @staticmethod
    def events(turns: Iterable[ServiceBatch]) -> list[Event]:
        """Return the breach events of a batch."""
        return [event for turn in turns for event in turn.served.engine.drain_events()]


def _is_condemned(record: Record, rejections: Rejections) -> bool:
    place = request_of(record.headers)
    return place is not None and place[1] in rejections.get(place[0], {})


def _fewest_first(part: TakenRecords) -> tuple[int, int]:
    return len(part[1]), part[0]


def _seen(piece: PartitionSlice, seen: Mapping[int, int]) -> int:
    """Tell how many of the first requests of a piece were held before."""
    return bisect_left(piece.records, seen.get(piece.source, 0), key=attrgetter("offset"))


def _paused(until: int) -> dict[str, int | None]:
    """Return a pause as the audit shows it."""
    return {"paused_until_ms": None if until >= UNTIL_RESUMED else until // MS}


def _specs(policy: Policy) -> dict[str, Spec]:
    return {name: group.spec for name, group in policy.groups.items()}
