"""What was there before any gate: request topics with holes, by compaction and by deletion."""

import asyncio
from functools import partial
from time import monotonic, time
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition

from tests.hostile import stage
from tests.hostile.decoding import Header
from tests.hostile.encoding import Codec, RawBatch, RawRecord
from tests.hostile.kinds import Shot
from tests.hostile.scanning import Scanner
from tests.hostile.sender import Sender

GAPS: Final = stage.NAMES.requests("bad-gaps")
CUT: Final = stage.NAMES.requests("bad-cut")
BATCHES: Final = 6
RECORDS: Final = 40  # of a batch
DELETED: Final = 100  # in the midst of a batch
DEADLINE: Final = 60.0


async def leave_holes(bootstrap: str) -> None:
    """Write to two topics, let the broker compact the one, and delete from the other; return when it has done so."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await client.set_topics([GAPS, CUT])
        sender = Sender(client)
        for number in range(BATCHES):
            if number == BATCHES - 1:
                await asyncio.sleep(0.6)  # longer than segment.ms: the next batch begins a segment, the last is closed
            for topic in (GAPS, CUT):
                for partition in range(stage.PARTITIONS):
                    assert not await sender.send(Shot("holes", topic, partition, _batch(number)))
        gone = {TopicPartition(CUT, number): RecordsToDelete(DELETED) for number in range(stage.PARTITIONS)}
        await admin.delete_records(gone)
        await _compacted(client)
    finally:
        await admin.close()
        await client.close()


def _batch(number: int) -> RawBatch:
    """Return a batch of which some keys come again in each batch, and some never."""
    records = [
        RawRecord(b"again %d" % i if i % 3 else b"once %d %d" % (number, i), b"%d %d" % (number, i), offset_delta=i)
        for i in range(RECORDS)
    ]
    return RawBatch(records, round(time() * 1000), (Codec.NONE, Codec.LZ4)[number % 2])


def _note(holed: set[int], _: str, partition: int, batch: Header, _start: int) -> None:
    if not batch.is_whole:
        holed.add(partition)


async def _compacted(client: AIOKafkaClient) -> None:
    end = monotonic() + DEADLINE
    while True:
        found: set[int] = set()
        await Scanner(client, [GAPS], partial(_note, found)).advance()
        if len(found) == stage.PARTITIONS:
            return
        assert monotonic() < end, f"{GAPS} was not compacted within {DEADLINE:g} s"
        await asyncio.sleep(0.2)
