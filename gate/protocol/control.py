"""Commands on the control topic: what operators ask of the gates.

Key: the command's id, which tells it from all others and makes it happen once. Value: one of the structures below, as
`{"command": "pause-until", "service": "payments", "until": <unix ms>, "tenant": "acme"}`. The header `gate-by` says
that an operator commands, `gate-who` who that claims to be, and `gate-reason` is what he says of it, for people.
Commands of earlier versions name their service by the key and tell their id in the header `gate-command-id`. Workers
of still earlier ones wrote here too, without any header: their pauses are taken, for an hour at the most.
With the key `gate/format`, `{"command": "write-format", "format": 2}` has owners write their state in a newer format.
"""

from typing import Annotated, Final

import msgspec

from gate.protocol.feedback import LONGEST_BACKOFF
from gate.protocol.policies import LiveLimit
from gate.units import MS

FOREVER_MS: Final = 2**53 - 1
BY: Final = "gate-by"
OPERATOR: Final = b"operator"
WHO: Final = "gate-who"
FORMAT_KEY: Final = "gate/format"  # no service has such a name
GENERATION_KEY: Final = "gate/generation"
COMMAND_ID: Final = "gate-command-id"
REASON: Final = "gate-reason"
PART: Final = "gate-part"  # a record with this header is no command, but part of one: its key is that one's id
RETENTION_MS: Final = 7 * 86_400_000  # of the control topic
MAX_ID: Final = 64  # characters of a command's id
MAX_PARTS: Final = 20_000
MAX_TEXT: Final = 1024  # of a reason, or of who commands: the rest is cut

_Service = Annotated[str, msgspec.Meta(max_length=249)]
_Tenant = Annotated[str, msgspec.Meta(max_length=256)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=FOREVER_MS)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Said = Annotated[
    LiveLimit,  # without its end: that is counted by `for_ms`
    msgspec.Meta(extra_json_schema={"minProperties": 1, "properties": {"until_ms": False}}),
]


