"""Alert consumers: carry what the gate says about breaches to where somebody looks."""

import asyncio
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol, TextIO

import httpx
import stamina
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.structs import TopicPartition
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from consumers.offsets import Commits, Offsets
from consumers.program import Program
from consumers.text import printable, timestamp
from gate.kafka.connect import running
from gate.kafka.topics import Names

_MAX_PENDING: Final = 10_000  # alerts that one sink may be behind another; more are left in Kafka
_POLL_MS: Final = 200
_GRACE_SECONDS: Final = 5.0
_HOPELESS: Final = frozenset({400, 413, 415, 422})  # the same alert would be refused again
_FIGURES: Final = {
    "refused": "{} refused",
    "offered_per_second": "{:.1f}/s offered",
    "backlog": "{} waiting",
    "eta_seconds": "the last one in {:.0f} s",
}

log = structlog.get_logger("consumers.alerts")


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of the gate. The `id` is the same at every redelivery; `event` is the CloudEvent itself."""

    id: str
    type: str
    service: str
    time: datetime
    data: dict[str, Any]
    event: CloudEvent

    @classmethod
    def of(cls, record: ConsumerRecord) -> "Alert":
        """Read a record of the alerts topic. Raises ValueError where it is no CloudEvent with an object as data."""
        headers = {name: value for name, value in record.headers if value is not None}
        if "ce_id" not in headers or "ce_time" not in headers:
            raise ValueError("it has no ce_id or no ce_time")  # the library would make them up
        try:
            event = from_binary_event(KafkaMessage(headers, record.key, record.value or b""))
        except (BaseCloudEventException, ValueError, TypeError) as error:
            raise ValueError(str(error)) from error
        data = event.get_data()
        if not (isinstance(event, CloudEvent) and isinstance(data, dict)):
            raise ValueError("its data is no JSON object")  # noqa: TRY004 - the value of a record, not a caller's mistake
        service = str(data.get("service") or "")
        time = event.get_time()
        assert time is not None  # its header is there
        return cls(event.get_id(), event.get_type(), service, time, data, event)

    def to_json(self) -> str:
        """Return the CloudEvent in JSON."""
        return to_structured_event(self.event).body.decode()

    def __str__(self) -> str:
        reason, limit = self.data.get("reason"), self.data.get("limit")
        said = [f"{reason} ({limit})" if limit else str(reason)] if reason else []
        for name, form in _FIGURES.items():
            value = self.data.get(name)
            if isinstance(value, int | float) and (value or name == "backlog"):
                said.append(form.format(value))
        line = f"{timestamp(self.time)}  {self.type}  {self.service or '-'}  {', '.join(said)}"
        return printable(line.rstrip())


class Sink(Protocol):
    """Where alerts go. `take` returns when the alert has arrived, however long that takes."""

    async def take(self, alert: Alert) -> None:
        """Deliver one alert."""


class Console:
    """Prints a line per alert: for people, or the CloudEvent as JSON."""

    def __init__(self, *, as_json: bool = False, file: TextIO | None = None) -> None:
        self._as_json = as_json
        self._file = file or sys.stdout

    async def take(self, alert: Alert) -> None:
        """Print one alert."""
        line = alert.to_json() if self._as_json else str(alert)
        print(line, file=self._file, flush=True)


class WebhookError(Exception):
    """A webhook that answered with something other than success."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"the webhook answered {status}")  # without its URL, which may hold a secret
        self.status = status
        self.retry_after = retry_after


