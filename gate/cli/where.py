"""`gate where`."""

import asyncio
import json as jsonlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from gate.cli.client import Client, Duration, Flag, OptionalService, log_to_stderr, read_seconds
from gate.cli.options import told_seconds
from gate.kafka.request_search import RequestSearch
from gate.kafka.whereabouts import Standing, Whereabouts
from gate.text import printable, timestamp

_SHOWN = 500  # characters of what somebody has written


def where(
    request: str,
    /,
    *,
    service: OptionalService = None,
    since: Annotated[Duration, Parameter(converter=read_seconds, show_default=told_seconds)] = 86_400.0,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Show where one request stands: it waits until when and why, or was admitted or rejected when and why.

    By the id of its stamp that takes some ten reads in each of the service's topics; for one that has waited, also
    what was admitted to its partition meanwhile is looked through. By the producer's id request topics are read
    backwards, as there is no index of these. No more than 200,000 records are looked at, some seconds.

    Example: `gate where gate.requests.payments-3@91823`

    Parameters
    ----------
    request
        The id of its stamp (topic-partition@offset), or the producer's own one (gate-id): then the newest of that id.
    service
        Of which service, where the producer's id is given; all unless said.
    since
        For how long back to look for a producer's id: 90s, 15m, 1d.
    json
        Print one object: id, service, standing, read (records that were looked at), and what is known of created_ms,
        at_ms, attempt, reason, limit, not_before_ms, ahead, origin, producer_id, error and place.
    """
    log_to_stderr()
    found = asyncio.run(_find(client or Client(), request, service, since))
    print(jsonlib.dumps(found.to_json()) if json else "\n".join(_lines(found)))


async def _find(client: Client, request: str, service: str | None, since: float) -> Whereabouts:
    await client.reach()
    connection = client.connection
    since_ms = max(0, int((time.time() - since) * 1000))
    async with RequestSearch.connected(client.names, connection.group_id, **connection.access()) as search:
        return await search.find(request, service, since_ms)


def _lines(found: Whereabouts) -> Iterator[str]:
    own = f" ({printable(found.producer_id, _SHOWN)})" if found.producer_id else ""
    yield f"{found.id}{own}: {_standing(found)}"
    if found.origin:
        yield f"first came as {found.origin}"
    if found.place:
        yield f"the record that tells: {found.place}"
    yield f"{found.read} records were looked at"


def _standing(found: Whereabouts) -> str:
    limit = f" by {found.limit or found.reason}" if found.limit or found.reason else ""
    at = "" if found.at_ms is None else f" at {_time(found.at_ms)}"
    match found.standing:
        case Standing.UNDECIDED:
            return "not decided yet; `gate usage` shows whether its service goes on"
        case Standing.WAITING:
            until = (
                "; until when nobody knows" if found.not_before_ms is None else f" until {_time(found.not_before_ms)}"
            )
            ahead = "" if found.ahead is None else f"; at most {found.ahead} of its partition wait before it"
            return f"waits{until}{limit}, since{at.removeprefix(' at')}{ahead}"
        case Standing.UNKNOWN:
            parked = "" if found.place is None else f"; it was parked{at}{limit}, and may have left since"
            return f"what became of it was not found{parked}"
        case Standing.GIVEN_UP:
            return f"given up by its workers: {printable(found.error or '', _SHOWN)}"
        case _:
            error = f": {printable(found.error, _SHOWN)}" if found.error else ""
            wait = found.at_ms is not None and found.created_ms is not None and found.at_ms - found.created_ms
            after = f", {wait / 1000:.1f} s after it was made" if wait else ""
            return f"{found.standing}{at}{limit}{after}{error}"


def _time(unix_ms: int) -> str:
    try:
        return timestamp(datetime.fromtimestamp(unix_ms / 1000, UTC))
    except (ValueError, OverflowError):
        return "it is resumed"
