"""FastStream on both sides of the gate: it submits reports, and makes those that were admitted.

pip install 'faststream[kafka]' && python faststream_app.py
"""

import asyncio
import os

from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

BOOTSTRAP = os.environ.get("GATE_BOOTSTRAP", "localhost:9092")
PREFIX = os.environ.get("GATE_PREFIX", "gate")
SERVICE = os.environ.get("GATE_SERVICE", "reports")

broker = KafkaBroker(BOOTSTRAP, metadata_max_age_ms=5_000)  # so soon it learns of partitions that are new
app = FastStream(broker)


@broker.subscriber(
    f"{PREFIX}.admitted.{SERVICE}",
    group_id=f"{SERVICE}-workers",
    auto_offset_reset="earliest",
    isolation_level="read_committed",  # the gate writes in transactions
)
async def make(report: str, message: KafkaMessage) -> None:
    """Make a report. It comes here when the limits allow it, stamped with the gate's decision."""
    print("made", report, message.headers["gate"], flush=True)


@app.after_startup
async def submit() -> None:
    """Submit reports of a tenant, in the lane for what is in no hurry."""
    for month in ("january", "february", "march"):
        wishes = {"gate-tenant": "acme", "gate-priority": "batch"}
        await broker.publish(month, f"{PREFIX}.requests.{SERVICE}", headers=wishes)


if __name__ == "__main__":
    asyncio.run(app.run())
