import asyncio
import json
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from gate.client._handlers import CommandError, HandlerTimeoutError, Job, Threads, call, command
from gate.client._retry import Backoff
from gate.protocol.headers import Stamp

JOB = Job("payments", "gate.admitted.payments", 3, 17, 1_764_025_123_456, b"k", b"payload", (("x", b"1"), ("x", b"2")))


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def threads():
    return Threads()


def test_a_job_knows_the_id_of_its_stamp():
    assert JOB.id == "gate.admitted.payments-3@17"
    stamp = Stamp("admitted", "gate.requests.payments-3@91823", 1, 1, "9f2c01").encode()
    stamped = Job("payments", "t", 0, 0, 0, None, None, (("gate", stamp),))
    assert stamped.id == "gate.requests.payments-3@91823"
    assert (JOB.header("x"), JOB.header("y")) == (b"2", None)


def test_a_retry_keeps_the_id_of_the_first_request():
    stamp = Stamp("admitted", "gate.requests.payments-3@91999", 1, 1, "9f2c01").encode()
    headers = (("gate-job-id", b"gate.requests.payments-3@7"), ("gate-job-attempt", b"3"), ("gate", stamp))
    job = Job("payments", "t", 0, 0, 0, None, None, headers)
    assert (job.id, job.attempt) == ("gate.requests.payments-3@7", 3)


@pytest.mark.parametrize("value", [None, b"", b"0", b"-1", b"x", b"1" * 19, "٣".encode()])
def test_an_attempt_that_is_no_number_is_the_first(value):
    assert Job("payments", "t", 0, 0, 0, None, None, (("gate-job-attempt", value),)).attempt == 1


async def test_handlers_of_all_kinds_are_called(threads):
    seen = []

    async def asynchronous(job):
        seen.append(job)

    def with_more(more, job):
        seen.append(job)

    for handler in (asynchronous, seen.append, partial(with_more, 1), partial(asynchronous)):
        await call(handler, JOB, threads)
    assert seen == [JOB] * 4


async def test_a_synchronous_handler_does_not_hold_up_the_loop(threads):
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def blocks(job):
        asyncio.run_coroutine_threadsafe(answer(), loop).result(10)

    async def answer():
        asked.set()

    await call(blocks, JOB, threads)
    assert asked.is_set()


async def test_what_a_handler_returns_or_raises_arrives(threads):
    assert await call(lambda job: job.value, JOB, threads) == b"payload"

    def stops(job):
        raise StopIteration

    with pytest.raises(SystemExit, match="no"):
        await call(lambda job: sys.exit("no"), JOB, threads)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await call(stops, JOB, threads)
    with pytest.raises(TimeoutError, match="its own"):
        await call(lambda job: raising(TimeoutError("its own")), JOB, threads, timeout=60)


async def raising(error):
    raise error


async def test_a_handler_that_hangs_is_left(threads):
    forever, cancelled = threading.Event(), []

    async def waits(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(job)
            raise

    for handler in (waits, lambda job: forever.wait()):
        with pytest.raises(HandlerTimeoutError, match="took longer than"):
            await call(handler, JOB, threads, timeout=0.01)
    assert cancelled == [JOB]
    assert threads.hung == 1
    forever.set()
    while threads.hung:
        await asyncio.sleep(0.001)


async def test_a_command_gets_the_payload_and_all_else_in_its_environment(tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys, os, json; open(sys.argv[1], 'w').write(json.dumps({'in': sys.stdin.read()} | "
        "{n: os.fsencode(v).hex() for n, v in os.environ.items() if n.startswith('GATE_')}))"
    )
    job = Job("s", "t", 0, 5, 0, b"k\0ey", b"payload", (("trace-parent", b"\xff"), ("null", None)))
    await command([*python(code), str(out)])(job)
    told = json.loads(out.read_text())
    assert told.pop("in") == "payload"
    assert {
        name: bytes.fromhex(value) for name, value in told.items() if name not in {"GATE_BOOTSTRAP", "GATE_AIOKAFKA"}
    } == {
        "GATE_SERVICE": b"s",
        "GATE_ID": b"t-0@5",
        "GATE_ATTEMPT": b"1",
        "GATE_KEY": b"key",
        "GATE_HEADER_TRACE_PARENT": b"\xff",
        "GATE_HEADER_NULL": b"",
    }


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise SystemExit(3)", "exited with 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
async def test_a_command_that_fails_is_a_failure(code, why):
    with pytest.raises(CommandError, match=why):
        await command(python(code))(JOB)


async def test_a_command_can_answer_and_ask_to_wait():
    assert await command(python("print(input()[::-1], end='')"), answers=True)(JOB) == b"daolyap"
    with pytest.raises(Backoff, match=r"asked to wait for 7 s: .* exited with 75"):
        await command(python("raise SystemExit(75)"), backoff=7)(JOB)


async def test_a_command_that_does_not_read_is_no_failure():
    big = Job("s", "t", 0, 5, 0, None, b"x" * 1_000_000, ())
    await command(["true"])(big)


async def test_a_cancelled_command_dies_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    running = asyncio.create_task(
        command(["sh", "-c", f"sleep 100 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"])(JOB)
    )
    while not pid.exists():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    child = int(pid.read_text())
    while _is_alive(child):
        await asyncio.sleep(0.01)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_a_command_gets_none_of_its_workers_secrets(monkeypatch):
    secrets = {"GATE_SASL_PASSWORD", "GATE_SSL_PASSWORD", "GATE_WEBHOOK_SECRET", "GATE_SMTP_PASSWORD", "GATE_SLACK_URL"}
    for name in (*secrets, "GATE_BOOTSTRAP", "GATE_SASL_USERNAME", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "x")
    show = python("import json, os; print(json.dumps(dict(os.environ)))")
    seen = json.loads(await command(show, answers=True)(JOB))
    assert not secrets & seen.keys()
    assert {"GATE_BOOTSTRAP", "GATE_SASL_USERNAME", "DATABASE_PASSWORD", "GATE_ID", "PATH"} <= seen.keys()
    seen = json.loads(await command(show, answers=True, pass_env=["GATE_SASL_PASSWORD"])(JOB))
    assert secrets & seen.keys() == {"GATE_SASL_PASSWORD"}


async def test_a_secret_of_the_jobs_own_headers_reaches_it():
    job = Job("payments", "t", 0, 0, 0, None, None, (("x-token", b"mine"),))
    show = python("import os; print(os.environ['GATE_HEADER_X_TOKEN'])")
    assert await command(show, answers=True)(job) == b"mine\n"
