"""What operators have commanded, as audit and answers tell it: in force, under way, and over. No I/O, no clock."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gate.observe.usage import FOREVER_MS
from gate.protocol.answers import FINAL, Answer, AnswerState, Audit, called
from gate.protocol.control import sharing_ids

AUDITS: Final = 2_000
ANSWERED: Final = 2_000  # commands
_SHOWN_FOR_MS: Final = 600_000  # after the end of a command
_STEP_BY_STEP: Final = {
    "cancel",
    "move",
    "expedite",
    "redrive",
    "import-limits",
    "clear-limit",
}  # others are done at once


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command on what waits: how far it is; `who` and `why` are empty for who may see no names."""

    command: str  # its id
    what: str
    state: str  # an AnswerState
    done: int  # requests
    of: int | None  # None: they are being counted
    at_ms: int  # unix ms, of the last answer
    who: str = ""
    why: str = ""
    problem: str = ""  # it failed, or was aborted

    @property
    def is_under_way(self) -> bool:
        """Tell whether it goes on."""
        return self.state not in FINAL


class Commanded:
    """The newest of audit and answers, by the services that they are about."""

    def __init__(self) -> None:
        self._audits: deque[Audit] = deque(maxlen=AUDITS)
        self._pauses: dict[tuple[str, str], Audit] = {}  # the newest, by service and tenant
        self._answers: dict[str, Answer] = {}  # by command, the newest last
        self._under_way: dict[str, dict[str, Answer]] = {}  # by service and command

    def take_audit(self, audit: Audit) -> None:
        """Take a record of the audit."""
        self._audits.append(audit)
        tenant = str(audit.said.get("tenant", ""))
        if audit.what in {"pause", "resume"}:
            self._pauses[audit.service, tenant] = audit

    def take_answer(self, answer: Answer) -> None:
        """Take an answer to a command."""
        before = self._answers.get(answer.command)
        if before is not None and (called(answer) or before.what) not in sharing_ids(before.what):
            return  # one of another kind has the same id
        self._answers.pop(answer.command, None)
        if before is not None and not answer.what:
            answer = msgspec.structs.replace(answer, what=before.what, who=before.who, because=before.because)
        if answer.what not in _STEP_BY_STEP or answer.dry_run:
            return
        self._answers[answer.command] = answer
        under_way = self._under_way.setdefault(answer.service, {})
        under_way.pop(answer.command, None)
        if answer.state not in FINAL:
            under_way[answer.command] = answer
        if not under_way:
            del self._under_way[answer.service]
        while len(self._answers) > ANSWERED:
            oldest = self._answers.pop(next(iter(self._answers)))
            self._under_way.get(oldest.service, {}).pop(oldest.command, None)

    def audits(self, service: str = "", tenant: str = "") -> Sequence[Audit]:
        """Return what was commanded, newest first."""
        found = [audit for audit in reversed(self._audits) if not service or audit.service == service]
        return [audit for audit in found if not tenant or tenant_of(audit.said) == tenant]

    def pause_of(self, service: str, tenant: str = "") -> Audit | None:
        """Return who paused or resumed a service, or one of its tenants, last."""
        return self._pauses.get((service, tenant))

    def paused(self, service: str, now_ms: int) -> Sequence[tuple[int, int]]:
        """Return from when until when a service as a whole was paused, oldest first, unix ms; the last may go on."""
        spans: list[tuple[int, int]] = []
        end = 0  # of the pause at hand
        for audit in self._audits:
            if audit.service != service or audit.said.get("tenant") or audit.result not in {"", AnswerState.DONE}:
                continue
            if audit.what == "pause":
                begin = audit.at if audit.at > end else spans.pop()[0]
                until = audit.said.get("until_ms")
                end = max(end, until if isinstance(until, int) else FOREVER_MS)  # of several the longest counts
                spans.append((begin, end))
            elif audit.what == "resume" and spans and audit.at < end:
                end = audit.at
                spans.append((spans.pop()[0], end))
        return [(begin, min(until, now_ms)) for begin, until in spans]

    def under_way(self, service: str, *, names: bool) -> Sequence[CommandLine]:
        """Return the commands on what waits of a service that go on."""
        return [_line(answer, names=names) for answer in self._under_way.get(service, {}).values()]

    def latest(self, service: str, now_ms: int, *, names: bool) -> Sequence[CommandLine]:
        """Return those that go on, and those that ended a short time ago, newest first."""
        found = [answer for answer in reversed(self._answers.values()) if answer.service == service]
        lines = [_line(answer, names=names) for answer in found]
        return [one for one in lines if one.is_under_way or now_ms - one.at_ms < _SHOWN_FOR_MS]


def tenant_of(said: Mapping[str, Any]) -> str:
    """Return the tenant that a command is about; empty: none in particular."""
    selection = said.get("selection")
    chosen = selection.get("tenant") if isinstance(selection, dict) else None
    return str(said.get("tenant") or chosen or "")


def _line(answer: Answer, *, names: bool) -> CommandLine:
    who, why, problem = (answer.who, answer.because, answer.why) if names else ("", "", "")
    return CommandLine(
        answer.command, answer.what, answer.state, answer.done, answer.of, answer.at, who, why, problem
    )  # fmt: skip
