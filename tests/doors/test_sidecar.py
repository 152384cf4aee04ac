"""The sidecar's doors, in this process: what they answer, to whom, and what they count."""

import asyncio
import contextlib
import ssl

import grpc
import httpx
import pytest
import trustme
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gate.cli import main
from gate.doors.sidecar.server import Access, Sidecar
from gate.errors import GateError
from gate.policy import parse_policy

OK, OVER = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
LOCAL = ("127.0.0.1", 0)
POLICY = """
templates: {slow: {requests_per_second: 1/h, window_size: 1, window_limit: 1000}}
groups: {bank: {max_running: 1, requests_per_second: 1/h, burst_size: 3, window_size: null}}
services:
  pay: {extends: slow, burst_size: 3, max_running: 1, match: {domain: edge, descriptors: {path: /pay}}}
  a: {extends: slow, burst_size: 2, group: bank}
  b: {extends: slow, burst_size: 2, group: bank}
  trial: {extends: slow, burst_size: 1, shadow: true, match: {domain: edge, descriptors: {path: /trial}}}
  search:
    requests_per_second: 100/h
    burst_size: 100
    window_size: null
    match:
      - {domain: edge, descriptors: {path: "/search*", key: "*"}, tenant: key}
      - {domain: edge, descriptors: {path: /search/free, key: "*"}}
    tenants: {default: {requests_per_second: 1/h, burst_size: 2, window_size: null}}
"""


@contextlib.asynccontextmanager
async def running(text: str = POLICY, access: Access | None = None, owner_away=None):
    sidecar = Sidecar(parse_policy(text), access or Access(), clock=lambda: 10**18, owner_away=owner_away)
    rls, http = await sidecar.start(LOCAL, LOCAL)
    try:
        yield sidecar, rls, http
    finally:
        await sidecar.stop()


@contextlib.asynccontextmanager
async def asking(rls: str):
    async with grpc.aio.insecure_channel(rls) as channel:
        stub = rls_pb2_grpc.RateLimitServiceStub(channel)

        async def ask(*descriptors: dict[str, str], hits: int = 0, own: int | None = None, domain: str = "edge"):
            request = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits)
            for entries in descriptors:
                descriptor = request.descriptors.add()
                for key, value in entries.items():
                    descriptor.entries.add(key=key, value=value)
                if own is not None:
                    descriptor.hits_addend.value = own
            return await stub.ShouldRateLimit(request, wait_for_ready=True)

        yield ask


async def test_a_descriptor_is_charged_and_told_what_is_left() -> None:
    async with running() as (_, rls, _), asking(rls) as ask:
        first = await ask({"path": "/pay"})
        assert first.overall_code == OK
        (status,) = first.statuses
        assert (status.code, status.limit_remaining, status.current_limit.name) == (OK, 2, "rate")
        assert (status.current_limit.requests_per_unit, status.duration_until_reset.seconds) == (3, 3600)
        headers = {header.key: header.value for header in first.response_headers_to_add}
        assert headers["ratelimit"].startswith('"pay.rate";r=2;t=3600, "pay.window";r=999;t=1')
        assert headers["ratelimit-policy"] == '"pay.rate";q=3;w=10800, "pay.window";q=1000;w=1'
        over = await ask({"path": "/pay"}, hits=3)
        assert (over.overall_code, over.statuses[0].limit_remaining) == (OVER, 2)
        assert {header.key: header.value for header in over.response_headers_to_add}["retry-after"] == "3600"
        assert (await ask({"path": "/pay"}, hits=2)).overall_code == OK
        assert (await ask({"path": "/pay"}, own=0)).statuses[0].limit_remaining == 0


async def test_of_several_descriptors_all_are_charged_or_none() -> None:
    async with running() as (_, rls, _), asking(rls) as ask:
        both = {"path": "/pay"}, {"path": "/search", "key": "k"}
        answers = [await ask(*both) for _ in range(3)]
        assert [answer.overall_code for answer in answers] == [OK, OK, OVER]
        assert [status.code for status in answers[2].statuses] == [OK, OVER]
        assert (await ask({"path": "/pay"}, own=0)).statuses[0].limit_remaining == 1
        twice = await ask({"path": "/pay"}, {"path": "/pay"})
        assert [status.code for status in twice.statuses] == [OVER, OVER]


async def test_values_name_tenants_and_the_more_specific_match_counts() -> None:
    async with running() as (_, rls, _), asking(rls) as ask:
        for key in ("x", "y", "", "k" * 5000):
            codes = [(await ask({"path": "/search", "key": key})).overall_code for _ in range(3)]
            assert codes == [OK, OK, OVER]
        free = [(await ask({"path": "/search/free", "key": "x"})).overall_code for _ in range(3)]
        assert free == [OK, OK, OK]


