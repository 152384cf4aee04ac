"""`gate doctor`."""

import asyncio
import json as jsonlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from gate.cli.client import Bootstrap, Client, Flag, Prefix, Timeout, log_to_stderr
from gate.kafka.diagnostics import Diagnostics
from gate.kafka.findings import Finding, Health
from gate.kafka.profiles import OWN, PROFILES
from gate.policy import Settings, load_policy
from gate.protocol.topics import Names, Templates

_PATIENCE: Final = 10.0  # s, where no file says how long to wait for a broker
_STYLES: Final = {Health.OK: "green", Health.WARN: "yellow", Health.FAIL: "bold red", Health.SKIPPED: "dim"}


def doctor(
    *,
    config: Path | None = None,
    json: Flag = False,
    profile: Literal["msk-serverless", "confluent-cloud", "redpanda"] | None = None,
    bootstrap: Bootstrap | None = None,
    prefix: Prefix | None = None,
    connect_timeout: Timeout | None = None,
) -> int:
    """Check broker, replication, topics, permissions, clocks and transactions, and say what to do about each fault.

    Exits with 1 if anything fails; a warning is no failure. With --json: a list of objects. Settings come from these
    options, else from GATE_* variables, else from the file, as with `gate run`.

    Example: `gate doctor --config policy.yaml`

    Parameters
    ----------
    config
        The policy file whose settings (bootstrap, prefix, topics, shards, ...) the gates run with.
    json
        Print JSON.
    profile
        Whose Kafka it is: what can't be set there is no fault, and no cure names it.
    bootstrap
        Kafka broker, HOST:PORT.
    prefix
        What the names of all topics begin with.
    connect_timeout
        Seconds to wait for a broker before giving up.
    """
    log_to_stderr()
    settings = load_policy(config).settings if config is not None else Settings(connect_timeout=_PATIENCE)
    settings = settings.with_environment(os.environ).override(
        bootstrap=bootstrap, prefix=prefix, connect_timeout=connect_timeout
    )
    client = Client(settings.bootstrap, settings.prefix, settings.connect_timeout)
    names = Names(settings.prefix, Templates(**settings.topics.model_dump()))
    console = Console(highlight=False, soft_wrap=True)
    found: list[Finding] = []
    whose = PROFILES[profile] if profile is not None else OWN

    async def look() -> None:
        await client.reach()
        async with client.cluster(names) as cluster:
            async for finding in Diagnostics(cluster, names, settings, client.bootstrap, whose).run():
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
