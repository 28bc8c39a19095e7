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
RATE = 10.0


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


async def test_every_row_of_the_matrix_is_in_one_course() -> None:
    befalling = [row.id for families in COURSES.values() for row in of_families(*families)]

    assert sorted(befalling) == sorted(every())


@pytest.mark.parametrize("course", COURSES)
async def test_each_fault_once_breaks_no_promise(
    playing: dict[str, asyncio.Task[Played]], course: str
) -> None:
    chapter, evidence = await playing[course]

    wrong = check(at_leisure(evidence))
    assert [str(violation) for violation in (*chapter.violations, *wrong)] == []
    assert [f"{each.row}: {each.failure}" for each in chapter.strikes if each.failure] == []
    assert [strike.row for strike in chapter.strikes] == [
        row.id for row in of_families(*COURSES[course])
    ]
    assert chapter.events > 0
    assert chapter.kills > 0
