"""What is run, and which ratios come of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.pipeline.contenders import AT_LEAST_ONCE, DEDUPLICATE, EXACTLY_ONCE, KAFKA_STREAMS, PYTHON_PEERS, Contender
from bench.pipeline.load import Shape
from bench.pipeline.run import Case, Outcome
from bench.results import Result, from_rounds

EVERYONE = (EXACTLY_ONCE, AT_LEAST_ONCE, *PYTHON_PEERS, KAFKA_STREAMS)
NAIVE = PYTHON_PEERS[0]
SMALL, LARGE = Shape(100), Shape(1024)
ONE_TENANT, MANY_TENANTS = Shape(100, tenants=1), Shape(100, tenants=100_000)
WITH_IDS = Shape(100, ids=True)
SCALE_LOAD, TENANTS_LOAD = 100_000, 200_000  # each of 100,000 tenants comes more than once

# One round of one case each: name -> outcomes by round; None where it failed
Rounds = Mapping[Case, Sequence[Outcome | None]]


def cases(*, quick: bool) -> list[Case]:
    """Return the runs of one round."""
    if quick:
        brief = [replace(contender, warm_up=min(contender.warm_up, 400_000)) for contender in EVERYONE]
        chosen = [(contender, SMALL, "all") for contender in brief]
        chosen += [(contender, LARGE, "all") for contender in (EXACTLY_ONCE, NAIVE)]
        return [Case(contender, shape, contender.load // 4, form) for contender, shape, form in chosen]
    chosen = [(contender, SMALL, form) for contender in EVERYONE for form in ("all", "half")]
    chosen += [(contender, LARGE, "all") for contender in EVERYONE]
    return [Case(contender, shape, contender.load, form) for contender, shape, form in chosen]


@dataclass(frozen=True, slots=True)
class Pair:
    """The gate against itself: what more of something costs."""

    name: str
    many: Case
    few: Case


def pairs() -> list[Pair]:
    """Return what is compared: a thousand services with one, many tenants with one, ids told apart with ids alone."""
    return [
        Pair(
            "services/1000", Case(EXACTLY_ONCE, SMALL, SCALE_LOAD, services=1000), Case(EXACTLY_ONCE, SMALL, SCALE_LOAD)
        ),
        Pair(
            "tenants/100000",
            Case(EXACTLY_ONCE, MANY_TENANTS, TENANTS_LOAD),
            Case(EXACTLY_ONCE, ONE_TENANT, TENANTS_LOAD),
        ),
        Pair("deduplicate", Case(DEDUPLICATE, WITH_IDS, TENANTS_LOAD), Case(EXACTLY_ONCE, WITH_IDS, TENANTS_LOAD)),
    ]


ALL_SHARDS = Case(EXACTLY_ONCE, LARGE, SCALE_LOAD, services=64)


def scale_cases() -> list[Case]:
    """Return the runs of the gate against itself."""
    return [*(case for pair in pairs() for case in (pair.few, pair.many)), ALL_SHARDS]


def ratios(rounds: Rounds) -> list[Result]:
    """Return CPU and time per record of the gate by those of each peer in the same round; none where one failed."""
    results = []
    for (size, form), by_name in _grouped(rounds).items():
        ours = by_name.get(EXACTLY_ONCE.name)
        for name, theirs in by_name.items():
            pairs = [(a, b) for a, b in zip(ours or (), theirs, strict=False) if a is not None and b is not None]
            if name == EXACTLY_ONCE.name or not pairs:
                continue
            peer = name.removeprefix("gate ")
            suffix = f"{peer}/{size}" + ("/half" if form == "half" else "")
            cpu = [a.cpu for a, _ in pairs], [b.cpu for _, b in pairs]
            results.append(from_rounds(f"cpu/{suffix}", *cpu, f"CPU per record, gate exactly once / {peer}"))
            time = [1 / a.rate for a, _ in pairs], [1 / b.rate for _, b in pairs]
            results.append(from_rounds(f"time/{suffix}", *time, f"time per record, gate exactly once / {peer}"))
    return results


def scale_ratios(rounds: Rounds) -> list[Result]:
    """Return what services and tenants cost, and the memory of all shards under load."""
    results = ratios_of(pairs(), rounds)
    if memory := [outcome.memory for outcome in rounds[ALL_SHARDS] if outcome]:
        results.append(figure("memory/16-shards", memory, "MB resident at the most, 16 shards at full load"))
    return results


def ratios_of(chosen: Sequence[Pair], rounds: Rounds) -> list[Result]:
    """Return the CPU per record of each pair, round by round; nothing of one that always failed."""
    results = []
    for pair in chosen:
        costs = [(a.cpu, b.cpu) for a, b in zip(rounds[pair.many], rounds[pair.few], strict=True) if a and b]
        if costs:
            many, few = map(list, zip(*costs, strict=True))
            results.append(from_rounds(f"cpu/{pair.name}", many, few, f"CPU per record, {pair.name} / without"))
    return results


def figure(name: str, values: Sequence[float], unit: str) -> Result:
    """Return a figure of ours that is no ratio, in `unit`."""
    return Result(name, round(statistics.median(values), 2), round(min(values), 2), round(max(values), 2), unit)


def _grouped(rounds: Rounds) -> dict[tuple[int, str], dict[str, Sequence[Outcome | None]]]:
    groups: dict[tuple[int, str], dict[str, Sequence[Outcome | None]]] = {}
    for case, outcomes in rounds.items():
        groups.setdefault((case.shape.value_size, case.form), {})[case.contender.name] = outcomes
    return groups


def by_contender(case: Case, outcomes: Sequence[Outcome | None]) -> dict[str, object]:
    """Return the rounds of a case as plain values, for the file from which table and picture are drawn."""
    good = [outcome for outcome in outcomes if outcome is not None]
    return {
        "contender": case.contender.name,
        "value_size": case.shape.value_size,
        "form": case.form,
        "services": case.services,
        "tenants": case.shape.tenants,
        "records": case.records,
        "cpu": [round(outcome.cpu, 3) for outcome in good],
        "rate": [round(outcome.rate) for outcome in good],
        "memory": [round(outcome.memory, 1) for outcome in good],
    }


def contenders_of(rounds: Rounds) -> list[Contender]:
    return list({case.contender.name: case.contender for case in rounds}.values())
