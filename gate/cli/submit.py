"""`gate submit`."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from cyclopts import Group, Parameter
from cyclopts.validators import Number, mutually_exclusive

from gate import tracing
from gate.cli.client import Client, Duration, Flag, Seconds, Service, log_to_stderr, read_seconds, say
from gate.cli.output import tell
from gate.cli.times import is_moment, moment
from gate.client import Pacer
from gate.errors import GateError
from gate.files import NotAFileError, open_regular
from gate.kafka.connect import running
from gate.kafka.topic_creation import TopicSpec
from gate.progress import bar
from gate.protocol.headers import COST, DEADLINE, MAX_COST, PRIORITY, START, TENANT, Malformed, read_options

_LONGEST_LINE: Final = 32 << 20  # bytes; what no broker takes must not fill the memory
_PATIENCE_SECONDS: Final = 30.0  # without any acknowledgement for so long, the broker counts as gone
_BATCH_BYTES: Final = 256 << 10
_INT32_MAX: Final = 2**31 - 1
_CHUNK: Final = 1 << 16
_CHUNKS_AHEAD: Final = 8
_START: Final = ("Parameters", Group(validator=mutually_exclusive))


def _is_readable_by_the_gate(header: str, _type: Any, value: str | None) -> None:
    if value is not None and isinstance(options := read_options([(header, value.encode())]), Malformed):
        raise ValueError(str(options))


def submit(
    service: Service,
    file: Path | None = None,
    *,
    count: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    rate: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    pace: Flag = False,
    max_wait: Seconds | None = None,
    priority: Annotated[str | None, Parameter(validator=partial(_is_readable_by_the_gate, PRIORITY))] = None,
    tenant: Annotated[str | None, Parameter(validator=partial(_is_readable_by_the_gate, TENANT))] = None,
    cost: Annotated[int | None, Parameter(validator=Number(gte=1, lte=MAX_COST))] = None,
    deadline: Annotated[Seconds | None, Parameter(validator=Number(gt=0, lt=10**9))] = None,
    at: Annotated[str | None, Parameter(group=_START, validator=is_moment)] = None,
    in_: Annotated[Duration | None, Parameter(name="--in", group=_START, converter=read_seconds)] = None,
    partitions: Annotated[int, Parameter(validator=Number(gte=1, lte=10_000))] = 4,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Submit requests: one per line of FILE or stdin, or generated ones.

    Creates the service's request topic if it is missing. Ends well only when the broker has acknowledged every request.
    Empty lines are left out.

    Example: `gate submit payments --count 1000 --rate 200 --priority batch`

    Example: `gate submit reports items.jsonl --pace --max-wait 60`

    Example: `gate submit reports items.jsonl --at "tomorrow 9:00"`

    Parameters
    ----------
    service
        Whose requests these are.
    file
        One request per line; `-` is stdin, as is no FILE without --count.
    count
        Submit so many generated requests; with FILE, so many lines of it at most.
    rate
        Requests per second; by default as fast as the broker takes them.
    pace
        Go no faster than a running gate admits, so that a request waits for --max-wait at most.
    max_wait
        30s unless said. Implies --pace.
    priority
        Lane.
    tenant
        On whose behalf.
    cost
        Units that each request takes of the limits.
    deadline
        After how long from now an admission is of no use.
    at
        Not before then: 18:30, "tomorrow 9:00", or 2026-01-31T18:30:00Z; without an offset in local time.
    in_
        Not before so long from now: 90s, 15m, 1.5h, 30d.
    partitions
        Of the request topic, if it has to be created.
    json
        Print one JSON object: service, topic, submitted, seconds, per_second.
    """
    log_to_stderr()
    tracing.start("gate submit")
    options = {PRIORITY: priority, TENANT: tenant, COST: None if cost is None else str(cost)}
    headers = [(name, value.encode()) for name, value in options.items() if value is not None]
    if at is not None or in_ is not None:
        headers.append((START, _start(at, in_)))
    if count is not None and file is None:
        requests = _generated(count)
    else:
        requests = _limited(_lines_of_stdin() if file is None or file == Path("-") else _lines_of(file), count)
    client = client or Client()
    pacer = None
    if pace or max_wait is not None:
        pacer = Pacer(client.connection, service, max_wait=max_wait, priority=priority, cost=cost or 1)
    requests = _paced(requests, rate)
    asyncio.run(_submit(client, service, requests, headers, deadline, partitions, count, pacer, json=json))


async def _submit(
    client: Client,
    service: str,
    requests: AsyncIterator[bytes],
    headers: list[tuple[str, bytes]],
    deadline: float | None,
    partitions: int,
    total: int | None,
    pacer: Pacer | None,
    *,
    json: bool,
) -> None:
    await client.reach()
    topic = client.names.requests(service)
    async with client.cluster() as cluster:
        if topic not in await cluster.partitions():
            await cluster.ensure(TopicSpec(topic, partitions, {}))
            say(f"created topic {topic} with {partitions} partitions")
    producer = AIOKafkaProducer(
        **client.connection.access(),
        enable_idempotence=True,  # with acks from all replicas; a repeated send is one request
        linger_ms=5,
        max_batch_size=_BATCH_BYTES,
        max_request_size=_INT32_MAX,  # the broker's limit is the one that counts
    )
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(producer))
        if pacer is not None:
            requests = (await stack.enter_async_context(pacer)).pace(requests)
        sender = _Sender(producer, client.connection.bootstrap, topic)
        with bar("submitted", total) as update:

            def show(acknowledged: int) -> None:
                update(acknowledged, pacer.eta_seconds(total - pacer.released) if pacer and total else None)

            async for request in requests:
                stamped = headers if deadline is None else [*headers, (DEADLINE, _unix_ms(deadline))]
                with tracing.sending(topic, stamped) as traced:
                    await sender.send(request, traced)
                show(sender.acknowledged)
            await sender.finish(show)
    seconds = time.monotonic() - started
    sent = sender.acknowledged
    rate = sent / max(seconds, 1e-3)
    text = f"submitted {sent} requests to {topic} in {seconds:.2f} s ({rate:.0f}/s)"
    told = {"service": service, "topic": topic, "submitted": sent, "seconds": seconds, "per_second": rate}
    tell(text, json=json, **told)


