"""Compacted partitions: the newest committed value of each key, and the barrier up to which they are to be read.

Reading alone does not tell how far a log goes. A broker that stood still, or that is cut off from the controllers,
takes itself for the leader until it learns better, and answers with what it knew. A write does: no follower takes it
from who does not lead any more, so with `acks=all` only the leader can acknowledge it. Who has read up to a record that
it wrote itself has read all that was acknowledged before (a linearizable read, with the log for the read index: Ongaro,
"Consensus: Bridging Theory and Practice", 2014, section 6.4).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from aiokafka import errors

from gate.kafka.aio.compat.producers import built
from gate.kafka.aio.compat.shared import BatchBuilder
from gate.kafka.aio.leader_epochs import error_for
from gate.kafka.aio.produce import Produce
from gate.kafka.aio.reader import BACKOFF, EARLIEST, LATEST, SCAN_BYTES, SCAN_RECORDS, Reader
from gate.shard.records import Fetched, Partition

BARRIER_KEY: Final = b"barrier"
NO_BARRIER: Final = -1
_ALL: Final = -1  # copies that are in sync must have it
_TIMEOUT_MS: Final = 2_000  # that a broker waits for its followers, before it is tried again
_BATCH_BYTES: Final = 256
_MOST_BYTES: Final = 64 << 20  # in which the end of a transaction is looked for


async def put_barrier(reader: Reader, partition: Partition) -> int:
    """Write a record that deletes a key which nobody uses; return its offset. The caller sets the deadline.

    It is part of no transaction, so that it tells nothing of, and ends nothing of, what somebody has left open. Raises
    KafkaError where it can't be written, whoever leads.
    """
    builder = BatchBuilder(_BATCH_BYTES, 0, is_transactional=False)
    builder.append(timestamp=None, key=BARRIER_KEY, value=None)
    builder.close()
    batch = built(builder)
    while True:
        try:
            request = Produce(None, _ALL, _TIMEOUT_MS, [(partition.topic, [(partition.number, batch)])])
            answer: Any = await reader.ask_leader(partition, request)
            ((_, ((_, code, offset, *_),)),) = answer.topics
            if not code:
                return int(offset)
            raise error_for(code)(f"{partition.topic}-{partition.number}")
        except errors.KafkaError as error:
            if not error.retriable:
                raise
        await _until_led(reader)


class Barrier:
    """A barrier in a partition that is put when it is first asked for: once nobody else can write."""

    def __init__(self, reader: Reader, partition: Partition) -> None:
        self._reader = reader
        self._partition = partition
        self._offset = NO_BARRIER

    async def offset(self) -> int:
        """Return its offset. See `put_barrier`."""
        if self._offset == NO_BARRIER:
            self._offset = await put_barrier(self._reader, self._partition)
        return self._offset


async def read_all(reader: Reader, partition: Partition, barrier: int = NO_BARRIER) -> dict[str, bytes]:
    """Return the newest committed value of each key; deleted keys are left out.

    Without a `barrier` it is what the broker that is taken for the leader knows, which may be old; with one it is all
    that was acknowledged before, whoever is asked. The caller sets the deadline.
    """
    position = (await reader.offsets([partition], EARLIEST))[partition]
    end = await end_behind(reader, partition, barrier)
    newest: dict[str, bytes] = {}
    size = SCAN_BYTES
    while position < end:
        answer = await _fetch(reader, partition, position, size)
        if answer is None:
            continue
        if answer.cut and answer.next_offset < end and size < _MOST_BYTES:
            size *= 2  # how this transaction ends is not in what was read
            continue
        records = iter(answer.records)
        while slice_ := list(islice(records, SCAN_RECORDS)):
            for record in slice_:
                if record.key is None:
                    continue
                key = record.key.decode(errors="replace")
                if record.value is None:
                    newest.pop(key, None)
                else:
                    newest[key] = record.value
            await asyncio.sleep(0)  # others of this loop have heartbeats to send
        position, size = answer.next_offset, SCAN_BYTES
    return newest


async def newest(
    reader: Reader,
    partition: Partition,
    key: str,
    barrier: int = NO_BARRIER,
    fits: Callable[[bytes | None], bool] = lambda _: True,
) -> bytes | None:
    """Return the newest committed value of a key that is written again and again, and that fits; None: there is none.

    See `read_all` for the barrier.
    """
    wanted, found = key.encode(), None
    begin = (await reader.offsets([partition], EARLIEST))[partition]
    end = await end_behind(reader, partition, barrier)
    back = 64
    while end > begin:
        position = max(begin, end - back)
        last = position == begin
        while position < end:
            answer = await _fetch(reader, partition, position)
            if answer is not None:
                for record in answer.records:
                    found = record.value if record.key == wanted and fits(record.value) else found
                position = answer.next_offset
        if found is not None or last:
            break
        back *= 16
    return found


async def end_behind(reader: Reader, partition: Partition, barrier: int, *, committed: bool = True) -> int:
    """Return the last stable offset (not `committed`: the end), once who is asked knows what is behind the barrier."""
    while (end := (await reader.offsets([partition], LATEST, committed=committed))[partition]) <= barrier:
        await _until_led(reader)  # it does not lead any more, or does not know yet what is committed
    return end


async def _fetch(reader: Reader, partition: Partition, position: int, size: int = SCAN_BYTES) -> Fetched | None:
    try:
        return await reader.fetch_one(partition, position, wait_ms=200, partition_bytes=size)
    except errors.KafkaError as error:
        if not error.retriable or isinstance(error, errors.OffsetOutOfRangeError):
            raise
    await _until_led(reader)
    return None


async def _until_led(reader: Reader) -> None:
    with suppress(errors.KafkaError):
        await reader.renew()
    await asyncio.sleep(BACKOFF)
