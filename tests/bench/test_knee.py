import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.knee import STEP, Search


def found(search: Search, bears: float) -> float:
    """What the search finds of a system that bears so many a second."""
    while search.rate is not None:
        search.tell(search.rate <= bears)
    return search.found


@given(st.floats(10, 4_000), st.floats(10, 4_000))
def test_the_knee_is_found_within_a_step_wherever_the_search_begins(
    bears: float, start: float
) -> None:
    knee = found(Search(start), bears)

    assert knee <= bears
    assert knee * STEP * 1.001 >= bears


def test_a_system_that_bears_nothing_ends_the_search_with_nothing() -> None:
    assert found(Search(200), bears=0) == 0


def test_a_system_that_bears_everything_ends_the_search_at_its_highest() -> None:
    knee = found(Search(200, highest=1_000), bears=10_000)

    assert 1_000 / STEP < knee <= 1_000


def test_a_search_that_is_over_takes_nothing_more() -> None:
    search = Search(200)
    found(search, bears=300)

    with pytest.raises(ValueError, match="over"):
        search.tell(True)
