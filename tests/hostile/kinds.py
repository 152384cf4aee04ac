"""What strangers send, drawn from a seed: the same seed and number of records give the same bytes, but for the date."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.hostile import forgeries, stage
from tests.hostile.encoding import Codec, RawBatch, RawRecord, zeros

DAY: Final = 86_400_000
MOST: Final = 200  # records of a common batch
FEW: Final = 10  # batches of a kind that is rare, where it is asked for


@dataclass(frozen=True, slots=True)
class Shot:
    """One batch to one partition."""

    kind: str
    topic: str
    partition: int
    batch: RawBatch


class Draw:
    """Makes batches of one kind."""

    def __init__(self, kind: str, seed: int, now_ms: int) -> None:
        self.kind = kind
        self.random = Random(f"hostile {seed} {kind}")
        self.now = now_ms
        self.number = 0

    def shot(self, batch: RawBatch, services: Sequence[str] = tuple(stage.FOES)) -> Shot:
        """Aim a batch at a partition of one of these services."""
        topic = stage.NAMES.requests(self.random.choice(services))
        return self.at(topic, batch)

    def at(self, topic: str, batch: RawBatch) -> Shot:
        """Aim a batch at a topic."""
        partitions = 1 if topic == stage.NAMES.control else stage.PARTITIONS
        return Shot(self.kind, topic, self.random.randrange(partitions), batch)

    def record(self) -> RawRecord:
        """Return an unsuspicious record: key, value, a header or two."""
        self.number += 1
        key = b"k%d" % self.random.randrange(50)
        headers = ((b"trace", b"%d" % self.number),) if self.number % 3 else ()
        return RawRecord(key, b"%s %d" % (self.kind.encode(), self.number), headers, self.number % 7)

    def batch(self, records: Sequence[RawRecord], codec: Codec | None = None) -> RawBatch:
        """Return a batch as of now, packed somehow."""
        how = self.random.choice(list(Codec)) if codec is None else codec
        return RawBatch(records, self.now, how)

    def among(self, strange: Callable[[RawRecord], RawRecord], most: int = MOST, part: float = 0.3) -> list[RawRecord]:
        """Return records of which a part is `strange`."""
        most = self.random.choice((1, 10, most, most))
        found = [self.record() for _ in range(self.random.randint(1, most))]
        return [strange(record) if self.random.random() < part else record for record in found]


def plain(draw: Draw) -> Shot:
    """Keys and values null, empty, short and long."""
    some = draw.random

    def strange(record: RawRecord) -> RawRecord:
        part = some.choice((None, b"", b"x" * some.choice((1, 127, 128, 16_384)), some.randbytes(300)))
        return replace(record, key=part) if some.random() < 0.5 else replace(record, value=part)

    return draw.shot(draw.batch(draw.among(strange, part=0.6)))


def keyless(draw: Draw) -> Shot:
    """No key, where the admitted topic is compacted and elsewhere."""
    services = ("bad-compacted", "bad-compacted", "bad-slow", "bad-tenants")
    return draw.shot(draw.batch(draw.among(lambda record: replace(record, key=None))), services)


def names(draw: Draw) -> Shot:
    """Header names of any bytes."""

    def strange(record: RawRecord) -> RawRecord:
        return replace(record, headers=(*record.headers, *forgeries.named(draw.random)))

    return draw.shot(draw.batch(draw.among(strange)))


def headers(draw: Draw) -> Shot:
    """Up to 60,000 headers."""
    number = draw.random.choice((0, 1, 100, 1_000, 10_000, 60_000))
    found = tuple((b"h%d" % i if number < 60_000 else b"h", b"") for i in range(number))
    records = [draw.record() for _ in range(draw.random.randint(1, 3))]
    return draw.shot(draw.batch([replace(draw.record(), headers=found), *records]))


def times(draw: Draw) -> Shot:
    """Dates of any time: none, long past, days and years ahead, all mixed within a batch."""
    some = draw.random
    base = some.choice((-1, 0, 1, 2**31, draw.now - 3650 * DAY, draw.now, draw.now + 3 * DAY, draw.now + 3650 * DAY))
    spread = some.choice((0, 0, 1, DAY, 5 * 365 * DAY))

    def strange(record: RawRecord) -> RawRecord:
        return replace(record, timestamp_delta=some.randint(0, spread))

    batch = draw.batch(draw.among(strange, part=1.0))
    if some.random() < 0.1:
        batch = replace(batch, records=[replace(record, timestamp_delta=-1 - base) for record in batch.records])
    return draw.shot(replace(batch, timestamp=base))


def sizes(draw: Draw) -> Shot:
    """Values around what each output topic takes, packed and not."""
    some = draw.random
    service = some.choice(("bad-tiny", "bad-tiny", "bad-tiny", "bad-large", "bad-plain"))
    limits = {
        "bad-tiny": (stage.TINY_ADMITTED, stage.TINY_DELAYED),
        "bad-large": (stage.REQUEST_BYTES, stage.REQUEST_BYTES + (64 << 10)),
        "bad-plain": (stage.REQUEST_BYTES,),
    }[service]
    number = some.randint(1, 20 if service == "bad-tiny" else 2)
    found = []
    for _ in range(number):
        size = some.choice(limits) + some.choice((0, -100, -200, -300, 300, some.randint(-2_000, 2_000)))
        found.append(replace(draw.record(), value=bytes(max(0, size))))
    return draw.shot(draw.batch(found), (service,))


def bombs(draw: Draw) -> Shot:
    """One record of megabytes of zeros, packed into kilobytes."""
    some = draw.random
    size = some.choice((1_000_000, 1_048_000, 1_100_000, 1_114_200, 3_000_000, 8_000_000))
    record = replace(draw.record(), value=bytes(size))
    before = [draw.record() for _ in range(some.choice((0, 0, 3)))]
    return draw.shot(draw.batch([*before, record, draw.record()], some.choice(list(Codec)[1:])))


def floods(draw: Draw) -> Shot:
    """A batch of kilobytes that unpacks to hundreds of megabytes, of records small enough to be passed on."""
    number = draw.random.choice((100, 200, 300))
    found = [(b"k%d" % i, 1_000_000) for i in range(number)]
    payload = zeros(found, window_log=draw.random.choice((17, 20, 27)))
    records = [RawRecord(key) for key, _ in found]
    return draw.shot(RawBatch(records, draw.now, Codec.ZSTD, payload=payload), ("bad-plain", "bad-slow"))


def deltas(draw: Draw) -> Shot:
    """Offset deltas that are not 0, 1, 2, ...: not checked by a broker where a batch is not packed."""
    some = draw.random
    found = [draw.record() for _ in range(some.randint(2, 60))]
    last = len(found) - 1
    forged: Sequence[int] = some.choice((
        range(last, -1, -1), [0] * len(found), [last] * len(found), [500_000 + i for i in range(len(found))],
        [-1 - i for i in range(len(found))], [2**31 - 1] * len(found), some.sample(range(len(found)), len(found)),
        [some.randint(-(2**31), 2**31 - 1) for _ in found], [2 * i for i in range(len(found))],
    ))  # fmt: skip
    records = [replace(record, offset_delta=delta) for record, delta in zip(found, forged, strict=True)]
    return draw.shot(draw.batch(records, some.choice((Codec.NONE, Codec.NONE, Codec.NONE, Codec.LZ4))))


def stamps(draw: Draw) -> Shot:
    """The gate's own stamps, job ids, attempts and times, forged."""

    def strange(record: RawRecord) -> RawRecord:
        return replace(record, headers=(*record.headers, *forgeries.stamped(draw.random, draw.now)))

    return draw.shot(draw.batch(draw.among(strange, part=0.5)))


