"""`gate submit`, `tail`, `usage`, `worker` and `alerts` on a real broker."""

import asyncio
import io
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console

from gate.admission.model import EXPEDITED, Binding, LaneUsage, LimitUsage, PausedTenant, Reason, Refusal, Usage
from gate.cli import main
from gate.cli.logs import let_libraries_go
from gate.cli.usage import table as usage_table
from gate.kafka.connect import running
from gate.limits import NEVER
from gate.observe.alerts import policy_refused
from gate.observe.usage import encode, to_json
from gate.protocol import control
from gate.protocol.headers import Stamp, restamp
from gate.protocol.topics import Names
from tests.client.log import Log

AT_MS = 1_764_025_123_456
WRITTEN_MS = int(time.time() * 1000)  # records that are older than a week a broker deletes


@pytest.fixture
def names(prefix):
    return Names(prefix)


@pytest.fixture
def log(bootstrap, names):
    return Log(bootstrap, names)


@pytest.fixture(autouse=True)
def _log_as_before():
    level = logging.getLogger("aiokafka").level
    yield
    structlog.reset_defaults()
    let_libraries_go()
    logging.getLogger("aiokafka").setLevel(level)


@pytest.fixture
def gate(bootstrap, prefix, capsys, monkeypatch):
    """Run a command to its end in this process: its exit code, lines of stdout, lines of stderr."""
    monkeypatch.setenv("GATE_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("GATE_PREFIX", prefix)

    def run(*tokens):
        code = main([str(token) for token in tokens])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


@pytest.fixture
def process(bootstrap, prefix):
    """Start a command as a process of its own."""
    started = []

    def spawn(*tokens, **options):
        environment = os.environ | {"GATE_BOOTSTRAP": bootstrap, "GATE_PREFIX": prefix, "PYTHONUNBUFFERED": "1"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-m", "gate", *tokens]
        started.append(subprocess.Popen(command, env=environment, text=True, **(pipes | options)))
        return started[-1]

    yield spawn
    for one in started:
        one.kill()
        one.communicate()


def read(log, topic):
    return asyncio.run(log.read(topic))


# submit


def test_generated_requests_are_submitted_with_their_wishes(gate, log, names, prefix):
    before = time.time() * 1000
    options = (
        "--count",
        50,
        "--priority",
        "batch",
        "--tenant",
        "Müller",
        "--cost",
        3,
        "--deadline",
        60,
        "--partitions",
        1,
    )
    code, out, err = gate("submit", "payments", *options)
    assert code == 0
    assert err == [f"gate: created topic {prefix}.requests.payments with 1 partitions"]
    assert len(out) == 1
    assert out[0].startswith(f"submitted 50 requests to {prefix}.requests.payments in ")
    records = read(log, names.requests("payments"))
    assert [record.value for record in records] == [b'{"number": %d}' % number for number in range(1, 51)]
    headers = dict(records[0].headers)
    assert 59_000 < int(headers.pop("gate-deadline")) - before < 90_000
    assert headers == {"gate-priority": b"batch", "gate-tenant": "Müller".encode(), "gate-cost": b"3"}


def test_requests_are_submitted_for_a_time_to_come(gate, log, names):
    before = time.time() * 1000
    assert gate("submit", "payments", "--count", 1, "--in", "30d", "--partitions", 1)[0] == 0
    assert gate("submit", "payments", "--count", 1, "--at", "2095-01-31T18:30:00Z")[0] == 0
    month, far = (int(dict(record.headers)["gate-start"]) for record in read(log, names.requests("payments")))
    assert 0 <= month - before - 30 * 86_400_000 < 60_000
    assert far == 3_947_337_000_000
    code, _, err = gate("submit", "payments", "--count", 1, "--at", "2001-01-31T18:30:00Z")
    assert (code, err[0]) == (1, "gate: 2001-01-31T18:30:00Z is over already")
    code, _, err = gate("submit", "payments", "--count", 1, "--at", "2101-01-31T18:30:00Z")
    assert code == 1
    assert "too far ahead" in err[0]


def test_lines_of_a_file_are_submitted_as_they_are(gate, log, names, tmp_path):
    file = tmp_path / "requests"
    file.write_bytes(b"one\r\n\n\xff\x00two\nthree\nfour")
    assert gate("submit", "payments", file, "--partitions", 1)[0] == 0
    assert gate("submit", "payments", file, "--count", 2)[2] == []  # the topic is there
    assert [record.value for record in read(log, names.requests("payments"))] == [
        b"one", b"\xff\x00two", b"three", b"four", b"one", b"\xff\x00two",
    ]  # fmt: skip


def test_what_is_no_file_is_not_waited_for(gate, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code, _, err = gate("submit", "payments", tmp_path / "pipe")
    assert code == 1
    assert err[-2] == f"gate: {tmp_path}/pipe is no regular file"
    assert "gate submit SERVICE <" in err[-1]


def test_a_line_without_end_does_not_fill_the_memory(gate, tmp_path, process):
    with (tmp_path / "endless").open("wb") as file:
        file.write(b"one\n")
        file.truncate(1 << 40)
    code, _, err = gate("submit", "payments", tmp_path / "endless")
    assert (code, err[-2]) == (1, "gate: line 2 is longer than 32 MiB, hence no request")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Path("/dev/zero").open("rb") as zeros:
        submit = process("submit", "payments", stdin=zeros)
        assert "line 1 is longer" in submit.communicate(timeout=60)[1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 4, "seconds of a processor for 32 MiB"


def test_lines_of_stdin_are_submitted_while_they_come(process, log, names):
    submit = process("submit", "payments", "--partitions", "1")
    submit.stdin.write("one\ntw")
    submit.stdin.flush()
    assert "created topic" in submit.stderr.readline()
    deadline = time.monotonic() + 10
    while not read(log, names.requests("payments")):
        assert time.monotonic() < deadline
    out, err = submit.communicate("o\nthree", timeout=20)
    assert (submit.returncode, err) == (0, "")
    assert out.startswith("submitted 3 requests")
    assert [record.value for record in read(log, names.requests("payments"))] == [b"one", b"two", b"three"]


def test_ctrl_c_ends_a_submit_that_waits_for_stdin(process):
    submit = process("submit", "payments")
    assert "created topic" in submit.stderr.readline()
    submit.send_signal(signal.SIGINT)
    assert submit.wait(10) == 130
    assert submit.stderr.read() == ""


def test_a_rate_is_kept(gate):
    started = time.monotonic()
    code, out, _ = gate("submit", "payments", "--count", 21, "--rate", 50)
    assert code == 0
    assert time.monotonic() - started >= 0.4  # 20 intervals
    assert 10 < float(out[0].rsplit("(", 1)[1].removesuffix("/s)")) <= 53


def test_a_request_too_large_is_named(gate, tmp_path):
    file = tmp_path / "requests"
    file.write_bytes(b"fits\n" + os.urandom(2_000_000).hex().encode())
    code, out, err = gate("submit", "payments", file)
    assert (code, out) == (1, [])
    assert err[1].startswith("gate: request 2 has 4000000 bytes, more than the broker takes")


def test_a_file_that_is_not_there_is_named(gate, tmp_path):
    code, out, err = gate("submit", "payments", tmp_path / "none")
    assert (code, out) == (1, [])
    assert err[-1] == f"gate: cannot read {tmp_path}/none: No such file or directory"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["pay ments"], "' '"),
        (["p", "--cost", "0"], "cost"),
        (["p", "--cost", str(2**63)], "cost"),
        (["p", "--count", "-1"], "count"),
        (["p", "--rate", "0"], "rate"),
        (["p", "--rate", "nan"], "rate"),
        (["p", "--max-wait", "0"], "max-wait"),
        (["p", "--deadline", "0"], "deadline"),
        (["p", "--at", "noon"], "noon"),
        (["p", "--in", "soon"], "soon"),
        (["p", "--in", "5m", "--at", "18:30"], "--in"),
        (["p", "--priority", "x" * 65], "65 bytes"),
        (["p", "--tenant", "a\nb"], "control characters"),
        (["p", "--bootstrap", "nowhere"], "nowhere"),
        (["p", "--bootstrap", "host:99999"], "host:99999"),
        (["p", "--prefix", "my gate"], "my gate"),
        (["p", "--connect-timeout", "0"], "connect-timeout"),
        ([], "SERVICE"),
    ],
)
def test_bad_usage_is_told(gate, options, told):
    code, out, err = gate("submit", *options)
    assert (code, out) == (2, [])
    assert told.casefold() in err[0].casefold()


@pytest.mark.parametrize(
    "command",
    [
        ["submit", "p", "--count", "1"],
        ["tail", "admitted"],
        ["usage"],
        ["alerts"],
        ["worker", "p", "--", "true"],
        ["pause", "p"],
    ],
)
def test_a_broker_that_does_not_answer_is_one_clear_line(capsys, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    at = command.index("--") if "--" in command else len(command)
    options = ["--bootstrap", f"127.0.0.1:{port}", "--connect-timeout", "0.2"]
    assert main([*command[:at], *options, *command[at:]]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[0] == f"gate: no Kafka broker answers at 127.0.0.1:{port} (tried for 0.2 s)"
    assert len(printed.err.splitlines()) == 2  # and what to do


# tail


def stamped(verdict, offset, *, before=(), not_before=None, **fields):
    stamp = Stamp(verdict, f"x.requests.payments-0@{offset}", AT_MS + offset, 1, "9f2c01", **fields)
    return restamp(before, stamp.encode(), None if not_before is None else 2, not_before)


def write(log, topic, *records, create=True):
    async def go():
        if create:
            await log.create(topic)
        for value, headers, key in records:
            await log.write(topic, value, headers=headers, key=key, timestamp_ms=WRITTEN_MS)

    asyncio.run(go())


def test_stamps_are_shown_for_people(gate, log, names):
    waits = stamped("delayed", 7, reason="window", limit="payments.window", not_before=AT_MS + 1500)
    write(
        log,
        names.delayed("payments"),
        (b'{"n": 1}', waits, b"k"),
        (b"\xff\x1b[31m", [("gate", b"junk")], None),
        (None, [], b"k"),
    )
    code, out, err = gate("tail", "delayed", "payments", "--from-beginning", "--max", 3)
    assert (code, err) == (0, [])
    written = datetime.fromtimestamp(WRITTEN_MS / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    why = "window (payments.window)  not before 2025-11-24T22:58:44.956Z"
    assert out == [
        f'2025-11-24T22:58:43.463Z  delayed   x.requests.payments-0@7  {why}  key=k  {{"n": 1}}',
        f"{written}  -         {names.delayed('payments')}-0@1  \\xff\\x1b[31m",
        f"{written}  -         {names.delayed('payments')}-0@2  key=k  null",
    ]


def test_stamps_are_shown_as_json(gate, log, names):
    topic = names.rejected("payments")
    before, why = [("x", b"\xff"), ("n", b"")], {"reason": "never", "limit": "payments.rate"}
    headers = stamped("rejected", 7, before=before, created_ms=AT_MS - 1, **why)
    write(log, topic, (b"1", headers, None))
    code, out, err = gate("tail", "rejected", "--json", "--from-beginning", "--max", 1)
    assert (code, err) == (0, [])
    (line,) = out
    assert json.loads(line) == {
        "topic": topic,
        "partition": 0,
        "offset": 0,
        "timestamp_ms": WRITTEN_MS,
        "service": "payments",
        "stamp": {
            "verdict": "rejected",
            "id": "x.requests.payments-0@7",
            "at_ms": AT_MS + 7,
            "attempt": 1,
            "policy": "9f2c01",
            "reason": "never",
            "limit": "payments.rate",
            "created_ms": AT_MS - 1,
            "first": None,
            "running": False,
            "origin": None,
        },
        "retry_after": None,
        "not_before_ms": None,
        "given_up_after": None,
        "key": None,
        "value": "1",
        "headers": [["x", {"base64": "/w=="}], ["n", ""], ["gate", headers[-1][1].decode()]],
    }


def test_a_job_that_workers_gave_up_is_told_from_what_the_gate_rejected(gate, log, names):
    dead = [*stamped("admitted", 7), ("gate-error", b"ValueError: no such card"), ("gate-error-attempts", b"3")]
    write(log, names.rejected("payments"), (b"x", dead, b"k"), (b"y", stamped("rejected", 8, reason="never"), b"k"))
    _, out, _ = gate("tail", "rejected", "payments", "--from-beginning", "--max", 2)
    written = datetime.fromtimestamp(WRITTEN_MS / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert out == [
        f"{written}  gave up   x.requests.payments-0@7  after 3 attempts  ValueError: no such card  key=k  x",
        "2025-11-24T22:58:43.464Z  rejected  x.requests.payments-0@8  never  key=k  y",
    ]
    _, out, _ = gate("tail", "rejected", "payments", "--json", "--from-beginning", "--max", 2)
    assert [json.loads(line)["given_up_after"] for line in out] == [3, None]


def test_a_tail_of_all_services_waits_for_topics_and_misses_nothing(process, log, names):
    tail = process("tail", "admitted", "--max", "3")
    topic = names.admitted("*")
    assert tail.stderr.readline() == f"gate: there is no topic {topic} yet; waiting for it\n"
    for service in ("a", "b"):
        write(log, names.admitted(service), (service.encode(), stamped("admitted", 1), None))
        assert tail.stdout.readline().endswith(f"  {service}\n")
    write(log, names.admitted("a"), (b"again", stamped("admitted", 2), None), create=False)
    assert tail.stdout.readline().endswith("  again\n")
    assert tail.wait(10) == 0


def test_a_live_tail_shows_only_what_comes(process, log, names):
    write(log, names.admitted("a"), (b"old", [], None))
    tail = process("tail", "admitted", "a", "--max", "1")
    while tail.poll() is None:  # until it listens, what is written is old too
        write(log, names.admitted("a"), (b"new", [], None), create=False)
    out, err = tail.communicate(timeout=10)
    assert (tail.returncode, err) == (0, "")
    assert out.endswith("  new\n")
    assert out.count("\n") == 1


def test_alerts_of_a_service_are_shown(gate, log, names, tmp_path):
    async def go():
        await log.create(names.alerts)
        await log.write(names.alerts, b"junk", key=b"x")
        for alert in (policy_refused("policy.yaml", "9f2c01", "line 3: no such field", AT_MS * 10**6),):
            await log.write(names.alerts, alert.value, key=alert.key, headers=list(alert.headers))

    asyncio.run(go())
    code, out, err = gate("tail", "alerts", "--from-beginning", "--max", 1)
    assert (code, out) == (0, ["2025-11-24T22:58:43.456Z  gate.policy.refused  -  line 3: no such field"])
    assert err[0].startswith(f"gate: record 0 of {names.alerts} is no alert: ")
    code, out, _ = gate("tail", "alerts", "--json", "--from-beginning", "--max", 1)
    assert json.loads(out[0])["data"]["policy_file"] == "policy.yaml"


def test_a_closed_pipe_ends_a_tail(process, log, names):
    write(log, names.admitted("a"), *[(b"x" * 1000, [], None)] * 20)
    tail = process("tail", "admitted", "--from-beginning")
    assert tail.stdout.readline()
    tail.stdout.close()
    write(log, names.admitted("a"), *[(b"x", [], None)] * 2, create=False)
    assert tail.wait(10) == 1
    assert tail.stderr.read() == ""


# usage


def usage_of(service, **fields):
    lanes = (LaneUsage("interactive", 6.0, 0, 0, 0, 0.0), LaneUsage("batch", 1.0, 1234, 1234, 3, 4200.0))
    limits = (LimitUsage(f"{service}.rate", 150, 100.0, 0.4), LimitUsage(f"{service}.window.60s", 6000, 100.0, 0.95))
    now = time.time_ns() // 10**6 * 10**6
    known = {
        "policy": "9f2c01", "limits": limits, "requests_per_second": 99.5, "units_per_second": 99.5,
        "offered_per_second": 180.0, "tokens": 90.0, "window_fill": 0.95, "lanes": lanes, "totals": (),
        "breach_since": now - 5 * 10**9, "last_refusal": Refusal(now, Reason.WINDOW, f"{service}.window.60s"),
        "paused_until": None, "in_flight": None, "tenants": 3, "unknown_lanes": 0,
    }  # fmt: skip
    return Usage(service, now, **(known | fields))


@pytest.fixture
def published(log, names):
    """Publish usage as gates do: older records first, one tombstone, one that can't be read."""

    async def go():
        await log.create(names.usage)
        calm = usage_of("calm", lanes=(), limits=(), breach_since=None, tokens=None)
        for usage in (usage_of("gone"), replace(calm, tokens=1.0), usage_of("payments"), calm):
            await log.write(names.usage, encode(to_json(usage)), key=usage.service.encode())
        await log.write(names.usage, None, key=b"gone")

    asyncio.run(go())


def test_usage_is_a_table(gate, published):
    code, out, err = gate("usage")
    assert (code, err) == (0, [])
    rows = [" ".join(line.split()) for line in out if line.strip()]
    assert rows[0] == "Service Admitted Limit Tokens Window Waiting Last one in State"
    assert rows[2:] == [
        "calm 99.5/s none 0 within limits",
        "payments 99.5/s 100/s 90 95% 1,234 70.0 min breach: payments.window.60s, 5.0 s",
        "interactive 0 0.0 s weight 6",
        "batch 1,234 70.0 min weight 1",
    ]


def test_usage_is_json(gate, published):
    _, out, _ = gate("usage", "--json")
    (line,) = out
    assert [record["service"] for record in json.loads(line)] == ["calm", "payments"]
    _, out, _ = gate("usage", "payments", "--json")
    record = json.loads(out[0])
    assert (record["service"], record["backlog"], record["eta_seconds"]) == ("payments", 1234, 4200.0)
    assert record["lanes"][1]["name"] == "batch"


def test_states_are_told(gate, log, names):
    async def go():
        await log.create(names.usage)
        for number, fields in enumerate(
            (
                {"paused_until": NEVER},
                {"paused_until": time.time_ns() + 300 * 10**9},
                {"at": 10**18, "breach_since": None},
                {"binding": Binding(Reason.TENANT, "s3.tenant.acme")},
                {
                    "breach_since": None,
                    "paused_tenants": (PausedTenant("acme", None),),
                    "tenants_paused": 1,
                    "paused_until": NEVER,
                    "lanes": (LaneUsage("", 1.0, 7, 7, 1, None),),
                },
                {"blocked_until": NEVER, "lanes": (LaneUsage("", 1.0, 9, 9, 1, None),)},
                {"blocked_until": time.time_ns() + 600 * 10**9},
            )
        ):
            told = to_json(replace(usage_of(f"s{number}"), **fields))
            await log.write(names.usage, encode(told), key=b"s%d" % number)
        await log.write(names.usage, b"junk", key=b"junk")

    asyncio.run(go())
    code, out, err = gate("usage")
    assert code == 0
    text = "\n".join(out)
    assert "paused until resumed" in text
    assert "paused for 5.0 min" in text
    assert re.search(r"s5 .* 9 +until cleared +blocked until cleared", text)
    assert "blocked for 10.0 min" in text
    assert "within limits (as of" in text
    assert "breach: s3.tenant.acme, 5.0 s" in text
    assert re.search(r"s4 .* 7 +until resumed +paused until resumed; tenant acme is paused until resumed", text)
    assert err[0].startswith("gate: the usage of junk can't be read")


def test_an_unknown_service_is_told(gate, published):
    assert gate("usage", "paymnets") == (
        1,
        [],
        [
            "gate: there is no usage of service 'paymnets'; known are calm, payments",
            "  check the name, and that a gate runs",
        ],
    )


def test_usage_is_shown_anew_until_it_is_ended(process, published):
    watching = process("usage", "payments", "--watch", "--json")
    assert [json.loads(watching.stdout.readline())["service"] for _ in range(2)] == ["payments"] * 2
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert watching.stderr.read() == ""


def test_usage_without_a_gate_is_told(gate, bootstrap, names):
    code, out, err = gate("usage")
    assert (code, out) == (1, [])
    assert err[0] == f"gate: no gate has published usage at {bootstrap}: there is no topic {names.usage}"


# worker and alerts


def test_a_command_is_run_per_request(process, log, names, tmp_path):
    write(log, names.admitted("payments"), *[(b"%d" % n, stamped("admitted", n), None) for n in range(3)])
    script = f"cat > {tmp_path}/.$GATE_ID; mv {tmp_path}/.$GATE_ID {tmp_path}/$GATE_ID"
    worker = process("worker", "payments", "--concurrency", "2", "--", "sh", "-c", script)
    deadline = time.monotonic() + 20
    while len([path for path in tmp_path.iterdir() if not path.name.startswith(".")]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"x.requests.payments-0@{n}": str(n) for n in range(3)
    }
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert asyncio.run(log.committed("payments-workers", names.admitted("payments"))) == 3


def test_a_program_that_is_not_there_is_told_before_any_request_is_taken(gate):
    code, out, err = gate("worker", "payments", "--", "no-such-program")
    assert (code, out, err[0]) == (1, [], "gate: there is no program 'no-such-program'")
    assert gate("worker", "payments")[0] == 2


def test_a_service_and_a_tenant_are_paused_and_resumed(gate, log, names):
    before = time.time()
    assert gate("pause", "payments")[1:] == (
        [],
        [f"gate: there is no topic {names.control}: no gate has run with this prefix", "  start one: gate run"],
    )
    asyncio.run(log.create(names.control))
    assert gate("pause", "payments")[2][0] == "gate: there is no service 'payments'; there is none yet"
    asyncio.run(log.create(names.requests("payments")))
    other = usage_of("other")
    write(log, names.usage, (encode(to_json(other)), [], b"other"))
    for command in ("pause", "resume"):
        code, out, err = gate(command, "nosuch")
        assert (code, out, err[0]) == (1, [], "gate: there is no service 'nosuch'; known are other, payments")
    code, out, err = gate("pause", "payments", "--for", "1.5h")
    assert (code, err) == (0, [])
    assert out[0].startswith("payments is paused until 2")
    assert gate("pause", "payments", "--until", "2126-01-31T18:30:00Z", "--tenant", "Müller")[:2] == (
        0,
        ["tenant Müller of payments is paused until 2126-01-31T18:30:00.000Z"],
    )
    assert gate("pause", "other")[1] == ["other is paused until resumed"]
    assert gate("resume", "payments", "--tenant", "Müller")[1] == ["tenant Müller of payments goes on"]
    assert gate("resume", "payments")[1] == ["payments goes on"]
    records = read(log, names.control)
    assert len({record.key for record in records}) == 5  # each command has an id of its own
    pause, *others = [control.decode(record.value) for record in records]
    assert before + 5400 <= pause.until / 1000 <= time.time() + 5400
    assert others == [
        control.PauseUntil(4_925_557_800_000, "Müller", "payments"),
        control.PauseUntil(control.FOREVER_MS, service="other"),
        control.Resume("Müller", "payments"),
        control.Resume(service="payments"),
    ]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--for", "soon"], 2, "is no length of time"),
        (["--for", "5 parsecs"], 2, "is no length of time"),
        (["--until", "25:00"], 2, "is no time"),
        (["--until", "tomorrow"], 2, "is no time"),
        (["--for", "5s", "--until", "18:30"], 2, "mutually exclusive"),
        (["--tenant", "a\nb"], 2, "control characters"),
        (["--for", "0s"], 1, "is over already"),
        (["--until", "2020-01-01"], 1, "is over already"),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(gate, options, code, told):
    found, out, err = gate("pause", "payments", *options)
    assert (found, out) == (code, [])
    assert told in err[0].casefold()


def test_alerts_are_carried_until_sigterm(process, log, names, prefix):
    alert = policy_refused("policy.yaml", "9f2c01", "line 3: no such field", AT_MS * 10**6)
    write(log, names.alerts, (alert.value, list(alert.headers), alert.key))
    carrier = process("alerts", "--from-beginning", "--group", f"{prefix}-alerts")
    assert carrier.stdout.readline() == "2025-11-24T22:58:43.456Z  gate.policy.refused  -  line 3: no such field\n"
    carrier.send_signal(signal.SIGTERM)
    assert carrier.wait(20) == 0
    assert asyncio.run(log.committed(f"{prefix}-alerts.console", names.alerts)) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--smtp", "mail"], "HOST:PORT"),
        (["--smtp", "mail:25"], "--mail-to"),
        (["--mail-to", "a@b"], "--smtp"),
        (["--smtp", "mail:25", "--mail-to", "a@b", "--smtp-password", "p"], "over TLS only"),
    ],
)
def test_mail_needs_a_server_and_a_recipient(gate, options, told):
    code, out, err = gate("alerts", *options)
    assert (code, out) == (2, [])
    assert told in " ".join(err)


@pytest.mark.parametrize("url", ["example.com", "ftp://example.com", "http://", "http://x:port"])
def test_a_webhook_must_be_a_url(gate, url):
    code, _, err = gate("alerts", "--webhook", url)
    assert code == 2
    assert "is no URL" in err[0]


def test_usage_that_is_old_says_what_has_come_since(gate, log, names, prefix, bootstrap):
    """Its gate may be gone, or fail again and again: it would say "within limits" for ever."""

    async def go():
        for service in ("pay", "calm"):
            await log.create(names.requests(service))
            for _ in range(5):
                await log.write(names.requests(service), b"x")
            usage = usage_of(service, lanes=(), limits=(), breach_since=None)
            usage = replace(usage, at=usage.at - 60 * 10**9)
            await log.write(names.usage, encode(to_json(usage)), key=service.encode())
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=prefix, enable_auto_commit=False)
        async with running(consumer):
            decided = {"pay": 2, "calm": 5}
            places = {s: TopicPartition(names.requests(s), 0) for s in decided}
            consumer.assign(list(places.values()))
            await consumer.commit({places[service]: at for service, at in decided.items()})

    asyncio.run(log.create(names.usage))
    asyncio.run(go())
    usages = {one["service"]: one for one in json.loads("".join(gate("usage", "--json")[1]))}
    assert {name: one["undecided"] for name, one in usages.items()} == {"pay": 3, "calm": 0}
    assert usages["calm"]["undecided_age_seconds"] == 0
    assert 0 <= usages["pay"]["undecided_age_seconds"] < 60


def test_what_runs_and_what_goes_first_have_lines_of_their_own():
    lanes = (LaneUsage("low", 1.0, 7, 7, 1, None), LaneUsage(EXPEDITED, 2.0**20, 3, 3, 1, 0.0))
    pay = replace(usage_of("pay", lanes=lanes), running=17)
    out = io.StringIO()
    Console(width=200, file=out).print(usage_table([pay], pay.at))
    rows = [" ".join(row.split()) for row in out.getvalue().splitlines()]
    assert "running 17 admitted, and not told to be done" in rows
    assert f"{EXPEDITED} 3 0.0 s goes first" in rows


def test_what_stands_has_a_line_of_its_own():
    stands = {"topic": "gate.requests.pay", "partition": 3, "offset": 7, "why": "a\ntransaction", "remedy": "end it"}
    pay = replace(usage_of("pay", lanes=()), undecided=8, undecided_age_seconds=12.0, waiting=(stands,))
    soon = replace(usage_of("soon", lanes=()), undecided=8, undecided_age_seconds=1.0)
    out = io.StringIO()
    Console(width=200, file=out).print(usage_table([pay, soon], pay.at))
    rows = [" ".join(row.split()) for row in out.getvalue().splitlines()]
    assert [row for row in rows if row.startswith(("undecided", "stands"))] == [
        "undecided 8 in the request topic, the oldest for 12.0 s",
        "stands gate.requests.pay-3 at offset 7: a\\ntransaction; end it",
    ]
