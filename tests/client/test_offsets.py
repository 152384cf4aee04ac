import doctest
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.client._offsets import Offsets


def test_the_example_holds():
    assert doctest.testmod(import_module(Offsets.__module__)).attempted > 5
    assert doctest.testmod(import_module(Offsets.__module__)).failed == 0


@given(st.sets(st.integers(0, 1000), min_size=1).map(sorted), st.randoms())
def test_only_what_is_done_is_committable(started, random):
    offsets = Offsets()
    for offset in started:
        offsets.start(offset)
    left = set(started)
    for offset in random.sample(started, len(started)):
        offsets.done(offset)
        left.remove(offset)
        done_before_all_left = [o for o in started if not left or o < min(left)]
        assert offsets.committable == (done_before_all_left[-1] + 1 if done_before_all_left else None)
        assert offsets.pending == len(started) - len(done_before_all_left)


def test_offsets_ascend():
    offsets = Offsets()
    offsets.start(5)
    with pytest.raises(ValueError, match="offset 5 comes after 5"):
        offsets.start(5)
