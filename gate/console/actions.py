"""What somebody may do from the console: commands of `GateControl`, each by a form that makes it happen once.

The command's id is made with the form. Whoever clicks twice, reloads, or tries again after the console was killed sends
the same id again, and gates carry out a command once.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gate.client import Answer, AnswerState, CommandRefusedError, Filter, GateControl, GateError
from gate.config import Connection
from gate.console.access import Role, Viewer
from gate.console.forms import RefusedError, filter_of, limit_of, seconds_of
from gate.errors import reason_of
from gate.log import get_logger

ROLES: Final = {
    "pause": Role.OPERATE, "resume": Role.OPERATE, "abort": Role.OPERATE,
    "move": Role.OPERATE, "expedite": Role.OPERATE, "redrive": Role.OPERATE,
    "limit": Role.ADMIN, "clear-limit": Role.ADMIN, "cancel": Role.ADMIN,
}  # fmt: skip
ON_WAITING: Final = {  # what commands by a filter do, in words
    "cancel": "rejected", "move": "moved", "expedite": "let go first", "redrive": "put back",
}  # fmt: skip
# all others, which lose nothing, take OPERATE
COMMANDS: Final = dict.fromkeys(("cancel", "set-limit", "clear-limit", "import-limits"), Role.ADMIN)
_ANSWERED_WITHIN: Final = 5.0  # seconds for which a browser is kept waiting
_COUNTED_WITHIN: Final = 8.0  # less than a connection has
_MAX_REASON: Final = 500

log = get_logger("gate.console")


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
        self._under_way: dict[tuple[str, str, str], asyncio.Task[Answer]] = {}  # by what it does, service and id

    async def take(self, what: str, service: str, viewer: Viewer, form: Mapping[str, str]) -> Done:
        """Do what a form says. Raises RefusedError."""
        counted = form.get("what", "cancel")
        role = ROLES.get(counted if what == "count" else what)
        if role is None or (what == "count" and counted not in ON_WAITING):
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
            raise RefusedError(f"the gates refused it: {'; '.join(filter(None, (str(error), error.hint)))}") from error
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
        tenant = form.get("tenant", "").strip()
        whom = f"tenant {tenant} of {service}" if tenant else service
        match what:
            case "pause":
                seconds = seconds_of(form.get("for", ""))
                async with GateControl(self._connection, who=viewer.who) as control:
                    await control.pause(service, for_=seconds, tenant=tenant, reason=reason, command_id=command)
                return Done(command, f"{whom} is paused for {form['for']}")
            case "resume":
                async with GateControl(self._connection, who=viewer.who) as control:
                    await control.resume(service, tenant=tenant, reason=reason, command_id=command)
                return Done(command, f"{whom} is resumed")
            case "count":
                return await self._count(form.get("what", "cancel"), service, viewer, form, command)
            case "limit" | "clear-limit":
                return await self._limited(what, command, service, viewer, form, reason)
            case "abort":
                aborted = form.get("command", "").strip()
                if not aborted:
                    raise RefusedError("which command? give its id as `command`")
                text = f"command {aborted} is aborted; what it has done stays done"
                return await self._followed(what, command, service, text, viewer, lambda control: control.abort(
                    service, aborted, reason=reason, abort_id=command
                ))  # fmt: skip
        if what == "cancel" and form.get("confirm", "") != service:
            raise RefusedError(f"what is cancelled is lost: type the service's name, {service}, to confirm")
        give = _on_waiting(what, service, filter_of(form), form, reason=reason, command_id=command)
        return await self._followed(what, command, service, "", viewer, give, ON_WAITING[what])

    async def _limited(
        self, what: str, command: str, service: str, viewer: Viewer, form: Mapping[str, str], reason: str
    ) -> Done:
        """Set a limit for a while, or let hold again what the policy file says: of a service, a tenant, or a group."""
        tenant, group = form.get("tenant", "").strip(), form.get("group", "").strip()
        if tenant and group:
            raise RefusedError("a limit is of a tenant or of a group: leave one of them out")
        whom = f"tenant {tenant} of {service}" if tenant else f"group {group}" if group else service
        named: dict[str, Any] = {"group": group} if group else {"service": service, "tenant": tenant}
        named |= {"reason": reason, "command_id": command}
        if what == "clear-limit":
            text = f"limits of {whom} are as the policy file says"
            return await self._followed(
                what, command, service, text, viewer, lambda control: control.clear_limit(**named)
            )  # fmt: skip
        limit, seconds = limit_of(form), seconds_of(form.get("for", ""), "a limit")
        text = f"limits of {whom} are set for {form['for']}; then the policy file holds again"
        return await self._followed(
            what, command, service, text, viewer, lambda control: control.set_limit(**named, **limit, for_=seconds)
        )  # fmt: skip

    async def _count(self, what: str, service: str, viewer: Viewer, form: Mapping[str, str], command: str) -> Done:
        give = _on_waiting(what, service, filter_of(form), form, dry_run=True)
        try:
            counted = await asyncio.wait_for(self._answer(viewer, give), _COUNTED_WITHIN)
        except TimeoutError:
            why = f"counting takes longer than {_COUNTED_WITHIN:g} s: {service} has too many, or its owner is away"
            raise RefusedError(f"{why}; narrow the filter, or try again", 409) from None
        return Done(command, f"{counted.of} requests of {service} fit", counted.of)

    async def _followed(
        self,
        what: str,
        command: str,
        service: str,
        text: str,
        viewer: Viewer,
        give: Callable[[GateControl], Awaitable[Answer]],
        verb: str = "",
    ) -> Done:
        """Give a command once, and say what became of it, or that it goes on."""
        key = what, service, command
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._answer(viewer, give), name="console-command")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        done, _ = await asyncio.wait([task], timeout=_ANSWERED_WITHIN)
        if not done:
            return Done(command, f"the command about {service} is under way; how far it is stands below")
        answer = task.result()
        if not verb:
            return Done(command, text)
        aborted = ", then it was aborted" if answer.state is AnswerState.ABORTED else ""
        return Done(command, f"{answer.done} of {answer.of} requests of {service} are {verb}{aborted}", answer.done)

    def _ended(self, key: tuple[str, str, str], task: asyncio.Task[Answer]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            what, service, command = key
            log.warning(
                "a command of the console was not carried out", what=what, service=service, command=command,
                why=reason_of(error),
            )  # fmt: skip

    async def _answer(self, viewer: Viewer, give: Callable[[GateControl], Awaitable[Answer]]) -> Answer:
        async with GateControl(self._connection, who=viewer.who) as control:
            return await give(control)


def _on_waiting(
    what: str,
    service: str,
    chosen: Filter,
    form: Mapping[str, str],
    *,
    reason: str = "",
    dry_run: bool = False,
    command_id: str = "",
) -> Callable[[GateControl], Awaitable[Answer]]:
    """Return how a command by a filter is given. Raises RefusedError."""
    match what:
        case "cancel":
            return lambda control: control.cancel(
                service, chosen, reason=reason, dry_run=dry_run, command_id=command_id
            )  # fmt: skip
        case "move":
            lane = form.get("to", "").strip()
            if not lane:
                raise RefusedError("into which lane? give it as `to`")
            return lambda control: control.move(
                service, chosen, lane, reason=reason, dry_run=dry_run, command_id=command_id
            )
        case "expedite":
            return lambda control: control.expedite(
                service, chosen, reason=reason, dry_run=dry_run, command_id=command_id
            )
    source = form.get("from", "").strip()
    return lambda control: control.redrive(
        service, chosen, "" if source == "rejected" else source, reason=reason, dry_run=dry_run, command_id=command_id
    )
