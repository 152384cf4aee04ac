"""`gate alerts`."""

import asyncio
import logging
from typing import Annotated

import httpx
from cyclopts import Parameter

from consumers.alerts import AlertConsumer, Console, Sink, Webhook
from gate.cli.client import Client, Flag, log_to_stderr

_WEBHOOK_SECONDS = 10.0


def _is_url(_type: object, value: str | None) -> None:
    if value is None:
        return
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(f"{value!r} is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{value!r} is no URL; give one like https://example.com/hook")


def alerts(
    *,
    webhook: Annotated[str | None, Parameter(validator=_is_url)] = None,
    json: Flag = False,
    group: str = "gate-alerts",
    from_beginning: Flag = False,
    client: Client | None = None,
) -> None:
    """Print alerts as they come, and post them to a webhook.

    A webhook gets each alert at least once, as a CloudEvent in JSON with an id that stays the same. While it is down,
    printing goes on, and what it missed is posted later, also after a restart.

    Example: `gate alerts --webhook https://example.com/hook`

    Parameters
    ----------
    webhook
        Post each alert to this URL.
    json
        Print each alert as a CloudEvent in JSON, one per line.
    group
        Consumer group, which remembers what was delivered.
    from_beginning
        Begin with the oldest alert, if the group is new. By default a new group gets alerts from now on.
    """
    log_to_stderr(logging.WARNING)
    asyncio.run(_carry(client or Client(), webhook, as_json=json, group=group, from_beginning=from_beginning))


async def _carry(client: Client, webhook: str | None, *, as_json: bool, group: str, from_beginning: bool) -> None:
    async with httpx.AsyncClient(timeout=_WEBHOOK_SECONDS) as http:
        sinks: list[Sink] = [Console(as_json=as_json)]
        if webhook is not None:
            sinks.append(Webhook(webhook, http))
        consumer = AlertConsumer(
            client.bootstrap,
            sinks,
            group_id=group,
            names=client.names,
            from_beginning=from_beginning,
            connect_seconds=client.connect_timeout,
        )
        await consumer.run_until_signal()
