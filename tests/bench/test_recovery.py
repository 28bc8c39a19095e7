from math import inf

import pytest

from bench.driving import Outcome
from bench.recovery import Asked, Death, back_after, refused_for, taken_over_after

DEATH = Death(at=100.0, ready=1.0)


def outcome(*refused_at: float) -> Outcome:
    """A webhook each second from 98 on; those of these seconds were refused."""
    due = [float(second) for second in range(12)]
    return Outcome(
        began=98.0,
        seconds=12,
        due=due,
        latency_ms=[1.0] * len(due),
        late_ms=[0.0] * len(due),
        status=[503 if 98 + second in refused_at else 200 for second in due],
        busy=0,
    )


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ([Asked(99, 100.5), Asked(100.5, 104), Asked(101, 102.5)], 2.5),
        ([Asked(99, 100.5), Asked(100.5, inf)], inf),
        ([Asked(99, 100.5), Asked(108, 108.5)], inf),  # after the next death
        ([], inf),
    ],
)
def test_a_service_is_back_with_the_first_answer_to_what_came_after_its_death(
    asked: list[Asked], seconds: float
) -> None:
    assert back_after(DEATH, asked) == seconds


@pytest.mark.parametrize(
    ("refused_at", "seconds"), [((), 0), ((99,), 0), ((100, 102), 2), ((102, 109), 2)]
)
def test_refusals_of_a_death_end_with_the_last_one_before_the_next_death(
    refused_at: tuple[float, ...], seconds: float
) -> None:
    assert refused_for(DEATH, outcome(*refused_at)) == seconds


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ([Asked(99.5, 109), Asked(99.9, 100.5)], 9),
        ([Asked(98, 109), Asked(100, 112)], 0),
        ([Asked(99.5, inf)], 0),  # refused
    ],
)
def test_a_takeover_lasts_until_what_was_asked_just_before_the_death_is_answered(
    asked: list[Asked], seconds: float
) -> None:
    assert taken_over_after(DEATH, asked) == seconds
