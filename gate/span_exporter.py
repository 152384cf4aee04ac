"""The exporter of this process's spans, as the OTEL_* variables say. Imported only where the extra `otel` is installed.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from importlib.metadata import entry_points
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from gate.spans import is_recording

_GROUP: Final = "opentelemetry_traces_exporter"  # in which packages register theirs
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def set_up(program: str) -> None:
    """Export spans in batches of bounded size, which a thread sends. Raises ValueError where an exporter is missing.

    Left as it is where `opentelemetry-instrument`, or the application, has set one up.
    """
    if is_recording():
        return
    names = [name.strip().lower() for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    exporters = [_exporter(name) for name in names]
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if is_named else {SERVICE_NAME: program}))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        protocol = next((value for key in _PROTOCOLS if (value := os.environ.get(key))), "http/protobuf")
        name = _OTLP.get(protocol, protocol)
    registered = entry_points(group=_GROUP, name=name)
    if not registered:
        known = ", ".join(sorted(entry_points(group=_GROUP).names))
        raise ValueError(f"there is no exporter {name!r} of traces installed, only {known}")
    exporter: SpanExporter = next(iter(registered)).load()()
    return exporter
