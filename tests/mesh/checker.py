"""Whether what all processes did together kept to a limit, by true time, and how well it was used."""

from collections.abc import Sequence
from fractions import Fraction

from gate.limits import Spec
from gate.units import SECOND

Use = tuple[int, int]  # (true ns, units)


def over(spec: Spec, uses: Sequence[Use], begin: int = 0) -> list[str]:
    """Every true window and bucket that was exceeded, of uses from `begin` on."""
    uses = sorted(use for use in uses if use[0] >= begin)
    problems = []
    for window in spec.windows:
        first, count, worst = 0, 0, (0, 0)
        for time, units in uses:
            count += units
            while uses[first][0] <= time - window.size:
                count -= uses[first][1]
                first += 1
            worst = max(worst, (count, time))
        if worst[0] > window.limit:
            problems.append(f"{worst[0]} of {window.limit} in {window.size / SECOND} s before {worst[1] / SECOND:.6f}")
    if spec.rate is not None:
        tokens, last, most = Fraction(spec.burst), begin, Fraction(0)
        for time, units in uses:
            tokens = min(Fraction(spec.burst), tokens + spec.rate * (time - last) / SECOND) - units
            last = time
            most = max(most, -tokens)
        if most > 0:
            problems.append(f"{float(most):.6f} beyond the bucket of {spec.burst} at {float(spec.rate)}/s")
    return problems


def jain(amounts: Sequence[int]) -> float:
    squares = sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0
