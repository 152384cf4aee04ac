"""Posting to an HTTP receiver, and reading from its answer whether to try again."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import httpx

from gate.client._alert_sinks.sink import LaterError, RefusedError
from gate.errors import GateError

_SECONDS: Final = 10.0  # for a post as a whole, however it drips
_BODY_SECONDS: Final = 1.0  # for the rest of an answer: read only so that its connection can be used again
_BODY_BYTES: Final = 64 << 10
_REFUSED: Final = frozenset({400, 413, 415, 422})  # the same alert would be refused again
_LONGEST_SECONDS: Final = 3600.0


class ReceiverError(GateError):
    """A receiver that can't be reached, or has no success to tell."""


class Receiver:
    """A URL that takes posts."""

    def __init__(
        self, name: str, url: str, client: httpx.AsyncClient | None = None, *, seconds: float = _SECONDS
    ) -> None:
        self._name = name
        self._url = url
        self._seconds = seconds
        self._client = client or httpx.AsyncClient(timeout=_SECONDS)

    async def post(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Post once. Raises ReceiverError, LaterError or RefusedError, never with the URL: it may hold a secret."""
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream("POST", self._url, content=content, headers=headers) as answer,
            ):
                await _finish(answer)
        except httpx.HTTPError as error:
            raise ReceiverError(f"{self._name} can't be reached: {type(error).__name__}") from None
        except TimeoutError:
            raise ReceiverError(f"{self._name} has not answered within {self._seconds:g} s") from None
        if answer.is_success:
            return
        message = f"{self._name} answered {answer.status_code}"
        if answer.status_code in _REFUSED:
            raise RefusedError(message)
        if (seconds := answer.headers.get("retry-after", "")).isdecimal():
            raise LaterError(message, min(float(seconds), _LONGEST_SECONDS))
        raise ReceiverError(message)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _finish(answer: httpx.Response) -> None:
    """Read what is left of an answer, if that is little: what it says stands in its head."""
    size = 0
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in answer.aiter_raw():
                size += len(piece)
                if size > _BODY_BYTES:
                    return
