import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from gate.admission.model import Reason, Total, Verdict
from gate.observe.metrics import Metrics
from gate.observe.outcomes import outcomes
from gate.policy import parse_policy

CONTRACT = {
    "gate_requests_total",
    "gate_backlog_requests",
    "gate_eta_seconds",
    "gate_tokens",
    "gate_window_fill_ratio",
    "gate_decision_lag_seconds_count",
    "gate_release_lag_seconds_count",
    "gate_breach_active",
    "gate_transactions_total",
    "gate_rebalances_total",
    "gate_build_info",
    "gate_undecided_requests",
    "gate_undecided_age_seconds",
    "gate_shard_waiting",
}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return Metrics(registry, "1.2.3")


def scrape(registry):
    """All samples as Prometheus would read them: (name, labels) -> value."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def names(registry):
    return {name for name, _ in scrape(registry)}


def test_all_names_of_the_contract_are_there(metrics, registry, usage):
    metrics.usage(usage())
    metrics.lagged("payments", [(0.1, None)], [(0.1, None)])
    metrics.undecided("payments", (3, 1.5))
    metrics.waiting(0, 0)
    assert names(registry) >= CONTRACT


def test_usage_becomes_series(metrics, registry, usage):
    metrics.usage(usage(offered_per_second=1.0))
    metrics.usage(usage())
    samples = scrape(registry)
    service = ("service", "payments")
    batch = (("priority", "batch"), service)
    assert samples["gate_backlog_requests", batch] == 700
    assert samples["gate_eta_seconds", batch] == 42.5
    assert samples["gate_tokens", (service,)] == 90
    assert samples["gate_window_fill_ratio", (service,)] == 0.95
    assert samples["gate_breach_active", (service,)] == 1
    assert samples["gate_offered_per_second", (service,)] == 180
    admitted = (("decision", "admitted"), ("priority", "batch"), ("reason", ""), service)
    delayed = (("decision", "delayed"), ("priority", "batch"), ("reason", "window"), service)
    assert samples["gate_requests_total", admitted] == 500  # at once, and later
    assert samples["gate_requests_total", delayed] == 1000


POLICY = """
services:
  plain: {requests_per_second: 1, window_size: null}
  strict: {requests_per_second: 1, overflow: reject, max_delay: 60, priorities: {hi: 6, low: 1}}
  held: {requests_per_second: 1, overflow: hold, max_in_flight: 5, worker_group: w}
  own: {tenants: {default: {requests_per_second: 1}}, group: bank}
