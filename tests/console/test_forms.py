"""What a form says, as arguments of a command; each refusal says why."""

import pytest

from gate.client import Filter
from gate.console.forms import RefusedError, filter_of, limit_of, seconds_of


def test_a_filter_is_all_that_is_given():
    form = {"lane": "low", "tenant": " acme ", "older_than": "15m", "keep_newest": "10", "key": "", "reason": "x"}
    assert filter_of(form) == Filter(lane="low", tenant="acme", older_than=900, keep_newest=10)
    assert filter_of({"request": "gate.requests.pay-0@1"}) == Filter(id="gate.requests.pay-0@1")
    assert filter_of({"producer_id": "order-1", "key": "k"}) == Filter(producer_id="order-1", key="k")
    assert filter_of({"all": "all"}) == Filter(everything=True)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({}, "nothing says which requests are meant"),
        ({"keep_newest": "10"}, "nothing says which requests are meant"),
        ({"lane": "low", "keep_newest": "-1"}, "keep_newest is a whole number, not '-1'"),
        ({"older_than": "soon"}, "for how long"),
    ],
)
def test_a_filter_that_is_none_is_refused(form, why):
    with pytest.raises(RefusedError, match=why):
        filter_of(form)


def test_a_limit_is_what_is_given():
    assert limit_of({"requests_per_second": "10/min", "burst_size": "5"}) == {
        "requests_per_second": "10/min", "burst_size": 5, "window_size": None, "window_limit": None,
    }  # fmt: skip
    with pytest.raises(RefusedError, match="no limit is given"):
        limit_of({"requests_per_second": " "})
    with pytest.raises(RefusedError, match="burst_size is a whole number"):
        limit_of({"burst_size": "many"})


def test_nothing_lasts_for_good():
    assert seconds_of("15m") == 900
    with pytest.raises(RefusedError, match="a limit lasts for more than 0 seconds and at most 30 days"):
        seconds_of("31d", "a limit")
