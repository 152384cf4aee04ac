import json

import pytest

from gate.admission.model import Binding, PausedTenant, Reason
from gate.limits import NEVER
from gate.observe.usage import FOREVER_MS, decode, encode, to_json


def test_a_usage_is_read_back(usage):
    for told in (
        usage(),
        usage(paused_until=NEVER, breach_since=None, last_refusal=None, tokens=None, lanes=(), totals=(), limits=()),
        usage(undecided=3, undecided_age_seconds=1.5, waiting=({"topic": "a", "partition": 3},)),
        usage(
            binding=Binding(Reason.TENANT, "payments.tenant.acme"),
            held=7,
            tenants_paused=2,
            paused_tenants=(PausedTenant("acme", 10**18), PausedTenant("beta", None)),
        ),
        usage(blocked_until=NEVER),
        usage(blocked_until=10**18),
        usage(in_flight=10**30, paused_until=0, service="Ünïcode"),
    ):
        assert decode(encode(to_json(told))) == told


def test_times_are_unix_ms(usage):
    record = to_json(usage(paused_until=NEVER))
    assert record["at_ms"] == 1764025123456
    assert record["breach_since_ms"] == 1764025118456
    assert record["last_refusal"] == {"at_ms": 1764025123455, "reason": "window", "limit": "payments.window.60s"}
    assert record["paused_until_ms"] == FOREVER_MS


def test_a_record_of_an_older_gate_is_read(usage):
    record = to_json(usage())
    for name in ("binding", "paused_tenants", "tenants_paused", "held"):
        del record[name]
    assert decode(encode(record)) == usage()


def test_the_record_holds_what_the_contract_promises(usage):
    record = json.loads(encode(to_json(usage())))
    assert record["backlog"] == 700
    assert record["eta_seconds"] == 42.5
    assert [(lane["name"], lane["backlog"], lane["eta_seconds"]) for lane in record["lanes"]] == [
        ("interactive", 0, 0.0),
        ("batch", 700, 42.5),
    ]
    assert record["limits"][1] == {"name": "payments.window.60s", "capacity": 6000, "per_second": 100.0, "usage": 0.95}


def test_a_later_gates_fields_are_passed_over(usage):
    record = json.loads(encode(to_json(usage()))) | {"new": {"x": 1}}
    assert decode(json.dumps(record).encode()) == usage()


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"null", b"{}", b'"x"', b"\xff", b'{"at_ms": "now"}', b'{"last_refusal": {}}', b'{"at_ms": 1}',
     b'{"x": ' + 100_000 * b"["],
)  # fmt: skip
def test_what_is_no_usage_is_refused(value):
    with pytest.raises(ValueError):
        decode(value)