class Webhook:
    """Posts each alert as a CloudEvent in JSON (structured mode), again and again until it is taken.

    The receiver may get an alert twice and knows it by its id. An alert that it calls wrong in itself (400, 413, 415,
    422) is logged and left out; with all other answers, and none, posting goes on.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, *, first_pause: float = 0.5, longest: float = 30.0) -> None:
        self._url = url
        self._client = client
        self._retrying = partial(
            stamina.retry_context,
            on=_is_worth_retrying,
            attempts=None,
            timeout=None,
            wait_initial=first_pause,
            wait_max=longest,
            wait_jitter=first_pause,
        )

    async def take(self, alert: Alert) -> None:
        """Post one alert."""
        message = to_structured_event(alert.event)
        try:
            async for attempt in self._retrying():
                with attempt:
                    _check(await self._client.post(self._url, content=message.body, headers=message.headers))
        except WebhookError as error:
            log.error("alert left out", id=alert.id, type=alert.type, error=str(error))  # noqa: TRY400 - no traceback


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise WebhookError(answer.status_code, _seconds(answer.headers.get("retry-after")))


def _is_worth_retrying(error: Exception) -> bool | float:
    """Tell stamina whether to try again, or after how many seconds."""
    if isinstance(error, WebhookError):
        return error.retry_after or error.status not in _HOPELESS
    return isinstance(error, httpx.TransportError)


def _seconds(retry_after: str | None) -> float | None:
    return min(float(retry_after), 3600.0) if retry_after and retry_after.isdecimal() else None


class AlertConsumer(Program):
    """Carries alerts to sinks, each at its own pace, at least once.

    >>> consumer = AlertConsumer("localhost:9092", [Console()])
    >>> consumer.main()  # doctest: +SKIP

    A sink that is down does not hold up the others. An alert is committed when all sinks took it and all before it, so
    after a restart some come again: the ids tell. Up to 10,000 alerts are kept for the slowest sink, then reading
    waits.
    """

    def __init__(
        self,
        bootstrap: str,
        sinks: Sequence[Sink],
        *,
        group_id: str = "gate-alerts",
        names: Names | None = None,
        from_beginning: bool = True,
        connect_seconds: float = 30.0,
    ) -> None:
        super().__init__(bootstrap, connect_seconds)
        self._sinks = sinks
        self._group_id = group_id
        self._topic = (names or Names()).alerts
        self._from = "earliest" if from_beginning else "latest"

    async def run(self) -> None:
        """Carry alerts until stopped. Raises BrokerUnreachableError if no broker answers at the start."""
        if not await self._connected():
            return
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset=self._from,
            metadata_max_age_ms=3_000,  # the topic may be made later
        )
        async with running(consumer):
            await self._carry(consumer)

    async def _carry(self, consumer: AIOKafkaConsumer) -> None:
        commits = Commits(consumer)
        consumer.subscribe(pattern=rf"^{re.escape(self._topic)}\Z", listener=commits)
        queues: list[asyncio.Queue[_Delivery]] = [asyncio.Queue() for _ in self._sinks]
        async with asyncio.TaskGroup() as tasks:
            feeding = {tasks.create_task(_feed(*pair, commits)) for pair in zip(self._sinks, queues, strict=True)}
            self._jobs |= feeding
            committing = tasks.create_task(commits.regularly())
            try:
                while not self._stopping.is_set():
                    if commits.longest >= _MAX_PENDING:
                        await self._stops_within(_POLL_MS / 1000)
                        continue
                    for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                        for record in records:
                            _deliver(partition, record, commits.of(partition), queues)
                emptied = tasks.create_task(_emptied(queues))
                # ... or a sink's task ends: a second stop cancels them all
                await asyncio.wait({emptied, *feeding}, timeout=_GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                emptied.cancel()
            finally:
                committing.cancel()
                self._abandon()
        await commits.commit()


@dataclass(slots=True)
class _Delivery:
    """An alert on its way, and how many sinks have not taken it yet."""

    alert: Alert
    partition: TopicPartition
    offset: int
    offsets: Offsets
    missing: int

    def taken(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.offsets.done(self.offset)


def _deliver(
    partition: TopicPartition, record: ConsumerRecord, offsets: Offsets, queues: Sequence["asyncio.Queue[_Delivery]"]
) -> None:
    offsets.start(record.offset)
    try:
        alert = Alert.of(record)
    except ValueError as error:
        log.warning("no alert", topic=record.topic, offset=record.offset, error=str(error))
        offsets.done(record.offset)
        return
    delivery = _Delivery(alert, partition, record.offset, offsets, missing=len(queues))
    for queue in queues:
        queue.put_nowait(delivery)


async def _emptied(queues: Sequence["asyncio.Queue[_Delivery]"]) -> None:
    for queue in queues:
        await queue.join()


async def _feed(sink: Sink, queue: "asyncio.Queue[_Delivery]", commits: Commits) -> None:
    while True:
        delivery = await queue.get()
        if commits.of(delivery.partition) is delivery.offsets:  # else it was read again after a rebalance
            await sink.take(delivery.alert)
        delivery.taken()
        queue.task_done()
