"""`gate run`."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, Literal

import structlog
import watchfiles
from aiokafka.errors import KafkaError
from cyclopts import Parameter
from prometheus_client import CollectorRegistry

from gate import tracing
from gate.cli.client import Client, Flag, log_to_stderr
from gate.cli.collector import tune_collector
from gate.config import Connection
from gate.console.access import Access, load_access
from gate.console.actions import Actions
from gate.console.feed import Feed
from gate.console.limit_uploads import LimitUploads
from gate.console.lookups import Lookups
from gate.console.pages import Console
from gate.console.view import Trouble
from gate.console.views import Views
from gate.errors import GateError
from gate.kafka.connect import wait_for_broker
from gate.kafka.generations import MovingError
from gate.kafka.instance import Gate
from gate.kafka.membership import OtherGenerationError
from gate.kafka.reporting import Reporter
from gate.observe.http import Board, HttpServer
from gate.observe.metrics import Metrics
from gate.policy import Policy, Settings, load_policy

FAULTS_EVERY: Final = 0.5
RESTART_PAUSE: Final = 0.5
RELOAD_QUIET_MS: Final = 200

log = structlog.get_logger("gate")


def run(
    *,
    http: str | None = None,
    http_host: Annotated[list[str] | None, Parameter(negative="")] = None,
    tokens: Annotated[Path | None, Parameter(env_var="GATE_TOKENS")] = None,
    trusted_proxy: Annotated[list[str] | None, Parameter(negative="")] = None,
    shards: int | None = None,
    state: Literal["keep", "reset"] = "keep",
    log_format: Annotated[Literal["text", "json"], Parameter(name="--log")] = "text",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Run one gate instance; several share the work.

    Decides about every request by the policy file, which may be changed while the gate runs. SIGTERM and Ctrl-C let
    the batch under way commit, then leave the group. Settings come from these options, else from GATE_* variables, else
    from the file.

    Example: `gate run --config policy.yaml --bootstrap localhost:9092 --http 8080`

    Parameters
    ----------
    http
        PORT or HOST:PORT of metrics, health, usage and console; "off" for none.
    http_host
        A name by which that address is asked, such as a Kubernetes service's; may be given several times. IP
        addresses, localhost and the host's own name need none; other names are refused (DNS rebinding).
    tokens
        A file that says who may see and do what at that address: a line each, NAME ROLE TOKEN; roles are read, operate
        and admin. Without it everybody may look, is told no names, and may do nothing.
    trusted_proxy
        A network, such as 10.0.0.0/8, whose proxies are believed: X-Forwarded-User says who somebody is, X-Gate-Role
        what he may do; may be given several times.
    shards
        On how many shards services are spread; `gate reshard` changes it.
    state
        "reset" forgets all limits and all that is parked before it starts; for a state that can't be read.
    log_format
        How to write the log on stderr.
    json
        The same as --log json: an object per line, with timestamp, level, event and what it is about.
    """
    log_to_stderr(logging.INFO, json=json or log_format == "json")
    client = client or Client()
    policy, settings = client.policy, client.settings
    tune_collector()
    address: str | int | None = int(http) if http is not None and http.isdecimal() else http
    settings = settings.override(http=address, http_host=http_host, shards=shards)
    access = load_access(tokens, trusted_proxy or ())
    asyncio.run(_run(Path(policy.name), policy, settings, access, reset_state=state == "reset"))


