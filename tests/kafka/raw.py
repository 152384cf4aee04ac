"""Record batches of which every field can be set, as a producer may write them by hand."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct

from aiokafka import codec as codecs
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

HEADER = Struct(">qiibIhiqqqhii")
_PACK = {
    1: codecs.gzip_encode,
    2: codecs.snappy_encode,
    3: codecs.lz4_encode,
    4: codecs.zstd_encode,
}

NOT_YET = {NotLeaderForPartitionError, UnknownTopicOrPartitionError}


async def produce(
    bootstrap: str, topic: str, *batches: bytes, partition: int = 0, transactional_id: str | None = None
) -> None:
    """Write batches as they are.

    A broker tells who leads a new topic a moment before it has its log, and refuses what comes in between.
    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        for raw in batches:
            async with asyncio.timeout(40):
                while (code := await _produce(client, topic, partition, raw, transactional_id)) in NOT_YET:
                    await asyncio.sleep(0.05)
            assert code.errno == 0, f"the broker itself refuses it: {code}"
    finally:
        await client.close()


async def _produce(client: AIOKafkaClient, topic: str, partition: int, raw: bytes, transactional_id: str | None):
    while (node := client.cluster.leader_for_partition(TopicPartition(topic, partition))) in {None, -1}:
        await client.force_metadata_update()
    request = ProduceRequest(transactional_id, -1, 10_000, [(topic, [(partition, raw)])])
    ((_, ((_, code, *_),)),) = (await client.send(node, request)).topics
    return for_code(code)


@dataclass
class Rec:
    key: bytes | None = None
    value: bytes | None = b"v"
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    delta: int | None = None  # of its offset; None: as it should be
    later: int = 0  # ms, than the batch
    extra: bytes = field(default=b"", repr=False)


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        if not number:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def _field(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def record(rec: Rec, index: int) -> bytes:
    body = b"\0" + varint(rec.later) + varint(index if rec.delta is None else rec.delta)
    body += _field(rec.key) + _field(rec.value) + varint(len(rec.headers))
    body += b"".join(_field(name) + _field(value) for name, value in rec.headers) + rec.extra
    return varint(len(body)) + body


def batch(
    records: Sequence[Rec],
    *,
    base: int = 0,
    codec: int = 0,
    timestamp: int | None = None,
    last_delta: int | None = None,
    count: int | None = None,
    attributes: int = 0,
    body: bytes | None = None,
) -> bytes:
    """Return a batch of these records, of now (`timestamp` None, ms): what is old a broker deletes at its next look."""
    timestamp = time.time_ns() // 1_000_000 if timestamp is None else timestamp
    packed = b"".join(record(rec, index) for index, rec in enumerate(records)) if body is None else body
    if codec:
        packed = _PACK[codec](packed)
    last = len(records) - 1 if last_delta is None else last_delta
    newest = timestamp + max((rec.later for rec in records), default=0)
    count = len(records) if count is None else count
    rest = HEADER.pack(0, 0, 0, 2, 0, codec | attributes, last, timestamp, newest, -1, -1, -1, count)[21:] + packed
    return HEADER.pack(base, len(rest) + 9, -1, 2, calc_crc32c(rest), 0, 0, 0, 0, 0, 0, 0, 0)[:21] + rest
