"""Random runs are drawn by their seed alone, and their summary says what happened."""

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faults import rows
from faults.__main__ import percentile, rendered, summary
from faults.evidence import Catchup, Violation
from faults.gathering import bounds_of
from faults.history import Delivered, End
from faults.nemesis import (
    Chapter,
    Strike,
    answers,
    beside,
    besides,
    chapters,
    drawn,
    p95,
    slowest_refusal,
)
from faults.rig import QUICK, Rig
from faults.rows import WEIGHTS, Row, Struck, every
from faults.sends import Doubt
from tests.support.evidence import PAGE, good_run


async def nothing(rig: Rig, draw: random.Random) -> Struck:
    """Nothing befalls."""
    return Struck()


def made(*names: tuple[str, str]) -> list[Row]:
    return [Row(name, family, nothing, frozenset()) for name, family in names]


def test_the_same_seed_draws_the_same_rows() -> None:
    known = list(every().values())

    first, again = ([drawn(known, random.Random(5)).id for _ in range(9)] for _ in range(2))

    assert first == again


def test_families_are_drawn_by_their_weights_whatever_their_size() -> None:
    few = made(("F1", "process"), ("F20", "postgres"), ("F21", "postgres"), ("F50", "graph"))
    draw = random.Random(1)

    counts = Counter(drawn(few, draw).family for _ in range(4_000))

    whole = WEIGHTS["process"] + WEIGHTS["postgres"] + WEIGHTS["graph"]
    for family, count in counts.items():
        assert count / 4_000 == pytest.approx(WEIGHTS[family] / whole, abs=0.03)


def test_every_registered_row_says_what_befalls_and_has_a_family() -> None:
    known = every()

    assert {"F01", "F05", "F13", "F15"} <= known.keys()
    assert {row.family for row in known.values()} <= WEIGHTS.keys()
    assert all(row.sentence.endswith(".") for row in known.values())
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_a_row_cannot_be_registered_twice_or_without_a_family_or_a_sentence() -> None:
    every()

    async def silent(rig: Rig, draw: random.Random) -> Struck:
        return Struck()

    for id, family, strike in [
        ("F01", "process", nothing),
        ("F999", "weather", nothing),
        ("F999", "process", silent),
    ]:
        with pytest.raises(ValueError, match=id):
            rows.row(id, weight=family)(strike)
    assert "F999" not in every()


class Brief(random.Random):
    """Draws what is over at once, and notes from what."""

    def __init__(self) -> None:
        super().__init__(1)
        self.lengths: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.lengths.append((a, b))
        return 0.0


class Unharmed:
    """A rig that bears everything."""

    def proxy(self, caller: str, callee: str) -> Any:
        return SimpleNamespace(suffering=lambda *toxic: nullcontext())

    def fault(self, service: str, rules: str = "") -> None:
        pass

    def terminate(self, name: str) -> None:
        pass

    async def back(self, name: str, within: float) -> float:
        return 0.0


@pytest.mark.parametrize("row", ["F77", "F78", "F79"])
async def test_how_long_the_network_or_a_clock_is_bad_is_drawn_and_least_in_the_shortest_run(
    row: str,
) -> None:
    draw = Brief()

    await every()[row].strike(cast("Rig", Unharmed()), draw)

    assert draw.lengths == [(3.0, 20.0)]
    assert rows.Least(1).uniform(*draw.lengths[0]) == 3.0


def test_a_run_is_cut_into_chapters_of_which_each_can_be_played_again() -> None:
    assert list(chapters(7, 1_300)) == [(7, 600), (8, 600), (9, 100)]
    assert list(chapters(9, 100)) == [(9, 100)]


def test_the_bounds_are_those_of_the_settings() -> None:
    assert (bounds_of({}).second_look, bounds_of({}).uncertain) == (60, 600)
    assert bounds_of(QUICK).second_look == float(QUICK["STORE_SECOND_LOOK_SECONDS"])
    assert bounds_of({}).between_looks == 30
    assert bounds_of(QUICK).between_looks == float(QUICK["STORE_BETWEEN_LOOKS_SECONDS"])