def options(draw: Draw) -> Shot:
    """Cost, priority, tenant and deadline in every malformed form, and at the edges of the allowed ones."""

    def strange(record: RawRecord) -> RawRecord:
        return replace(record, headers=(*record.headers, *forgeries.wished(draw.random, draw.now)))

    return draw.shot(draw.batch(draw.among(strange, part=0.5)))


def tenants(draw: Draw) -> Shot:
    """A tenant of its own for each request."""

    def strange(record: RawRecord) -> RawRecord:
        return replace(record, headers=((b"gate-tenant", b"t%d" % draw.number),))

    return draw.shot(draw.batch(draw.among(strange, part=1.0)), (stage.TENANTS,))


def fields(draw: Draw) -> Shot:
    """Every other field of batch and record; the broker refuses many."""
    some = draw.random
    records = [replace(draw.record(), attributes=some.choice((0, 1, 0x80, 0xFF))) for _ in range(some.randint(1, 5))]
    return draw.shot(forgeries.altered(some, draw.batch(records), len(records)))


def forms(draw: Draw) -> Shot:
    """Records whose bytes are not as anybody writes them, packed in ways that nobody packs."""
    records = [draw.record() for _ in range(draw.random.randint(1, 5))]
    return draw.shot(forgeries.deformed(draw.random, draw.batch(records, Codec.NONE)))


