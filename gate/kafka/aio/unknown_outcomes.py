"""Unknown outcomes of transactions: a commit that got no answer, and what a broker has left half-done.

A session whose commit has an unknown outcome is discarded. Its successor fences it off, which ends what is open as the
coordinator decided it, ends what a broker has left half-done, and reads what counts (gate.kafka.torn_transactions).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka.errors import KafkaError

from gate.log import get_logger
from gate.shard.records import Partition

SETTLING: Final = 0.05
MARKING_DEADLINE: Final = 3.0  # seconds, for markers that are on their way

Within = Callable[[str], AbstractAsyncContextManager[None]]  # a deadline, for what is called so

log = get_logger("gate.writer")


class UnknownOutcomeError(KafkaError):  # type: ignore[misc]
    """The broker has the batch, but didn't say where (it saw a repeated sequence number)."""


class ProducerIdentity(NamedTuple):
    """A producer as its coordinator knows it: who takes over its transactional id has the same, and a later epoch."""

    id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Torn:
    """A transaction that has its end in some partitions and not in others."""

    partitions: tuple[Partition, ...]  # where it is open
    committed: bool


LookBehind = Callable[[ProducerIdentity], Awaitable[Torn | None]]  # by the producer that fenced off who wrote before
IsOpen = Callable[[int], Awaitable[bool]]


async def end_half_done(
    producer: ProducerIdentity,
    look_behind: LookBehind,
    end: Callable[[Torn], Awaitable[None]],
    within: Within,
    state: Partition,
) -> None:
    """Have `end` end what a fenced predecessor's transaction has left open, and wait until its markers are there."""
    torn = await look_behind(producer)
    if torn is None:
        return
    log.warning(
        "the broker has left a transaction half-done; ending it as it was decided",
        state=state.number, committed=torn.committed,
        partitions=[f"{topic}-{number}" for topic, number in torn.partitions],
    )  # fmt: skip
    await end(torn)
    async with within("ending what was left half-done"):
        while await look_behind(producer) is not None:  # noqa: ASYNC110 - markers come
            await asyncio.sleep(SETTLING)


async def is_all_ended(producer_id: int, is_open: IsOpen, within: Within) -> bool:
    """Tell whether nothing of a producer is left open, once it can be told; markers get some seconds to come."""
    open_since: float | None = None
    async with within("looking for what is half-done"):  # to tell anything may take an election
        while open_since is None or time.monotonic() - open_since < MARKING_DEADLINE:
            with suppress(KafkaError, OSError):
                if not await is_open(producer_id):
                    return True
                open_since = open_since or time.monotonic()
            await asyncio.sleep(SETTLING)
    return False
