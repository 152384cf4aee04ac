"""Files of limits by HTTP: what is none is refused before anything is sent."""

import pytest

from gate.client import ArgumentError
from gate.config import Connection
from gate.console import limit_uploads
from gate.console.limit_uploads import BusyError, LimitUploads, TooLongError

CSV = b'tenant,burst_size,quotas\nacme,5,"5/day, 9/month"\n'


async def body(*parts):
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("kind", "sent", "given", "why"),
    [
        ("", CSV, {}, "the body is of no kind"),
        ("application/json", CSV, {}, "the body is application/json"),
        ("text/csv", CSV, {"if_version": "new"}, "if_version is 'new'"),
        ("text/csv", b"", {}, "the body has no rows"),
        ("text/csv", b"tenant,requests_per_second\n", {}, "the body has no rows"),
        ("application/jsonl", b"", {}, "the body has no rows"),
        ("text/csv", b"\xff\xfe", {}, "the body is not UTF-8"),
        ("text/csv; charset=utf-8", b"tenant,speed\na,1\n", {}, "unknown column 'speed'"),
        ("text/csv", b"tenant,burst_size\na,many\n", {}, "the body:2: burst_size is 'many'"),
        ("text/csv", b"tenant,quotas\na,5/hour\n", {}, "the body:2: quotas: must be a limit for each day, week"),
        ("text/csv", b"service,tenant,burst_size\nother,a,1\n", {}, "the body:2: the service is 'other'"),
        ("application/x-ndjson", b"[]\n", {}, "line 1: unknown field"),
        ("application/x-ndjson", b"[" * 200_000, {}, "line 1 is no JSON"),
        ("application/x-ndjson", b'{"tenant":"a","burst_size":' + b"9" * 5_000 + b"}", {}, "line 1 is no JSON"),
        ("text/csv", b"tenant,burst_size,burst_size\na,1,2\n", {}, "a column comes twice"),
        ("text/csv", CSV + CSV[CSV.index(b"\n") + 1:], {}, "tenant 'acme' comes twice"),
    ],
)  # fmt: skip
async def test_what_is_no_file_of_limits_is_refused(kind, sent, given, why):
    with pytest.raises(ArgumentError, match=why):
        await LimitUploads(Connection("127.0.0.1:1")).take("pay", "ann", kind, body(sent), given, "id")


async def test_a_body_that_is_too_long_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(limit_uploads, "MOST_BYTES", 100)
    read = []

    async def endless():
        while True:
            read.append(1)
            yield b"x" * 30

    with pytest.raises(TooLongError):
        await LimitUploads(Connection("127.0.0.1:1")).take("pay", "ann", "text/csv", endless(), {}, "id")
    assert len(read) == 4


async def test_one_upload_is_read_at_a_time():
    uploads = LimitUploads(Connection("127.0.0.1:1"))
    async with uploads._reading:
        with pytest.raises(BusyError):
            await uploads.take("pay", "ann", "text/csv", body(CSV), {}, "id")


async def test_what_is_wrong_is_not_told_at_the_length_of_the_file():
    for kind, sent in (("text/csv", b"x" * 100_000), ("application/jsonl", b'{"' + rb"\u0001" * 100_000 + b'":1}')):
        with pytest.raises(ArgumentError) as raised:
            await LimitUploads(Connection("127.0.0.1:1")).take("pay", "ann", kind, body(sent), {}, "id")
        assert len(str(raised.value)) < 300
