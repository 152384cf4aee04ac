"""Envoy's rate limit service, version 3, over gRPC."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from gate.doors.fields import rate_limit_fields, retry_after_field
from gate.doors.sidecar.checks import Checks
from gate.doors.sidecar.matching import Target
from gate.doors.sidecar.token import Token
from gate.limits.result import RateLimitResult
from gate.policy.settings import Unmatched

_OK: Final = rls_pb2.RateLimitResponse.OK
_OVER: Final = rls_pb2.RateLimitResponse.OVER_LIMIT
_Limit: Final = rls_pb2.RateLimitResponse.RateLimit
_UNITS: Final[dict[float | None, Any]] = {
    1: _Limit.SECOND,
    60: _Limit.MINUTE,
    3600: _Limit.HOUR,
    86_400: _Limit.DAY,
    604_800: _Limit.WEEK,
}
_MOST: Final = 2**32 - 1
_LONGEST: Final = 315_000_000_000  # seconds that a Duration may hold
_MOST_DESCRIPTORS: Final = 64


class RateLimitService(rls_pb2_grpc.RateLimitServiceServicer):  # type: ignore[misc]  # it has no types
    """Answers Envoy: OVER_LIMIT if any descriptor is, and then none of them was charged."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    async def ShouldRateLimit(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the protocol names it
        """Decide about one request of Envoy's."""
        if not request.domain or not request.descriptors:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "domain and descriptors must not be empty")
        if len(request.descriptors) > _MOST_DESCRIPTORS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"more than {_MOST_DESCRIPTORS} descriptors")
        targets = [self._target(request.domain, descriptor) for descriptor in request.descriptors]
        asked = [
            (target, _cost(request, descriptor))
            for target, descriptor in zip(targets, request.descriptors, strict=True)
            if target is not None
        ]
        results = iter(await self._checks.decide("rls", asked) if asked else [])
        response = rls_pb2.RateLimitResponse(overall_code=_OK)
        fields: dict[str, list[str]] = {}
        waits: list[float] = []
        for target in targets:
            if target is None:
                status = rls_pb2.RateLimitResponse.DescriptorStatus(code=self._unmatched())
            else:
                result = next(results)
                status = _status(result)
                for name, value in rate_limit_fields(result, f"{target.service}.").items():
                    fields.setdefault(name, []).append(value)
                if result.retry_after is not None:
                    waits.append(result.retry_after)
            if status.code == _OVER:
                response.overall_code = _OVER
            response.statuses.append(status)
        said = {name: ", ".join(values) for name, values in fields.items()} | retry_after_field(
            max(waits, default=None)
        )
        response.response_headers_to_add.extend([HeaderValue(key=name, value=value) for name, value in said.items()])
        return response

    def _target(self, domain: str, descriptor: Any) -> Target | None:
        target = self._checks.matcher.find(domain, [(entry.key, entry.value) for entry in descriptor.entries])
        if target is None:
            self._checks.not_matched("rls")
        return target

    def _unmatched(self) -> Any:
        return _OK if self._checks.unmatched is Unmatched.ALLOW else _OVER


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Lets nobody in without the token, but for questions about health."""

    def __init__(self, token: Token) -> None:
        async def refuse(request: Any, context: Any) -> None:  # noqa: ARG001 - as it is called
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this sidecar wants `authorization: Bearer TOKEN`")

        self._token = token
        self._refuse = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """See grpc.aio."""
        given = dict(handler_call_details.invocation_metadata or ()).get("authorization")
        health = handler_call_details.method.startswith("/grpc.health.v1.Health/")
        return await continuation(handler_call_details) if health or self._token.fits(given) else self._refuse


def _cost(request: Any, descriptor: Any) -> int:
    """Return the units of a descriptor: its own, which may be 0, else the request's, else one."""
    if descriptor.HasField("hits_addend"):
        return int(descriptor.hits_addend.value)
    return int(request.hits_addend) or 1


def _status(result: RateLimitResult) -> Any:
    """Return what Envoy is told of one descriptor: its tightest limit."""
    status = rls_pb2.RateLimitResponse.DescriptorStatus(code=_OK if result.allowed else _OVER)
    tightest = result.tightest
    if tightest is not None:
        unit = _UNITS.get(tightest.window, _Limit.UNKNOWN)
        status.current_limit.CopyFrom(
            _Limit(name=tightest.name, requests_per_unit=min(tightest.limit, _MOST), unit=unit)
        )
        status.limit_remaining = min(tightest.remaining, _MOST)
        wait = tightest.reset if result.retry_after is None else result.retry_after
        if math.isfinite(wait):
            seconds = min(int(wait), _LONGEST)
            status.duration_until_reset.CopyFrom(Duration(seconds=seconds, nanos=int((wait - int(wait)) * 10**9)))
    return status
