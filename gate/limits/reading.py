"""What a rate limiter's keys are read for: their usage, and a snapshot that another process takes over."""

import threading
from typing import Final

from gate.limits import seconds
from gate.limits.checks import check_spelling
from gate.limits.codec import Writer, seal, unseal
from gate.limits.keys import Key, Keys, Name, Refusals, mixed
from gate.limits.spec import MOST, SECOND
from gate.limits.usage import Usage

_TENANT: Final = b"\xff"  # in a snapshot, between a service and its tenant: no byte of UTF-8


def usage_of(keys: Keys, service: str, tenant: str, current_time: float | None) -> Usage | None:
    """Return how much of its limits a service, or its tenant, uses; None for one without any."""
    check_spelling(service)
    name: Name = (service, tenant) if tenant else service
    time_told = None if current_time is None else seconds.to_ns(current_time)
    known = keys.known.get(name) or keys.default(name)
    if known is None:
        return None
    key = known if isinstance(known, Key) else keys.new(known, told=time_told is not None)
    if time_told is not None and not key.told:
        raise mixed(name, told=True)
    now = keys.now(key) if time_told is None else min(time_told + key.shift, MOST)
    used, limit = key.fullest(now)
    span = min([SECOND, *[window.size for window in key.spec.windows]])
    refusals = keys.refusals.get(name) or Refusals()
    return Usage(
        requests_per_second=key.spent(now, span) * SECOND / span,
        tokens=float(key.tokens(now)),
        window_used=used,
        window_limit=limit,
        window_fill=used / limit,
        refused=refusals.count,
        breaches=refusals.breaches,
        last_refusal=None if refusals.last is None else refusals.last / SECOND,
    )


def dump_keys(keys: Keys, lock: threading.Lock) -> bytes:
    """Return the state of all keys that are not idle."""
    out = Writer()
    for name in list(keys.known):
        with lock:  # for one key at a time: they are independent, and decisions go on
            key = keys.known.get(name)
            if isinstance(key, Key):
                out.raw(name.encode() if isinstance(name, str) else name[0].encode() + _TENANT + name[1].encode())
                out.numbers(key.shift if key.told else key.shift - keys.epoch, int(key.told))
                out.raw(key.dump())
    return seal(out)


def load_keys(keys: Keys, lock: threading.Lock, data: bytes) -> None:
    """Take over what `dump_keys` returned, all or nothing. Raises StateError."""
    source = unseal(data)
    with source.checked(), lock:
        loaded: dict[Name, Key] = {}
        while source.left:
            service, between, tenant = source.raw().partition(_TENANT)
            name = (service.decode(), tenant.decode()) if between else service.decode()
            shift, told = source.numbers(2)
            key = loaded[name] = keys.load(name, source.raw())
            key.told = bool(told)
            key.shift = shift if told else shift + keys.epoch
        keys.adopt(loaded)
