"""Reports of what shards do: to the metrics, the HTTP board, the log, and the alerts and usage topics."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import structlog

from gate.admission.model import Event, EventKind, Reason, Usage
from gate.errors import GateError, reason_of
from gate.kafka.aio.fencing import OtherOwnerError
from gate.kafka.undecided_requests import Undecided
from gate.observe import alerts
from gate.observe.alerts import AlertRecord
from gate.observe.http import Board
from gate.observe.metrics import Metrics
from gate.observe.open_alerts import Place
from gate.observe.outcomes import outcomes
from gate.observe.usage import encode, to_json
from gate.policy import ServicePolicy
from gate.protocol.headers import Malformed
from gate.shard.environment import Lag
from gate.shard.feedback_actions import FeedbackResult
from gate.shard.lease_reports import Ignored
from gate.shard.records import Outgoing, Partition
from gate.shard.stalled_partitions import StalledPartition, StalledPartitions
from gate.shard.traced_decisions import TracedDecision

LOUD_AFTER: Final = 3  # failures since requests last advanced, and
_NEWEST: Final = 0.05  # of the average
LOUD_SECONDS: Final = 15.0  # for so long: else it is a rebalance, or a broker that restarts

log = structlog.get_logger("gate")


class History(Protocol):
    """Who keeps what services were like."""

    def take(self, usage: Usage) -> None: ...  # noqa: D102
    def forget(self, service: str) -> None: ...  # noqa: D102


class SpanRecorder(Protocol):
    """Who records spans of the ways of requests."""

    def take(self, decisions: Iterator[TracedDecision]) -> None: ...  # noqa: D102


class Reporter:
    """`shard.Observer` for a running gate."""

    def __init__(
        self,
        metrics: Metrics,
        board: Board,
        prefix: str,
        max_skew: float,
        wall: Callable[[], int] = time.time_ns,
        local: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.metrics = metrics
        self.board = board
        self._prefix = prefix
        self._max_skew = max_skew
        self._skewed = False
        self._wall = wall
        self._local = local
        self.notify: Callable[[AlertRecord], None] = lambda _: None
        self.history: History | None = None
        self.spans: SpanRecorder | None = None
        self.generation = 1  # of the state
        self.name = f"{socket.gethostname()}:{os.getpid()}"  # of this gate
        self._stuck: dict[int, str] = {}  # shards that were alerted about, and why
        self._given_up: set[int] = set()  # shards that another gate owns now
        self._waits = StalledPartitions(prefix, self.name, self._send, wall)
        self._policy_refused = False  # the file as it is now
        self.has_refused_policy = False  # at any time
        self._commit_seconds = 0.0  # that a batch took of late, on the average
        self._undecided: dict[str, tuple[int, float]] = {}  # requests, and seconds that the oldest has waited
        self._parked: dict[str, int] = {}  # unix ms since when the oldest parked request waits
        self._ignored: set[tuple[str, str]] = set()  # services and kinds of fault that were logged

    def _send(self, record: AlertRecord) -> None:
        self.notify(record)

    def lagged(self, service: str, decision: Iterable[Lag], release: Iterable[Lag]) -> None:
        """Take samples of lags."""
        self.metrics.lagged(service, decision, release)

    def decided(self, traced: Iterator[TracedDecision]) -> None:
        """Record the decisions about requests that are part of a trace, where somebody records spans."""
        if self.spans is not None:
            self.spans.take(traced)

    def refused(self, service: str, requests: Sequence[Malformed]) -> None:
        """Count and log requests that can't go on: their headers can't be read, or the broker takes no such record."""
        for reason in sorted({request.reason for request in requests}):
            told = [str(request) for request in requests if request.reason == reason]
            self.metrics.refused(service, reason, len(told))
            if reason == Reason.DUPLICATE:  # nobody's mistake, and there may be many
                continue
            log.warning("requests rejected", reason=reason, service=service, count=len(told), first=told[0])

    def heard(self, service: str, partition: Partition, followed: FeedbackResult) -> None:
        """Count what followed from what workers told; of what can't be theirs, log each kind once."""
        self.metrics.heard(service, followed.counts)
        for offset, ignored in followed.ignored:
            if (service, ignored.kind) not in self._ignored:
                self._ignored.add((service, ignored.kind))
                log.warning(
                    "no worker of this service can have told that; ignored, and not logged again for this kind",
                    kind=ignored.kind, topic=partition.topic, partition=partition.number, offset=offset,
                    why=ignored.why,
                )  # fmt: skip

    def committed(self, seconds: float) -> None:
        """Count a committed batch."""
        self.metrics.committed(seconds)
        self._commit_seconds += (seconds - self._commit_seconds) * (_NEWEST if self._commit_seconds else 1.0)

    def failed(self, shard: int, error: BaseException, failures: int, stuck: float) -> None:
        """Log why a shard restarts; alert once if its requests do not advance."""
        self.metrics.failed()
        is_loud = failures >= LOUD_AFTER and stuck >= LOUD_SECONDS
        moved = isinstance(error, OtherOwnerError) and failures == 1  # as gates join and leave; no fault yet
        say = log.error if is_loud else log.info if moved else log.warning
        hint = error.hint if isinstance(error, GateError) else None
        why = reason_of(error)
        say("shard restarts", shard=shard, failures=failures, why=why, hint=hint)
        if is_loud and shard not in self._stuck:
            self._stuck[shard] = why
            self.notify(alerts.shard_failed(shard, why, failures, self._wall(), self._prefix, self.name))

    def advances(self, shard: int) -> None:
        """Say that the requests of a shard go on again. An alert that it failed ends by `gate.kafka.alert_watch`."""
        log.info("the requests of a shard go on", shard=shard)
        self._stuck.pop(shard, None)

    def waiting(self, shard: int, waiting: Sequence[StalledPartition], source: str = "outputs") -> None:
        """Show what waits on a shard by what `source` sees: all of it, each time; nothing: all goes on.

        It is logged once, at `/readyz` and in the metrics, an alert when it lasts, and again when it goes on.
        """
        if shard in self._given_up:  # who looks for what waits has begun before
            return
        if self._waits.take(shard, source, waiting, self._local()):
            self.board.waiting = [one.as_json() for one in self._waits]
        self.metrics.waiting(shard, self._waits.partitions(shard))

    def policy_refused(self, path: str, version: str, error: str) -> None:
        """Say that a changed policy file is broken, and that `version` stays in force."""
        self.metrics.policy_read(good=False)
        self._policy_refused = self.has_refused_policy = True
        log.error("policy refused; the old one stays", file=path, policy=version, why=error)
        self.notify(alerts.policy_refused(path, version, error, self._wall(), self._prefix, self.name))

    def policy_accepted(self, path: str, version: str) -> None:
        """Say that the policy file, as it is now, is in force; an alert where it was refused before."""
        self.metrics.policy_read(good=True)
        if self._policy_refused:
            self._policy_refused = False
            self.notify(alerts.policy_accepted(path, version, self._wall(), self._prefix, self.name))

    def taken(self, shard: int) -> None:
        """Begin to tell of a shard: this gate owns it now."""
        self._given_up.discard(shard)
        self.waiting(shard, ())

    def given_up(self, shard: int) -> None:
        """Drop what was told of a shard: it has another owner, which tells itself if it fails there, too."""
        self._given_up.add(shard)
        self._stuck.pop(shard, None)
        self._waits.drop(shard)
        self.board.waiting = [one.as_json() for one in self._waits]
        self.metrics.waiting(shard, None)

    def is_waiting(self, place: Place) -> bool:
        """Tell whether a partition waits at a request."""
        return any(one.place == place for one in self._waits)

    def remind(self) -> None:
        """Alert about what has waited for long; to be called now and then."""
        self._waits.remind(self._local())

    def usage(self, usage: Usage, shard: int) -> Outgoing:
        """Show the newest usage of a service. Returns it as a record, which also tells the shard."""
        self.metrics.usage(usage)
        if self.history is not None:
            self.history.take(usage)
        shown = to_json(usage) | self._beside(usage.service)
        self.board.usage[usage.service] = shown
        told = {
            **shown, "shard": shard, "generation": self.generation, "owner": self.name,
            "commit_seconds": round(self._commit_seconds, 4),
        }  # fmt: skip
        return Outgoing(usage.service.encode(), encode(told), None, [])

    def undecided(self, service: str, undecided: Undecided | None) -> None:
        """Show what of a service stands undecided in its request topic; None: it is not known, or another gate's."""
        if undecided is None:
            self._undecided.pop(service, None)
            self.metrics.undecided(service, None)
        else:
            age = 0.0 if undecided.since_ns is None else max(0, self._wall() - undecided.since_ns) / 1e9
            self._undecided[service] = undecided.requests, age
            self.metrics.undecided(service, (undecided.requests, age))
        if (shown := self.board.usage.get(service)) is not None:
            self.board.usage[service] = {**shown, **self._beside(service)}

    def parked(self, service: str, since_ms: int | None) -> None:
        """Show since when the oldest parked request of a service waits, unix ms; None: nothing does, or not known."""
        if since_ms is None:
            self._parked.pop(service, None)
        else:
            self._parked[service] = since_ms
        if (shown := self.board.usage.get(service)) is not None:
            self.board.usage[service] = {**shown, **self._beside(service)}

    def _beside(self, service: str) -> dict[str, Any]:
        """Return what there is to say of a service that its engine does not know."""
        requests, age = self._undecided.get(service, (None, None))
        waiting = [one.as_json() for one in self._waits.of(service)]
        since_ms = self._parked.get(service)
        return {
            "undecided": requests, "undecided_age_seconds": age, "waiting": waiting, "waiting_since_ms": since_ms,
        }  # fmt: skip

    def known(self, service: str, policy: ServicePolicy) -> None:
        """Begin to count for a service, at zero, before anything comes."""
        self.metrics.known(service, outcomes(policy))

    def forget(self, service: str) -> None:
        """Drop what was told of a service: it has another owner, or restarts."""
        self.metrics.forget(service)
        if self.history is not None:
            self.history.forget(service)
        self.board.usage.pop(service, None)

    def clock(self, skew: float, error: float) -> None:
        """Take this host's clock minus the broker's, and how wrong the estimate may be; seconds."""
        self.metrics.clock(skew, error)
        skewed = abs(skew) - error > self._max_skew
        if skewed and not self._skewed:
            log.error(
                "this host's clock is far from the broker's; decisions go by the broker's", seconds=round(skew, 1)
            )
            self.notify(alerts.clock_skewed(socket.gethostname(), skew, time.time_ns(), self._prefix))
        self._skewed = skewed

    def encode_away(self, service: str, let_go: int, refused: int, at: int) -> Outgoing:
        """Return the alert of what processes did without the owner of a limit, and log it."""
        log.warning(
            "processes that share a limit had no owner to ask; what they let go may be over it",
            service=service, let_go=let_go, refused=refused,
        )  # fmt: skip
        record = alerts.owner_away(service, let_go, refused, at, self._prefix)
        return Outgoing(record.key, record.value, None, list(record.headers))

    def went_alone(self, service: str, let_go: int, refused: int) -> None:
        """Count units that processes let go, and refused, without the owner of a limit."""
        self.metrics.went_alone(service, let_go, refused)

    def unheard(self, shard: int, ignored: Sequence[Ignored]) -> None:
        """Count records that no process can have sent that shares limits; log each kind once."""
        for kind in ignored:
            self.metrics.unheard(kind.reason, kind.reports)
            if ("", kind.reason) not in self._ignored:
                self._ignored.add(("", kind.reason))
                log.warning(
                    "no process that shares limits can have sent that; ignored, and not logged again for this kind",
                    kind=kind.reason, topic=f"{self._prefix}.leases", partition=shard, offset=kind.offset, why=kind.why,
                )  # fmt: skip

    def encode_event(self, event: Event) -> Outgoing:
        """Return the alert of a breach event, and log it."""
        if event.kind in {EventKind.OPENED, EventKind.RESOLVED}:
            log.info(
                f"breach {event.kind.value}", service=event.service, limit=event.limit, refused=event.refused,
                backlog=event.backlog,
            )  # fmt: skip
        record = alerts.of_event(event, self._prefix)
        return Outgoing(record.key, record.value, None, list(record.headers))


def shard_in(record: bytes, generation: int = 1) -> int | None:
    """Return the shard that a usage record tells; None where it tells none in this generation of the state."""
    try:
        told = json.loads(record)
        shard, of = told["shard"], told.get("generation", 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return shard if isinstance(shard, int) and of == generation else None
