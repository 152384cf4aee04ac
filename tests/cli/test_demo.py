"""`gate demo`: its checks find what they are there to find, it runs, and it leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from gate.cli.demo.scenario import PARTS, Part
from gate.cli.demo.screen import sums
from gate.cli.demo.tally import Ledger, Tally, percentile, samples
from gate.cli.demo.verify import broken_promises
from gate.limits import Spec, Window
from gate.protocol.headers import Stamp, restamp
from gate.protocol.topics import Names

NAMES = Names("t")
START = 1_764_000_000_000
SPEC = Spec(rate=Fraction(10), burst=2, windows=(Window(limit=6, size=500_000_000),))


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Log:
    """Topics of one service, written as a gate would."""

    def __init__(self) -> None:
        self.tally = Tally(NAMES, ["s"])
        self.submitted: list[str] = []

    @property
    def ledger(self) -> Ledger:
        return self.tally.ledgers["s"]

    def submit(self) -> str:
        record = self._request(len(self.submitted))
        self.tally.add(record, START)
        self.submitted.append(f"{record.topic}-0@{record.offset}")
        return self.submitted[-1]

    def admit(self, request: str, at: int, **changed: object) -> None:
        self._put(NAMES.admitted("s"), "admitted", request, at, **changed)

    def reject(self, request: str, at: int, reason: str = "max-delay") -> None:
        self._put(NAMES.rejected("s"), "rejected", request, at, reason=reason)

    def park(self, request: str, at: int, due: int) -> None:
        self._put(NAMES.delayed("s"), "delayed", request, at, reason="rate", due=START + due)

    def alert(self, kind: str, since: str) -> None:
        value = b'{"service": "s", "since": "%b"}' % since.encode()
        headers = (("ce_type", f"gate.breach.{kind}".encode()),)
        self.tally.add(Record(NAMES.alerts, 0, 0, START, b"s", value, headers), START)

    def broken(self) -> list[str]:
        worked = {outcome.id for outcome in self.ledger.admitted}
        return broken_promises(self.ledger, SPEC, set(self.submitted), worked)

    def _request(self, number: int) -> Record:
        headers = (("gate-id", b"%d" % number), ("traceparent", None))
        return Record(NAMES.requests("s"), 0, number, START + number, b"k", b"v%d" % number, headers)

    def _put(self, topic: str, verdict: str, request: str, at: int, reason=None, due=None, **changed: object) -> None:
        made = self._request(int(request.rpartition("@")[2]))
        created = int(changed.pop("created", made.timestamp))
        stamp = Stamp(verdict, request, START + at, 1, "abc123", reason, None, created).encode()
        headers = tuple(restamp(made.headers, stamp, None if due is None else 1, due))
        record = Record(topic, 0, 0, START + at, made.key, made.value, headers)
        self.tally.add(Record(**{**vars(record), **changed}), START + at + 7)


@pytest.fixture
def log() -> Log:
    """All is well: two admitted at once, three later to the millisecond, one rejected, a breach that ended."""
    log = Log()
    log.alert("opened", "then")
    log.alert("resolved", "then")
    for _ in range(2):
        log.admit(log.submit(), 0)
    for due in (100, 200, 300):
        log.park(request := log.submit(), 0, due)
        log.admit(request, due)
    log.reject(log.submit(), 1)
    return log


def test_nothing_is_found_where_all_is_well(log):
    assert log.broken() == []
    assert log.tally.settled
    assert len(log.ledger.delayed_then_admitted) == 3
    assert log.ledger.reasons() == {"max-delay": 1}
    assert log.ledger.lags() == ([0, 0, 0], [7, 7, 7])


def test_the_sums_are_told_to_programs_as_to_people(log):
    assert sums(log.tally, {"s": log.submitted[:5]})["s"] == {
        "submitted": 6, "admitted": 5, "delayed_then_admitted": 3, "rejected": 1, "waiting": 0, "breaches": 1,
        "resolved": 1, "worked": 5,
    }  # fmt: skip


def test_a_lost_request_is_found(log):
    lost = log.submit()
    assert not log.tally.settled
    assert log.broken() == [f"s: 1 lost: neither admitted nor rejected nor waiting: {lost}"]


def test_a_waiting_request_is_not_lost_but_nothing_is_settled(log):
    log.park(log.submit(), 300, 900)
    assert log.broken() == []
    assert not log.tally.settled


def test_an_outcome_that_is_read_before_its_parking_does_not_wait(log):
    request = log.submit()
    log.admit(request, 400)
    log.park(request, 0, 400)
    assert log.tally.settled
    assert log.broken() == []


def test_a_request_that_never_reached_the_topic_is_found(log):
    log.submitted.append("t.requests.s-0@99")
    assert log.broken() == ["s: 1 confirmed to the producer but not in the request topic: t.requests.s-0@99"]


def test_a_request_of_unknown_origin_is_found(log):
    made_up = log.submit()
    log.admit(made_up, 400)
    log.submitted.remove(made_up)
    assert log.broken() == [f"s: 1 in the request topic but not confirmed to the producer: {made_up}"]


@pytest.mark.parametrize("again", ["admit", "reject"])
def test_a_doubled_request_is_found(log, again):
    getattr(log, again)(log.submitted[0], 400)
    assert log.broken() == [f"s: 1 decided more than once: {log.submitted[0]}"]


def test_a_decision_about_nothing_is_found(log):
    log.admit("t.requests.s-0@77", 400)
    assert log.broken() == ["s: 1 decided but never submitted: t.requests.s-0@77"]


def test_an_admission_that_is_a_millisecond_early_is_found(log):
    log.park(request := log.submit(), 300, 401)
    log.admit(request, 400)
    assert log.broken() == [f"s: 1 admitted before their gate-not-before: {request}"]


def test_one_over_the_bucket_is_found(log):
    log.admit(log.submit(), 399)  # the bucket is empty at 300, and full of one again at 400
    assert log.broken() == [f"s: over the bucket: 6 admitted within 399 ms from {START}, 5.99 are allowed"]


def test_the_bucket_is_exact_where_it_just_holds(log):
    log.admit(log.submit(), 400)
    assert log.broken() == []


def test_one_over_the_window_is_found(log):
    for at in (400, 499, 900):  # 499 is in the last window that holds what was admitted at 0
        log.admit(log.submit(), at)
    spec = Spec(rate=None, burst=0, windows=(Window(limit=6, size=500_000_000),))
    worked = {outcome.id for outcome in log.ledger.admitted}
    assert broken_promises(log.ledger, spec, log.submitted, worked) == [
        f"s: over the window: 7 admitted within 500 ms from {START}, 6 are allowed"
    ]


def test_the_window_is_half_open(log):
    for at in (400, 500):
        log.admit(log.submit(), at)
    spec = Spec(rate=None, burst=0, windows=(Window(limit=6, size=500_000_000),))
    worked = {outcome.id for outcome in log.ledger.admitted}
    assert broken_promises(log.ledger, spec, log.submitted, worked) == []


@pytest.mark.parametrize(
    "changed", [{"key": None}, {"value": b"other"}, {"created": START + 99}, {"headers": "gate-id"}], ids=str
)
def test_a_changed_request_is_found(log, changed):
    request = log.submit()
    if "headers" in changed:
        stamp = Stamp("admitted", request, START + 400, 1, "abc123", created_ms=START).encode()
        changed = {"headers": (("gate-id", b"other"), ("traceparent", None), ("gate", stamp))}
    log.admit(request, 400, **changed)
    assert log.broken() == [f"s: 1 changed on the way: key, value, timestamp or a header: {request}"]


@pytest.mark.parametrize(
    ("alerts", "found"),
    [
        ([("opened", "now")], "breaches that were opened but not resolved"),
        ([("resolved", "now")], "breaches that were resolved but not opened"),
        ([("opened", "now"), ("opened", "now"), ("resolved", "now"), ("resolved", "now")], "opened more than once"),
    ],
)
def test_a_breach_that_is_told_wrongly_is_found(log, alerts, found):
    for alert in alerts:
        log.alert(*alert)
    [line] = log.broken()
    assert found in line
    assert line.endswith("now")


def test_what_workers_did_is_counted_by_their_results(log):
    for request in log.submitted[:2] * 2:
        log.tally.add(Record(NAMES.results("s"), 0, 0, START, request.encode(), b"done", ()), START)
    assert log.ledger.worked == set(log.submitted[:2])


def test_work_that_was_not_done_is_found(log):
    assert broken_promises(log.ledger, SPEC, log.submitted, [])[0].startswith(
        "s: 5 admitted but not done by the worker"
    )


def test_a_record_without_a_stamp_is_not_counted_silently(log):
    with pytest.raises(ValueError, match="Empty item"):
        log.tally.add(Record(NAMES.admitted("s"), 0, 0, START, None, None, ()), START)


def test_samples_add_up(log):
    rows = samples(log.ledger, START, START + 400, 100)
    assert [row.seconds for row in rows] == [0.0, 0.1, 0.2, 0.3]
    assert [row.offered for row in rows] == [60, 0, 0, 0]
    assert [row.admitted for row in rows] == [20, 10, 10, 10]
    assert [row.waiting for row in rows] == [3, 2, 1, 0]
    assert [row.called for row in samples(log.ledger, START, START + 400, 100, [START + 399, START])] == [10, 0, 0, 10]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (0.0, 1), (1.0, 4)])
def test_percentiles_are_values_that_occurred(share, expected):
    assert percentile([1, 2, 3, 4], share) == expected


def test_a_part_plays_what_it_says():
    arrivals = Part("s", "bursting", per_second=2, burst=3).arrivals(7)
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == 2 * 7 + 2 * 3
    assert arrivals.count(2.25) == arrivals.count(6.25) == 3


# -- the whole, as a process -------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "gate", "demo", "--seconds", "4"]


def test_it_runs_on_a_broker_and_its_sums_add_up(bootstrap, tmp_path):
    ran = subprocess.run(
        [*COMMAND, "--bootstrap", bootstrap],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = {line.split()[0]: line.split() for line in ran.stdout.splitlines() if line.strip()}
    for part in PARTS:
        submitted, admitted, delayed, rejected, waiting, opened, resolved, worked = map(int, rows[part.service][1:])
        assert submitted == admitted + rejected + waiting == len(part.arrivals(4))
        assert waiting == 0
        assert worked == admitted
        assert opened == resolved
        assert (delayed > 0) == (opened > 0)
        assert delayed or part.mood == "calm"  # on a machine that stalls, what is calm comes at once, too
        assert (rejected > 0) == (part.mood == "flooded")
    asked, allowed, refused = map(int, rows["calls"][1:])
    assert asked == allowed + refused
    assert allowed > 0
    assert "by call and by topic" in ran.stdout
    assert [line for line in ran.stdout.splitlines() if "/s come, " in line and len(line) > 80] == []
    assert "release lag" in ran.stdout
    assert not [topic for topic in asyncio.run(topics_on(bootstrap)) if topic.startswith("demo-")]
    assert (tmp_path / "build/demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [
        (signal.SIGINT, "starting the broker", 130),
        (signal.SIGINT, "starting the gate", 130),
        (signal.SIGTERM, "console of the gate", 130),
        (signal.SIGKILL, "console of the gate", -signal.SIGKILL),
    ],
)
def test_nothing_is_left_running(tmp_path, number, moment, code):
    mark = uuid.uuid4().hex
    output = tmp_path / "output"
    with output.open("wb") as file:
        env = environment(DEMO_MARK=mark, TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1")
        demo = subprocess.Popen(COMMAND, cwd=tmp_path, env=env, stdout=file, stderr=file)
    try:
        wait_until(lambda: moment in output.read_text() or demo.poll() is not None)
        assert moment in output.read_text()
        demo.send_signal(number)
        assert demo.wait(30) == code, output.read_text()
        wait_until(lambda: not marked(mark))
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert "Traceback" not in output.read_text()


async def topics_on(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return await admin.list_topics()
    finally:
        await admin.close()


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATE_")} | more


def marked(mark: str) -> list[int]:
    """Which processes inherited the mark, whosever children they are by now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"DEMO_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)
