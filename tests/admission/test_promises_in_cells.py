"""A window of more than 120 runs is kept in cells: what is promised of it holds although it is released in lumps."""

import random

import pytest

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, Run
from gate.policy import ServicePolicy, parse_policy
from tests.admission.test_promises import play, random_spec

T = 1_764_000_000_003 * MS


@pytest.mark.parametrize("lump", [1, 2, 3, 5])
@pytest.mark.parametrize(("rate", "size", "limit"), [(30, 5, 150), (100, 5, 400), (40, 7, 140), (10, 60, 590)])
def test_nothing_is_admitted_before_its_time(rate, size, limit, lump):
    """The plan books one by one and compresses; what is released several at a time would be few enough not to."""
    policy = parse_policy(
        f"services: {{s: {{requests_per_second: {rate}, burst_size: 10, window_size: {size}, window_limit: {limit}}}}}"
    )
    engine = Engine("s", policy.effective("s"), Budgets(T, {}), T, "v")
    step = engine.step(T, [Run(0, 900)], 10_000)
    promised = [time for decision in step.decisions for time in decision.not_before or ()]
    engine.parked([(0, place) for place in range(len(promised))])
    now, done = T, 0
    while done < len(promised):
        together = promised[min(done + lump - 1, len(promised) - 1)] if done % 7 else now
        now = max(now, engine.wake_at(), together)
        for pull in engine.step(now, [], 10_000).pulls:
            for place in range(pull.offset, pull.offset + pull.count):
                assert promised[place] <= now, f"{(promised[place] - now) / MS} ms too early"
            done += pull.count


@pytest.mark.parametrize("seed", [21, 547, 1152, 12977])
def test_what_was_promised_before_there_were_many_runs_is_kept_to_the_millisecond(seed):
    """The first promises of a backlog were exact, the cells that came later were not: admitted up to a cell late."""
    rng = random.Random(seed)
    sim, _, _ = play(rng, ServicePolicy("svc", random_spec(rng)), [""], [1, 1, 2, 5])
    for at, stamp in zip(sim.history.admitted_at, sim.history.not_before, strict=True):
        assert stamp in (0, at)