def posts(*took: float, status: int | None = 200, refs: tuple[str, ...] = ()) -> list[Delivered]:
    """So many seconds each."""
    end = End.OK if status == 200 else End.FAIL
    return [
        Delivered(n, "/", refs, 1, False, 10.0, 10.0 + seconds, end, status)
        for n, seconds in enumerate(took, 1)
    ]


def played() -> list[Chapter]:
    """A chapter in which all went well, and one in which nothing did."""
    killed = Struck(3, {"store": (1.0, 2.5), "sync": (4.0,)}, catchups=[Catchup(2.0, 60, 20)])
    away = Struck(recoveries={"postgres": (0.5,)})
    good = Chapter(7, 600, [Strike("F04", 2, 9, killed), Strike("F20", 9, 12, away)])
    good.doubts = [Doubt("echo", 4.0), Doubt("readback", 95.0), Doubt("open", None)]
    good.answers = answers([*posts(0.1, 0.3), *posts(2.1, status=503), *posts(5, status=None)])
    good.isolation = {"F29": [1.2]}
    bad = Chapter(8, 600, [Strike("F11", 3, 4, Struck(), "did not die")], duplicates=2)
    bad.violations = [
        Violation("I1", "event 1/m", "is nowhere"),
        Violation("I5", "reply r-1-2", "was taken 2 times by Graph"),
    ]
    return [good, bad]


