from dataclasses import replace

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.protocol.headers import (
    MAX_CREATED,
    PLAIN,
    Malformed,
    Origin,
    RequestOptions,
    Stamp,
    StampTemplate,
    is_running,
    is_stamped,
    origin,
    original_id,
    parse_stamp,
    read_options,
    restamp,
    retry_after,
    source_of,
    stamped_retry_after,
)

EXAMPLE = b'admitted;id="gate.requests.payments-3@91823";at=1764025123456;attempt=2;policy="9f2c01"'


# What producers wish


@pytest.mark.parametrize(
    "headers", [(), [("traceparent", b"00-ab"), ("gate-id", b"\xff"), ("gate", b"x"), ("n", None)]]
)
def test_without_wishes_all_requests_share_one_value(headers):
    assert read_options(headers) is PLAIN


def test_wishes_are_read():
    headers = [
        ("gate-cost", b"3"),
        ("other", b"x"),
        ("gate-priority", b"batch"),
        ("gate-tenant", "Müller & Söhne".encode()),
        ("gate-deadline", b"1764025123456"),
    ]
    assert read_options(headers) == RequestOptions("batch", "Müller & Söhne", 3, 1764025123456)


def test_the_last_of_two_counts():
    assert read_options([("gate-cost", b"-1"), ("gate-cost", b"2")]) == RequestOptions(cost=2)
    assert read_options([("gate-cost", b"2"), ("gate-cost", b"-1")]) == Malformed(
        "gate-cost", "is '-1'; it must be an integer from 1 to 9223372036854775807"
    )


HOSTILE_INTEGERS = [b"0", b"-1", b"+1", str(2**63).encode(), b"9" * 5000, b"NaN", b"1e3", b" 1", b"1 ", b"1\n", b"01",
                    b"1_0", b"", b"\xff", "\uff11".encode(), None]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE_INTEGERS)
@pytest.mark.parametrize("header", ["gate-cost", "gate-deadline"])
def test_hostile_integers_are_malformed(header, value):
    options = read_options([(header, value)])
    assert isinstance(options, Malformed)
    assert options.header == header
    assert len(str(options)) < 200


def test_the_limits_of_integers():
    assert read_options([("gate-cost", str(2**63 - 1).encode())]) == RequestOptions(cost=2**63 - 1)
    assert read_options([("gate-deadline", b"253402300799999")]) == RequestOptions(deadline_ms=253402300799999)
    for other_unit in (b"1764025123", b"1764025123456000", b"1764025123456000000"):  # s, us, ns
        assert isinstance(read_options([("gate-deadline", other_unit)]), Malformed)


@pytest.mark.parametrize(
    ("header", "value", "why"),
    [
        ("gate-priority", b"x" * 65, "has 65 bytes; at most 64 are allowed"),
        ("gate-tenant", b"x" * 257, "has 257 bytes; at most 256 are allowed"),
        ("gate-tenant", b"\xc3", "is not UTF-8"),
        ("gate-tenant", b"\xed\xa0\x80", "is not UTF-8"),
        ("gate-priority", b"a\x00b", "holds control characters"),
        ("gate-tenant", b"a\n", "holds control characters"),
        ("gate-tenant", "\x85".encode(), "holds control characters"),
        ("gate-priority", None, "has no value"),
        ("gate-tenant", None, "has no value"),
    ],
)
def test_hostile_names_are_malformed(header, value, why):
    assert read_options([(header, value)]) == Malformed(header, why)


def test_the_limits_of_names():
    assert read_options([("gate-priority", b"x" * 64), ("gate-tenant", b"y" * 256)]) == RequestOptions(
        "x" * 64, "y" * 256
    )
    assert read_options([("gate-priority", b""), ("gate-tenant", b"")]) == PLAIN


@given(st.lists(st.tuples(st.sampled_from(["gate-cost", "gate-tenant", "gate-priority", "gate-deadline", "x"]),
                          st.none() | st.binary(max_size=300))))  # fmt: skip
def test_no_header_makes_reading_fail(headers):
    assert isinstance(read_options(headers), RequestOptions | Malformed)


