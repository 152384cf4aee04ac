"""The link of one process to the owners of shards: its reports go to one topic, grants come from another."""

import asyncio
import time
from contextlib import suppress
from threading import Lock
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from gate.config import Connection
from gate.distributed.holders import Holders
from gate.errors import GateError, reason_of
from gate.kafka.connect import running
from gate.limits.spec import NEVER, SECOND
from gate.log import get_logger

_POLL_MS: Final = 500
_DEADLINE: Final = 10.0  # seconds, of one call
_RETRY_SECONDS: Final = 1.0
_LEAVE_SECONDS: Final = 2.0
_LEAST_SLEEP: Final = 0.001
_QUIET_NS: Final = 5 * SECOND  # without an answer, after which to look whether shards lie elsewhere now

log = get_logger("gate.distributed")


def now() -> int:
    """Return ns of a clock that goes on while the machine is suspended: a lease ends then, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class NoGateError(GateError):
    """No gate has run here that shares limits."""


class Link:
    """Carries what a process's holders say, and what they are told, in one event loop, until `close`."""

    def __init__(self, connection: Connection, holders: Holders, lock: Lock) -> None:
        self._connection = connection
        self._holders = holders
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._topic = ""
        self._generation = 0
        self._looked = now()

    async def start(self) -> None:
        """Connect. Raises BrokerUnreachableError, and NoGateError where there are no topics for it."""
        await self._connection.reach()
        self._task = asyncio.create_task(self._run(), name="shared-limits")
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give everything up, and disconnect."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def poke(self) -> None:
        """Have it look at once whether there is something to report; from any thread."""
        with suppress(RuntimeError):  # the loop was closed just now
            self._loop.call_soon_threadsafe(self._poked.set)

    async def _run(self) -> None:
        while True:
            try:
                await self._connected()
            except GateError as error:
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                log.warning("limits can't be shared; trying again", why=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is: nobody else would start this again
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                log.warning("limits can't be shared; trying again", why=reason_of(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _connected(self) -> None:
        options = self._connection.access()
        consumer = AIOKafkaConsumer(**options, isolation_level="read_committed", auto_offset_reset="latest")
        producer = AIOKafkaProducer(**options, acks=1, request_timeout_ms=int(_DEADLINE * 1000))
        async with running(consumer), running(producer):
            await self._place(consumer, producer)
            partition = TopicPartition(self._connection.names.grants, self._holders.partition)
            consumer.assign([partition])
            async with asyncio.timeout(_DEADLINE):
                consumer.seek(partition, (await consumer.end_offsets([partition]))[partition])
            if not self._ready.done():
                self._ready.set_result(None)
            listening = asyncio.create_task(self._listen(consumer), name="grants")
            try:
                await self._speak(producer, consumer, listening)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                if self._task is None:
                    await self._leave(producer)
                for task in self._sending.values():
                    task.cancel()
                self._sending.clear()

    async def _place(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Find where shards lie, and where grants come; who lay elsewhere begins anew."""
        names = self._connection.names
        async with asyncio.timeout(_DEADLINE):
            there = await consumer.topics()
        generations = {generation: topic for topic in there if (generation := names.leases_generation(topic))}
        if not generations or names.grants not in there:
            raise NoGateError(
                f"topics {names.leases} and {names.grants} are not there: no gate that shares limits has run here",
                hint="start one: `gate run --config policy.yaml`; the prefix must be the gate's",
            )
        newest = max(generations)
        async with asyncio.timeout(_DEADLINE):
            shards = len(await producer.partitions_for(generations[newest]))
            partitions = len(await producer.partitions_for(names.grants))
        with self._lock:
            if self._generation != newest or self._holders.shards != shards:
                if self._holders.shards:
                    self._holders.renew(now())
                self._holders.settle(shards, partitions)
        self._generation, self._topic, self._looked = newest, generations[newest], now()

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        said = False
        while True:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                with self._lock:
                    wrong = [why for r in records if (why := self._holders.receive(now(), r.key, r.value)) is not None]
                    woken, self._holders.woken = self._holders.woken, []
                for waiter in woken:
                    waiter.wake()
                if wrong and not said:
                    said = True
                    log.warning("a grant can't be read; is the gate of another version?", why=wrong[0])
            self._poked.set()

    async def _speak(
        self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, listening: "asyncio.Task[None]"
    ) -> None:
        while not listening.done():
            self._poked.clear()
            at = now()
            with self._lock:
                again = self._holders.poll(at)
                woken, self._holders.woken = self._holders.woken, []
                reports = list(self._holders.reports(at, list(self._sending)))
                again = min(again, self._holders.wakes_at(at))
                quiet = self._holders.asked is not None and at - max(self._holders.asked, self._looked) > _QUIET_NS
            for waiter in woken:
                waiter.wake()
            for shard, holder, value in reports:
                self._send(producer, shard, holder, value)
            if quiet:
                self._looked = at
                before = self._generation
                await self._place(consumer, producer)
                if self._generation != before:
                    return  # all anew
            seconds = (min(again, at + SECOND) - now()) / SECOND if again != NEVER else 1.0
            with suppress(TimeoutError):
                async with asyncio.timeout(max(seconds, _LEAST_SLEEP)):
                    await self._poked.wait()
        await listening  # raises what ended it

    def _send(self, producer: AIOKafkaProducer, shard: int, holder: str, value: bytes) -> None:
        async def send() -> None:
            try:
                async with asyncio.timeout(_DEADLINE):
                    await producer.send_and_wait(self._topic, value, holder.encode(), partition=shard)
            except Exception as error:  # noqa: BLE001 - what was not taken is told again
                log.warning("a report is not taken; telling it again", shard=shard, why=reason_of(error))
            finally:
                del self._sending[shard]
                self._poked.set()

        self._sending[shard] = asyncio.create_task(send(), name=f"report-{shard}")

    async def _leave(self, producer: AIOKafkaProducer) -> None:
        """Give up all that is held, if somebody takes it in time."""
        with self._lock:
            reports = list(self._holders.reports(now(), leaving=True))
        sends: list[Any] = [
            producer.send_and_wait(self._topic, value, holder.encode(), partition=shard)
            for shard, holder, value in reports
        ]
        with suppress(Exception):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await asyncio.gather(*sends, return_exceptions=True)
