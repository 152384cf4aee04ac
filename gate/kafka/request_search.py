"""Search for one request: where it stands, by the id of its stamp or its producer's, without reading whole topics.

What came into a partition is decided about in its order, so that those decisions are searched by halves: some ten
reads in each of three topics. What has left the delayed topic since is looked for around the time that it was told, and
then from its parking on: as many records as were admitted to its partition meanwhile, MOST at the most. A producer's id
stands in no index: request topics are read backwards from now, MOST records at the most. A result is looked for from
the job's admission on, as most jobs take less time than has passed since; if that is too much, also backwards from now.
What has left may have come back, as a retry or by command: the delayed topic is read backwards to when it left.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from aiokafka import errors

from gate.errors import GateError, UnknownRequestError, reason_of
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import LATEST, Reader
from gate.kafka.bounded_reads import MOST, BoundedReads, TooMuchError
from gate.kafka.cluster import Cluster
from gate.kafka.whereabouts import Standing, Whereabouts
from gate.protocol.feedback import place_of
from gate.protocol.headers import (
    ERROR,
    ID,
    STAMP,
    decided_at,
    last,
    not_before,
    origin,
    parse_stamp,
    source_of,
)
from gate.protocol.topics import Names
from gate.shard.failed_jobs import home_of
from gate.shard.records import Partition, Record

MOST_RESULT: Final = 1 << 16  # bytes of a result that are told: larger ones are for those who read topics
FEW: Final = 1_000  # offsets that are looked at one after the other
DEADLINE: Final = 30.0
BEFORE_MS, BEHIND_MS = 1_000, 5_000  # around the time that was told


def check_id(request: str, there: Container[str], service_of: Callable[[str], str | None]) -> None:
    """Raise UnknownRequestError for nothing, and for a place in a topic that is `there` which is no request's."""
    topic = request.rpartition("@")[0].rpartition("-")[0]
    if request and (
        topic not in there
        or (service_of(topic) is not None and place_of(request.encode("utf-8", "replace")) is not None)
    ):
        return
    raise UnknownRequestError(
        f"{request!r} is no id of a request",
        hint="give that of its stamp, TOPIC-PARTITION@OFFSET of the topic it came to",
    )


