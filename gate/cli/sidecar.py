"""`gate sidecar`."""

import asyncio
import logging
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Final, Literal

import structlog
import watchfiles
from cyclopts import CycloptsError, Parameter

from gate import DistributedRateLimiter
from gate.cli.client import Flag, log_to_stderr
from gate.cli.collector import tune_collector
from gate.cli.secrets import secret
from gate.config import Connection
from gate.distributed import OnOwnerAway
from gate.doors.sidecar.server import Access, Address, Sidecar
from gate.errors import GateError
from gate.policy import Policy, Settings, load_policy
from gate.policy.settings import CONFIG

RELOAD_QUIET_MS: Final = 200
_ALONE: Final = "of this one process"
_SHARED: Final = "of the gates, shared"

log = structlog.get_logger("gate")


def sidecar(
    *,
    config: Annotated[Path | None, Parameter(env_var=CONFIG)] = None,
    bootstrap: str | None = None,
    on_owner_away: OnOwnerAway = "closed",
    rls: str = "127.0.0.1:8081",
    http: str = "127.0.0.1:8080",
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    token: Annotated[str | None, Parameter(env_var="GATE_SIDECAR_TOKEN")] = None,
    log_format: Annotated[Literal["text", "json"], Parameter(name="--log")] = "text",
    json: Flag = False,
) -> None:
    """Serve limits to programs in any language: Envoy's rate limit service, and HTTP.

    Answers Envoy's rate limit service, version 3, over gRPC, and `POST /v1/check` over HTTP, with the limits of a
    policy file, which may be changed while it runs. They are the limits of this one process: two sidecars admit twice
    as much, and what a gate admits of the same service counts elsewhere. With --bootstrap they are those of the gates
    on that broker, shared by all sidecars, processes and queues; the file then says what `match` and `shadow` say.

    Example: `gate sidecar --config policy.yaml --rls 127.0.0.1:8081 --http 127.0.0.1:8080`

    Parameters
    ----------
    config
        The policy file; by default GATE_CONFIG names it. Its `match` says which of Envoy's descriptors are whose.
    bootstrap
        HOST:PORT of the broker through which gates share their limits; without it they are this process's alone.
    on_owner_away
        What to do when no gate answers any more: refuse (closed), let all go (open), or go on with less (floor).
    rls
        HOST:PORT of Envoy's rate limit service; "off" for none. Beyond loopback only with TLS and a token.
    http
        HOST:PORT of `/v1/check`, `/healthz`, `/readyz` and `/metrics`; "off" for none. Beyond loopback as above.
    tls_cert
        Certificate chain, a PEM file.
    tls_key
        Its private key, a PEM file.
    token
        What callers must send as `authorization: Bearer TOKEN`; @FILE reads a file.
    log_format
        How to write the log on stderr.
    json
        The same as --log json: an object per line, with timestamp, level, event and what it is about.
    """
    log_to_stderr(logging.INFO, json=json or log_format == "json")
    if config is None:
        raise CycloptsError(msg=f"a policy file is needed: give --config FILE, or set {CONFIG}")
    policy = load_policy(config)
    access = Access(tls_cert, tls_key, secret("--token", "GATE_SIDECAR_TOKEN", token))
    addresses = _address("--rls", rls), _address("--http", http)
    if addresses == (None, None):
        raise GateError("there is nothing to serve", hint="give --rls HOST:PORT, --http HOST:PORT, or both")
    shares = None
    if bootstrap is not None:
        shares = DistributedRateLimiter(Connection.load(config, bootstrap=bootstrap), on_owner_away=on_owner_away)
    asyncio.run(_run(config, policy, access, shares, *addresses))


async def _run(
    config: Path,
    policy: Policy,
    access: Access,
    shares: DistributedRateLimiter | None,
    rls: Address | None,
    http: Address | None,
) -> None:
    async with shares or nullcontext():
        away = None if shares is None else lambda: shares.owner_away
        served = Sidecar(policy, access, shares=shares, owner_away=away)
        await _serve(config, policy, served, _SHARED if shares else _ALONE, rls, http)


async def _serve(
    config: Path, policy: Policy, served: Sidecar, whose: str, rls: Address | None, http: Address | None
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    watching = None
    try:
        at_rls, at_http = await served.start(rls, http)
        tune_collector()
        log.info("sidecar runs", rls=at_rls, http=at_http, policy=policy.version, limits=whose)
        watching = asyncio.create_task(_watch(config, policy, served, stopped), name="policy")
        await stopped.wait()
        log.info("stopping: requests under way are answered first")
    finally:
        await served.stop()
        if watching is not None:
            await watching
    log.info("stopped")


async def _watch(config: Path, policy: Policy, served: Sidecar, stopped: asyncio.Event) -> None:
    """Take over each good version of the policy file; refuse a broken one whole, and say so."""
    # the folder, not the file: editors and ConfigMaps replace files
    async for _ in watchfiles.awatch(config.parent.resolve(), debounce=RELOAD_QUIET_MS, stop_event=stopped):
        try:
            new = await asyncio.to_thread(load_policy, config)
        except GateError as error:
            served.refuse()
            log.warning("policy refused; the one before counts", why=str(error))
            continue
        if new.version != policy.version or new.settings.unmatched != policy.settings.unmatched:
            served.take(new)
            log.info("policy changed", before=policy.version, now=new.version)
            policy = new


def _address(option: str, text: str) -> Address | None:
    """Read HOST:PORT, or a port of 127.0.0.1; None for "off"."""
    if text == "off":
        return None
    try:
        return Settings().override(http=int(text) if text.isdecimal() else text).http_address
    except GateError:
        raise GateError(f'{option} must be HOST:PORT or "off", not {text!r}', hint="as in 127.0.0.1:8081") from None
