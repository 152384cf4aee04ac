"""The screen of the demonstration: a live table on a terminal, a line now and then elsewhere, and the summary."""

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gate.cli.demo.calls import PROCESSES, SERVICE, Calls
from gate.cli.demo.scenario import PARTS
from gate.cli.demo.tally import Ledger, Tally, percentile
from gate.limits import Spec
from gate.policy.wording import spell_spec
from gate.protocol.alert_types import OPENED, RESOLVED

_ALERTS: Final = 8  # that are shown at a time
_RATE_SECONDS: Final = 2.0
_CALLS: Final = "calls"
_PLAIN_EVERY: Final = 3.0  # seconds
_CAVEAT: Final = "A demonstration: one broker, one copy of everything, no encryption, no passwords. Not for production."
CHECKED: Final = (
    "Checked: each request ended exactly once, unchanged; no bucket and no window was exceeded at any time; none was "
    f"admitted before its gate-not-before, but of {SERVICE} when calls wanted less; each breach was opened once and "
    f"resolved; the worker did all that was admitted; what came by call and by topic to {SERVICE} kept to its limit."
)
_COLUMNS: Final = (
    "submitted", "admitted", "delayed_then_admitted", "rejected", "waiting", "breaches", "resolved", "worked",
)  # fmt: skip
_SHORT: Final = {"delayed_then_admitted": "later"}
_MOODS: Final[Mapping[str, str]] = {part.service: part.mood for part in PARTS}


class Screen:
    """The state of the play, for people."""

    def __init__(self, console: Console, tally: Tally, specs: Mapping[str, Spec], url: str, calls: Calls) -> None:
        self._console = console
        self._tally = tally
        self._specs = specs
        self._url = url
        self._calls = calls
        self._started = time.monotonic()
        self._history: deque[tuple[float, dict[str, int]]] = deque()
        self._alerts: deque[Text] = deque(maxlen=_ALERTS)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._line_due = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._say(f"console of the gate: {self._url}")
            self._say(_CAVEAT)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, said: str) -> None:
        """Show what the alert consumer says."""
        style = "bold red" if OPENED in said else "bold green" if RESOLVED in said else "yellow"
        line = Text(said, style=style)
        self._alerts.append(line)
        if self._live is None:
            self._say(line)

    def refresh(self) -> None:
        """Show how things are now."""
        now = time.monotonic()
        self._calls.read()
        seen = {name: len(ledger.requests) for name, ledger in self._tally.ledgers.items()}
        self._history.append((now, seen | {_CALLS: self._calls.asked}))
        while now - self._history[0][0] > _RATE_SECONDS:
            self._history.popleft()
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif now >= self._line_due:
            self._line_due = now + _PLAIN_EVERY
            for line in self._lines():
                self._say(line)

    def _say(self, line: str | Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)

    def _picture(self) -> RenderableType:
        table = Table(
            box=box.SIMPLE_HEAD, padding=0, title=f"Admission gate, {self._seconds():.0f} s", title_justify="left"
        )
        table.add_column("service", min_width=28)
        for column in ("offered/s", "admitted", "waiting", "next, last in", "rejected"):
            table.add_column(column, justify="right")
        for name, ledger in self._tally.ledgers.items():
            state = ("  in breach", "bold red") if ledger.breach else ("  no breach", "green")
            head = Text.assemble((name, "bold"), f" {_MOODS.get(name, '')}", state)
            table.add_row(
                Group(head, Text(spell_spec(self._specs[name]), style="dim")),
                f"{self._offered(name):.0f}",
                f"{len(ledger.admitted)}",
                f"{len(ledger.waiting)}",
                _etas(ledger),
                f"{len(ledger.rejected)}",
            )
        table.add_row(
            Group(
                Text(f"{PROCESSES} processes call", style="bold"), Text(f"within the limit of {SERVICE}", style="dim")
            ),
            f"{self._offered(_CALLS):.0f}",
            f"{len(self._calls.uses)}",
            "",
            "",
            f"{self._calls.refused}",
        )
        alerts = self._alerts or [Text("none yet", style="dim")]
        return Group(
            table, Text("alerts", style="bold"), *alerts, Text(f"\nconsole: {self._url}"), Text(_CAVEAT, style="dim")
        )

    def _lines(self) -> list[str]:
        """Return one line per service, and one for the calls, each of at most 80 columns."""
        heads = [f"{self._seconds():4.0f} s  ", *[" " * 8] * len(self._tally.ledgers)]
        said = [
            f"{name}: {self._offered(name):.0f}/s come, {len(ledger.admitted)} admitted, {len(ledger.waiting)} wait"
            f"{f' ({_etas(ledger)})' if ledger.waiting else ''}, {len(ledger.rejected)} rejected"
            for name, ledger in self._tally.ledgers.items()
        ]
        said.append(
            f"calls to {SERVICE}: {self._offered(_CALLS):.0f}/s, {len(self._calls.uses)} allowed, "
            f"{self._calls.refused} refused"
        )
        return [head + text for head, text in zip(heads, said, strict=True)]

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _offered(self, service: str) -> float:
        (begin, before), (end, after) = self._history[0], self._history[-1]
        return (after[service] - before[service]) / (end - begin) if end > begin else 0.0


