"""Pauses on the control topic that do not say to be an operator's, as old workers wrote them."""

from dataclasses import dataclass
from typing import Final

from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.protocol import control
from gate.protocol.headers import last
from gate.shard.records import Partition

LOOK_BACK_MS: Final = 86_400_000  # older ones say nothing about who writes there now
WAIT_MS: Final = 200
BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A pause of which nobody says who wanted it."""

    offset: int
    service: str


async def unnamed(reader: Reader, topic: str, now_ms: int) -> list[Unnamed]:
    """Return the pauses of the last day that come from no operator. The caller sets the deadline."""
    partition = Partition(topic, 0)
    position = (await reader.offsets([partition], EARLIEST))[partition]
    end = (await reader.offsets([partition], LATEST))[partition]
    found: list[Unnamed] = []
    while position < end:
        answer = await reader.fetch_one(partition, position, wait_ms=WAIT_MS, partition_bytes=BYTES)
        if answer is None:
            continue
        for record in answer.records:
            if record.timestamp < now_ms - LOOK_BACK_MS or last(record.headers, control.BY) is not None:
                continue
            try:
                command = control.decode(record.value)
            except ValueError:
                continue
            if isinstance(command, control.PauseUntil):
                found.append(Unnamed(record.offset, (record.key or b"").decode(errors="replace")))
        position = answer.next_offset
    return found
