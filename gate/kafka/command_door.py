"""The door for operators' commands that come by HTTP: they go to the control topic, and answers are read back."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.errors import ArgumentError, GateError
from gate.kafka.aio.compacted import newest
from gate.kafka.aio.reader import Reader
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running
from gate.protocol import answers, control
from gate.protocol.policies import called, group_of
from gate.protocol.topics import Names
from gate.shard.records import Partition

DEADLINE: Final = 8.0  # seconds; less than a connection has
TAKEN: Final = (
    control.PauseUntil | control.Resume | control.Cancel | control.Move | control.Expedite | control.Redrive
    | control.Abort | control.SetLimit | control.ClearLimit
)  # fmt: skip
OF_GROUPS: Final = control.SetLimit | control.ClearLimit


@dataclass(frozen=True, slots=True)
class Given:
    """A command as somebody gives it."""

    service: str  # or group:NAME
    name: str
    command: control.Command
    reason: str
    id: str


class CommandDoor:
    """Takes commands as they stand on the control topic, with `reason` and `id` beside them."""

    def __init__(self, names: Names, cluster: Cluster, reader: Reader, options: Mapping[str, Any]) -> None:
        self._names = names
        self._cluster = cluster
        self._reader = reader
        self._options = options

    def read(self, service: str, body: bytes) -> Given:
        """Read a command about a service, or a group as group:NAME. Raises ArgumentError for what is none."""
        return _read(service, body)

    async def give(self, given: Given, who: str) -> str:
        """Write a command, and return its id; who gives the same id again changes nothing.

        Raises ArgumentError for one about no service; GateError where the broker does not take it.
        """
        service, command, reason, known = given.service, given.command, given.reason, given.id
        try:
            async with asyncio.timeout(DEADLINE):
                there = await self._cluster.partitions()
                if group_of(service) is None and self._names.requests(service) not in there:
                    told = sorted(name for topic in there if (name := self._names.service_of(topic)) is not None)
                    raise ArgumentError(f"there is no service {service!r}", hint=f"known are {', '.join(told[:20])}")
                headers = [(control.BY, control.OPERATOR), (control.WHO, who.encode())]
                headers += [(control.REASON, reason.encode())] if reason else []
                async with running(AIOKafkaProducer(**self._options, enable_idempotence=True)) as producer:
                    await producer.send_and_wait(
                        self._names.control, control.encode(command), known.encode(), partition=0, headers=headers
                    )
        except (KafkaError, TimeoutError) as error:
            raise GateError(f"giving the command failed: {str(error) or type(error).__name__}") from error
        return known

    async def answer(self, known: str, service: str | None = None) -> Mapping[str, Any] | None:
        """Return the last answer to a command, about `service` if that is given; None: no gate has taken it yet."""

        def fits(value: bytes | None) -> bool:
            try:
                answer = answers.decode_answer(value)
            except ValueError:  # no gate wrote it
                return False
            return service is None or answer.service == service

        try:
            async with asyncio.timeout(DEADLINE):
                found = await newest(self._reader, Partition(self._names.answers, 0), known, fits=fits)
        except (KafkaError, TimeoutError) as error:
            raise GateError(f"reading the answers failed: {str(error) or type(error).__name__}") from error
        if found is None:
            return None
        shown: Mapping[str, Any] = msgspec.to_builtins(answers.decode_answer(found))
        return shown


def _read(service: str, body: bytes) -> Given:
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
        reason, known = said.pop("reason", ""), said.pop("id", "") if said.get("command") != "abort" else ""
        command = control.decode(msgspec.json.encode(said | {"service": service}))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArgumentError(f"the body is no command: {error}", hint="see docs/howto/backlog.md") from error
    if not isinstance(reason, str) or not isinstance(known, str) or len(known) > control.MAX_ID:
        raise ArgumentError(
            "`reason` and `id` are texts", hint=f"give an id of {control.MAX_ID} characters at the most"
        )
    if not isinstance(command, TAKEN):
        raise ArgumentError(f"{said.get('command')} is not for HTTP", hint="see `gate --help`")
    if group_of(service) is not None and not isinstance(command, OF_GROUPS):
        known = "set-limit and clear-limit"
        raise ArgumentError(f"{said['command']} is not for {called(service)}", hint=f"groups take {known}")
    return Given(service, said["command"], command, reason, known or uuid.uuid4().hex)
