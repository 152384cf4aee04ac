"""A batch pipeline: submits the lines of a file as fast as the gate admits them, and no faster.

    python consumers/batch_pipeline.py reports lines.txt     SERVICE and FILE; - is stdin

A million items thrown at the gate at once would wait there, and all that comes after them behind them. The pacer keeps
what waits below --max-wait seconds, and loses nothing of the limit. It reads GATE_BOOTSTRAP (localhost:9092) and
GATE_PREFIX (gate), or the gates' policy file, named by GATE_CONFIG.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from gate.client import Connection, GateError, JobClient, Pacer


async def submit(service: str, lines: Iterable[str], max_wait: float, priority: str | None) -> int:
    """Submit each line when the pacer lets it go; return how many were submitted."""
    connection = Connection.load()
    async with (
        JobClient(connection) as jobs,
        Pacer(connection, service, max_wait=max_wait, priority=priority) as pacer,
        asyncio.TaskGroup() as submissions,  # many at a time: each waits for the broker's acknowledgement
    ):
        async for line in pacer.pace(lines, progress=True):
            submissions.create_task(jobs.submit(service, line, priority=priority))
    return pacer.released


def main() -> None:
    """Submit a file."""
    parser = argparse.ArgumentParser(description="Submit the lines of a file at the rate that the gate admits.")
    parser.add_argument("service")
    parser.add_argument("file")
    parser.add_argument("--max-wait", type=float, default=30.0, help="seconds that a request may wait in the gate")
    parser.add_argument("--priority", help="the lane")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with nullcontext(sys.stdin) if options.file == "-" else Path(options.file).open() as file:
        lines = (line.rstrip("\n") for line in file)
        try:
            submitted = asyncio.run(submit(options.service, lines, options.max_wait, options.priority))
        except GateError as error:
            sys.exit(f"{error}\n  {error.hint}")
    print(submitted, "submitted")


if __name__ == "__main__":
    main()
