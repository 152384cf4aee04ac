"""Spans of sending, of a gate's decisions, and of work. Imported only where OpenTelemetry's API is installed.

Names and attributes follow the semantic conventions for Kafka:
https://opentelemetry.io/docs/specs/semconv/messaging/kafka/
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gate.log import get_logger
from gate.protocol.headers import Headers, Stamp
from gate.protocol.traces import trace_context
from gate.units import MS

SPANS_PER_SECOND: Final = 200  # of a gate; at 100 us each they take 2 % of its processor
_W3C: Final = TraceContextTextMapPropagator()  # the form of the wire, whatever OTEL_PROPAGATORS says

log = get_logger("gate.tracing")


class TracedDecision(Protocol):
    """A decision about a request that is part of a trace; see `gate.shard.traced_decisions`."""

    @property
    def service(self) -> str: ...  # noqa: D102
    @property
    def stamp(self) -> Stamp: ...  # noqa: D102
    @property
    def since_ms(self) -> int: ...  # noqa: D102
    @property
    def headers(self) -> Headers: ...  # noqa: D102


def is_recording() -> bool:
    """Tell whether this process records spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _tracer() -> Tracer:
    return trace.get_tracer("gate")


@contextmanager
def send(topic: str, headers: Sequence[tuple[str, bytes | None]]) -> Iterator[Sequence[tuple[str, bytes | None]]]:
    """Hold a span open, below the current one if there is one, and yield the headers with its context."""
    attributes = _attributes(topic, "send")
    with _tracer().start_as_current_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes):
        context: dict[str, str] = {}
        _W3C.inject(context)
        yield [*headers, *((name, value.encode()) for name, value in context.items())]


def work(topic: str, headers: Headers, *, job: str, attempt: int) -> AbstractContextManager[Span]:
    """Return a span of work that continues a job's trace; what the work raises ends it as an error."""
    return _tracer().start_as_current_span(
        f"process {topic}",
        context=_W3C.extract(trace_context(headers)),
        kind=SpanKind.CONSUMER,
        attributes={**_attributes(topic, "process"), "gate.id": job, "gate.job_attempt": attempt},
    )


class RequestSpans:
    """Records a gate's decisions: `decide` from a request's arrival to the first, `wait` from one to the next.

    At most SPANS_PER_SECOND of them: beyond these some are left out, and what is left out is logged once.
    """

    def __init__(self) -> None:
        self._second = self._count = 0
        self._is_told = False

    def take(self, decisions: Iterator[TracedDecision]) -> None:
        """Record what was decided, up to the bound."""
        for decision in decisions:
            second = decision.stamp.at_ms // 1000
            if second != self._second:
                self._second, self._count = second, 0
            if self._count >= SPANS_PER_SECOND:
                self._tell()
                return
            self._count += 1
            _record(decision)

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            log.warning(
                "more requests are traced than spans are recorded; some have none, and this is not logged again",
                per_second=SPANS_PER_SECOND, hint="sample fewer where they are produced: OTEL_TRACES_SAMPLER",
            )  # fmt: skip


def _record(decision: TracedDecision) -> None:
    stamp, service = decision.stamp, decision.service
    attributes: dict[str, str | int] = {
        "gate.service": service, "gate.id": stamp.id, "gate.decision": stamp.verdict, "gate.attempt": stamp.attempt,
        "gate.policy": stamp.policy,
    }  # fmt: skip
    attributes |= {f"gate.{key}": text for key, text in (("reason", stamp.reason), ("limit", stamp.limit)) if text}
    span = _tracer().start_span(
        f"{'decide' if stamp.attempt == 1 else 'wait'} {service}",
        context=_W3C.extract(trace_context(decision.headers)),
        start_time=decision.since_ms * MS,
        attributes=attributes,
    )
    span.end(stamp.at_ms * MS)


def _attributes(topic: str, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "kafka", "messaging.destination.name": topic, "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }  # fmt: skip
