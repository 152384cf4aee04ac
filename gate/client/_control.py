"""Operators' commands from Python: pause a service or a tenant and resume it, set limits, and act on what waits.

>>> async def maintenance() -> None:
...     async with GateControl("localhost:9092") as gate:
...         await gate.pause("payments", for_=900, reason="the bank is down")
...         await gate.cancel("payments", Filter(tenant="acme"), reason="they have left us")
...         await gate.resume("payments")
"""

import asyncio
import getpass
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from itertools import islice
from math import inf
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate.client._answers import Answers
from gate.client._background import Twin
from gate.client._connection import CONNECT_TIMEOUT, PREFIX, connection
from gate.client._errors import ArgumentError, NotConnectedError, UnknownServiceError
from gate.client._filter import Filter
from gate.client._import import as_limits, parts_of
from gate.client._policies import ServiceLimits, read_limits
from gate.config import Connection
from gate.errors import GateError
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running
from gate.protocol import control
from gate.protocol.answers import Answer
from gate.protocol.headers import TENANT, Malformed, read_options
from gate.protocol.policies import GROUP, LiveLimit, group_of

_DEADLINE: Final = 10.0
_POLL_MS: Final = 200
_BROKER_DEFAULT: Final = -1  # replication factor
_PARTS_AT_ONCE: Final = 8  # of an import, under way to the broker
_NAMED: Final = 20  # services, to somebody who named another
_TIMES: Final = "give a time with an offset from UTC, as datetime.now(UTC) has it, or seconds with for_="


