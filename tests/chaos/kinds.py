"""The kinds of faults of a cluster, by name. Each ends when all that it took away is back."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

from aiokafka.errors import KafkaError

from tests.chaos import orders
from tests.chaos.stage import ORDER_MS, RECOVERY, Stage

AWAY = (0.0, 3.0)  # seconds that a node is gone
ASLEEP = (5.5, 12.0)  # that it stands still: longer than its session of 4 s
CUT = (6.0, 14.0)  # that a link is cut: longer than it takes to give a copy up
FORGOTTEN = 14.0  # that all gates sleep: until the broker has forgotten their transactional ids
MOST_AWAY = (3.0, 8.0)  # that two of three are gone

Kind = Callable[[Stage], Awaitable[None]]


async def restart_all(stage: Stage) -> None:
    """Restart each node, as for maintenance."""
    for number in stage.cluster.numbers:
        await stage.stop(number)
        await asyncio.sleep(stage.random.uniform(*AWAY))
        await stage.begin(number)
        await stage.whole()


def _kill(role: Callable[[Stage], Awaitable[int]]) -> Kind:
    async def kill(stage: Stage) -> None:
        node = await role(stage)
        await stage.kill(node)
        await asyncio.sleep(stage.random.uniform(*AWAY))
        await stage.begin(node)

    return kill


async def freeze(stage: Stage) -> None:
    """Have a leader stand still until others lead, and wake."""
    node = await stage.leader()
    stage.say(f"   freeze node {node}")
    await asyncio.to_thread(stage.cluster.pause, node)
    await asyncio.sleep(stage.random.uniform(*ASLEEP))
    await asyncio.to_thread(stage.cluster.resume, node)


async def two_gone(stage: Stage) -> None:
    """Take the majority away, cleanly or not."""
    two = stage.random.sample(stage.cluster.numbers, 2)
    if stage.random.random() < 0.5:
        await stage.kill(*two)
    else:
        await stage.stop(two[0])
        await stage.kill(two[1])  # it would ask for a majority in vain before it goes
    await asyncio.sleep(stage.random.uniform(*MOST_AWAY))
    await stage.begin(*two)


async def alone(stage: Stage) -> None:
    """Cut a leader off from both others, while its controller stays with them: nothing that it leads can be written."""
    node = await stage.leader()
    stage.say(f"   node {node} is alone")
    await stage.links.cut(node, [n for n in stage.cluster.numbers if n != node], stage.random.uniform(*CUT))


async def apart(stage: Stage) -> None:
    """Cut two brokers off from each other."""
    one, other = stage.random.sample(stage.cluster.numbers, 2)
    stage.say(f"   nodes {one} and {other} are apart")
    await stage.links.cut(one, [other], stage.random.uniform(*CUT))


async def gate_cut_off(stage: Stage) -> None:
    """Cut a gate off from one broker."""
    node = stage.random.choice(stage.cluster.numbers)
    stage.say(f"   a gate is cut off from node {node}")
    await stage.links.cut_gate(node, stage.random.uniform(*CUT))


async def elect(stage: Stage) -> None:
    """Have the preferred copy of everything lead, after one that was away is back."""
    node = await stage.leader()
    await stage.stop(node)
    await stage.begin(node)
    await stage.whole()
    await _elect(stage)


async def reassign(stage: Stage) -> None:
    """Move all copies: to two nodes each, then back to three, led by others than before."""
    for copies in (2, 3):
        wanted = {p: stage.random.sample(stage.cluster.numbers, copies) for p in await stage.ours()}
        await stage.order(orders.Reassign(wanted, ORDER_MS))
        end = monotonic() + RECOVERY
        while any(sorted(at) != sorted(wanted.get(p, at)) for p, at in (await stage.ours()).items()):
            assert monotonic() < end, f"not moved within {RECOVERY:g} s"
            await asyncio.sleep(0.3)
    await stage.whole()
    await _elect(stage)


async def _elect(stage: Stage) -> None:
    with suppress(KafkaError):  # where all are led as they should be
        everything = list(await stage.ours())
        async with orders.connected(stage.cluster.bootstrap) as client:
            await client.send(client.get_random_node(), orders.Elect(everything, ORDER_MS))


async def gate_dies_amid_restart(stage: Stage) -> None:
    """Kill a gate while a node that leads some state restarts cleanly."""
    node = await stage.leader()
    stopping = asyncio.create_task(stage.stop(node))
    await asyncio.sleep(stage.random.uniform(0.0, 1.5))
    stage.members.replace(stage.random.choice(list(stage.members.living)))
    await stopping
    await asyncio.sleep(stage.random.uniform(*AWAY))
    await stage.begin(node)


async def forgotten(stage: Stage) -> None:
    """Have all gates sleep until their transactional ids have expired, and wake one after the other as zombies."""
    stage.say("   all gates sleep")
    sleepers = list(stage.members.living.values())
    stage.random.shuffle(sleepers)
    for gate in sleepers:
        gate.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FORGOTTEN)
    for gate in sleepers:
        gate.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(stage.random.choice((0.0, 2.0, 4.0)))


KINDS: dict[str, Kind] = {
    "rolling-restart": restart_all,
    "kill-state-leader": _kill(Stage.leader),
    "kill-group-coordinator": _kill(Stage.group_coordinator),
    "kill-transaction-coordinator": _kill(Stage.transaction_coordinator),
    "kill-controller": _kill(Stage.controller),
    "freeze-leader": freeze,
    "two-of-three-gone": two_gone,
    "isr-lost": alone,
    "brokers-apart": apart,
    "gate-cut-off": gate_cut_off,
    "preferred-election": elect,
    "reassignment": reassign,
    "gate-dies-amid-restart": gate_dies_amid_restart,
    "id-expired": forgotten,
}
