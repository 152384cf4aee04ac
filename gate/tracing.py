"""Tracing: spans of a request's way by OpenTelemetry, where that is installed and somebody records them.

Programs that are the gate's own (`gate run`, `gate submit`, `gate worker`, `Worker.main`) set the exporter up that the
OTEL_* variables name; in an application's process its own one is used. Otherwise nothing here does anything.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from gate.log import get_logger
from gate.protocol.headers import Headers
from gate.protocol.traces import TRACEPARENT

if TYPE_CHECKING:
    from gate.spans import RequestSpans

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Header = tuple[str, bytes | None]

log = get_logger("gate.tracing")


def is_asked_for() -> bool:
    """Tell whether the environment says where spans are to go; OpenTelemetry's default, localhost, is none here."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter != "none" if exporter else any(os.environ.get(name) for name in _ENDPOINTS)


def _is_known() -> bool:
    """Tell whether this process has to do with OpenTelemetry; else its import would be for nothing."""
    return "opentelemetry.trace" in sys.modules


def start(program: str) -> None:
    """Export the spans of this process as the OTEL_* variables say; without any, do nothing.

    `program` is the resource's `service.name` unless they name another. What is set up already stays. A gate admits
    without spans rather than not at all, so what is wrong is logged.
    """
    if not is_asked_for():
        return
    try:
        from gate.span_exporter import set_up  # noqa: PLC0415 - an optional extra
    except ImportError:
        log.warning(
            "OTEL_* variables ask for spans, and OpenTelemetry is not installed; there will be none",
            hint="pip install 'kafka-admission-gate[otel]', or set OTEL_SDK_DISABLED=true",
        )
        return
    try:
        set_up(program)
    except Exception as error:  # noqa: BLE001 - whatever an exporter finds wrong with its variables
        log.warning("spans can't be exported; there will be none", why=str(error), hint="check the OTEL_* variables")


def request_spans() -> "RequestSpans | None":
    """Return what records a gate's decisions; None: nobody records."""
    if not _is_known():
        return None
    from gate.spans import RequestSpans, is_recording  # noqa: PLC0415 - an optional extra

    return RequestSpans() if is_recording() else None


@contextmanager
def sending(topic: str, headers: Sequence[Header]) -> Iterator[Sequence[Header]]:
    """Hold the span of a send open, with the headers that tell of it.

    Headers with a `traceparent` of their own stay as they are, and there is no span.
    """
    if not _is_known() or any(name == TRACEPARENT for name, _ in headers):
        yield headers
        return
    from gate.spans import send  # noqa: PLC0415 - an optional extra

    with send(topic, headers) as traced:
        yield traced


def working(topic: str, headers: Headers, *, job: str, attempt: int) -> AbstractContextManager[object]:
    """Continue the trace of a job, if it is part of one, as the current span."""
    if not _is_known() or all(name != TRACEPARENT for name, _ in headers):
        return nullcontext()
    from gate.spans import work  # noqa: PLC0415 - an optional extra

    return work(topic, headers, job=job, attempt=attempt)
