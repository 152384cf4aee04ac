"""`gate demo`: the main job on a real broker, with live numbers, and a summary that is checked."""

import asyncio
import json as jsonlib
import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Annotated, Final

import structlog
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from gate.cli.demo.calls import SERVICE, Calls, broken_together
from gate.cli.demo.chart import draw
from gate.cli.demo.reader import Reader
from gate.cli.demo.scenario import PARTS
from gate.cli.demo.screen import CHECKED, Screen, remarks, summary, sums
from gate.cli.demo.stage import GateProcess, Program, consumers, request_topics, watch
from gate.cli.demo.tally import Tally
from gate.cli.demo.traffic import offer
from gate.cli.demo.verify import broken_promises
from gate.cli.options import Flag, Seconds
from gate.cli.progress import progress
from gate.errors import GateError
from gate.kafka.access import VARIABLES
from gate.kafka.connect import wait_for_broker
from gate.kafka.local import LocalBroker
from gate.limits import Spec
from gate.policy import Settings, load_policy
from gate.policy.settings import ENVIRONMENT
from gate.protocol.topics import Names

POLICY: Final = Path(__file__).with_name("policy.yaml")
PICTURE: Final = Path("build/demo.png")
LOG: Final = Path("build/demo.log")
LOG_OF_WORKERS: Final = Path("build/demo-workers.log")
LOG_OF_ALERTS: Final = Path("build/demo-alerts.log")
LOG_OF_CALLS: Final = Path("build/demo-calls.log")
_CONNECT_SECONDS: Final = 15.0
_CALLERS_SECONDS: Final = 30.0  # until each has had a call allowed
_SETTLE_SECONDS: Final = 25.0  # the longest delay, then five quiet seconds until a breach counts as over, and some more
_REFRESH_SECONDS: Final = 0.25

Length = Annotated[Seconds, Parameter(validator=Number(gte=3, lte=3600))]