async def _run(config: Path, policy: Policy, settings: Settings, access: Access, *, reset_state: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    registry, board = CollectorRegistry(), Board()
    reporter = Reporter(
        Metrics(registry, version("kafka-admission-gate")), board, settings.prefix, settings.max_clock_skew
    )
    tracing.start("gate")
    reporter.spans = tracing.request_spans()
    async with AsyncExitStack() as stack:
        if settings.http_address is not None:
            console = _console(settings, board, access)
            server = HttpServer(
                *settings.http_address,
                board,
                registry,
                names=settings.http_host,
                routes=console.routes,
                guard=console.guard,
                commander=console.commander,
                shown=console.shown_request,
                usage_of=console.shown_usage,
            )
            log.info("serving http", url=await server.start())
            stack.push_async_callback(server.stop)
            stack.push_async_callback(console.close)
        while not stopped.is_set():
            policy = await _live(config, policy, settings, reporter, board, stopped, reset_state=reset_state)
            reset_state = False
    log.info("stopped")


def _console(settings: Settings, board: Board, access: Access) -> Console:
    """Return the console of the whole group, as this gate serves it."""

    def troubles() -> list[Trouble]:
        board.look()
        faults = [board.broken, *(f"{subject} {fault}" for subject, fault in board.faults.items())]
        return [Trouble(f"this gate is not ready: {fault}", "see its log") for fault in faults if fault]

    connection = Connection.of(settings)
    actions = Actions(connection) if access.is_on else None
    feed = Feed(connection)
    views = Views(feed, Lookups(connection, lambda: board.policy), troubles=troubles)
    uploads = LimitUploads(connection) if access.is_on else None
    return Console(feed, views, access=access, actions=actions, uploads=uploads)


async def _live(
    config: Path,
    policy: Policy,
    settings: Settings,
    reporter: Reporter,
    board: Board,
    stopped: asyncio.Event,
    *,
    reset_state: bool,
) -> Policy:
    """Run a gate until it is to stop, or to start anew with another generation of the state; return its last policy."""
    gate = await _start(policy, settings, reporter, stopped, reset_state=reset_state)
    if gate is None:
        return policy
    log.info("gate runs", bootstrap=settings.bootstrap, group=settings.group_id, policy=gate.policy.version)
    tasks = [
        asyncio.create_task(_watch(config, gate), name="policy"),
        asyncio.create_task(_report(gate, board), name="faults"),
    ]
    ends = [asyncio.create_task(event.wait()) for event in (stopped, gate.superseded)]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping: batches under way are committed first")
    finally:
        for task in (*tasks, *ends):
            task.cancel()
        await asyncio.gather(*tasks, *ends, return_exceptions=True)
        await gate.stop()
    return gate.policy


async def _start(
    policy: Policy, settings: Settings, reporter: Reporter, stopped: asyncio.Event, *, reset_state: bool
) -> Gate | None:
    """Start a gate; begin again if the broker goes away in the middle. None: it was stopped before it ran.

    While the state is being moved it waits, and while there are members that run with another generation of it.
    """
    waiting = ""
    while not stopped.is_set():
        await wait_for_broker(settings.bootstrap, settings.connect_timeout, log.warning)
        gate = Gate(policy, settings, reporter, reset_state=reset_state)
        try:
            await gate.start()
        except BaseException as error:
            await gate.stop()
            if isinstance(error, MovingError | OtherGenerationError):
                if str(error) != waiting:
                    log.warning("waiting", why=str(error), hint=error.hint)
                waiting = str(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RESTART_PAUSE):
                        await stopped.wait()
                continue
            if not isinstance(error, KafkaError | OSError | TimeoutError) or not getattr(error, "retriable", True):
                raise
            log.warning("the broker went away during the start; trying again", why=str(error) or type(error).__name__)
            await asyncio.sleep(RESTART_PAUSE)
        else:
            return gate
    return None


async def _report(gate: Gate, board: Board) -> None:
    def look() -> None:
        board.faults, board.hindered = gate.health()

    board.look = look
    board.find, board.door = gate.find, gate.door
    while True:
        look()
        gate.observer.remind()
        board.policy = gate.policy
        await asyncio.sleep(FAULTS_EVERY)


async def _watch(config: Path, gate: Gate) -> None:
    """Take over each good version of the policy file; refuse a broken one whole, and say so."""
    refused = ""
    # the folder, not the file: editors and ConfigMaps replace files; so what else changes there wakes it too
    async for _ in watchfiles.awatch(config.parent.resolve(), debounce=RELOAD_QUIET_MS):
        try:
            policy = gate.placed(await asyncio.to_thread(load_policy, config))
            before = gate.policy.version
            if policy.version != before:
                gate.check_policy(policy)
                gate.set_policy(policy)
                log.info("policy changed", before=before, now=policy.version)
            gate.observer.policy_accepted(str(config), policy.version)
            refused = ""
        except GateError as error:
            if str(error) != refused:
                refused = str(error)
                gate.refuse_policy(str(config), refused)
