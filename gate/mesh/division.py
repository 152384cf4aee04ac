"""Division of a limit among those who want it."""

from collections.abc import Sequence
from typing import Final

PHASES: Final = 1 << 32


def fill(capacity: int, wants: Sequence[int]) -> list[int]:
    """Return max-min fair amounts (water-filling): nobody gets more than he wants while another wants.

    What nobody wants goes to all in the proportion of their wants. The sum is at most `capacity`.
    """
    total = sum(wants)
    if total <= 0:
        return [0] * len(wants)
    if total <= capacity:
        return [want * capacity // total for want in wants]
    amounts = [0] * len(wants)
    left, places = capacity, sorted(range(len(wants)), key=wants.__getitem__)
    for rank, place in enumerate(places):
        amounts[place] = min(wants[place], left // (len(places) - rank))
        left -= amounts[place]
    return amounts


def apportion(total: int, weights: Sequence[int], begin: int) -> list[int]:
    """Divide `total` whole units by weight, each to within one of its exact part; they sum to `total`.

    Who gets the rest depends on `begin`, and over all of them everybody gets his exact part (systematic sampling).
    """
    whole = sum(weights)
    if whole <= 0:
        return [0] * len(weights)
    units, seen, before = [], 0, begin // PHASES
    for weight in weights:
        seen += weight
        edge = (total * seen * PHASES // whole + begin) // PHASES
        units.append(edge - before)
        before = edge
    return units


def parts(whole: Sequence[int], weights: Sequence[int], turn: int) -> list[tuple[int, ...]]:
    """Divide a rate and the counts behind it (burst, windows), 0 where there is none, by weight.

    Who gets any gets at least 1 of each count: without a burst no rate is worth anything. Where they do not suffice for
    all, some get none in this turn: with each turn one of them takes over from another.
    """
    counts = [count for count in whole[1:] if count]
    live = [place for place, weight in enumerate(weights) if weight > 0]
    begin = -(-(turn % len(live)) * PHASES // len(live)) if live else 0
    nothing = (0,) * len(whole)
    shares = [nothing] * len(weights)
    if counts and min(counts) < len(live):
        chosen = apportion(min(counts), [weights[place] for place in live], begin)
        live = [place for place, units in zip(live, chosen, strict=True) if units]
    if not live:
        return shares
    mine = [weights[place] for place in live]
    total = sum(mine)
    rates = [whole[0] * weight // total for weight in mine]
    columns = [rates, *[_at_least_one(count, mine, total, begin) for count in whole[1:]]]
    for place, share in zip(live, zip(*columns, strict=True), strict=True):
        shares[place] = share
    return shares


def _at_least_one(count: int, weights: Sequence[int], total: int, begin: int) -> list[int]:
    if not count:
        return [0] * len(weights)
    beyond = [max(0, count * weight - total) for weight in weights]
    rest = apportion(count - len(weights), beyond if any(beyond) else weights, begin)
    return [1 + units for units in rest]
