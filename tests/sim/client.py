"""The gate's way to the simulated broker: `ports.Session` and `ports.Source` over a network that fails on purpose.

A request arrives at a time of its own, whatever has become of its sender: what times out, or is cut off by a kill, may
still take effect. Each await draws its fate from the run's generator.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import TypeVar

import msgspec

from gate.kafka.aio.reader import EARLIEST
from gate.kafka.aio.unknown_outcomes import MARKING_DEADLINE
from gate.kafka.delayed_reader import ParkedReader
from gate.kafka.torn_transactions import was_committed
from gate.protocol.headers import decided_at
from gate.shard.buffer import FetchBuffer
from gate.shard.changelog_records import META_KEY, Meta
from gate.shard.records import CommittedOffset, Fetched, Outgoing, Partition, RecoveredState, Written
from gate.shard.refusals import OutputError, refused
from gate.units import MS
from tests.sim.log import (
    Broker,
    ConcurrentTransactionsError,
    KafkaError,
    OffsetNotAvailableError,
    RefusedError,
    Stored,
)
from tests.sim.loop import Process, SimLoop

T = TypeVar("T")
DEADLINE = 10.0
INVALID_RECORD = 87


class Fate(Enum):
    """What happens to one request."""

    FINE = auto()
    REFUSED = auto()  # an error, and no effect
    UNKNOWN = auto()  # an effect, and yet an error
    LOST = auto()  # no effect, no answer
    SILENT = auto()  # an effect, no answer
    LATE = auto()  # an effect after the caller has given up
    TORN = auto()  # of several partitions only some take it
    KILLED_BEFORE = auto()
    KILLED_AFTER = auto()  # the sender dies; the request is under way
    PAUSED = auto()  # the sender is stopped for longer than the session lasts


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong."""

    chance: float = 0.0  # of a request
    most: int = 0
    fates: tuple[Fate, ...] = tuple(Fate)[1:]
    slow: float = 0.02  # chance that a request takes a hundred times longer
    markers: tuple[float, ...] = (0.0, 0.0, 0.0, 0.01, 0.2)  # seconds from a commit until all can see it
    torn: float = 0.0  # chance that the broker dies at the end of a transaction, and forgets some of its markers


