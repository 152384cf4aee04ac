"""How well a limit is used, shared and moved, beside one central limiter that gets the same calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from gate.limits import Limiter, Spec, Window
from gate.units import SECOND
from tests.mesh.checker import jain, over
from tests.mesh.world import Mesh, Proc

NAMES = ("s",)


@dataclass
class Figure:
    used: float  # of what the limits allow
    central: float  # of what one central limiter admitted
    jain: float  # over a window, or a minute if that is longer
    problems: list[str]
    messages_per_second: float


def measure(
    spec: Spec,
    loads: Sequence[Callable[[float], float]],
    seconds: float,
    warm: float,
    *,
    seed: int = 0,
) -> Figure:
    """Let each process call as often per second as its load says of the time in seconds."""
    mesh = Mesh({"s": spec}, seed)
    central = Limiter(spec, 0)
    admitted = 0
    begin = round(warm * SECOND)
    procs = [mesh.proc(f"p{number}") for number in range(len(loads))]

    def call(proc: Proc, load: Callable[[float], float]) -> None:
        nonlocal admitted
        now = mesh.events.now
        taken = central.try_take(now) is None
        admitted += taken and now >= begin
        proc.check(NAMES)
        mesh.events.after(1 + round(mesh.random.expovariate(load(now / SECOND)) * SECOND), call, proc, load)

    for proc, load in zip(procs, loads, strict=True):
        mesh.events.after(mesh.random.randint(0, SECOND), call, proc, load)
    mesh.run(seconds)
    flows = [window.per_second for window in spec.windows] + ([] if spec.rate is None else [float(spec.rate)])
    used = sum(units for time, units in mesh.uses["s"] if time >= begin)
    span = max([60 * SECOND, *[window.size for window in spec.windows]])
    first = max(begin, mesh.events.now - span)
    amounts = [sum(units for time, units in mesh.by_proc[proc.name] if time >= first) for proc in procs]
    return Figure(
        used / (min(flows) * (seconds - warm)),
        used / max(1, admitted),
        jain(amounts),
        over(spec, mesh.uses["s"]),
        mesh.messages / seconds,
    )


def steady(total: float, count: int) -> list[Callable[[float], float]]:
    return [lambda _: total / count] * count


def shifting(total: float, count: int, at: float) -> list[Callable[[float], float]]:
    """Half of the processes make nine tenths of the calls until then, and one tenth from then on."""
    half = count // 2
    much, little = total * 0.9 / half, total * 0.1 / (count - half)
    first = [lambda time: much if time < at else little] * half
    return first + [lambda time: little if time < at else much] * (count - half)


def per_window(seconds: int, rate: int) -> Spec:
    return Spec(Fraction(rate), max(10, rate), (Window(rate * seconds, seconds * SECOND),))


RARE = Spec(Fraction(1, 60), 1, (Window(1, 60 * SECOND),))
THREE = Spec(Fraction(3), 3, (Window(3, SECOND),))


def table() -> None:
    """Print all figures."""
    print(f"{'':44} {'used':>7} {'central':>8} {'Jain':>6} {'over':>5} {'msg/s':>6}", flush=True)

    def show(name: str, figure: Figure) -> None:
        over_limit = len(figure.problems)
        print(
            f"{name:44} {figure.used:7.4f} {figure.central:8.4f} {figure.jain:6.4f} {over_limit:5} "
            f"{figure.messages_per_second:6.1f}",
            flush=True,
        )

    for window, rate, seconds, warm in (
        (1, 100, 120, 20),
        (10, 100, 140, 20),
        (60, 20, 360, 120),
        (3600, 1, 12_800, 5_600),  # what was used at once comes free at once: whole turns of that
    ):
        spec = per_window(window, rate)
        show(f"{rate * window} per {window} s, 10 processes", measure(spec, steady(10 * rate, 10), seconds, warm))
        alone = Spec(None, 1, spec.windows)
        show("  the window alone", measure(alone, steady(10 * rate, 10), seconds, warm))
    show("1 per minute, 50 processes", measure(RARE, steady(50, 50), 1800, 60))
    show("3 per second, 5 processes", measure(THREE, steady(30, 5), 200, 20))
    for name, spec, count in (
        ("bucket of 100 at 100/s", Spec(Fraction(100), 100, ()), 6),
        ("100 per 1 s", per_window(1, 100), 2),
        ("1000 per 10 s", Spec(None, 1, (Window(1000, 10 * SECOND),)), 6),
        ("6000 per 60 s", Spec(None, 1, (Window(6000, 60 * SECOND),)), 6),
    ):
        show(f"{name}, {count} processes, 90/10 turned", measure(spec, shifting(150, count, 120), 250, 130))
