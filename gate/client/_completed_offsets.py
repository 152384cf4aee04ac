"""Completed offsets behind the first unfinished record of a partition, as text in the metadata of a committed offset.

A committed offset says only that all before it is done. One slow job holds it back, and whoever reads the partition
next would do all again that was done behind it. So the rest is noted: runs of `gap+length`, each counted from the end
of the one before it, as in `done:1+3,2+10`.
"""

import re
from collections.abc import Iterable
from typing import Final

_MAX_CHARACTERS: Final = 4_000  # the broker takes 4,096 bytes (offset.metadata.max.bytes)
_RUN: Final = re.compile(r"([0-9]{1,18})\+([0-9]{1,18})")
_HEAD: Final = "done:"


def encode(base: int, done: Iterable[range]) -> str:
    """Note ascending runs of offsets after `base`; those that do not fit are left out, and will be done again."""
    text, end = "", base
    for run in done:
        more = f"{text}{',' if text else _HEAD}{run.start - end}+{len(run)}"
        if len(more) > _MAX_CHARACTERS:
            break
        text, end = more, run.stop
    return text


def decode(base: int, text: str | None) -> list[range]:
    """Read the runs after `base`; none where the text is something else."""
    if text is None or not text.startswith(_HEAD):
        return []
    runs, end = [], base
    for part in text.removeprefix(_HEAD).split(","):
        if (found := _RUN.fullmatch(part)) is None:
            return []
        start = end + int(found[1])
        end = start + int(found[2])
        runs.append(range(start, end))
    return runs


def extend(base: int, text: str | None, done: Iterable[int]) -> tuple[int, str]:
    """Return what to commit where `base` and `text` are committed, and `done` is done as well."""
    runs = sorted([*decode(base, text), *(range(offset, offset + 1) for offset in done)], key=lambda run: run.start)
    left: list[range] = []
    for run in runs:
        if run.start <= base:
            base = max(base, run.stop)
        elif left and run.start <= left[-1].stop:
            left[-1] = range(left[-1].start, max(left[-1].stop, run.stop))
        else:
            left.append(run)
    return base, encode(base, left)
