import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest

from pagewire_runtime import metrics, watchdog
from pagewire_runtime.watchdog import (
    BEAT_SECONDS,
    LOOK_SECONDS,
    TOO_LONG_SECONDS,
    Watchdog,
    watching,
)
from tests.runtime.conftest import Lines


class Time:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
async def watched(passing: Time) -> AsyncIterator[Watchdog]:
    watchdog = Watchdog(asyncio.get_running_loop(), passing)
    watchdog.begin()
    yield watchdog
    watchdog.end()


def figures() -> tuple[float, float]:
    """How many blocks were counted, and the seconds of those that ended."""
    registry = metrics.registry
    return (
        registry.get_sample_value("pagewire_event_loop_blocks_total") or 0.0,
        registry.get_sample_value("pagewire_event_loop_blocked_seconds_sum") or 0.0,
    )


def errors(lines: Lines) -> list[str]:
    return [line["event"] for line in lines() if line["level"] == "error"]


async def test_signs_that_come_in_time_are_not_told_of(
    watched: Watchdog, passing: Time, lines: Lines
) -> None:
    before = figures()
    for _ in range(100):
        passing.now += BEAT_SECONDS + 0.3
        watched.look()
        watched.beat()

    assert figures() == before
    assert errors(lines) == []


async def test_a_sign_that_comes_late_is_told_of_with_how_late_it_is(
    watched: Watchdog, passing: Time, lines: Lines
) -> None:
    count, seconds = figures()
    passing.now += BEAT_SECONDS + 3
    watched.beat()
    passing.now += BEAT_SECONDS
    watched.beat()

    assert figures() == (count + 1, seconds + 3)
    assert errors(lines) == ["the event loop was blocked"]


async def test_a_sign_that_never_comes_is_told_of_once_by_whoever_looks(
    watched: Watchdog, passing: Time, lines: Lines
) -> None:
    count, seconds = figures()
    for _ in range(10):
        passing.now += LOOK_SECONDS
        watched.look()

    assert figures() == (count + 1, seconds)
    assert errors(lines) == ["the event loop is blocked"]


async def test_a_block_that_was_told_of_counts_once_when_it_is_over(
    watched: Watchdog, passing: Time, lines: Lines
) -> None:
    count, seconds = figures()
    passing.now += BEAT_SECONDS + 10
    watched.look()
    watched.beat()

    assert figures() == (count + 1, seconds + 10)
    assert errors(lines) == ["the event loop is blocked", "the event loop was blocked"]


async def test_the_next_block_is_told_of_again(
    watched: Watchdog, passing: Time, lines: Lines
) -> None:
    count, _ = figures()
    for _ in range(2):
        passing.now += BEAT_SECONDS + 2
        watched.look()
        watched.beat()

    assert figures()[0] == count + 2


def test_whoever_looks_tells_within_five_seconds_of_the_beginning() -> None:
    assert BEAT_SECONDS + TOO_LONG_SECONDS + LOOK_SECONDS < 5


def test_an_idle_process_is_woken_no_more_than_once_a_second() -> None:
    assert BEAT_SECONDS >= 1
    assert LOOK_SECONDS >= 1


async def test_a_loop_that_is_really_blocked_is_told_of_meanwhile_and_afterwards(
    monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    # The same in a tenth of the time.
    for name in ("BEAT_SECONDS", "TOO_LONG_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(watchdog, name, getattr(watchdog, name) / 10)
    count, seconds = figures()
    end = time.monotonic() + 30
    with watching(asyncio.get_running_loop()):
        while figures()[0] == count and time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251  # it is what is tested
        while figures()[1] == seconds and time.monotonic() < end:
            await asyncio.sleep(0.05)

    assert set(errors(lines)) == {"the event loop is blocked", "the event loop was blocked"}


async def test_it_says_where_our_code_is_that_blocks_the_loop() -> None:
    module: dict[str, object] = {"__name__": "pagewire_made_up", "sys": sys}
    exec("def innermost():\n    return sys._getframe()", module)
    innermost = module["innermost"]
    assert callable(innermost)

    assert watchdog._where(innermost()) == "pagewire_made_up:2"
    assert watchdog._where(None) == "elsewhere"


async def test_the_thread_ends_with_the_block() -> None:
    with watching(asyncio.get_running_loop()):
        inside = [thread.name for thread in threading.enumerate()]

    assert "watchdog" in inside
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
