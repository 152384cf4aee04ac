"""What stands behind Envoy: an ASGI application that answers at once."""

from typing import Any

_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
_BODY = {"type": "http.response.body", "body": b"ok"}


async def app(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send(_HEAD)
        await send(_BODY)
