"""Keys of a rate limiter: who has limits, who was used of late, and what the time is for each."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gate.limits import seconds
from gate.limits.checks import shown
from gate.limits.limiter import Limiter
from gate.limits.spec import MOST, NEVER, SECOND, Spec
from gate.limits.token_bucket import checked_clock

Name = str | tuple[str, str]
"""A service, or a service and one of its tenants."""

DEFAULT_TENANT: Final = "default"  # whose limits each tenant has that has none of its own, as in a policy file
GROUP: Final = "\x00group"  # in the place of a service: a budget that several services share
OTHERS: Final = "\x00others"  # what is unknown, and one too many to have a key of its own
# A step back of the caller's clock: less is threads that overtake one another, and is waited out.
_STEP: Final = SECOND


class Key(Limiter):
    """The limiter of a service, or of a tenant, that was used of late."""

    __slots__ = ("passing", "shift", "told")

    def __init__(self, spec: Spec, now: int) -> None:
        super().__init__(spec, now)
        self.told = False  # whether callers pass the time
        self.shift = 0  # ns from their clock, or else from ours, to the limiter's time, which is never set back
        self.passing = False  # has limits by default only: forgotten altogether when it is idle


class Waited(Key):
    """A key for which somebody waits, or that shares a budget: a class of its own keeps it off the fast path."""

    __slots__ = ()


class Source:
    """Where limits come from that nobody has configured: one default for every service. Others override this."""

    def __init__(self, default: Spec | None = None) -> None:
        self._default = default

    def service(self, service: str) -> Spec | None:  # noqa: ARG002 - of an overridden one
        """Return the limits of a service; None: it has none, and the limiter's `fail_open` decides."""
        return self._default

    def tenant(self, service: str, tenant: str) -> Spec | None:  # noqa: ARG002 - as above
        """Return the limits of a tenant; None: it has none of its own."""
        return None

    def group(self, service: str) -> tuple[str, Spec] | None:  # noqa: ARG002 - as above
        """Return the budget that a service shares with others, by its name; None: it shares none."""
        return None


@dataclass(slots=True)
class Refusals:
    """What was refused since the limit was set."""

    count: int = 0
    breaches: int = 0
    last: int | None = None  # ns of the caller's clock


