"""`gate tail`."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from json import dumps
from operator import attrgetter
from typing import Annotated, Final, Literal

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from cyclopts import Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Flag, OptionalService, log_to_stderr, say
from gate.client import Alert
from gate.kafka.connect import running
from gate.protocol.headers import ERROR, ERROR_ATTEMPTS, NOT_BEFORE, STAMP, Stamp, parse_stamp, stamped_retry_after
from gate.protocol.topics import Names
from gate.text import printable, timestamp

Kind = Literal["admitted", "delayed", "rejected", "alerts"]

_LOOK_SECONDS: Final = 1.0  # how often new topics are looked for
_POLL_MS: Final = 200
_VALUE_BYTES: Final = 200
_PART_CHARACTERS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tail(
    kind: Kind,
    service: OptionalService = None,
    *,
    json: Flag = False,
    from_beginning: Flag = False,
    max_records: Annotated[int | None, Parameter(name="--max", validator=Number(gte=1))] = None,
    client: Client | None = None,
) -> None:
    """Print records with the gate's stamps as they are committed, until interrupted.

    Shows the time of the decision, the request's id, why it was not plainly admitted and when it will be, key and
    value. Of jobs that workers gave up, among the rejected, it says `gave up`, after how many attempts, and the last
    error. Waits for topics that are not there yet.

    Example: `gate tail delayed payments --from-beginning --max 10`

    Parameters
    ----------
    kind
        What to print.
    service
        Only of this service.
    json
        Print one object per line: topic, partition, offset, timestamp_ms, service, stamp, retry_after, not_before_ms,
        given_up_after, key, value, headers. What is no UTF-8 text is an object with `base64`. Alerts are CloudEvents.
    from_beginning
        Begin with the oldest record. By default only what comes from now on is printed.
    max_records
        Stop after so many.
    """
    log_to_stderr()
    asyncio.run(_tail(client or Client(), kind, service, as_json=json, oldest=from_beginning, most=max_records))


async def _tail(
    client: Client, kind: Kind, service: str | None, *, as_json: bool, oldest: bool, most: int | None
) -> None:
    await client.reach()
    printed = 0
    async for record in _records(client, kind, service, oldest=oldest):
        if kind == "alerts":
            line = _alert_line(record, service, as_json=as_json)
        else:
            line = _Entry.of(record, client.names.service_of(record.topic, kind) or "", kind).line(as_json=as_json)
        if line is not None:
            print(line, flush=True)
            printed += 1
        if printed == most:
            return


async def _records(client: Client, kind: Kind, service: str | None, *, oldest: bool) -> AsyncIterator[ConsumerRecord]:
    """Yield the committed records of all topics of a kind for ever; new topics are read from their beginning."""
    consumer = AIOKafkaConsumer(**client.connection.access(), isolation_level="read_committed")
    loop = asyncio.get_running_loop()
    async with client.cluster() as cluster, running(consumer):
        from_end, look_at, silent = not oldest, loop.time(), False
        while True:
            if loop.time() >= look_at:
                wanted = _wanted(client.names, kind, service, await cluster.partitions())
                await _follow(consumer, wanted, from_end=from_end)
                if not wanted and not silent:
                    say(f"there is no topic {_topic(client.names, kind, service or '*')} yet; waiting for it")
                from_end, look_at, silent = False, loop.time() + _LOOK_SECONDS, True
            if not consumer.assignment():
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
            for record in sorted(chain.from_iterable(batches.values()), key=attrgetter("timestamp")):
                yield record


def _topic(names: Names, kind: Kind, service: str) -> str:
    return names.alerts if kind == "alerts" else str(getattr(names, kind)(service))


def _wanted(names: Names, kind: Kind, service: str | None, there: Mapping[str, int]) -> set[TopicPartition]:
    if kind == "alerts" or service is not None:
        topics = [_topic(names, kind, service or "")]
    else:
        topics = [topic for topic in there if names.service_of(topic, kind) is not None]
    return {TopicPartition(topic, number) for topic in topics for number in range(there.get(topic, 0))}


async def _follow(consumer: AIOKafkaConsumer, wanted: set[TopicPartition], *, from_end: bool) -> None:
    """Read `wanted`: on from where we are, new partitions from their end or beginning."""
    known = consumer.assignment()
    if wanted == known:
        return
    positions = {partition: await consumer.position(partition) for partition in known & wanted}
    consumer.assign(wanted)
    for partition, position in positions.items():
        consumer.seek(partition, position)
    if new := wanted - known:
        await (consumer.seek_to_end if from_end else consumer.seek_to_beginning)(*new)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record with the gate's headers read."""

    record: ConsumerRecord
    service: str
    stamp: Stamp | None
    retry_after_s: int | None
    not_before_ms: int | None
    error: str | None
    attempts: int | None  # of a job that workers gave up; None: it is none

    @classmethod
    def of(cls, record: ConsumerRecord, service: str, kind: Kind) -> "_Entry":
        headers = {name: value for name, value in record.headers if value is not None}
        try:
            stamp = parse_stamp(headers[STAMP]) if STAMP in headers else None
        except ValueError:
            stamp = None  # somebody else wrote it
        error = headers[ERROR].decode(errors="replace") if ERROR in headers else None
        wait = _integer(stamped_retry_after(record.headers))
        # a dead letter keeps the stamp by which it was admitted
        dead = kind == "rejected" and stamp is not None and stamp.verdict == "admitted"
        attempts = max(1, _integer(headers.get(ERROR_ATTEMPTS)) or 1) if dead else None
        return cls(record, service, stamp, wait, _integer(headers.get(NOT_BEFORE)), error, attempts)

    def line(self, *, as_json: bool) -> str:
        return self._json() if as_json else self._text()

    def _text(self) -> str:
        record, stamp, given_up = self.record, self.stamp, self.attempts is not None
        said = "gave up" if given_up else stamp.verdict if stamp else "-"
        parts = [_time(stamp.at_ms if stamp and not given_up else record.timestamp), f"{said:8}"]
        parts.append(stamp.id if stamp else f"{record.topic}-{record.partition}@{record.offset}")
        if stamp and stamp.reason:
            parts.append(f"{stamp.reason} ({stamp.limit})" if stamp.limit else stamp.reason)
        if self.not_before_ms is not None:
            parts.append(f"not before {_time(self.not_before_ms)}")
        if given_up:
            parts.append(f"after {self.attempts} attempt{'s' if self.attempts != 1 else ''}")
        elif stamp and stamp.attempt > 1:
            parts.append(f"attempt {stamp.attempt}")
        if self.error is not None:
            parts.append(self.error)
        if record.key is not None:
            parts.append(f"key={record.key.decode(errors='backslashreplace')}")
        parts.append("null" if record.value is None else record.value[:_VALUE_BYTES].decode(errors="backslashreplace"))
        return "  ".join(printable(part, _PART_CHARACTERS) for part in parts).rstrip()

    def _json(self) -> str:
        record = self.record
        return dumps(
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp_ms": record.timestamp,
                "service": self.service,
                "stamp": asdict(self.stamp) if self.stamp else None,
                "retry_after": self.retry_after_s,
                "not_before_ms": self.not_before_ms,
                "given_up_after": self.attempts,
                "key": _json_bytes(record.key),
                "value": _json_bytes(record.value),
                "headers": [[name, _json_bytes(value)] for name, value in record.headers],
            }
        )


def _alert_line(record: ConsumerRecord, service: str | None, *, as_json: bool) -> str | None:
    try:
        alert = Alert.of(record)
    except ValueError as error:
        say(f"record {record.offset} of {record.topic} is no alert: {error}")
        return None
    if service is not None and alert.service != service:
        return None
    return alert.to_json() if as_json else str(alert)


def _json_bytes(value: bytes | None) -> str | dict[str, str] | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value or b"").decode()}


def _integer(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None


def _time(ms: int) -> str:
    try:
        return timestamp(_EPOCH + timedelta(milliseconds=ms))
    except OverflowError:
        return f"{ms} ms"  # no calendar reaches that far
