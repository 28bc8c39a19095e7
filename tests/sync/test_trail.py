import pytest

from pagewire_sync.trail import BEGINNINGS, EMPTY_MOST, Trail, TrailLost


def test_each_page_leads_to_the_next() -> None:
    trail = Trail()

    trail.goes_on("a", ["1", "2"], (9, 8))
    trail.goes_on("b", ["3"], (7, 7))

    assert trail.here == "b"


def test_a_page_of_what_was_met_before_leads_one_step_back() -> None:
    trail = Trail()
    trail.goes_on("a", ["1", "2"])
    trail.goes_on("b", ["3", "4"])

    trail.goes_on("c", ["1", "2"])

    assert trail.here == "a"


def test_a_page_that_is_newer_than_the_one_before_leads_one_step_back() -> None:
    trail = Trail()
    trail.goes_on("a", ["1", "2"], (9, 8))

    trail.goes_on("b", ["0", "1"], (10, 9))

    assert trail.here == ""


def test_after_a_step_back_it_goes_on_behind_what_is_new() -> None:
    trail = Trail()
    trail.goes_on("a", ["1", "2"], (9, 8))
    trail.goes_on("b", ["3", "4"], (7, 6))
    trail.goes_on("x", ["0", "1"], (10, 9))

    trail.goes_on("c", ["3", "5"], (7, 5))

    assert trail.here == "c"


def test_a_cursor_that_leads_to_itself_is_a_loop_at_once() -> None:
    trail = Trail()
    trail.goes_on("a", ["1"])

    with pytest.raises(TrailLost, match="cursor_loop"):
        trail.goes_on("a", ["1"])


def test_a_larger_circle_ends_too() -> None:
    trail, after = Trail(), {"": "a", "a": "b", "b": "c", "c": "a"}

    def walk() -> None:
        for _ in range(100):
            trail.goes_on(after[trail.here], [f"behind {trail.here}"])

    with pytest.raises(TrailLost, match="cursor_loop"):
        walk()


def test_a_refused_cursor_leads_one_step_back_then_to_the_beginning() -> None:
    trail = Trail()
    for cursor in "abc":
        trail.goes_on(cursor, [cursor])

    trail.refused()
    back = trail.here
    trail.refused()

    assert (back, trail.here) == ("b", "")


def test_cursors_that_are_refused_for_ever_end_the_walk() -> None:
    trail = Trail()
    for _ in range(BEGINNINGS - 1):
        trail.refused()

    with pytest.raises(TrailLost, match="cursor_lost"):
        trail.refused()


def test_empty_pages_are_passed_but_not_for_ever() -> None:
    trail = Trail()
    for number in range(EMPTY_MOST):
        trail.goes_on(f"c{number}", [])

    with pytest.raises(TrailLost, match="cursor_loop"):
        trail.goes_on("z", [])
