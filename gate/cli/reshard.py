"""`gate reshard`."""

import asyncio
import time
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Flag, OptionalService, log_to_stderr, say
from gate.cli.output import interruptible, tell
from gate.errors import GateError
from gate.kafka.aio.reader import Reader
from gate.kafka.generation_layout import Layout
from gate.kafka.generations import Moving
from gate.kafka.reshard import Resharding
from gate.kafka.reshard_plan import Plan, Wanted, estimate

_MOST_SHARDS: Final = 1_000
_NEEDS: Final = "it takes what a gate may, and Describe on the gates' group; begin again with the same command"
Count = Annotated[int | None, Parameter(validator=Number(gte=1, lte=_MOST_SHARDS))]


def reshard(
    shards: Count = None,
    *,
    move: OptionalService = None,
    group: str | None = None,
    dry_run: Flag = False,
    abort: Flag = False,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Change the number of shards, or the group of a service; limits and what is parked come along.

    All gates stand still for some seconds and start anew by themselves. Killed at any point, the same command goes on
    where it was. Policy files keep their old number of shards until you change it there; the gates say so.

    Example: `gate reshard 32 --config policy.yaml --dry-run`

    Parameters
    ----------
    shards
        On how many shards services are to be spread.
    move
        A service that is to go into another group.
    group
        The group into which it goes, which the policy file has; "" for none.
    dry_run
        Change nothing; say what would be moved, and how long gates would wait.
    abort
        Take back what was begun and did not come to its end.
    json
        Print one JSON object: generation, shards, changed; and of what is moved, generation_before, shards_before,
        services, services_moved, groups, records, bytes, parked, and seconds that gates wait.
    """
    log_to_stderr()
    if not abort and shards is None and move is None:
        raise GateError("nothing to do", hint="give a number of shards, --move SERVICE --group NAME, or --abort")
    if (move is None) != (group is None):
        raise GateError("--move and --group go together", hint="gate reshard --move payments --group bank-api")
    wanted = Wanted(shards, {} if move is None else {move: group or None})
    begun: list[Resharding] = []
    with interruptible(lambda: _interrupted(begun)):
        asyncio.run(_reshard(client or Client(), wanted, begun, dry_run=dry_run, abort=abort, json=json))


def _interrupted(begun: list[Resharding]) -> tuple[str, str]:
    """Say what stands after Ctrl-C, and how to go on."""
    if not begun or not begun[0].is_closing:
        stands = begun[0].stands if begun else "nothing was changed"
        return f"interrupted; {stands}", "the same command again does it, or says that it is done"
    return (
        f"interrupted; {begun[0].stands}",
        "the same command again goes on where it was; `gate reshard --abort` takes it back, and until then gates wait",
    )


async def _reshard(
    client: Client, wanted: Wanted, begun: list[Resharding], *, dry_run: bool, abort: bool, json: bool
) -> None:
    policy, options = client.policy, client.connection.access()
    async with client.connected(_NEEDS) as (cluster, connections):
        resharding = Resharding(cluster, Reader(connections), client.names, client.settings, policy, options)
        begun.append(resharding)
        if abort:
            await _abort(resharding, json=json)
        else:
            await _go(resharding, wanted, dry_run=dry_run, json=json)


async def _abort(resharding: Resharding, *, json: bool) -> None:
    now = await resharding.standing()
    if not isinstance(now, Moving):
        text = f"nothing was begun; generation {now.number} with {now.shards} shards is in force"
        tell(text, json=json, generation=now.number, shards=now.shards, changed=False)
        return
    await resharding.abort(now)
    before = now.before
    text = f"taken back: generation {before.number} with {before.shards} shards is in force again"
    tell(text, json=json, generation=before.number, shards=before.shards, changed=True)


async def _go(resharding: Resharding, wanted: Wanted, *, dry_run: bool, json: bool) -> None:
    plan = await resharding.plan(wanted)
    if plan is None:
        now = await resharding.standing()
        assert not isinstance(now, Moving)
        await resharding.tell(now)  # the one that did it may have been killed before it told the gates
        await _follow(resharding, now.number, 0)
        text = f"it is so already: generation {now.number} with {now.shards} shards is in force"
        tell(text, json=json, generation=now.number, shards=now.shards, changed=False)
        return
    gates = await resharding.check(plan)
    begun = time.monotonic()
    if dry_run:
        layout = await resharding.look(plan)
        seconds = estimate(layout, time.monotonic() - begun)
        text = f"{_described(plan, layout)}\ngates would wait for about {seconds:.0f} s; nothing was changed"
        tell(text, json=json, **_figures(plan, layout), changed=False, seconds=seconds)
        return
    layout = await resharding.run(plan, say)
    seconds = time.monotonic() - begun
    if not json:
        print(_described(plan, layout), flush=True)
    await _follow(resharding, plan.after.number, gates)
    after = f"; its {gates} gates run after {time.monotonic() - begun:.1f} s" if gates else ""
    text = f"generation {plan.after.number} is in force after {seconds:.1f} s{after}"
    if wanted.shards:
        text += f"\nwrite `shards: {plan.after.shards}` into the policy files"
    tell(text, json=json, **_figures(plan, layout), changed=True, seconds=seconds)


async def _follow(resharding: Resharding, generation: int, gates: int) -> None:
    late = await resharding.follow(generation, gates)
    if late:
        raise GateError(
            f"generation {generation} is in force, but these gates have not come along: {'; '.join(late)}",
            hint="restart them; those that are too old for it must be stopped",
        )


def _described(plan: Plan, layout: Layout) -> str:
    moved = f"{len(layout.services):,} services, {len(layout.moved):,} of them to a shard of another number"
    records = f"{sum(map(len, layout.records)):,} records of {layout.size:,} bytes, {layout.parked:,} parked requests"
    was, now = plan.before, plan.after
    lines = [f"generation {was.number} ({was.shards} shards) to {now.number} ({now.shards}): {moved}, {records}"]
    lines += [f"{service} goes into {now.groups[service] or 'no group'}" for service in sorted(plan.moves)]
    return "\n".join(lines)


def _figures(plan: Plan, layout: Layout) -> dict[str, Any]:
    return {
        "generation_before": plan.before.number,
        "shards_before": plan.before.shards,
        "generation": plan.after.number,
        "shards": plan.after.shards,
        "services": len(layout.services),
        "services_moved": len(layout.moved),
        "groups": {service: plan.after.groups[service] or None for service in sorted(plan.moves)},
        "records": sum(map(len, layout.records)),
        "bytes": layout.size,
        "parked": layout.parked,
    }