# Stamps


def test_a_stamp_is_spelt_as_in_the_contract():
    stamp = Stamp("admitted", "gate.requests.payments-3@91823", 1764025123456, 2, "9f2c01", "window", "payments.window")
    assert stamp.encode() == EXAMPLE + b';reason=window;limit="payments.window"'
    assert parse_stamp(EXAMPLE) == Stamp("admitted", "gate.requests.payments-3@91823", 1764025123456, 2, "9f2c01")
    dated = replace(stamp, created_ms=1764025120000)
    assert dated.encode() == stamp.encode() + b";created=1764025120000"


stamps = st.builds(
    Stamp,
    st.sampled_from(["admitted", "delayed", "rejected"]),
    st.from_regex(r"[a-zA-Z0-9._-]{1,249}-[0-9]{1,5}@[0-9]{1,19}", fullmatch=True),
    st.integers(0, 10**15 - 1),
    st.integers(1, 10**15 - 1),
    st.text(),
    st.none() | st.sampled_from(["rate", "in-flight", "max-delay"]),
    st.none() | st.text(),
    st.none() | st.integers(0, MAX_CREATED),
)


@given(stamps)
def test_a_stamp_is_read_back_and_is_what_http_sf_reads(stamp):
    encoded = stamp.encode()
    assert encoded.isascii()
    assert parse_stamp(encoded) == stamp
    verdict, parameters = http_sf.parse(encoded, tltype="item")
    assert verdict == stamp.verdict
    assert list(parameters)[:4] == ["id", "at", "attempt", "policy"]
    assert str(parameters.get("limit")) == str(stamp.limit)
    assert parameters.get("created") == stamp.created_ms


@given(stamps)
def test_plain_text_is_encoded_as_http_sf_does(stamp):
    parameters = {"id": stamp.id, "at": stamp.at_ms, "attempt": stamp.attempt, "policy": "9f2c01"}
    if stamp.limit is not None and stamp.limit.isascii() and stamp.limit.isprintable():
        parameters["limit"] = stamp.limit
        plain = Stamp(stamp.verdict, stamp.id, stamp.at_ms, stamp.attempt, "9f2c01", None, stamp.limit)
    else:
        plain = Stamp(stamp.verdict, stamp.id, stamp.at_ms, stamp.attempt, "9f2c01")
    assert plain.encode().decode() == http_sf.ser((http_sf.Token(stamp.verdict), parameters))


def test_later_parameters_are_passed_over():
    assert parse_stamp(EXAMPLE + b";new=?1;newer=:YQ==:") == parse_stamp(EXAMPLE)


@pytest.mark.parametrize("created", [b"?1", b"-1", b'"5"', b"1.5", b"@5"])
def test_a_time_of_creation_that_is_none_is_passed_over(created):
    assert parse_stamp(EXAMPLE + b";created=" + created) == parse_stamp(EXAMPLE)
    assert origin([("gate", EXAMPLE + b";created=" + created)]).created == -1


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"admitted", b"allowed" + EXAMPLE[8:], EXAMPLE + b",", EXAMPLE.replace(b"attempt", b"attempts"),
     EXAMPLE.replace(b"at=1764025123456", b'at="x"'), EXAMPLE.replace(b"at=1764025123456", b"at=@1"), EXAMPLE[:-1],
     b"(a b)", b"?1"],
)  # fmt: skip
def test_what_is_no_stamp_is_refused(value):
    with pytest.raises(ValueError):
        parse_stamp(value)


@given(stamps, st.integers(0, 2**63 - 1))
def test_a_template_stamps_what_a_stamp_encodes(stamp, offset):
    created = -1 if stamp.created_ms is None else stamp.created_ms
    template = StampTemplate(
        stamp.verdict, stamp.at_ms, stamp.attempt, stamp.policy, reason=stamp.reason, limit=stamp.limit
    )
    assert template.stamp(stamp.id.encode(), created) == stamp.encode()
    stamped = template.stamp_at(source_of("gate.requests.a-b", 7), offset, created)
    assert parse_stamp(stamped) == replace(stamp, id=f"gate.requests.a-b-7@{offset}")