class Keys:
    """All keys of a rate limiter. Not thread-safe: its owner holds a lock."""

    def __init__(self, clock: Callable[[], int] | None, source: "Source", most: int) -> None:
        self.clock = checked_clock(clock)
        # Set once, so that the time runs on whatever is done to the wall clock.
        self.epoch = 0 if clock else time.time_ns() - time.monotonic_ns()
        self.known: dict[Name, Spec | Key] = {}  # an idle key is its spec alone
        self.awake: deque[Name] = deque()  # names of the keys that are not idle, as far as known
        self.refusals: dict[Name, Refusals] = {}
        self.waited: set[str] = set()  # services for which somebody waits
        self._source = source
        self._most = most
        self._passing = 0
        self._groups: dict[str, Spec] = {}

    def set(self, name: Name, spec: Spec) -> None:
        """Set or replace limits. What counts stays counted; no token is added."""
        key = self.known.get(name)
        if not isinstance(key, Key):
            self.known[name] = spec
            return
        key.reconfigure(spec, self.now(key))
        self._passing -= key.passing
        key.passing = False

    def set_default(self, service: str, spec: Spec) -> None:
        """Set or replace the limits of tenants that have none of their own."""
        self.set((service, DEFAULT_TENANT), spec)
        for name in self.tenants(service):
            key = self.known[name]
            if isinstance(key, Key) and key.passing:
                key.reconfigure(spec, self.now(key))

    def remove(self, name: Name) -> None:
        """Forget limits and all that counts."""
        key = self.known.pop(name, None)
        self.refusals.pop(name, None)
        if isinstance(key, Key):
            self._passing -= key.passing
            with suppress(ValueError):
                self.awake.remove(name)

    def reset(self, name: Name) -> None:
        """Forget what counts, and keep the limits."""
        key = self.known.get(name)
        self.refusals.pop(name, None)
        if isinstance(key, Key):
            key.renew(self.now(key))

    def tenants(self, service: str) -> list[Name]:
        """Return the tenants of a service that have keys."""
        return [name for name in self.known if isinstance(name, tuple) and name[0] == service]

    def find(self, name: Name, current_time: float | None, keep: Collection[Name] = ()) -> Key | None:
        """Return the key of a name, awake; None where it has no limits. Those of `keep` stay awake meanwhile."""
        known = self.known.get(name)
        if isinstance(known, Key):
            return known
        passing = known is None
        if known is None:
            known = self.default(name)
            if known is None:
                return None
            if self._passing >= self._most:
                name = OTHERS if isinstance(name, str) else (name[0], OTHERS)
                others = self.known.get(name)
                if isinstance(others, Key):
                    return others
        told = current_time is not None
        self.forget(self.clock() if current_time is None else seconds.to_ns(current_time), 2, told=told, keep=keep)
        key = self.known[name] = self.new(known, told=told, kind=self._kind(name))
        key.passing = passing
        self._passing += passing
        self.awake.append(name)
        return key

    def _kind(self, name: Name) -> type[Key]:
        slow = isinstance(name, str) and (name in self.waited or self._source.group(name) is not None)
        return Waited if slow else Key

    def default(self, name: Name) -> Spec | None:
        """Return the limits that a name has unless it has some of its own."""
        if isinstance(name, str):
            return self._source.service(name)
        if name[0] == GROUP:
            return self._groups[name[1]]
        default = self.known.get((name[0], DEFAULT_TENANT)) or self._source.tenant(*name)
        return default.spec if isinstance(default, Key) else default

    def names(self, service: str, tenant: str) -> list[Name]:
        """Return the keys that decide about a request together."""
        names: list[Name] = [service]
        if tenant:
            names.append((service, tenant))
        group = self._source.group(service)
        if group is not None:
            self._set_group(*group)
            names.append((GROUP, group[0]))
        return names

    def _set_group(self, group: str, spec: Spec) -> None:
        if self._groups.get(group) == spec:
            return
        self._groups[group] = spec
        key = self.known.get((GROUP, group))
        if isinstance(key, Key):
            key.reconfigure(spec, self.now(key))

    def limits_changed(self) -> None:
        """Go over to what the source says now, for all keys whose limits come from there."""
        for name, key in list(self.known.items()):
            if not isinstance(key, Key) or not key.passing or name[0] == GROUP:  # groups follow when they are asked
                continue
            if isinstance(name, str):
                key.__class__ = self._kind(name)
            spec = self.default(name)
            if spec is None:
                self.remove(name)
            elif spec != key.spec:
                key.reconfigure(spec, self.now(key))

    def new(self, spec: Spec, *, told: bool, kind: type[Key] = Key) -> Key:
        """Return a key that nobody has used."""
        key = kind(spec, -MOST)
        key.told = told
        key.shift = 0 if told else self.epoch
        return key

    def forget(self, now: int, count: int, *, told: bool, keep: Collection[Name] = ()) -> None:
        """Look at `count` of the keys that are awake, in turn, and put those to sleep that are idle by their clock."""
        for _ in range(min(count, len(self.awake))):
            name = self.awake.popleft()
            key = self.known.get(name)
            if not isinstance(key, Key):
                continue
            if key.told != told or name in self.waited or name in keep or not key.idle(now + key.shift):
                self.awake.append(name)
            elif key.passing:
                self._passing -= 1
                del self.known[name]
                self.refusals.pop(name, None)
            else:
                self.known[name] = key.spec

    def wait_for(self, service: str, *, waited: bool) -> None:
        """Say whether somebody waits for a service."""
        if waited:
            self.waited.add(service)
        else:
            self.waited.discard(service)
        key = self.known.get(service)
        if isinstance(key, Key):
            key.__class__ = self._kind(service)

    def load(self, name: Name, data: bytes) -> Key:
        """Return the key that `Limiter.dump` wrote, by the limits that it has here, or else by those of then."""
        known = self.known.get(name)
        default = self.default(name) if known is None else None
        key = self._kind(name).load(known.spec if isinstance(known, Key) else known or default, data)
        key.passing = default is not None
        return key

    def adopt(self, keys: Mapping[Name, Key]) -> None:
        """Take over keys that were loaded."""
        for name, key in keys.items():
            old = self.known.get(name)
            self._passing += key.passing - (old.passing if isinstance(old, Key) else False)
            self.known[name] = key
        self.awake.extend(keys)

    def now(self, key: Key) -> int:
        """Return the time of a key: the newest it was told, where callers pass it."""
        return key.last if key.told else self.clock() + key.shift

    def ready(self, name: Name, cost: int, now: int) -> int:
        """Return when `cost` is admitted if nothing else comes, from `now` on, by our clock; NEVER if it never is."""
        key = self.find(name, None)
        if key is None:
            return now
        if key.told:
            raise mixed(name, told=False)
        ready = key.ready_at(now + key.shift, cost)
        return NEVER if ready == NEVER else ready - key.shift

    def charge(self, name: Name, cost: int, now: int) -> None:
        """Charge a cost that fits at `now` by our clock."""
        key = self.find(name, None)
        if key is not None:
            key.charge(now + key.shift, cost)


def step_back(key: Key, now: int) -> int:
    """Return the limiter's time after its clock was set back; a step of less than a second is waited out."""
    if now < key.last - _STEP:
        key.shift += key.last - now
    return key.last


def time_told(name: Name, key: Key, current_time: float | None) -> int:
    """Return the limiter's time where callers pass theirs. Raises ValueError unless they always do."""
    if current_time is None:
        raise mixed(name, told=False)
    now = seconds.to_ns(current_time) + key.shift
    if not key.told:
        raise mixed(name, told=True)
    return now


def mixed(name: Name, *, told: bool) -> ValueError:
    """Return the error for a caller whose clock is not that of the one before."""
    this, before = ("passes current_time", "did not") if told else ("passes no current_time", "did")
    service = name if isinstance(name, str) else name[0]
    return ValueError(
        f"a caller of {shown(service)} {this}, and one before it {before}: the two clocks can't be compared;"
        " pass the time always or never for one service"
    )