class _Sender:
    """Sends without waiting for each acknowledgement, and counts them."""

    def __init__(self, producer: AIOKafkaProducer, bootstrap: str, topic: str) -> None:
        self._producer = producer
        self._bootstrap = bootstrap
        self._topic = topic
        self._sent = 0
        self._settled = asyncio.Event()
        self._failure: GateError | None = None
        self.acknowledged = 0

    async def send(self, request: bytes, headers: Sequence[tuple[str, bytes | None]]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                future = await self._producer.send(self._topic, request, headers=list(headers))
        except TimeoutError:
            raise self._gone() from None
        self._sent += 1
        future.add_done_callback(partial(self._settle, self._sent, len(request)))

    async def finish(self, show: Callable[[int], None]) -> None:
        """Return when all is acknowledged."""
        while self.acknowledged < self._sent:
            if self._failure is not None:
                raise self._failure
            show(self.acknowledged)
            self._settled.clear()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                raise self._gone() from None

    def _settle(self, number: int, size: int, future: "asyncio.Future[Any]") -> None:
        self._settled.set()
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self.acknowledged += 1
        elif self._failure is None and isinstance(error, MessageSizeTooLargeError):
            self._failure = GateError(
                f"request {number} has {size} bytes, more than the broker takes; {self.acknowledged} were submitted",
                hint=f"raise max.message.bytes of {self._topic}, or split it",
            )
        elif self._failure is None:
            self._failure = GateError(
                f"request {number} failed: {error}; {self.acknowledged} were submitted", hint=_AGAIN
            )

    def _gone(self) -> GateError:
        return GateError(
            f"the broker at {self._bootstrap} stopped answering: "
            f"{self.acknowledged} of {self._sent} requests are submitted",
            hint=_AGAIN,
        )


_AGAIN: Final = "submit the others again; those without an acknowledgement may have arrived nevertheless"


async def _generated(count: int) -> AsyncIterator[bytes]:
    for number in range(1, count + 1):
        yield b'{"number": %d}' % number


def _check_length(line: bytes | bytearray, number: int) -> None:
    if len(line) > _LONGEST_LINE:
        raise GateError(
            f"line {number} is longer than {_LONGEST_LINE >> 20} MiB, hence no request",
            hint="write one request per line; those before it are submitted",
        )


async def _lines_of(file: Path) -> AsyncIterator[bytes]:
    try:
        with open_regular(file) as lines:
            number = 0
            while line := lines.readline(_LONGEST_LINE + 1):
                number += 1
                _check_length(line, number)
                if request := line.rstrip(b"\r\n"):
                    yield request
    except NotAFileError:
        raise GateError(
            f"{file} is no regular file", hint=f"leave FILE out and pipe it in: gate submit SERVICE < {file}"
        ) from None
    except OSError as error:
        raise GateError(f"cannot read {file}: {error.strerror}") from error


async def _lines_of_stdin() -> AsyncIterator[bytes]:
    """Yield lines as they come. A thread of our own reads them: asyncio would wait at the end for one that blocks."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_AHEAD)

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            while chunk := os.read(sys.stdin.fileno(), _CHUNK):
                room.acquire()
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            loop.call_soon_threadsafe(chunks.put_nowait, b"")

    if sys.stdin.isatty():
        say("reading requests from the terminal, one per line; Ctrl-D ends")
    threading.Thread(target=read, daemon=True).start()
    begun = bytearray()  # the line that goes on in the next chunk; grown in place, for it may come in very many
    number = 1
    while chunk := await chunks.get():
        room.release()
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            begun += end
            _check_length(begun, number)
            if request := bytes(begun).rstrip(b"\r"):
                yield request
            begun.clear()
            number += 1
        begun += rest
        _check_length(begun, number)
    if begun:
        yield bytes(begun)


async def _limited(requests: AsyncIterator[bytes], count: int | None) -> AsyncIterator[bytes]:
    left = count
    async for request in requests:
        yield request
        if left is not None:
            left -= 1
            if not left:
                return


async def _paced(requests: AsyncIterator[bytes], rate: float | None) -> AsyncIterator[bytes]:
    """Hold each request back until its time by the plan of `rate` per second; what came late is caught up."""
    loop = asyncio.get_running_loop()
    started, number = loop.time(), 0
    async for request in requests:
        if rate is not None:
            await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
        yield request
        number += 1


def _start(at: str | None, in_: float | None) -> bytes:
    """Return when requests may go at the earliest, unix ms."""
    now = datetime.now(UTC)
    then = now.timestamp() + (in_ or 0.0) if at is None else moment(at, now).timestamp()
    value, given = b"%d" % int(then * 1000), f"{in_:g} s" if at is None else at
    if then <= now.timestamp():
        raise GateError(f"{given} is over already", hint="give a time to come, or neither --at nor --in")
    if isinstance(options := read_options([(START, value)]), Malformed):
        raise GateError(f"{given} is too far ahead: {options}", hint="give a time before 2096")
    return value


def _unix_ms(seconds_from_now: float) -> bytes:
    return b"%d" % int((time.time() + seconds_from_now) * 1000)
