"""Bugs planted by patching, one or more for each rule that the distributed limiter rests on."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec

from gate.limits.part import UNIT, Part
from gate.mesh import budget, grants, held, holder, holding, owner, parts, state, terms
from gate.mesh.budget import Budget
from gate.mesh.grants import Grants
from gate.mesh.held import Held
from gate.mesh.holder import Holder
from gate.mesh.holding import Holding
from gate.mesh.ledger import Ledger
from gate.mesh.owner import Owner
from gate.mesh.parts import Parts
from gate.mesh.questions import Questions
from gate.mesh.wire import Slot
from tests.mesh.world import Host, Proc

MUTANTS: dict[str, Callable[[], Any]] = {}


def _plant(place: Any, name: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register a bug: the decorated function takes what is there and returns what stands in its place."""

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextmanager
        def planted() -> Iterator[None]:
            with mock.patch.object(place, name, make(getattr(place, name))):
                yield

        MUTANTS[make.__name__] = planted
        return make

    return register


# 1: shrink before grow


@_plant(Held, "reserved")
def grown_before_shrunk(reserved: Any) -> Any:
    """What was taken back is given to others before its holder knows."""
    return lambda self, now: self.shape


@_plant(Held, "reserved")
def only_acknowledged_reserved(reserved: Any) -> Any:
    """A part that was sent and not yet acknowledged counts for nothing."""
    return lambda self, now: self.acked


@_plant(Held, "reserved")
def counts_not_reserved(reserved: Any) -> Any:
    """A window's part is free as soon as it is given up, whatever still counts in it."""

    def parts_alone(self: Held, now: int) -> Any:
        counts, self.counts_until = self.counts_until, ()
        found = reserved(self, now)
        self.counts_until = counts
        return found

    return parts_alone


@_plant(Parts, "free")
def own_counts_not_reserved(free: Any) -> Any:
    """What counts in the owner's own windows is given to others with them."""

    def parts_alone(self: Parts, now: int) -> Any:
        found = free(self, now)
        places = zip(self.own[2:], self.own_target[2:], self.windows, strict=True)
        counted = [max(mine, each.counted) - min(mine, target) for mine, target, each in places]
        return (*found[:2], *[left + extra for left, extra in zip(found[2:], counted, strict=True)])

    return parts_alone


@_plant(Parts, "free")
def sliding_part_given_away(free: Any) -> Any:
    """What the owner's own part gives up as its uses no longer count is given to others before."""

    def target_alone(self: Parts, now: int) -> Any:
        found = free(self, now)
        places = zip(self.own[2:], self.own_target[2:], self.windows, strict=True)
        early = [max(mine, each.counted) - max(min(mine, target), each.counted) for mine, target, each in places]
        return (*found[:2], *[left + extra for left, extra in zip(found[2:], early, strict=True)])

    return target_alone


# 2: versions


@_plant(Holder, "receive")
def older_part_applied(receive: Any) -> Any:
    """Whatever comes last counts, however old it is."""

    def always(self: Holder, now: int, grant: Any) -> None:
        receive(self, now, grant)
        if (grant.holder, grant.epoch) == (self.name, self.epoch) and self._alive:
            for share in grant.shares:
                held = self._held[share.name]
                if share.version < held.version:
                    newest = held.version
                    held.apply(share, now)
                    held.version = newest

    return always


@_plant(Owner, "_grant")
def ended_lease_revived(grant: Any) -> Any:
    """What was sent in a lease that has ended may still be applied in the next one."""
    return lambda self, now, key, lease: msgspec.structs.replace(grant(self, now, key, lease), since=0)


@_plant(Holder, "_renew")
def lease_from_receipt(renew: Any) -> Any:
    """The lease runs from when the answer came."""

    def late(self: Holder, now: int, grant: Any) -> None:
        renew(self, now, grant)
        self.until = now + grant.lease

    return late


@_plant(Holder, "receive")
def push_extends(receive: Any) -> Any:
    """A part that is pushed renews the lease."""

    def extend(self: Holder, now: int, grant: Any) -> None:
        if (grant.holder, grant.epoch) == (self.name, self.epoch) and not self._left:
            self.until = max(self.until, now + grant.lease)
        receive(self, now, grant)

    return extend


@_plant(Owner, "receive")
def old_report_heard(receive: Any) -> Any:
    """A report that comes late or twice is heard like a new one."""

    def any_order(self: Owner, now: int, report: Any) -> None:
        lease = self.leases.get((report.holder, report.epoch))
        seq = 0
        if lease is not None:
            seq, lease.seq = lease.seq, min(lease.seq, report.seq - 1)
        receive(self, now, report)
        if lease is not None:
            lease.seq = max(seq, lease.seq)

    return any_order


# 3: lapse and epoch