def poison(draw: Draw) -> Shot:
    """What no gate or worker can read, on the topics of commands, of feedback and of retries."""
    topic = draw.random.choice((stage.NAMES.control, *stage.poisoned()))
    records = [forgeries.poisoned(draw.random, draw.record(), draw.now) for _ in range(draw.random.randint(1, 5))]
    return draw.at(topic, draw.batch(records))


# each kind's part of the records: a share of them, or one batch in so many records where each takes much
SHARES: Final[Mapping[Callable[[Draw], Shot], float]] = {
    plain: 0.16, keyless: 0.06, names: 0.10, times: 0.12, sizes: 0.03, deltas: 0.14, stamps: 0.10, options: 0.12,
    tenants: 0.12, fields: 0.02, forms: 0.02, poison: 0.01,
}  # fmt: skip
RARE: Final[Mapping[Callable[[Draw], Shot], int]] = {headers: 1_000, bombs: 2_000, floods: 20_000}
KINDS: Final = {make.__name__: make for make in (*SHARES, *RARE)}


def shots(seed: int, records: int, now_ms: int, only: Sequence[str] = (), each: int = 0) -> Iterator[Shot]:
    """Yield about `records` hostile records, in batches; `only`: of these kinds. `each`: so many of each kind instead.

    A kind's batches are the same ones, and in the same order, whatever else is sent.
    """
    left = {make: records * share for make, share in SHARES.items()}
    left |= {make: max(1, records // every) for make, every in RARE.items()}
    if each:
        left = dict.fromkeys(SHARES, each) | {make: max(1, each // 100) for make in RARE}
    left = {make: number for make, number in left.items() if not only or make.__name__ in only}
    if left and only and not each:
        scale = records / sum(left.values())
        left = {make: max(FEW, number) if make in RARE else number * scale for make, number in left.items()}
    draws = {make: Draw(make.__name__, seed, now_ms) for make in left}
    sizes = dict.fromkeys(left, 1.0)  # of a kind's batches, about
    order = Random(f"hostile {seed}")
    while left:
        (make,) = order.choices(list(left), [number / sizes[make] for make, number in left.items()])
        shot = make(draws[make])
        taken = 1 if make in RARE else len(shot.batch)
        left[make] -= taken
        sizes[make] += (taken - sizes[make]) / 8
        if left[make] <= 0:
            del left[make]
        yield shot


def many_tenants(seed: int, number: int, now_ms: int, batch: int = 2_000) -> Iterator[Shot]:
    """Yield a request of each of `number` tenants, in large packed batches."""
    draw = Draw("tenants", seed, now_ms)
    for first in range(0, number, batch):
        last = min(number, first + batch)
        found = [RawRecord(b"k", b"v", ((b"gate-tenant", b"tenant-%d" % i),)) for i in range(first, last)]
        yield draw.shot(RawBatch(found, now_ms, Codec.LZ4), (stage.TENANTS,))
