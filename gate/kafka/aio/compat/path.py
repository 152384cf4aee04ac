"""Path over aiokafka: the fast one, through its private parts, or the public one, through what it offers to everybody.

Which of them runs is decided once, whole, when the gate starts, and `gate doctor` tells which and why.
"""

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import aiokafka

from gate.errors import GateError
from gate.kafka.aio.compat.parts import FAST, NEEDED, faults

OLDEST: Final = (0, 13)
BELOW: Final = (0, 15)  # as in pyproject.toml
RANGE: Final = "aiokafka>={}.{},<{}.{}".format(*OLDEST, *BELOW)
VARIABLE: Final = "GATE_AIOKAFKA"
AUTO, ONLY_FAST, ONLY_PUBLIC = "auto", "fast", "public"
_SHOWN: Final = 3


class Choice(NamedTuple):
    """Which path runs, and why."""

    fast: bool
    why: str
    wanted: bool = True  # it is what somebody asked for, or the better one


def choose(version: str, wish: str, lacking: Sequence[str], private: Sequence[str]) -> Choice:
    """Choose a path for a version of aiokafka that is `lacking` what both need, and the fast one what is in `private`.

    Raises GateError where neither can hold what the gate promises, or the one that is wished for can't be taken.
    """
    if wish not in {AUTO, ONLY_FAST, ONLY_PUBLIC}:
        raise GateError(f"{VARIABLE}={wish} is neither {AUTO}, {ONLY_FAST} nor {ONLY_PUBLIC}", hint=f"unset {VARIABLE}")
    if lacking:
        raise GateError(
            f"aiokafka {version} can't be used, neither by its private parts nor without: {_some(lacking)}",
            hint=f"pip install '{RANGE}'",
        )
    reasons = [] if OLDEST <= _numbers(version) < BELOW else [f"it is not of {RANGE}"]
    reasons += [_some(private)] if private else []
    if wish == ONLY_FAST and reasons:
        raise GateError(
            f"{VARIABLE}={wish}, but with aiokafka {version} that can't be: {'; '.join(reasons)}",
            hint=f"pip install '{RANGE}', or unset {VARIABLE}",
        )
    if wish == ONLY_PUBLIC:
        return Choice(fast=False, why=f"{VARIABLE}={ONLY_PUBLIC}")
    if reasons:
        return Choice(fast=False, why="; ".join(reasons), wanted=False)
    return Choice(fast=True, why="its private parts are as known")


def need_fast(what: str) -> None:
    """Raise GateError unless the fast path runs: `what` can't be promised by public calls alone."""
    if not CHOICE.fast:
        raise GateError(
            f"{what}, which needs aiokafka's private parts; the public path runs: {CHOICE.why}",
            hint=f"pip install '{RANGE}'" if not CHOICE.wanted else f"unset {VARIABLE}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])


def _some(what: Sequence[str]) -> str:
    more = len(what) - _SHOWN
    return "; ".join(what[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


CHOICE: Final = choose(
    aiokafka.__version__, os.environ.get(VARIABLE) or AUTO, tuple(faults(NEEDED)), tuple(faults(FAST))
)
