"""Ids of the requests that a batch lets run: those of their stamps, by which workers tell that they are done."""

from collections.abc import Iterator, Sequence

from gate.admission.model import Pull, Started
from gate.protocol.headers import origin, source_of
from gate.shard.records import Record
from gate.shard.refusal_history import Rejections, request_of
from gate.shard.routing import PartitionSlice, Topics, overlaps


def running_ids(
    started: Sequence[Started],
    topics: Topics,
    pieces: Sequence[PartitionSlice],
    pulled: Sequence[tuple[Pull, Sequence[Record]]],
    rejections: Rejections,
) -> list[str | None]:
    """Return the id of each started request, in order; None: it is gone, or is rejected, as no topic takes it.

    `pulled` are the parked requests that leave, as far as they are there.
    """
    there = {(pull.partition, record.offset): record for pull, records in pulled for record in records}
    ids: list[str | None] = []
    for part in started:
        if part.partition is None:
            ids += _fresh(part, topics, pieces)
            continue
        for offset in range(part.first, part.first + part.requests):
            record = there.get((part.partition, offset))
            stays = record is None or _is_rejected(record, rejections)
            ids.append(None if stays or record is None else _parked(record, topics, part.partition))
    return ids


def _fresh(part: Started, topics: Topics, pieces: Sequence[PartitionSlice]) -> Iterator[str]:
    for piece, start, stop in overlaps(pieces, part.first, part.first + part.requests):
        for record in piece.records[start - piece.first : stop - piece.first]:
            if piece.returned:
                yield _parked(record, topics, piece.partition)
            else:
                source = source_of(topics.retries if piece.retried else topics.requests, piece.partition)
                yield f"{source.decode('ascii')}{record.offset}"


def _parked(record: Record, topics: Topics, partition: int) -> str:
    found = origin(record.headers)
    if found is not None:
        return found.id.decode("ascii")
    return f"{source_of(topics.delayed, partition).decode('ascii')}{record.offset}"


def _is_rejected(record: Record, rejections: Rejections) -> bool:
    place = request_of(record.headers) if rejections else None
    return place is not None and place[1] in rejections.get(place[0], {})
