"""A job worker: does what the gate has admitted, four jobs at a time. Copy it, and put your work into `work`.

    python consumers/job_worker.py payments        SERVICE; several of them share the work of one service
    gate submit payments --count 10                something to do

It reads GATE_BOOTSTRAP (localhost:9092) and GATE_PREFIX (gate), or the gates' policy file, named by GATE_CONFIG.
SIGTERM and Ctrl-C let running jobs finish.
"""

import argparse
import asyncio
import logging
import sys

from gate.client import Backoff, Connection, GateError, Job, Retry, Worker

log = logging.getLogger("job-worker")


async def work(job: Job) -> str:
    """Do one job; what this returns is the job's result, which `JobClient` hands to whoever submitted it.

    The gate has counted this job already: no limit has to be heeded here. A job may come twice, after a crash, with the
    same `job.id`. Whatever is raised is a failure: the job comes back through the gate a little later.
    """
    payload = (job.value or b"").decode(errors="replace")
    if payload == "the service behind is overloaded":
        raise Backoff(5.0, "it asked for 5 s of peace")  # pauses the service at the gate, for all workers
    await asyncio.sleep(0.01)  # here the bank would be called
    log.info("%s done: %r (attempt %d)", job.id, payload[:80], job.attempt)
    return f"done: {payload}"


def main() -> None:
    """Work until a signal comes."""
    parser = argparse.ArgumentParser(description="Do the admitted jobs of a service.")
    parser.add_argument("service")
    parser.add_argument("--concurrency", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        worker = Worker(
            Connection.load(),
            group_id=f"{options.service}-workers",
            concurrency=options.concurrency,
            retry=Retry(attempts=3, first=0.5, longest=30.0),
            timeout=60.0,
            results=True,
        )
        worker.handler(options.service)(work)
        worker.main()
    except GateError as error:
        sys.exit(f"{error}\n  {error.hint}")


if __name__ == "__main__":
    main()
