"""A gate's ports in memory: one log per partition, sessions that write to it, and a shard's surroundings.

Nothing happens by itself here: a test says what a call answers. What may happen in which order is tests/sim's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gate.policy import parse_policy
from gate.protocol.headers import STAMP, parse_stamp
from gate.protocol.topics import Names
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.owner import Shard
from gate.shard.records import Blocked, CommittedOffset, Fetched, Outgoing, Partition, RecoveredState, Written
from gate.shard.topic_limits import TopicLimits, nothing_known
from gate.units import MS
from tests.sim.log import Stored

NOW = 1_700_000_000_000 * MS
SHARDS = 4
ADMITS = "services: {pay: {requests_per_second: 100, burst_size: 100}}"


@dataclass
class Kafka:
    """What is committed, and what was asked for, in order. `fail` names calls that fail, each as often as it says."""

    logs: dict[Partition, list[Outgoing]] = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)
    marks: dict[Partition, CommittedOffset] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    atomic: bool = True
    settled: bool = True  # nothing is left half-done
    names: Names = field(default_factory=Names)
    sessions: list["Session"] = field(default_factory=list)
    scattered: set[str] = field(default_factory=set)  # topics to which small batches were asked for
    hangs: dict[str, asyncio.Event] = field(default_factory=dict)  # calls that are answered when their event is set

    def call(self, name: str) -> None:
        self.calls.append(name)
        if self.fail.get(name, 0) > 0:
            self.fail[name] -= 1
            raise ConnectionError(f"{name} failed")

    async def answered(self, name: str) -> None:
        if name in self.hangs:
            await self.hangs[name].wait()

    def write(self, partition: Partition, records: Sequence[Outgoing]) -> Sequence[int]:
        log = self.logs.setdefault(partition, [])
        log += records
        if partition.topic == self.names.state:
            for record in records:
                key = (record[0] or b"").decode()
                if record[1] is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = record[1]
        return range(len(log) - len(records), len(log))

    def stamps(self, topic: str) -> list[bytes]:
        """Return the stamps of what is committed to a topic."""
        return [
            next(value or b"" for name, value in record[3] if name == STAMP)
            for partition, log in sorted(self.logs.items())
            if partition.topic == topic
            for record in log
        ]

    def ids(self, topic: str) -> list[str]:
        """Return the stamps' ids of what is committed to a topic."""
        return [parse_stamp(stamp).id for stamp in self.stamps(topic)]


