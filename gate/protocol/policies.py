"""Live limits on `gate.policies`: what operators have set while the gate runs, over the policy file.

Key: the service, SERVICE/TENANT, or group:NAME; no service has a slash or a colon in its name. Value: `Published`,
JSON. Only the owner of a service, or of a group's shard, writes it, with the state by which it decides. A tenant's
record is deleted with its limits; a service's and a group's stay, as their version goes on to count.
"""

import zlib
from typing import Annotated, Final

import msgspec

MAX_COUNT: Final = 10**15
GROUP: Final = "group:"  # in front of a group's name where else a service's stands, and as the key of its shard
BUCKETS: Final = 4_096  # of a table that grows one by one
MAX_TEXT: Final = 64  # characters of a rate or of a length of time
MAX_LISTED: Final = 500  # characters of quotas, and of windows
MOST_RUNNING: Final = 1_000_000

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
_Listed = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LISTED)]
_Running = Annotated[int, msgspec.Meta(ge=1, le=MOST_RUNNING)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]


FIELDS: Final = (
    "requests_per_second", "burst_size", "window_size", "window_limit", "max_running", "quotas", "windows",
)  # fmt: skip


class LiveLimit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is set for a service or a tenant, spelt as in the policy file; None: that field is as the file says."""

    requests_per_second: _Text | None = None  # "50", "10/min"; "0": nothing is admitted
    burst_size: _Count | None = None
    window_size: _Text | None = None  # "60", "1m"
    window_limit: _Count | None = None
    until_ms: int | None = None  # unix ms: it ends by itself then
    max_running: _Running | None = None
    quotas: _Listed | None = None  # "100000/month Europe/Berlin, 5000/day"; "none"
    windows: _Listed | None = None  # "20/1s, 5000/1d", beside that of `window_size`; "none"

    @property
    def says(self) -> bool:
        """Tell whether it limits anything."""
        return bool(self.fields)

    @property
    def fields(self) -> dict[str, str | int]:
        """What it sets, by the names of the policy file."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}


class Published(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of `gate.policies`."""

    version: int  # of the service: each change of it, or of one of its tenants, counts
    limit: LiveLimit | None = None  # None: as the file says
    at_ms: int = 0
    who: str = ""  # as the sender says of himself
    reason: str = ""
    command: str = ""  # its id
    importing: bool = False  # records of its tenants are on their way, until its own one comes without this


class LimitSet(msgspec.Struct, frozen=True, gc=False):
    """A limit that is set over the policy file, as usage tells of it; `who` and `why` as the sender said."""

    fields: dict[str, str | Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]]  # those of `LiveLimit` that it sets
    until_ms: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None  # unix ms; None: until it is cleared
    who: str = ""
    why: str = ""
    group: str = ""  # it is what the services of this group may use together

    @property
    def text(self) -> str:
        """What it sets, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.fields.items())

    def holds(self, now_ms: int) -> bool:
        """Tell whether it holds then: where its owner is away nobody tells that its time is over."""
        return self.until_ms is None or self.until_ms > now_ms

    def as_limit(self) -> LiveLimit:
        """Return what was set. Raises ValueError where that is no limit."""
        return msgspec.convert({**self.fields, "until_ms": self.until_ms}, LiveLimit)  # its error is a ValueError


class PartRow(msgspec.Struct, frozen=True, array_like=True):
    """What is to hold for a tenant, as `LiveLimit` has it."""

    tenant: str
    requests_per_second: _Text | None
    burst_size: _Count | None
    window_size: _Text | None
    window_limit: _Count | None
    max_running: _Running | None = None
    quotas: _Listed | None = None
    windows: _Listed | None = None


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Part of an import, msgpack on the control topic."""

    command: str  # the id of the command that brings it into force
    rows: list[PartRow]


def buckets_for(tenants: int) -> int:
    """Return in how many buckets a table of so many tenants is kept: some 16 in each."""
    return max(BUCKETS, -(-tenants // 16))


def bucket_of(tenant: str, buckets: int) -> int:
    """Return the bucket of a tenant. Rows that come in this order are written once each."""
    return zlib.crc32(tenant.encode("utf-8", "surrogatepass")) % buckets


def group_of(subject: str) -> str | None:
    """Return the group that a command, a record or a shard's key is about; None: it is about a service."""
    return subject.removeprefix(GROUP) if subject.startswith(GROUP) else None


def called(subject: str) -> str:
    """Name a service or a group as in a sentence."""
    group = group_of(subject)
    return subject if group is None else f"group {group}"


def as_argument(subject: str) -> str:
    """Name a service or a group as `gate limit` takes it."""
    group = group_of(subject)
    return subject if group is None else f"--group {group}"


def key_of(service: str, tenant: str = "") -> str:
    """Return the key of a record."""
    return f"{service}/{tenant}" if tenant else service


def decode(value: bytes) -> Published:
    """Read a record. Raises ValueError that says what is wrong."""
    try:
        return msgspec.json.decode(value, type=Published)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def encode(record: Published) -> bytes:
    """Return the value of a record."""
    return msgspec.json.encode(record)
