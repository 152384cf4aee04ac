"""The trace context of a request: the headers `traceparent` and `tracestate` of W3C Trace Context, which pass through.

https://www.w3.org/TR/trace-context-2/#traceparent-header
"""

import re
from typing import Final

from gate.protocol.headers import Headers

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_SAMPLED: Final = 1  # the lowest bit of the flags
_FORM: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")


def sampled_trace(headers: Headers) -> str | None:
    """Return the id of the trace that a request is part of, if that is recorded; of a header given twice the last."""
    value = None
    for name, text in headers:
        if name == TRACEPARENT:
            value = text
    found = value and _FORM.fullmatch(value)
    return found[1].decode() if found and int(found[2], 16) & _SAMPLED else None


def trace_context(headers: Headers) -> dict[str, str]:
    """Return what OpenTelemetry's propagators read."""
    return {
        name: value.decode("ascii", "replace")
        for name, value in headers
        if value is not None and name in {TRACEPARENT, TRACESTATE}
    }
