from collections.abc import Sequence
from math import inf

import pytest

from bench.driving import Outcome
from bench.overload import normal_after


def outcome(
    began: float, latencies: Sequence[float], *, refused: frozenset[int] = frozenset()
) -> Outcome:
    """Four a second, with these latencies in ms."""
    return Outcome(
        began=began,
        seconds=len(latencies) / 4,
        due=[at / 4 for at in range(len(latencies))],
        latency_ms=[*latencies],
        late_ms=[0.0] * len(latencies),
        status=[503 if at in refused else 200 for at in range(len(latencies))],
        busy=0,
    )


OVERLOAD = outcome(100, [500] * 41)  # the last one is due at 110


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (outcome(111, [10] * 12), 1),
        (outcome(111, [900] * 4 + [10] * 8), 2),
        (outcome(111, [10] * 12, refused=frozenset({5})), 3),
        (outcome(111, [10] * 8 + [900] * 4), inf),
        (outcome(110, [10] * 12), 0),
    ],
)
def test_all_is_normal_from_the_first_second_after_which_it_stays_so(
    after: Outcome, seconds: float
) -> None:
    assert normal_after(OVERLOAD, after, 20) == seconds