@_plant(Holder, "_lapse")
def lapse_ignored(lapse: Any) -> Any:
    """A holder goes on after the end of its lease until somebody tells it otherwise."""

    def go_on(self: Holder) -> None:
        if self._left:
            lapse(self)

    return go_on


@_plant(Part, "empty")
def lapse_keeps_tokens(empty: Any) -> Any:
    """A part that is given back goes on with the tokens that were somebody else's meanwhile."""
    return lambda self, now: None


@_plant(Holding, "lapse")
def lapse_forgets_counts(lapse: Any) -> Any:
    """A holder whose lease lapsed begins with empty windows."""

    def forget(self: Holding) -> None:
        lapse(self)
        self.part = None

    return forget


@_plant(Holding, "lapse")
def lapse_keeps_grants(lapse: Any) -> Any:
    """Granted units are used after the lease, too."""

    def keep(self: Holding) -> None:
        self.live = False
        self.changed = True

    return keep


@_plant(Holder, "_renew")
def lapsed_part_revived(renew: Any) -> Any:
    """A new lease brings all parts back, also those that the owner has given to others."""

    def revive(self: Holder, now: int, grant: Any) -> None:
        renew(self, now, grant)
        for holding_ in self._held.values():
            holding_.live = holding_.part is not None

    return revive


@_plant(Holder, "forked")
def child_is_its_parent(forked: Any) -> Any:
    """A forked child goes on with what its parent has."""
    return lambda self, epoch, now: copy.deepcopy(self)


@_plant(Owner, "receive")
def new_epoch_replaces(receive: Any) -> Any:
    """A new epoch frees what the old one had."""

    def replace(self: Owner, now: int, report: Any) -> None:
        for key in [key for key in self.leases if key[0] == report.holder and key[1] != report.epoch]:
            self._end(now, key, now, left=True)
        receive(self, now, report)

    return replace


# 4: start empty


@_plant(Holding, "apply")
def part_starts_full(apply: Any) -> Any:
    """A new part has all of its burst at once."""

    def full(self: Holding, share: Any, now: int) -> Any:
        live = self.live
        found = apply(self, share, now)
        if not live and self.part is not None:
            self.part._full = now * self.part.spec.scale
        return found

    return full


@_plant(Part, "resize")
def growth_brings_tokens(resize: Any) -> Any:
    """A larger burst is filled when it is given."""

    def fill(self: Part, now: int, nano: Any, burst: int, limits: Any) -> None:
        grown = max(0, burst - self.spec.burst) if nano is not None else 0
        resize(self, now, nano, burst, limits)
        self._full -= grown * UNIT

    return fill


# 5: clocks and deaths


@_plant(Proc, "suspend")
def clock_stands_while_suspended(suspend: Any) -> Any:
    """The holder's clock is CLOCK_MONOTONIC."""

    def stand(self: Proc, nanoseconds: int) -> None:
        suspend(self, nanoseconds)
        self.clock.stood += nanoseconds

    return stand


@contextmanager
def clocks_believed() -> Iterator[None]:
    """Nobody allows for clocks that drift."""
    same = [
        mock.patch.object(place, "longer", lambda time: time) for place in (budget, grants, held, holding, owner, parts)
    ]
    same += [mock.patch.object(place, "shorter", lambda time: time) for place in (grants, holder)]
    same += [mock.patch.object(place, "slower", lambda nano: nano) for place in (holding, parts)]
    for patch in same:
        patch.start()
    try:
        yield
    finally:
        for patch in same:
            patch.stop()


MUTANTS["clocks_believed"] = clocks_believed


@_plant(Owner, "load")
def leases_forgotten(load: Any) -> Any:
    """A new owner knows nothing of who has what."""

    def forget(self: Owner, now: int, records: Any) -> None:
        load(self, now, {key: value for key, value in records.items() if not key.startswith(("held", "lease"))})

    return forget


@_plant(Owner, "load")
def leases_end_as_written(load: Any) -> Any:
    """A new owner takes leases for as old as they were."""

    def short(self: Owner, now: int, records: Any) -> None:
        load(self, now, records)
        for lease in self.leases.values():
            lease.until = now + 1

    return short


@_plant(Owner, "load")
def counts_forgotten(load: Any) -> Any:
    """A new owner does not know what counts in long windows."""

    def forget(self: Owner, now: int, records: Any) -> None:
        load(self, now, records)
        for each in self.budgets.values():
            each.grants.longs = [Ledger(ledger.limit, ledger.size) for ledger in each.grants.longs]
            each.parts.windows = [Ledger(ledger.limit, ledger.size) for ledger in each.parts.windows]

    return forget


@_plant(owner, "restore")
def clocks_compared(restore: Any) -> Any:
    """A new owner reads the times of another machine as its own."""

    def compared(now: int, records: Any, given: Any) -> Any:
        head = records.get(state.OWNER)
        return restore(now if head is None else state.read(head).at, records, given)

    return compared


