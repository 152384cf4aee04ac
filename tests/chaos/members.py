"""Gates as real processes, living and dying as a plan says. All that happens is noted with its time."""

import asyncio
import re
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from tests.chaos.faults import End, Fate, Plan
from tests.system.gates import GateProcess

POLL = 0.01
LAST = 0.97  # of the plan when the last fates have begun
START_DEADLINE = 40.0
POINT_PATIENCE = 6.0  # beyond its time, for a gate to come to its point; then it is killed where it stands
FAKETIME = next((str(p) for p in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
ASSIGNED = re.compile(r"assigned .*?shards=\[([\d, ]*)\]")


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that was done to a gate or to the broker, or that is its consequence. Times are unix seconds."""

    at: float
    kind: str  # an End, a point's name, "start", "resume", "broker"
    member: str = ""
    shards: frozenset[int] = frozenset()  # owned by the member at that time
    until: float = 0.0  # of the broker: when it was back


def altered(clock: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return program and environment of a gate whose wall clock is off by `clock` seconds."""
    if not clock:
        return ("-m", "gate"), {}
    if FAKETIME is None:
        return ("-m", "tests.chaos.altered", "--clock", str(clock)), {}
    return ("-m", "gate"), {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{clock:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclass
class Members:
    """The places in which gates live. `run` ends when all fates are spent and a last gate lives in each place."""

    folder: Path
    bootstrap: str
    prefix: str
    policy: str
    plan: Plan
    say: Callable[[str], None] = lambda _: None
    incidents: list[Incident] = field(default_factory=list)
    living: dict[int, GateProcess] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)
    missed: int = 0  # points that were not come to in time
    broker: asyncio.Event = field(default_factory=asyncio.Event)  # set while it serves
    ways: Mapping[int, str] = field(default_factory=dict)  # bootstrap of places that have one of their own
    options: tuple[str, ...] = ()  # of `gate run`

    def __post_init__(self) -> None:
        self._fates = deque(self.plan.fates)
        self._begun = monotonic()
        self._names = 0
        self._late = self._done = False
        self.broker.set()

    def note(self, kind: str, member: str = "", shards: frozenset[int] = frozenset(), until: float = 0.0) -> Incident:
        incident = Incident(time(), kind, member, shards, until)
        self.incidents.append(incident)
        owned = " ".join(map(str, sorted(shards)))
        self.say(f"{monotonic() - self._begun:7.2f} s  {member or '-':8} {kind}{f'  shards {owned}' if owned else ''}")
        return incident

    async def run(self, places: int) -> None:
        """Fill `places` and let gates live and die in them."""
        async with asyncio.TaskGroup() as group:
            for place in range(places):
                group.create_task(self._dwell(place))
        self._done = True

    def progress(self) -> float:
        """Return how much of the plan has been carried out, 0 to 1."""
        return 1.0 if self._done else LAST * (1 - len(self._fates) / (1 + len(self.plan.fates)))

    async def _dwell(self, place: int) -> None:
        while True:
            fate = self._fates.popleft() if self._fates else Fate()
            self._names += 1
            name = f"gate{self._names}"
            process = self.living[place] = self._start(name, fate, place)
            await self._live(name, process, fate)
            if fate.end is End.NONE:
                return
            process.close()
            await asyncio.sleep(fate.back)

    def replace(self, place: int) -> None:
        """Kill the gate of a place, and start another one there; both at once."""
        process = self.living[place]
        self.note("kill", process.log.parent.name, owned(process))
        process.kill()
        process.close()
        self._names += 1
        self.living[place] = self._start(f"gate{self._names}", Fate(), place)

    def _start(self, name: str, fate: Fate, place: int) -> GateProcess:
        program, env = altered(fate.clock)
        if fate.end is End.POINT:
            env |= {"GATE_FAILPOINT": f"{fate.point}:{fate.count}"}
        folder = self.folder / name
        folder.mkdir()
        bootstrap = self.ways.get(place, self.bootstrap)
        process = GateProcess(folder, bootstrap, self.prefix, self.policy, *self.options, env=env, program=program)
        self.logs.append(process.log)
        self.note(f"start, {fate}" if fate.end is not End.NONE else "start", name)
        return process

    async def _live(self, name: str, process: GateProcess, fate: Fate) -> None:
        end = monotonic() + START_DEADLINE
        while "assigned" not in process.text() and process.process.poll() is None:
            if monotonic() > end:
                raise AssertionError(f"{name} did not start:\n{process.text()}")
            if not self.broker.is_set():
                end = monotonic() + START_DEADLINE
            await asyncio.sleep(POLL)
        if fate.end is End.NONE:
            return
        await self._exists(process, fate.after + (POINT_PATIENCE if fate.end is End.POINT else 0))
        if fate.end is End.PAUSE and process.process.poll() is None:
            self.note(f"pause for {fate.pause:.1f} s", name, owned(process))
            process.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fate.pause)
            process.process.send_signal(signal.SIGCONT)
            self.note("resume", name)
            await self._exists(process, fate.after)
        code = process.process.poll()
        if code is not None and not (fate.end is End.POINT and code == -signal.SIGKILL):
            raise AssertionError(f"{name} ended by itself with code {code}:\n{process.text()}")
        if code is not None:
            self.note(fate.point, name, owned(process))
        elif fate.end in {End.LEAVE, End.PAUSE}:
            self.note("leave", name, owned(process))
            process.process.send_signal(signal.SIGTERM)
            await self._exists(process, START_DEADLINE)
            if process.process.poll() != 0:
                raise AssertionError(f"{name} did not leave: {process.process.poll()}\n{process.text()}")
        else:
            if fate.end is End.POINT:
                self.missed += 1
                if not self._late:
                    self._fates.append(Fate(End.POINT, fate.after, fate.point, max(1, fate.count // 4)))
            self.note("kill", name, owned(process))
            process.kill()

    @staticmethod
    async def _exists(process: GateProcess, seconds: float) -> None:
        """Wait until the process has ended, at most `seconds`."""
        end = monotonic() + seconds
        while process.process.poll() is None and monotonic() < end:
            await asyncio.sleep(POLL)

    def give_up(self) -> None:
        """Begin no further fate: the run takes too long."""
        self._fates.clear()
        self._late = True

    def stop(self) -> None:
        """Let all leave, and wait for it."""
        for process in self.living.values():
            if process.process.poll() is None:
                process.process.send_signal(signal.SIGTERM)
        for process in self.living.values():
            code = process.process.wait(30)
            assert code == 0, f"a gate ended with {code}:\n{process.text()}"

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self.living.values():
            if process.process.poll() is None:
                process.process.send_signal(signal.SIGCONT)
            process.close()


def owned(process: GateProcess) -> frozenset[int]:
    """Return the shards that a gate was given last, as its log says."""
    found = ASSIGNED.findall(process.text())
    return frozenset(int(number) for number in found[-1].split(",")) if found and found[-1] else frozenset()


def counts(incidents: list[Incident]) -> Mapping[str, int]:
    """Count incidents by kind."""
    result: dict[str, int] = {}
    for incident in incidents:
        kind = incident.kind.split(" for ")[0].split(",")[0]
        result[kind] = result.get(kind, 0) + 1
    return result
