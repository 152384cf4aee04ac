"""Commands are read strictly: whatever is not one is said to be so, and changes nothing."""

import pytest

from gate.protocol.control import PauseUntil, Resume, SetLimit, WriteFormat, decode, encode
from gate.protocol.policies import LiveLimit


@pytest.mark.parametrize(
    "command",
    [
        PauseUntil(1_764_000_000_000),
        PauseUntil(0, "acme"),
        PauseUntil(2**53 - 1),
        Resume(),
        Resume("ünïcode"),
        WriteFormat(2),
        SetLimit("pay", LiveLimit("50"), for_ms=5_000),
    ],
)
def test_round_trip(command):
    assert decode(encode(command)) == command


def test_the_documented_form():
    assert decode(b'{"command": "pause-until", "until": 1764000000000, "tenant": "acme"}') == PauseUntil(
        1764000000000, "acme"
    )
    assert decode(b'{"command": "resume"}') == Resume()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"pause",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"command": "stop"}',
        b'{"until": 5}',
        b'{"command": "pause-until"}',
        b'{"command": "pause-until", "until": "soon"}',
        b'{"command": "pause-until", "until": -1}',
        b'{"command": "pause-until", "until": 1e300}',
        b'{"command": "pause-until", "until": 5, "for": 3}',
        b'{"command": "pause-until", "until": 5, "tenant": "' + b"x" * 300 + b'"}',
        b'{"command": "resume", "tenant": 7}',
        b'{"command": "write-format"}',
        b'{"command": "write-format", "format": 0}',
        b'{"command": "write-format", "format": 2, "tenant": "acme"}',
    ],
)
def test_what_is_no_command_says_why(value):
    with pytest.raises(ValueError, match=r".+"):
        decode(value)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (b'{"requests_per_second": "50", "until_ms": 1764000000000}', "say `for_ms`, beside `limit`"),
        (b'{"requests_per_second": "50", "until_ms": -5}', "say `for_ms`, beside `limit`"),
        (b"{}", "`limit` sets nothing"),
    ],
)
def test_a_limit_of_which_nothing_would_be_heeded_is_refused(limit, why):
    with pytest.raises(ValueError, match=why):
        decode(b'{"command": "set-limit", "service": "pay", "limit": %b}' % limit)
