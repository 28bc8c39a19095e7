import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_sync.shapes import FIRST, NEWS, WEIGHT, Room, Shape, better


@pytest.mark.parametrize(
    ("lengths", "ended", "found"),
    [
        ([20] * 125, False, None),
        ([2] * 125, False, Shape(500, 2)),
        ([90] * 20, True, Shape(25, 100)),
        ([1_000], True, None),
        ([2] * 60, True, None),
        ([], False, None),
    ],
)
def test_another_shape_is_taken_where_it_saves_calls(
    lengths: list[int], ended: bool, found: Shape | None
) -> None:
    assert better(Room(), FIRST, lengths, ended=ended) == found


def test_long_threads_that_are_the_newest_say_nothing_of_the_rest() -> None:
    assert better(Room(), FIRST, [1_000] * 20 + [20] * 105, ended=False) is None


def test_a_page_that_takes_less_gets_fewer_threads_a_call() -> None:
    room = Room(weight=620)

    assert room.within(FIRST) == Shape(31, 20)
    assert room.within(NEWS) == NEWS


def test_a_page_that_takes_one_thread_a_call_is_left_at_that() -> None:
    assert better(Room(weight=20), Shape(1, 20), [3] * 5, ended=False) is None


@given(st.integers(1, WEIGHT), st.integers(1, 500), st.integers(1, 500))
def test_no_shape_is_larger_than_its_room(weight: int, threads: int, messages: int) -> None:
    shape = Room(weight).within(Shape(threads, messages))

    assert 1 <= shape.weight <= weight


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=60), st.booleans())
def test_the_best_shape_costs_no_more_than_the_first(lengths: list[int], ended: bool) -> None:
    room = Room()

    _, calls = room.best(lengths, ended=ended)

    assert calls <= room.calls(FIRST, lengths, ended=ended)
