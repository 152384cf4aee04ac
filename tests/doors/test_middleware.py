"""The middleware behind a real server: 429, what is left, keys, and what it leaves alone."""

import http_sf
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gate import RateLimitConfig, RateLimiter
from gate.doors import RateLimitMiddleware, by_client, by_header, by_path
from tests.doors.serving import serving


def bucket(rate: str, burst: int, **more: object) -> RateLimitConfig:
    return RateLimitConfig(rate, burst, 1, 10**6, **more)


def limiter(**limits: RateLimitConfig) -> RateLimiter:
    made = RateLimiter()
    for service, config in limits.items():
        made.configure(service, config)
    return made


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"hello"})


def fields(response: httpx.Response, name: str) -> dict[str, dict[str, int]]:
    """Read a structured field: each item with its parameters."""
    items = http_sf.parse(response.headers[name].encode(), tltype="list")
    return {str(value): dict(parameters) for value, parameters in items}


async def test_starlette_answers_429_and_tells_what_is_left() -> None:
    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    subject = limiter(api=RateLimitConfig("1/h", 2, 3600, 100, ((1000, 86400),)))
    app = Starlette(
        routes=[Route("/", page)], middleware=[Middleware(RateLimitMiddleware, limiter=subject, service="api")]
    )
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        first, second, third = [await client.get("/") for _ in range(3)]
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    for response in (first, third):
        assert fields(response, "ratelimit-policy") == {
            "rate": {"q": 2, "w": 7200},
            "window-3600": {"q": 100, "w": 3600},
            "window-86400": {"q": 1000, "w": 86400},
        }
    left = fields(first, "ratelimit")
    assert left["rate"] == {"r": 1, "t": 3600}
    assert left["window-3600"] == {"r": 99, "t": 3600}
    assert fields(third, "ratelimit")["rate"]["r"] == 0
    assert 3590 < int(third.headers["retry-after"]) <= 3600
    assert "retry-after" not in second.headers
    assert third.headers["content-type"] == "application/problem+json"
    assert third.json()["violated-policies"] == ["rate"]
    assert third.json()["type"].endswith("#quota-exceeded")


async def test_each_key_has_limits_of_its_own_and_what_has_no_service_has_none() -> None:
    subject = limiter()
    subject.configure("api", bucket("1/h", 1), tenant="default")
    subject.configure("api", bucket("1/h", 2), tenant="gold")
    app = RateLimitMiddleware(
        hello, subject, lambda scope: None if scope["path"] == "/healthz" else "api", key=by_header("X-Key")
    )
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:

        async def status(key: str, path: str = "/") -> int:
            return (await client.get(path, headers={"x-key": key} if key else {})).status_code

        assert [await status("gold") for _ in range(3)] == [200, 200, 429]
        assert [await status("a") for _ in range(2)] == [200, 429]
        assert [await status("b" * 5000) for _ in range(2)] == [200, 429]
        assert [await status("") for _ in range(2)] == [200, 429]  # who sends none can't escape
        assert [await status("a", "/healthz") for _ in range(3)] == [200] * 3
        answer = await client.get("/healthz")
        assert "ratelimit" not in answer.headers
        assert answer.headers["x-own"] == "1"
    assert max(len(name[1]) for name in subject._keys) <= 64


async def test_a_request_may_wait_its_turn_before_it_is_refused() -> None:
    subject = limiter(api=bucket("20/s", 1), slow=bucket("1/h", 1))
    app = RateLimitMiddleware(hello, subject, lambda scope: scope["path"][1:], max_wait=60)
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        assert [(await client.get("/api")).status_code for _ in range(4)] == [200] * 4
        assert (await client.get("/slow")).status_code == 200
        assert (await client.get("/slow")).status_code == 429  # at once: its turn would come too late
    assert subject.usage("slow").refused == 0


async def test_costs_and_clients() -> None:
    subject = limiter(**{"/a": bucket("1/h", 5)})
    app = RateLimitMiddleware(
        hello, subject, by_path, key=by_client, cost=lambda scope: int(scope["query_string"] or 1), fields=False
    )
    subject.configure("/a", bucket("1/h", 4), tenant="127.0.0.1")
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        answers = [await client.get(path) for path in ("/a?4", "/a", "/b?9", "/a?6")]
    assert [answer.status_code for answer in answers] == [200, 429, 200, 429]
    assert answers[1].json()["violated-policies"] == ["tenant.rate"]
    assert "ratelimit" not in answers[0].headers
    assert "retry-after" not in answers[3].headers  # it can never be


async def test_a_web_socket_is_refused_before_it_opens() -> None:
    subject = limiter(api=bucket("1/h", 1))
    sent: list[dict] = []

    async def accepts(scope, receive, send):
        await send({"type": "websocket.accept"})

    async def send(message):
        sent.append(message)

    app = RateLimitMiddleware(accepts, subject, "api")
    for extensions in ({}, {}, {"websocket.http.response": {}}):
        await app({"type": "websocket", "path": "/", "headers": [], "extensions": extensions}, None, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.close",
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert dict(sent[0]["headers"])[b"ratelimit"].startswith(b'"rate";r=0')
    assert sent[2]["status"] == 429


async def test_the_lifespan_passes_through() -> None:
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await RateLimitMiddleware(app, limiter())({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


def test_what_is_no_limiter_is_refused_when_the_application_is_made() -> None:
    with pytest.raises(TypeError, match="limiter must be a RateLimiter"):
        RateLimitMiddleware(hello, RateLimitConfig(1, 1))
