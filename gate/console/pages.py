"""The console's pages: who is answered, whole pages, the same parts as server-sent events, and forms."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from gate.client import ArgumentError, GateError
from gate.console.access import COOKIE, OPEN, Access, Role, Viewer, is_same_origin
from gate.console.actions import COMMANDS, ON_WAITING, ROLES, Actions, Done, new_id
from gate.console.anonymous import (
    answer_without_names,
    request_without_names,
    usage_without_names,
)
from gate.console.asked import Asked, asked_of, live_url, number
from gate.console.assets import SECURITY, static
from gate.console.charts import Charts, since_for, step_for
from gate.console.feed import Feed
from gate.console.forms import FILTER, RefusedError, check_form, read_form
from gate.console.group import as_json
from gate.console.limit_uploads import LimitUploads, TooLongError
from gate.console.live import Live
from gate.console.lookups import POLICY_HINT, POLICY_UNKNOWN
from gate.console.views import LIVE, PAGES, Views
from gate.units import MS, parse_duration

SIZE_MOST: Final = 1_000  # services in one answer of `/v1/pressure`
_SIGNED_IN: Final = 12 * 3600  # seconds
_FAILED: Final = 0.5  # seconds before somebody with a wrong token is answered
_SAY_WHO: Final = "say who you are: Authorization: Bearer TOKEN"
_DONE: Final = 1_000  # commands of which is told after a redirect


class Console:
    """Pages over a feed. Without `actions` nobody may do anything, whatever his role is."""

    def __init__(
        self,
        feed: Feed,
        views: Views,
        *,
        access: Access = OPEN,
        actions: Actions | None = None,
        uploads: LimitUploads | None = None,
    ) -> None:
        self._feed = feed
        self._views = views
        self._access = access
        self._actions = actions
        self._uploads = uploads
        self._live = Live()
        self._done: dict[tuple[str, str], str] = {}  # what became of the last commands, by service and id
        self._charts = Charts(feed, lambda: time.time_ns() // MS)

    @property
    def routes(self) -> list[Route]:
        """Return the routes, to be served beside others."""
        return [
            *(Route(path, self._page(view)) for view, path in PAGES.items()),
            Route("/live/{view}", self._events),
            Route("/live/{view}/{service}", self._events),
            Route("/v1/pressure", self._json),
            Route("/v1/policy", self._policy),
            Route("/v1/services/{service}/limits", self._import, methods=["POST"]),
            Route("/v1/history/{service}", self._history),
            Route("/sign-in", self._sign_in, methods=["POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/services/{service}/{action}", self._act, methods=["POST"]),
            Route("/static/{file}", static),
        ]

    async def close(self) -> None:
        """End all streams, and the feed."""
        self._live.close()
        if self._actions is not None:
            await self._actions.close()
        if self._uploads is not None:
            await self._uploads.close()
        await self._views.close()
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
        """Return of where a request stands, or of an answer to a command, what may be told to who asks."""
        if self.may_see_names(request):
            return found
        return answer_without_names(found) if "command" in found else request_without_names(found)

    def shown_usage(self, request: Request, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return of a service's usage what may be told to who asks."""
        return record if self.may_see_names(request) else usage_without_names(record)

    def may_see_names(self, request: Request) -> bool:
        """Tell whether who asks may be told the names of tenants and of those who command."""
        viewer = self._access.viewer(request)
        return viewer is not None and viewer.may(Role.READ)

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
        asked = self._asked(request, view, viewer)
        part = Markup(await self._views.render(asked))  # noqa: S704 - a template has escaped it
        forms: dict[str, Any] = {}
        if view == "service" and asked.acts:
            ids = {name: new_id() for name in (*ROLES, "count") if viewer.may(ROLES.get(name, Role.OPERATE))}
            forms = {name: {"id": known, "csrf": viewer.sign(known)} for name, known in ids.items()}
        shown.setdefault("form", {name: request.query_params.get(name, "") for name in ("what", *FILTER)})
        shown.setdefault("said", self._done.get((asked.service, request.query_params.get("done", "")), ""))
        return self._html(
            "page.html", request, status=status, part=part, asked=asked, viewer=viewer, forms=forms,
            live=live_url(request, asked) if view in LIVE else "", lanes=self._views.lanes(asked.service),
            group=self._views.group_of(asked.service),
            counts=[name for name in ON_WAITING if viewer.may(ROLES[name])], filters=(*FILTER, "to", "from"),
            abort=request.query_params.get("abort", ""), **shown,
        )  # fmt: skip

    def _html(self, template: str, request: Request, status: int, **shown: Any) -> Response:
        shown = {"asked": self._asked(request, ""), "viewer": None, "failed": "", "said": "", "form": {}, **shown}
        html = self._views.templates.get_template(template).render(shown)
        return HTMLResponse(html, status_code=status, headers={**SECURITY, "Cache-Control": "no-store"})

    async def _events(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            raise HTTPException(401)
        view = request.path_params["view"]
        if view not in LIVE:
            raise HTTPException(404)
        asked = self._asked(request, view, viewer)
        stream: AsyncIterator[bytes] = self._live.events(asked, lambda: self._views.render(asked))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _json(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            return self.guard(request) or Response(status_code=401)
        asked = self._asked(request, "pressure", viewer)
        size = number(request.query_params.get("size", ""), SIZE_MOST, SIZE_MOST)
        group, now = await self._feed.use(), self._views.wall_ms()
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
            "troubles": [trouble._asdict() for trouble in self._views.all_troubles(now)],
        }
        body = msgspec.json.encode(answer)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _policy(self, request: Request) -> Response:
        if (refused := self.guard(request)) is not None:
            return refused
        try:
            told = await self._views.policy(names=self.may_see_names(request))
        except GateError as error:
            return JSONResponse({"error": str(error), "hint": error.hint}, 503)
        if told is None:
            return JSONResponse({"error": POLICY_UNKNOWN, "hint": POLICY_HINT}, 503)
        return Response(told, media_type="application/json", headers={"Cache-Control": "no-store"})

    def _asked(self, request: Request, view: str, viewer: Viewer | None = None) -> Asked:
        return asked_of(request, view, viewer, acts=self._actions is not None)

    async def _history(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            return self.guard(request) or Response(status_code=401)
        service, given = request.path_params["service"], request.query_params
        try:
            since, step = (parse_duration(given.get(name, otherwise)) // MS
                           for name, otherwise in (("since", "15m"), ("step", "0")))  # fmt: skip
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        since_ms = since_for(since)
        packed = await self._charts.packed(service, since_ms, step_for(since_ms, step), names=viewer.may(Role.READ))
        if packed is None:
            return JSONResponse({"error": f"there is no service {service!r}, or it has asked for nothing yet"}, 404)
        headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, media_type="application/json", headers={**headers, "Content-Encoding": "gzip"})
        return Response(gzip.decompress(packed), media_type="application/json", headers=headers)

    # -- actions ---------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        viewer = self._access.viewer(request)
        if viewer is None:
            return self.guard(request) or Response(status_code=401)
        service, action = request.path_params["service"], request.path_params["action"]
        form: dict[str, str] = {}
        try:
            form = await read_form(request)
            if viewer.by_cookie:
                check_form(request, viewer, form)
            done = await self._do(action, service, viewer, form)
        except RefusedError as error:
            if viewer.by_cookie:
                return await self._whole(request, "service", viewer, error.status, failed=str(error), form=form)
            return JSONResponse({"error": str(error)}, error.status)
        if not viewer.by_cookie:
            return JSONResponse({"command": done.command, "done": done.text, "fits": done.fits})
        if action == "count":  # nothing was done that a reload could do again
            return await self._whole(request, "service", viewer, said=done.text, counted=done, form=form)
        self._done[service, done.command] = done.text
        while len(self._done) > _DONE:
            del self._done[next(iter(self._done))]
        return RedirectResponse(f"/services/{quote(service)}?done={quote(done.command)}", 303)

    async def _import(self, request: Request) -> Response:
        """Take a file of limits of all tenants of a service."""
        if isinstance(who := self.commander(request, "import-limits"), Response):
            return who
        if self._uploads is None:
            return JSONResponse({"error": "nobody may command here"}, 403)
        service, given = request.path_params["service"], request.query_params
        known = given.get("id", "") or new_id()
        try:
            kind = request.headers.get("content-type", "")
            await self._uploads.take(service, who, kind, request.stream(), given, known)
        except ArgumentError as error:
            return JSONResponse({"error": str(error), "hint": error.hint}, 400)
        except TooLongError as error:
            return JSONResponse({"error": str(error), "hint": error.hint}, 413)
        except GateError as error:
            return JSONResponse({"error": str(error), "hint": error.hint}, 503)
        answers = f"/v1/commands/{quote(known, safe='')}?service={quote(service)}"
        return JSONResponse({"command": known, "answers": answers}, 202)

    async def _do(self, action: str, service: str, viewer: Viewer, form: Mapping[str, str]) -> Done:
        if self._actions is None:
            raise RefusedError("nobody may do anything here: run it with --tokens, or --trusted-proxy", 403)
        return await self._actions.take(action, service, viewer, form)

    async def _sign_in(self, request: Request) -> Response:
        try:
            form = await read_form(request)
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        token, to = form.get("token", "").strip(), form.get("to", "/")
        if not to.startswith("/") or to.startswith(("//", "/\\")):
            to = "/"
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
