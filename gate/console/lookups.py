"""Lookups: what no topic that is followed tells, read when somebody asks, one at a time and a bounded part of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from aiokafka.errors import KafkaError

from gate.config import Connection
from gate.console.in_force import in_force
from gate.console.records import Record
from gate.console.shares import Share, Shares
from gate.console.tried import Change, Tried, try_limit
from gate.errors import GateError, reason_of
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import LATEST, Reader
from gate.kafka.cluster import Cluster
from gate.kafka.open_transactions import OpenTransaction, Transactions
from gate.kafka.recorded_decisions import Recording, recorded_decisions
from gate.kafka.request_history import fetch
from gate.kafka.request_search import RequestSearch
from gate.kafka.tenant_limits import limits_of, tenant_limits
from gate.kafka.whereabouts import Whereabouts
from gate.policy import Policy
from gate.protocol.policies import LiveLimit, Published
from gate.shard.records import Partition

MOST: Final = 40_000  # output records of a recording: a request has one or two
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_MESH_MS: Final = 30_000  # several leases
_MESH_MOST: Final = 20_000  # records
_KEPT: Final = 10.0  # seconds for which a recording is asked again
_RECORDINGS: Final = 4
_WAITING: Final = 4  # lookups
_DEADLINE: Final = 8.0  # less than a connection has
_SCAN_DEADLINE: Final = 25.0  # the limits of a million tenants take seconds
_TRIES: Final = 8
_REST: Final = 3  # after a replay, so many times what it took: a gate has other work
POLICY_UNKNOWN: Final = "the policy in force is not known here"
POLICY_HINT: Final = "run this with --config FILE, or ask a gate's own page"

T = TypeVar("T")


class Lookups:
    """Looks things up over connections of its own. `policy` is the one in force, where it is known."""

    def __init__(self, connection: Connection, policy: Callable[[], Policy | None] = lambda: None) -> None:
        self._connection = connection
        self.policy = policy
        self._turn = asyncio.Lock()
        self._scanning = asyncio.Lock()
        self._waiting = 0
        self._recordings: dict[str, tuple[float, Recording]] = {}  # by service, with when it was read
        self._tries: dict[tuple[str, str, Change], tuple[float, asyncio.Task[Tried]]] = {}  # with when it was begun
        self._playing = asyncio.Lock()
        self._rested_at = 0.0

    async def request(self, request: str, service: str | None) -> Whereabouts:
        """Return where a request stands. Raises GateError."""
        names, group_id = self._connection.names, self._connection.group_id
        since_ms = max(0, _now_ms() - DAY_MS)

        async def find() -> Whereabouts:
            async with RequestSearch.connected(names, group_id, **self._connection.access()) as search:
                return await search.find(request, service, since_ms)

        return await self._bounded(find)

    async def recording(self, service: str) -> Recording:
        """Return what was decided in the last hour, or the newest part of that. Raises GateError."""
        return await self._bounded(lambda: self._recording(service))

    async def tried(self, record: Record, change: Change) -> Tried:
        """Return what another limit would have done to the last hour. Raises GateError, also where it takes a while."""
        policy = self.policy()
        if policy is None:
            raise GateError(POLICY_UNKNOWN, hint=POLICY_HINT)
        key = record.service, record.policy, change
        begun, task = self._tries.get(key, (0.0, None))
        if task is None or (task.done() and time.monotonic() - begun > _KEPT):
            if len(self._tries) >= _TRIES and not self._drop_a_try():
                raise GateError("too many limits are tried at once", hint="try again in a moment")
            task = asyncio.create_task(self._try(record, policy, change), name="console-try")
            self._tries[key] = time.monotonic(), task
        await asyncio.wait([task], timeout=_DEADLINE)
        if not task.done():
            raise GateError("so many requests take a while", hint="ask again in a moment: it goes on meanwhile")
        return task.result()

    async def tenant_limits(
        self, wanted: Mapping[str, frozenset[str]], others: int = 0
    ) -> dict[str, dict[str, Published]]:
        """Return what is set live for these tenants, by service, for all that stand for many, and for some others.

        Raises GateError.
        """
        place = Partition(self._connection.names.policies, 0)

        async def look() -> dict[str, dict[str, Published]]:
            async with self._connected() as (reader, cluster):
                if not (await cluster.partitions()).get(place.topic):
                    return {}
                return await tenant_limits(reader, place, wanted, others)

        try:
            return await self._bounded(look, _SCAN_DEADLINE, self._scanning)
        except ValueError as error:
            raise GateError(f"a limit on {place.topic} can't be read: {error}", hint="see `gate doctor`") from None

    async def close(self) -> None:
        """End what goes on."""
        tasks = [task for _, task in self._tries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drop_a_try(self) -> bool:
        over = next((key for key, (_, task) in self._tries.items() if task.done()), None)
        if over is None:
            return False
        _, task = self._tries.pop(over)
        if not task.cancelled():
            task.exception()  # whoever asked has been told, or asks again
        return True

    async def _try(self, record: Record, policy: Policy, change: Change) -> Tried:
        service = record.service
        async with self._playing:
            recording = await self.recording(service)
            tenants: dict[str, dict[str, LiveLimit]] = {}
            if record.tenants_limited:
                wanted = frozenset(one.request.tenant for one in recording.decisions)
                found = await self.tenant_limits({service: wanted})
                tenants = {service: limits_of(found.get(service, {}))}
            policy = in_force(policy, [record], _now_ms(), tenants)
            await asyncio.sleep(max(0.0, self._rested_at - time.monotonic()))
            begun = time.monotonic()
            found_out = await asyncio.to_thread(try_limit, service, policy, recording, change)
            self._rested_at = time.monotonic() + _REST * (time.monotonic() - begun)
            return found_out

    async def shares(self) -> list[Share]:
        """Return what processes hold of shared limits. Raises GateError."""
        names = self._connection.names

        async def look() -> list[Share]:
            async with self._connected() as (reader, cluster):
                there = await cluster.partitions()
                shares = Shares()
                for topic, take in ((names.leases, shares.report), (names.grants, shares.grant)):
                    for place in [Partition(topic, number) for number in range(there.get(topic, 0))]:
                        await _newest(reader, place, take)
                return shares.all()

        return await self._bounded(look)

    async def transactions(self) -> list[OpenTransaction]:
        """Return what is open in the gate's topics. Raises GateError."""
        names = self._connection.names

        async def look() -> list[OpenTransaction]:
            async with self._connected() as (reader, cluster):
                there = await cluster.partitions()
                own = {names.alerts, names.usage, names.control, names.answers, names.audit, names.state}
                kinds = ("requests", "admitted", "delayed", "rejected")
                topics = [t for t in sorted(there) if t in own or any(names.service_of(t, kind) for kind in kinds)]
                places = [Partition(topic, number) for topic in topics for number in range(there[topic])]
                return await Transactions(reader.client).open_in(places)

        return await self._bounded(look)

    async def _recording(self, service: str) -> Recording:
        kept = self._recordings.get(service)
        if kept is not None and time.monotonic() - kept[0] < _KEPT:
            return kept[1]
        async with self._connected() as (reader, cluster):
            there, now = await cluster.partitions(), _now_ms()
            found = await recorded_decisions(
                reader, self._connection.names, service, lambda topic: there.get(topic, 0), now - HOUR_MS, now, MOST
            )
        self._recordings.pop(service, None)
        self._recordings[service] = time.monotonic(), found
        while len(self._recordings) > _RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        return found

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple["_Reading", Cluster]]:
        options = self._connection.access()
        cluster = Cluster(self._connection.names, create=False, replication_factor=-1, **options)
        client = Client(**options)
        try:
            await cluster.start()
            await client.bootstrap()
            yield _Reading(client), cluster
        finally:
            await client.close()
            await cluster.close()

    async def _bounded(
        self, look: Callable[[], Awaitable[T]], deadline: float = _DEADLINE, turn: asyncio.Lock | None = None
    ) -> T:
        if self._waiting >= _WAITING:
            raise GateError("too many look things up at once", hint="try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline), turn or self._turn:
                return await look()
        except (KafkaError, OSError, TimeoutError) as error:
            raise GateError(f"looking it up failed: {reason_of(error)}", hint="see `gate doctor`") from error
        finally:
            self._waiting -= 1


class _Reading(Reader):
    """A reader that tells by which client it reads."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.client = client


async def _newest(reader: Reader, place: Partition, take: Callable[[bytes | None], None]) -> None:
    """Give what was written to a partition lately, the newest of it if it is much."""
    end = (await reader.offsets([place], LATEST))[place]
    begin = (await reader.offsets([place], _now_ms() - _MESH_MS))[place]
    position = max(begin, end - _MESH_MOST)
    while begin >= 0 and position < end:
        fetched = await fetch(reader, place, position)
        for record in fetched.records:
            take(record.value)
        position = fetched.next_offset


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
