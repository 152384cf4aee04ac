"""The delivery of alerts to one sink, at least once and in order, at its own pace."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import stamina
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate.client._alert import Alert
from gate.client._alert_sinks.sink import LaterError, RefusedError, Sink
from gate.client._connection import positive
from gate.client._errors import ArgumentError
from gate.client._offsets import Commits
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.log import get_logger

_POLL_MS: Final = 200
_PAUSE: Final = 0.05  # s
_AT_ONCE: Final = 100  # records in memory; what waits longer, waits in Kafka
_DEADLINE: Final = 10.0
_INT32_MAX: Final = 2**31 - 1

Handler: TypeAlias = Callable[[Alert], object] | Callable[[Alert], Awaitable[object]]

log = get_logger("gate.client.alerts")


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds between attempts: they double from the first to the longest, with a random part of up to the first."""

    first: float = 0.5
    longest: float = 30.0

    def __post_init__(self) -> None:
        positive(first=self.first, longest=self.longest)
        if self.longest < self.first:
            raise ArgumentError(f"longest is {self.longest}, less than first, {self.first}", hint="raise longest")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What goes where. Without `attempts`, delivery is tried until it succeeds."""

    name: str
    sink: Sink
    types: tuple[str, ...] = ("*",)
    service: str = "*"
    attempts: int | None = None
    pauses: Pauses = Pauses()

    async def deliver(self, alert: Alert) -> None:
        """Return when the sink has taken the alert, or it is given up, which is told in the log."""
        if not any(alert.matches(type, self.service) for type in self.types):  # noqa: A001 - as CloudEvents call it
            return
        context = log.bind(sink=self.name, id=alert.id, type=alert.type)

        def again(error: BaseException) -> bool | float:
            if isinstance(error, RefusedError) or not isinstance(error, Exception):  # asked about a cancellation, too
                return False
            context.warning("alert not delivered yet", error=f"{type(error).__name__}: {error}")
            return error.seconds if isinstance(error, LaterError) else True

        try:
            async for attempt in stamina.retry_context(
                on=again,
                attempts=self.attempts,
                timeout=None,
                wait_initial=self.pauses.first,
                wait_max=self.pauses.longest,
                wait_jitter=self.pauses.first,
            ):
                with attempt:
                    await self.sink.deliver(alert)
        except Exception as error:  # noqa: BLE001 - of a sink; other alerts must go on
            context.error("alert left out", error=f"{type(error).__name__}: {error}")


class Function(Sink):
    """A handler as a sink: awaited if it is asynchronous, else called in a thread."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def deliver(self, alert: Alert) -> None:
        """Call the handler."""
        try:
            work: Callable[[], object] = partial(self._handler, alert)
            answer = work() if inspect.iscoroutinefunction(self._handler) else await asyncio.to_thread(work)
            if inspect.isawaitable(answer):  # also of a plain function that returns a coroutine, such as a lambda
                await answer
        except SystemExit as error:
            raise RuntimeError(f"the handler called sys.exit({error.code!r})") from error


async def carry(
    bootstrap: str,
    topic: str,
    group_id: str,
    subscription: Subscription,
    stopping: asyncio.Event,
    *,
    from_beginning: bool,
) -> None:
    """Deliver the alerts of a topic until `stopping`, under a consumer group of the subscription's own.

    An offset is committed when the alerts before it are delivered. A new group's starting point is committed before
    anything else: what comes from then on is delivered, whatever happens.
    """
    consumer = AIOKafkaConsumer(
        **access(bootstrap),
        group_id=group_id,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=3_000,  # the topic may be made later
        max_poll_interval_ms=_INT32_MAX,  # a sink may be down for long; heartbeats show life
        max_poll_records=_AT_ONCE,
    )
    async with running(consumer):
        async with asyncio.timeout(_DEADLINE):
            from_end = not from_beginning and topic in await consumer.topics()  # all is new in a topic made later
        commits = Commits(consumer)
        consumer.subscribe(pattern=rf"^{re.escape(topic)}\Z", listener=commits)
        committing = asyncio.create_task(commits.regularly())
        try:
            placed: set[TopicPartition] = set()
            while not stopping.is_set():
                await _place(consumer, placed, from_end=from_end)
                if not placed:
                    await asyncio.sleep(_PAUSE)
                    continue
                for partition, records in (await consumer.getmany(*placed, timeout_ms=_POLL_MS)).items():
                    await _deliver_all(partition, records, subscription, commits, stopping)
        finally:
            committing.cancel()
            await asyncio.wait([committing])
            await commits.commit()


async def _place(consumer: AIOKafkaConsumer, placed: set[TopicPartition], *, from_end: bool) -> None:
    """Commit where a new group starts; only then a partition is `placed`, and may be read."""
    placed &= consumer.assignment()
    try:
        async with asyncio.timeout(_DEADLINE):
            for partition in consumer.assignment() - placed:
                if await consumer.committed(partition) is None:
                    if from_end:
                        await consumer.seek_to_end(partition)
                    await consumer.commit({partition: await consumer.position(partition)})
                placed.add(partition)
    except (KafkaError, TimeoutError) as error:
        log.warning("the starting point is not committed yet", error=str(error) or type(error).__name__)
        await asyncio.sleep(_POLL_MS / 1000)


async def _deliver_all(
    partition: TopicPartition,
    records: list[ConsumerRecord],
    subscription: Subscription,
    commits: Commits,
    stopping: asyncio.Event,
) -> None:
    offsets = commits.of(partition)
    for record in records:
        if stopping.is_set() or commits.of(partition) is not offsets:  # stopped; or read again after a rebalance
            return
        offsets.start(record.offset)
        try:
            alert = Alert.of(record)
        except ValueError as error:
            log.warning("no alert", topic=record.topic, offset=record.offset, error=str(error))
        else:
            await subscription.deliver(alert)
        offsets.done(record.offset)
