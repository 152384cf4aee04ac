"""HTTP under those who mean no good: half a request, nothing read, too many of them, and names of elsewhere."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import StreamingResponse
from starlette.routing import Route

from gate.observe.http import Board, HttpServer

HALF = b"GET /v1/usage HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def half_sent(address):
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(HALF)
    return connection


@pytest.fixture
def running(tmp_path):
    """A gate that may open 256 files, whose broker is away; its address and its log."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("services: {}\n")
    command = [
        "run",
        "--config",
        str(policy),
        "--http",
        "0",
        "--log",
        "json",
        "--bootstrap",
        "127.0.0.1:1",
        "--connect-timeout",
        "100",
    ]
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen(
            ["bash", "-c", 'ulimit -n 256; exec "$@"', "-", sys.executable, "-m", "gate", *command],
            stderr=log,
        )
        try:
            end = time.monotonic() + 90
            while b"serving http" not in (text := (tmp_path / "log").read_bytes()):
                assert time.monotonic() < end, text
                time.sleep(0.02)
            url = next(json.loads(line)["url"] for line in text.splitlines() if b"serving http" in line)
            yield process.pid, ("127.0.0.1", int(url.rpartition(":")[2])), tmp_path / "log"
        finally:
            process.kill()
            process.wait(10)


def test_three_hundred_half_sent_requests_do_not_silence_a_gate(running):
    pid, address, log = running
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(half_sent(address))
        with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/healthz", timeout=3) as answer:
            assert answer.read() == b"ok"
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 256 / 2, "brokers need theirs"
    lines = log.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) < 10


def test_a_flood_of_nonsense_is_one_line(running):
    _, address, log = running
    for _ in range(50):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01\r\n\r\n")
            while connection.recv(4096):
                pass
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()].count(
        "Invalid HTTP request received."
    ) == 1


@contextlib.asynccontextmanager
async def serving(board=None, **options):
    server = HttpServer("127.0.0.1", 0, board or Board(), CollectorRegistry(), **options)
    try:
        yield await server.start()
    finally:
        await server.stop()


async def ended(reader):
    """Read until the other side closes."""
    with contextlib.suppress(ConnectionResetError):
        await reader.read()


@pytest.mark.parametrize("said", [b"", b"GE", HALF, b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"])
async def test_who_says_half_a_request_is_not_waited_for(said):
    async with serving(patience=0.2) as url, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(said)
        await ended(reader)
        writer.close()


async def test_who_drips_is_not_waited_for_either():
    async with serving(patience=0.2) as url, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        end = asyncio.create_task(ended(reader))
        while not end.done():
            writer.write(b"G")
            await asyncio.wait([end], timeout=0.02)
        writer.close()


async def test_who_does_not_read_is_not_waited_for():
    board = Board()
    board.usage["big"] = {"service": "x" * (8 << 20)}
    async with serving(board, patience=0.2) as url, asyncio.timeout(5):
        place = socket.create_connection(("127.0.0.1", httpx.URL(url).port))
        with place:
            place.sendall(b"GET /v1/usage HTTP/1.1\r\nHost: localhost\r\n\r\n")
            port = place.getsockname()[1]
            await until_gone(port)


async def test_who_takes_an_answer_bit_by_bit_is_left_alone():
    sent, enough = [], asyncio.Event()

    async def bits():
        while not enough.is_set():
            sent.append(b"x")
            yield b"x"
            await asyncio.sleep(0.01)

    async def drip(_):
        return StreamingResponse(bits())

    patience = 0.2
    async with serving(patience=patience, routes=[Route("/drip", drip)]) as url, asyncio.timeout(30):
        started = asyncio.get_running_loop().time()
        async with httpx.AsyncClient(base_url=url) as client, client.stream("GET", "/drip") as answer:
            async for _ in answer.aiter_raw():
                if asyncio.get_running_loop().time() - started > 5 * patience:
                    enough.set()
        assert len(sent) > 5


async def test_who_takes_nothing_more_of_an_answer_is_not_waited_for():
    async def bits():
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async def flood(_):
        return StreamingResponse(bits())

    async with serving(patience=0.2, routes=[Route("/flood", flood)]) as url, asyncio.timeout(30):
        place = socket.create_connection(("127.0.0.1", httpx.URL(url).port))
        with place:
            place.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            port = place.getsockname()[1]
            await until_gone(port)


async def until_gone(port):
    """Wait until this process' server has let the connection from `port` go."""
    while any(remote_port(int(fd.name)) == port for fd in Path("/proc/self/fd").iterdir()):
        await asyncio.sleep(0.02)


def remote_port(fd):
    try:
        with socket.socket(fileno=os.dup(fd)) as one:
            return one.getpeername()[1] if one.family == socket.AF_INET else None
    except OSError:
        return None


async def test_who_asks_again_and_again_is_left_alone():
    patience = 0.4
    loop = asyncio.get_running_loop()
    async with serving(patience=patience) as url, httpx.AsyncClient(base_url=url) as client, asking(url) as ask:
        end = loop.time() + 3 * patience
        while loop.time() < end:
            assert (await client.get("/healthz")).text == "ok"
            await ask()


async def test_who_has_asked_is_answered_although_the_process_stands_still():
    """All that were connected were cut when it went on, before it had looked at what they ask."""
    patience = 0.4
    async with serving(patience=patience) as url, asking(url) as ask:
        for _ in range(3):
            await ask()
            time.sleep(2 * patience)
            await ask()


@contextlib.asynccontextmanager
async def asking(url):
    """Connect, and return a function that asks on this one connection and waits for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)

    async def ask():
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"ok")

    try:
        yield ask
    finally:
        writer.close()


# Names


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9600", "a.localhost", "127.0.0.1:80", "10.1.2.3:8080", "[::1]:80", "gate.default.svc:1",
     socket.gethostname(), f"{socket.gethostname()}.:8080"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/usage", "/metrics", "/healthz"])
async def test_known_names_and_addresses_are_answered(host, path):
    async with serving(names=["gate.default.svc"]) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:9600", "gate", "127.0.0.1.evil.example", ""])
@pytest.mark.parametrize("path", ["/v1/policy", "/v1/usage", "/", "/readyz"])
async def test_a_name_of_elsewhere_is_refused_in_words(host, path):
    """A page whose name was made to lead here (DNS rebinding) must not read the policy."""
    async with serving(names=["gate.default.svc"]) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert "--http-host" in answer.text


async def test_a_scraper_that_says_no_name_is_answered():
    async with serving() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"ok")
        writer.close()
