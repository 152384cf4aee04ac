"""Posting to an HTTP receiver, and reading from its answer whether to try again."""

from collections.abc import Mapping
from typing import Final

import httpx

from consumers.sinks.sink import LaterError, RefusedError

_SECONDS: Final = 10.0
_REFUSED: Final = frozenset({400, 413, 415, 422})  # the same alert would be refused again
_LONGEST_SECONDS: Final = 3600.0


class ReceiverError(Exception):
    """A receiver that can't be reached, or has no success to tell."""


class Receiver:
    """A URL that takes posts."""

    def __init__(self, name: str, url: str, client: httpx.AsyncClient | None = None) -> None:
        self._name = name
        self._url = url
        self._client = client or httpx.AsyncClient(timeout=_SECONDS)

    async def post(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Post once. Raises ReceiverError, LaterError or RefusedError, never with the URL: it may hold a secret."""
        try:
            answer = await self._client.post(self._url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ReceiverError(f"{self._name} can't be reached: {type(error).__name__}") from None
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
