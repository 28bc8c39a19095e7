import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Goal, Measure, percentile, rotated


def test_a_figure_is_the_median_of_its_rounds() -> None:
    measure = Measure("rate", "1/s", [5, 1, 9])

    assert measure.value == 5
    assert measure.spread == (1, 9)


def test_a_ratio_is_paired_by_round_so_that_a_slow_minute_hits_both_sides() -> None:
    ours, theirs = [100, 10, 50], [50, 5, 25]

    assert Measure("rate", "1/s", ours).ratio(theirs) == 2


def test_a_ratio_above_one_is_better_also_where_less_is() -> None:
    measure = Measure("p50", "ms", [5, 5], higher=False)

    assert measure.ratio([10, 10]) == 2


@pytest.mark.parametrize(
    ("measure", "met"),
    [
        (Measure("rate", "1/s", [400], goal=Goal(400)), True),
        (Measure("rate", "1/s", [399], goal=Goal(400)), False),
        (Measure("p50", "ms", [10], higher=False, goal=Goal(10)), True),
        (Measure("p50", "ms", [11], higher=False, goal=Goal(10)), False),
        (Measure("rate", "1/s", [6], goal=Goal(2, "naive"), peers={"naive": [3]}), True),
        (Measure("rate", "1/s", [5], goal=Goal(2, "naive"), peers={"naive": [3]}), False),
        (Measure("rate", "1/s", [5]), None),
    ],
)
def test_a_goal_bounds_the_value_or_the_ratio_to_a_peer(measure: Measure, met: bool | None) -> None:
    assert measure.is_met is met


def test_a_latency_that_never_ended_misses_its_goal() -> None:
    measure = Measure("p50", "ms", [math.inf], higher=False, goal=Goal(10))

    assert measure.is_met is False


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def test_a_percentile_of_nothing_is_infinite_so_that_no_answer_is_no_good_answer() -> None:
    assert percentile([], 0.5) == math.inf


def test_each_variant_comes_first_in_its_turn() -> None:
    orders = [rotated(["a", "b", "c"], turn) for turn in range(3)]

    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