def demo(*, seconds: Length = 12.0, bootstrap: str | None = None, json: Flag = False) -> None:
    """Play the main job on a real broker, show it live, and check the sums.

    Three services get requests: one stays below its limit, one is hit by bursts, one is flooded. A gate does its work,
    and so do job workers and the alert consumer of the folder consumers/. Three processes call the limiter before they
    act, and share the limit of one service with each other and with its topic. At the end everything is counted from
    the topics; the exit code is 0 only if each request ended exactly once, no limit was exceeded, by calls and topic
    together neither, and nobody was admitted before the promised time (where no calls share the limit). Writes
    `build/demo.png`, and logs to `build/demo.log`, `build/demo-workers.log`, `build/demo-alerts.log` and
    `build/demo-calls.log`.

    Example: `gate demo --seconds 20`

    Parameters
    ----------
    seconds
        How long requests come; what waits by then is waited for.
    bootstrap
        A broker that is there already (GATE_BOOTSTRAP also names one); the topics made on it are deleted at the end.
        Without one a local broker is started.
    json
        Print the sums at the end as one JSON object, services: by name, submitted, admitted, delayed_then_admitted,
        rejected, waiting, breaches, resolved and worked; and calls: by service, asked, allowed and refused. What is
        shown live goes to stderr.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both mean: stop, and leave nothing behind
    bootstrap = bootstrap or os.environ.get(f"{ENVIRONMENT}BOOTSTRAP")
    other = [ENVIRONMENT + setting.upper() for setting in Settings.model_fields]
    for variable in (*other, *(() if bootstrap else VARIABLES)):  # meant for another gate, or another broker
        os.environ.pop(variable, None)
    with ExitStack() as stack:
        _log_to(LOG, stack)
        guest = bootstrap is not None
        if bootstrap is None:
            with progress() as say:
                bootstrap = stack.enter_context(LocalBroker.start(on_progress=say)).bootstrap
        names = Names(f"demo-{secrets.token_hex(3)}" if guest else "gate")
        try:
            asyncio.run(_play(bootstrap, names, seconds, guest=guest, json=json))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _play(bootstrap: str, names: Names, seconds: float, *, guest: bool, json: bool) -> None:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    console = Console(stderr=json)
    specs = _specs()
    tally = Tally(names, specs)
    async with AsyncExitStack() as stack:
        calls = Calls(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-"))))
        with progress() as say:
            await wait_for_broker(bootstrap, _CONNECT_SECONDS, say)
            await stack.enter_async_context(request_topics(bootstrap, names, specs, leave=not guest))
            say("starting the gate")
            gate = GateProcess(POLICY, bootstrap, names.prefix, LOG)
            stack.callback(gate.kill)
            await gate.ready()
            programs = _programs(bootstrap, names, specs)
            stack.callback(calls.kill)
            for program in programs:
                stack.callback(program.kill)
        with Screen(console, tally, specs, gate.url, calls) as screen:
            submitted = await _act(bootstrap, names, gate, programs, calls, screen, tally, seconds)
        calls.read()
        await _report(console, tally, specs, submitted, calls, json=json)


def _programs(bootstrap: str, names: Names, services: Iterable[str]) -> list[Program]:
    """Start the programs of consumers/: a job worker per service, and the alert consumer."""
    os.environ |= {f"{ENVIRONMENT}BOOTSTRAP": bootstrap, f"{ENVIRONMENT}PREFIX": names.prefix}
    folder = consumers()
    worker, alerts = ["-u", str(folder / "job_worker.py")], ["-u", str(folder / "alert_consumer.py")]
    LOG_OF_ALERTS.write_text("")
    LOG_OF_WORKERS.write_text("")
    return [
        *(Program(f"the worker of {service}", [*worker, service], LOG_OF_WORKERS) for service in services),
        Program("the alert consumer", alerts, LOG_OF_ALERTS),
    ]


async def _act(
    bootstrap: str,
    names: Names,
    gate: GateProcess,
    programs: Sequence[Program],
    calls: Calls,
    screen: Screen,
    tally: Tally,
    seconds: float,
) -> Mapping[str, set[str]]:
    """Let everybody do their work until all is decided; return the ids that were submitted, per service."""
    reader = Reader(bootstrap, tally)
    async with asyncio.TaskGroup() as crew:
        reading = crew.create_task(reader.run())
        refreshing = crew.create_task(_refresh(screen))
        offers = {
            part.service: crew.create_task(offer(bootstrap, names.requests(part.service), part, seconds))
            for part in PARTS
        }
        callers = calls.start(LOG_OF_CALLS)  # to come to a limit that the topic uses already
        watching = [crew.create_task(watch(some)) for some in ([gate, *programs], callers)]
        submitted = {service: await task for service, task in offers.items()}
        with suppress(TimeoutError):  # the checks will say so if none was allowed
            async with asyncio.timeout(_CALLERS_SECONDS):
                await reader.until(lambda: calls.all_allowed)
        watching[1].cancel()
        await asyncio.gather(*(caller.stop() for caller in callers))
        with suppress(TimeoutError):  # the checks will say what is missing
            async with asyncio.timeout(_SETTLE_SECONDS):
                await reader.until(lambda: _all_is_done(tally, submitted))
        watching[0].cancel()
        await asyncio.gather(*(program.stop() for program in programs))
        await gate.stop()
        await reader.catch_up()
        reading.cancel()
        refreshing.cancel()
    return submitted


def _all_is_done(tally: Tally, submitted: Mapping[str, set[str]]) -> bool:
    return all(
        ledger.settled
        and submitted[name] <= ledger.requests.keys()
        and {outcome.id for outcome in ledger.admitted} <= ledger.worked
        for name, ledger in tally.ledgers.items()
    )


async def _refresh(screen: Screen) -> None:
    read = 0
    while True:
        *said, _ = LOG_OF_ALERTS.read_text(errors="replace").split("\n")
        for line in said[read:]:
            screen.tell(line)
        read = len(said)
        screen.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)


async def _report(
    console: Console,
    tally: Tally,
    specs: Mapping[str, Spec],
    submitted: Mapping[str, set[str]],
    calls: Calls,
    *,
    json: bool,
) -> None:
    worked = {name: ledger.worked for name, ledger in tally.ledgers.items()}
    if json:
        told = {SERVICE: {"asked": calls.asked, "allowed": len(calls.uses), "refused": calls.refused}}
        print(jsonlib.dumps({"services": sums(tally, worked), "calls": told}))
    else:
        console.print(summary(tally, worked, calls))
    for line in remarks(tally):
        console.print(line, soft_wrap=True, highlight=False)
    try:
        await asyncio.to_thread(draw, tally.ledgers, specs, calls, PICTURE)
        console.print(f"picture: {PICTURE.resolve()}", soft_wrap=True, highlight=False)
    except ImportError as error:
        console.print(f"no picture: {error}; `pip install kafka-admission-gate[plot]` brings it", soft_wrap=True)
    broken = [
        line
        for name, ledger in tally.ledgers.items()
        for line in broken_promises(ledger, specs[name], submitted[name], worked[name], shared=name == SERVICE)
    ]
    broken += broken_together(calls, tally.ledgers[SERVICE], specs[SERVICE])
    if broken:
        raise GateError(f"the demonstration failed {len(broken)} checks", hint="\n".join(broken))
    console.print(CHECKED, style="green", soft_wrap=True, highlight=False)


def _specs() -> dict[str, Spec]:
    policy = load_policy(POLICY)
    return {part.service: policy.effective(part.service).spec for part in PARTS}


def _log_to(path: Path, stack: ExitStack) -> None:
    """Send what the parts in this process log where the gate's own log goes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        file = stack.enter_context(path.open("a"))
    except OSError as error:
        raise GateError(f"cannot write {path}: {error.strerror}", hint="run it in a folder that is yours") from None
    structlog.configure(
        logger_factory=structlog.WriteLoggerFactory(file),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says nothing that the checks would not find
