"""The console's pages: whole ones, and the same parts as server-sent events."""

import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from mimetypes import guess_type
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from gate.console import words
from gate.console.feed import Feed
from gate.console.group import as_json
from gate.console.live import Live
from gate.console.view import KINDS, Trouble, limit_name

SIZE_MOST: Final = 1_000  # services in one answer of `/v1/pressure`
_MARKS: Final = 30
_AUDITS: Final = 200
_SHOWN: Final = 200  # characters of what somebody has typed into the search
_SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_STATIC: Final = files("gate.console").joinpath("static")

Explain = Callable[[str], Mapping[str, Any] | None]
Troubles = Callable[[], Sequence[Trouble]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the group is asked for: the key of what viewers share."""

    view: str
    service: str = ""
    query: str = ""
    state: str = ""
    page: int = 0
    names: bool = False


class Console:
    """Pages over a feed.

    `explain` returns the policy of a service, field by field with its origin, None where it is not known; `troubles`
    what is wrong with the process itself.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        explain: Explain = lambda _: None,
        troubles: Troubles = tuple,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._feed = feed
        self._explain = explain
        self._troubles = troubles
        self._wall_ms = wall_ms
        self._live = Live()
        self._templates = _environment()

    @property
    def routes(self) -> list[Route]:
        """Return the routes, to be served beside others."""
        return [
            Route("/", self._page("pressure")),
            Route("/services/{service}", self._page("service")),
            Route("/shards", self._page("shards")),
            Route("/audit", self._page("audit")),
            Route("/live/{view}", self._events),
            Route("/live/{view}/{service}", self._events),
            Route("/v1/pressure", self._json),
            Route("/static/{file}", _static),
        ]

    async def close(self) -> None:
        """End all streams, and the feed."""
        self._live.close()
        await self._feed.close()

    # -- answers ---------------------------------------------------------------------------------------------------

    def _page(self, view: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            asked = _asked(request, view)
            part = await self._render(asked)
            html = self._templates.get_template("page.html").render(
                part=Markup(part),  # noqa: S704 - rendered above, and escaped there
                asked=asked,
                live=_live_url(request, asked),
            )
            return HTMLResponse(html, headers={**_SECURITY, "Cache-Control": "no-store"})

        return answer

    async def _events(self, request: Request) -> Response:
        view = request.path_params["view"]
        if view not in {"pressure", "service", "shards", "audit"}:
            raise HTTPException(404)
        asked = _asked(request, view)
        stream: AsyncIterator[bytes] = self._live.events(asked, lambda: self._render(asked))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _json(self, request: Request) -> Response:
        asked = _asked(request, "pressure")
        size = _number(request.query_params.get("size", ""), SIZE_MOST, SIZE_MOST)
        group, now = await self._feed.use(), self._wall_ms()
        found = group.pressure(
            now, query=asked.query, state=asked.state, page=asked.page, size=max(1, size), names=asked.names
        )
        answer = {
            "at_ms": now,
            "services": [as_json(line) for line in found.lines],
            "page": found.page,
            "pages": found.pages,
            "found": found.found,
            "known": found.services,
            "waiting": found.waiting,
            "counts": {word.value: count for word, count in found.counts},
            "troubles": [trouble._asdict() for trouble in self._all_troubles(now)],
        }
        body = msgspec.json.encode(answer)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _render(self, asked: Asked) -> str:
        group = await self._feed.use()
        now = self._wall_ms()
        shown: dict[str, Any] = {"asked": asked, "now": now, "troubles": self._all_troubles(now)}
        if asked.view == "service":
            shown |= self._service(asked, now)
        elif asked.view == "shards":
            shown |= {"owners": group.owners()}
        elif asked.view == "audit":
            shown |= {"audits": group.audits()[:_AUDITS]}
        pressure = group.pressure(now, query=asked.query, state=asked.state, page=asked.page, names=asked.names)
        shown |= {"pressure": pressure, "worst": "bad" if shown["troubles"] else pressure.kind}
        return self._templates.get_template(f"{asked.view}.html").render(shown)

    def _service(self, asked: Asked, now: int) -> dict[str, Any]:
        group, service = self._feed.group, asked.service
        record, line = group.record(service), group.line(service, now, names=asked.names)
        totals = sorted(record.totals, key=lambda total: -total.requests) if record is not None else []
        return {
            "record": record,
            "line": line,
            "totals": totals,
            "marks": list(reversed(group.marks(service)))[:_MARKS],
            "audits": group.audits(service)[:_MARKS],
            "policy": _shown_to(self._explain(service), names=asked.names),
        }

    def _all_troubles(self, now: int) -> list[Trouble]:
        return [*self._feed.troubles(), *self._troubles(), *self._feed.group.troubles(now)]


def _shown_to(policy: Mapping[str, Any] | None, *, names: bool) -> Mapping[str, Any] | None:
    """Return a policy without what names tenants, unless names may be told."""
    if policy is None or names:
        return policy
    return {name: origin for name, origin in policy.items() if not name.startswith("tenants.")}


def _asked(request: Request, view: str) -> Asked:
    given = request.query_params
    return Asked(
        view=view,
        service=request.path_params.get("service", ""),
        query=given.get("q", "")[:_SHOWN],
        state=given.get("state", "")[:_SHOWN],
        page=max(0, _number(given.get("page", ""), 1, 1_000_000) - 1),
    )


def _number(text: str, otherwise: int, most: int) -> int:
    return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 10 else otherwise


def _live_url(request: Request, asked: Asked) -> str:
    service = f"/{asked.service}" if asked.service else ""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"/live/{asked.view}{service}{query}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gate.console"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": words.duration, "rate": words.rate, "number": words.number, "clock": words.clock,
        "text": words.text,
    }  # fmt: skip
    environment.globals |= {"limit_name": limit_name, "asset": _asset, "KINDS": KINDS}
    return environment


@cache
def _content(file: str) -> tuple[bytes, bytes]:
    """Return a file that is served, plain and packed."""
    plain = _STATIC.joinpath(file).read_bytes()
    return plain, gzip.compress(plain, mtime=0)


@cache
def _asset(file: str) -> str:
    """Return the address of a file, which changes with what is in it."""
    return f"/static/{file}?{sha256(_content(file)[0]).hexdigest()[:12]}"


async def _static(request: Request) -> Response:
    file = request.path_params["file"]
    kind = guess_type(file)[0]
    if kind not in {"text/css", "text/javascript"} or not _STATIC.joinpath(file).is_file():
        raise HTTPException(404)
    plain, packed = _content(file)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding", **_SECURITY}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, media_type=kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(plain, media_type=kind, headers=headers)
