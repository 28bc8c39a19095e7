import asyncio

import pytest

from pagewire_sync.crew import Crew


async def test_no_more_run_at_once_than_the_crew_is_large() -> None:
    crew, gate = Crew(2), asyncio.Event()
    for _ in range(2):
        await crew.room()
        crew.start(_until(gate))
    waiting = asyncio.create_task(crew.room())
    await asyncio.sleep(0)
    full = not waiting.done()

    gate.set()

    assert full
    assert await waiting >= 1
    await crew.finish()
    assert len(crew) == 0


async def test_a_job_that_fails_fails_alone_and_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    crew, gate = Crew(2), asyncio.Event()
    crew.start(_failing())
    crew.start(_until(gate))

    await asyncio.sleep(0)
    gate.set()
    await crew.finish()

    assert "a job failed" in capsys.readouterr().out


async def test_who_is_dismissed_has_ended() -> None:
    crew, ended = Crew(1), asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    crew.start(job())
    await asyncio.sleep(0)
    await crew.dismiss()

    assert ended.is_set()
    assert len(crew) == 0


async def _until(gate: asyncio.Event) -> None:
    await gate.wait()


async def _failing() -> None:
    raise ValueError("out of order")