class RequestSearch:
    """Finds requests over a connection of its own, one at a time."""

    def __init__(self, reader: Reader, cluster: Cluster, names: Names, group_id: str) -> None:
        self._reader = reader
        self._cluster = cluster
        self._names = names
        self._group_id = group_id
        self._reads = BoundedReads(reader)

    @classmethod
    @asynccontextmanager
    async def connected(cls, names: Names, group_id: str, **options: Any) -> AsyncIterator["RequestSearch"]:
        """Connect. Raises GateError."""
        cluster = Cluster(names, create=False, replication_factor=-1, **options)
        client = Client(**options)
        try:
            try:
                await cluster.start()
                await client.bootstrap()
            except errors.KafkaError as error:
                raise GateError(f"no broker answers: {reason_of(error)}", hint="see `gate doctor`") from error
            yield cls(Reader(client), cluster, names, group_id)
        finally:
            await client.close()
            await cluster.close()

    async def find(self, request: str, service: str | None = None, since_ms: int = 0) -> Whereabouts:
        """Find a request by its id, or the newest by its producer's id, of `service` or of any, dated since then.

        Raises UnknownRequestError, and GateError where the broker does not answer.
        """
        self._reads.looked_at = 0
        try:
            async with asyncio.timeout(DEADLINE):
                there = await self._cluster.partitions()
                check_id(request, there, self._service_of)
                place = place_of(request.encode("utf-8", "replace"))
                if place is not None and (own := self._service_of(place.topic)) is not None and place.topic in there:
                    partition = Partition(place.topic, place.partition)
                    if place.partition < there[place.topic]:
                        return await self._whereabouts(own, partition, place.offset, there)
                    raise UnknownRequestError(f"there is no request {request}: {place.topic} has no such partition")
                return await self._by_producer(request, service, since_ms, there)
        except (errors.KafkaError, TimeoutError) as error:
            why = str(error) or f"no answer within {DEADLINE:g} s"
            raise GateError(f"looking for {request} failed: {why}", hint="see `gate doctor`") from error

    def _service_of(self, topic: str) -> str | None:
        return self._names.service_of(topic) or self._names.service_of(topic, "retries")

    async def answer(self, request: str, service: str | None, since_ms: int) -> dict[str, Any]:
        """Return where a request stands as JSON, with what a worker has answered, as text or as base64 if it is none.

        Raises as `find` does.
        """
        found = await self.find(request, service, since_ms)
        told = found.to_json()
        if (result := await self.result(found)) is not None:
            told["result_bytes"] = len(result)
            if len(result) <= MOST_RESULT:
                try:
                    told["result"] = result.decode()
                except UnicodeDecodeError:
                    told["result_base64"] = b64encode(result).decode("ascii")
        return told

    async def result(self, found: Whereabouts) -> bytes | None:
        """Return what a worker has answered about a request that was found; None: nothing, within MOST records.

        Raises GateError where the broker does not answer.
        """
        place = None if found.place is None else place_of(found.place.encode())
        if place is None or found.standing is Standing.REJECTED:
            return None
        job = (found.origin or found.id).encode()
        results = Partition(self._names.results(found.service), place.partition)
        try:
            async with asyncio.timeout(DEADLINE):
                if place.partition >= (await self._cluster.partitions()).get(results.topic, 0):
                    return None
                for look in (self._first_answer, self._newest_answer):
                    self._reads.looked_at = 0
                    try:
                        answer = await look(results, job, found.at_ms or 0)
                    except TooMuchError:
                        continue
                    return None if answer is None else answer.value or b""
        except (errors.KafkaError, TimeoutError) as error:
            why = str(error) or f"no answer within {DEADLINE:g} s"
            raise GateError(f"looking for the result of {found.id} failed: {why}", hint="see `gate doctor`") from error
        return None

    async def _first_answer(self, results: Partition, job: bytes, since_ms: int) -> Record | None:
        begin, end = await self._reads.offset_at(results, since_ms), await self._reads.offset_at(results, None)
        async for record in self._reads.scan(results, begin, end):
            if record.key == job:
                return record
        return None

    async def _newest_answer(self, results: Partition, job: bytes, since_ms: int) -> Record | None:
        return await self._reads.newest(results, since_ms, lambda record: record.key == job)

    # -- by the producer's id --------------------------------------------------------------------------------------

    async def _by_producer(
        self, wanted: str, service: str | None, since_ms: int, there: Mapping[str, int]
    ) -> Whereabouts:
        topics = [t for t in sorted(there) if (s := self._names.service_of(t)) is not None and service in {None, s}]
        if not topics and service is not None:
            known = sorted(name for topic in there if (name := self._names.service_of(topic)) is not None)
            raise UnknownRequestError(f"there is no service {service!r}", hint=f"known are {', '.join(known[:20])}")
        newest: tuple[int, Partition, Record] | None = None
        try:
            for partition in [Partition(topic, number) for topic in topics for number in range(there[topic])]:
                found = await self._reads.newest(partition, since_ms, lambda r: last(r.headers, ID) == wanted.encode())
                if found is not None and (newest is None or found.timestamp > newest[0]):
                    newest = found.timestamp, partition, found
        except TooMuchError:
            if newest is None:
                raise UnknownRequestError(
                    f"no request with the id {wanted!r} is among the newest {MOST}",
                    hint="name its service, or a shorter time, or the id of its stamp",
                ) from None
        if newest is None:
            raise UnknownRequestError(f"there is no request {wanted!r}", hint="it may be older than what was searched")
        own = self._names.service_of(newest[1].topic)
        assert own is not None  # it is a request topic
        return await self._whereabouts(own, newest[1], newest[2].offset, there)

    # -- by its place ----------------------------------------------------------------------------------------------

    async def _whereabouts(self, service: str, at: Partition, offset: int, there: Mapping[str, int]) -> Whereabouts:
        names, request = self._names, f"{at.topic}-{at.number}@{offset}"
        written = await self._reads.at(at, offset)
        if written is None and offset >= (await self._reader.offsets([at], LATEST))[at]:
            raise UnknownRequestError(f"there is no request {request}: {at.topic}-{at.number} ends before it")
        home = at.number
        if names.service_of(at.topic) is None:
            if written is None:
                raise UnknownRequestError(f"the retry {request} is gone", hint="ask for the id of its first request")
            home = home_of(written.headers, there.get(names.requests(service), 1))
        outputs = {k: Partition(getattr(names, k)(service), home) for k in ("delayed", "admitted", "rejected")}
        outputs = {kind: place for kind, place in outputs.items() if place.number < there.get(place.topic, 0)}
        first, certain = await self._decided(service, at, offset, written, outputs)
        if not certain or first.at_ms is None or first.standing is Standing.WAITING:
            return first
        return await self._come_back(first, outputs) or first

    async def _decided(
        self, service: str, at: Partition, offset: int, written: Record | None, outputs: dict[str, Partition]
    ) -> tuple[Whereabouts, bool]:
        """Return where a request of a partition stands by what was decided, and whether all of that was read."""
        found: list[tuple[Partition, Record]] = []
        certain = True
        try:
            await self._trace(source_of(at.topic, at.number), offset, outputs, found)
        except TooMuchError:
            certain = False
        return await self._tell(service, written, found, outputs, at, offset, certain=certain), certain

    async def _come_back(self, first: Whereabouts, outputs: dict[str, Partition]) -> Whereabouts | None:
        """Return where the newest one stands that was made of a request and parked; None: none was, as far as read."""
        delayed, request = outputs.get("delayed"), first.id.encode()
        if delayed is None:
            return None

        def is_of_it(record: Record) -> bool:
            own = origin(record.headers)
            return own is not None and own.first == request

        try:
            parked = await self._reads.newest(delayed, first.at_ms or 0, is_of_it)
            own = None if parked is None else origin(parked.headers)
            place = None if own is None else place_of(own.id)
            if place is None:
                return None
            at = Partition(place.topic, place.partition)
            written = await self._reads.at(at, place.offset)
            newest, _ = await self._decided(first.service, at, place.offset, written, outputs)
        except TooMuchError:
            return None
        if newest.standing is Standing.GIVEN_UP:
            return None  # as the first one, whose job it is
        earlier = first.decisions[: -1 if first.standing is Standing.GIVEN_UP else None]
        return replace(newest, decisions=(*earlier, *newest.decisions))

    async def _trace(
        self, source: bytes, offset: int, outputs: dict[str, Partition], found: list[tuple[Partition, Record]]
    ) -> None:
        """Collect the decisions about a request in `found`, in their order."""
        since, until = 0, None
        request = b"%b%d" % (source, offset)
        if (delayed := outputs.get("delayed")) is not None:
            parked, since, until = await self._bisect(delayed, source, offset, 0, None)
            if parked is not None:
                found.append((delayed, parked))
                since, until = decided_at(parked.headers) or 0, None
                await self._left(request, outputs, since, not_before(parked.headers), found)
        if not found:
            if (admitted := outputs.get("admitted")) is not None:
                record, since, until = await self._bisect(admitted, source, offset, since, until)
                found += [] if record is None else [(admitted, record)]
            if not found and (rejected := outputs.get("rejected")) is not None:
                # those of one batch are not in their order: all of them are looked at
                record, since, until = await self._bisect(rejected, source, offset, since, until)
                record = record or await self._scanned(rejected, request, since, None if until is None else until + 1)
                found += [] if record is None else [(rejected, record)]
        if found and "rejected" in outputs and found[-1][0] == outputs.get("admitted"):
            since = decided_at(found[-1][1].headers) or 0
            given_up = await self._scanned(outputs["rejected"], request, since, None, retries=True)
            found += [] if given_up is None else [(outputs["rejected"], given_up)]

    async def _left(
        self,
        request: bytes,
        outputs: dict[str, Partition],
        since: int,
        told: int | None,
        found: list[tuple[Partition, Record]],
    ) -> None:
        """Look for what has become of a parked request: around the time that was told, then since it was parked."""
        places = [outputs[kind] for kind in ("admitted", "rejected") if kind in outputs]
        spans = [(since, None)] if told is None else [(max(since, told - BEFORE_MS), told + BEHIND_MS), (since, None)]
        for begin, end in spans:
            for place in places:
                record = await self._scanned(place, request, begin, end)
                if record is not None:
                    found.append((place, record))
                    return

    async def _scanned(
        self, place: Partition, request: bytes, since: int, until: int | None, *, retries: bool = False
    ) -> Record | None:
        """Return the record of a request, or of one of its `retries`, written from one time on, and before another."""
        begin = await self._reads.offset_at(place, since)
        end = await self._reads.offset_at(place, until)
        async for record in self._reads.scan(place, begin, end):
            found = origin(record.headers)
            if found is not None and (found.id == request or (retries and found.first == request)):
                return record
        return None

    async def _bisect(
        self, place: Partition, source: bytes, target: int, since: int, until: int | None
    ) -> tuple[Record | None, int, int | None]:
        """Search the first decisions about requests of a source, which are in their order, for one of them.

        Returns it, or None with the times between which it would have been decided.
        """
        low = await self._reads.offset_at(place, since)
        high = await self._reads.offset_at(place, None if until is None else until + 1)
        while high - low > FEW:
            middle, probed = (low + high) // 2, None
            async for record in self._reads.scan(place, middle, high):
                if (probed := self._first_decision(record, place, source)) is not None:
                    break
            if probed is None or probed > target:
                high = middle
                until = until if probed is None else decided_at(record.headers)
            elif probed < target:
                low, since = record.offset + 1, decided_at(record.headers) or since
            else:
                return record, since, until
        async for record in self._reads.scan(place, low, high):
            number = self._first_decision(record, place, source)
            if number == target:
                return record, since, until
            if number is not None and number < target:
                since = decided_at(record.headers) or since
            elif number is not None:
                return None, since, decided_at(record.headers)
        return None, since, until

    def _first_decision(self, record: Record, place: Partition, source: bytes) -> int | None:
        """Return which request of a source this is the first decision about; None: it is none of these."""
        found = origin(record.headers)
        if found is None or found.attempt != 1 or not found.id.startswith(source):
            return None
        if self._names.service_of(place.topic, "rejected") and (last(record.headers, STAMP) or b"").startswith(b"adm"):
            return None  # a dead letter, which comes when it comes
        number = found.id[len(source) :]
        return int(number) if number.isdigit() else None

    # -- the answer ------------------------------------------------------------------------------------------------

    async def _tell(
        self,
        service: str,
        written: Record | None,
        found: list[tuple[Partition, Record]],
        outputs: dict[str, Partition],
        at: Partition,
        offset: int,
        *,
        certain: bool,
    ) -> Whereabouts:
        request = f"{at.topic}-{at.number}@{offset}"
        created = None if written is None or written.timestamp < 0 else written.timestamp
        own = None if written is None else last(written.headers, ID)
        producer_id = None if own is None else own.decode(errors="replace")
        if not found:
            marks = await self._cluster.marks(self._group_id, [at])
            undecided = certain and written is not None and (at not in marks or marks[at].offset <= offset)
            standing = Standing.UNDECIDED if undecided else Standing.UNKNOWN
            return Whereabouts(request, service, standing, self._reads.looked_at, created, producer_id=producer_id)
        place, record = found[-1]
        stamp = parse_stamp(last(record.headers, STAMP) or b"")
        standing, ahead = Standing(stamp.verdict if stamp.verdict != "delayed" else "waiting"), None
        if standing is Standing.ADMITTED and place == outputs.get("rejected"):
            standing = Standing.GIVEN_UP
        if standing is Standing.WAITING:
            marks = await self._cluster.marks(self._group_id, [place])
            ahead = max(0, record.offset - marks[place].offset) if place in marks else None
            if not certain:
                standing = Standing.UNKNOWN  # it may have left
        error = last(record.headers, ERROR)
        return Whereabouts(
            request, service, standing, self._reads.looked_at, stamp.created_ms or created, stamp.at_ms, stamp.attempt,
            stamp.reason, stamp.limit, not_before(record.headers), ahead, stamp.origin, producer_id,
            None if error is None else error.decode(errors="replace"),
            f"{place.topic}-{place.number}@{record.offset}",
            tuple(one.headers for _, one in found),
        )  # fmt: skip
