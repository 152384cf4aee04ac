"""`gate upgrade`."""

import asyncio
import json as jsonlib

from cyclopts import App

from gate.cli.client import Client, Flag, Seconds, log_to_stderr
from gate.cli.output import tell
from gate.errors import GateError
from gate.kafka import upgrade as steps
from gate.kafka.aio.reader import Reader
from gate.kafka.upgrade import UpgradeStatus
from gate.shard.changelog_records import FORMAT

upgrade = App(
    name="upgrade",
    help="""Show in which format the state is written, and switch to the newest once all gates know it.

    A new version reads the state of the one before and goes on writing it as that one did, so that you can go back.
    When all gates are new and you do not want to go back, finish.

    Example: `gate upgrade status`
    """,
)


@upgrade.command
def status(*, json: Flag = False, client: Client | None = None) -> None:
    """Show which format the shards write, and which gates are too old for the newest.

    Example: `gate upgrade status`

    Parameters
    ----------
    json
        Print one JSON object: written and newest (formats), shards (number to format), gates (member, host, format,
        version).
    """
    log_to_stderr()
    client = client or Client()

    async def look() -> None:
        async with client.connected(_needs(client)) as (cluster, connections):
            group = client.connection.group_id
            now = await steps.standing(cluster, Reader(connections), client.names, group)
        if json:
            print(jsonlib.dumps(_described(now)))
        else:
            _show(now)

    asyncio.run(look())


@upgrade.command
def finish(*, timeout: Seconds = 60.0, json: Flag = False, client: Client | None = None) -> None:
    """Have all shards write the newest format from now on. There is no way back to gates that do not know it.

    Refused while a gate runs that does not know it. Nothing stops meanwhile.

    Example: `gate upgrade finish`

    Parameters
    ----------
    timeout
        How long to wait until all shards have switched.
    json
        Print one JSON object: format, shards (how many), switched (false: they wrote it already).
    """
    log_to_stderr()
    client = client or Client()

    async def switch() -> None:
        async with client.connected(_needs(client)) as (cluster, connections):
            reader, group = Reader(connections), client.connection.group_id
            now = await steps.standing(cluster, reader, client.names, group)
            if not now.behind:
                told = {"format": FORMAT, "shards": len(now.formats), "switched": False}
                tell(f"all shards write format {FORMAT}, the newest; nothing to do", json=json, **told)
                return
            steps.check(now)
            await steps.command(client.names.control, client.connection.access())
            left = await steps.switched(reader, now, timeout)
            if left:
                then = await steps.members(cluster, group)
                old = "; ".join(member.shown for member in then if member.format < FORMAT)
                raise GateError(
                    f"shards {', '.join(map(str, left))} do not write format {FORMAT} after {timeout:g} s"
                    + (f"; too old: {old}" if old else ""),
                    hint="see /readyz and the gates' logs; once they are well, `gate upgrade finish` again",
                )
            text = f"all {len(now.formats)} shards write format {FORMAT} now; gates that do not know it stop"
            tell(text, json=json, format=FORMAT, shards=len(now.formats), switched=True)

    asyncio.run(switch())


def _needs(client: Client) -> str:
    group, names = client.connection.group_id, client.names
    return f"it takes Describe on group {group}, Read on {names.state}, Write on {names.control}"


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
