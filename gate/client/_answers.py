"""Answers to commands, as gates give them on the answers topic."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from gate.config import Connection
from gate.errors import GateError
from gate.kafka.connect import running
from gate.log import get_logger
from gate.protocol.answers import FINAL, Answer, AnswerState, called, decode_answer
from gate.protocol.control import Command, name_of, sharing_ids

_POLL_MS: Final = 200
_IMPATIENT: Final = 10.0  # seconds without an answer, before that is told

log = get_logger("gate.client")


class CommandRefusedError(GateError):
    """A command that the gates did not carry out; nothing of it was done."""


class Answers:
    """Reads what is answered from the moment on at which it was opened."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def following(cls, connection: Connection) -> AsyncIterator["Answers"]:
        """Read from now on. Raises KafkaError."""
        partition = TopicPartition(connection.names.answers, 0)
        consumer = AIOKafkaConsumer(
            **connection.access(), isolation_level="read_committed", auto_offset_reset="earliest"
        )
        async with running(consumer):
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            consumer.seek(partition, end)
            yield cls(consumer)

    async def wait_for(
        self, service: str, given: Command, command: str, told: Callable[[Answer], object] | None
    ) -> Answer:
        """Return the last answer to a command about a service, telling each on the way. Raises CommandRefusedError.

        The same id may be given to commands about several services: each is one of its own. Where one of another kind
        about this service has had it, gates answer what became of that one, and do no more.
        """
        name = name_of(given)
        shared = sharing_ids(name)
        loop = asyncio.get_running_loop()
        impatient: float | None = loop.time() + _IMPATIENT
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    if record.key != command.encode():
                        continue
                    try:
                        answer = decode_answer(record.value)
                    except ValueError as error:
                        log.warning("no gate wrote this answer", command=command, offset=record.offset, why=str(error))
                        continue
                    if answer.service != service or (called(answer) or name) not in shared:
                        continue
                    if answer.what not in {"", name}:
                        hint = "nothing was done; give it an id of its own"
                        raise CommandRefusedError(
                            f"the id {command} is of a {answer.what}, not of this {name}", hint=hint
                        )
                    impatient = None
                    if told is not None:
                        told(answer)
                    if answer.state is AnswerState.FAILED:
                        raise CommandRefusedError(answer.why, hint=answer.hint or None)
                    if answer.state in FINAL:
                        return answer
            if impatient is not None and loop.time() > impatient:
                impatient = None
                log.warning("no gate has taken the command yet; waiting on", command=command)
