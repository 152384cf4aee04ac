"""Spans of a gate's decisions: which there are, in which trace, from when to when."""

import inspect
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gate import spans as spans_module
from gate.protocol.headers import parse_stamp
from gate.shard.records import Fetched, Partition
from gate.spans import RequestSpans
from gate.units import MS
from tests.shard.memory import ADMITS, NOW, Kafka, running, until
from tests.sim.log import Stored

REQUESTS = Partition("gate.requests.pay", 0)
SLOW = "services: {pay: {requests_per_second: 1000, burst_size: 1, window_size: 1}}"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CREATED = NOW // MS - 7


def traced(flags="01", trace_id=TRACE):
    return ("traceparent", f"00-{trace_id}-{SPAN}-{flags}".encode()), ("tracestate", b"a=1")


def requests(*headers, created=CREATED):
    stored = [Stored(n, created, b"k", b"%d" % n, tuple(own)) for n, own in enumerate(headers)]
    return Fetched(stored, len(stored), 100 * len(stored))


@pytest.fixture
def exporter(monkeypatch):
    """Where the spans of this process go during a test; a provider of the whole process could not be taken back."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def span_of(exporter, name):
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


async def decide(policy, *headers, **options):
    kafka = Kafka()
    async with running(kafka, policy) as (shard, around):
        around.observer.decided = RequestSpans().take
        await until(lambda: shard.ready and REQUESTS in around.source.followed)
        around.source.put(REQUESTS, requests(*headers, **options))
        await until(lambda: len(kafka.ids("gate.admitted.pay") + kafka.ids("gate.rejected.pay")) == len(headers))
    return kafka


async def test_a_request_that_waits_has_two_spans_that_meet(exporter):
    kafka = await decide(SLOW, (), traced())
    (parked,) = map(parse_stamp, kafka.stamps("gate.delayed.pay"))
    _, admitted = map(parse_stamp, kafka.stamps("gate.admitted.pay"))
    decide_span, wait_span = span_of(exporter, "decide pay"), span_of(exporter, "wait pay")
    assert (decide_span.start_time, decide_span.end_time) == (CREATED * MS, parked.at_ms * MS)
    assert (wait_span.start_time, wait_span.end_time) == (parked.at_ms * MS, admitted.at_ms * MS)
    assert parked.at_ms < admitted.at_ms
    for span in (decide_span, wait_span):
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == SPAN
        assert span.context.trace_state["a"] == "1"
        assert span.attributes["gate.id"] == admitted.id
        assert span.attributes["gate.policy"] == admitted.policy
    told = [decide_span.attributes[f"gate.{name}"] for name in ("decision", "reason", "limit", "attempt")]
    assert told == ["delayed", "rate", "pay.rate", 1]
    assert (wait_span.attributes["gate.decision"], wait_span.attributes["gate.attempt"]) == ("admitted", 2)
    for topic in ("delayed", "admitted"):
        record = kafka.logs[Partition(f"gate.{topic}.pay", 0)][-1]
        assert tuple(record[3][:2]) == traced(), "passed through"


async def test_who_is_not_sampled_has_no_span(exporter):
    await decide(SLOW, (), traced("00"), traced(trace_id="0" * 32), (("traceparent", b"\xff\x00"),))
    assert not exporter.get_finished_spans()


async def test_a_request_that_can_t_be_read_has_a_span_that_says_so(exporter):
    await decide(ADMITS, [*traced(), ("gate-cost", b"none")])
    span = span_of(exporter, "decide pay")
    assert (span.attributes["gate.decision"], span.attributes["gate.reason"]) == ("rejected", "malformed")


async def test_a_producer_whose_clock_is_ahead_makes_no_span_that_ends_before_it_begins(exporter):
    await decide(ADMITS, traced(), created=NOW // MS + 3_600_000)
    span = span_of(exporter, "decide pay")
    assert span.start_time == span.end_time


async def test_their_number_is_bounded(exporter, monkeypatch):
    monkeypatch.setattr(spans_module, "SPANS_PER_SECOND", 3)
    told = []
    monkeypatch.setattr(spans_module, "log", SimpleNamespace(warning=lambda *_, **fields: told.append(fields)))
    recorder = RequestSpans()
    decisions = [
        SimpleNamespace(service="pay", stamp=parse_stamp(b'admitted;id="a-0@1";at=%d;attempt=1;policy="1"' % at),
                        since_ms=at, headers=traced())
        for at in (1_000, 1_500, 1_999, 1_999, 1_999, 2_000)
    ]  # fmt: skip
    recorder.take(iter(decisions[:5]))
    assert len(exporter.get_finished_spans()) == 3
    recorder.take(iter(decisions[4:5]))
    recorder.take(iter(decisions[5:]))
    assert len(exporter.get_finished_spans()) == 4
    assert [fields["per_second"] for fields in told] == [3], "once"


async def test_without_a_recorder_nothing_is_looked_at():
    """The decisions are told as an iterator: who asks for none pays for none."""
    kafka, asked = Kafka(), []
    async with running(kafka, ADMITS) as (shard, around):
        around.observer.decided = asked.append
        await until(lambda: shard.ready and REQUESTS in around.source.followed)
        around.source.put(REQUESTS, requests(traced()))
        await until(lambda: asked)
    assert inspect.getgeneratorstate(asked[0]) == inspect.GEN_CREATED
