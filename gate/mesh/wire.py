"""Records of the distributed limiter: what a holder reports to the owner of a shard, and what that grants.

Every value is absolute, so that one that comes twice, late or not at all does no harm: counters are cumulative, parts
have versions, and what was not answered is told again. Times are durations in ns, since clocks are never compared.
"""

from typing import Final, TypeVar

import msgspec

VERSION: Final = 1
NONE: Final = -1  # no bucket, no bound
_MARK: Final = bytes((VERSION,))
_ENCODE: Final = msgspec.msgpack.Encoder().encode


class _Struct(msgspec.Struct, frozen=True, array_like=True, gc=False):  # none is part of a circle
    """Fields are told apart by their place: new ones are appended, with a default."""


class Limits(_Struct, frozen=True):
    """The whole limits of a budget, as far as holders must know them."""

    rate: int  # nano-units per second; NONE: no bucket
    sizes: tuple[int, ...]  # of the windows that are divided, in ns
    ceiling: int  # the largest cost that can ever be admitted; NONE: no bound
    granted: bool  # whether there are limits that are granted from, too


class Run(_Struct, frozen=True):
    """What became of granted units up to a position, from that of the run before on."""

    position: int
    age: int  # ns since the newest of them was used; NONE: none of them was


class BudgetReport(_Struct, frozen=True):
    """What a holder tells of one budget."""

    name: str
    version: int  # of the newest part applied; 0: it has none
    want: int  # units per 1,000 s: admitted, denied and waiting
    consumed: int  # position up to which granted units are used or given back
    counts: tuple[int, ...] = ()  # units that count in each divided window
    runs: tuple[Run, ...] = ()
    alone: tuple[int, int] | None = None  # units that were let go, and refused, while no owner answered: since it began
    told: tuple[int, int] | None = None  # of these, what it knows to have been heard


class Ask(_Struct, frozen=True):
    """A direct request: one call that no part of the holder can carry."""

    number: int
    names: tuple[str, ...]  # budgets that are charged together or not at all
    cost: int
    round_trip: int = 0  # ns that answers take of late: a slot that comes too late is lost


class Report(_Struct, frozen=True):
    """One record of a holder to one shard. Budgets that are not in it are as they were."""

    holder: str
    epoch: int
    seq: int  # 0: it only looks up
    budgets: tuple[BudgetReport, ...] = ()
    asks: tuple[Ask, ...] = ()
    leaving: bool = False
    partition: int = 0  # of the topic of grants, in which it reads
    lookups: tuple[tuple[str, str], ...] = ()  # services, and tenants or "", of which it asks what they are charged to


class Share(_Struct, frozen=True):
    """What a holder has of one budget."""

    name: str
    version: int
    limits: Limits
    rate: int  # nano-units per second
    burst: int
    windows: tuple[int, ...]  # the part of each divided window
    granted: int  # position up to which units are granted
    starts: tuple[tuple[int, int], ...] = ()  # (position, ns from receipt): from when on units up to it may be used
    stock: int = 0  # how many units it gets at a time; a dearer call asks
    void: int = 0  # position up to which units were granted under other limits: they are given back


class Slot(_Struct, frozen=True):
    """Answer to a direct request."""

    number: int
    use_by: int  # ns from the sending of the request, in which the call may go; 0: denied
    wait: int = 0  # ns after which asking again may help; NONE: never


class Charged(_Struct, frozen=True):
    """What calls of a service, or of one of its tenants, are charged to."""

    service: str
    tenant: str
    names: tuple[str, ...]  # of budgets, all on one shard; none: no limit applies
    shard: int
    ceilings: tuple[int, ...] = ()  # of each: the largest cost that can ever be admitted; NONE: no bound
    allowed: bool = True  # what becomes of a call where no limit applies
    why: str = ""  # not allowed: why


class Grant(_Struct, frozen=True):
    """One record of an owner to one holder."""

    holder: str
    epoch: int
    answers: (
        int  # seq of the report that it answers: the lease runs from when that was sent; 0: none, nothing is renewed
    )
    lease: int  # ns
    since: int  # newest version when this lease of the holder began: what was sent before is void
    shares: tuple[Share, ...] = ()
    slots: tuple[Slot, ...] = ()
    policy: str = ""  # by which it was granted: what was looked up by another one is to be looked up again
    found: tuple[Charged, ...] = ()
    why: str = ""  # nothing is granted


_T = TypeVar("_T", Report, Grant)


class WireError(ValueError):
    """A record that can't be read; whoever reads goes on without it."""


class VersionError(WireError):
    """A record of another version."""


def encode(value: Report | Grant) -> bytes:
    """Return the record's value."""
    return _MARK + _ENCODE(value)


def decode(kind: type[_T], data: bytes) -> _T:
    """Return what `encode` wrote. Raises WireError."""
    if data[:1] != _MARK:
        version = data[0] if data else None
        raise VersionError(f"a {kind.__name__.lower()} of version {version}; this gate reads {VERSION}")
    try:
        return msgspec.msgpack.decode(data[1:], type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # what is passed over may lie too deep
        raise WireError(f"not a {kind.__name__.lower()}: {error}") from None