@pytest.mark.parametrize(("said", "code"), [("", OK), ("unmatched: refuse\n", OVER)])
async def test_what_nothing_matches_is_answered_as_the_policy_says(said: str, code: int) -> None:
    async with running(said + POLICY) as (sidecar, rls, _), asking(rls) as ask:
        for descriptor in ({"path": "/other"}, {"path": "/pay", "more": "x"}, {"key": "k"}):
            assert (await ask(descriptor)).overall_code == code
        assert (await ask({"path": "/pay"}, domain="elsewhere")).overall_code == code
        assert (await ask({"path": "/pay"})).overall_code == OK
        labels = {"door": "rls", "service": "(other)", "decision": "unmatched"}
        assert sidecar.registry.get_sample_value("gate_sidecar_checks_total", labels) == 4


async def test_metrics_say_for_how_long_the_owners_of_shared_limits_are_away() -> None:
    away = [0.5, 12.0]
    async with running(owner_away=lambda: away.pop(0)) as (_, _, http), httpx.AsyncClient() as client:
        for seconds in list(away):
            text = (await client.get(f"http://{http}/metrics")).text
            assert f"gate_sidecar_owner_away_seconds {seconds}\n" in text
    async with running() as (_, _, http), httpx.AsyncClient() as client:  # limits of its own have no owners
        assert "owner_away" not in (await client.get(f"http://{http}/metrics")).text


async def test_a_shadow_only_reports() -> None:
    async with running() as (sidecar, rls, _), asking(rls) as ask:
        assert [(await ask({"path": "/trial"})).overall_code for _ in range(3)] == [OK, OK, OK]
        assert (await ask({"path": "/trial"}, {"path": "/pay"})).overall_code == OK
        labels = {"door": "rls", "service": "trial"}
        counted = [
            sidecar.registry.get_sample_value("gate_sidecar_checks_total", labels | {"decision": decision})
            for decision in ("allowed", "shadow")
        ]
        assert counted == [1, 3]


async def test_what_two_descriptors_share_is_charged_for_both_or_for_none() -> None:
    matched = POLICY
    for name in "ab":
        found = f"burst_size: 3, group: bank, match: {{domain: edge, descriptors: {{path: /{name}}}}}"
        matched = matched.replace(
            f"{name}: {{extends: slow, burst_size: 2, group: bank", f"{name}: {{extends: slow, {found}"
        )
    async with running(matched) as (_, rls, _), asking(rls) as ask:
        over = await ask({"path": "/a"}, {"path": "/b"}, hits=2)  # the bank has three
        assert over.overall_code == OVER
        assert [status.code for status in over.statuses] == [OK, OVER]
        assert (await ask({"path": "/a"}, hits=3)).overall_code == OK
        assert (await ask({"path": "/b"})).overall_code == OVER


