"""The kinds of faults, by name. Each returns when what it took away is back."""

import asyncio
from collections.abc import Awaitable, Callable

from bench.pauses.contenders import Contender
from bench.pauses.stage import Stage

AWAY = 8.0  # seconds that a node is gone: others have taken over what it led long before it returns
ASLEEP = 15.0  # that a node stands still: longer than its session of 4 s, and than a request may take
CALM = 6.0  # without any fault, to compare with
BETWEEN = 2.0

Kind = Callable[[Stage], Awaitable[None]]


async def none(_stage: Stage) -> None:
    await asyncio.sleep(CALM)


async def stop(stage: Stage) -> None:
    """Shut a leader down as for maintenance, and keep it away for a while."""
    node = await stage.leader()
    await stage.stop(node)
    await asyncio.sleep(AWAY)
    await stage.begin(node)


async def restart_all(stage: Stage) -> None:
    """Restart each node, the next one when all are whole and both have decided since; each counts by itself."""
    for number in stage.cluster.numbers:
        if number != stage.cluster.numbers[0]:
            await stage.next()
        await stage.stop(number)
        await stage.begin(number)


def _kill(role: Callable[[Stage], Awaitable[int]]) -> Kind:
    async def kill(stage: Stage) -> None:
        node = await role(stage)
        await stage.kill(node)
        await asyncio.sleep(AWAY)
        await stage.begin(node)

    return kill


async def freeze(stage: Stage) -> None:
    """Have a leader stand still until others lead, and wake."""
    node = await stage.leader()
    stage.say(f"   node {node} stands still")
    await asyncio.to_thread(stage.cluster.pause, node)
    await asyncio.sleep(ASLEEP)
    await asyncio.to_thread(stage.cluster.resume, node)


def _end(how: Callable[[Contender], None]) -> Kind:
    async def end(stage: Stage) -> None:
        for contender in stage.contenders:
            how(contender)
        await stage.flows()
        for contender in stage.contenders:
            contender.start()
        await asyncio.sleep(AWAY)

    return end


async def elect(stage: Stage) -> None:
    """Have the preferred copy of everything lead, after a node that led much was away."""
    await stage.elect()
    await asyncio.sleep(BETWEEN)


async def elect_after_restart(stage: Stage) -> None:
    node = await stage.leader()
    await stage.stop(node)
    await stage.begin(node)
    await stage.whole()
    await stage.flows()


async def reassign(stage: Stage) -> None:
    """Move all copies of what both have: to two nodes each, and back to three in another order."""
    for copies in (2, 3):
        await stage.reassign(copies)
    await stage.whole()
    await stage.elect()
    await asyncio.sleep(BETWEEN)


KINDS: dict[str, Kind] = {
    "none": none,
    "clean-stop": stop,
    "rolling-restart": restart_all,
    "kill-state-leader": _kill(Stage.leader),
    "kill-group-coordinator": _kill(Stage.group_coordinator),
    "kill-transaction-coordinator": _kill(Stage.transaction_coordinator),
    "kill-controller": _kill(Stage.controller),
    "freeze-leader": freeze,
    "kill-instance": _end(Contender.kill),
    "leave-instance": _end(Contender.leave),
    "preferred-election": elect,
    "reassignment": reassign,
}
# What happens before a fault begins
BEFORE: dict[str, Kind] = {"preferred-election": elect_after_restart}
