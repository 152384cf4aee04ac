"""The gate's metrics: one verb per thing that happens.

Names follow Prometheus' conventions. No label ever holds a key, a tenant or an id, so that the number of series is
bounded by the policy and not by the traffic.
"""

import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gate.admission.model import SECOND, Usage, Verdict

_BACKLOG: Final = "Requests that wait: in the delayed topic or, where they are held, in the request topic."
_ETA: Final = (
    "Until the last request that waits is admitted if nothing else comes; if none does, until one that comes now is; "
    "+Inf: not known."
)
_TOLD: Final = ("done", "retry", "given-up", "back-off", "repeated")  # what follows from what workers tell
_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics(Collector):
    """All metrics of one gate, in the registry given.

    What a service's newest usage says is turned into series when Prometheus asks, so a service that was forgotten
    leaves none behind, and `gate_requests_total` goes on where the service's former owner stopped.
    """

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        self._usage: dict[str, Usage] = {}
        self._known: dict[str, frozenset[tuple[str, str, str]]] = {}
        self._refused: dict[str, Tally[str]] = {}  # by service and reason
        self._undecided: dict[str, tuple[int, float]] = {}
        self._deleted: dict[str, int] = {}  # offsets, by service: of a gate, whoever owns it now
        self._decision_lag = Histogram(
            "gate_decision_lag_seconds",
            "From the arrival of a request in Kafka to the decision about it.",
            ["service"],
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._release_lag = Histogram(
            "gate_release_lag_seconds",
            "From the time promised to a delayed request to its admission.",
            ["service"],
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._transactions = Counter("gate_transactions", "Batches committed.", registry=registry)
        self._failures = Counter("gate_transaction_failures", "Batches that failed and are redone.", registry=registry)
        self._duration = Histogram(
            "gate_transaction_seconds",
            "From the start of a batch to its commit.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._rebalances = Counter("gate_rebalances", "Assignments of shards to this gate.", registry=registry)
        self._skew = Gauge("gate_clock_skew_seconds", "This host's clock minus the broker's.", registry=registry)
        self._error = Gauge(
            "gate_clock_error_seconds",
            "By how much the estimate of the broker's clock may be wrong.",
            registry=registry,
        )
        self._policy = Gauge(
            "gate_policy_last_reload_successful",
            "1; 0 while the policy file is refused and an older one is in force.",
            registry=registry,
        )
        self._policy.set(1)
        self._waiting = Gauge(
            "gate_shard_waiting",
            "Partitions of the shard that stand, as nothing is taken behind them or read of them; 0: all go on.",
            ["shard"],
            registry=registry,
        )
        self._feedback = Counter(
            "gate_feedback",
            "What workers told, by what became of it: done, retry, given-up, back-off, repeated; else why not.",
            ["service", "outcome"],
            registry=registry,
        )
        self._alone = Counter(
            "gate_owner_away_units",
            "Units that processes which share a limit let go, or refused, while no owner answered; service `*`: one "
            "without an entry of its own.",
            ["service", "outcome"],
            registry=registry,
        )
        self._unheard = Counter(
            "gate_lease_reports_ignored",
            "Records of `gate.leases` that no process which shares limits can have sent, by what is wrong with them.",
            ["reason"],
            registry=registry,
        )
        Info("gate_build", "The version that runs.", registry=registry).info({"version": version})
        registry.register(self)

    def usage(self, usage: Usage) -> None:
        """Take the newest usage of a service."""
        self._usage[usage.service] = usage

    def known(self, service: str, outcomes: Iterable[tuple[str, str, str]]) -> None:
        """Begin to count for a service: what can become of its requests, as lane, verdict and reason, is 0 so far."""
        self._known[service] = frozenset(outcomes)
        for histogram in (self._decision_lag, self._release_lag):
            histogram.labels(service)
        for told in _TOLD:
            self._feedback.labels(service, told)

    def went_alone(self, service: str, let_go: int, refused: int) -> None:
        """Count units that processes let go, and refused, without the owner of a limit."""
        for outcome, units in (("let-go", let_go), ("refused", refused)):
            self._alone.labels(service, outcome).inc(units)

    def unheard(self, reason: str, count: int) -> None:
        """Count records that no process can have sent that shares limits."""
        self._unheard.labels(reason).inc(count)

    def deleted(self, service: str, offsets: int) -> None:
        """Count what somebody deleted before it was decided."""
        self._deleted[service] = self._deleted.get(service, 0) + offsets

    def forget(self, service: str) -> None:
        """Drop all series of a service that this gate no longer owns."""
        self._usage.pop(service, None)
        for labels in [labels for labels in self._feedback._metrics if labels[0] == service]:  # noqa: SLF001
            self._feedback.remove(*labels)
        self._known.pop(service, None)
        self._refused.pop(service, None)
        for histogram in (self._decision_lag, self._release_lag):
            if (service,) in histogram._metrics:  # noqa: SLF001 - remove() of an unknown child warns or raises
                histogram.remove(service)

    def undecided(self, service: str, undecided: tuple[int, float] | None) -> None:
        """Take how many requests of a service are undecided, and for how many seconds at most; None: not known."""
        if undecided is None:
            self._undecided.pop(service, None)
        else:
            self._undecided[service] = undecided

    def refused(self, service: str, reason: str, count: int) -> None:
        """Count requests that no engine saw: their headers can't be read, or the broker takes no such record."""
        self._refused.setdefault(service, Tally())[reason] += count

    def lagged(
        self, service: str, decision: Iterable[tuple[float, str | None]], release: Iterable[tuple[float, str | None]]
    ) -> None:
        """Record lags, of decisions and of releases: seconds, and the id of a trace for the exemplar.

        Clocks differ, so below zero counts as zero.
        """
        for histogram, lags in ((self._decision_lag, decision), (self._release_lag, release)):
            child = histogram.labels(service)
            for lag, trace in lags:
                child.observe(max(0.0, lag), None if trace is None else {"trace_id": trace})

    def heard(self, service: str, counts: Mapping[str, int]) -> None:
        """Count what workers of a service told, by what became of it."""
        for outcome, count in counts.items():
            self._feedback.labels(service, outcome).inc(count)

    def committed(self, seconds: float) -> None:
        """Count a committed batch, and how long it took."""
        self._transactions.inc()
        self._duration.observe(seconds)

    def failed(self) -> None:
        """Count a batch that failed."""
        self._failures.inc()

    def rebalanced(self) -> None:
        """Count an assignment of shards."""
        self._rebalances.inc()

    def policy_read(self, *, good: bool) -> None:
        """Note whether the policy file, as it is now, is in force."""
        self._policy.set(good)

    def waiting(self, shard: int, partitions: int | None) -> None:
        """Note how many partitions of a shard stand; None: this gate does not own it any more."""
        if partitions is not None:
            self._waiting.labels(str(shard)).set(partitions)
        elif (str(shard),) in self._waiting._metrics:  # noqa: SLF001 - as in `forget`
            self._waiting.remove(str(shard))

    def clock(self, skew: float, error: float) -> None:
        """Take this host's clock minus the broker's, and the bound of the estimate's error; seconds."""
        self._skew.set(skew)
        self._error.set(error)

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry finds doubles."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Turn the newest usage of each service into series."""
        requests = CounterMetricFamily(
            "gate_requests",
            "Decisions by service, lane, verdict and reason. One that waited counts again when it goes.",
            labels=["service", "priority", "decision", "reason"],
        )
        backlog = _gauge("gate_backlog_requests", _BACKLOG, "priority")
        eta = _gauge("gate_eta_seconds", _ETA, "priority")
        tokens = _gauge("gate_tokens", "Units in the service's token bucket.")
        fill = _gauge("gate_window_fill_ratio", "How full the fullest window is, 0 to 1.")
        left = _gauge("gate_quota_left_units", "Units that a calendar quota has left until it renews.", "limit")
        renews = _gauge("gate_quota_renews_timestamp_seconds", "When a calendar quota renews, unix time.", "limit")
        rate = _gauge("gate_admitted_per_second", "Requests admitted per second, lately.")
        offered = _gauge("gate_offered_per_second", "Requests that came per second, lately.")
        breach = _gauge("gate_breach_active", "1 while a breach is open.")
        tenants = _gauge("gate_tenants", "Tenants that are told apart now, and limits that others share.")
        shared = CounterMetricFamily(
            "gate_shared_tenant_requests", "Requests of tenants beyond max_tenants, which share limits.",
            labels=["service"],
        )  # fmt: skip
        running = _gauge("gate_running_requests", "Requests that run, where `max_running` limits them.")
        undecided = _gauge("gate_undecided_requests", "Requests in the request topic that are not decided yet.")
        age = _gauge("gate_undecided_age_seconds", "How long the oldest of these has waited; 0: there are none.")
        for service, (count, seconds) in sorted(self._undecided.items()):
            undecided.add_metric([service], count)
            age.add_metric([service], seconds)
        scheduled = _gauge("gate_scheduled_requests", "Requests that wait for a time of their own (`gate-start`).")
        remembered = _gauge("gate_deduplicate_ids", "Ids that are remembered, where each may come only once.")
        forgotten = CounterMetricFamily(
            "gate_deduplicate_forgotten", "Ids that had to make room for newer ones before their time (`at_most`).",
            labels=["service"],
        )  # fmt: skip
        gone = CounterMetricFamily(
            "gate_gone_requests", "Requests that waited, and that somebody deleted from the delayed topic.",
            labels=["service"],
        )  # fmt: skip
        deleted = CounterMetricFamily(
            "gate_deleted_request_offsets",
            "Offsets of the request topic that somebody deleted (retention, or by hand) before they were decided.",
            labels=["service"],
        )  # fmt: skip
        for service, usage in sorted(self._usage.items()):
            for lane in usage.lanes:
                backlog.add_metric([service, lane.name], lane.backlog)
                eta.add_metric([service, lane.name], math.inf if lane.eta_seconds is None else lane.eta_seconds)
            if usage.tokens is not None:
                tokens.add_metric([service], usage.tokens)
            fill.add_metric([service], usage.window_fill)
            for limit in usage.limits:
                if limit.left is not None and limit.renews_at is not None:
                    left.add_metric([service, limit.name], limit.left)
                    renews.add_metric([service, limit.name], limit.renews_at / SECOND)
            rate.add_metric([service], usage.requests_per_second)
            offered.add_metric([service], usage.offered_per_second)
            breach.add_metric([service], usage.breach_since is not None)
            tenants.add_metric([service], usage.tenants)
            scheduled.add_metric([service], usage.scheduled)
            if usage.running is not None:
                running.add_metric([service], usage.running)
            if usage.remembered is not None:
                remembered.add_metric([service], usage.remembered)
        for service in sorted(self._known.keys() | self._usage.keys() | self._refused.keys()):
            told = self._usage.get(service)
            for (priority, verdict, reason), count in sorted(self._totals(service, told).items()):
                requests.add_metric([service, priority, verdict, reason], count)
            forgotten.add_metric([service], 0 if told is None else told.forgotten)
            gone.add_metric([service], 0 if told is None else told.gone)
            deleted.add_metric([service], self._deleted.get(service, 0))
            shared.add_metric([service], 0 if told is None else told.shared_tenant_requests)
        families = [requests, backlog, eta, tokens, fill, left, renews, rate, offered, breach]
        return [*families, running, undecided, age, tenants, shared, gone, deleted, scheduled, remembered, forgotten]

    def _totals(self, service: str, usage: Usage | None) -> Tally[tuple[str, str, str]]:
        """Return how often each outcome was, and 0 for those that can be and were not."""
        totals: Tally[tuple[str, str, str]] = Tally(dict.fromkeys(self._known.get(service, ()), 0))
        for total in () if usage is None else usage.totals:
            totals[total.lane, total.verdict, total.reason or ""] += total.requests
        for reason, count in self._refused.get(service, {}).items():
            totals["", Verdict.REJECTED, reason] += count
        return totals


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["service", *labels])
