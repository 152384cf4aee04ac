"""Verification of the gate's promises against the topics. Exact: integers and fractions, no tolerance."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction

from gate.cli.demo.tally import Ledger
from gate.limits import Spec, Window

_NS_PER_MS = 1_000_000


def broken_promises(
    ledger: Ledger, spec: Spec, submitted: Collection[str], worked: Collection[str], *, shared: bool = False
) -> list[str]:
    """Return a line for each promise that was broken for a service.

    `submitted` are the ids that the broker confirmed to producers, `worked` those that the worker did. `shared`: calls
    have some of the limit, so that requests go before their time when these want less.
    """
    times = sorted(outcome.at_ms for outcome in ledger.admitted)
    lines = [*_counts(ledger, submitted), *_changed(ledger), *_breaches(ledger)]
    if not shared:
        lines += _early(ledger)
    if spec.rate is not None:
        lines += over_bucket(times, spec.rate, spec.burst)
    for window in spec.windows:
        lines += over_window(times, window)
    lines += _named("admitted but not done by the worker", {o.id for o in ledger.admitted} - set(worked))
    return [f"{ledger.service}: {line}" for line in lines]


def over_bucket(times: Sequence[int], rate: Fraction, burst: int) -> Iterator[str]:
    """Yield the worst pair of admissions i <= j with j - i + 1 > burst + rate * (t_j - t_i); `times` in ms, ascending.

    The lowest of i - rate * t_i so far is all that must be remembered, so this is O(n).
    """
    unit, per_ms = 1000 * rate.denominator, rate.numerator  # everything below is multiplied by `unit`
    lowest, first = 0, 0
    worst, span = burst * unit, (0, -1)
    for index, time in enumerate(times):
        level = index * unit - per_ms * time
        if index == 0 or level < lowest:
            lowest, first = level, index
        if level + unit - lowest > worst:
            worst, span = level + unit - lowest, (first, index)
    begin, end = span
    if end >= begin:
        count, length = end - begin + 1, times[end] - times[begin]
        allowed = burst + rate * length / 1000
        yield (
            f"over the bucket: {count} admitted within {length} ms from {times[begin]}, {float(allowed):g} are allowed"
        )


def over_window(times: Sequence[int], window: Window) -> Iterator[str]:
    """Yield the fullest interval [t, t + size) that holds more than the window's limit; `times` in ms, ascending."""
    most, at, first = window.limit, None, 0
    for index, time in enumerate(times):
        while (time - times[first]) * _NS_PER_MS >= window.size:
            first += 1
        if index - first + 1 > most:
            most, at = index - first + 1, times[first]
    if at is not None:
        yield (
            f"over the window: {most} admitted within {Fraction(window.size, _NS_PER_MS)} ms from {at}, "
            f"{window.limit} are allowed"
        )


def _counts(ledger: Ledger, submitted: Collection[str]) -> Iterator[str]:
    """Hold every request to exactly one end."""
    times = Counter(outcome.id for outcome in (*ledger.admitted, *ledger.rejected))
    known = ledger.requests.keys()
    yield from _named("confirmed to the producer but not in the request topic", set(submitted) - known)
    yield from _named("in the request topic but not confirmed to the producer", known - set(submitted))
    yield from _named("lost: neither admitted nor rejected nor waiting", known - times.keys() - ledger.waiting.keys())
    yield from _named("decided more than once", {request for request, count in times.items() if count > 1})
    yield from _named("decided but never submitted", times.keys() - known)


def _changed(ledger: Ledger) -> Iterator[str]:
    outcomes = (*ledger.admitted, *ledger.rejected)
    changed = {o.id for o in outcomes if o.id in ledger.requests and o.content != ledger.requests[o.id]}
    yield from _named("changed on the way: key, value, timestamp or a header", changed)


def _early(ledger: Ledger) -> Iterator[str]:
    early = {o.id for o in ledger.delayed_then_admitted if o.at_ms < ledger.parked[o.id].not_before_ms}
    yield from _named("admitted before their gate-not-before", early)


def _breaches(ledger: Ledger) -> Iterator[str]:
    opened, resolved = Counter(ledger.opened), Counter(ledger.resolved)
    yield from _named("breaches that were opened but not resolved", (opened - resolved).keys())
    yield from _named("breaches that were resolved but not opened", (resolved - opened).keys())
    yield from _named("breaches that were opened more than once", {since for since in opened if opened[since] > 1})


def _named(what: str, ids: Iterable[str]) -> Iterator[str]:
    if names := sorted(ids):
        more = ", ..." if len(names) > 3 else ""
        yield f"{len(names)} {what}: {', '.join(names[:3])}{more}"
