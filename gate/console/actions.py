"""What somebody may do from the console: commands of `GateControl`, each by a form that makes it happen once.

The command's id is made with the form. Whoever clicks twice, reloads, or tries again after the console was killed sends
the same id again, and gates carry out a command once.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gate.client import Answer, CommandRefusedError, Filter, GateControl, GateError
from gate.config import Connection
from gate.console.access import Role, Viewer
from gate.errors import reason_of
from gate.log import get_logger
from gate.units import SECOND, parse_duration

ROLES: Final = {"pause": Role.OPERATE, "resume": Role.OPERATE, "count": Role.ADMIN, "cancel": Role.ADMIN}
# all others, which lose nothing, take OPERATE
COMMANDS: Final = {"cancel": Role.ADMIN, "set-limit": Role.ADMIN, "clear-limit": Role.ADMIN}
LONGEST_PAUSE: Final = 30 * 86_400  # seconds: one without an end is what is forgotten
_ANSWERED_WITHIN: Final = 5.0  # seconds for which a browser is kept waiting
_MAX_REASON: Final = 500

log = get_logger("gate.console")


class RefusedError(Exception):
    """An action that was not taken. `str(error)` says why, and what to do."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action."""

    command: str  # its id
    text: str
    fits: int | None = None  # requests, where they were counted


def new_id() -> str:
    """Return an id for a form's command."""
    return secrets.token_hex(16)


class Actions:
    """Gives commands in the name of those who look."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._under_way: dict[str, asyncio.Task[Answer]] = {}  # by the command's id

    async def take(self, what: str, service: str, viewer: Viewer, form: Mapping[str, str]) -> Done:
        """Do what a form says. Raises RefusedError."""
        role = ROLES.get(what)
        if role is None:
            raise RefusedError(f"there is no action {what!r}", 404)
        if not viewer.may(role):
            has = f"{viewer.who} has {viewer.role.name.lower()}" if viewer.role else "nobody has told who you are"
            raise RefusedError(f"{what} takes the role {role.name.lower()}; {has}", 403)
        command = form.get("id", "") or new_id()
        reason = form.get("reason", "").strip()
        if not reason and what != "count":
            raise RefusedError("say why: the reason stands beside what you do, for whoever comes next")
        if len(reason) > _MAX_REASON:
            raise RefusedError(f"the reason has {len(reason)} characters; at most {_MAX_REASON} are kept")
        try:
            return await self._take(what, service, viewer, form, command, reason)
        except CommandRefusedError as error:
            raise RefusedError(f"the gates refused it: {error}; {error.hint}") from error
        except GateError as error:
            raise RefusedError(f"{error}; {error.hint or 'see the gate'}", 409) from error

    async def close(self) -> None:
        """End what is followed; what gates have taken goes on."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _take(
        self, what: str, service: str, viewer: Viewer, form: Mapping[str, str], command: str, reason: str
    ) -> Done:
        match what:
            case "pause":
                seconds = _seconds(form.get("for", ""))
                async with GateControl(self._connection, who=viewer.who) as control:
                    await control.pause(service, for_=seconds, reason=reason, command_id=command)
                return Done(command, f"{service} is paused for {form['for']}")
            case "resume":
                async with GateControl(self._connection, who=viewer.who) as control:
                    await control.resume(service, reason=reason, command_id=command)
                return Done(command, f"{service} is resumed")
            case "count":
                chosen = _filter(form)
                counted = await asyncio.wait_for(
                    self._answer(viewer, lambda control: control.cancel(service, chosen, dry_run=True)), 30
                )
                return Done(command, f"{counted.of} requests of {service} fit", counted.of)
        if form.get("confirm", "") != service:
            raise RefusedError(f"what is cancelled is lost: type the service's name, {service}, to confirm")
        chosen = _filter(form)
        task = self._under_way.get(command)
        if task is None:
            task = self._under_way[command] = asyncio.create_task(
                self._answer(
                    viewer, lambda control: control.cancel(service, chosen, reason=reason, command_id=command)
                ),
                name="console-cancel",
            )
            task.add_done_callback(lambda done: self._ended(command, done))
        done, _ = await asyncio.wait([task], timeout=_ANSWERED_WITHIN)
        if not done:
            return Done(command, f"cancelling requests of {service} is under way; the audit says when it is done")
        answer = task.result()
        return Done(command, f"{answer.done} of {answer.of} requests of {service} are cancelled", answer.done)

    def _ended(self, command: str, task: asyncio.Task[Answer]) -> None:
        self._under_way.pop(command, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a command of the console was not carried out", command=command, why=reason_of(error))

    async def _answer(self, viewer: Viewer, give: Callable[[GateControl], Awaitable[Answer]]) -> Answer:
        async with GateControl(self._connection, who=viewer.who) as control:
            return await give(control)


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text) / SECOND
    except ValueError as error:
        raise RefusedError(f"for how long? {error}") from error
    if not 0 < seconds <= LONGEST_PAUSE:
        raise RefusedError("a pause lasts for more than 0 seconds and at most 30 days: one without an end is forgotten")
    return seconds


def _filter(form: Mapping[str, str]) -> Filter:
    older = form.get("older_than", "").strip()
    lane, tenant = form.get("lane", "").strip(), form.get("tenant", "").strip()
    everything = form.get("all", "") == "all"
    if not (older or lane or tenant or everything):
        raise RefusedError("nothing says which requests are meant: give a lane, a tenant, an age, or all")
    return Filter(lane=lane, tenant=tenant or None, older_than=_seconds(older) if older else 0, everything=everything)
