"""Submit a job, follow the gate's decisions, and wait for the worker's answer: python submit.py 'some text'."""

import asyncio
import os
import sys

from gate.client import JobClient, JobFailedError, JobRejectedError

BOOTSTRAP = os.environ.get("GATE_BOOTSTRAP", "localhost:9092")
PREFIX = os.environ.get("GATE_PREFIX", "gate")


async def main(text: str) -> None:
    """Submit one job."""
    async with JobClient(BOOTSTRAP, prefix=PREFIX) as jobs:
        ticket = await jobs.submit("shout", text, tenant="acme", deadline=60)
        async for decision in ticket:
            print(decision)  # delayed until ..., perhaps; then admitted or rejected
        try:
            print((await ticket.result(timeout=30)).decode())
        except (JobRejectedError, JobFailedError) as error:
            print(error)


asyncio.run(main(sys.argv[1]))