def test_the_summary_has_what_befell_what_was_broken_and_how_long_all_took() -> None:
    good, bad = played()

    found: dict[str, Any] = summary(7, 20, ["F04", "F11", "F15", "F20"], [good, bad])

    assert (found["kills"], found["kills_an_hour"]) == (3, 9)
    assert found["kills_by_fault"] == {"F04": 3}
    assert found["faults"] == {"F04": 1, "F11": 1, "F20": 1}
    assert found["never_drawn"] == ["F15"]
    assert (found["lost"], found["doubled"], found["order_broken"]) == (1, 1, 0)
    assert found["sent_twice_and_excused"] == 1
    assert found["recovery"]["store"] == {"count": 2, "p50": 1.0, "p95": 2.5, "max": 2.5}
    assert found["recovery_of_all"]["max"] == 4.0
    assert found["first_200_after_an_outage"]["max"] == 0.5
    assert found["in_doubt"]["ends"]["open"]["count"] == 1
    assert found["in_doubt"]["share_within_90_s"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["answers"]["503"] == {"count": 1, "slowest": 2.1}
    assert found["answers"]["none"] == {"count": 1, "slowest": 5}
    assert found["acks_beside_a_held_lane"] == {"F29": 1.2}
    assert found["catching_up"] == [{"backlog": 60, "seconds": 2.0}]
    assert found["violations"][0] == {"seed": 8, "is": "I1 event 1/m: is nowhere"}
    assert found["failed_rows"] == ["F11: did not die"]
    assert (good.is_good, bad.is_good) == (True, False)


def quick() -> Chapter:
    """A chapter in which each goal in time is just reached."""
    back = Struck(20, {"store": (3.0,) * 19 + (5.0,)})
    away = Struck(recoveries={"postgres": (5.0,)})
    chapter = Chapter(7, 600, [Strike("F04", 2, 9, back), Strike("F20", 9, 12, away)])
    chapter.slowest_refusal = 2.5
    chapter.isolation = {"F29": [1.5]}
    return chapter


def test_goals_in_time_that_are_reached_are_not_told_of() -> None:
    found = summary(7, 10, [], [quick()])

    assert found["missed"] == []
    assert "MISSED" not in rendered(found)


def test_each_goal_in_time_that_is_missed_is_told_and_is_no_broken_promise() -> None:
    slow = quick()
    back = Struck(20, {"store": (3.1,) * 19 + (5.1,)})
    away = Struck(recoveries={"postgres": (5.2,)})
    slow.strikes = [Strike("F04", 2, 9, back), Strike("F20", 9, 12, away)]
    slow.slowest_refusal = 2.6
    slow.isolation = {"F29": [1.6], "F17b": [1.2]}

    found = summary(7, 10, [], [slow])

    assert found["missed"] == [
        "back after a kill, p95: 3.1 s, goal 3.0",
        "back after a kill, at most: 5.1 s, goal 5.0",
        "first 200 after an outage, at most: 5.2 s, goal 5.0",
        "503, the slowest: 2.6 s, goal 2.5",
        "acks beside F29, p95: 1.6 × the usual, goal 1.5",
    ]
    told = [line for line in rendered(found).splitlines() if line.startswith("MISSED")]
    assert told == [f"MISSED             {each}" for each in found["missed"]]
    assert found["violations"] == []
    assert slow.is_good


def test_a_refusal_beside_a_fault_that_makes_answers_slow_is_held_to_no_goal() -> None:
    refused = [
        Delivered(n, "/", (), 1, False, begun, begun + took, End.FAIL, 503)
        for n, (begun, took) in enumerate([(1.0, 0.2), (10.0, 4.0), (19.0, 3.0), (25.0, 0.3)], 1)
    ]
    acked = replace(refused[0], ended_at=9.0, end=End.OK, status=200)
    strikes = [Strike("F19", 12, 20, Struck(slowest=5.5)), Strike("F20", 24, 26, Struck())]

    assert slowest_refusal([*refused, acked], strikes) == pytest.approx(0.3)
    assert slowest_refusal(refused, strikes[1:]) == pytest.approx(4.0)
    assert slowest_refusal([], []) == 0


def test_the_summary_reads_as_text() -> None:
    text = rendered(summary(7, 20, ["F04"], played()))

    lines = {line[:18].strip(): line[19:] for line in text.splitlines()}
    assert lines["seed"] == "7"
    assert lines["kills"] == "3, 9 an hour: F04×3"
    assert lines["store"] == "2, p50 1.0 s, p95 2.5 s, at most 2.5 s"
    assert lines["in doubt"] == "3, 33.33% settled within 90 s"
    assert lines["answered 503"] == "1, slowest 2.1 s"
    assert lines["caught up"] == "60 in 2.0 s"


def test_a_run_without_anything_has_a_summary_too() -> None:
    found = summary(1, 0, [], [])

    assert found["in_doubt"]["share_within_90_s"] == 1
    assert "nothing" in rendered(found)


def test_acks_beside_a_fault_are_those_of_its_time_and_of_no_lane_that_it_held() -> None:
    run = good_run()
    held = run.happened[0]
    strike = Strike(
        "F29", held.published_at - 1, run.clock, Struck(held=frozenset({(PAGE, held.lane)}))
    )

    found = beside(run.evidence(), strike)

    refs = {ref for post in found for ref in post.refs}
    assert refs == {event.ref for event in run.happened if event.lane != held.lane}
    assert beside(run.evidence(), Strike("F29", 0, 1, Struck())) == []


def test_of_the_acks_those_with_200_count() -> None:
    assert p95(posts(*(n / 100 for n in range(100)))) == pytest.approx(0.95)
    assert p95(posts(3.0, status=503)) == 0


@pytest.mark.parametrize(
    ("values", "share", "value"), [([], 1, 0), ([3, 1, 2], 1, 3), ([*range(1, 101)], 0.95, 95)]
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, value: float) -> None:
    assert percentile(values, share) == value


def test_the_makefile_hands_seed_and_minutes_on() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"

    target = makefile.read_text().partition("\nfaults:")[2].partition("\n\n")[0]

    assert "--seed $(SEED)" in target
    assert "--minutes $(MINUTES)" in target


def test_only_faults_of_single_lanes_are_compared_with_what_is_usual() -> None:
    run = good_run()
    began = run.delivered[2].started_at
    for post in run.delivered:
        took = 0.1 if post.started_at < began else 0.4
        run.change(run.delivered, post, ended_at=post.started_at + took)
    strikes = [
        Strike("F29", began, began + 60, Struck(isolates=True)),
        Strike("F20", began, began + 60, Struck()),
        Strike("F33", began, began + 60, Struck(isolates=True), "was not brought about"),
    ]

    found = besides(run.evidence(), strikes, began)

    assert found.keys() == {"F29, the 1. fault"}
    assert found["F29, the 1. fault"] == pytest.approx((0.4, 0.1))
    assert besides(run.evidence(), strikes, began - 60) == {}
