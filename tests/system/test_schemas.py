"""The documents of topics and of `/v1` are as the models say, and name all there is; what flows is held against them
in tests/console/test_actions.py."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from prometheus_client import CollectorRegistry

from gate.admission.model import Event, EventKind, LaneUsage, LimitUsage, PausedTenant, Reason, Refusal
from gate.observe import alerts
from gate.observe.http import Board, HttpServer
from gate.observe.usage import encode, to_json
from gate.protocol.policies import LimitSet
from gate.protocol.topics import Templates
from tests.console.conftest import AT_MS, usage_of

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("schemas", DOCS / "schemas.py")
schemas = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(schemas)


@pytest.mark.parametrize("name", schemas.WRITTEN)
def test_a_document_is_as_the_models_say(name):
    written = json.loads((DOCS / "reference" / name).read_text())
    assert written == json.loads(json.dumps(schemas.WRITTEN[name]())), "run: .venv/bin/python docs/schemas.py"


def test_each_topic_has_a_channel():
    assert set(schemas.asyncapi()["channels"]) == set(Templates.__dataclass_fields__)


def test_each_path_of_v1_is_described():
    server = HttpServer("127.0.0.1", 0, Board(), CollectorRegistry())
    app = server._server.config.app._app
    served = {route.path.replace(":path", "") for route in app.routes if route.path.startswith("/v1/")}
    of_console = {"/v1/pressure", "/v1/policy", "/v1/services/{service}/limits"}
    assert served | of_console == set(schemas.openapi()["paths"])


def test_usage_in_full_fits():
    full = replace(
        usage_of("pay"), limits=(LimitUsage("pay.day", 10, 1.0, 0.5, 5, AT_MS),),
        last_refusal=Refusal(AT_MS, Reason.RATE, "pay.rate"), paused_tenants=(PausedTenant("acme", None),),
        lanes=(LaneUsage("default", 1.0, 3, 3, 1, None),), limit_set=LimitSet({"burst_size": 5}, AT_MS, "ann", "more"),
        group_limit_set=LimitSet({"requests_per_second": "5/h"}, group="both"),
    )  # fmt: skip
    written, schema = json.loads(encode(to_json(full))), {**schemas.asyncapi(), "$ref": "#/components/schemas/Usage"}
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"limits": "none"}, schema)


def test_each_alert_fits():
    at = AT_MS * 1_000_000
    breach = Event(EventKind.OPENED, "pay", "pay.rate", Reason.RATE, at, at, 3, 5.0, 3, 1.0, 1.0, "9f2c01")
    place = {
        "service": "pay",
        "topic": "t",
        "partition": 0,
        "offset": 1,
        "since": at,
        "reason": "x",
        "remedy": "y",
        "shard": 1,
    }
    told = [
        *(alerts.of_event(replace(breach, kind=kind)) for kind in EventKind),
        alerts.policy_refused("p", "1", "x", at, gate="a:1"), alerts.policy_accepted("p", "1", at),
        alerts.shard_failed(1, "x", 3, at), alerts.shard_recovered(1, at), alerts.clock_skewed("a", 9.0, at),
        alerts.owner_away("pay", 3, 2, at),
        alerts.partition_waiting(at=at, **place), alerts.partition_resumed(at=at, **place),
    ]  # fmt: skip
    document = schemas.asyncapi()
    names = {name for name in document["components"]["schemas"] if name.startswith("Alert")}
    for record in told:
        kind = dict(record.headers)["ce_type"]
        name = schemas._alert_name(kind if isinstance(kind, str) else kind.decode())
        jsonschema.validate(json.loads(record.value), {**document, "$ref": f"#/components/schemas/{name}"})
        names.discard(name)
    assert names == set()
