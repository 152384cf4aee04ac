"""The console's pages: whole ones, and the same parts as server-sent events."""

import asyncio
import gzip
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from mimetypes import guess_type
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import msgspec
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from gate.console import words
from gate.console.access import COOKIE, OPEN, Access, Role, Viewer, is_same_origin
from gate.console.actions import COMMANDS, Actions, Done, RefusedError, new_id
from gate.console.feed import Feed
from gate.console.group import as_json
from gate.console.live import Live
from gate.console.view import KINDS, Trouble, limit_name

SIZE_MOST: Final = 1_000  # services in one answer of `/v1/pressure`
_FORM_BYTES: Final = 16 << 10
_SIGNED_IN: Final = 12 * 3600  # seconds
_FAILED: Final = 0.5  # seconds before somebody with a wrong token is answered
_SAY_WHO: Final = "say who you are: Authorization: Bearer TOKEN"
_DONE: Final = 1_000  # commands of which is told after a redirect
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
    what is wrong with the process itself. Without `actions` nobody may do anything, whatever his role is.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        access: Access = OPEN,
        actions: Actions | None = None,
        explain: Explain = lambda _: None,
        troubles: Troubles = tuple,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._feed = feed
        self._access = access
        self._actions = actions
        self._explain = explain
        self._troubles = troubles
        self._wall_ms = wall_ms
        self._live = Live()
        self._done: dict[str, str] = {}  # what became of the last commands, by their ids
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
            Route("/sign-in", self._sign_in, methods=["POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/services/{service}/{action}", self._act, methods=["POST"]),
            Route("/static/{file}", _static),
        ]

    async def close(self) -> None:
        """End all streams, and the feed."""
        self._live.close()
        if self._actions is not None:
            await self._actions.close()
        await self._feed.close()

    def guard(self, request: Request) -> Response | None:
        """Return what somebody is answered who may see nothing; None: he may look."""
        if self._access.viewer(request) is not None:
            return None
        if "text/html" in request.headers.get("accept", ""):
            return self._html("sign-in.html", request, status=401, to=request.url.path)
        return JSONResponse({"error": _SAY_WHO}, 401, {"WWW-Authenticate": "Bearer"})

    def commander(self, request: Request, command: str) -> str | Response:
        """Return who gives a command by a token, or what he is answered who may not; forms are for browsers."""
        viewer = self._access.viewer(request)
        if viewer is None:
            return JSONResponse({"error": _SAY_WHO}, 401, {"WWW-Authenticate": "Bearer"})
        if viewer.role is None or viewer.by_cookie:
            hint = _SAY_WHO if self._access.is_on else "run the gate with --tokens"
            return JSONResponse({"error": "commands are for those who show a token", "hint": hint}, 403)
        takes = COMMANDS.get(command, Role.OPERATE)
        if not viewer.may(takes):
            has = viewer.role.name.lower()
            return JSONResponse({"error": f"that takes the role {takes.name.lower()}; {viewer.who} has {has}"}, 403)
        return viewer.who

    def shown_request(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return of where a request stands what may be told to who asks."""
        viewer = self._access.viewer(request)
        if viewer is not None and viewer.may(Role.READ):
            return found
        told = {name: one for name, one in found.items() if name not in {"producer_id", "error"}}
        if (limit := found.get("limit")) is not None:
            told["limit"] = limit_name(limit, found["service"], names=False)
        return told

    # -- answers ---------------------------------------------------------------------------------------------------

    def _page(self, view: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            viewer = self._access.viewer(request)
            if viewer is None:
                return self.guard(request) or Response(status_code=401)
            return await self._whole(request, view, viewer)

        return answer

    async def _whole(self, request: Request, view: str, viewer: Viewer, status: int = 200, **shown: Any) -> Response:
        """Answer with a whole page: the view, and what its viewer may do."""
        asked = _asked(request, view, viewer)
        part = Markup(await self._render(asked))  # noqa: S704 - a template has escaped it
        forms: dict[str, Any] = {}
        if view == "service" and self._actions is not None and viewer.may(Role.OPERATE):
            names = ("pause", "resume", "count", "cancel") if viewer.may(Role.ADMIN) else ("pause", "resume")
            ids = {name: new_id() for name in names}
            forms = {name: {"id": known, "csrf": viewer.sign(known)} for name, known in ids.items()}
        lanes = (
            [] if (record := self._feed.group.record(asked.service)) is None else [lane.name for lane in record.lanes]
        )
        shown.setdefault("said", self._done.get(request.query_params.get("done", ""), ""))
        return self._html(
            "page.html", request, status=status, part=part, asked=asked, live=_live_url(request, asked),
            viewer=viewer, forms=forms, lanes=lanes, **shown,
        )  # fmt: skip

    def _html(self, template: str, request: Request, status: int, **shown: Any) -> Response:
        shown = {"asked": _asked(request, ""), "viewer": None, "failed": "", "said": "", "form": {}, **shown}
        html = self._templates.get_template(template).render(shown)
        return HTMLResponse(html, status_code=status, headers={**_SECURITY, "Cache-Control": "no-store"})

    async def _events(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            raise HTTPException(401)
        view = request.path_params["view"]
        if view not in {"pressure", "service", "shards", "audit"}:
            raise HTTPException(404)
        asked = _asked(request, view, viewer)
        stream: AsyncIterator[bytes] = self._live.events(asked, lambda: self._render(asked))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _json(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            return self.guard(request) or Response(status_code=401)
        asked = _asked(request, "pressure", viewer)
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

    # -- actions ---------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            return self.guard(request) or Response(status_code=401)
        service, action = request.path_params["service"], request.path_params["action"]
        form: dict[str, str] = {}
        try:
            form = await _form(request)
            if viewer.by_cookie:
                _check_form(request, viewer, form)
            done = await self._do(action, service, viewer, form)
        except RefusedError as error:
            if viewer.by_cookie:
                return await self._whole(request, "service", viewer, error.status, failed=str(error), form=form)
            return JSONResponse({"error": str(error)}, error.status)
        if not viewer.by_cookie:
            return JSONResponse({"command": done.command, "done": done.text, "fits": done.fits})
        if action == "count":  # nothing was done that a reload could do again
            return await self._whole(request, "service", viewer, said=done.text, counted=done, form=form)
        self._done[done.command] = done.text
        while len(self._done) > _DONE:
            del self._done[next(iter(self._done))]
        return RedirectResponse(f"/services/{quote(service)}?done={quote(done.command)}", 303)

    async def _do(self, action: str, service: str, viewer: Viewer, form: Mapping[str, str]) -> Done:
        if self._actions is None:
            raise RefusedError("nobody may do anything here: run it with --tokens, or --trusted-proxy", 403)
        return await self._actions.take(action, service, viewer, form)

    async def _sign_in(self, request: Request) -> Response:
        try:
            form = await _form(request)
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        token, to = form.get("token", "").strip(), form.get("to", "/")
        to = to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
        if not is_same_origin(request) or self._access.by_token(token) is None:
            await asyncio.sleep(_FAILED)
            return self._html("sign-in.html", request, status=401, to=to, failed="nobody has this token")
        answer = RedirectResponse(to, 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "") == "https"
        answer.set_cookie(COOKIE, token, max_age=_SIGNED_IN, httponly=True, samesite="strict", secure=secure)
        return answer

    async def _sign_out(self, request: Request) -> Response:
        answer = RedirectResponse("/", 303)
        if is_same_origin(request):
            answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

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
        if asked.view != "service":
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
            "marks": list(reversed(group.marks(service, names=asked.names)))[:_MARKS],
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


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises RefusedError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(f"a form is application/x-www-form-urlencoded, not {kind[:100]!r}", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise RefusedError(f"the form is larger than {_FORM_BYTES >> 10} KiB", 413)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=50))
    except ValueError as error:
        raise RefusedError(f"this is no form: {error}") from error


def _check_form(request: Request, viewer: Viewer, form: Mapping[str, str]) -> None:
    """Raise RefusedError unless a browser sends a form that this viewer was given by this very server."""
    if not is_same_origin(request):
        raise RefusedError("the form comes from a page of elsewhere", 403)
    known = form.get("id", "")
    if not known or not hmac.compare_digest(viewer.sign(known).encode(), form.get("csrf", "").encode()):
        raise RefusedError("the form is of an earlier sign-in; it is made anew below, and nothing was done", 403)


def _asked(request: Request, view: str, viewer: Viewer | None = None) -> Asked:
    given = request.query_params
    return Asked(
        view=view,
        service=request.path_params.get("service", ""),
        query=given.get("q", "")[:_SHOWN],
        state=given.get("state", "")[:_SHOWN],
        page=max(0, _number(given.get("page", ""), 1, 1_000_000) - 1),
        names=viewer is not None and viewer.may(Role.READ),
    )


def _number(text: str, otherwise: int, most: int) -> int:
    return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 10 else otherwise


def _live_url(request: Request, asked: Asked) -> str:
    service = f"/{asked.service}" if asked.service else ""
    query = f"?{request.url.query}" if request.url.query and not asked.service else ""
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
