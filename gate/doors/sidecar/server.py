"""The sidecar as a whole: limits from a policy, its doors, and who may come in."""

import asyncio
import contextlib
import importlib
import ipaddress
import os
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry

from gate.doors.sidecar.checks import Checks, Numbers, PolicyLimits
from gate.doors.sidecar.http import application
from gate.doors.sidecar.token import Token
from gate.errors import GateError
from gate.limits.rate_limiter import RateLimiter
from gate.limits.rate_limits import RateLimits
from gate.observe.hosts import KnownHosts
from gate.policy import Policy

_GRACE_SECONDS: Final = 2.0  # for requests under way at the end
_LARGEST: Final = 64 << 10  # bytes of a question
_MOST_CONNECTIONS: Final = 1_024
_MOST_WAITING: Final = 20_000  # questions that are not yet looked at

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in: with TLS, those who trust the certificate; with a token, those who know it."""

    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None

    def check(self, host: str) -> None:
        """Raise GateError unless this address may be served so."""
        if (self.certificate is None) != (self.key is None):
            raise GateError("a certificate needs its key, and a key its certificate", hint="--tls-cert and --tls-key")
        for file in (self.certificate, self.key):
            if file is not None and not os.access(file, os.R_OK):
                raise GateError(f"{file} can't be read", hint="--tls-cert and --tls-key are PEM files")
        if _is_loopback(host) or (self.certificate is not None and self.token):
            return
        missing = [
            name
            for name, there in (("TLS (--tls-cert, --tls-key)", self.certificate), ("a token (--token)", self.token))
            if not there
        ]
        raise GateError(
            f"a sidecar at {host} could be asked from elsewhere, and so needs {' and '.join(missing)}",
            hint="or bind it to 127.0.0.1: one sidecar runs beside each program",
        )


class Sidecar:
    """A rate limiter with the limits of a policy behind its doors: of this one process, or those that it `shares`."""

    def __init__(
        self,
        policy: Policy,
        access: Access,
        clock: Callable[[], int] | None = None,
        shares: RateLimits | None = None,
        owner_away: Callable[[], float] | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self._source = PolicyLimits(policy)
        own = RateLimiter(fail_open=policy.settings.fail_open, source=self._source, clock=clock)
        self._own = None if shares is not None else own
        self._numbers = Numbers(self.registry)
        if owner_away is not None:
            self._numbers.watch_owner(owner_away)
        self._checks = Checks(own if shares is None else shares, self._source, self._numbers)
        self._access = access
        self._token = Token(access.token)
        self._ready = False
        self._grpc: Any = None
        self._health: Any = None
        self._http: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, rls: Address | None, http: Address | None) -> tuple[str | None, str | None]:
        """Serve, and return HOST:PORT of each door. Raises GateError for an address that can't be had."""
        for address in (rls, http):
            if address is not None:
                self._access.check(address[0])
        served = (
            None if rls is None else await self._serve_grpc(*rls),
            None if http is None else self._serve_http(*http),
        )
        self._ready = True
        return served

    async def stop(self) -> None:
        """Say that it goes, answer what is under way, then close."""
        self._ready = False
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._grpc is not None:
            await self._grpc.stop(_GRACE_SECONDS)
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving

    def take(self, policy: Policy) -> None:
        """Go over to another policy: what counts goes on to count."""
        self._source.take(policy)
        if self._own is not None:
            self._own.limits_changed()
        self._checks.take(policy)

    def refuse(self) -> None:
        """Count a policy that could not be used."""
        self._numbers.refused_policies.inc()

    async def _serve_grpc(self, host: str, port: int) -> str:
        try:
            grpc = importlib.import_module("grpc")
            rls = importlib.import_module("gate.doors.sidecar.rls")
            stubs = importlib.import_module("envoy.service.ratelimit.v3.rls_pb2_grpc")
            health = importlib.import_module("grpc_health.v1.health")
            health_stubs = importlib.import_module("grpc_health.v1.health_pb2_grpc")
        except ModuleNotFoundError as error:
            raise GateError(
                f"Envoy's rate limit service needs {error.name}, which is not installed",
                hint="pip install 'kafka-admission-gate[sidecar]', or leave it out: --rls off",
            ) from error
        server = grpc.aio.server(
            interceptors=[rls.Guard(self._token)],
            options=[
                ("grpc.so_reuseport", 0),  # a second sidecar at the same port must fail, not take half of the requests
                ("grpc.max_receive_message_length", _LARGEST),
                ("grpc.server.max_pending_requests", _MOST_WAITING),  # of 1,000, the default, gRPC begins to cancel
                ("grpc.server.max_pending_requests_hard_limit", 2 * _MOST_WAITING),
            ],
        )
        stubs.add_RateLimitServiceServicer_to_server(rls.RateLimitService(self._checks), server)
        self._health = health.aio.HealthServicer()
        health_stubs.add_HealthServicer_to_server(self._health, server)
        address = _joined(host, port)
        try:
            if self._access.certificate is None or self._access.key is None:
                bound = server.add_insecure_port(address)
            else:
                pair = (self._access.key.read_bytes(), self._access.certificate.read_bytes())
                bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise _taken("--rls", address, str(error)) from error
        await server.start()
        self._grpc = server
        return _joined(host, bound)

    def _serve_http(self, host: str, port: int) -> str:
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise _taken("--http", _joined(host, port), error.strerror or str(error)) from error
        app = application(self._checks, self.registry, self._token, lambda: self._ready)
        self._http = _Server(
            uvicorn.Config(
                app if self._access.token else KnownHosts(app, {host}),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                ssl_certfile=self._access.certificate,
                ssl_keyfile=self._access.key,
                timeout_graceful_shutdown=int(_GRACE_SECONDS),
            )
        )
        self._serving = asyncio.create_task(self._http.serve(sockets=[listener]), name="http")
        return _joined(host, listener.getsockname()[1])


class _Server(uvicorn.Server):
    """A server that leaves signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _taken(option: str, address: str, why: str) -> GateError:
    return GateError(f"cannot serve at {address}: {why}", hint=f"choose another address with {option} HOST:PORT")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
