from itertools import pairwise

import pytest

from gate.shard.usage_schedule import USAGE_RATE, USAGE_SLOTS, UsageSchedule

EVERY = UsageSchedule.EVERY
START = 1_700_000_000_000 * 1_000_000


def play(services: int, seconds: int) -> dict[str, list[int]]:
    """Let that many services be published by what the timetable says, each planned again at once."""
    publication, told = UsageSchedule(START), {}
    for n in range(services):
        publication.plan(f"s{n}", services)
    now = START
    while now < START + seconds * EVERY:
        for name in publication.due(now):
            told.setdefault(name, []).append(now)
            publication.plan(name, services)
        moment = publication.next()
        assert moment > now, "would be looked at for ever"
        now = moment
    return told


@pytest.mark.parametrize("services", [1, 15, 16, 40, 1_000])
def test_each_is_published_at_once_and_then_again_and_again(services):
    told = play(services, 60)
    assert len(told) == services
    slots = min(USAGE_SLOTS, max(1, services // USAGE_RATE))
    for moments in told.values():
        assert moments[0] == START
        assert moments[-1] >= START + (60 - slots) * EVERY
        pauses = {later - earlier for earlier, later in pairwise(moments[1:])}
        assert pauses == {slots * EVERY}


def test_many_share_the_seconds():
    told = play(1_000, 40)
    counts = {}
    for moments in told.values():
        for moment in moments[1:]:
            counts[moment] = counts.get(moment, 0) + 1
    assert max(counts.values()) <= 1_000 / USAGE_SLOTS * 1.3


def test_what_is_not_planned_again_is_not_published():
    publication = UsageSchedule(START)
    publication.plan("s", 1)
    publication.plan("s", 1)
    assert list(publication.due(START)) == ["s"]
    assert publication.next() is None
    assert list(publication.due(START + 100 * EVERY)) == []
