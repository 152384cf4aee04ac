"""HTTP of a sidecar: `POST /v1/check`, health and metrics."""

import math
from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gate.doors.fields import rate_limit_fields, retry_after_field
from gate.doors.sidecar.checks import Checks
from gate.doors.sidecar.matching import target
from gate.doors.sidecar.token import Token
from gate.errors import GateError
from gate.protocol.topics import check_service_name

_LARGEST: Final = 16 << 10  # bytes of a body


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    service: str
    tenant: str = ""
    cost: int = 1


def application(checks: Checks, registry: CollectorRegistry, token: Token, ready: Callable[[], bool]) -> Starlette:
    """Return the application."""

    async def check(request: Request) -> Response:
        if not token.fits(request.headers.get("authorization")):
            return _error(401, "this sidecar wants `authorization: Bearer TOKEN`", {"www-authenticate": "Bearer"})
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _error(415, "the content-type must be application/json")  # which no page of elsewhere may send
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST:
                return _error(413, f"a check has at most {_LARGEST} bytes")
        try:
            asked = msgspec.json.decode(body, type=Check)
            check_service_name(asked.service)
            if asked.cost < 1:
                return _error(400, f"cost must be at least 1 unit, not {asked.cost}")
            (result,) = await checks.decide("http", [(target(asked.service, asked.tenant), asked.cost)])
        except (msgspec.DecodeError, GateError, ValueError, TypeError) as error:
            return _error(400, str(error))
        retry_after = result.retry_after
        answer = {
            "allowed": result.allowed,
            "retry_after": None if retry_after is None or math.isinf(retry_after) else retry_after,
            "limit": result.limit,
            "remaining": result.remaining,
            "reset": result.reset,
        }
        return JSONResponse(answer, headers=rate_limit_fields(result) | retry_after_field(retry_after))

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def is_ready(_: Request) -> Response:
        return PlainTextResponse("ready" if ready() else "stopping", status_code=200 if ready() else 503)

    return Starlette(
        routes=[
            Route("/v1/check", check, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/healthz", alive),
            Route("/readyz", is_ready),
        ]
    )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)
