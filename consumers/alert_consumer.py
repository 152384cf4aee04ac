"""An alert consumer: prints every alert of the gate, keeps score of breaches, and posts to a webhook if there is one.

    python consumers/alert_consumer.py
    WEBHOOK=https://example.com/hook WEBHOOK_SECRET=... python consumers/alert_consumer.py

Every receiver gets each alert at least once and in order, also those that came while this program did not run. It reads
GATE_BOOTSTRAP (localhost:9092) and GATE_PREFIX (gate), or the gates' policy file, named by GATE_CONFIG. SIGTERM and
Ctrl-C end it.
"""

import argparse
import logging
import os
import sys
from collections import Counter

from gate.client import Alert, Alerts, Connection, Console, GateError, Webhook

connection = Connection.load()
alerts = Alerts(connection, group_id=f"{connection.prefix}-alert-consumer")
breaches: Counter[str] = Counter()


@alerts.on("gate.breach.opened")
async def count(alert: Alert) -> None:
    """Keep score; a pager would be called here. What this raises is tried again later."""
    breaches[alert.service] += 1
    print(f"breach {breaches[alert.service]} of {alert.service}: {alert.limit} refuses since {alert.since:%H:%M:%S}")


@alerts.on("gate.breach.resolved")
async def relax(alert: Alert) -> None:
    """Say that it is over, and what it cost."""
    print(f"{alert.service} is within {alert.limit} again; {alert.data['refused']} had to wait or were refused")


def main() -> None:
    """Carry alerts until a signal comes."""
    argparse.ArgumentParser(description="Print, count and post the gate's alerts.").parse_args()
    logging.basicConfig(level=logging.WARNING)
    alerts.add(Console())
    if url := os.environ.get("WEBHOOK"):
        alerts.add(Webhook(url, secret=os.environ.get("WEBHOOK_SECRET")), "gate.breach.*")
    try:
        alerts.main()
    except GateError as error:
        sys.exit(f"{error}\n  {error.hint}")


if __name__ == "__main__":
    main()
