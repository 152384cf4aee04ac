"""What the commands on what waits share: filters, progress, and the answer."""

import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from cyclopts import CycloptsError, Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Duration, Flag, read_seconds, say
from gate.cli.output import interruptible, tell
from gate.cli.pause import Tenant, command
from gate.cli.times import is_moment, moment
from gate.client import Answer, AnswerState, Filter, GateControl

ANSWERED: Final = {AnswerState.DONE: "", AnswerState.ABORTED: ", then it was aborted"}
Moment = Annotated[str | None, Parameter(validator=is_moment)]
Count = Annotated[int, Parameter(validator=Number(gte=0))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which requests are meant: those that fit all that is given."""

    id: str = ""
    """The request of this id (topic-partition@offset), as its stamp says."""

    producer_id: str = ""
    """Those of which the header gate-id is this."""

    key: str | None = None
    """Those of which the record's key is this."""

    tenant: Tenant = None
    """Those of this tenant."""

    lane: str = ""
    """Those that wait in this lane."""

    older_than: Annotated[Duration | None, Parameter(converter=read_seconds)] = None
    """Those that have waited for longer: 90s, 15m, 1h30m."""

    deadline_before: Moment = None
    """Those whose deadline is before a time: 18:30, or 2026-01-31T18:30:00Z."""

    all_: Annotated[Flag, Parameter(name="--all")] = False
    """All that wait."""

    keep_newest: Count = 0
    """Leave the newest so many of those that fit alone."""

    @property
    def filter(self) -> Filter:
        """What was given. Raises CycloptsError where nothing is."""
        deadline = None if self.deadline_before is None else moment(self.deadline_before, datetime.now(UTC))
        given = Filter(
            id=self.id, producer_id=self.producer_id, key=self.key, tenant=self.tenant, lane=self.lane,
            older_than=self.older_than or 0, deadline_before=deadline, everything=self.all_,
            keep_newest=self.keep_newest,
        )  # fmt: skip
        if given == Filter(keep_newest=self.keep_newest):
            raise CycloptsError(msg="nothing says which requests are meant: give a filter, or --all")
        return given


def end(client: Client | None, service: str, abort: str, reason: str, *, as_json: bool, done: str = "") -> None:
    """End the command of this id, and print what that means, unless `done` says so."""
    answer = command(client or Client(), lambda control: control.abort(service, abort, reason=reason))
    text = done or f"command {abort} is aborted; what it has done stays done"
    tell(text, json=as_json, service=service, aborted=abort, command=answer.command)


Give = Callable[[GateControl, Callable[[Answer], None], str], Awaitable[Answer]]


def follow(
    client: Client | None, give: Give, name: str, service: str, what: str, *, dry_run: bool, as_json: bool
) -> None:
    """Give the command `name`, show how far it is, and print what became of it; `give` is told its id.

    `what` stands before `N of M requests`.
    """
    last: list[Answer] = []
    known = uuid.uuid4().hex

    def told(answer: Answer) -> None:
        if answer.state is AnswerState.TAKEN and not last:
            say(f"command {answer.command} is taken; what comes from now on is not meant")
        elif answer.state is AnswerState.WORKING and answer.of is not None and sys.stderr.isatty():
            say(f"{answer.done} of {answer.of}")
        last.append(answer)

    with interruptible(lambda: _interrupted(name, service, what, known, last, dry_run=dry_run)):
        answer = command(client or Client(), lambda control: give(control, told, known))
    if as_json:
        print(msgspec.json.encode(answer).decode(), flush=True)
        return
    if dry_run:
        print(f"{answer.of} requests of {answer.service} fit; nothing was changed")
        return
    left = (answer.of or 0) - answer.done - answer.gone - answer.skipped
    rest = f"; {left} had left before it came to them" if left > 0 and answer.state is AnswerState.DONE else ""
    gone = f"; {answer.gone} were gone from the topic, and are forgotten" if answer.gone else ""
    skipped = f"; {answer.skipped} can't be, as they are too large, or cut short" if answer.skipped else ""
    text = f"{what} {answer.done} of {answer.of} requests of {answer.service}{ANSWERED[answer.state]}"
    print(f"{text}{rest}{gone}{skipped}")


def _interrupted(
    name: str, service: str, what: str, known: str, answers: Sequence[Answer], *, dry_run: bool
) -> tuple[str, str]:
    """Say what stands after Ctrl-C, and how to go on."""
    if dry_run:
        return f"interrupted; nothing of {service} was changed", "give the command again"
    if not answers:
        stands = "if it was sent already, gates carry it out by themselves once they hear of it"
    elif (newest := answers[-1]).of is None:
        stands = "a gate has taken it and goes on with it by itself"
    else:
        stands = f"{newest.done} of {newest.of} requests are {what}, and gates go on with the others by themselves"
    again = "put it all back once more" if name == "redrive" else "be about what waits then"
    ends = f"`gate audit {service}` tells when it is done, `gate {name} {service} --abort {known}` ends it"
    hint = f"{ends}; do not give it again before: that would {again}"
    return f"interrupted; command {known} of {service}: {stands}", hint
