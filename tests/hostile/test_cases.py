"""No case of the catalogue is forgotten: each is tried, or waits for what is named."""

from collections import Counter

from tests.hostile.cases import CASES

OURS = {"edge POST": 1, "graph": 15}
"""So many cases are our own."""


def test_every_case_of_a_surface_is_here_once() -> None:
    found = Counter(case.surface for case in CASES)

    assert found == {
        "edge GET": 9,
        "edge POST": 74 + OURS["edge POST"],
        "graph": 13 + OURS["graph"],
    }
    assert len({case.name for case in CASES}) == len(CASES)


def test_what_waits_is_known_by_name() -> None:
    waiting = {case.name: case.waits_for for case in CASES if case.waits_for}

    assert waiting == {
        "env_replay_after_erasure": "erasure",
    }


def test_every_case_says_what_is_sent_and_what_can_be_counted_on() -> None:
    assert all(case.request and case.expect for case in CASES)
