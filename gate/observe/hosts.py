"""Host headers that are this gate's: a page of elsewhere whose name is made to lead here is not.

An address needs no check: a browser that was led astray by DNS says the name that it was led by.
"""

import ipaddress
import re
import socket
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PORT = re.compile(r":[0-9]*\Z")


class KnownHosts:
    """Answers requests to unknown names with 421, and hands all others on."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        own = socket.gethostname()
        self._names = {name.lower().rstrip(".") for name in ("localhost", own, own.partition(".")[0], *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        given = Headers(scope=scope).getlist("host")
        unknown = next((host for host in given if not self.knows(host)), None)
        if unknown is None:  # HTTP/1.0 has no such header, and no browser speaks that
            await self._app(scope, receive, send)
            return
        name = _PORT.sub("", unknown)[:100]
        text = f"this gate is not known as {name!r}; if that is its name, run it with --http-host NAME\n"
        await PlainTextResponse(text, status_code=421)(scope, receive, send)

    def knows(self, host: str) -> bool:
        """Tell whether a Host header names this gate."""
        name = _PORT.sub("", host).lower().rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