def _etas(ledger: Ledger) -> str:
    if not ledger.waiting:
        return ""
    now = time.time() * 1000
    times = [place.not_before_ms for place in ledger.waiting.values()]
    return ", ".join(f"{max(0.0, moment - now) / 1000:.1f}" for moment in (min(times), max(times))) + " s"


def summary(tally: Tally, worked: Mapping[str, Collection[str]], calls: Calls) -> Table:
    """Return the sums of all services, as the topics give them, and of the calls, as the callers tell."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,  # fits into 80 columns
        title="Counted from the topics:",
        title_justify="left",
        caption=(
            "later: of the admitted, those that waited in the delayed topic first\n"
            f"calls: of {PROCESSES} processes that ask before they act, within the limit of {SERVICE}"
        ),
        caption_justify="left",
    )
    table.add_column("service")
    for column in _COLUMNS:
        table.add_column(_SHORT.get(column, column), justify="right", no_wrap=True)
    rows = {name: one.values() for name, one in sums(tally, worked).items()}
    for name, row in rows.items():
        table.add_row(Text(name, style="bold"), *map(str, row))
    table.add_section()
    table.add_row("all", *(str(sum(column)) for column in zip(*rows.values(), strict=True)))
    table.add_section()
    table.add_row("calls", str(calls.asked), str(len(calls.uses)), "", str(calls.refused))
    return table


def sums(tally: Tally, worked: Mapping[str, Collection[str]]) -> dict[str, dict[str, int]]:
    """Return the same by service and column."""
    return {
        name: dict(zip(_COLUMNS, _sums(ledger, len(worked[name])), strict=True))
        for name, ledger in tally.ledgers.items()
    }


def remarks(tally: Tally) -> list[str]:
    """Return why requests were rejected, and how late parked ones were released."""
    lines = []
    for name, ledger in tally.ledgers.items():
        if reasons := ledger.reasons():
            lines.append(f"{name}: rejected for {', '.join(f'{why} {count}' for why, count in reasons.most_common())}")
    decided, seen = (sorted(lags) for lags in zip(*(ledger.lags() for ledger in tally.ledgers.values()), strict=True))
    by_stamp, by_consumer = (sorted(lag for lags in side for lag in lags) for side in (decided, seen))
    if by_stamp:
        lines.append(
            f"release lag of {len(by_stamp)} parked requests: p50 {percentile(by_stamp, 0.5)} ms, "
            f"p99 {percentile(by_stamp, 0.99)} ms after their gate-not-before by the gate's stamp; "
            f"p50 {percentile(by_consumer, 0.5)} ms, p99 {percentile(by_consumer, 0.99)} ms as a consumer saw it"
        )
    return lines


def _sums(ledger: Ledger, worked: int) -> Sequence[int]:
    return (
        len(ledger.requests),
        len(ledger.admitted),
        len(ledger.delayed_then_admitted),
        len(ledger.rejected),
        len(ledger.waiting),
        len(ledger.opened),
        len(ledger.resolved),
        worked,
    )
