"""Read-ahead of scheduled requests: asked for a moment before they are due, each once."""

from gate.shard.read_ahead import AHEAD, ReadAhead
from gate.units import MS

NOW = 1_764_000_000_000 * MS
AHEAD_MS = AHEAD // MS


def test_it_begins_a_moment_before_the_first_is_due():
    ahead = ReadAhead()
    start = NOW // MS + 10_000
    ahead.plan("pay", start)
    assert ahead.next() == start * MS - AHEAD
    assert ahead.take(ahead.next() - MS) == {}
    assert ahead.take(ahead.next()) == {"pay": (0, start)}
    assert ahead.next() is None


def test_it_goes_on_where_it_ended_before_that_is_due():
    ahead = ReadAhead()
    ahead.plan("pay", NOW // MS)
    assert ahead.take(NOW) == {"pay": (0, NOW // MS + AHEAD_MS)}
    ahead.plan("pay", NOW // MS + 1)
    half = ahead.next()
    assert half == NOW + AHEAD // 2
    assert ahead.take(half) == {"pay": (NOW // MS + AHEAD_MS, NOW // MS + AHEAD_MS + AHEAD_MS // 2)}


def test_where_nothing_is_scheduled_there_is_nothing_to_do():
    ahead = ReadAhead()
    ahead.plan("pay", None)
    assert ahead.next() is None
