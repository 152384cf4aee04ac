"""Limits of which nobody can hold a part: requests in topics and calls take turns at them."""

from fractions import Fraction

import pytest

from gate.limits import Spec, Window
from gate.units import MS, SECOND
from tests.mesh.checker import over
from tests.mesh.test_arrival import Topic, call
from tests.mesh.world import Mesh

SPECS = {
    "bucket": (Spec(Fraction(1), 1, ()), 60),
    "window": (Spec(Fraction(1), 1, (Window(10, 10 * SECOND),)), 60),
    "slow": (Spec(Fraction(1, 60), 1, ()), 3000),
    "held": (Spec(Fraction(3), 3, ()), 60),  # a part can be held of this one
}


def run(spec: Spec, seconds: int, pause: int) -> tuple[int, int]:
    """Return what requests in topics and calls got while both wanted more than there is."""
    mesh = Mesh({"s": spec}, 1, step=100 * MS)
    Topic(mesh, 5).waiting = 40
    mesh.run(3)
    proc = mesh.proc("p")
    mesh.events.after(0, call, proc, pause)
    mesh.run(seconds)
    assert not over(spec, mesh.uses["s"])
    queue = sum(units for at, units in mesh.by_proc["queue"] if at > 3 * SECOND)
    return queue, sum(units for _, units in mesh.by_proc["p"])


@pytest.mark.parametrize(("spec", "seconds"), list(SPECS.values()), ids=list(SPECS))
def test_neither_takes_all_of_it(spec, seconds):
    queue, calls = run(spec, seconds, 100 * MS)
    assert min(queue, calls) >= 0.4 * seconds * spec.rate
    assert queue + calls >= 0.9 * seconds * spec.rate


@pytest.mark.parametrize("name", ["bucket", "slow"])
def test_who_lets_its_turn_go_by_keeps_nobody_waiting(name):
    spec, seconds = SPECS[name]
    queue, _ = run(spec, seconds, 1500 * MS if name == "bucket" else 97 * SECOND)
    assert queue >= 0.6 * seconds * spec.rate
