"""A library says nothing by itself: its log goes to `logging`, or to structlog where a program has set that up."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from gate.client import Retry, Worker
{setup}
worker = Worker(sys.argv[1], prefix=sys.argv[2], group_id="g", retry=Retry(attempts=3, first=0.1))

@worker.handler(sys.argv[3])
async def work(job):
    if job.attempt == 1:
        raise RuntimeError("not yet")
    worker.stop()

worker.main()
"""
STRUCTLOG = "import structlog; structlog.configure(processors=[structlog.processors.JSONRenderer()])"


@pytest.mark.parametrize(
    ("setup", "out", "err"),
    [
        ("", "", ""),
        (
            "import logging; logging.basicConfig(level=logging.INFO, format='%(levelname)s %(name)s %(message)s')",
            "",
            "WARNING gate.client.worker job failed service=",
        ),
        (STRUCTLOG, '"event": "job failed"', ""),
    ],
    ids=["silent", "logging", "structlog"],
)
async def test_a_worker_prints_nothing_unless_it_is_told_where(gated, setup, out, err):
    service = await gated.service()
    await gated.log.write(gated.names.requests(service), b"job")
    command = [sys.executable, "-c", SCRIPT.format(setup=setup), gated.bootstrap, gated.names.prefix, service]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    for wanted, printed in ((out, done.stdout), (err, done.stderr)):
        assert wanted in printed if wanted else not printed, printed
