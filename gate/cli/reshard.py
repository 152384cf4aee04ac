"""`gate reshard`."""

import asyncio
import sys
import time
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Flag, OptionalService, log_to_stderr
from gate.errors import GateError
from gate.kafka.aio.reader import Reader
from gate.kafka.generations import Moving
from gate.kafka.placing import Layout
from gate.kafka.reshard import Plan, Resharding, Wanted, estimate

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
    """
    log_to_stderr()
    if not abort and shards is None and move is None:
        raise GateError("nothing to do", hint="give a number of shards, --move SERVICE --group NAME, or --abort")
    if (move is None) != (group is None):
        raise GateError("--move and --group go together", hint="gate reshard --move payments --group bank-api")
    wanted = Wanted(shards, {} if move is None else {move: group or None})
    asyncio.run(_reshard(client or Client(), wanted, dry_run=dry_run, abort=abort))


async def _reshard(client: Client, wanted: Wanted, *, dry_run: bool, abort: bool) -> None:
    policy, options = client.policy, client.connection.access()
    async with client.connected(_NEEDS) as (cluster, connections):
        resharding = Resharding(cluster, Reader(connections), client.names, client.settings, policy, options)
        if abort:
            await _abort(resharding)
        else:
            await _go(resharding, wanted, dry_run=dry_run)


async def _abort(resharding: Resharding) -> None:
    now = await resharding.standing()
    if not isinstance(now, Moving):
        print(f"nothing was begun; generation {now.number} with {now.shards} shards is in force")
        return
    await resharding.abort(now)
    print(f"taken back: generation {now.before.number} with {now.before.shards} shards is in force again")


async def _go(resharding: Resharding, wanted: Wanted, *, dry_run: bool) -> None:
    plan = await resharding.plan(wanted)
    if plan is None:
        now = await resharding.standing()
        assert not isinstance(now, Moving)
        await resharding.tell(now)  # the one that did it may have been killed before it told the gates
        await _follow(resharding, now.number, 0)
        print(f"it is so already: generation {now.number} with {now.shards} shards is in force")
        return
    gates = await resharding.check(plan)
    if dry_run:
        begun = time.monotonic()
        layout = await resharding.look(plan)
        _show(plan, layout)
        print(f"gates would wait for about {estimate(layout, time.monotonic() - begun):.0f} s; nothing was changed")
        return
    begun = time.monotonic()
    layout = await resharding.run(plan, _say)
    flipped = time.monotonic() - begun
    _show(plan, layout)
    await _follow(resharding, plan.after.number, gates)
    after = f"; its {gates} gates run after {time.monotonic() - begun:.1f} s" if gates else ""
    print(f"generation {plan.after.number} is in force after {flipped:.1f} s{after}")
    if wanted.shards:
        print(f"write `shards: {plan.after.shards}` into the policy files")


async def _follow(resharding: Resharding, generation: int, gates: int) -> None:
    late = await resharding.follow(generation, gates)
    if late:
        raise GateError(
            f"generation {generation} is in force, but these gates have not come along: {'; '.join(late)}",
            hint="restart them; those that are too old for it must be stopped",
        )


def _show(plan: Plan, layout: Layout) -> None:
    print(
        f"generation {plan.before.number} ({plan.before.shards} shards) to {plan.after.number} ({plan.after.shards}): "
        f"{len(layout.services):,} services, {len(layout.moved):,} of them to a shard of another number, "
        f"{sum(map(len, layout.records)):,} records of {layout.size:,} bytes, {layout.parked:,} parked requests"
    )
    for service in sorted(plan.moves):
        print(f"{service} goes into {plan.after.groups[service] or 'no group'}")


def _say(message: str) -> None:
    print("gate:", message, file=sys.stderr, flush=True)
