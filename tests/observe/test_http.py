import asyncio
import json
import signal

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gate.admission.model import Binding, PausedTenant, Reason
from gate.console.anonymous import usage_without_names
from gate.errors import GateError
from gate.observe.http import Board, HttpServer
from gate.observe.metrics import Metrics
from gate.observe.usage import to_json


@pytest.fixture
def board():
    return Board()


@pytest.fixture
async def client(board):
    registry = CollectorRegistry()
    Metrics(registry, "1.2.3")
    server = HttpServer("127.0.0.1", 0, board, registry)
    async with httpx.AsyncClient(base_url=await server.start()) as client:
        yield client
    await server.stop()


async def test_metrics_are_served_in_both_formats(client):
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert 'gate_build_info{version="1.2.3"} 1.0' in plain.text
    openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


async def test_readiness_says_what_is_missing(client, board):
    starting = await client.get("/readyz")
    assert (starting.status_code, starting.json()) == (503, {"ready": False, "reasons": ["gate is starting"]})
    board.faults = {}
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    board.faults = {"shard 3": "is being restored"}
    assert (await client.get("/readyz")).json()["reasons"] == ["shard 3 is being restored"]


async def test_a_gate_whose_partitions_stand_is_ready_and_says_so(client, board):
    board.faults = {}
    board.waiting = [{"topic": "gate.requests.pay", "partition": 3}]
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {"ready": True, "reasons": [], "status": "degraded", "waiting": board.waiting},
    )
    board.faults = {"shard 3": "is being taken over"}
    unready = await client.get("/readyz")
    assert (unready.status_code, unready.json()) == (
        503,
        {"ready": False, "reasons": ["shard 3 is being taken over"], "waiting": board.waiting},
    )


async def test_shards_that_wait_for_a_broker_are_named_and_no_reason_to_take_the_gate_away(client, board):
    board.faults, board.hindered = {}, {"shard 3": "broker 2 did not answer EndTxn for 3.1 s"}
    ready = await client.get("/readyz")
    told = ["shard 3: broker 2 did not answer EndTxn for 3.1 s"]
    assert (ready.status_code, ready.json()) == (
        200,
        {"ready": True, "reasons": [], "status": "degraded", "shards": told},
    )


async def test_readiness_is_as_of_now(client, board):
    """It was as of up to half a second ago: a gate that had just decided something said that it was starting."""

    def look() -> None:
        board.faults = {}

    board.look = look
    assert (await client.get("/readyz")).status_code == 200


async def test_health_fails_only_when_a_restart_helps(client, board):
    board.faults = {**board.faults, "broker": "does not answer"}
    assert (await client.get("/healthz")).status_code == 200
    board.broken = "the group was lost"
    broken = await client.get("/healthz")
    assert (broken.status_code, broken.text) == (503, "the group was lost")
    assert (await client.get("/readyz")).json()["reasons"] == [
        "the group was lost",
        "gate is starting",
        "broker does not answer",
    ]


async def test_usage_is_json(client, board, usage):
    assert (await client.get("/v1/usage")).json() == {"services": []}
    for service in ("reports", "payments"):
        board.usage[service] = to_json(usage(service=service))
    answer = await client.get("/v1/usage")
    assert [record["service"] for record in answer.json()["services"]] == ["payments", "reports"]
    assert answer.json()["services"][0] == json.loads(json.dumps(to_json(usage())))
    assert answer.headers["cache-control"] == "no-store"


async def test_who_may_see_no_names_is_told_no_tenants(board, usage):
    bound = Binding(Reason.TENANT, "payments.tenant.acme")
    named = usage(paused_tenants=(PausedTenant("acme", None),), tenants_paused=1, binding=bound)
    board.usage["payments"] = to_json(named)
    server = HttpServer("127.0.0.1", 0, board, CollectorRegistry(), usage_of=lambda _, one: usage_without_names(one))
    async with httpx.AsyncClient(base_url=await server.start()) as client:
        told = (await client.get("/v1/usage")).text
        (record,) = (await client.get("/v1/usage")).json()["services"]
    await server.stop()
    assert "acme" not in told
    assert (record["tenants_paused"], record["binding"]["limit"]) == (1, "payments.tenant")
    assert json.loads(json.dumps(record)) == usage_without_names(json.loads(json.dumps(to_json(named))))


async def test_other_paths_and_methods_are_refused(client):
    assert (await client.get("/v2")).status_code == 404
    assert (await client.post("/v1/usage")).status_code == 405


async def test_a_port_in_use_is_one_clear_error(client):
    port = client.base_url.port
    second = HttpServer("127.0.0.1", port, Board(), CollectorRegistry())
    with pytest.raises(GateError, match=rf"^cannot serve HTTP at 127.0.0.1:{port}: Address already in use$") as caught:
        await second.start()
    assert "--http" in caught.value.hint
    await second.stop()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
async def test_an_address_of_elsewhere_is_a_clear_error(host):
    with pytest.raises(GateError, match=f"cannot serve HTTP at {host}:0"):
        await HttpServer(host, 0, Board(), CollectorRegistry()).start()


async def test_stopping_leaves_signals_and_tasks_alone():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), asyncio.all_tasks()
    server = HttpServer("::1", 0, Board(), CollectorRegistry())
    url = await server.start()
    async with httpx.AsyncClient(base_url=url) as client:  # keeps its connection open over the stop
        assert (await client.get("/healthz")).text == "ok"
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before[:2]
        await server.stop()
        await server.stop()
        with pytest.raises(httpx.TransportError):
            await client.get("/healthz")
    assert asyncio.all_tasks() == before[2]


async def test_who_leaves_amid_a_body_leaves_no_traceback_behind(caplog):
    begun, over = asyncio.Event(), asyncio.Event()

    async def take(request: Request) -> Response:
        begun.set()
        try:
            await request.body()
        finally:
            over.set()
        return Response()

    routes = [Route("/take", take, methods=["POST"])]
    server = HttpServer("127.0.0.1", 0, Board(), CollectorRegistry(), routes=routes)
    url = httpx.URL(await server.start())
    async with asyncio.timeout(60):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
        await begun.wait()
        writer.close()
        await over.wait()
    await server.stop()
    assert "Exception in ASGI application" not in caplog.text
