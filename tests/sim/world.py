"""A simulated world: gates, their group, producers and the broker, through a run drawn from a seed."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, TypeVar
from unittest import mock

from gate.admission.model import SECOND, Event, Usage
from gate.admission.state import decode
from gate.kafka import instance as gate_module
from gate.kafka.assignor import balance
from gate.kafka.instance import Gate
from gate.limits import window_log
from gate.policy import Policy, Settings
from gate.protocol.control import BacklogCommand, Cancel, Expedite, Move, PauseUntil, Redrive, Resume, Selection
from gate.shard import operator_commands as commands_module
from gate.shard import owner as shard_module
from gate.shard import reader as reader_module
from gate.shard import source_reader as source_reader_module
from gate.shard import state as state_module
from gate.shard.operator_commands import FullCommandRecord
from gate.shard.owner_views import Lag, Received
from gate.shard.placement import shard_of
from gate.shard.ports import Session, UnavailableError
from gate.shard.records import CommittedOffset, Fetched, Outgoing, Partition
from gate.shard.usage_schedule import UsageSchedule
from tests.sim.checker import Checker, Committed
from tests.sim.client import Network, SimSession, SimSource
from tests.sim.log import Broker, KafkaError, PartitionLog, Trace
from tests.sim.loop import DeadlockError, LivelockError, Process, SimLoop, run
from tests.sim.scenario import NAMES, PARTITIONS, START_MS, VARIANTS, Kind, Order, Scenario, draw, policy
from tests.sim.workers import Workers

T = TypeVar("T")
SESSION_TIMEOUT = 6.0
REVOKE_DEADLINE = 3.0
PATIENCE = 4 * 3600.0  # until all that was offered must be decided
HOUR_MS = 3_600_000


class _Silent:
    """Stands for a logger, or for metrics."""

    def __getattr__(self, name: str) -> "_Silent":
        return self

    def __call__(self, *args: object, **kwargs: object) -> None:
        """Say nothing."""


class Observer:
    """`shard.Observer`: writes events in the shortest form that the checker can read."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def encode_event(self, event: Event) -> Outgoing:
        return Outgoing(event.service.encode(), f"{event.kind.value} {event.since}".encode(), None, ())

    def usage(self, usage: Usage, shard: int) -> Outgoing:
        return Outgoing(usage.service.encode(), str(usage.backlog).encode(), None, ())

    def failed(self, shard: int, error: BaseException, failures: int, stuck: float) -> None:
        self._world.note("failed", shard, failures, repr(error))
        if not isinstance(error, (KafkaError, OSError, TimeoutError)) and len(self._world.problems) < 3:
            self._world.problems.append(f"shard {shard} failed by itself: {error!r}")

    def __getattr__(self, name: str) -> "_Silent":
        return _Silent()  # all else is not judged here