async def test_a_question_without_domain_or_descriptors_is_an_error() -> None:
    async with running() as (_, rls, _), asking(rls) as ask:
        for domain, descriptors in (("", [{"path": "/pay"}]), ("edge", []), ("edge", [{"path": "/pay"}] * 65)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(*descriptors, domain=domain)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_http_answers_as_agreed() -> None:
    async with running() as (_, _, http), httpx.AsyncClient(base_url=f"http://{http}") as client:

        async def check(**asked: object) -> httpx.Response:
            return await client.post("/v1/check", json=asked)

        first = await check(service="pay", cost=2)
        assert first.json() == {"allowed": True, "retry_after": None, "limit": 3, "remaining": 1, "reset": 7200.0}
        assert first.headers["ratelimit"].startswith('"rate";r=1')
        refused = (await check(service="pay", cost=2)).json()
        assert (refused["allowed"], refused["retry_after"]) == (False, 3600.0)
        never = (await check(service="pay", cost=4)).json()
        assert (never["allowed"], never["retry_after"]) == (False, None)
        assert [(await check(service="search", tenant="t")).json()["remaining"] for _ in range(3)] == [1, 0, 0]
        assert (await check(service="nobody")).json()["allowed"]
        for asked in (
            {},
            {"service": 5},
            {"service": "pay", "cost": 0},
            {"service": "pay", "x": 1},
            {"service": "a b"},
        ):
            answer = await check(**asked)
            assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert (await client.post("/v1/check", content=b"{}")).status_code == 415
        json = {"content-type": "application/json"}
        assert (await client.post("/v1/check", content=b" " * 20_000, headers=json)).status_code == 413
        assert (await client.get("/v1/check")).status_code == 405
        assert (await client.post("/v1/check", json={}, headers={"host": "evil.example"})).status_code == 421
        assert (await client.get("/healthz")).text == "ok"
        assert (await client.get("/readyz")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'gate_sidecar_checks_total{decision="refused",door="http",service="pay"} 2.0' in metrics


async def test_services_of_a_group_share_its_budget() -> None:
    async with running() as (_, _, http), httpx.AsyncClient(base_url=f"http://{http}") as client:
        answers = [(await client.post("/v1/check", json={"service": name})).json() for name in "aabb"]
        assert [answer["allowed"] for answer in answers] == [True, True, True, False]


async def test_another_policy_keeps_what_counts() -> None:
    async with running() as (sidecar, rls, http), asking(rls) as ask, httpx.AsyncClient() as client:

        async def allowed(service: str) -> bool:
            return (await client.post(f"http://{http}/v1/check", json={"service": service})).json()["allowed"]

        for path in ("/pay", "/pay"):
            await ask({"path": path})
        assert await allowed("a")
        text = POLICY.replace("burst_size: 3,", "burst_size: 2,").replace("path: /pay", "path: /new")
        sidecar.take(parse_policy(text.replace("{domain: edge, descriptors: {path: /trial}}", "null")))
        assert [(await ask({"path": "/new"})).overall_code for _ in range(2)] == [OK, OVER]  # the one that was left
        assert not (await ask({"path": "/pay"})).statuses[0].HasField("current_limit")  # nobody matches it any more
        assert [await allowed(name) for name in "bba"] == [
            True,
            True,
            False,
        ]  # the group had two left, and now has none


async def test_questions_that_come_together_are_all_answered() -> None:
    """By default gRPC cancels some of more than a thousand."""
    async with running() as (_, rls, _), asking(rls) as ask:
        await ask({"path": "/pay"}, own=0)
        answers = await asyncio.gather(*[ask({"path": "/pay"}) for _ in range(2500)])
        assert sum(answer.overall_code == OK for answer in answers) == 3


async def test_health_is_told_over_grpc() -> None:
    async with running() as (_, rls, _), grpc.aio.insecure_channel(rls) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_with_tls_and_a_token_only_who_knows_it_comes_in(tmp_path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    access = Access(cert, key, "s3cret")
    access.check("0.0.0.0")
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with (
        running(access=access) as (_, rls, http),
        httpx.AsyncClient(base_url=f"https://{http}", verify=context) as client,
        grpc.aio.secure_channel(rls, credentials) as channel,
    ):
        assert (await client.post("/v1/check", json={"service": "pay"})).status_code == 401
        wrong = {"authorization": "Bearer guess"}
        assert (await client.post("/v1/check", json={"service": "pay"}, headers=wrong)).status_code == 401
        right = {"authorization": "Bearer s3cret"}
        assert (await client.post("/v1/check", json={"service": "pay"}, headers=right)).json()["remaining"] == 2
        stub = rls_pb2_grpc.RateLimitServiceStub(channel)
        request = rls_pb2.RateLimitRequest(domain="edge")
        request.descriptors.add().entries.add(key="path", value="/pay")
        for metadata in ((), (("authorization", "Bearer guess"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ShouldRateLimit(request, metadata=metadata, wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await stub.ShouldRateLimit(request, metadata=(("authorization", "Bearer s3cret"),))
        assert answer.statuses[0].limit_remaining == 1
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("access", "message"),
    [(Access(), "needs TLS .* and a token"), (Access(token="t"), "needs TLS"), (Access(key="k"), "needs its key")],
)
async def test_beyond_loopback_it_wants_both(access: Access, message: str) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        with pytest.raises(GateError, match=message):
            await Sidecar(parse_policy(POLICY), access).start((host, 0), None)
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        Access().check(host)


async def test_an_address_that_is_taken_is_said_to_be() -> None:
    async with running() as (_, rls, http):
        other = Sidecar(parse_policy(POLICY), Access())
        for addresses in ((rls, None), (None, http)):
            pair = [address and (address.rpartition(":")[0], int(address.rpartition(":")[2])) for address in addresses]
            with pytest.raises(GateError, match="cannot serve at 127"):
                await other.start(*pair)
        await other.stop()


def test_made_up_names_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate.doors.sidecar.checks._MOST_UNLISTED", 100)
    sidecar = Sidecar(parse_policy("defaults: {requests_per_second: 1/h, burst_size: 1}"), Access(), lambda: 10**18)
    for number in range(300):
        assert sidecar._source.service(f"s{number}").burst == 1
    assert len(sidecar._source.policy._services) <= 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rls", "off", "--http", "off"], "there is nothing to serve"),
        (["--rls", "here"], '--rls must be HOST:PORT or "off"'),
        (["--rls", "off", "--http", "0.0.0.0:0"], "a sidecar at 0.0.0.0 could be asked from elsewhere"),
        (["--rls", "off", "--tls-cert", "nowhere.pem"], "a certificate needs its key"),
    ],
)
def test_a_command_that_can_not_be_is_refused_in_one_line(tmp_path, capsys, options: list[str], said: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    assert main(["sidecar", "--config", str(policy), *options]) == 1
    assert said in capsys.readouterr().err
