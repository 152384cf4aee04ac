import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.protocol.feedback import (
    BackOff,
    Done,
    Failed,
    Finished,
    Heard,
    Ignored,
    Place,
    bounded,
    encode,
    place_of,
    read,
)

TOPIC = "gate.admitted.payments"
KEY = b"gate.admitted.payments-3@17"
WELL = {"outcome": "failed", "group": "g", "attempt": 1, "error": "no"}


@pytest.mark.parametrize(
    "outcome",
    [
        Done(group="g", attempt=1),
        Failed(group="g", attempt=2, error="OSError: nö\n", retry_after=0.5, cost=2**63 - 1, settled=17),
        Failed(group="g", attempt=2, error=""),
        BackOff(group="g", attempt=1, seconds=30, settled=4),
    ],
)
def test_what_is_told_is_heard(outcome):
    assert read(KEY, encode(outcome), TOPIC, 3) == Heard(17, outcome)


def test_what_later_versions_add_is_passed_over():
    assert read(KEY, json.dumps(WELL | {"host": "h"}).encode(), TOPIC, 3) == Heard(
        17, Failed(group="g", attempt=1, error="no")
    )


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        (None, WELL, "place"),
        (b"", WELL, "place"),
        (b"gate.admitted.payments-3@-1", WELL, "place"),
        (b"gate.admitted.payments-3@017", WELL, "place"),
        (b"gate.admitted.payments-3@17\n", WELL, "place"),
        (b"gate.admitted.payments-3@" + b"9" * 400, WELL, "place"),
        (b"gate.admitted.payments-2@17", WELL, "place"),
        (b"gate.admitted.others-3@17", WELL, "place"),
        (b"gate.requests.payments-3@17", WELL, "place"),
        (b"\xff\xfe-3@17", WELL, "place"),
        (KEY, None, "unreadable"),
        (KEY, b"", "unreadable"),
        (KEY, b"\xff", "unreadable"),
        (KEY, b"[" * 16_000, "unreadable"),
        (KEY, b'{"x":' * 3_000, "unreadable"),
        (KEY, b" " * 16_385, "oversize"),
        (KEY, WELL | {"outcome": "resumed"}, "unreadable"),
        (KEY, WELL | {"attempt": 0}, "unreadable"),
        (KEY, WELL | {"attempt": 2**31}, "unreadable"),
        (KEY, WELL | {"attempt": 1.5}, "unreadable"),
        (KEY, WELL | {"group": ""}, "unreadable"),
        (KEY, WELL | {"group": "g" * 256}, "unreadable"),
        (KEY, WELL | {"retry_after": -1}, "unreadable"),
        (KEY, WELL | {"cost": 0}, "unreadable"),
        (KEY, json.dumps(WELL | {"retry_after": float("nan")}).encode(), "unreadable"),
        (KEY, json.dumps(WELL).replace("no", "\\ud800").encode(), "unreadable"),
        (KEY, b'{"outcome":"back-off","group":"g","attempt":1,"seconds":1e999}', "unreadable"),
    ],
)
def test_what_is_no_feedback_is_told_apart(key, value, kind):
    read_ = read(key, json.dumps(value).encode() if isinstance(value, dict) else value, TOPIC, 3)
    assert isinstance(read_, Ignored)
    assert read_.kind == kind
    assert read_.why


@given(st.none() | st.binary() | st.just(KEY), st.none() | st.binary())
def test_nothing_at_all_makes_reading_fail(key, value):
    assert isinstance(read(key, value, TOPIC, 3), Heard | Ignored)


def test_a_place_is_read_as_it_is_written():
    place = Place("a-b.c_d-1", 0, 10**17)
    assert place_of(str(place).encode()) == place


@given(st.text(st.characters()))
def test_any_error_can_be_told(error):
    told = bounded(error)
    assert len(told) <= 1_000
    assert msgspec.json.decode(encode(Failed(group="g", attempt=1, error=told)), type=Failed).error == told


@pytest.mark.parametrize("key", [None, b"", b"gate.admitted.pay-3@17", b"whatever"])
def test_what_has_ended_is_told_by_ids_alone(key):
    ended = Finished(["gate.requests.pay-3@17", "gate.retries.pay-0@2"])
    assert encode(ended) == b'{"outcome":"finished","ids":["gate.requests.pay-3@17","gate.retries.pay-0@2"]}'
    assert read(key, encode(ended), "gate.admitted.pay", 3) == ended


@pytest.mark.parametrize("ids", ["[]", "[1]", "null", '"gate.requests.pay-3@17"', '["x", null]', str(["x"] * 1001)])
def test_what_names_no_requests_ends_none(ids):
    value = b'{"outcome": "finished", "ids": %b}' % ids.replace("'", '"').encode()
    assert isinstance(read(None, value, "gate.admitted.pay", 3), Ignored)
    assert isinstance(read(b"gate.admitted.pay-3@17", value, "gate.admitted.pay", 3), Ignored)
