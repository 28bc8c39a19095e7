import math
from typing import Any

from bench.figures import Goal, Measure, Suite
from bench.results import entry, merged, results
from bench.table import missed, rendered

RATE = Measure(
    "rate", "1/s", [90, 100, 110], goal=Goal(0.6, "bare"), limit=[200] * 3, peers={"bare": [50] * 3}
)
SLOW = Measure("p50", "ms", [12, math.inf, math.inf], higher=False, goal=Goal(10))


def test_an_entry_has_exactly_the_keys_that_other_programs_read() -> None:
    assert entry(RATE) == {
        "value": 100,
        "unit": "1/s",
        "limit": 200,
        "ratio_to_limit": 0.5,
        "peers": {"bare": {"value": 50, "ratio": 2}},
    }


def test_what_never_came_and_a_limit_that_is_not_there_are_null() -> None:
    found = entry(SLOW)

    assert found["value"] is None
    assert found["limit"] is None
    assert found["ratio_to_limit"] is None


def test_a_suite_that_runs_by_itself_leaves_the_others_where_they_are() -> None:
    old = results([Suite("edge", [RATE])], "machine", "commit")
    new = results([Suite("store", [SLOW])], "machine", "commit")

    assert set(merged(old, new)["suites"]) == {"edge", "store"}


def test_a_suite_that_runs_again_takes_its_own_place() -> None:
    old = results([Suite("edge", [SLOW])], "machine", "commit")
    new = results([Suite("edge", [RATE])], "machine", "commit")

    assert merged(old, new) == new


def test_suites_of_another_commit_do_not_pass_for_those_of_this_one() -> None:
    old = results([Suite("edge", [RATE])], "machine", "before")
    new: dict[str, Any] = results([Suite("store", [SLOW])], "machine", "after")

    assert merged(old, new) == new


def test_the_table_shows_a_missed_goal_and_the_ratio_to_each_peer() -> None:
    text = rendered(Suite("edge", [RATE, SLOW], notes=["a note"]))

    assert "≥ 0.6 × bare" in text
    assert "bare: 50 (2 ×)" in text
    assert "**NO**" in text
    assert "- a note" in text


def test_every_missed_goal_has_a_line_and_no_other_measure_has() -> None:
    lines = missed([Suite("edge", [RATE, SLOW])])

    assert lines == ["edge: p50 is never ms, the goal ≤ 10"]
