"""Division of a limit: fair, whole, and even over the turns."""

from hypothesis import given
from hypothesis import strategies as st

from gate.mesh.division import PHASES, apportion, fill, parts

AMOUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=30)


@given(st.integers(0, 10**9), AMOUNTS)
def test_water_filling_is_max_min_fair(capacity, wants):
    amounts = fill(capacity, wants)
    assert sum(amounts) <= capacity
    if 0 < sum(wants) <= capacity:
        assert all(amount >= want for amount, want in zip(amounts, wants, strict=True))
    elif sum(wants):
        assert sum(amounts) >= capacity - len(wants)
        hungry = [amount for amount, want in zip(amounts, wants, strict=True) if amount < want]
        assert all(amount <= min(hungry) + 1 for amount in amounts)


@given(st.integers(0, 10**6), AMOUNTS.filter(any), st.integers(0, PHASES - 1))
def test_whole_units_sum_up_and_are_within_one(total, weights, begin):
    units = apportion(total, weights, begin)
    assert sum(units) == total
    for unit, weight in zip(units, weights, strict=True):
        assert abs(unit * sum(weights) - total * weight) < sum(weights)


def test_the_rest_goes_round():
    turns = [parts((3, 3), [1] * 5, turn) for turn in range(5)]
    assert all(sum(any(turn[place]) for turn in turns) == 3 for place in range(5))


@given(
    st.tuples(st.integers(0, 10**12), st.integers(1, 1000), st.integers(1, 1000)),
    AMOUNTS,
    st.integers(0, 10**9),
)
def test_parts_sum_to_the_whole_and_none_is_worth_nothing(whole, weights, turn):
    shares = parts(whole, weights, turn)
    for place, limit in enumerate(whole):
        assert sum(share[place] for share in shares) <= limit
    for share, weight in zip(shares, weights, strict=True):
        assert not any(share) or (weight and all(share[1:]))
    if any(weights):
        assert sum(share[1] for share in shares) == whole[1]
