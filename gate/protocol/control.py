"""Commands on the control topic: an operator pauses a service, or one of its tenants, and resumes it.

Key: the service. Value: `{"command": "pause-until", "until": <unix ms>, "tenant": "acme"}` or `{"command": "resume"}`;
`tenant` is optional. With the key `gate/format`, `{"command": "write-format", "format": 2}` has owners write their
state in a newer format. The header `gate-by` says who commands, `gate-command-id` tells commands apart, and
`gate-reason` is what the operator says of it, for people. Workers of earlier versions wrote here too, without them:
their pauses are taken, for an hour at the most.
"""

from typing import Annotated, Final

import msgspec

from gate.protocol.feedback import LONGEST_BACKOFF
from gate.units import MS

FOREVER_MS: Final = 2**53 - 1
BY: Final = "gate-by"
OPERATOR: Final = b"operator"
FORMAT_KEY: Final = "gate/format"  # no service has such a name
GENERATION_KEY: Final = "gate/generation"
COMMAND_ID: Final = "gate-command-id"
REASON: Final = "gate-reason"


class PauseUntil(msgspec.Struct, frozen=True, tag="pause-until", tag_field="command", forbid_unknown_fields=True):
    """Admit nothing before `until`, unix ms."""

    until: Annotated[int, msgspec.Meta(ge=0, le=FOREVER_MS)]
    tenant: Annotated[str, msgspec.Meta(max_length=256)] = ""

    @property
    def until_ns(self) -> int:
        """The time in ns."""
        return self.until * MS


class Resume(msgspec.Struct, frozen=True, tag="resume", tag_field="command", forbid_unknown_fields=True):
    """End a pause now."""

    tenant: Annotated[str, msgspec.Meta(max_length=256)] = ""


class WriteFormat(msgspec.Struct, frozen=True, tag="write-format", tag_field="command", forbid_unknown_fields=True):
    """Write state in this format from now on."""

    format: Annotated[int, msgspec.Meta(ge=1, le=255)]


class NewGeneration(msgspec.Struct, frozen=True, tag="new-generation", tag_field="command", forbid_unknown_fields=True):
    """Look which generation of the state is in force: another one is, or will be soon."""

    generation: Annotated[int, msgspec.Meta(ge=1)]


Command = PauseUntil | Resume | WriteFormat | NewGeneration


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
