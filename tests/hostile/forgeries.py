"""Parts of hostile records: names, stamps and options that no honest client writes."""

import gzip
import json
from dataclasses import replace
from random import Random
from struct import pack as packed
from typing import Final

from aiokafka import codec

from tests.hostile import stage
from tests.hostile.encoding import (
    CONTROL,
    DELETE_HORIZON,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    Codec,
    Headers,
    RawBatch,
    RawRecord,
    plain,
    varint,
    zstd_of_runs,
)

NAMES: Final = (
    b"\xff\xfe", b"", b"\0", b"\x7f\x1b[2J", b"n" * 40_000, "ключ".encode(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xc0\x80", b"gate-cost\xff", b"gate\xff", b"GATE", b"gate ", b"traceparent", b"ce_id", b"a\nb", b"\xe2\x82",
)  # fmt: skip
VALUES: Final = (None, b"", b"\xff", b"1", b"x" * 5_000)
NUMBERS: Final = (
    b"0", b"-1", b"1", b"01", b"+1", b"1.0", b"1e3", b"NaN", b"Infinity", b"9223372036854775807",
    b"9223372036854775808", b"9" * 5_000, b"", None, b"\xff", "٣".encode(), b" 1", b"1 ", b"0x10", b"1_000", b"true",
    b"\0",
)  # fmt: skip
TEXTS: Final = (
    b"", None, b"\xff", b"no such lane", b"default", b"x" * 64, b"x" * 65, b"x" * 256, b"x" * 257, b"x" * 10_000,
    "\u202etxet".encode(), b"a/b", b"a\nb", b"\0", "т".encode() * 128, b"../..", b"%00", b'"', b"\\", b"{}",
)  # fmt: skip
STAMPED: Final = (
    b'admitted;id="{topic}-0@7";at={now};attempt=1;policy="9f2c01"',
    b'delayed;id="{topic}-0@7";at=1;attempt=1;policy=""',
    b'rejected;id="x";at={now};attempt=%d;policy="1";reason=never' % 2**70, b"admitted", b"", None, b"\xff\xff",
    b'admitted;id="{topic}-0@99999999999999999999";at=99999999999999999999;attempt=99999999999999999999;policy=""',
    b'admitted;id="' + b"x" * 20_000, b'delayed;id="a\\"b";at=1;attempt=1;policy="p"', b"admitted;" * 3_000,
    b'delayed;id="hostile.requests.shop-0@0";at={now};attempt=1;policy="p"',
)  # fmt: skip
JOBS: Final = (b"hostile.requests.shop-0@0", b"", None, b"\xff", b"x" * 1_000, b"hostile.requests.bad-plain-0@0")


def named(some: Random) -> Headers:
    """Return headers of strange names, some of them twice."""
    found = tuple((some.choice(NAMES), some.choice(VALUES)) for _ in range(some.choice((1, 1, 2, 5))))
    return found * some.choice((1, 1, 3))


def stamped(some: Random, now: int) -> Headers:
    """Return forged headers of the gate's own."""
    topic = stage.NAMES.requests(some.choice((*stage.FOES, *stage.INNOCENT))).encode()
    stamp = some.choice(STAMPED)
    if stamp is not None:
        stamp = stamp.replace(b"{topic}", topic).replace(b"{now}", b"%d" % now)
    choices: Headers = (
        (b"gate", stamp),
        (b"gate-job-id", some.choice(JOBS)),
        (b"gate-attempt", some.choice(NUMBERS)),
        (b"retry-after", some.choice((*NUMBERS, b"Fri, 31 Dec 1999 23:59:59 GMT"))),
        (b"gate-not-before", some.choice((*NUMBERS, b"%d" % (now + 10**9)))),
        (b"gate-error", some.choice(TEXTS)),
        (b"gate-id", some.choice(TEXTS)),
    )
    found = tuple(some.sample(choices, some.randint(1, len(choices))))
    return found * some.choice((1, 1, 2))


def wished(some: Random, now: int) -> Headers:
    """Return options; most of them can't be read."""
    dates = (now + 5_000, now - 5_000, now + 10**10, 99_999_999_999, 253_402_300_800_000)
    deadlines = (*NUMBERS, *(b"%d" % date for date in dates))
    choices: Headers = (
        (b"gate-cost", some.choice((*NUMBERS, b"1", b"2", b"3"))),
        (b"gate-priority", some.choice(TEXTS)),
        (b"gate-tenant", some.choice(TEXTS)),
        (b"gate-deadline", some.choice(deadlines)),
    )
    found = tuple(some.sample(choices, some.randint(1, 3)))
    return found * some.choice((1, 1, 2))


def altered(some: Random, batch: RawBatch, count: int) -> RawBatch:
    """Return a batch with one to three fields changed."""
    changes: tuple[dict[str, int], ...] = (
        {"base_offset": some.choice((-1, 1, 2**63 - 1, 123))},
        {"leader_epoch": some.choice((-2, 0, 77, 2**31 - 1))},
        {"newest": some.choice((-1, 0, batch.timestamp + 10**9))},
        {"attributes": some.choice((LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON, 0x80, 0x4000, 5, 7))},
        {"attributes": DELETE_HORIZON},
        {"producer_id": 4_000 + some.randrange(5), "producer_epoch": some.choice((0, 1)), "sequence": 0},
        {"producer_id": some.randrange(2**40), "producer_epoch": 0, "sequence": 0},
        {"producer_id": 5, "producer_epoch": -1, "sequence": -1},
        {"producer_id": -2, "producer_epoch": 3, "sequence": 2**31 - 1},
        {"last_offset_delta": some.choice((count, count + 4, 2**31 - 1, 0, -1))},
        {"count": some.choice((0, -1, count + 1, max(0, count - 1)))},
        {"checksum": 1},
        {"timestamp": some.choice((-5, -(2**62), 2**62))},
    )
    found: dict[str, int] = {}
    for change in some.sample(changes, some.choice((1, 1, 1, 2, 3))):
        found |= change
    return replace(batch, **found)  # type: ignore[arg-type]


def deformed(some: Random, batch: RawBatch) -> RawBatch:
    """Return a batch whose records, or whose packing, have a form that no client gives them."""
    good = plain(batch.records)
    zero = b"\x80\x80\x80\x80\x00"
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    packings: tuple[tuple[Codec, bytes], ...] = (
        (Codec.NONE, good + b"\0"),
        (Codec.NONE, good[:-1]),
        (Codec.GZIP, gzip.compress(good[:5], mtime=0) + gzip.compress(good[5:], mtime=0)),
        (Codec.GZIP, gzip.compress(good, 0, mtime=0) + b"\0" * 1_000),
        (Codec.GZIP, gzip.compress(good, mtime=0)[:-3]),
        (Codec.SNAPPY, bytes(codec.snappy_encode(good, xerial_compatible=False))),
        (Codec.SNAPPY, bytes(codec.snappy_encode(good, xerial_blocksize=7))),
        (Codec.LZ4, bytes(codec.lz4_encode(good)) + skipped),
        (Codec.ZSTD, zstd_of_runs([good], window_log=27)),
        (Codec.ZSTD, zstd_of_runs([good], window_log=31)),
        (Codec.ZSTD, skipped + zstd_of_runs([good])),
        (Codec.ZSTD, zstd_of_runs([good[:4]]) + zstd_of_runs([good[4:]])),
        (Codec.ZSTD, b"\xff" * 20),
    )
    bodies = (  # attributes, late, delta, key, value, headers
        b"\0\0\0\x01\x01\x01",  # -1 headers
        b"\0\0\0\x05\x01\x00",  # a key of -3 bytes
        b"\0\0\0\x01\xfe\xff\xff\xff\x0f\x00",  # a value of 2**31 - 1 bytes
        b"\0\0\0\x01\x01\x02\x01\x01",  # a header without a name
        b"\0" + zero + b"\0\x01" + zero + zero,  # an empty value; zeros written at length
    )
    if some.random() < 0.5:
        how, payload = some.choice(packings)
        return replace(batch, codec=how, payload=payload)
    body = some.choice(bodies)
    return RawBatch(batch.records[:1], batch.timestamp, some.choice((Codec.NONE, Codec.LZ4, Codec.ZSTD))).with_payload(
        varint(len(body)) + body
    )


def poisoned(some: Random, record: RawRecord, now: int) -> RawRecord:
    """Return what nobody can read where commands, feedback and retries are read."""
    service = some.choice((*stage.FOES, *stage.INNOCENT)).encode()
    values = (
        None, b"", b"{", b"\xff" * 100, b"[" * 50_000, b'{"command": "pause-until"}', b'{"command": "nonsense"}',
        b'{"command": "pause-until", "until": %d}' % 10**400, b'{"command": "resume", "tenant": "\\ud800"}', b"1e999",
        json.dumps({"command": "pause-until", "until": "soon", "tenant": "x" * 1_000}).encode(), packed(">q", now),
        b'{"done": {"topic": "x", "offset": -1}}', b'{"failed": 1}', b'"' + b"x" * 300_000 + b'"',
    )  # fmt: skip
    headers = named(some) + (stamped(some, now) if some.random() < 0.5 else ())
    key = some.choice((service, None, b"", b"\xff", b"nosuch", b"x" * 20_000))
    return replace(record, key=key, value=some.choice(values), headers=headers if some.random() < 0.7 else ())
