import asyncio

import pytest

from pagewire_runtime import deadline


async def test_without_a_deadline_a_step_takes_what_it_wants() -> None:
    assert deadline.remaining() is None
    assert deadline.share(3.0) == 3.0
    assert deadline.share(None) is None


@pytest.mark.parametrize(
    ("wanted", "least", "most"), [(None, 80, 90), (5.0, 5, 5), (500.0, 80, 90)]
)
async def test_a_step_takes_at_most_nine_tenths_of_what_is_left(
    wanted: float | None, least: float, most: float
) -> None:
    deadline.allow(100.0)

    share = deadline.share(wanted)

    assert share is not None
    assert least <= share <= most


async def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    deadline.allow(-1.0)

    assert deadline.remaining() == 0.0


async def test_a_deadline_reaches_the_tasks_started_under_it() -> None:
    async def left() -> float | None:
        return deadline.remaining()

    deadline.allow(100.0)

    assert await asyncio.create_task(left()) is not None