@pytest.mark.parametrize("created", [-1, -(2**63), 10**15, 2**63 - 1])
def test_a_time_that_no_stamp_can_hold_is_left_out(created):
    template = StampTemplate("admitted", 1764025123456, 2, "9f2c01")
    assert template.stamp(b"gate.requests.payments-3@91823", created) == EXAMPLE


# Putting stamps on records


def test_stamps_are_replaced_and_all_else_is_kept():
    before = [
        ("traceparent", b"00"),
        ("retry-after", b"8"),
        ("gate", b"old"),
        ("retry-after", b"9"),
        ("gate-not-before", b"9"),
        ("gate-id", b"\xff"),
        ("x", None),
        ("retry-after", None),
        ("gate", b"older"),
        ("x", b"twice"),
        ("gate-cost", b"2"),
    ]
    kept = [("traceparent", b"00"), ("retry-after", b"8"), ("gate-id", b"\xff"), ("x", None), ("retry-after", None),
            ("x", b"twice"), ("gate-cost", b"2")]  # fmt: skip
    assert restamp(tuple(before), b"new") == [*kept, ("gate", b"new")]
    stamped = [*kept, ("gate", b"new"), ("retry-after", b"2"), ("gate-not-before", b"1764025123456")]
    assert restamp(before, b"new", 2, 1764025123456) == stamped
    assert restamp(stamped, b"new", 2, 1764025123456) == stamped


def test_a_producers_retry_after_is_none_of_the_gates():
    own = [("retry-after", b"8"), ("gate-cost", b"2")]
    assert not is_stamped(own)
    assert stamped_retry_after(restamp(own, b"rejected")) is None
    assert stamped_retry_after(restamp(own, b"delayed", 2, 5)) == b"2"
    waited = restamp(restamp(own, b"delayed", 2, 5), b"admitted")
    assert waited == [*own, ("gate", b"admitted")]


@pytest.mark.parametrize(
    ("at", "not_before", "seconds"),
    [(1000, 1000, 0), (1000, 1001, 1), (1000, 2000, 1), (1000, 2001, 2), (5000, 1, 0), (0, 10**18, 10**15)],
)
def test_retry_after_is_rounded_up(at, not_before, seconds):
    assert retry_after(at, not_before) == seconds


@given(stamps)
def test_the_origin_of_a_record_is_in_its_stamp(stamp):
    headers = restamp([("traceparent", b"00"), ("n", None)], stamp.encode(), 1, 2)
    created = -1 if stamp.created_ms is None else stamp.created_ms
    assert origin(headers) == Origin(stamp.id.encode(), stamp.attempt, created)
    assert original_id(headers) == stamp.id


def test_a_tenant_named_like_a_time_of_creation_is_none():
    for name in (";created=5", '";created=5', ";created=5;a", "x;created=5\\"):
        stamp = Stamp("delayed", "t-0@1", 1, 1, "9f2c01", "tenant", f"pay.tenant.{name}")
        assert origin([("gate", stamp.encode())]).created == -1
        assert origin([("gate", replace(stamp, created_ms=7).encode())]).created == 7


@pytest.mark.parametrize("headers", [(), [("gate", None)], [("gate", b"nonsense")], [("x", EXAMPLE)]])
def test_without_a_stamp_there_is_no_origin(headers):
    assert origin(headers) is None
    assert original_id(headers) is None


@pytest.mark.parametrize("created_ms", [None, 1764025120000])
def test_a_stamp_says_that_a_request_runs(created_ms):
    runs = Stamp("admitted", "gate.requests.pay-3@9", 1764025123456, 1, "9f2c01", created_ms=created_ms, running=True)
    told = replace(runs, limit=";running", reason="rate", running=False)
    for stamp in (runs, told, replace(runs, running=False)):
        assert parse_stamp(stamp.encode()) == stamp
        assert is_running([("gate", stamp.encode())]) is stamp.running
        assert origin([("gate", stamp.encode())]).id == b"gate.requests.pay-3@9"
    assert not is_running([])
