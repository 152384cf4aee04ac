"""Uploads of tenants' limits by HTTP: the body is a file as `gate limit import` takes it, and one import.

The import goes its way without who has sent it, and is whole or not at all: what became of it, `/v1/commands/ID` tells.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from gate.client import ArgumentError, CommandRefusedError, GateControl, GateError, LiveLimit, UnknownServiceError
from gate.config import Connection
from gate.errors import reason_of
from gate.log import get_logger
from gate.policy.limit_rows import rows_of

MOST_BYTES: Final = 16 << 20  # some 400,000 tenants; as many as that take a gate some 200 MB while they are read
_REFUSED_WITHIN: Final = 3.0  # seconds in which it is seen whether gates take it
_CSV: Final = "text/csv"
_KINDS: Final = (_CSV, "application/x-ndjson", "application/jsonl", "application/json-lines")

log = get_logger("gate.console")


class BusyError(GateError):
    """Another upload is being read."""


class TooLongError(GateError):
    """A body is longer than what is read."""


class LimitUploads:
    """Takes uploads, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reading = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    async def take(
        self, service: str, who: str, kind: str, body: AsyncIterator[bytes], given: Mapping[str, str], known: str
    ) -> None:
        """Begin an import under the id `known`; `given` may hold `reason` and `if_version`.

        Raises ArgumentError for what is no such file, BusyError, TooLongError, and GateError where no broker answers.
        """
        kind = kind.partition(";")[0].strip().lower()
        if kind not in _KINDS:
            raise ArgumentError(f"the body is {kind or 'of no kind'}", hint=f"send {_CSV} or {_KINDS[1]}")
        version = given.get("if_version", "")
        if version and not (version.isascii() and version.isdecimal()):
            raise ArgumentError(f"if_version is {version!r}", hint="give a whole number")
        if self._reading.locked():
            raise BusyError("another upload is being read", hint="try again in some seconds")
        async with self._reading:
            rows = await asyncio.to_thread(_rows, await _whole(body), service, as_csv=kind == _CSV)
        task = asyncio.create_task(
            self._give(service, who, rows, given.get("reason", ""), int(version) if version else None, known),
            name="limit-upload",
        )
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        done, _ = await asyncio.wait([task], timeout=_REFUSED_WITHIN)
        if done:
            await task

    async def _give(
        self, service: str, who: str, rows: Mapping[str, LiveLimit], reason: str, if_version: int | None, known: str
    ) -> None:
        try:
            async with GateControl(self._connection, who=who) as control:
                await control.import_limits(service, rows, reason=reason, if_version=if_version, command_id=known)
        except CommandRefusedError:
            return  # as its answers tell
        except UnknownServiceError as error:
            raise ArgumentError(str(error), hint=error.hint or "") from error
        except GateError as error:
            log.warning("an upload of limits was not given to gates", service=service, why=reason_of(error))
            raise

    async def close(self) -> None:
        """End what is being sent; what gates have taken goes on."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(body: AsyncIterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in body:
        size += len(part)
        if size > MOST_BYTES:
            raise TooLongError(f"the body has more than {MOST_BYTES} bytes", hint="use `gate limit import`")
        parts.append(part)
    return b"".join(parts)


def _rows(body: bytes, service: str, *, as_csv: bool) -> Mapping[str, LiveLimit]:
    try:
        lines = body.decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ArgumentError(f"the body is not UTF-8: {error}") from None
    try:
        return rows_of(lines, "the body", service, as_csv=as_csv)[service]
    except GateError as error:
        raise ArgumentError(str(error), hint=error.hint or "") from None