class Member(Gate):
    """A gate process. Its shards and the way in which it follows assignments are the real ones."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world.policy, _settings(world.scenario.shards), Observer(world))  # type: ignore[arg-type]
        self.name = name
        self.world = world
        self.process = Process(world.loop, name)
        self.source = SimSource(world.network, world.broker, self.process, world.scenario.fetch)  # type: ignore[assignment]
        self.hearing = self.source
        self.feedback = world.commands  # type: ignore[assignment]
        self.generation = -1
        self._booted = world.random.uniform(0, 1e6)
        self._drift = 1 + world.random.uniform(-5e-5, 5e-5)
        self._wrong = world.random.choice((0, 0, -HOUR_MS, HOUR_MS))

    def boot(self) -> None:
        """Start the process."""
        if self.process.dead:  # killed before its first breath
            return
        self._tasks.append(self.process.spawn(self._follow_assignments()))  # so that `stop` ends it, as in a gate

    def die(self) -> None:
        """Be killed."""
        self.world.kill(self.process)

    async def revoke(self) -> None:
        """Do what the group calls for before a rebalance."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REVOKE_DEADLINE):
                await self._pause_all()

    def assign(self, generation: int, owned: Mapping[int, Mapping[str, int]]) -> None:
        """Take what the group gives."""
        self.generation = generation
        self._assigned.put_nowait(owned)

    async def stop(self) -> None:
        await super().stop()
        self.source.close()

    def new_session(self, shard: int) -> Session:
        world = self.world
        return SimSession(world.network, world.broker, self.process, f"gate-{shard}", Partition(NAMES.state, shard))

    def local(self) -> int:
        return int((self._booted + self.world.loop.time() * self._drift) * 1e9)

    def wall(self) -> int:
        return (self.world.clock_ms() + self._wrong) * 1_000_000

    def closed(self) -> None:
        raise AssertionError("nobody moves the state here")

    def resharding(self) -> None:
        return None

    def give_way(self) -> None:
        pass

    async def confirm(self, shard: int) -> None:
        async with asyncio.timeout(10):
            await self.world.network.call(self.process, "confirm", lambda: self.world.group.confirm(self, shard))

    async def committed(self, partitions: Sequence[Partition]) -> dict[Partition, CommittedOffset]:
        marks = self.world.broker.marks
        async with asyncio.timeout(10):
            return await self.world.network.call(
                self.process, "offsets", lambda: {p: marks[p] for p in partitions if p in marks}
            )

    async def topic_configs(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        return {}

    async def prepare(self, services: Collection[str]) -> None:
        async with asyncio.timeout(10):
            await self.world.network.call(self.process, "prepare", lambda: None)

    async def retries(self, services: Collection[str]) -> Mapping[str, int]:
        return {service: 1 for service in services if service in self.world.widened}

    async def widen(self, service: str, partitions: int) -> int:
        await self._ask("widen", lambda: self.world.widened.update({service: None}))
        return 1

    async def handed_over(self, partitions: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        return await self.committed(partitions)

    async def extents(self, topic: str, since_ms: int) -> dict[int, tuple[int, int]]:
        logs = {number: self.world.broker.log(Partition(topic, number)) for number in range(PARTITIONS)}
        return await self._ask("extents", lambda: {n: (0, min(log.known_end(), log.stable)) for n, log in logs.items()})

    async def scan(self, partition: Partition, offset: int) -> Fetched:
        log = self.world.broker.log(partition)
        found = await self._ask("scan", lambda: log.fetch(offset, self.world.scenario.fetch))
        if found is None:
            raise UnavailableError(f"a new leader does not show {partition} yet")
        return found

    async def _ask(self, what: str, effect: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(10):
                return await self.world.network.call(self.process, what, effect)
        except KafkaError as error:
            raise UnavailableError(str(error)) from error


class Commands:
    """`feedback.Feedback` without its reading: the commands on the control topic. Nobody watches workers here."""

    def __init__(self) -> None:
        self.lags: dict[str, Lag] = {}
        self.generation = 0  # of the state: nobody tells of another one
        self.given: list[Received] = []

    def since(self, offset: int) -> list[Received]:
        return self.given[offset:]


class Group:
    """The consumer group's coordinator: who is in it, and who owns which shard."""

    def __init__(self, world: "World") -> None:
        self.members: dict[str, Member] = {}
        self.owners: dict[int, str] = {}
        self._world = world
        self._generation = 0
        self._stable = False
        self._changed = asyncio.Event()

    def join(self, member: Member) -> None:
        if member.process in self._world.gates:  # else it has ended meanwhile
            self.members[member.name] = member
            self.rebalance()

    def leave(self, member: Member) -> None:
        if self.members.pop(member.name, None) is not None:
            self.rebalance()

    def rebalance(self) -> None:
        self._stable = False
        self._changed.set()

    def confirm(self, member: Member, shard: int) -> None:
        """Answer to a commit. Raises KafkaError."""
        if not self._stable:
            raise KafkaError("a rebalance is in progress")
        if member.generation != self._generation or self.owners.get(shard) != member.name:
            raise KafkaError(f"{member.name} does not own shard {shard}")

    async def run(self) -> None:
        world = self._world
        while True:
            await self._changed.wait()
            await asyncio.sleep(world.random.uniform(0, 1.2))  # heartbeats tell
            self._changed.clear()
            joining = list(self.members.values())
            if not joining:
                continue
            revoking = {member.name: member.process.spawn(member.revoke()) for member in joining}
            await asyncio.wait(revoking.values(), timeout=SESSION_TIMEOUT)
            for name, task in revoking.items():
                if not task.done() or task.cancelled():
                    self.members.pop(name, None)
            if self._changed.is_set() or not self.members:
                continue
            self._assign()

    def _assign(self) -> None:
        world = self._world
        before: dict[str, list[int]] = {name: [] for name in self.members}
        for shard, name in self.owners.items():
            before.get(name, []).append(shard)
        plan = balance(world.scenario.shards, before)
        self.owners = {shard: name for name, shards in plan.items() for shard in shards}
        self._generation += 1
        self._stable = True
        world.note("assigned", self._generation, sorted(self.owners.items()))
        for name, shards in plan.items():
            member = self.members[name]
            owned = {shard: world.services_of(shard) for shard in shards}
            world.loop.call_later(
                world.network.latency(), member.assign, self._generation, owned, context=member.process.context
            )


@dataclass
class World:
    """Everything of one run."""

    loop: SimLoop
    scenario: Scenario
    trace: Trace
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(f"world {self.scenario.seed}")
        self.elections = Random(f"leaders {self.scenario.seed}")
        self.orders = Random(f"orders {self.scenario.seed} in the world")
        self.clock_shift_ms = 0
        self.clock_set = False
        self.variant = 0
        self.last_fault = 0.0
        self.torn = False
        self.network = Network(self.loop, Random(f"net {self.scenario.seed}"), self.scenario.faults, self.note)
        self.network.kill, self.network.pause = self.kill, self.pause
        self.broker = Broker(
            self.trace,
            now=self.loop.time,
            clock_ms=self.clock_ms,
            later=self.network.later,
            marker_delay=lambda: self.random.choice(self.scenario.faults.markers),
            state_topic=NAMES.state,
            crash=self._crash,
            picky=self.scenario.picky,
        )
        self.group = Group(self)
        self.gates: dict[Process, Member] = {}
        self.commands = Commands()
        self.workers = Workers(
            self.network, self.broker, NAMES, Random(f"workers {self.scenario.seed}"), self.scenario.job,
            honest=self.scenario.honest,
        )  # fmt: skip
        self.widened: dict[str, None] = {}  # services with a retries topic
        self.hidden = ""  # a service
        self.offered = 0
        self._names = 0

    @property
    def policy(self) -> Policy:
        return policy(self.variant)

    def clock_ms(self) -> int:
        """Return the broker's time."""
        return START_MS + int(self.loop.time() * 1000) + self.clock_shift_ms

    def note(self, *what: object) -> None:
        """Put something into the trace."""
        self.trace.add(round(self.loop.time(), 6), *what)

    def services_of(self, shard: int) -> dict[str, int]:
        """Return the services on a shard, with their numbers of partitions."""
        shards = self.scenario.shards
        return {
            service: PARTITIONS
            for service in self.scenario.services
            if service != self.hidden and shard_of(self.policy.shard_key(service), shards) == shard
        }

    # -- members and what befalls them -----------------------------------------------------------------------------

    def boot(self) -> None:
        """Start one more gate."""
        self._names += 1
        member = Member(self, f"gate{self._names}")
        self.gates[member.process] = member
        member.process.call(member.boot)
        self.network.later(self.network.latency(), lambda: self.group.join(member))

    def kill(self, process: Process) -> None:
        """SIGKILL; a supervisor starts another."""
        member = self.gates.pop(process, None)
        if member is None:
            return
        self._fault("kill", process.name)
        process.kill()
        member.source.close()  # type: ignore[attr-defined]
        self.network.later(SESSION_TIMEOUT, lambda: self.group.leave(member))
        self.network.later(self.random.uniform(0.5, 10), self.boot)

    def pause(self, process: Process) -> None:
        """SIGSTOP and, some time later, SIGCONT: a zombie if it took longer than the session."""
        member = self.gates.get(process)
        if member is None or process.frozen:
            return
        seconds = self.random.choice((2.0, 8.0, 20.0, 45.0))
        self._fault("pause", process.name, seconds)
        process.freeze()
        if seconds > SESSION_TIMEOUT:
            self.network.later(SESSION_TIMEOUT, lambda: self.group.leave(member))
            self.network.later(seconds + self.random.uniform(0.1, 3), lambda: self.group.join(member))
        self.network.later(seconds, process.thaw)

    def _elect(self) -> None:
        """Have other leaders for half of all partitions; for a while they show less than there is."""
        random = self.elections
        for log in [log for log in self.broker.logs.values() if log.lags_at is None and random.random() < 0.5]:
            seconds = random.choice((0.05, 1.0, 2.0, 6.0))
            self._fault(Kind.ELECTION, *log.partition, seconds)
            log.elect(random.choice((1, 5, 40)))

            def settle(log: PartitionLog = log) -> None:
                self._fault("followed", *log.partition)
                log.catch_up()

            self.network.later(seconds, settle)

    def _fault(self, *what: object) -> None:
        self.last_fault = max(self.last_fault, self.loop.time())
        self.note(*what)

    def _strike(self, kind: str) -> None:
        members = [member for member in self.gates.values() if not member.process.frozen]
        if not members:
            return
        member = self.random.choice(members)
        if kind == Kind.KILL:
            self.kill(member.process)
        elif kind == Kind.PAUSE:
            self.pause(member.process)
        elif kind == Kind.EXPEL:
            self._fault(kind, member.name)
            self.group.leave(member)
            self.network.later(self.random.uniform(1, 10), lambda: self.group.join(member))
        elif kind == Kind.JOIN and len(self.gates) < 5:
            self._fault(kind)
            self.boot()
        elif kind == Kind.LEAVE and len(self.gates) > 1:
            self._fault(kind, member.name)
            del self.gates[member.process]
            member.process.spawn(self._retire(member))
        elif kind == Kind.REBALANCE:
            self._fault(kind)
            self.group.rebalance()
        elif kind == Kind.DOWN and not self.network.down:
            seconds = self.random.choice((1.0, 5.0, 60.0))
            self._fault(kind, seconds)
            self.network.down = True
            self.network.later(seconds, lambda: setattr(self.network, "down", False))
        elif kind == Kind.POLICY:
            self.variant = (self.variant + 1) % len(VARIANTS)
            self._fault(kind, self.policy.version)
            for each in self.gates.values():
                delay = self.random.uniform(0, 2)
                self.loop.call_later(delay, each.set_policy, self.policy, context=each.process.context)
        elif kind == Kind.CLOCK:
            self.clock_set = True
            self.clock_shift_ms += self.random.choice((-HOUR_MS, HOUR_MS))
            self._fault(kind, self.clock_shift_ms)
            if self.random.random() < 0.5:
                self.kill(member.process)

        elif kind == Kind.ELECTION:
            self._elect()
        elif kind == Kind.HIDE:
            self.hidden = self.random.choice(self.scenario.services)
            self._fault(kind, self.hidden)
            self.group.rebalance()
            self.network.later(self.random.uniform(5, 60), self._show)
        elif kind == Kind.COMMAND:
            self._command(self.random.choice(self.scenario.services))
        elif kind == Kind.CANCEL:
            self._cancel(self.orders.choice(self.scenario.services))

    def _crash(self) -> Callable[[], bool] | None:
        """Let the broker die at the end of a transaction, now and then. See `Broker`."""
        chance = self.scenario.faults.torn
        if not chance or not self.network.ill or self.network.down or self.random.random() >= chance:
            return None
        seconds, written = self.random.choice((1.0, 5.0)), self.random.choice((0.0, 0.3, 0.7))
        self.note("torn", seconds, written)  # all may be decided by now
        self.torn = True
        self.network.down = True
        self.network.later(seconds, lambda: setattr(self.network, "down", False))
        for member in self.gates.values():
            delay = self.network.latency()
            self.loop.call_later(delay, member.doubt, context=member.process.context)
        return lambda: self.random.random() < written

    def _show(self) -> None:
        self.hidden = ""
        self.group.rebalance()

    def _command(self, service: str) -> None:
        pause = self.random.random() < 0.7
        until = self.clock_ms() + self.random.choice((1_000, 30_000, 600_000))
        tenant = self.random.choice(("", "acme"))
        self._fault(Kind.COMMAND, service, pause, tenant)
        command = PauseUntil(until, tenant) if pause else Resume(tenant)
        self.commands.given.append(Received(len(self.commands.given), service, command))
        for each in self.gates.values():
            self.loop.call_later(self.random.uniform(0, 1), each._heed, context=each.process.context)

    def _cancel(self, service: str) -> None:
        """Command something about what waits, or was rejected; now and then the same command is sent twice."""
        selection = self.orders.choice(
            (
                Selection(all=True), Selection(all=True, keep_newest=3), Selection(tenant="acme"), Selection(key="k1"),
                Selection(key="k2", keep_newest=1), Selection(older_than_ms=5_000), Selection(id="gate.requests.x-0@1"),
            )
        )  # fmt: skip
        number = len(self.commands.given)
        known = f"c{number}"
        orders = self.scenario.orders
        command = self._ordered(orders[number % len(orders)], service, selection)
        self.note(Kind.CANCEL, known, command)
        self._give(Received(0, service, command, id=known, reason="because", at=self.clock_ms()))
        if self.orders.random() < 0.4:
            again = Received(0, service, command, id=known, reason="because", at=self.clock_ms())
            self.loop.call_later(self.orders.choice((0.5, 20.0, 600.0)), self._give, again)

    def _ordered(self, order: str, service: str, selection: Selection) -> BacklogCommand:
        if order == Order.EXPEDITE:
            return Expedite(service, selection)
        if order == Order.MOVE:
            return Move(service, selection, self.orders.choice(list(self.policy.effective(service).lanes)))
        return (Redrive if order == Order.REDRIVE else Cancel)(service, selection)

    def _watch_commands(self, shard: int) -> None:
        """Kill owners of a shard now and then when a part of a command is done."""
        log, position, left = self.broker.log(Partition(NAMES.state, shard)), 0, self.scenario.amid

        def look() -> None:
            nonlocal position, left
            new, position = log.stored[position:], log.end
            for record in new if left else ():
                if (record.key or b"").startswith(b"command/") and record.value is not None:
                    kept = decode("", record.value, FullCommandRecord)
                    if kept.done and not kept.result and self.orders.random() < 0.3:
                        left -= 1
                        owners = [m for m in self.gates.values() if m.name == self.group.owners.get(shard)]
                        for owner in owners:
                            self.network.later(self.network.latency() * self.orders.choice((0, 3, 9)), owner.die)
                        return

        if self.scenario.amid:
            log.watchers[look] = None

    def _give(self, received: Received) -> None:
        self.commands.given.append(received._replace(offset=len(self.commands.given)))
        for each in self.gates.values():
            self.loop.call_later(self.orders.uniform(0, 1), each._heed, context=each.process.context)

    async def _retire(self, member: Member) -> None:
        await member.stop()
        self.group.leave(member)

    # -- the run ---------------------------------------------------------------------------------------------------

    def _offer(self, partition: Partition, records: tuple[Outgoing, ...], *, transactional: bool) -> None:
        if self.network.down:  # producers try again
            self.network.later(1.0, lambda: self._offer(partition, records, transactional=transactional))
            return
        self.broker.send(partition, records, transactional=transactional)
        self.offered += len(records)

    async def live(self) -> None:
        """Go through the scenario to its end, and until all that was offered is decided."""
        scenario, loop = self.scenario, self.loop
        group = loop.create_task(self.group.run())
        for _ in range(scenario.members):
            self.boot()
        self.network.ill = True
        for offer in scenario.offers:
            loop.call_later(
                offer.at, lambda o=offer: self._offer(o.partition, o.records, transactional=o.transactional)
            )
        for service in scenario.services:
            if service.startswith("run"):
                self.workers.watch(service, PARTITIONS)
        for shard in range(scenario.shards):
            self._watch_commands(shard)
        loop.call_later(scenario.look, self.look)
        for at, kind in scenario.events:
            loop.call_later(at, self._strike, kind)
        await asyncio.sleep(scenario.ill_until)
        self.network.ill = False
        await asyncio.sleep(scenario.seconds - scenario.ill_until)
        total = sum(len(offer.records) for offer in scenario.offers)
        patience = loop.time() + PATIENCE
        while self.offered < total or self._decided() < total + self._put_back():
            if loop.time() > patience:
                self.problems.append(f"stuck: {self._decided()} of {self.offered} decided")
                break
            await asyncio.sleep(10)
        await asyncio.sleep(1)
        for member in self.gates.values():
            await member.process.spawn(member.stop())
        group.cancel()
        self.workers.stop()
        await asyncio.sleep(60)  # what is late arrives

    def _decided(self) -> int:
        ends = {topic(s) for s in self.scenario.services for topic in (NAMES.admitted, NAMES.rejected)}
        return sum(
            sum(1 for _ in log.committed()) for partition, log in self.broker.logs.items() if partition.topic in ends
        )

    def _put_back(self) -> int:
        logs = [self.broker.log(Partition(NAMES.retries(service), 0)) for service in self.widened]
        return sum(1 for log in logs for _ in log.committed())

    def look(self) -> None:
        """Check in mid-run: what is committed must be in order at any moment, once a broker's death is got over."""
        if self.broker.hanging:
            self.loop.call_later(1.0, self.look)
            return
        self.problems += self.read().finish(policy=self.policy, offsets=self.broker.offsets, torn=self.torn)

    def check(self) -> None:
        """Check the whole run."""
        self.problems += self.read().finish(
            policy=self.policy,
            offsets=self.broker.offsets,
            drained=True,
            open_transactions=self.broker.open_transactions(),
            last_fault_ms=None if self.clock_set else START_MS + int(self.last_fault * 1000),
            timely_from_ms=START_MS + 20_000 if self.scenario.calm else None,
            torn=self.torn,
            commands=dict.fromkeys(received.id for received in self.commands.given if received.id),
        )

    def read(self) -> Checker:
        """Have all that is committed read by a new checker."""
        policies = map(policy, range(len(VARIANTS)))
        checker = Checker(NAMES, {p.version: p for p in policies}, self.scenario.shards, self.scenario.picky)
        order = {"requests": 0, "retries": 1, "delayed": 2, "state": 4}
        for partition in sorted(self.broker.logs, key=lambda p: (order.get(p.topic.split(".")[1], 3), p)):
            for r in self.broker.logs[partition].committed():
                seen = r.transaction.ended_ms
                checker.feed(Committed(*partition, r.offset, r.key, r.value, r.headers, r.timestamp, seen))
        return checker


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    seed: int
    hours: float
    trace: str
    problems: tuple[str, ...]
    requests: int
    commits: int


@cache
def _settings(shards: int) -> Settings:
    return Settings(shards=shards)


@contextmanager
def _installed(scenario: Scenario) -> Iterator[None]:
    """Scale the shard's constants to the run, and keep its log out of the way."""
    with ExitStack() as stack:
        patches: list[tuple[Any, str, Any]] = [
            (reader_module, "BATCH_RECORDS", scenario.batch),
            (reader_module, "LARGE_BYTES", 50 * scenario.batch),  # half a batch, so that shards take turns
            (gate_module, "LARGE_BATCHES", 1),
            (reader_module, "BUFFER_BYTES", scenario.buffer),
            (gate_module, "POOL_BYTES", scenario.buffer),
            (gate_module, "LEAST_BYTES", scenario.buffer // 4 + 1),
            (shard_module, "log", _Silent()),
            (reader_module, "log", _Silent()),
            (gate_module, "log", _Silent()),
            (state_module, "PULLS", scenario.pulls),
            (commands_module, "AT_ONCE", scenario.at_once),
            (commands_module, "LOOKED_AT", scenario.looked_at),
            (commands_module, "log", _Silent()),
            (source_reader_module, "log", _Silent()),
            (window_log, "LOG_RUNS", scenario.runs),
            (UsageSchedule, "EVERY", 30 * SECOND),  # mostly reports would be simulated otherwise
        ]
        for module, name, value in patches:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def simulate(
    seed: int,
    hours: float = 1.0,
    *,
    mutant: AbstractContextManager[Any] | None = None,
    show: Callable[[str], None] | None = None,
) -> Result:
    """Run what is drawn from a seed, with `hours` as its mean length, and check it."""
    with mutant or nullcontext():
        return play(draw(seed, hours), show)


def play(
    scenario: Scenario, show: Callable[[str], None] | None = None, meet: Callable[["World"], None] | None = None
) -> Result:
    """Run a scenario to its end and check it. `show` is given a line for everything that happens, `meet` the world."""
    trace = Trace(show)
    world: World | None = None

    async def main(loop: SimLoop) -> None:
        nonlocal world
        world = World(loop, scenario, trace)
        await world.live()

    with _installed(scenario):
        try:
            run(main)
        except (DeadlockError, LivelockError) as error:
            return Result(scenario.seed, 0, str(trace), (f"{type(error).__name__}: {error}",), 0, 0)
        assert world is not None
        world.check()
        if meet is not None:
            meet(world)
    return Result(
        seed=scenario.seed,
        hours=scenario.seconds / 3600,
        trace=str(trace),
        problems=tuple(dict.fromkeys(world.problems)),
        requests=world.offered,
        commits=world.broker.commits,
    )
