# ruff: noqa: SLF001 - copies look into each other
"""Runs of what was admitted within one window, oldest first: exact while it is little, in cells when it is much.

A run is `count` units and an `edge`, the newest time at which one of them may have come. Its units count until
`edge + size`, so an edge that is late is safe and costs capacity.
"""

import sys
from array import array
from collections.abc import Iterator
from typing import ClassVar, Final, Self

from gate.limits.codec import Reader, Writer
from gate.limits.spec import Window

LOG_RUNS: Final = 120  # 16 B each: as large as the cells, so a limit up to 120 is always exact
_BYTE_MAX: Final = 0xFF
CELL_MAX: Final = 0xFFFF  # and the limit up to which a cell counts single units
_BLOCK: Final = 32
_SPAN: Final = 128  # cells that are looked at in one go


class Log:
    """Runs with their exact times."""

    __slots__ = ("_runs",)

    kind: ClassVar = 1

    def __init__(self) -> None:
        self._runs = array("q")  # edge, count, edge, count, ...

    @property
    def full(self) -> bool:
        """Whether a further run would be one too many."""
        return len(self._runs) >= 2 * LOG_RUNS

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._runs[::2], self._runs[1::2], strict=True)

    @property
    def tail(self) -> int:
        """The edge of the oldest run."""
        return self._runs[0]

    @property
    def units(self) -> int:
        """The units of all runs."""
        return sum(self._runs[1::2])

    @staticmethod
    def point(now: int) -> int:
        """Return the edge of a run that begins at `now`: the time itself."""
        return now

    def push(self, edge: int, count: int) -> None:
        """Append a run; its edge is later than all others."""
        self._runs.append(edge)
        self._runs.append(count)

    def expired(self, horizon: int) -> int:
        """Return the units of the runs whose edge is not after `horizon`."""
        runs, cut, freed = self._runs, 0, 0
        size = len(runs)
        while cut < size and runs[cut] <= horizon:
            freed += runs[cut + 1]
            cut += 2
        return freed

    def expire(self, horizon: int) -> tuple[int, int | None]:
        """Drop the runs whose edge is not after `horizon`; return their units and the new tail (None: none left)."""
        runs, cut, freed = self._runs, 0, 0
        size = len(runs)
        while cut < size and runs[cut] <= horizon:
            freed += runs[cut + 1]
            cut += 2
        del runs[:cut]
        return freed, runs[0] if runs else None

    def reach(self, units: int) -> int | None:
        """Return the edge of the run with which the oldest ones make up `units`; None: all are too few."""
        runs = self._runs
        for place in range(0, len(runs), 2):
            units -= runs[place + 1]
            if units <= 0:
                return runs[place]
        return None

    def write(self, out: Writer, last: int) -> None:
        """Write the runs, newest first, each time relative to the next newer, the newest to `last`."""
        runs = self._runs
        numbers = [len(runs) // 2]
        for place in range(len(runs) - 2, -1, -2):
            numbers += last - runs[place], runs[place + 1]
            last = runs[place]
        out.numbers(*numbers)

    def read(self, source: Reader, last: int) -> None:
        """Read what `write` wrote."""
        (length,) = source.numbers(1)
        if not 1 <= length <= LOG_RUNS:
            raise ValueError(f"a log of {length} runs")
        runs = []
        for _ in range(length):
            gap, count = source.numbers(2)
            last -= gap
            runs.append((last, count))
        for edge, count in reversed(runs):
            self.push(edge, count)

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = type(self)()
        twin._runs = self._runs[:]
        return twin


class Ring:
    """Runs rounded up to a grid of `size / cells`, one byte a cell, or two from when one is full.

    Grid point i lies at ceil(i * size / cells), absolute: copies that are charged alike stay alike. A unit that comes
    in (point i - 1, point i] has point i as its edge. What leaves then leaves at point i + cells, itself a grid point,
    so capacity that is taken again as it comes free loses nothing more.

    A cell counts quanta of `limit / 65535` units, rounded up. Units that fill no quantum are carried into the next
    cell: they count longer, never shorter.
    """

    __slots__ = ("_carry", "_cells", "_first", "_last", "_window")

    kind: ClassVar = 2

    def __init__(self, window: Window) -> None:
        # 1,000 makes cells of whole ms where windows are whole seconds; 1,024 leaves room for what quanta lose.
        cells = 1000 if window.limit <= CELL_MAX else 1024
        self._window = window
        self._cells = array("B", (0,)) * (cells + 1)  # one more: `now` may cut through the oldest and the newest
        self._carry = 0
        self._first = 0
        self._last = -1  # before _first: no runs

    def point(self, now: int) -> int:
        """Return the edge of a run that begins at `now`: the first grid time that is not before it."""
        return self._edge(self._index(now))

    @property
    def _quantum(self) -> int:
        return -(-self._window.limit // CELL_MAX)

    def _index(self, time: int) -> int:
        return (time - 1) * (len(self._cells) - 1) // self._window.size + 1

    def _edge(self, index: int) -> int:
        return -(-index * self._window.size // (len(self._cells) - 1))

    full: ClassVar = False

    def __iter__(self) -> Iterator[tuple[int, int]]:
        cells, around = self._cells, len(self._cells)
        for index in range(self._first, self._last + 1):
            count = cells[index % around] * self._quantum + (self._carry if index == self._last else 0)
            if count:
                yield self._edge(index), count

    @property
    def tail(self) -> int:
        """The edge of the oldest run."""
        return self._edge(self._first)

    @property
    def units(self) -> int:
        """The units of all runs."""
        return sum(self._cells) * self._quantum + self._carry

    def push(self, edge: int, count: int) -> None:
        """Append a run. What came a window before `edge` must have expired, or it would share its cell."""
        index = self._index(edge)
        if self._first > self._last:
            self._first = index
        self._last = index
        quantum = self._quantum
        quanta, self._carry = divmod(count + self._carry, quantum)
        place = index % len(self._cells)
        quanta += self._cells[place]
        if quanta > _BYTE_MAX and self._cells.itemsize == 1:
            self._cells = array("H", self._cells)[:]  # a slice has no room to spare
        if quanta > CELL_MAX:  # charged without asking, far above the limit
            self._carry += (quanta - CELL_MAX) * quantum
            quanta = CELL_MAX
        self._cells[place] = quanta

    def expire(self, horizon: int) -> tuple[int, int | None]:
        """Drop the runs whose edge is not after `horizon`; return their units and the new tail (None: none left)."""
        cells, around, first, last = self._cells, len(self._cells), self._first, self._last
        dead = horizon * (around - 1) // self._window.size
        quanta = 0
        while first <= last:
            place = first % around
            if not cells[place] and first < last:
                first = self._behind_empty(first)
            elif first <= dead:
                quanta += cells[place]
                cells[place] = 0
                first += 1
            else:
                break
        self._first = first
        freed = quanta * self._quantum
        if first <= last:
            return freed, self._edge(first)
        freed += self._carry
        self._carry = 0
        return freed, None

    def expired(self, horizon: int) -> int:
        """Return the units of the runs whose edge is not after `horizon`."""
        cells, around, first, last = self._cells, len(self._cells), self._first, self._last
        end = min(last, horizon * (around - 1) // self._window.size) + 1  # behind the newest that is not after it
        if first >= end:
            return 0
        start, stop = first % around, end % around
        quanta = sum(cells[start:stop]) if start < stop else sum(cells[start:]) + sum(cells[:stop])
        return quanta * self._quantum + (self._carry if end > last else 0)

    def _behind_empty(self, index: int) -> int:
        """Pass over empty cells, many at once in C; return the next that is not, or the newest."""
        cells, around, last = self._cells, len(self._cells), self._last
        while index < last:
            start = index % around
            span = cells[start : min(start + _SPAN, start + last - index)].tobytes()  # ends where the ring does
            rest = span.lstrip(b"\0")
            index += (len(span) - len(rest)) // cells.itemsize
            if rest:
                break
        return index

    def reach(self, units: int) -> int | None:
        """Return the edge of the run with which the oldest ones make up `units`; None: all are too few."""
        cells, around, index = self._cells, len(self._cells), self._first
        quanta = -(-units // self._quantum)
        if cells[index % around] < quanta:
            index, quanta = self._skip(quanta)
        while index <= self._last:
            quanta -= cells[index % around]
            if quanta <= 0:
                return self._edge(index)
            index += 1
        carried = units - sum(cells) * self._quantum <= self._carry
        return self._edge(self._last) if carried else None

    def _skip(self, quanta: int) -> tuple[int, int]:
        """Pass over whole blocks of cells, summed in C, that make up less than `quanta`; return where, and the rest."""
        cells, around, index = self._cells, len(self._cells), self._first
        while index + _BLOCK <= self._last:
            start = index % around
            stop = min(start + _BLOCK, around)
            block = sum(cells[start:stop])
            if block >= quanta:
                break
            quanta -= block
            index += stop - start
        return index, quanta

    def write(self, out: Writer, last: int) -> None:
        """Write the cells from the oldest to the newest as they are, little-endian."""
        cells, around = self._cells, len(self._cells)
        span = array(cells.typecode, (cells[index % around] for index in range(self._first, self._last + 1)))
        if sys.byteorder == "big":
            span.byteswap()
        out.numbers(self._index(last) - self._last, self._carry, span.itemsize)
        out.raw(span.tobytes())

    def read(self, source: Reader, last: int) -> None:
        """Read what `write` wrote."""
        behind, self._carry, width = source.numbers(3)
        if width not in (1, 2):
            raise ValueError(f"a ring with cells of {width} bytes")
        span = array("B" if width == 1 else "H", source.raw())
        if sys.byteorder == "big":
            span.byteswap()
        around = len(self._cells)
        if len(span) > around:
            raise ValueError(f"a ring of {len(span)} cells")
        if not span:
            return
        self._cells = array(span.typecode, (0,)) * around
        self._last = self._index(last) - behind
        self._first = self._last - len(span) + 1
        for index, count in enumerate(span, self._first):
            self._cells[index % around] = count

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = object.__new__(type(self))
        for name in Ring.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._cells = self._cells[:]
        return twin


class LastingRing(Ring):
    """Cells that stay when the window is empty: a copy that is charged ahead goes on promising by them."""

    __slots__ = ()

    kind: ClassVar = 3
