"""Tells what shards do: to the metrics, the HTTP board, the log, and as records for the alerts and usage topics."""

import json
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from gate.admission.model import Event, EventKind, Usage
from gate.errors import GateError
from gate.kafka.ports import Outgoing
from gate.observe import alerts
from gate.observe.alerts import AlertRecord
from gate.observe.http import Board
from gate.observe.metrics import Metrics
from gate.observe.usage import encode, to_json

LOUD_AFTER: Final = 3  # failures in a row; one or two are a rebalance or a broker that restarts

log = structlog.get_logger("gate")


class Reporter:
    """`shard.Observer` for a running gate."""

    def __init__(self, metrics: Metrics, board: Board, prefix: str, max_skew: float) -> None:
        self.metrics = metrics
        self.board = board
        self._prefix = prefix
        self._max_skew = max_skew
        self._skewed = False
        self.notify: Callable[[AlertRecord], None] = lambda _: None

    def lagged(self, service: str, decision: Iterable[float], release: Iterable[float]) -> None:
        """Take samples of lags, seconds."""
        self.metrics.lagged(service, decision, release)

    def malformed(self, service: str, requests: Iterable[str]) -> None:
        """Count and log requests whose headers can't be read."""
        told = list(requests)
        self.metrics.malformed(service, len(told))
        log.warning("rejected malformed requests", service=service, count=len(told), first=told[0])

    def committed(self, seconds: float) -> None:
        """Count a committed batch."""
        self.metrics.committed(seconds)

    def failed(self, shard: int, error: BaseException, failures: int) -> None:
        """Log why a shard starts anew."""
        self.metrics.failed()
        say = log.warning if failures < LOUD_AFTER else log.error
        hint = error.hint if isinstance(error, GateError) else None
        say("shard starts anew", shard=shard, failures=failures, why=str(error) or type(error).__name__, hint=hint)
        if failures == LOUD_AFTER:
            self.notify(alerts.shard_failed(shard, str(error), failures, time.time_ns(), self._prefix))

    def usage(self, usage: Usage, shard: int) -> Outgoing:
        """Show the newest usage of a service. Returns it as a record, which also tells the shard."""
        self.metrics.usage(usage)
        shown = self.board.usage[usage.service] = to_json(usage)
        return Outgoing(usage.service.encode(), encode({**shown, "shard": shard}), None, [])

    def forget(self, service: str) -> None:
        """Drop what was told of a service: it has another owner, or starts anew."""
        self.metrics.forget(service)
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

    def encode_event(self, event: Event) -> Outgoing:
        """Return the alert of a breach event, and log it."""
        if event.kind in {EventKind.OPENED, EventKind.RESOLVED}:
            log.info(
                f"breach {event.kind.value}", service=event.service, limit=event.limit, refused=event.refused,
                backlog=event.backlog,
            )  # fmt: skip
        record = alerts.of_event(event, self._prefix)
        return Outgoing(record.key, record.value, None, list(record.headers))


def shard_in(record: bytes) -> int | None:
    """Return the shard that a usage record tells; None where it tells none."""
    try:
        shard = json.loads(record)["shard"]
    except (ValueError, KeyError, TypeError):
        return None
    return shard if isinstance(shard, int) else None
