"""Spans of sending and of work, and whether a process records any."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gate import tracing
from gate.protocol.traces import sampled_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = [("n", b"1"), ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]


@pytest.fixture
def exporter(monkeypatch):
    """Where the spans of this process go during a test; a provider of the whole process could not be taken back."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_a_send_tells_the_context_of_its_span_below_the_current_one(exporter):
    order = trace.get_tracer("app").start_as_current_span("order")
    with order as current, tracing.sending("gate.requests.pay", [("n", b"1")]) as headers:
        pass
    (sent,) = [span for span in exporter.get_finished_spans() if span.name == "send gate.requests.pay"]
    assert sent.kind is SpanKind.PRODUCER
    assert sent.parent.span_id == current.get_span_context().span_id
    own, (name, value) = headers
    assert (own, name) == (("n", b"1"), "traceparent")
    context = sent.context
    assert value.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-".encode())
    assert sampled_trace(headers) == f"{context.trace_id:032x}"


def test_a_send_that_fails_ends_its_span_as_an_error(exporter):
    with pytest.raises(TimeoutError), tracing.sending("gate.requests.pay", []):
        raise TimeoutError
    assert exporter.get_finished_spans()[0].status.status_code is StatusCode.ERROR


def test_a_traceparent_of_the_callers_own_stays_as_it_is(exporter):
    with tracing.sending("gate.requests.pay", PARENT) as headers:
        assert headers == PARENT
    assert not exporter.get_finished_spans()


def test_work_continues_the_trace_of_its_job_also_where_it_fails(exporter):
    with pytest.raises(ValueError, match="no"), tracing.working("gate.admitted.pay", PARENT, job="a-0@1", attempt=2):
        assert f"{trace.get_current_span().get_span_context().trace_id:032x}" == TRACE
        raise ValueError("no")
    (worked,) = exporter.get_finished_spans()
    assert (worked.name, worked.kind) == ("process gate.admitted.pay", SpanKind.CONSUMER)
    assert (f"{worked.parent.span_id:016x}", worked.status.status_code) == (SPAN, StatusCode.ERROR)
    assert (worked.attributes["gate.id"], worked.attributes["gate.job_attempt"]) == ("a-0@1", 2)


def test_work_that_is_part_of_no_trace_has_no_span(exporter):
    with tracing.working("gate.admitted.pay", [("n", b"1")], job="a-0@1", attempt=1):
        pass
    assert not exporter.get_finished_spans()


def test_where_nobody_records_nothing_is_added():
    with tracing.sending("gate.requests.pay", [("n", b"1")]) as headers:
        assert list(headers) == [("n", b"1")]
    assert tracing.request_spans() is None


_PROGRAM = """
import logging, sys
from gate import tracing
logging.basicConfig(format="%(message)s")
tracing.start("worker of mine")
assert "gate.client" not in sys.modules
print("recorder", tracing.request_spans() is not None, "imported", "opentelemetry.sdk" in sys.modules)
with tracing.sending("gate.requests.pay", []) as headers:
    print("sent", *(name for name, _ in headers))
"""


@pytest.mark.parametrize(
    ("variables", "outcome"),
    [
        ({}, ["recorder False imported False", "sent"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"},
         ["recorder False", "sent"]),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, ["recorder False imported False", "sent"]),
        ({"OTEL_TRACES_EXPORTER": "console"},
         ["recorder True", "sent traceparent", '"name": "send gate.requests.pay"', '"service.name": "worker of mine"']),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "another"}, ['"service.name": "another"']),
        ({"OTEL_TRACES_EXPORTER": "carrier-pigeon"}, ["no exporter 'carrier-pigeon' of traces", "recorder False"]),
    ],
)  # fmt: skip
def test_a_process_records_what_its_variables_ask_for(variables, outcome):
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env={"PATH": "/usr/bin"} | variables, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
    )  # fmt: skip
    for text in outcome:
        assert text in ran.stdout
    if "sent" in outcome:
        assert "traceparent" not in ran.stdout


def test_without_the_extra_a_process_says_so_and_goes_on():
    program = 'import sys\nsys.modules["opentelemetry.sdk"] = None\n' + _PROGRAM
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "/usr/bin", "OTEL_TRACES_EXPORTER": "console"}, check=True,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
    )  # fmt: skip
    assert "pip install 'kafka-admission-gate[otel]'" in ran.stdout
    assert "recorder False" in ran.stdout
