from hypothesis import given
from hypothesis import strategies as st

from pagewire_sync.page_sizes import GROWN_AFTER, PageSizes

EDGE = "conversations"


def well(sizes: PageSizes, times: int, most: int = 50) -> None:
    for _ in range(times):
        sizes.well(EDGE, most)


def test_an_edge_is_asked_for_the_most_until_that_was_too_much() -> None:
    sizes = PageSizes()
    well(sizes, 100)

    assert sizes.of(EDGE, 50) == 50
    assert sizes.learnt() == {}


def test_what_was_too_much_is_halved_down_to_one() -> None:
    sizes = PageSizes()

    shrunk = []
    while (size := sizes.of(EDGE, 50)) > 1:
        shrunk.append(sizes.shrink(EDGE, size))

    assert shrunk == [25, 12, 6, 3, 1]
    assert sizes.shrink(EDGE, 1) == 1


def test_edges_shrink_apart_from_each_other() -> None:
    sizes = PageSizes()

    sizes.shrink("messages", 20)

    assert (sizes.of("messages", 50), sizes.of(EDGE, 50)) == (10, 50)


def test_what_was_learnt_is_remembered_and_never_more_than_the_most() -> None:
    learnt = PageSizes({EDGE: 6, "messages": 400, "comments": 0}).learnt()

    again = PageSizes(learnt)

    assert [again.of(edge, 50) for edge in (EDGE, "messages", "comments")] == [6, 50, 50]


def test_it_grows_back_slowly_and_not_to_what_was_refused_in_this_run() -> None:
    sizes = PageSizes()
    sizes.shrink(EDGE, 50)

    grown = []
    for _ in range(10):
        well(sizes, GROWN_AFTER)
        grown.append(sizes.of(EDGE, 50))

    assert grown[:3] == [31, 38, 47]
    assert max(grown) < 50


def test_a_later_run_tries_what_an_earlier_one_was_refused() -> None:
    sizes = PageSizes({EDGE: 1})

    well(sizes, 20 * GROWN_AFTER)

    assert sizes.of(EDGE, 50) == 50


def test_too_much_once_more_begins_the_counting_anew() -> None:
    sizes = PageSizes({EDGE: 10})
    well(sizes, GROWN_AFTER - 1)

    sizes.shrink(EDGE, 10)
    well(sizes, GROWN_AFTER - 1)

    assert sizes.of(EDGE, 50) == 5


@given(
    st.dictionaries(st.just(EDGE), st.integers(-5, 500)),
    st.lists(st.booleans(), max_size=200),
    st.integers(1, 100),
)
def test_whatever_happens_at_least_one_is_asked_for_and_at_most_the_most(
    remembered: dict[str, int], answers: list[bool], most: int
) -> None:
    sizes = PageSizes(remembered)

    for good in answers:
        if good:
            sizes.well(EDGE, most)
        else:
            sizes.shrink(EDGE, sizes.of(EDGE, most))
        assert 1 <= sizes.of(EDGE, most) <= most