class GateControl:
    """Writes commands to the control topic, from which every gate takes them.

    `pause` and `resume` return the command's id when the broker has the command; gates heed it within a second.
    Commands on what waits are followed to their end. `who` is what the audit calls the sender; USER@HOST unless said.
    Only operators should be allowed to write there, by the broker's ACLs.
    """

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        prefix: str = PREFIX,
        connect_timeout: float = CONNECT_TIMEOUT,
        who: str = "",
    ) -> None:
        self._connection = connection(bootstrap, prefix, connect_timeout)
        self._who = who or _sender()
        self._stack = AsyncExitStack()
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises BrokerUnreachableError, and GateError where no gate has made the control topic."""
        await self._connection.reach()
        options = self._connection.access()
        async with AsyncExitStack() as stack:
            cluster = Cluster(self._connection.names, create=False, replication_factor=_BROKER_DEFAULT, **options)
            stack.push_async_callback(cluster.close)
            try:
                await cluster.start()
                await self._check_topic(await cluster.partitions())
            except (KafkaError, TimeoutError) as error:
                raise self._failed("asking", error) from error
            producer = AIOKafkaProducer(**options, enable_idempotence=True)
            await stack.enter_async_context(running(producer))
            self._cluster, self._producer = cluster, producer
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._producer = None
        await self._stack.aclose()

    async def pause(
        self,
        service: str,
        *,
        until: datetime | None = None,
        for_: float | timedelta | None = None,
        tenant: str = "",
        reason: str = "",
        command_id: str = "",
    ) -> str:
        """Let the gate admit nothing of a service, or of one of its tenants; without an end, until it is resumed.

        `for_` is seconds or a timedelta. What comes meanwhile waits, as under any limit. Of several pauses the longest
        counts. A command that is sent again with the same `command_id` is carried out once. Raises ArgumentError for an
        end that is over, UnknownServiceError, and GateError where the broker does not take it.
        """
        until_ms = _end_ms(until, for_, time.time())
        command = control.PauseUntil(until_ms, _checked(tenant), service)
        return await self._command(service, command, reason, _known(command_id))

    async def resume(self, service: str, *, tenant: str = "", reason: str = "", command_id: str = "") -> str:
        """End the pause of a service, or of one of its tenants, now. Raises as `pause` does."""
        return await self._command(service, control.Resume(_checked(tenant), service), reason, _known(command_id))

    async def cancel(
        self,
        service: str,
        which: Filter,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Have requests that wait rejected, with `reason=cancelled`; they take nothing of the limits.

        Returns the last answer when all is done; `on_answer` is given each, with how far it is. With `dry_run` they
        are only counted. A command that is sent again with the same `command_id` is carried out once; who stops waiting
        stops nothing. Raises ArgumentError, UnknownServiceError, CommandRefusedError where nothing fits, and GateError.
        """
        if not (reason or dry_run):
            raise ArgumentError("what is cancelled is lost, and no reason is given", hint="say why: reason='...'")
        command = control.Cancel(service, which.encode(), dry_run)
        return await self._followed(service, command, reason, command_id, on_answer)

    async def move(
        self,
        service: str,
        which: Filter,
        lane: str,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Put requests that wait into another lane, each where it would be had it come there; else as `cancel`."""
        command = control.Move(service, which.encode(), lane, dry_run)
        return await self._followed(service, command, reason, command_id, on_answer)

    async def expedite(
        self,
        service: str,
        which: Filter,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Let requests that wait go next, ahead of all others, charged as always; else as `cancel`.

        Those that wait for a `gate-start` are not meant: they may not go yet.
        """
        command = control.Expedite(service, which.encode(), dry_run)
        return await self._followed(service, command, reason, command_id, on_answer)

    async def redrive(
        self,
        service: str,
        which: Filter,
        source: str = "",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Put what was rejected, dead letters among it, or the records of topic `source`, back into the service.

        Each as it was, with a new id; its stamp names the first one as `origin`. Only records dated from `since` on
        and before `until`, by Kafka's timestamp. Else as `cancel`.
        """
        since_ms, until_ms = _moment_ms("since", since), _moment_ms("until", until)
        command = control.Redrive(service, which.encode(), source, since_ms, until_ms, dry_run)
        return await self._followed(service, command, reason, command_id, on_answer)

    async def abort(self, service: str, command_id: str, *, reason: str = "", abort_id: str = "") -> Answer:
        """Have no more of a command carried out; what is done stays done.

        `abort_id` is the id of this command itself, so that it may be sent again. Raises CommandRefusedError if that
        one is over.
        """
        return await self._followed(service, control.Abort(service, command_id), reason, abort_id, None)

    async def set_limit(
        self,
        service: str = "",
        *,
        group: str = "",
        requests_per_second: float | str | None = None,
        burst_size: int | None = None,
        window_size: float | str | None = None,
        window_limit: int | None = None,
        max_running: int | None = None,
        quotas: str | None = None,
        windows: str | None = None,
        tenant: str = "",
        for_: float | timedelta | None = None,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
    ) -> Answer:
        """Set what a service, one of its tenants, or a group may use, over the policy file; it holds when this returns.

        With `group` in place of the service it is what the services of that group may use together.
        `tenant` may be `default`, or a glob, as in the policy file: then it stands for many. `quotas` are spelt as in
        "5000/day, 100000/month Europe/Berlin"; "none": none of them. `windows`, beside that of `window_size`, are spelt
        as in "20/1s, 5000/1d"; of two of one size the lower counts. What is not given is as the file says, also where
        something was set for it before. A rate of 0 blocks: what comes is rejected or held, or waits where `for_` says
        until when. After `for_` (seconds or a timedelta) the file holds again. `if_version`: refused unless the limits
        are at that version. The answer's `version` is the new one. Raises ArgumentError, UnknownServiceError,
        CommandRefusedError and GateError.
        """
        limit = LiveLimit(
            None if requests_per_second is None else str(requests_per_second), burst_size,
            None if window_size is None else str(window_size), window_limit, max_running=max_running, quotas=quotas,
            windows=windows,
        )  # fmt: skip
        if not limit.says:
            raise ArgumentError("no limit is given", hint="give at least one, as in requests_per_second=50")
        subject = _subject(service, group, of_tenants=bool(tenant))
        command = control.SetLimit(subject, limit, tenant, _length_ms(for_), if_version)
        try:
            control.decode(control.encode(command))  # what no gate could read, none would answer
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        return await self._followed(subject, command, reason, command_id, None)

    async def clear_limit(
        self,
        service: str = "",
        *,
        group: str = "",
        tenant: str = "",
        everything: bool = False,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
    ) -> Answer:
        """Let hold again what the policy file says of a service, one of its tenants, or a group; else as `set_limit`.

        With `everything` also of all its tenants. Raises CommandRefusedError where nothing is set.
        """
        if tenant and everything:
            raise ArgumentError("a tenant and everything are given", hint="leave one of them out")
        subject = _subject(service, group, of_tenants=bool(tenant) or everything)
        command = control.ClearLimit(subject, tenant, everything, if_version)
        return await self._followed(subject, command, reason, command_id, None)

    async def import_limits(
        self,
        service: str,
        tenants: Mapping[str, LiveLimit] | Iterable[tuple[str, LiveLimit]],
        *,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Set the limits of all tenants of a service, up to millions: these and no others, as a whole or not at all.

        Returns when they are in force and published; `on_answer` is given each answer, with how far it is. Else as
        `set_limit`. CommandRefusedError says which row is wrong; then nothing has changed.
        """
        if self._producer is None:
            raise NotConnectedError("GateControl")
        known = _known(command_id) or uuid.uuid4().hex
        limits = as_limits(tenants.items() if isinstance(tenants, Mapping) else tenants)
        offsets: list[int] = []
        try:
            await self._check_service(service)
            for parts in batched(parts_of(known, limits), _PARTS_AT_ONCE):
                offsets += await self._send_parts(known, parts)
        except (KafkaError, TimeoutError) as error:
            raise self._failed("sending limits to", error) from error
        command = control.ImportLimits(service, offsets, len(limits), if_version)
        return await self._followed(service, command, reason, known, on_answer)

    async def _send_parts(self, known: str, parts: Sequence[bytes]) -> list[int]:
        assert self._producer is not None
        topic, headers = self._connection.names.control, [(control.PART, b"1")]
        async with asyncio.timeout(_DEADLINE):
            sent = [
                await self._producer.send(topic, part, known.encode(), partition=0, headers=headers) for part in parts
            ]
            return [record.offset for record in await asyncio.gather(*sent)]

    async def limits(self, service: str = "", *, group: str = "") -> ServiceLimits:
        """Return what is set live for a service and its tenants, or for a group.

        Raises ArgumentError, UnknownServiceError and GateError.
        """
        if self._producer is None:
            raise NotConnectedError("GateControl")
        service = _subject(service, group)
        try:
            await self._check_service(service)
        except (KafkaError, TimeoutError) as error:
            raise self._failed("asking", error) from error
        return (await self._limits(service)).get(service, ServiceLimits(service))

    async def all_limits(self) -> dict[str, ServiceLimits]:
        """Return what is set live, by service, and of groups by group:NAME. Raises GateError."""
        return await self._limits(None)

    async def _limits(self, service: str | None) -> dict[str, ServiceLimits]:
        if self._producer is None:
            raise NotConnectedError("GateControl")
        try:
            if self._connection.names.policies not in await self._cluster.partitions():
                return {}
            return await read_limits(self._connection, service)
        except (KafkaError, TimeoutError) as error:
            raise self._failed("reading limits from", error) from error

    async def _followed(
        self,
        service: str,
        command: control.Command,
        reason: str,
        known: str,
        told: Callable[[Answer], object] | None,
    ) -> Answer:
        if self._producer is None:
            raise NotConnectedError("GateControl")
        known = _known(known)
        try:
            if self._connection.names.answers not in await self._cluster.partitions():
                topic = self._connection.names.answers
                raise GateError(f"there is no topic {topic}: the gates are of an earlier version", hint="upgrade them")
            async with Answers.following(self._connection) as answers:
                known = await self._command(service, command, reason, known)
                return await answers.wait_for(service, command, known, told)
        except (KafkaError, TimeoutError) as error:
            raise self._failed("waiting for an answer of", error) from error

    async def _command(self, service: str, command: control.Command, reason: str, known: str = "") -> str:
        if self._producer is None:
            raise NotConnectedError("GateControl")
        known = known or uuid.uuid4().hex
        headers = [(control.BY, control.OPERATOR), (control.WHO, self._who.encode())]
        if reason:
            headers.append((control.REASON, reason.encode()))
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._check_service(service)
                await self._producer.send_and_wait(
                    self._connection.names.control, control.encode(command), known.encode(), partition=0,
                    headers=headers,
                )  # fmt: skip
        except (KafkaError, TimeoutError) as error:
            raise self._failed("giving a command to", error) from error
        return known

    async def _check_topic(self, there: Mapping[str, int]) -> None:
        topic = self._connection.names.control
        if topic not in there:
            raise GateError(f"there is no topic {topic}: no gate has run with this prefix", hint="start one: gate run")

    async def _check_service(self, service: str) -> None:
        """Raise UnknownServiceError for a service of which no gate would take a command."""
        if group_of(service) is not None:
            return  # its owner knows the groups of the policy file
        names = self._connection.names
        there = await self._cluster.partitions()
        services = {name for topic in there if (name := names.service_of(topic)) is not None}
        if service not in services and names.usage in there:  # request topics may be spelt in a way of their own
            services |= await self._published()
        if service in services:
            return
        known = sorted(services)
        more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        told = f"known are {', '.join(known[:_NAMED])}{more}" if known else "there is none yet"
        raise UnknownServiceError(
            f"there is no service {service!r}; {told}", hint=f"check the name; it needs {names.requests(service)}"
        )

    async def _published(self) -> set[str]:
        """Return the services of which gates have published a usage."""
        partition = TopicPartition(self._connection.names.usage, 0)  # the only one that gates write to
        there: dict[str, bool] = {}
        options = self._connection.access()
        # The first position is the reset's: a seek to the beginning would race with one to the end
        async with running(AIOKafkaConsumer(**options, auto_offset_reset="earliest")) as consumer:
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            while await consumer.position(partition) < end:
                for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    there |= {record.key.decode(): record.value is not None for record in records if record.key}
        return {service for service, is_there in there.items() if is_there}

    def _failed(self, doing: str, error: Exception) -> GateError:
        why = str(error) or f"no answer within {_DEADLINE:g} s"
        return GateError(
            f"{doing} the broker at {self._connection.bootstrap} failed: {why}", hint="see `gate doctor`, and try again"
        )


def batched(parts: Iterable[bytes], count: int) -> Iterator[list[bytes]]:
    """Yield some of the parts at a time."""
    rest = iter(parts)
    while some := list(islice(rest, count)):
        yield some


class SyncGateControl(Twin[GateControl]):
    """`GateControl` for programs without an event loop: `with SyncGateControl(...) as gate: gate.pause("payments")`."""

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        prefix: str = PREFIX,
        connect_timeout: float = CONNECT_TIMEOUT,
        who: str = "",
    ) -> None:
        super().__init__(GateControl(bootstrap, prefix=prefix, connect_timeout=connect_timeout, who=who))

    def pause(
        self,
        service: str,
        *,
        until: datetime | None = None,
        for_: float | timedelta | None = None,
        tenant: str = "",
        reason: str = "",
        command_id: str = "",
    ) -> str:
        """Pause a service, or one of its tenants; as `GateControl.pause`."""
        return self._background.run(
            self._inner.pause(service, until=until, for_=for_, tenant=tenant, reason=reason, command_id=command_id)
        )

    def resume(self, service: str, *, tenant: str = "", reason: str = "", command_id: str = "") -> str:
        """End a pause now; as `GateControl.resume`."""
        return self._background.run(self._inner.resume(service, tenant=tenant, reason=reason, command_id=command_id))

    def cancel(
        self,
        service: str,
        which: Filter,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Have requests that wait rejected; as `GateControl.cancel`."""
        return self._background.run(
            self._inner.cancel(
                service, which, reason=reason, dry_run=dry_run, command_id=command_id, on_answer=on_answer
            )
        )

    def move(
        self,
        service: str,
        which: Filter,
        lane: str,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Put requests that wait into another lane; as `GateControl.move`."""
        return self._background.run(
            self._inner.move(
                service, which, lane, reason=reason, dry_run=dry_run, command_id=command_id, on_answer=on_answer
            )
        )

    def expedite(
        self,
        service: str,
        which: Filter,
        *,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Let requests that wait go next; as `GateControl.expedite`."""
        return self._background.run(
            self._inner.expedite(
                service, which, reason=reason, dry_run=dry_run, command_id=command_id, on_answer=on_answer
            )
        )

    def redrive(
        self,
        service: str,
        which: Filter,
        source: str = "",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        reason: str = "",
        dry_run: bool = False,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Put what was rejected, or the records of a topic, back into the service; as `GateControl.redrive`."""
        return self._background.run(
            self._inner.redrive(
                service, which, source, since=since, until=until, reason=reason, dry_run=dry_run,
                command_id=command_id, on_answer=on_answer,
            )
        )  # fmt: skip

    def abort(self, service: str, command_id: str, *, reason: str = "", abort_id: str = "") -> Answer:
        """Have no more of a command carried out; as `GateControl.abort`."""
        return self._background.run(self._inner.abort(service, command_id, reason=reason, abort_id=abort_id))

    def set_limit(
        self,
        service: str = "",
        *,
        group: str = "",
        requests_per_second: float | str | None = None,
        burst_size: int | None = None,
        window_size: float | str | None = None,
        window_limit: int | None = None,
        max_running: int | None = None,
        quotas: str | None = None,
        windows: str | None = None,
        tenant: str = "",
        for_: float | timedelta | None = None,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
    ) -> Answer:
        """Set what a service, one of its tenants, or a group, may use; as `GateControl.set_limit`."""
        return self._background.run(
            self._inner.set_limit(
                service, group=group, requests_per_second=requests_per_second, burst_size=burst_size,
                window_size=window_size, window_limit=window_limit, max_running=max_running, quotas=quotas,
                windows=windows, tenant=tenant, for_=for_, reason=reason, if_version=if_version, command_id=command_id,
            )
        )  # fmt: skip

    def clear_limit(
        self,
        service: str = "",
        *,
        group: str = "",
        tenant: str = "",
        everything: bool = False,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
    ) -> Answer:
        """Let hold again what the policy file says; as `GateControl.clear_limit`."""
        return self._background.run(
            self._inner.clear_limit(
                service, group=group, tenant=tenant, everything=everything, reason=reason, if_version=if_version,
                command_id=command_id,
            )
        )  # fmt: skip

    def import_limits(
        self,
        service: str,
        tenants: Mapping[str, LiveLimit] | Iterable[tuple[str, LiveLimit]],
        *,
        reason: str = "",
        if_version: int | None = None,
        command_id: str = "",
        on_answer: Callable[[Answer], object] | None = None,
    ) -> Answer:
        """Set the limits of all tenants of a service; as `GateControl.import_limits`."""
        return self._background.run(
            self._inner.import_limits(
                service, tenants, reason=reason, if_version=if_version, command_id=command_id, on_answer=on_answer
            )
        )

    def limits(self, service: str = "", *, group: str = "") -> ServiceLimits:
        """Return what is set live for a service and its tenants, or for a group; as `GateControl.limits`."""
        return self._background.run(self._inner.limits(service, group=group))

    def all_limits(self) -> dict[str, ServiceLimits]:
        """Return what is set live, by service or group:NAME; as `GateControl.all_limits`."""
        return self._background.run(self._inner.all_limits())


def _subject(service: str, group: str, *, of_tenants: bool = False) -> str:
    """Return what a limit is of: a service, or a group as group:NAME. Raises ArgumentError."""
    if not group:
        if not service:
            raise ArgumentError("neither a service nor a group is named", hint="name one of them")
        return service
    if service or of_tenants:
        also = f"service {service!r}" if service else "tenants"
        raise ArgumentError(f"group {group!r} and {also} are given", hint="a limit of a group is of all its services")
    return f"{GROUP}{group}"


def _length_ms(for_: float | timedelta | None) -> int | None:
    """Return for how long something is to hold. Raises ArgumentError."""
    if for_ is None:
        return None
    seconds = for_.total_seconds() if isinstance(for_, timedelta) else for_
    if not seconds >= 0.001:
        raise ArgumentError(
            f"for_ is {seconds:g} s", hint="give a time above 0; without one it holds until it is cleared"
        )
    return min(int(seconds * 1000), control.FOREVER_MS) if seconds != inf else None


def _end_ms(until: datetime | None, for_: float | timedelta | None, now: float) -> int:
    """Return when a pause ends, unix ms. Raises ArgumentError."""
    if until is not None and for_ is not None:
        raise ArgumentError("a pause has one end: until and for_ are given", hint="leave one of them out")
    if until is not None:
        if until.tzinfo is None:
            raise ArgumentError(f"until is {until}, which has no offset from UTC", hint=_TIMES)
        end, told = until.timestamp(), str(until)
    elif for_ is not None:
        seconds = for_.total_seconds() if isinstance(for_, timedelta) else for_
        end, told = now + seconds, f"a pause of {seconds:g} s"
    else:
        return control.FOREVER_MS
    if not end > now:
        raise ArgumentError(f"{told} is over already", hint="give a time to come; resume ends a pause")
    return control.FOREVER_MS if end == inf else min(int(end * 1000), control.FOREVER_MS)


def _moment_ms(name: str, moment: datetime | None) -> int:
    """Return a time as unix ms; 0: none. Raises ArgumentError."""
    if moment is None:
        return 0
    if moment.tzinfo is None:
        raise ArgumentError(f"{name} is {moment}, which has no offset from UTC", hint=_TIMES)
    return max(1, int(moment.timestamp() * 1000))


def _known(command_id: str) -> str:
    if len(command_id) > control.MAX_ID:
        raise ArgumentError(f"command_id has {len(command_id)} characters", hint=f"give at most {control.MAX_ID}")
    return command_id


def _sender() -> str:
    """Return who this process runs as."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user, as in many containers
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def _checked(tenant: str) -> str:
    if tenant and isinstance(wrong := read_options([(TENANT, tenant.encode())]), Malformed):
        raise ArgumentError(f"tenant: {wrong}", hint="a tenant is spelt as in the header gate-tenant of its requests")
    return tenant
