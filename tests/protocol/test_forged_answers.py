"""Answers and audit that no gate has written: whoever reads them refuses nonsense, at a bounded cost."""

import msgspec
import pytest

from gate.cli.audit import _line
from gate.cli.commanded import as_json, in_words
from gate.console.commanded import Commanded
from gate.protocol.answers import MOST_BYTES, Answer, Audit, decode_answer, decode_audit, encode
from tests.console.conftest import usage_of

NOW_MS = 1_764_000_000_000
HUGE = (-1, -(10**4_000), 2**53 + 1, 10**4_000)
ANSWER = {"command": "c", "service": "pay", "state": "working", "at": NOW_MS, "what": "cancel", "who": "ann"}
AUDIT = {"at": NOW_MS, "what": "set-limit", "service": "pay", "command": "c", "result": "done"}
NONSENSE = (None, True, -1, 10**4_000, 2**53 - 2, 1e300, "x" * 10_000, [], [[1]], {}, {"done": {}})


def json(value: object) -> bytes:
    return msgspec.json.encode(msgspec.Raw(_text(value).encode()))


def _text(value: object) -> str:
    """Write what msgspec does not: numbers of any size."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(name)}:{_text(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else msgspec.json.encode(value).decode()


@pytest.mark.parametrize("field", ["done", "of", "gone", "skipped", "at", "version", "cleared"])
@pytest.mark.parametrize("value", HUGE, ids=["negative", "very negative", "too large", "far too large"])
def test_a_count_that_no_gate_can_have_is_no_answer(field, value):
    with pytest.raises(ValueError, match="Expected `int"):
        decode_answer(json({**ANSWER, field: value}))
    if field == "at":
        with pytest.raises(ValueError, match="Expected `int"):
            decode_audit(json({**AUDIT, field: value}))


@pytest.mark.parametrize("decode", [decode_answer, decode_audit])
def test_what_is_longer_than_any_gate_writes_is_neither(decode):
    record = ANSWER if decode is decode_answer else AUDIT
    with pytest.raises(ValueError, match=f"{MOST_BYTES}"):
        decode(json({**record, "why": "x" * MOST_BYTES}))


def test_the_longest_that_a_gate_writes_can_be_read():
    longest = "\x01" * 4_096
    said = {"selection": dict.fromkeys(("id", "producer_id", "key", "tenant", "lane"), longest), "to": longest}
    audit = Audit(NOW_MS, "move", "s" * 249, "c" * 64, "w" * 1_024, reason="\x01" * 1_024, said=said)
    assert decode_audit(encode(audit)) == audit
    answer = Answer("c" * 64, "s" * 249, "done", NOW_MS, 2**53, 2**53, 2**53, why="w" * 10_000, because="b" * 1_024)
    assert decode_answer(encode(answer)) == answer


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("what", ["set-limit", "clear-limit", "import-limits", "pause", "resume", "cancel", "?"])
def test_an_audit_of_nonsense_can_be_shown(what, nonsense):
    fields = ("selection", "tenant", "all", "done", "of", "until_ms", "requests_per_second", "limit")
    for said in (dict.fromkeys(fields, nonsense), {"selection": {"tenant": nonsense}, "of": nonsense}):
        value = json({**AUDIT, "what": what, "said": said, "before": said, "after": said})
        known, audit = Commanded(), decode_audit(value)
        known.take_audit(audit)
        known.take_answer(decode_answer(json(ANSWER)))
        assert "\n" not in _line(audit)
        assert list(in_words(known, usage_of("pay"), NOW_MS, paused=True))
        assert msgspec.json.encode(as_json(known, usage_of("pay"), NOW_MS, paused=True))
        assert len(known.audits("pay")) == 1
        assert known.audits("pay", "nobody") == []
