"""The job client: it submits jobs, and has tickets told what becomes of them."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.errors import KafkaError

from gate import tracing
from gate.client._connection import CONNECT_TIMEOUT, PREFIX, connection, positive
from gate.client._errors import ArgumentError, NotConnectedError, UnknownServiceError
from gate.client._headers import ERROR_ATTEMPTS, last, number
from gate.client._jobs.matching import Matching
from gate.client._jobs.reader import Reader
from gate.client._jobs.ticket import Decision, JobFailedError, Ticket
from gate.client._outcome_writer import encode_result
from gate.client._sender import Header, Sender
from gate.config import Connection
from gate.errors import GateError
from gate.kafka.connect import running
from gate.kafka.request_search import RequestSearch
from gate.kafka.whereabouts import Standing
from gate.protocol.headers import (
    CLAIMED,
    COST,
    DEADLINE,
    ID,
    MAX_COST,
    PRIORITY,
    STAMP,
    START,
    TENANT,
    Malformed,
    read_options,
)

_SEARCHED_SECONDS: Final = 86_400.0  # back, for a producer's id
_RESERVED: Final = frozenset({COST, DEADLINE, ID, PRIORITY, STAMP, START, TENANT}) | CLAIMED


class SubmitError(GateError):
    """A request that the broker has not acknowledged. It may have arrived nevertheless."""


class JobClient:
    """Submits jobs and tells what becomes of them.

    Thousands of tickets share one consumer and one producer. Submit many at a time (`asyncio.gather`, a task group):
    each call waits for the broker's acknowledgement. To be used in the event loop in which it was entered.
    """

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        prefix: str = PREFIX,
        connect_timeout: float = CONNECT_TIMEOUT,
        submit_timeout: float = 30.0,
    ) -> None:
        positive(submit_timeout=submit_timeout)
        self._connection = connection(bootstrap, prefix, connect_timeout)
        self._bootstrap, self._names = self._connection.bootstrap, self._connection.names
        self._submit_timeout = submit_timeout
        self._sender = Sender(self._bootstrap, self._names)
        self._matching = Matching()
        self._stack = AsyncExitStack()
        self._reader: Reader | None = None
        self._broken: Exception | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises BrokerUnreachableError."""
        await self._connection.reach()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._sender.running())
            self._reader = Reader(self._bootstrap, self._names, self._sender.cluster, self._matching)
            await stack.enter_async_context(running(self._reader.consumer))
            reading = asyncio.create_task(self._reader.run(), name="job-client")
            reading.add_done_callback(self._ended)
            stack.push_async_callback(asyncio.wait, [reading])
            stack.callback(reading.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. Whoever still waits for a ticket gets a GateError."""
        await self._stack.aclose()

    async def submit(
        self,
        service: str,
        payload: object,
        *,
        key: bytes | str | None = None,
        priority: str | None = None,
        tenant: str | None = None,
        cost: int = 1,
        deadline: float | datetime | None = None,
        start: float | datetime | None = None,
        id: str | None = None,  # noqa: A002 - the contract's name
        headers: Mapping[str, bytes | str] | Iterable[Header] | None = None,
    ) -> Ticket:
        """Submit a job, and return when the broker has it.

        `payload` goes as it is if bytes, as UTF-8 if text, else as JSON. `key` keeps jobs in one partition and, where
        workers are told so, in order. `deadline` is seconds from now, or a time with an offset: after it the job is of
        no use, and is rejected. `start`, given likewise, is when it may go at the earliest, even years ahead: until
        then it takes nobody's turn. `id` is your own, passed on and not looked at; the gate's is `Ticket.id`.

        Raises ArgumentError for what the gate would refuse to read, UnknownServiceError, TooLargeError, and SubmitError
        where the broker does not acknowledge it in time.
        """
        if self._reader is None:
            raise NotConnectedError("JobClient")
        self._names.check_service_name(service)
        record = _headers(headers, priority, tenant, cost, deadline, start, id)
        value, raw_key = encode_result(payload), key.encode() if isinstance(key, str) else key
        topic = self._names.requests(service)
        try:
            if not await self._reader.follow(service):
                raise UnknownServiceError(
                    f"there is no service {service}: the topic {topic} is missing",
                    hint=f"check the name, or create the topic, for example with `gate submit {service} --count 1`",
                )
            if self._broken is not None:
                raise self._broken
            with self._matching.submission():
                with tracing.sending(topic, record) as traced:
                    placed = await self._sender.send(topic, value, raw_key, traced, seconds=self._submit_timeout)
                return self._matching.open(service, f"{topic}-{placed.partition}@{placed.offset}")
        except (KafkaError, TimeoutError) as error:
            why = str(error) or f"no answer within {self._submit_timeout:g} s"
            raise SubmitError(
                f"the broker at {self._bootstrap} did not acknowledge a request for {service}: {why}",
                hint="it may have arrived nevertheless; submit it again if doing it twice does no harm",
            ) from error

    async def ticket(self, request: str, *, service: str | None = None) -> Ticket:
        """Return the ticket of a job that anybody submitted, at any time, with what was decided about it so far.

        `request` is the gate's id of it, or its producer's: then the newest of the last day, of `service` or of any.
        It costs some reads of each of the service's topics, and of a job that has waited also what was admitted to its
        partition meanwhile, 200,000 records at the most. A result that came before is looked for from the admission
        on, and then from now backwards, as many records each; one beyond these is not found. Of a retry, or of what was
        put back, it is the ticket of the job: its `id` is that of the first request.

        Raises UnknownRequestError, and GateError where the broker does not answer.
        """
        if self._reader is None:
            raise NotConnectedError("JobClient")
        group, since_ms = self._connection.group_id, max(0, int((time.time() - _SEARCHED_SECONDS) * 1000))
        try:
            async with RequestSearch.connected(self._names, group, **self._connection.access()) as search:
                known = await search.find(request, service, since_ms)
                await self._reader.follow(known.service)
                if self._broken is not None:
                    raise self._broken
                ticket = self._matching.open(known.service, known.origin or known.id)
                found = await search.find(known.id)  # what was decided until it was followed
                result = await search.result(found)
        except (KafkaError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise GateError(f"looking for {request} at {self._bootstrap} failed: {why}") from error
        for headers in found.decisions:
            decision = Decision.of(headers)
            if found.standing is Standing.GIVEN_UP and headers is found.decisions[-1]:
                attempts = number(last(headers, ERROR_ATTEMPTS)) or 1
                ticket.take(JobFailedError(found.id, decision.error or "", attempts))
            else:
                ticket.take(decision)
        if result is not None:
            ticket.take(result)
        return ticket

    def _ended(self, reading: "asyncio.Task[Any]") -> None:
        error = None if reading.cancelled() else reading.exception()
        why = "the client is closed" if error is None else f"the client can't read on: {error!r}"
        self._broken = GateError(why, hint="enter a new one; requests that were submitted go their way")
        self._matching.break_off(self._broken)


def _headers(
    own: Mapping[str, bytes | str] | Iterable[Header] | None,
    priority: str | None,
    tenant: str | None,
    cost: int,
    deadline: float | datetime | None,
    start: float | datetime | None,
    id: str | None,  # noqa: A002
) -> list[Header]:
    """Return the headers of a request. Raises ArgumentError."""
    pairs = own.items() if isinstance(own, Mapping) else own or ()
    headers: list[Header] = [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
    if taken := sorted({name for name, _ in headers} & _RESERVED):
        raise ArgumentError(
            f"the headers {', '.join(taken)} have a meaning of their own", hint="use the parameters of `submit`"
        )
    if not 1 <= cost <= MAX_COST:
        raise ArgumentError(f"cost is {cost}", hint=f"it must be from 1 to {MAX_COST}")
    options = {PRIORITY: priority, TENANT: tenant, ID: id, COST: None if cost == 1 else str(cost)}
    headers += [(name, text.encode()) for name, text in options.items() if text is not None]
    if deadline is not None:
        headers.append((DEADLINE, b"%d" % _unix_ms("deadline", deadline)))
    if start is not None:
        headers.append((START, b"%d" % _unix_ms("start", start)))
    if isinstance(wrong := read_options(headers), Malformed):
        raise ArgumentError(str(wrong), hint="the gate would reject it as malformed")
    return headers


def _unix_ms(name: str, time_: float | datetime) -> int:
    if isinstance(time_, datetime):
        if time_.tzinfo is None:
            raise ArgumentError(f"{name} {time_} has no offset from UTC", hint="give it one, or seconds from now")
        return int(time_.timestamp() * 1000)
    if not 0 < time_ < 10**9:
        raise ArgumentError(f"{name} is {time_} seconds from now", hint="give more than 0 and less than 10**9")
    return int((time.time() + time_) * 1000)
