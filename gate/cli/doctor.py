"""`gate doctor`."""

import asyncio
import json as jsonlib
from dataclasses import asdict
from typing import Annotated, Final, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.text import Text

from gate.cli.client import Client, Flag, log_to_stderr
from gate.kafka.diagnostics import Diagnostics
from gate.kafka.findings import Finding, Health
from gate.kafka.profiles import OWN, PROFILES

_STYLES: Final = {Health.OK: "green", Health.WARN: "yellow", Health.FAIL: "bold red", Health.SKIPPED: "dim"}


def doctor(
    *,
    json: Flag = False,
    profile: Literal["msk-serverless", "confluent-cloud", "redpanda"] | None = None,
    shards: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    client: Client | None = None,
) -> int:
    """Check broker, replication, topics, permissions, clocks and transactions, and say what to do about each fault.

    Exits with 1 if anything fails; a warning is no failure.

    Example: `gate doctor --config policy.yaml`

    Parameters
    ----------
    json
        Print a list of objects: check, health (ok, warn, fail or skipped), text, fix (null: none is needed).
    profile
        Whose Kafka it is: what can't be set there is no fault, and no cure names it.
    shards
        With which `--shards` gates run, where the policy file does not say it.
    """
    log_to_stderr()
    client = client or Client()
    console = Console(highlight=False, soft_wrap=True)
    found: list[Finding] = []
    whose = PROFILES[profile] if profile is not None else OWN

    async def look() -> None:
        await client.reach()
        async with client.cluster() as cluster:
            async for finding in Diagnostics(
                cluster,
                client.names,
                client.settings.override(shards=shards),
                client.connection.bootstrap,
                whose,
                client.known_policy,
            ).run():
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
