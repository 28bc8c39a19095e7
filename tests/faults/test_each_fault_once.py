"""Every row of the matrix once, upon two systems at a time, and then every promise checked.

What a row alone must show is told in the other files of this folder, which `make rows` runs.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest
import pytest_asyncio

from faults.checker import check
from faults.evidence import Evidence
from faults.nemesis import Chapter, each_once, play_chapter
from faults.rig import QUICK
from faults.rows import Row, every
from tests.support.struck import at_leisure

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

Played: TypeAlias = tuple[Chapter, Evidence]

COURSES = {
    "deaths": ("process",),
    "all else": ("graph", "postgres", "network"),
}
"""What each system bears: families, in this order, so that pages that are throttled may rest."""
WHO_REST = ("F56",)
"""Rows after which a page is left alone for a minute: the last of their family."""
RATE = 8.0
"""Events a second: so few that a busy machine takes them sooner than they come."""
PEOPLE = 15
"""So few that each of them soon writes again, as some rows wait for."""


def of_families(*families: str) -> list[Row]:
    """Their rows, family by family."""
    return sorted(
        (row for row in every().values() if row.family in families),
        key=lambda row: (families.index(row.family), row.id in WHO_REST, row.id),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playing() -> AsyncIterator[dict[str, asyncio.Task[Played]]]:
    """The courses, both under way."""

    async def play(folder: str, seed: int, families: tuple[str, ...]) -> Played:
        return await play_chapter(
            Path(folder),
            seed,
            each_once,
            of_families(*families),
            env=QUICK,
            rate=RATE,
            tell=lambda line: print(line, file=sys.stderr),  # noqa: T201  # shown where it fails
            warming=0.0,
            people=PEOPLE,
        )

    with tempfile.TemporaryDirectory(prefix="pagewire-once-") as folder:
        tasks = {
            name: asyncio.create_task(play(f"{folder}/{seed}", seed, families))
            for seed, (name, families) in enumerate(COURSES.items(), 1)
        }
        yield tasks
        for task in tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


COURSE_OF = {row.id: name for name, of in COURSES.items() for row in of_families(*of)}


async def test_every_row_of_the_matrix_is_in_a_course() -> None:
    assert COURSE_OF.keys() == every().keys()


@pytest.mark.parametrize("row", COURSE_OF)
async def test_this_fault_is_brought_about_once(
    playing: dict[str, asyncio.Task[Played]], row: str
) -> None:
    chapter, _ = await playing[COURSE_OF[row]]

    assert [strike.failure for strike in chapter.strikes if strike.row == row] == [""]


@pytest.mark.parametrize("course", COURSES)
async def test_after_all_of_them_no_promise_is_broken(
    playing: dict[str, asyncio.Task[Played]], course: str
) -> None:
    chapter, evidence = await playing[course]

    wrong = [*chapter.violations, *check(at_leisure(evidence))]
    assert [str(violation) for violation in wrong] == []
    assert chapter.events > 0
    assert chapter.replies > 0
    assert chapter.kills > 0
