"""`gate doctor`."""

import asyncio
import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from gate.cli.client import Client, Flag, log_to_stderr
from gate.kafka.checkup import Checkup, Finding, Health
from gate.policy import Settings, load_policy

_STYLES: Final = {Health.OK: "green", Health.WARN: "yellow", Health.FAIL: "bold red", Health.SKIPPED: "dim"}


def doctor(*, config: Path | None = None, json: Flag = False, client: Client | None = None) -> int:
    """Check broker, topics, permissions, clocks and transactions, and say what to do about each fault.

    Exits with 1 if anything fails; a warning is no failure. With --json: a list of objects.

    Example: `gate doctor --bootstrap localhost:9092 --config policy.yaml`

    Parameters
    ----------
    config
        The policy file whose settings (shards, topics, ...) the gates run with.
    json
        Print JSON.
    """
    log_to_stderr()
    client = client or Client()
    settings = (load_policy(config).settings if config is not None else Settings()).override(prefix=client.prefix)
    console = Console(highlight=False, soft_wrap=True)
    found: list[Finding] = []

    async def look() -> None:
        await client.reach()
        async with client.cluster() as cluster:
            async for finding in Checkup(cluster, client.names, settings, client.bootstrap).run():
                found.append(finding)
                if not json:
                    _print(console, finding)

    asyncio.run(look())
    if json:
        print(jsonlib.dumps([asdict(finding) for finding in found]))
    return int(any(finding.health is Health.FAIL for finding in found))


def _print(console: Console, finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.health.value:<8}", _STYLES[finding.health]), (finding.check, "bold"), ": ", finding.text
    )
    console.print(line)
    if finding.fix is not None:
        console.print(Text(f"{'':8}-> {finding.fix}", "cyan"))
