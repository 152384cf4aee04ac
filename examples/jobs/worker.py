"""Do the jobs of submit.py, four at a time; what the handler returns goes back to the ticket."""

import os

from gate.client import Job, Worker

worker = Worker(
    os.environ.get("GATE_BOOTSTRAP", "localhost:9092"),
    prefix=os.environ.get("GATE_PREFIX", "gate"),
    group_id="shout-workers",
    concurrency=4,
    timeout=30,
    results=True,
)


@worker.handler("shout")
async def shout(job: Job) -> str:
    """Raise, and the job comes back through the gate a little later; after five attempts it is given up."""
    return (job.value or b"").decode().upper()


worker.main()
