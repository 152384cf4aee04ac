"""`gate upgrade`."""

import asyncio
import json as jsonlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from aiokafka.errors import KafkaError
from cyclopts import App, Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Flag, log_to_stderr
from gate.cli.transactions import Where
from gate.errors import GateError
from gate.kafka import upgrade as steps
from gate.kafka.access import access
from gate.kafka.aio.connection import Client as Connections
from gate.kafka.aio.reader import Reader
from gate.kafka.cluster import Cluster
from gate.kafka.upgrade import UpgradeStatus
from gate.policy import Settings, load_policy
from gate.protocol.topics import Names, Templates
from gate.shard.changelog import FORMAT

_PATIENCE: Final = 10.0  # s, where no file says how long to wait for a broker
_CALL_MS: Final = 10_000
_HERE: Final = Where()

upgrade = App(
    name="upgrade",
    help="""Show in which format the state is written, and switch to the newest once all gates know it.

    A new version reads the state of the one before and goes on writing it as that one did, so that you can go back.
    When all gates are new and you do not want to go back, finish.

    Example: `gate upgrade status`
    """,
)


@upgrade.command
def status(*, where: Where = _HERE, json: Flag = False) -> None:
    """Show which format the shards write, and which gates are too old for the newest.

    Example: `gate upgrade status`

    Parameters
    ----------
    json
        Print JSON.
    """
    log_to_stderr()

    async def look() -> None:
        async with at(where) as (settings, names, cluster, reader):
            now = await steps.standing(cluster, reader, names, settings.group_id)
        if json:
            print(jsonlib.dumps(_described(now)))
        else:
            _show(now)

    asyncio.run(look())


@upgrade.command
def finish(
    *,
    where: Where = _HERE,
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
) -> None:
    """Have all shards write the newest format from now on. There is no way back to gates that do not know it.

    Refused while a gate runs that does not know it. Nothing stops meanwhile.

    Example: `gate upgrade finish`

    Parameters
    ----------
    timeout
        Seconds to wait until all shards have switched.
    """
    log_to_stderr()

    async def switch() -> None:
        async with at(where) as (settings, names, cluster, reader):
            now = await steps.standing(cluster, reader, names, settings.group_id)
            if not now.behind:
                print(f"all shards write format {FORMAT}, the newest; nothing to do")
                return
            steps.check(now)
            await steps.command(names.control, access(settings.bootstrap))
            left = await steps.switched(reader, now, timeout)
            if left:
                then = await steps.members(cluster, settings.group_id)
                old = "; ".join(member.shown for member in then if member.format < FORMAT)
                raise GateError(
                    f"shards {', '.join(map(str, left))} do not write format {FORMAT} after {timeout:g} s"
                    + (f"; too old: {old}" if old else ""),
                    hint="see /readyz and the gates' logs; once they are well, `gate upgrade finish` again",
                )
            print(f"all {len(now.formats)} shards write format {FORMAT} now; gates that do not know it stop")

    asyncio.run(switch())


@asynccontextmanager
async def at(where: Where) -> AsyncIterator[tuple[Settings, Names, Cluster, Reader]]:
    """Connect to a gate's topics, by the settings that it runs with."""
    settings = load_policy(where.config).settings if where.config is not None else Settings(connect_timeout=_PATIENCE)
    settings = settings.with_environment(os.environ).override(
        bootstrap=where.bootstrap, prefix=where.prefix, connect_timeout=where.connect_timeout
    )
    client = Client(settings.bootstrap, settings.prefix, settings.connect_timeout)
    names = Names(settings.prefix, Templates(**settings.topics.model_dump()))
    await client.reach()
    async with client.cluster(names) as cluster:
        connections = Connections(request_timeout_ms=_CALL_MS, **access(settings.bootstrap))
        try:
            await connections.bootstrap()
            yield settings, names, cluster, Reader(connections)
        except KafkaError as error:
            raise GateError(
                f"asking the broker failed: {error or type(error).__name__}",
                hint=f"it takes Describe on group {settings.group_id}, Read on {names.state}, Write on {names.control}",
            ) from error
        finally:
            await connections.close()


def _described(now: UpgradeStatus) -> dict[str, object]:
    return {
        "written": now.written,
        "newest": FORMAT,
        "shards": {str(shard): number for shard, number in now.formats.items()},
        "gates": [
            {"member": member.id, "host": member.host, "format": member.format, "version": member.version or None}
            for member in now.members
        ],
    }


def _show(now: UpgradeStatus) -> None:
    if not now.behind:
        print(f"state is written in format {FORMAT}, the newest")
    elif len(now.behind) == len(now.formats):
        print(f"state is written in format {now.written}; the newest is {FORMAT}")
    else:
        print(f"state is written in format {FORMAT}, but for shards {', '.join(map(str, now.behind))}")
    for member in now.members:
        knows = f"knows format {member.format}" if member.format >= FORMAT else f"does NOT know format {FORMAT}"
        print(f"gate {member.shown} {knows}")
    if not now.members:
        print("no gate runs")
    elif now.behind and not now.old:
        print("all gates know the newest format: `gate upgrade finish` switches to it, and there is no way back then")
