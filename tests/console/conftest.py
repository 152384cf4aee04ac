from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gate.admission.model import LaneUsage, LimitUsage, Usage
from gate.console.group import Group
from gate.observe.usage import encode, to_json
from gate.protocol import answers
from tests.console.browser import Browser, browsing, chromium

AT_MS = 1_764_025_123_456
MS = 1_000_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("no Chromium on this machine: `make test-tools` installs it where apt is")
    with browsing() as running:
        yield running


@pytest.fixture
def group():
    return Group()


def usage_of(service: str) -> Usage:
    """Return a usage as an engine tells it."""
    return Usage(
        service=service, at=AT_MS * MS, policy="9f2c01", limits=(LimitUsage(f"{service}.rate", 150, 100.0, 0.4),),
        requests_per_second=99.5, units_per_second=120.0, offered_per_second=180.0, tokens=90.0, window_fill=0.0,
        lanes=(LaneUsage("default", 1.0, 0, 0, 1, 0.0),), totals=(), breach_since=None, last_refusal=None,
        paused_until=None, in_flight=None, tenants=4, unknown_lanes=0,
    )  # fmt: skip


@pytest.fixture
def tell(group):
    """Have a gate tell the usage of a service: fields of `Usage`, and how many wait for how many seconds."""

    def told(
        service, *, backlog=0, eta: float | None = 0.0, owner="a:1", shard=0, at_ms=AT_MS, beside=None, **fields: Any
    ):
        lanes = (LaneUsage("default", 1.0, backlog, backlog, 1, eta),)
        usage = replace(usage_of(service), **{"at": at_ms * MS, "lanes": lanes, **fields})
        beside = {"undecided": None, "undecided_age_seconds": None, "waiting": []} | (beside or {})
        record = {**to_json(usage), **beside, "shard": shard, "owner": owner}
        group.take_usage(service.encode(), encode(record))

    return told


@pytest.fixture
def audited(group):
    def told(what, service, **fields):
        group.take_audit(answers.encode(answers.Audit(AT_MS, what, service, "c1", **{"result": "done", **fields})))

    return told


@pytest.fixture
def alerted(group):
    def told(record, at_ms=AT_MS):
        group.take_alert(dict(record.headers), record.value, at_ms)

    return told
