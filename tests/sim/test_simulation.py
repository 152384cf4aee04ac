"""The gate's promises over a thousand simulated hours of faults, and the power of these tests to find bugs."""

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gate.shard.records import Outgoing, Partition
from tests.sim.checker import Checker, Committed
from tests.sim.client import Fate, Faults
from tests.sim.loop import DeadlockError, LivelockError, Process, SimLoop, run
from tests.sim.mutants import MUTANTS, OF_COMMANDS
from tests.sim.scenario import NAMES, START_MS, Kind, Offer, Scenario, commanded, policy
from tests.sim.world import World, play, simulate

SEEDS = 1000
CHUNK = 50
ROOT = Path(__file__).parents[2]
# Where the first seed that finds a bug comes late, or takes long: one that does not, tried before all others
SOONER = {
    "alerts_outside": 7,
    "broker_never_doubted": 11,
    "clock_of_the_member": 4,
    "earlier_than_the_last_owner": 10,
    "empty_answer_believed": 33,
    "half_done_not_looked_for": 3,
    "held_skipped": 5,
    "ids_not_written": 11,
    "ids_of_a_batch_only": 6,
    "kept_after_failed_commit": 5,
    "late_ones_in_one_record": 13,
    "limiters_not_written": 5,
    "new_leaders_believed": 3,
    "new_topic_from_its_beginning": 14,
    "offset_too_high": 9,
    "offsets_of_the_group_believed": 3,
    "plan_not_charged": 12,
    "read_before_fencing": 2,
    "refused_ones_count": 6,
    "restored_full": 13,
    "scheduled_too_early": 10,
    "seek_forgotten": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_fault_breaks_a_promise(first):
    """A thousand seeds and, as the mean run has an hour, a thousand simulated hours."""
    results = [simulate(seed) for seed in range(first, first + CHUNK)]
    assert {result.seed: result.problems for result in results if result.problems} == {}
    assert sum(result.hours for result in results) >= CHUNK
    assert min(result.commits for result in results) > 0


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_planted_bug_is_found(mutant):
    """Within a hundred seeds, which all pass without it."""
    sooner = SOONER.get(mutant, 0)
    seeds = sorted(range(100), key=lambda seed: (seed != sooner, seed))
    assert any(simulate(seed, mutant=MUTANTS[mutant]()).problems for seed in seeds)


def test_commands_are_carried_out_once_amid_faults():
    results = [play(commanded(seed)) for seed in range(15)]
    assert {result.seed: result.problems for result in results if result.problems} == {}


@pytest.mark.parametrize("mutant", sorted(OF_COMMANDS))
def test_a_bug_in_commands_is_found(mutant):
    with OF_COMMANDS[mutant]():
        assert any(play(commanded(seed)).problems for seed in range(25))


def test_the_same_seed_runs_the_same_way():
    seeds = (7, 11, 27)
    traces = [simulate(seed).trace for seed in seeds]
    assert traces == [simulate(seed).trace for seed in seeds]
    assert len(set(traces)) == len(seeds)


def test_a_run_is_the_same_in_another_process():
    """Nothing may depend on where objects lie or how strings are hashed."""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-m", "tests.sim", "--seeds", "11"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"seed 11: trace {simulate(11).trace}\n")


# -- what the simulation has found, each as a scenario of its own ------------------------------------------------------


def scenario(service: str, *offers: tuple[float, int, list[tuple[str, bytes | None]]], **changes: Any) -> Scenario:
    """Return a quiet run of one service; offers are (at, requests, their headers), all to partition 0."""
    number = iter(range(10_000))
    made = [
        Offer(
            at,
            Partition(NAMES.requests(service), 0),
            tuple(
                Outgoing(b"k", b"%d" % next(number), START_MS + int(1000 * at), tuple(headers)) for _ in range(count)
            ),
            transactional=False,
        )
        for at, count, headers in offers
    ]
    usual: dict[str, Any] = {
        "seed": 1, "seconds": 600.0, "members": 2, "shards": 1, "services": (service,), "faults": Faults(),
        "events": (), "offers": tuple(made), "batch": 4000, "pulls": 1000, "buffer": 1 << 20, "fetch": 500,
        "runs": 120, "look": 300.0,
    }  # fmt: skip
    return Scenario(**(usual | changes))


def test_a_topic_that_is_seen_late_is_read_from_its_offset():
    """Seeds 27 and 30: it was read from its beginning, and every request admitted twice."""
    events = ((40.0, Kind.HIDE), (45.0, Kind.KILL), (46.0, Kind.KILL))
    assert play(scenario("plain", (20.0, 8, []), (500.0, 2, []), events=events)).problems == ()


def test_what_is_parked_goes_in_front_of_what_comes_with_its_release():
    """Seed 9: in a batch that admitted both, the newer requests were written first."""
    singles = [(20.0 + i / 2, 1, []) for i in range(60)]
    slow = Faults(slow=1.0)  # so that capacity for what is parked and for what comes is there at once
    assert play(scenario("plain", (20.0, 6, []), *singles, faults=slow)).problems == ()


def test_nothing_behind_a_held_request_is_refused_and_read_again():
    """Seed 49: a request whose deadline had passed was rejected at each look at those in front of it."""
    late = [("gate-deadline", b"%d" % (START_MS + 20_500))]
    never = [("gate-cost", b"1000")]
    assert play(scenario("hold", (20.0, 9, []), (20.0, 2, late), (20.0, 2, never), (20.0, 3, []))).problems == ()


def test_no_tenant_overtakes_a_held_request():
    """Seeds 0 and 21: another tenant behind it was admitted, and read and admitted again."""
    beta, gamma = [("gate-tenant", b"beta")], [("gate-tenant", b"gamma")]
    assert play(scenario("holdtenants", (20.0, 4, beta), (20.0, 1, gamma))).problems == ()


def test_a_quiet_service_comes_to_rest():
    """Seed 9: a service cost a transaction a second for two hours after its last request."""
    assert play(scenario("plain", (20.0, 5, []), seconds=4 * 3600.0)).commits < 20


def test_late_requests_of_the_protocol_do_no_harm():
    """Produces, offsets and commits take effect after the gate has given up on them."""
    faults = Faults(chance=0.2, most=12, fates=(Fate.LATE,))
    offers = [(20.0 + 5 * i, 6, []) for i in range(20)]
    for seed in range(10):
        assert play(scenario("plain", *offers, faults=faults, seed=seed)).problems == ()


def test_places_are_taken_as_long_as_something_waits():
    """At most so many run, and hardly ever fewer while more wait and workers tell."""
    most = policy(0).effective("runs").spec.running.capacity
    worlds: list[World] = []
    played = play(scenario("runs", (20.0, 60 * most, []), seconds=400.0, job=5.0, honest=True), meet=worlds.append)
    assert played.problems == ()
    (world,) = worlds
    runs = world.read().running
    (times,) = [sorted(at for at, _, _ in service.admitted.values()) for service in runs.services.values()]
    assert times[-1] - times[0] > 250 * 10**9  # they came one after another
    assert runs.used("runs", most, times[0], times[-1]) >= 0.99


def test_a_gate_that_leaves_ends_all_that_it_has_begun(caplog):
    events = ((40.0, Kind.JOIN), (60.0, Kind.LEAVE))
    assert play(scenario("plain", (20.0, 8, []), (500.0, 2, []), events=events)).problems == ()
    gc.collect()
    assert "pending" not in caplog.text


# -- the checker -------------------------------------------------------------------------------------------------------


def history(*outputs: tuple[str, int, int, int], requests: int = 3, created: str = "1", late: int = 0) -> list[str]:
    """Return what the checker finds in requests of `plain` and outputs (kind, offset, request, at in ms)."""
    version = policy(0).version
    checker = Checker(NAMES, {version: policy(0)}, shards=1)
    for offset in range(requests):
        checker.feed(Committed(NAMES.requests("plain"), 0, offset, b"k", b"v", (), 1))
    for kind, offset, request, after in outputs:
        at = START_MS + after
        stamp = f'{kind};id="gate.requests.plain-0@{request}";at={at};attempt=1;policy="{version}";created={created}'
        topic = getattr(NAMES, kind)("plain")
        checker.feed(Committed(topic, 0, offset, b"k", b"v", (("gate", stamp.encode()),), at + late))
    decided = {Partition(NAMES.requests("plain"), 0): requests}
    found = checker.finish(policy=policy(0), offsets=decided, drained=True)
    return sorted({problem.split(":")[0] for problem in found})


def test_a_good_history_passes():
    assert history(("admitted", 0, 0, 0), ("admitted", 1, 1, 0), ("rejected", 0, 2, 0)) == []


def test_a_history_without_the_right_times_is_called_so():
    outputs = [("admitted", 0, 0, 0), ("admitted", 1, 1, 0), ("rejected", 0, 2, 0)]
    assert history(*outputs, created="2") == ["touched"]
    assert history(*outputs, late=1) == ["dated"]


@pytest.mark.parametrize(
    ("outputs", "problems"),
    [
        ([("admitted", 0, 0, 0), ("admitted", 1, 2, 0)], ["lost", "offsets"]),
        ([("admitted", 0, 0, 0), ("admitted", 1, 1, 0), ("admitted", 2, 2, 0), ("rejected", 0, 2, 0)], ["twice"]),
        ([("admitted", 0, 1, 0), ("admitted", 1, 0, 0), ("admitted", 2, 2, 0)], ["order"]),
        ([("admitted", 0, 0, 9), ("admitted", 1, 1, 0), ("admitted", 2, 2, 0)], ["order"]),
        ([("admitted", 0, 0, 0), ("admitted", 1, 1, 0), ("admitted", 2, 7, 0)], ["lost", "offsets", "stamp"]),
    ],
)
def test_a_bad_history_is_called_so(outputs, problems):
    assert history(*outputs) == problems


def test_a_burst_above_the_bucket_is_over():
    burst = policy(0).effective("plain").spec.burst
    within = [("admitted", i, i, 0) for i in range(burst)]
    assert history(*within, requests=burst) == []
    assert history(*within, ("admitted", burst, burst, 1), requests=burst + 1) == ["over"]


def test_a_window_holds_for_every_interval():
    """Two a second fill 30 in 20 s after 12.5 s; the next fits when the first five leave, at 20 s, not a ms before."""
    times = [0] * 5 + [500 * i for i in range(1, 26)]
    fill = [("admitted", i, i, at) for i, at in enumerate(times)]
    assert history(*fill, ("admitted", 30, 30, 20_000), requests=31) == []
    assert history(*fill, ("admitted", 30, 30, 19_999), requests=31) == ["over"]


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_a_process_can_be_stopped_continued_and_killed():
    ticks: list[Any] = []

    async def main(loop: SimLoop) -> None:
        async def tick() -> None:
            try:
                while True:
                    await asyncio.sleep(1)
                    ticks.append(loop.time())
            finally:
                ticks.append("end")

        process = Process(loop, "p")
        process.spawn(tick())
        await asyncio.sleep(2.5)
        process.freeze()
        await asyncio.sleep(10)
        process.thaw()
        await asyncio.sleep(1.2)
        process.kill()
        await asyncio.sleep(86_400)

    run(main)
    assert ticks == [1, 2, 12.5, 13.5, "end"]


def test_waiting_for_nothing_is_a_deadlock():
    async def main(loop: SimLoop) -> None:
        await loop.create_future()

    with pytest.raises(DeadlockError):
        run(main)


def test_endless_work_is_a_livelock():
    async def main(loop: SimLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(LivelockError):
        run(main)
