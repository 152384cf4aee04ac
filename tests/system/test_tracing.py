"""One request's way as a trace: submitted, decided, parked, admitted and worked by processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.system.gates import create, gate, header, read_count, send, stamp, until

POLICY = (
    "services: {pay: {requests_per_second: 0.5, burst_size: 1}, strict: {requests_per_second: 0, overflow: reject}}"
)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP receiver over HTTP, as any collector is one."""

    def __init__(self) -> None:
        self.spans = []  # (service.name, span)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, request):
        for of in request.resource_spans:
            program = {attribute.key: attribute.value.string_value for attribute in of.resource.attributes}
            spans = chain.from_iterable(scope.spans for scope in of.scope_spans)
            self.spans += [(program["service.name"], span) for span in spans]

    def named(self, name):
        return [(program, span) for program, span in self.spans if span.name == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()


def attributes(span):
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@contextmanager
def command(*arguments, env):
    """Run a command of the gate, which must end well when it is told to."""
    program = subprocess.Popen([sys.executable, "-m", "gate", *arguments], env=env, stderr=subprocess.PIPE, text=True)
    try:
        yield program
        program.terminate()
        _, told = program.communicate(timeout=60)
        assert program.returncode == 0, told
    finally:
        program.kill()
        program.wait()


async def test_a_request_that_waits_is_one_trace_from_its_producer_to_its_worker(
    bootstrap, prefix, tmp_path, monkeypatch
):
    requests, strict = f"{prefix}.requests.pay", f"{prefix}.requests.strict"
    await create(bootstrap, requests, strict, partitions=1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms
    with collecting() as collector, gate(
        tmp_path, bootstrap, prefix, POLICY, "--http", "0",
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}"},
    ) as running:  # fmt: skip
        env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}"}
        until(running.is_ready, explain=running.text)
        at = ["--bootstrap", bootstrap, "--config", str(running.config)]
        subprocess.run(
            [sys.executable, "-m", "gate", "submit", "pay", "--count", "2", *at], env=env, check=True, timeout=100
        )
        await send(bootstrap, strict, [(b"k", b"", [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())])], partitions=1)
        with command("worker", "pay", *at, "--", "true", env=env):
            admitted = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 2)
            until(lambda: len(collector.named(f"process {prefix}.admitted.pay")) == 2, explain=running.text)
        until(lambda: len(collector.named("decide pay")) == 2 and collector.named("decide strict"))
        until(lambda: collector.named("wait pay"))
        (parked,) = await read_count(bootstrap, [f"{prefix}.delayed.pay"], 1)
        (rejected,) = await read_count(bootstrap, [f"{prefix}.rejected.strict"], 1)
        metrics = running.get("/metrics")
        assert running.stop() == 0, running.text()

    waited = next(record for record in admitted if stamp(record).attempt == 2)
    _, trace, parent, _ = header(waited, "traceparent").decode().split("-")
    assert header(parked, "traceparent") == header(waited, "traceparent"), "passed through"
    way = {span.name: (program, span) for program, span in collector.spans if span.trace_id.hex() == trace}
    sent, decided, waiting, worked = (
        f"send {requests}", "decide pay", "wait pay", f"process {prefix}.admitted.pay",
    )  # fmt: skip
    assert {name: program for name, (program, _) in way.items()} == {
        sent: "gate submit", decided: "gate", waiting: "gate", worked: "pay-workers",
    }  # fmt: skip
    spans = {name: span for name, (_, span) in way.items()}
    assert spans[sent].span_id.hex() == parent
    assert {name for name, span in spans.items() if span.parent_span_id.hex() == parent} == {decided, waiting, worked}
    ms = 1_000_000
    created, at_ms = stamp(waited).created_ms, stamp(waited).at_ms
    assert spans[decided].start_time_unix_nano == created * ms
    assert spans[decided].end_time_unix_nano == spans[waiting].start_time_unix_nano == stamp(parked).at_ms * ms
    assert spans[waiting].end_time_unix_nano == at_ms * ms
    assert spans[worked].end_time_unix_nano > at_ms * ms
    assert attributes(spans[worked])["gate.id"] == attributes(spans[waiting])["gate.id"] == stamp(waited).id

    ((_, refused),) = collector.named("decide strict")
    assert (refused.trace_id.hex(), refused.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(refused)["gate.decision"] == "rejected"
    assert header(rejected, "traceparent") == f"00-{TRACE}-{SPAN}-01".encode()
    assert TRACE not in metrics, "exemplars are for those who ask for OpenMetrics"
