"""Whether uses of a limit fit it when each is known only to lie between two times: before a call, and after it."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fractions import Fraction
from operator import itemgetter

from gate.limits import Spec, Window
from gate.units import SECOND

Use = tuple[int, int]  # unix ns: not before, not after


def excess(spec: Spec, uses: Iterable[Use]) -> list[str]:
    """Say for each limit by how much it is exceeded, whatever the times of the uses may have been."""
    uses = sorted(uses)
    found = []
    for window in spec.windows:
        count, begin = fullest(window, uses)
        if count > window.limit:
            found.append(f"{count} of {window.limit} in {window.size / SECOND:g} s from {begin}")
    if spec.rate is not None:
        beyond, end = overdrawn(spec.rate, spec.burst, uses)
        if beyond > 0:
            found.append(f"{float(beyond):.3f} beyond the bucket at {end}")
    return found


def fullest(window: Window, uses: Sequence[Use]) -> tuple[int, int]:
    """Return how many of the sorted `uses` lie in the fullest window at the least, and where it begins.

    Of those that had ended before e, at most as many lie before s as had begun by then: the rest is in [s, e).
    """
    ends = sorted(map(itemgetter(1), uses))
    most = (0, 0)
    for before, (begin, _) in enumerate(uses):
        most = max(most, (bisect_left(ends, begin + window.size) - before, begin))
    return most


def overdrawn(rate: Fraction, burst: int, uses: Sequence[Use]) -> tuple[Fraction, int]:
    """Return how many of the sorted `uses` a bucket did not have, at the least, and when; below 0 if it had more left.

    The rate is per second. Between s and e it gives `burst` and what flows in; the least of what it had left for those
    before s is all that must be remembered, so this is O(n log n) for the sorting alone.
    """
    per_ns, unit = rate.numerator, rate.denominator * SECOND  # what follows is multiplied by `unit`
    begins, ends = [begin for begin, _ in uses], sorted(map(itemgetter(1), uses))
    least, place, worst = 0, 0, (-burst * unit, 0)
    for done, end in enumerate(ends, 1):
        while place < len(begins) and begins[place] <= end:
            least = max(least, per_ns * (begins[place] - begins[0]) - place * unit)
            place += 1
        worst = max(worst, (done * unit + least - per_ns * (end - begins[0]) - burst * unit, end))
    return Fraction(worst[0], unit), worst[1]
