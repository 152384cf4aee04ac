"""`gate replay`."""

import asyncio
import json as jsonlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gate.admission.replay import ReplayResult, Request
from gate.admission.replay import replay as play
from gate.cli.client import Client, Flag, Seconds, Service, log_to_stderr, say
from gate.cli.replay_check import check as checked
from gate.errors import GateError
from gate.kafka.request_history import reader, recorded
from gate.policy import Policy, load_policy

_WIDTH: Final = 120
_POINTS: Final = 400  # of a curve in the picture


def replay(
    service: Service,
    *,
    against: Path | None = None,
    since: Seconds | None = None,
    plot: Path | None = None,
    check: Flag = False,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Show what a policy would have done to the recorded requests; touches nothing.

    The request topic is the recording, the time of a request is its timestamp, and the engine is the one that
    `gate run` has.

    The policy to try is that of --config.

    Example: `gate replay payments --config new.yaml --against policy.yaml --since 2h --plot replay.png`

    Parameters
    ----------
    service
        The service.
    against
        Another policy to compare with, mostly the one in force.
    since
        How far back to go, such as 30m or 2h; all that the topic has if not given.
    plot
        Write a picture of offered and admitted requests over time.
    check
        Play the gate's own batches again, by its outputs, and say how many of its decisions the engine repeats: all of
        them where --config is the policy that it ran with from the beginning, and nobody commanded anything.
    json
        Print a list with an object per policy: policy_file, policy (its version), offered, seconds, admitted,
        admitted_at_once, delayed, rejected (reason to number), breaches, wait_ms (p50, p90, p99, p100). With --check
        one object: compared, same, the first other one in words, and unchecked (decided since a limit was set live, or
        another file was in force).
    """
    log_to_stderr()
    client = client or Client()
    if check:
        found = asyncio.run(checked(client, service, client.policy, time.time_ns() // 1_000_000))
        text = f"{found.same:,} of {found.compared:,} decisions of the gate are the engine's"
        print(jsonlib.dumps(asdict(found)) if json else f"{text}{f'; not {found.first}' if found.first else ''}")
        if found.unchecked and not json:
            print(
                f"{found.unchecked:,} later ones are not checked: a limit was set live, or another file came into force"
            )
        return
    policies = [client.policy, *([] if against is None else [load_policy(against)])]
    since_ms = None if since is None else int((time.time() - since) * 1000)
    requests, malformed = asyncio.run(_read(client, service, since_ms))
    if not requests:
        raise GateError(
            f"{client.names.requests(service)} has no requests"
            + ("" if since is None else f" of the last {since:g} s"),
            hint="try a longer --since",
        )
    if malformed:
        say(f"{malformed} malformed requests are left out")
    outcomes = [play(service, policy, requests) for policy in policies]
    names = [policy.name for policy in policies]
    if json:
        print(jsonlib.dumps([_figures(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]))
    else:
        _print(service, names, policies, outcomes)
    if plot is not None:
        _draw(service, names, outcomes, plot)
        say(f"the picture is {plot}")


async def _read(client: Client, service: str, since_ms: int | None) -> tuple[list[Request], int]:
    await client.reach()
    topic = client.names.requests(service)
    async with client.cluster() as cluster, reader(**client.connection.access()) as source:
        partitions = (await cluster.partitions()).get(topic)
        if partitions is None:
            raise GateError(f"there is no topic {topic}", hint="check the service's name and --prefix")
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"reading {topic}", total=None)
            return await recorded(
                source,
                topic,
                partitions,
                since_ms,
                lambda done, total: progress.update(task, completed=done, total=total),
            )


def _figures(name: str, outcome: ReplayResult) -> dict[str, Any]:
    waits, delayed = outcome.waits(), sum(outcome.delayed.values())
    span = max(outcome.offered) - min(outcome.offered)
    return {
        "policy_file": name,
        "policy": outcome.policy,
        "offered": len(outcome.offered),
        "seconds": span / 1e3,
        "admitted": len(waits),
        "admitted_at_once": sum(wait == 0 for wait in waits),
        "delayed": delayed,
        "rejected": {reason.value: count for reason, count in sorted(outcome.rejected.items())},
        "breaches": outcome.breaches,
        "wait_ms": {f"p{q}": waits[min(len(waits) - 1, len(waits) * q // 100)] for q in (50, 90, 99, 100)}
        if waits
        else {},
    }


def _print(service: str, names: list[str], policies: list[Policy], outcomes: list[ReplayResult]) -> None:
    table = Table(
        title=f"{service}: {len(outcomes[0].offered):,} recorded requests", box=box.SIMPLE_HEAD, title_style=""
    )
    table.add_column("")
    figures = [_figures(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
    for name, policy in zip(names, policies, strict=True):
        table.add_column(f"{name}\n{policy.version}", justify="right")
    for row in ("admitted", "admitted_at_once", "delayed", "breaches"):
        table.add_row(row.replace("_", " "), *(f"{one[row]:,}" for one in figures))
    for reason in sorted({reason for one in figures for reason in one["rejected"]}):
        table.add_row(f"rejected: {reason}", *(f"{one['rejected'].get(reason, 0):,}" for one in figures))
    for quantile in ("p50", "p90", "p99", "p100"):
        name = "longest wait" if quantile == "p100" else f"wait {quantile}"
        table.add_row(name, *(f"{one['wait_ms'].get(quantile, 0) / 1e3:,.3f} s" for one in figures))
    compared = None
    if len(outcomes) > 1:
        one, other = outcomes
        pairs = list(zip(one.verdicts, other.verdicts, one.decided, other.decided, strict=True))
        moved = sum(a is not b for a, b, _, _ in pairs)
        sooner = sum(a is b and mine < theirs for a, b, mine, theirs in pairs)
        later = sum(a is b and mine > theirs for a, b, mine, theirs in pairs)
        compared = f"{moved:,} fare otherwise, {sooner:,} go sooner and {later:,} later with {names[0]}"
    console = Console(width=None if Console().is_terminal else _WIDTH)
    console.print(table)
    if compared is not None:
        console.print(compared, highlight=False)


def _draw(service: str, names: list[str], outcomes: list[ReplayResult], path: Path) -> None:
    try:
        import altair as alt  # noqa: PLC0415 - takes a second, and is only needed here
    except ImportError:
        raise GateError("the picture needs the plot extra", hint="pip install 'kafka-admission-gate[plot]'") from None
    curves = [("offered", sorted(outcomes[0].offered))]
    for name, outcome in zip(names, outcomes, strict=True):
        curves.append((f"admitted, {Path(name).name}", outcome.admitted()))
    start = curves[0][1][0]
    rows = [
        {"seconds": (times[i] - start) / 1e3, "requests": i + 1, "what": what}
        for what, times in curves
        for i in sorted({*range(0, len(times), max(1, len(times) // _POINTS)), len(times) - 1} if times else ())
    ]
    chart = (
        alt.Chart({"values": rows}, title=f"{service}: recorded requests, and when they would have been admitted")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("seconds:Q", title="seconds since the first request"),
            y=alt.Y("requests:Q", title="requests, cumulative"),
            color=alt.Color("what:N", title=None, sort=[what for what, _ in curves]),
        )
        .properties(width=760, height=380)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path), scale_factor=2)