class Session:
    """`gate.shard.ports.Session` over `Kafka`."""

    unfinished = False
    awaits: str | None = None
    spent: str | None = None

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.settles: Callable[[], float] = lambda: 0.0
        self.atomic = kafka.atomic
        self._written: dict[Partition, list[Outgoing]] = {}
        self._marks: dict[Partition, CommittedOffset] = {}

    @property
    def settling(self) -> float:
        return self.settles()

    async def fence(self) -> None:
        self._kafka.call("fence")

    async def claim(self, partitions: Sequence[Partition]) -> RecoveredState:
        self._kafka.call("claim")
        await self._kafka.answered("claim")
        marks = {p: self._kafka.marks[p] for p in partitions if p in self._kafka.marks}
        return RecoveredState(dict(self._kafka.state), marks)

    def compress(self, codecs: Mapping[str, int]) -> None: ...

    def scatter(self, topics: Collection[str]) -> None:
        self._kafka.scattered |= set(topics)

    def weigh(self, topic: str, record: Outgoing, codec: int) -> int:
        return 100

    def begin(self) -> None:
        self._kafka.calls.append("begin")
        self.unfinished = True

    async def produce(
        self, outputs: Mapping[Partition, Sequence[Outgoing]], marks: Mapping[Partition, CommittedOffset] | None = None
    ) -> Mapping[Partition, Written]:
        topics = sorted({partition.topic.removeprefix("gate.") for partition in outputs})
        self._kafka.call("produce " + " ".join([*topics, *(["offsets"] if marks else [])]))
        answers: dict[Partition, Written] = {}
        for partition, records in outputs.items():
            if self.atomic:
                waiting = self._written.setdefault(partition, [])
                first = len(self._kafka.logs.get(partition, ())) + len(waiting)
                waiting += records
                offsets: Sequence[int] = range(first, first + len(records))
            else:
                offsets = self._kafka.write(partition, records)
            answers[partition] = Written(offsets, NOW // MS)
        (self._marks if self.atomic else self._kafka.marks).update(marks or {})
        return answers

    async def commit(self) -> None:
        self._kafka.call("commit")
        await self._kafka.answered("commit")
        self.unfinished = False
        for partition, records in self._written.items():
            self._kafka.write(partition, records)
        self._kafka.marks |= self._marks
        self._written, self._marks = {}, {}

    async def is_settled(self) -> bool:
        self._kafka.calls.append("is settled")
        await self._kafka.answered("is settled")
        return self._kafka.settled

    async def discard(self) -> None:
        self._kafka.calls.append("discard")


class Source:
    """`gate.shard.ports.Source`: requests come by `put`, parked ones are read from the logs."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.followed: dict[Partition, int | None] = {}
        self._buffers: dict[Partition, FetchBuffer] = {}
        self.unread: Blocked | None = None

    def put(self, partition: Partition, what: Fetched) -> None:
        """Let requests come, which somebody follows."""
        self._buffers[partition].put(partition, what)

    def blocked(self, _: object) -> Blocked | None:
        return self.unread

    def poke(self) -> None: ...
    def unfollow(self, _: object) -> None: ...
    def drop(self, partition: Partition) -> None: ...

    def unreadable(self, _: object) -> dict[Partition, str]:
        return {}

    def follow(self, partition: Partition, offset: int | None, buffer: FetchBuffer) -> None:
        self.followed[partition] = offset
        self._buffers[partition] = buffer

    async def read(self, partition: Partition, offsets: Sequence[int]) -> Sequence[Stored]:
        self._kafka.call(f"read {partition.topic.removeprefix('gate.')}")
        log = self._kafka.logs.get(partition, ())
        return [stored(offset, log[offset]) for offset in offsets if 0 <= offset < len(log)]

    def prefetch(self, partition: Partition, offsets: Sequence[int]) -> None:
        self._kafka.calls.append(f"prefetch {partition.topic.removeprefix('gate.')} {list(offsets)}")


def stored(offset: int, record: Outgoing) -> Stored:
    key, value, timestamp, headers = record
    return Stored(offset, timestamp or 0, key, value, tuple(headers))


class Observer:
    """Keeps what a shard tells."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.commits = 0
        self.told = asyncio.Event()

    def failed(self, _shard: int, error: BaseException, _failures: int, _stuck: float) -> None:
        self.failures.append(error)
        self.told.set()

    def committed(self, _seconds: float) -> None:
        self.commits += 1
        self.told.set()

    def encode_event(self, _: object) -> Outgoing:
        return Outgoing(b"pay", b"{}", None, [])

    def usage(self, _usage: object, _shard: int) -> Outgoing:
        return Outgoing(b"pay", b"{}", None, [])

    def __getattr__(self, name: str) -> object:
        return lambda *_args, **_kwargs: None


class Turns(asyncio.Semaphore):
    """Turns of large batches, and whether anybody has asked for one."""

    def __init__(self, turns: int) -> None:
        super().__init__(turns)
        self.was_asked = asyncio.Event()

    async def acquire(self) -> bool:  # type: ignore[override]
        self.was_asked.set()
        return await super().acquire()


class Surroundings:
    """`gate.shard.environment.Environment`; `unconfirmed` says how often the group does not know the owner."""

    def __init__(self, kafka: Kafka, *, unconfirmed: int = 0, turns: int = 3) -> None:
        self.kafka = kafka
        self.names = kafka.names
        self.source = self.hearing = Source(kafka)
        self.observer = Observer()
        self.pool = MemoryPool(1 << 30, 1 << 20)
        self.limits = TopicLimits(nothing_known)
        self.large = Turns(turns)
        self.feedback = SimpleNamespace(lags={}, since=lambda _: [], measure=self._measured)
        self.shards = SHARDS
        self.grants = 2
        self.lease_ns = 10_000 * MS
        self.was_closed = False
        self._unconfirmed = unconfirmed
        self._local = NOW

    def new_session(self, _: int) -> Session:
        self.kafka.sessions.append(Session(self.kafka))
        return self.kafka.sessions[-1]

    def local(self) -> int:
        self._local += MS // 10  # whoever looks at the clock takes his time
        return self._local

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._local += int(seconds * 1e9)

    def wall(self) -> int:
        return NOW

    def closed(self) -> None:
        self.was_closed = True

    def resharding(self) -> None:
        return None

    def give_way(self) -> None:
        pass

    async def confirm(self, _: int) -> None:
        self.kafka.calls.append("confirm")
        if self._unconfirmed > 0:
            self._unconfirmed -= 1
            raise ConnectionError("not a member")

    async def committed(self, _: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        return {}

    async def prepare(self, _: object) -> None: ...

    async def retries(self, _: object) -> Mapping[str, int]:
        return {}

    async def _measured(self, _: object) -> bool:
        return False


def fetched(*offsets: int, size: int = 100) -> Fetched:
    """Return requests at these offsets, as they are fetched, of `size` bytes together."""
    return Fetched([Stored(o, NOW // MS, b"k", b"%d" % o, ()) for o in offsets], offsets[-1] + 1, size)


@asynccontextmanager
async def running(
    kafka: Kafka, policy: str = ADMITS, *, requests: Mapping[str, int] | None = None, **options: Any
) -> AsyncIterator[tuple[Shard, "Surroundings"]]:
    """Run a shard that serves `pay`, of one partition unless `requests` says more."""
    around = Surroundings(kafka, **options)
    shard = Shard(1, parse_policy(policy), around)
    shard.start(requests or {"pay": 1})
    try:
        yield shard, around
    finally:
        await shard.stop(5.0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
