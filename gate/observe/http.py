"""The gate's HTTP port: metrics, health, usage and whatever else, served inside the gate's own event loop."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gate.errors import ArgumentError, GateError, UnknownRequestError
from gate.observe.connections import BACKLOG, PATIENCE, Connections, most_connections
from gate.observe.hosts import KnownHosts
from gate.policy import Policy
from gate.protocol.policies import GROUP

_MOST_BODY: Final = 16 << 10  # bytes of a command
_NOT_HERE: Final = {
    "error": "no gate runs in this process (yet)",
    "hint": "ask again while a gate starts; `gate console` is none: ask a gate",
}
_GRACE_SECONDS: Final = 2  # for requests under way at the end
_TICK: Final = 1.0  # seconds


class Find(Protocol):
    """Tells where a request stands, given its id or its producer's, and a service or None. Raises GateError."""

    def __call__(self, request: str, service: str | None, *, result: bool = False) -> Awaitable[Mapping[str, Any]]: ...  # noqa: D102


# what of something may be told to who asks
Shown = Callable[[Request, Mapping[str, Any]], Mapping[str, Any]]


Commander = Callable[[Request, str], str | Response]  # who gives a command of that name, or what he is answered


class Door(Protocol):
    """Where operators' commands go in."""

    def read(self, service: str, body: bytes) -> Any:
        """Return a command about a service or group:NAME, which has a `name`. Raises ArgumentError."""

    async def give(self, given: Any, who: str) -> str:
        """Take a command that was read, and return its id. Raises ArgumentError, or GateError."""

    async def answer(self, known: str, service: str | None) -> Mapping[str, Any] | None:
        """Return the last answer to a command, about a service or any; None: there is none yet. Raises GateError."""


@dataclass(slots=True)
class Board:
    """What the gate tells about itself, for whoever asks over HTTP.

    `usage` holds a JSON object per service; `policy` the file's that is in force; `faults` what keeps
    the gate from being ready, by subject; `hindered` the shards that wait while others go on; `waiting` the partitions
    that stand; `broken` is set when only a restart helps. `look` brings faults and shards up to date; `find` looks for
    one request, and `door` takes commands.
    """

    usage: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    waiting: Sequence[Mapping[str, Any]] = ()
    policy: Policy | None = None
    faults: Mapping[str, str] = field(default_factory=lambda: {"gate": "is starting"})
    hindered: Mapping[str, str] = field(default_factory=dict)
    look: Callable[[], None] = lambda: None
    find: Find | None = None
    door: Door | None = None
    broken: str | None = None


def _nobody(_: Request, __: str) -> Response:
    return _json({"error": "nobody may command here"}, status=403)