class Network:
    """Carries requests of processes to the broker. `ill` is set while faults may happen."""

    def __init__(self, loop: SimLoop, random: Random, faults: Faults, note: Callable[..., None]) -> None:
        self.loop = loop
        self.down = False  # the broker
        self.ill = False
        self.left = faults.most
        self.pause: Callable[[Process], None] = Process.freeze
        self.kill: Callable[[Process], None] = Process.kill
        self._faults = faults
        self._random = random
        self._note = note
        self._context = Context()  # requests belong to nobody once they are sent

    def latency(self) -> float:
        """Return the time of one way, seconds."""
        random = self._random.random
        return (0.1 * random() if random() < self._faults.slow else 0.0) + 0.0002 + 0.002 * random()

    def later(self, delay: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Call a function of the world's."""
        return self.loop.call_later(delay, function, context=self._context)

    def draw(self, process: Process, what: str) -> Fate:
        """Return what happens to the next request."""
        if not self.ill or self.left <= 0 or self._random.random() >= self._faults.chance:
            return Fate.FINE
        self.left -= 1
        fate = self._random.choice(self._faults.fates)
        self._note("fault", fate.name, process.name, what)
        return fate

    async def call(self, process: Process, what: str, effect: Callable[[], T], fate: Fate | None = None) -> T:
        """Send a request and return its answer. It may never come: the caller has the deadline."""
        if process.dead:
            raise ConnectionError("the process is gone")
        if fate is None:
            fate = self.draw(process, what)
        answer: asyncio.Future[T] = self.loop.create_future()
        there = self.latency()
        if fate is Fate.LATE:
            there += 2 * DEADLINE * self._random.random()
        if fate not in {Fate.KILLED_BEFORE, Fate.LOST}:
            self.later(there, lambda: self._arrive(effect, fate, answer))
        if fate in {Fate.KILLED_BEFORE, Fate.KILLED_AFTER}:
            self.later(there * self._random.choice((0, 0, 2)), lambda: self.kill(process))
        elif fate is Fate.PAUSED:
            self.later(there * self._random.choice((0, 0, 2)), lambda: self.pause(process))
        return await answer

    def _arrive(self, effect: Callable[[], T], fate: Fate, answer: "asyncio.Future[T]") -> None:
        if self.down:
            if self._random.random() < 0.5:
                self.later(self.latency(), lambda: _fail(answer, ConnectionError("the broker is gone")))
            return
        if fate is Fate.REFUSED:
            self.later(self.latency(), lambda: _fail(answer, KafkaError("refused")))
            return
        try:
            result = effect()
        except (KafkaError, OutputError) as error:
            problem = error  # the name of the except clause is gone when the timer fires
            self.later(self.latency(), lambda: _fail(answer, problem))
            return
        if fate in {Fate.UNKNOWN, Fate.TORN}:
            self.later(self.latency(), lambda: _fail(answer, ConnectionError("connection lost")))
        elif fate is not Fate.SILENT:
            self.later(self.latency(), lambda: answer.done() or answer.set_result(result))


def _fail(answer: "asyncio.Future[T]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class SimSession:
    """A transactional producer. Made anew after every error, as the shard's contract says."""

    atomic = True

    def __init__(self, network: Network, broker: Broker, process: Process, name: str, state: Partition) -> None:
        self._network = network
        self._broker = broker
        self._process = process
        self._name = name
        self._state = state
        self._epoch = -1
        self.unfinished = False
        self.spent: str | None = None
        self.awaits: str | None = None
        self.settling = 0.0  # the broker here ends a transaction at once, or lets who comes too early try again

    async def _call(self, what: str, effect: Callable[[], T], fate: Fate | None = None) -> T:
        while True:
            try:
                return await self._network.call(self._process, what, effect, fate)
            except ConcurrentTransactionsError:
                await asyncio.sleep(0.005)
            except OffsetNotAvailableError:
                await asyncio.sleep(0.1)

    async def claim(self, partitions: Sequence[Partition]) -> RecoveredState:
        async with asyncio.timeout(DEADLINE):
            await self.fence()
            return await self._read(partitions)

    async def fence(self) -> None:
        await self._fence()
        await self._mend()

    async def _fence(self) -> None:
        self._epoch = await self._call("init", lambda: self._broker.init(self._name))

    async def _mend(self) -> None:
        """End what the broker has left half-done; what the real session finds by reading is at hand here."""
        name, epoch, broker = self._name, self._epoch, self._broker

        def at_of(record: Stored) -> int:
            if record.key == META_KEY.encode() and record.value:
                return msgspec.json.decode(record.value, type=Meta).at // MS
            return decided_at(record.headers) or 0

        def look() -> tuple[list[Partition], bool]:
            for log in broker.logs.values():
                if name in log.epochs:
                    log.known_end()
            left = {p: log for p, log in broker.logs.items() if name in log.open}
            own = {p: log for p, log in broker.logs.items() if name in log.epochs}
            services = {p.topic.split(".")[-1] for p in own}
            seen = [at_of(r) for log in own.values() for r in log.committed()] if left else []
            seen += [mark.at_ms for p, mark in broker.marks.items() if p.topic.split(".")[-1] in services]
            opened = (at_of(r) for log in left.values() for r in log.stored if r.transaction is log.open[name])
            return list(left), was_committed(opened, seen)

        torn, committed = await self._call("look behind", look, Fate.FINE)
        if torn:
            await self._call("mend", lambda: broker.mend(name, epoch, torn, commit=committed), Fate.FINE)
            await self._call("settle", lambda: broker.check_settled(name))

    async def _read(self, partitions: Sequence[Partition]) -> RecoveredState:
        broker = self._broker
        state = await self._call("read state", broker.log(self._state).newest)
        marks = await self._call("read offsets", lambda: {p: broker.marks[p] for p in partitions if p in broker.marks})
        return RecoveredState(state, marks)

    def compress(self, codecs: Mapping[str, int]) -> None:
        """Nothing is compressed here."""

    def scatter(self, topics: Collection[str]) -> None:
        """Batches have no size here."""

    def weigh(self, topic: str, record: Outgoing, codec: int) -> int:
        return sum(len(part or b"") for part in record[:2])

    def begin(self) -> None:
        """Nothing is sent before the first produce."""
        self.unfinished = True

    async def produce(
        self, outputs: Mapping[Partition, Sequence[Outgoing]], marks: Mapping[Partition, CommittedOffset] | None = None
    ) -> Mapping[Partition, Written]:
        async with asyncio.timeout(DEADLINE):
            if not marks:
                return await self._produce(outputs)
            written, _ = await asyncio.gather(self._produce(outputs), self._send_offsets(marks))
            return written

    async def _produce(self, outputs: Mapping[Partition, Sequence[Outgoing]]) -> Mapping[Partition, Written]:
        name, epoch, broker = self._name, self._epoch, self._broker
        fate = self._network.draw(self._process, "produce")
        apart = fate in {Fate.LATE, Fate.TORN}  # AddPartitionsToTxn is a request of its own, and is not late
        if apart:
            await self._call("add", lambda: broker.add(name, epoch, outputs), Fate.FINE)
        parts = dict(list(outputs.items())[: len(outputs) // 2]) if fate is Fate.TORN else outputs

        def effect() -> dict[Partition, Written]:
            if not apart:
                broker.add(name, epoch, outputs)
            placed = broker.produce(name, epoch, parts)
            return {partition: Written(placed[partition], broker.stamp(partition)) for partition in parts}

        try:
            return await self._call("produce", effect, fate)
        except RefusedError as error:
            records = outputs[error.partition]
            told = [(place, "refused") for place in error.faulty] if broker.picky.names else []
            refusal = refused(error.partition, INVALID_RECORD, told, "", 0, len(records), 0)
            assert refusal is not None
            refusal.records = records
            raise refusal from None

    async def _send_offsets(self, offsets: Mapping[Partition, CommittedOffset]) -> None:
        name, epoch, broker = self._name, self._epoch, self._broker
        fate = self._network.draw(self._process, "offsets")
        apart = fate is Fate.LATE
        if apart:
            await self._call("add offsets", lambda: broker.add(name, epoch, (), offsets=True), Fate.FINE)

        def effect() -> None:
            if not apart:
                broker.add(name, epoch, (), offsets=True)
            broker.add_offsets(name, epoch, offsets)

        await self._call("offsets", effect, fate)

    async def commit(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._call("end", lambda: self._broker.end(self._name, self._epoch, commit=True))
        self.unfinished = False

    async def is_settled(self) -> bool:
        def is_open() -> bool:
            logs = [log for log in self._broker.logs.values() if self._name in log.epochs]
            for log in logs:
                log.known_end()
            return any(self._name in log.open for log in logs)

        with suppress(TimeoutError):
            async with asyncio.timeout(MARKING_DEADLINE):
                while await self._call("is it open", is_open):
                    await asyncio.sleep(0.05)
                return True
        return False

    async def discard(self) -> None:
        await asyncio.sleep(self._network.latency())


@dataclass(slots=True)
class _Followed:
    buffer: FetchBuffer
    position: int
    watch: Callable[[], None]
    busy: bool = False


class SimReader:
    """What `parked.ParkedReader` needs of `wire.Reader`."""

    def __init__(self, network: Network, broker: Broker, process: Process, records: int) -> None:
        self._network = network
        self._broker = broker
        self._process = process
        self._records = records

    async def fetch_one(
        self, partition: Partition, offset: int, *, wait_ms: int, partition_bytes: int, committed: bool
    ) -> Fetched | None:
        log = self._broker.log(partition)
        return await self._network.call(self._process, "read", lambda: log.fetch_all(offset, self._records))

    async def offsets(
        self, partitions: Sequence[Partition], which: int, *, committed: bool = True
    ) -> dict[Partition, int]:
        def effect() -> dict[Partition, int]:
            return {p: 0 if which == EARLIEST else self._broker.log(p).known_end() for p in partitions}

        while True:
            with suppress(OffsetNotAvailableError):
                return await self._network.call(self._process, "offsets", effect)
            await asyncio.sleep(0.1)

    def refresh(self) -> None:
        """Leaders are known here."""


class SimSource:
    """Reads of one process. Nothing is polled: the broker's side calls when something has become readable."""

    def __init__(self, network: Network, broker: Broker, process: Process, records: int) -> None:
        self._network = network
        self._broker = broker
        self._process = process
        self._records = records  # of one fetch
        self._followed: dict[Partition, _Followed] = {}
        self._parked = ParkedReader(SimReader(network, broker, process, records), network.loop.time)  # type: ignore[arg-type]

    def follow(self, partition: Partition, offset: int | None, buffer: FetchBuffer) -> None:
        self.drop(partition)
        followed = self._followed[partition] = _Followed(buffer, offset or 0, lambda: self._look(partition))
        self._broker.log(partition).watchers[followed.watch] = None
        self._look(partition)

    def unfollow(self, buffer: FetchBuffer) -> None:
        for partition in [p for p, followed in self._followed.items() if followed.buffer is buffer]:
            self.drop(partition)

    def drop(self, partition: Partition) -> None:
        followed = self._followed.pop(partition, None)
        if followed is not None:
            self._broker.log(partition).watchers.pop(followed.watch, None)

    def close(self) -> None:
        """End with the process."""
        for partition in list(self._followed):
            self.drop(partition)

    def poke(self) -> None:
        for partition in self._followed:
            self._look(partition)

    def _look(self, partition: Partition, delay: float | None = None) -> None:
        followed = self._followed.get(partition)
        if followed is None or followed.busy or not followed.buffer.wants(partition):
            return
        followed.busy = True
        delay = 2 * self._network.latency() if delay is None else delay
        self._network.loop.call_later(delay, self._fetch, partition, followed, context=self._process.context)

    def _fetch(self, partition: Partition, followed: _Followed) -> None:
        followed.busy = False
        if self._followed.get(partition) is not followed:
            return  # another owner, or another start, since
        if self._network.down:
            self._look(partition, 0.2)
            return
        fetched = self._broker.log(partition).fetch(followed.position, self._records)
        if fetched is not None:
            followed.position = fetched.next_offset
            followed.buffer.put(partition, fetched)
            self._look(partition)

    def blocked(self, buffer: FetchBuffer) -> None:
        return None

    def unreadable(self, buffer: FetchBuffer) -> Mapping[Partition, str]:
        return {}

    async def read(self, partition: Partition, offsets: Sequence[int]) -> Sequence[Stored]:
        return await self._parked.read(partition, offsets)  # type: ignore[return-value]

    def prefetch(self, partition: Partition, offsets: Sequence[int]) -> None:
        self._parked.prefetch(partition, offsets)
