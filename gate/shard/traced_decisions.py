"""The decisions of a batch about requests that are part of a recorded trace, with their times.

Nothing is kept of a request while it waits: its record tells when it was parked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

from gate.protocol.headers import STAMP, Headers, Stamp, decided_at, origin, parse_stamp
from gate.protocol.traces import TRACEPARENT, sampled_trace
from gate.shard.records import Outgoing, Partition, Raw, Record
from gate.shard.state import ServiceBatch
from gate.units import MS, Ns

_HEADERS: Final = attrgetter("headers")
_HEADERS_OUT: Final = itemgetter(3)
_NAME: Final = itemgetter(0)


class TracedDecision(NamedTuple):
    """A decision: from when on the request waited for it, unix ms; `stamp` tells the rest."""

    service: str
    stamp: Stamp
    since_ms: int
    headers: Headers


def traced_decisions(
    outputs: Mapping[Partition, Sequence[Outgoing | Raw]], turns: Sequence[ServiceBatch], now: Ns
) -> Iterator[TracedDecision]:
    """Yield the decisions of a batch that was decided by `now`. Costs nothing until the first is asked for.

    A first decision was waited for from the producer's timestamp on, a later one from the decision before.
    """
    at_ms = now // MS
    for turn in turns:
        before = _decided_before(turn)
        for topic in turn.served.topics.decided:
            for partition, records in outputs.items():
                if partition.topic != topic:
                    continue
                for headers in _sampled(map(_HEADERS_OUT, records)):
                    stamp = next((value for name, value in headers if name == STAMP and value), None)
                    told = None if stamp is None else parse_stamp(stamp)
                    if told is None or told.at_ms != at_ms:  # a job that was given up: it was admitted before
                        continue
                    began = told.created_ms if told.attempt == 1 else before.get(told.id)
                    since_ms = at_ms if began is None else min(began, at_ms)  # the producer's clock may be ahead
                    yield TracedDecision(turn.served.name, told, since_ms, headers)


def _decided_before(turn: ServiceBatch) -> dict[str, int]:
    """Return when those were decided last that had waited, unix ms, by id."""
    parts: list[Sequence[Record]] = [records for _, records in turn.pulled]
    parts += [piece.records for piece in turn.pieces if piece.returned]
    before = {}
    for records in parts:
        for headers in _sampled(map(_HEADERS, records)):
            found, at_ms = origin(headers), decided_at(headers)
            if found is not None and at_ms is not None:
                before[found.id.decode("ascii", "replace")] = at_ms
    return before


def _sampled(all_headers: Iterable[Headers]) -> Iterator[Headers]:
    """Yield the headers of requests whose trace is recorded. A look at all of them goes without a line of Python."""
    every = list(all_headers)
    if TRACEPARENT in map(_NAME, chain.from_iterable(every)):
        yield from (headers for headers in every if sampled_trace(headers) is not None)