class PauseUntil(
    msgspec.Struct, frozen=True, tag="pause-until", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Admit nothing before `until`, unix ms."""

    until: _Time
    tenant: _Tenant = ""
    service: _Service = ""  # empty: the record's key names it

    @property
    def until_ns(self) -> int:
        """The time in ns."""
        return self.until * MS


class Resume(
    msgspec.Struct, frozen=True, tag="resume", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """End a pause now."""

    tenant: _Tenant = ""
    service: _Service = ""


class WriteFormat(msgspec.Struct, frozen=True, tag="write-format", tag_field="command", forbid_unknown_fields=True):
    """Write state in this format from now on."""

    format: Annotated[int, msgspec.Meta(ge=1, le=255)]


class NewGeneration(
    msgspec.Struct, frozen=True, tag="new-generation", tag_field="command", forbid_unknown_fields=True,
    omit_defaults=True,
):  # fmt: skip
    """Look which generation of the state is in force: another one is, or will be soon.

    Told again every few seconds while it is being made, with how many of its records are copied; `of` 0: not known yet.
    """

    generation: Annotated[int, msgspec.Meta(ge=1)]
    copied: Annotated[int, msgspec.Meta(ge=0)] = 0
    of: Annotated[int, msgspec.Meta(ge=0)] = 0


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which requests a command is about: those that fit all that is said here. With nothing said it must be `all`."""

    id: _Text = ""  # by which the gate calls the request: topic-partition@offset
    producer_id: _Text = ""  # the producer's own: the header gate-id
    key: _Text | None = None  # of the record, UTF-8
    tenant: _Tenant | None = None
    lane: _Text = ""
    older_than_ms: _Time = 0  # it has waited for longer, when the command is taken
    deadline_before_ms: _Time = 0  # unix ms; a request without a deadline does not fit
    all: bool = False
    keep_newest: _Time = 0  # of those that fit, the last so many are left alone

    @property
    def narrows(self) -> bool:
        """Tell whether anything is said."""
        return self != Selection(all=self.all, keep_newest=self.keep_newest)

    @property
    def reads(self) -> bool:
        """Tell whether requests must be read to know which fit."""
        return bool(self.id or self.producer_id or self.key is not None or self.older_than_ms)


class Cancel(
    msgspec.Struct, frozen=True, tag="cancel", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Reject what waits."""

    service: _Service
    selection: Selection
    dry_run: bool = False  # only count


class Move(
    msgspec.Struct, frozen=True, tag="move", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Put what waits into another lane, each where it would be had it come there."""

    service: _Service
    selection: Selection
    lane: _Text
    dry_run: bool = False


class Expedite(
    msgspec.Struct, frozen=True, tag="expedite", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Let what waits go next, ahead of all else, as far as the limits allow."""

    service: _Service
    selection: Selection
    dry_run: bool = False


class Redrive(
    msgspec.Struct, frozen=True, tag="redrive", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Put records of a topic back into the service as new requests, which name the first one."""

    service: _Service
    selection: Selection
    source: _Service = ""  # topic; empty: the service's rejected one
    since_ms: _Time = 0  # unix ms; dated then or later
    until_ms: _Time = 0  # unix ms; dated before; 0: no bound
    dry_run: bool = False


class Abort(
    msgspec.Struct, frozen=True, tag="abort", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Carry out no more of a command. What is done stays done."""

    service: _Service
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID)]


class SetLimit(
    msgspec.Struct, frozen=True, tag="set-limit", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Set what a service, or one of its tenants, may use, over the policy file and in place of what was set before.

    `service` may be group:NAME: then it is what the services of a group may use together.
    """

    service: _Service
    limit: _Said
    tenant: _Tenant = ""
    for_ms: Annotated[int, msgspec.Meta(ge=1, le=FOREVER_MS)] | None = None  # from when the record was written
    if_version: int | None = None  # refused unless the service's limits are at this version

    def __post_init__(self) -> None:
        """Raise ValueError for what nobody would heed."""
        if self.limit.until_ms is not None:
            raise ValueError("`limit` has `until_ms`, which is the gates' own: say `for_ms`, beside `limit`")
        if not self.limit.says:
            raise ValueError("`limit` sets nothing: say at least one, such as `requests_per_second`")


class ClearLimit(
    msgspec.Struct, frozen=True, tag="clear-limit", tag_field="command", forbid_unknown_fields=True, omit_defaults=True
):
    """Let hold again what the policy file says."""

    service: _Service
    tenant: _Tenant = ""
    all: bool = False  # what is set for its tenants as well
    if_version: int | None = None


class ImportLimits(
    msgspec.Struct,
    frozen=True,
    tag="import-limits",
    tag_field="command",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Set the limits of all tenants of a service: those in the parts, and no others."""

    service: _Service
    parts: Annotated[list[_Time], msgspec.Meta(max_length=MAX_PARTS)]  # their offsets on the control topic
    count: _Time  # tenants
    if_version: int | None = None


LimitCommand = SetLimit | ClearLimit | ImportLimits
BacklogCommand = Cancel | Move | Expedite | Redrive  # on what waits: carried out in many batches
Command = PauseUntil | Resume | WriteFormat | NewGeneration | BacklogCommand | Abort | LimitCommand


_ON_WAITING: Final = frozenset({"cancel", "move", "expedite", "redrive", "abort"})
_ON_LIMITS: Final = frozenset({"set-limit", "clear-limit", "import-limits"})


def sharing_ids(name: str) -> frozenset[str]:
    """Return which commands gates take for one of this name that is sent again, if they have had its id."""
    if name == "abort":
        return _ON_WAITING | _ON_LIMITS  # an import, too, is aborted
    return next((names for names in (_ON_WAITING, _ON_LIMITS) if name in names), frozenset({name}))


def name_of(command: Command) -> str:
    """Return what a command is called on the wire."""
    return str(command.__struct_config__.tag)


def encode(command: Command) -> bytes:
    """Return the value of a control record."""
    return msgspec.json.encode(command)


def decode(value: bytes | None) -> Command:
    """Read the value of a control record. Raises ValueError that says what is wrong."""
    if value is None:
        raise ValueError("the record has no value")
    try:
        command: Command = msgspec.json.decode(value, type=Command)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return command


def within(until: int, now: int) -> int:
    """Return until when somebody may pause who does not say to be an operator; ns."""
    return min(until, now + int(LONGEST_BACKOFF * 1000) * MS)
