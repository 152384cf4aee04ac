"""Celery tasks that are sent when the gate admits them, instead of at once.

    python celery_app.py bridge                   # hands admitted tasks over to Celery
    celery -A celery_app worker                   # does them, as ever
    python celery_app.py submit rebuild docs      # was: rebuild.delay("docs")

Celery keeps its broker; here that is a folder, so that the example needs nothing else. What Celery's own `rate_limit`
does per worker, the gate does for all of them together, and it tells everyone who waits until when.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from celery import Celery

from gate.client import Job, SyncJobClient, Worker

BOOTSTRAP = os.environ.get("GATE_BOOTSTRAP", "localhost:9092")
PREFIX = os.environ.get("GATE_PREFIX", "gate")
SERVICE = os.environ.get("GATE_SERVICE", "celery")
FOLDER = Path(os.environ.get("CELERY_FOLDER", Path(tempfile.gettempdir()) / "celery"))

(FOLDER / "queue").mkdir(parents=True, exist_ok=True)
app = Celery("celery_app", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": FOLDER / "queue",
    "data_folder_out": FOLDER / "queue",
    "control_folder": FOLDER / "control",
}


@app.task(name="rebuild")
def rebuild(what: str) -> None:
    """Do something that must not happen too often."""
    print(f"rebuilt {what}", flush=True)


def submit(task: str, *arguments: str) -> None:
    """Submit a task to the gate, and say what it decided."""
    with SyncJobClient(BOOTSTRAP, prefix=PREFIX) as jobs:
        ticket = jobs.submit(SERVICE, {"task": task, "args": arguments})
        print(f"{ticket.id}: {ticket.decision(timeout=30)}")


def bridge() -> None:
    """Hand admitted tasks over. The id goes along, so that a task handed over twice can be told."""
    worker = Worker(BOOTSTRAP, group_id=f"{SERVICE}-bridge", prefix=PREFIX)

    @worker.handler(SERVICE)
    def hand_over(job: Job) -> None:
        call = json.loads(job.value or b"{}")
        app.send_task(call["task"], args=call["args"], task_id=job.id)

    worker.main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["submit"]:
        submit(*sys.argv[2:])
    else:
        bridge()
