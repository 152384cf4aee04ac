"""The transports of httpx: they wait, raise, and come back when a server says so."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from gate import RateLimitConfig, RateLimiter, SyncRateLimiter
from gate.doors import AsyncRateLimitTransport, RateLimitMiddleware, RateLimitTransport, TurnTimeoutError
from gate.doors.fields import read_retry_after
from tests.doors.serving import serving, serving_in_thread
from tests.limits.simulated import SimulatedLoop, simulate


class Application:
    """Answers what is told to, one after the other, then 200; counts what came."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.times: list[float] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.times.append(asyncio.get_running_loop().time())
        self.bodies.append(body)
        status, retry_after = self.answers.pop(0) if self.answers else (200, "")
        headers = [(b"retry-after", retry_after.encode())] if retry_after else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def limiter(rate: str = "1000/s", burst: int = 1000) -> RateLimiter:
    loop = asyncio.get_running_loop()
    made = RateLimiter(clock=loop.clock if isinstance(loop, SimulatedLoop) else None)
    made.configure("http", RateLimitConfig(rate, burst, 1, 10**6))
    return made


def client(app: Application, subject: RateLimiter, **options: object) -> httpx.AsyncClient:
    transport = AsyncRateLimitTransport(subject, transport=httpx.ASGITransport(app), **options)
    return httpx.AsyncClient(transport=transport, base_url="http://upstream")


def test_requests_go_in_their_turn() -> None:
    async def work() -> None:
        app = Application()
        async with client(app, limiter("10/s", 2)) as session:
            await asyncio.gather(*[session.get("/") for _ in range(6)])
        assert app.times == pytest.approx([0, 0, 0.1, 0.2, 0.3, 0.4])

    simulate(work())


def test_one_whose_turn_is_too_late_is_not_sent() -> None:
    async def work() -> None:
        app = Application()
        async with client(app, limiter("1/h", 1), timeout=0.5) as session:
            await session.get("/")
            with pytest.raises(TurnTimeoutError, match=r"GET upstream had no turn of 'http' within 0\.5 s") as caught:
                await session.get("/")
        assert isinstance(caught.value, httpx.TimeoutException)
        assert isinstance(caught.value, TimeoutError)
        assert len(app.times) == 1

    simulate(work())


def test_after_a_429_nobody_goes_until_the_server_says_so() -> None:
    async def work() -> None:
        app = Application((429, "7"))
        async with client(app, limiter()) as session:
            first = asyncio.ensure_future(session.post("/", content=b"first"))
            await asyncio.sleep(1)
            second = asyncio.ensure_future(session.post("/", content=b"second"))
            assert [(await first).status_code, (await second).status_code] == [200, 200]
        assert app.times == pytest.approx([0, 7, 7])
        assert sorted(app.bodies) == [b"first", b"first", b"second"]

    simulate(work())


@pytest.mark.parametrize(
    ("answers", "options", "method", "statuses"),
    [
        ([(429, "1")] * 3, {}, "GET", [429]),  # two retries, no more
        ([(429, "1")], {"retries": 0}, "GET", [429]),
        ([(429, "100")], {}, "GET", [429]),  # longer than it wants to wait
        ([(429, "")], {}, "GET", [429]),
        ([(429, "soon")], {}, "GET", [429]),
        ([(503, "1")], {}, "GET", [200]),
        ([(503, "1")], {}, "POST", [503]),  # it may have been done
        ([(500, "1")], {}, "GET", [500]),
    ],
)
def test_what_is_sent_again_and_what_is_not(answers, options, method, statuses) -> None:
    async def work() -> None:
        app = Application(*answers)
        async with client(app, limiter(), **options) as session:
            assert [(await session.request(method, "/")).status_code] == statuses

    simulate(work())


def test_a_body_that_is_used_up_is_not_sent_again() -> None:
    async def pieces():
        yield b"piece"

    async def work() -> None:
        app = Application((429, "1"))
        async with client(app, limiter()) as session:
            assert (await session.post("/", content=pieces())).status_code == 429

    simulate(work())


def test_a_wait_that_ends_too_late_is_told_at_once() -> None:
    async def work() -> None:
        app = Application((429, "50"))
        async with client(app, limiter(), timeout=10, retries=0) as session:
            await session.get("/")
            with pytest.raises(TurnTimeoutError, match=r"the server asks for 50\.000 s without requests"):
                await session.get("/")
            assert asyncio.get_running_loop().time() == 0

    simulate(work())


def test_what_has_no_service_does_not_wait() -> None:
    async def work() -> None:
        app = Application()
        async with client(app, limiter("1/h", 1), service=lambda request: None) as session:
            assert [(await session.get("/")).status_code for _ in range(3)] == [200] * 3

    simulate(work())


async def test_over_loopback_a_server_with_the_middleware_is_kept_to() -> None:
    server, mine = limiter("50/s", 2), limiter("50/s", 2)
    async with (
        serving(RateLimitMiddleware(Application(), server, "http")) as url,
        httpx.AsyncClient(transport=AsyncRateLimitTransport(mine, retries=20), timeout=60) as session,
    ):
        answers = await asyncio.gather(*[session.get(url) for _ in range(12)])
    assert [answer.status_code for answer in answers] == [200] * 12


def test_threads_wait_too_and_come_back_after_a_429() -> None:
    subject = SyncRateLimiter()
    subject.configure_limit("http", RateLimitConfig("200/s", 1, 1))
    app = Application((429, "1"))
    with (
        serving_in_thread(app) as url,
        httpx.Client(transport=RateLimitTransport(subject), timeout=60) as session,
        ThreadPoolExecutor(4) as pool,
    ):
        began = time.monotonic()
        assert session.get(url).status_code == 200
        assert time.monotonic() - began >= 1
        statuses = list(pool.map(lambda _: session.get(url).status_code, range(12)))
    assert statuses == [200] * 12
    assert len(app.times) == 14
    subject.configure_limit("other", RateLimitConfig("1/h", 1, 1))
    subject.acquire("other")
    with (
        httpx.Client(transport=RateLimitTransport(subject, "other", timeout=0)) as session,
        pytest.raises(TurnTimeoutError, match="within 0 s"),
    ):
        session.get("http://127.0.0.1:9/")


def test_a_date_is_read_as_well() -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    assert read_retry_after("Mon, 30 Nov 2026 00:01:30 GMT", now) == 90
    assert read_retry_after("Mon, 30 Nov 2026 00:01:30 -0000", now) == 90
    assert read_retry_after("Sun, 29 Nov 2026 00:00:00 GMT", now) == 0
    assert read_retry_after(" 12 ", now) == 12
    assert [read_retry_after(text) for text in (None, "", "-1", "soon", "1.5", "٣")] == [None] * 6
    too_large = ("Mon, 99999999999 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999999999999")
    assert [read_retry_after(text) for text in too_large] == [None] * 2
    assert read_retry_after("9" * 5000) > timedelta(days=1).total_seconds()