groups: {bank: {requests_per_second: 5, burst_size: 5}}
"""
WAITS = {"rate", "window", "lane", "paused"}
ALWAYS = {"malformed", "unforwardable", "deadline", "never"}


@pytest.mark.parametrize(
    ("service", "lanes", "verdict", "waits", "ends"),
    [
        ("plain", {"default"}, "delayed", WAITS - {"window"}, ALWAYS),
        ("strict", {"hi", "low"}, "rejected", WAITS, ALWAYS | {"max-delay"}),
        ("held", {"default"}, "held", WAITS | {"in-flight"}, ALWAYS),
        ("own", {"default"}, "delayed", {"lane", "paused", "tenant", "group"}, ALWAYS),
    ],
)
def test_what_can_be_is_counted_from_the_start(metrics, registry, usage, service, lanes, verdict, waits, ends):
    """Or increase() would miss the first burst: it needs a sample from before it."""
    metrics.known(service, outcomes(parse_policy(POLICY).effective(service)))
    samples = {labels: value for (name, labels), value in scrape(registry).items() if name == "gate_requests_total"}
    told = {(dict(labels)["decision"], dict(labels)["reason"]) for labels in samples}
    once = {("admitted", ""), ("delayed", "scheduled")}
    assert told == once | {(verdict, why) for why in waits} | {("rejected", why) for why in ends}
    assert {dict(labels)["priority"] for labels in samples} == lanes | {""}
    assert set(samples.values()) == {0.0}
    counters = {name for name, labels in scrape(registry) if ("service", service) in labels}
    assert {
        "gate_feedback_total",
        "gate_gone_requests_total",
        "gate_deleted_request_offsets_total",
        "gate_release_lag_seconds_count",
        "gate_decision_lag_seconds_count",
    } <= counters

    lane = min(lanes)
    totals = (Total(lane, Verdict.ADMITTED, None, False, 7), Total("old", Verdict.ADMITTED, None, False, 2))
    metrics.usage(usage(service=service, totals=totals))
    metrics.refused(service, Reason.MALFORMED, 3)
    after = {labels: value for (name, labels), value in scrape(registry).items() if name == "gate_requests_total"}
    assert after.keys() > samples.keys()
    assert sum(after.values()) == 12


def test_what_is_unknown_is_not_made_up(metrics, registry, usage):
    lanes = tuple(lane.__class__(lane.name, lane.weight, 5, 5, 1, None) for lane in usage().lanes)
    metrics.usage(usage(tokens=None, breach_since=None, lanes=lanes))
    samples = scrape(registry)
    assert "gate_tokens" not in names(registry)
    assert samples["gate_breach_active", (("service", "payments"),)] == 0
    assert samples["gate_eta_seconds", (("priority", "batch"), ("service", "payments"))] == math.inf


def test_the_lag_of_a_traced_request_names_its_trace(metrics, registry):
    traced = "0af7651916cd43dd8448eb211c80319c"
    metrics.lagged("payments", [(0.02, traced), (0.3, None)], [(0.02, traced)])
    exemplars = {
        (family.name, sample.labels["le"]): sample.exemplar.labels
        for family in openmetrics_families(openmetrics(registry).decode())
        for sample in family.samples
        if sample.exemplar
    }
    lags = "gate_decision_lag_seconds", "gate_release_lag_seconds"
    assert exemplars == {(name, "0.025"): {"trace_id": traced} for name in lags}
    assert traced not in generate_latest(registry).decode(), "the older format has no place for it"


def test_what_happens_is_counted(metrics, registry):
    metrics.committed(0.02)
    metrics.committed(0.04)
    metrics.failed()
    metrics.rebalanced()
    metrics.refused("payments", "malformed", 2)
    metrics.refused("payments", "malformed", 1)
    metrics.clock(0.25, 0.001)
    assert scrape(registry)["gate_policy_last_reload_successful", ()] == 1
    metrics.policy_read(good=False)
    metrics.lagged("payments", [(0.02, None), (-0.5, None)], [])
    samples = scrape(registry)
    assert samples["gate_transactions_total", ()] == 2
    assert samples["gate_transaction_seconds_sum", ()] == pytest.approx(0.06)
    assert samples["gate_transaction_failures_total", ()] == 1
    assert samples["gate_rebalances_total", ()] == 1
    assert samples["gate_clock_skew_seconds", ()] == 0.25
    assert samples["gate_policy_last_reload_successful", ()] == 0
    assert samples["gate_build_info", (("version", "1.2.3"),)] == 1
    assert samples["gate_decision_lag_seconds_sum", (("service", "payments"),)] == 0.02  # a negative lag counts as none
    assert samples["gate_decision_lag_seconds_count", (("service", "payments"),)] == 2
    malformed = (("decision", "rejected"), ("priority", ""), ("reason", "malformed"), ("service", "payments"))
    assert samples["gate_requests_total", malformed] == 3


def test_a_forgotten_service_leaves_no_series(metrics, registry, usage):
    before = scrape(registry).keys()
    for service in ("payments", "reports"):
        metrics.known(service, [("", "admitted", "")])
        metrics.usage(usage(service=service))
        metrics.refused(service, "malformed", 1)
        metrics.lagged(service, [(0.1, None)], [(0.1, None)])
    metrics.forget("payments")
    metrics.forget("reports")
    metrics.forget("never-seen")
    assert scrape(registry).keys() == before


def test_what_is_undecided_is_told_as_long_as_it_is_known(metrics, registry, usage):
    metrics.usage(usage())
    metrics.undecided("payments", (3, 1.5))
    samples = scrape(registry)
    assert samples["gate_undecided_requests", (("service", "payments"),)] == 3
    assert samples["gate_undecided_age_seconds", (("service", "payments"),)] == 1.5
    metrics.forget("payments")
    assert "gate_undecided_requests" in names(registry), "its shard only restarts"
    metrics.undecided("payments", None)
    assert "gate_undecided_requests" not in names(registry)


def test_each_shard_of_this_gate_tells_how_many_of_its_partitions_stand(metrics, registry):
    metrics.waiting(3, 2)
    metrics.waiting(4, 0)
    assert scrape(registry)["gate_shard_waiting", (("shard", "3"),)] == 2
    assert scrape(registry)["gate_shard_waiting", (("shard", "4"),)] == 0
    metrics.waiting(3, None)
    metrics.waiting(3, None)
    assert ("gate_shard_waiting", (("shard", "3"),)) not in scrape(registry)


def test_no_label_is_a_tenant_or_a_limit(metrics, registry, usage):
    metrics.usage(usage())
    metrics.lagged("payments", [(0.1, None)], [(0.1, None)])
    labels = {label for _, pairs in scrape(registry) for label, _ in pairs}
    assert labels == {"service", "priority", "decision", "reason", "version", "le"}


def test_what_was_deleted_undecided_is_counted_and_a_restart_of_the_shard_takes_nothing_off():
    registry = CollectorRegistry()
    metrics = Metrics(registry, "1")
    metrics.known("pay", ())
    assert registry.get_sample_value("gate_deleted_request_offsets_total", {"service": "pay"}) == 0
    metrics.deleted("pay", 3)
    metrics.forget("pay")
    assert registry.get_sample_value("gate_deleted_request_offsets_total", {"service": "pay"}) is None
    metrics.known("pay", ())
    metrics.deleted("pay", 4)
    assert registry.get_sample_value("gate_deleted_request_offsets_total", {"service": "pay"}) == 7
