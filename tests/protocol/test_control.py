"""Commands are read strictly: whatever is not one is said to be so, and changes nothing."""

import pytest

from gate.protocol.control import PauseUntil, Resume, WriteFormat, decode, encode


@pytest.mark.parametrize(
    "command",
    [
        PauseUntil(1_764_000_000_000),
        PauseUntil(0, "acme"),
        PauseUntil(2**53 - 1),
        Resume(),
        Resume("ünïcode"),
        WriteFormat(2),
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