class HttpServer:
    """Serves a board and a registry at one address, without touching signals, for few connections at a time.

    It is known by addresses, by this machine's names, and by `names`. `routes` go before those of the board.
    `guard` returns what somebody is answered who may not see usage, else None; `commander` who somebody is that may
    give a command, else what he is answered; `shown` what he may be told of a request, or of an answer, `usage_of` what
    of a service's usage.

    >>> server = HttpServer("127.0.0.1", 9600, Board(), registry)
    >>> await server.start()
    >>> await server.stop()
    """

    def __init__(
        self,
        host: str,
        port: int,
        board: Board,
        registry: CollectorRegistry,
        *,
        names: Collection[str] = (),
        routes: Sequence[BaseRoute] = (),
        guard: Callable[[Request], Response | None] = lambda _: None,
        commander: Commander = _nobody,
        shown: Shown = lambda _, found: found,
        usage_of: Shown = lambda _, record: record,
        patience: float = PATIENCE,
    ) -> None:
        self._address = (host, port)
        self._server = _Server(
            uvicorn.Config(
                KnownHosts(
                    _application(board, registry, routes, guard, commander, shown, usage_of),
                    {host, *names},
                ),
                http=Connections(most_connections(), patience),  # type: ignore[arg-type]  # it makes them, as a class does
                backlog=BACKLOG,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who asks is who is connected, whatever a header says
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Serve, and return the URL. Port 0 takes any free one. Raises GateError where the address can't be had."""
        host, port = self._address
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            code = error.errno or 0  # below zero: the host's name was not found
            why = os.strerror(code) if code > 0 else error.strerror
            raise GateError(
                f"cannot serve HTTP at {host}:{port}: {why}", hint="choose another address with --http HOST:PORT"
            ) from error
        port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Answer what is under way, then close. Safe to call twice, and without a start."""
        if self._task is not None:
            self._server.stop()
            await self._task
            self._task = None


class _Server(uvicorn.Server):
    """A server that leaves signals to the gate, which drains and commits first, and wakes up once a second at most."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Have it answer what is under way, and end."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Renew the date that answers bear, until it is to stop; uvicorn's own looks ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _application(
    board: Board,
    registry: CollectorRegistry,
    routes: Sequence[BaseRoute],
    guard: Callable[[Request], Response | None],
    commander: Commander,
    shown: Shown,
    usage_of: Shown,
) -> Starlette:
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def alive(_: Request) -> Response:
        return PlainTextResponse(board.broken or "ok", status_code=503 if board.broken else 200)

    async def ready(_: Request) -> Response:
        board.look()
        reasons = [f"{subject} {fault}" for subject, fault in board.faults.items()]
        if board.broken:
            reasons.insert(0, board.broken)
        answer: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        hindered = [f"{subject}: {why}" for subject, why in board.hindered.items()]
        more = {name: found for name, found in (("shards", hindered), ("waiting", board.waiting)) if found}
        if more:  # another gate would wait as well, so it is no reason to take this one away
            answer |= more | ({} if reasons else {"status": "degraded"})
        return _json(answer, status=503 if reasons else 200)

    async def usage(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        return _json({"services": [usage_of(request, board.usage[service]) for service in sorted(board.usage)]})

    async def command(request: Request) -> Response:
        if isinstance(who := commander(request, ""), Response):
            return who
        if board.door is None:
            return _json(_NOT_HERE, status=503)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BODY:
                return _json({"error": f"the body has more than {_MOST_BODY} bytes"}, status=413)
        try:
            given = board.door.read(_subject(request.path_params), body)
            # the role is asked for what was read: another reader might see another command in the same bytes
            if isinstance(who := commander(request, given.name), Response):
                return who
            known = await board.door.give(given, who)
        except ArgumentError as error:
            return _json({"error": str(error), "hint": error.hint}, status=400)
        except GateError as error:
            return _json({"error": str(error), "hint": error.hint}, status=503)
        answers = f"/v1/commands/{quote(known, safe='')}?service={quote(given.service)}"
        return _json({"command": known, "answers": answers}, status=202)

    async def answered(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if board.door is None:
            return _json(_NOT_HERE, status=503)
        try:
            found = await board.door.answer(request.path_params["id"], request.query_params.get("service"))
        except GateError as error:
            return _json({"error": str(error), "hint": error.hint}, status=503)
        if found is None:
            return _json({"error": "no gate has answered that command (yet)"}, status=404)
        return _json(shown(request, found))

    async def one_request(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if board.find is None:
            return _json(_NOT_HERE, status=503)
        try:
            asked = request.query_params
            with_result = asked.get("result", "") in {"1", "true"}
            found = await board.find(request.path_params["id"], asked.get("service"), result=with_result)
        except UnknownRequestError as error:
            return _json({"error": str(error), "hint": error.hint}, status=404)
        except GateError as error:
            return _json({"error": str(error), "hint": error.hint}, status=503)
        return _json(shown(request, found))

    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    return Starlette(
        exception_handlers={ClientDisconnect: left},  # somebody leaves amid a body: no fault of ours
        routes=[
            *routes,
            Route("/metrics", metrics),
            Route("/healthz", alive),
            Route("/readyz", ready),
            Route("/v1/usage", usage),
            Route("/v1/requests/{id:path}", one_request),
            Route("/v1/services/{service}/commands", command, methods=["POST"]),
            Route("/v1/groups/{group}/commands", command, methods=["POST"]),
            Route("/v1/commands/{id:path}", answered),
        ],
    )


def _subject(path: Mapping[str, str]) -> str:
    """Return what a command is about: a service, or a group as it is called on the control topic."""
    return f"{GROUP}{path['group']}" if "group" in path else path["service"]


def _json(content: object, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    body = json.dumps(content, default=str)  # policies hold fractions and paths
    return Response(body, status_code=status, media_type="application/json", headers=headers)
