"""Random runs are drawn by their seed alone, and their summary says what happened."""

import random
from collections import Counter
from pathlib import Path

import pytest

from faults import rows
from faults.__main__ import percentile, rendered, summary
from faults.evidence import Violation
from faults.gathering import bounds_of
from faults.nemesis import Chapter, Strike, chapters, drawn
from faults.rig import QUICK, Rig
from faults.rows import WEIGHTS, Row, Struck, every


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


def test_a_run_is_cut_into_chapters_of_which_each_can_be_played_again() -> None:
    assert list(chapters(7, 700)) == [(7, 300), (8, 300), (9, 100)]
    assert list(chapters(9, 100)) == [(9, 100)]


def test_the_bounds_are_those_of_the_settings() -> None:
    assert (bounds_of({}).second_look, bounds_of({}).uncertain) == (60, 600)
    assert bounds_of(QUICK).second_look == float(QUICK["STORE_SECOND_LOOK_SECONDS"])


def test_the_summary_counts_kills_recoveries_and_what_is_wrong() -> None:
    killed = Struck(kills=3, recoveries={"store": (1.0, 2.5), "sync": (4.0,)})
    good = Chapter(7, 300, strikes=[Strike("F04", 2, 9, killed)], uncertain=Counter(echo=2))
    bad = Chapter(8, 60, strikes=[Strike("F11", 3, 4, Struck(), "did not die")])
    bad.violations.append(Violation("I1", "event 1/m", "is nowhere"))

    found = summary(7, 6, ["F04", "F11", "F15"], [good, bad])

    assert found["kills"] == 3
    assert found["recovery_seconds"] == {"p95": 4.0, "max": 4.0}
    assert found["uncertain_ends"] == {"echo": 2}
    assert found["never_drawn"] == ["F15"]
    assert found["violations"] == [{"seed": 8, "is": "I1 event 1/m: is nowhere"}]
    assert found["failed_rows"] == ["F11: did not die"]
    assert (good.is_good, bad.is_good) == (True, False)
    assert "p95 4.0 s, at most 4.0 s" in rendered(found)


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
