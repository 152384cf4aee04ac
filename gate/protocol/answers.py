"""Answers and audit: what became of operators' commands, step by step, and who did what, when and why.

On `gate.answers` the key is the command's id, and there are several records of a command that takes its time. On
`gate.audit` the key is the service; each command that was carried out, or refused, has one record there.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec

from gate.units import Ms

MOST_BYTES: Final = 256 << 10  # of a record: the longest filter, who and why of a command, escaped
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_At = Annotated[Ms, msgspec.Meta(ge=0, le=253_402_300_799_999)]  # up to the end of the year 9999

T = TypeVar("T", bound=msgspec.Struct)


class AnswerState(StrEnum):
    """How far a command is."""

    TAKEN = "taken"  # by the owner: what comes from now on is not meant
    WORKING = "working"  # `done` of `of`
    DONE = "done"
    FAILED = "failed"  # refused: nothing was done
    ABORTED = "aborted"  # by another command: what was done stays done


FINAL = frozenset({AnswerState.DONE, AnswerState.FAILED, AnswerState.ABORTED})


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer to a command, JSON on the wire."""

    command: str  # its id
    service: str
    state: AnswerState
    at: _At = 0
    done: _Count = 0  # requests
    of: _Count | None = None  # requests that were meant; None: not counted yet
    gone: _Count = 0  # were meant, and had been deleted from the topic by somebody else
    skipped: _Count = 0  # were meant, and can't be put back: too large, or cut short when they were rejected
    why: str = ""  # it failed, or was aborted
    hint: str = ""  # what to do about that
    version: _Count | None = None  # of the service's limits, of a command about these
    cleared: _Count | None = None  # tenants that had limits, and are not in the import that is done
    what: str = ""  # cancel, move, ...; empty: a gate of an earlier version answers
    who: str = ""  # as the sender says of himself
    because: str = ""  # the sender's reason
    dry_run: bool = False  # it only counts


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the audit, JSON on the wire."""

    at: _At
    what: str  # cancel, pause, resume, ...
    service: str
    command: str  # its id
    who: str = ""
    claimed: bool = True  # `who` is what the sender said of himself; the broker's ACLs say who may send
    reason: str = ""
    said: dict[str, Any] = msgspec.field(default_factory=dict)  # the command, with its filter
    before: dict[str, Any] = msgspec.field(default_factory=dict)
    after: dict[str, Any] = msgspec.field(default_factory=dict)
    result: str = ""  # as in the last answer
    why: str = ""


def called(answer: Answer) -> str:
    """Return what the command of an answer is called; of one about limits often only their version is told."""
    return answer.what or ("set-limit" if answer.version is not None else "")


def encode(record: Answer | Audit) -> bytes:
    """Return the value of a record."""
    return msgspec.json.encode(record)


def decode_answer(value: bytes | None) -> Answer:
    """Read an answer. Raises ValueError that says what is wrong."""
    return _decode(value, Answer)


def decode_audit(value: bytes | None) -> Audit:
    """Read a record of the audit. Raises ValueError that says what is wrong."""
    return _decode(value, Audit)


def _decode(value: bytes | None, kind: type[T]) -> T:
    if len(value or b"") > MOST_BYTES:
        raise ValueError(f"it has {len(value or b'')} bytes; no gate writes more than {MOST_BYTES}")
    try:
        return msgspec.json.decode(value or b"", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