@_plant(Parts, "end")
def dead_parts_forgotten(end: Any) -> Any:
    """What a dead holder has used in its windows is free with its lease."""
    return lambda self, now, held, until, *, left: None


@_plant(Grants, "end")
def dead_grants_returned(end: Any) -> Any:
    """What a dead holder was granted and did not tell of was not used."""
    return lambda self, now, held, until, *, left: end(self, now, held, until, left=True)


@_plant(Grants, "end")
def dead_grants_counted_from_the_report(end: Any) -> Any:
    """What a dead holder was granted counts from its last report on, not from the end of its lease."""
    return lambda self, now, held, until, *, left: end(self, now, held, until - self.terms.lease_ns, left=left)


# 6: policy


@_plant(Owner, "reload")
def lower_limit_not_told(reload: Any) -> Any:
    """Holders go on with the parts of the limits before."""

    def quiet(self: Owner, now: int) -> None:
        if not self.leases:
            reload(self, now)

    return quiet


@_plant(Budget, "reconfigure")
def grants_outlast_their_limit(reconfigure: Any) -> Any:
    """What was granted under a higher limit is used under the lower one, whenever that is."""

    def keep(self: Budget, now: int, spec: Any, version: Any) -> Any:
        told = reconfigure(self, now, spec, version)
        for each in told:
            each.void = 0
        return told

    return keep


# 8: what is kept


@_plant(Owner, "drain_changes")
def parts_not_kept(drain: Any) -> Any:
    """What holders have is not written."""
    return lambda self, now: {key: value for key, value in drain(self, now).items() if not key.startswith("held")}


@_plant(Host, "die")
def granted_before_commit(die: Any) -> Any:
    """Grants go out although what they say was never committed."""

    def send(self: Host, *args: Any) -> None:
        for grant in self.decided:
            self.send(grant)
        die(self, *args)

    return send


# granted units


@_plant(Grants, "top_up")
def charged_when_granted(top_up: Any) -> Any:
    """A unit counts from when it is granted, not from when it is used."""

    def early(self: Grants, now: int, held: Held, marked: int, version: Any) -> bool:
        before = held.granted
        if not top_up(self, now, held, marked, version):
            return False
        units = held.granted - before
        self.used(now, now, units)
        self.outstanding -= units
        held.accounted += units
        return True

    return early


@_plant(Grants, "_schedule")
def not_before_forgotten(schedule: Any) -> Any:
    """What comes free later may be used at once."""
    return lambda self, now, held, units, debts: held.open(now)


@_plant(Holding, "report")
def ages_too_old(report: Any) -> Any:
    """Units count from a period before they were used."""

    def older(self: Holding, now: int, seq: int) -> Any:
        return report(self, now + terms.DEFAULT.period_ns, seq)

    return older


@_plant(Holding, "_join")
def age_of_the_first(join: Any) -> Any:
    """Of uses that are told as one the age of the oldest counts."""

    def first(self: Holding) -> None:
        at = self.fresh.at
        join(self)
        self.fresh.at = at

    return first


@_plant(Grants, "account")
def told_again_returned_again(account: Any) -> Any:
    """Of units that are told again one is taken for given back."""

    def again(self: Grants, now: int, held: Held, entry: Any) -> None:
        repeated = any(run.position <= held.accounted and run.age >= 0 for run in entry.runs)
        account(self, now, held, entry)
        self.outstanding -= repeated

    return again


# direct requests


@_plant(Budget, "charge")
def direct_charged_at_once(charge: Any) -> Any:
    """A direct answer counts from when it is given, not from when it may be used."""
    return lambda self, now, at, units: charge(self, now, now, units)


@_plant(Questions, "use_slot")
def slot_never_void(use_slot: Any) -> Any:
    """A direct answer may be used at any time."""

    def at_any(self: Questions, now: int, names: Any, cost: int) -> Any:
        return use_slot(self, min(now, self.slots[names][0] - 1), names, cost)

    return at_any


@_plant(Questions, "answer")
def slot_from_receipt(answer: Any) -> Any:
    """A direct answer may be used from when it came on."""

    def late(self: Questions, now: int, slot: Slot) -> None:
        answer(self, now, slot)
        if slot.use_by:
            for names in list(self.slots):
                self.slots[names] = (max(self.slots[names][0], now + slot.use_by), self.slots[names][1])

    return late


@_plant(Questions, "use_slot")
def slot_used_twice(use_slot: Any) -> Any:
    """A direct answer is good for as many calls as come in time."""

    def keep(self: Questions, now: int, names: Any, cost: int) -> Any:
        slot = self.slots[names]
        used = use_slot(self, now, names, cost)
        if used:
            self.slots[names] = slot
        return used

    return keep
