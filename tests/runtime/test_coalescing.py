import asyncio
import gc
import weakref
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_runtime import deadline
from pagewire_runtime.coalescing import WORTH_A_FLUSH, Coalescer, QueueFull
from pagewire_runtime.errors import Refusal, Unavailable


class Flushes:
    """A flush that records its batches, waits at its gate, and fails where told to."""

    def __init__(self, *, open_: bool = True, poison: Exception | None = None) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.poison = poison
        if open_:
            self.gate.set()

    async def __call__(self, items: list[str]) -> Sequence[str | Exception]:
        self.batches.append(items)
        await self.gate.wait()
        if self.poison and any(item.startswith("bad") for item in items):
            raise self.poison
        return [f"{item}!" for item in items]


async def start(coalescer: Coalescer[str, str], *items: str) -> list[asyncio.Task[str]]:
    """Submits each, and lets the first flush begin."""
    tasks = [asyncio.create_task(coalescer.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_is_flushed_at_once() -> None:
    flush = Flushes()

    answer = await Coalescer(flush, max_items=10).submit("a")

    assert answer == "a!"
    assert flush.batches == [["a"]]


async def test_what_queues_during_a_flush_goes_in_the_next_one() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=10)

    first = await start(coalescer, "a")
    others = await start(coalescer, "b", "c", "d")
    flush.gate.set()
    answers = await asyncio.gather(*first, *others)

    assert answers == ["a!", "b!", "c!", "d!"]
    assert flush.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_is_bounded_in_items_and_in_bytes_and_a_larger_item_goes_alone() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=2, max_bytes=6, size=len)

    tasks = await start(coalescer, "a")
    tasks += await start(coalescer, "b", "c", "d", "eeee", "fff", "toolarge!", "g")
    flush.gate.set()
    await asyncio.gather(*tasks)

    assert flush.batches[1:] == [["b", "c"], ["d", "eeee"], ["fff"], ["toolarge!"], ["g"]]


async def test_a_long_queue_is_shared_by_the_flushers_that_are_free() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=1_000, flushers=2)

    tasks = await start(coalescer, *map(str, range(4 * WORTH_A_FLUSH)))
    tasks += await start(coalescer, *map(str, range(2 * WORTH_A_FLUSH)))
    flush.gate.set()
    await asyncio.gather(*tasks)

    assert [len(batch) / WORTH_A_FLUSH for batch in flush.batches] == [2, 2, 2]


async def test_a_short_queue_goes_in_one_flush_however_many_flushers_are_free() -> None:
    flush = Flushes()
    coalescer = Coalescer(flush, max_items=1_000, flushers=2)

    await asyncio.gather(*map(coalescer.submit, map(str, range(WORTH_A_FLUSH))))

    assert [len(batch) for batch in flush.batches] == [WORTH_A_FLUSH]


async def test_two_flushers_work_at_the_same_time_and_a_third_waits() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=1, flushers=2)

    tasks = await start(coalescer, "a", "b", "c")
    in_flight = list(flush.batches)
    flush.gate.set()
    await asyncio.gather(*tasks)

    assert in_flight == [["a"], ["b"]]


async def test_an_item_gets_its_own_exception() -> None:
    async def flush(items: list[int]) -> Sequence[int | Exception]:
        return [LookupError(f"no {item}") if item % 2 else item for item in items]

    coalescer = Coalescer(flush, max_items=10)
    answers = await asyncio.gather(*map(coalescer.submit, range(4)), return_exceptions=True)

    assert [answers[0], answers[2]] == [0, 2]
    assert [str(answers[1]), str(answers[3])] == ["no 1", "no 3"]


async def test_a_poisoned_item_fails_alone() -> None:
    flush = Flushes(open_=False, poison=LookupError("poison"))
    coalescer = Coalescer(flush, max_items=10)

    tasks = await start(coalescer, "first")
    tasks += await start(coalescer, "a", "bad", "b")
    flush.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[:2] + answers[3:] == ["first!", "a!", "b!"]
    assert isinstance(answers[2], LookupError)
    assert flush.batches == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]


async def test_a_lone_item_that_fails_is_not_tried_twice() -> None:
    flush = Flushes(poison=LookupError("poison"))

    with pytest.raises(LookupError):
        await Coalescer(flush, max_items=10).submit("bad")

    assert flush.batches == [["bad"]]


async def test_what_is_transient_is_everybodys_and_is_not_tried_again() -> None:
    flush = Flushes(open_=False, poison=Unavailable("store"))
    coalescer = Coalescer(flush, max_items=10)

    tasks = await start(coalescer, "first")
    tasks += await start(coalescer, "a", "bad", "b")
    flush.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in answers[1:]] == [Unavailable] * 3
    assert len(flush.batches) == 2


async def test_what_becomes_transient_item_by_item_spares_the_rest_the_wait() -> None:
    batches: list[list[str]] = []

    async def flush(items: list[str]) -> Sequence[str | Exception]:
        batches.append(items)
        raise LookupError if len(items) > 1 else Unavailable("store")

    answers = await asyncio.gather(
        *await start(Coalescer(flush, max_items=10), "a", "b", "c"), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert batches == [["a", "b", "c"], ["a"]]


async def test_a_flush_that_answers_too_few_is_an_error_for_each() -> None:
    async def flush(items: list[str]) -> Sequence[str | Exception]:
        return []

    coalescer = Coalescer(flush, max_items=10)
    answers = await asyncio.gather(*await start(coalescer, "a", "b"), return_exceptions=True)

    assert [type(answer) for answer in answers] == [RuntimeError] * 2


async def test_a_caller_that_is_cancelled_leaves_the_others_unharmed() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=10)

    (flushing,) = await start(coalescer, "a")
    queued, waiting = await start(coalescer, "b", "c")
    flushing.cancel()
    queued.cancel()
    await asyncio.sleep(0)
    flush.gate.set()

    assert await waiting == "c!"
    assert flushing.cancelled()
    assert queued.cancelled()
    assert flush.batches == [["a"], ["c"]]


@pytest.mark.parametrize(
    "bounds", [{"max_queued": 2}, {"max_queued_bytes": 2, "size": len}], ids=["items", "bytes"]
)
async def test_a_full_queue_refuses_and_has_room_again_later(bounds: dict[str, int]) -> None:
    flush = Flushes(open_=False)
    coalescer: Coalescer[str, str] = Coalescer(flush, max_items=10, **bounds)  # type: ignore[arg-type]

    tasks = await start(coalescer, "a")
    tasks += await start(coalescer, "b", "c")
    with pytest.raises(QueueFull):
        await coalescer.submit("d")
    flush.gate.set()
    await asyncio.gather(*tasks)

    assert await coalescer.submit("e") == "e!"


async def test_a_batch_does_not_run_under_its_first_callers_deadline() -> None:
    async def flush(items: list[str]) -> Sequence[float | Exception | None]:
        return [deadline.remaining() for _ in items]

    coalescer = Coalescer(flush, max_items=10)
    deadline.allow(0.0)

    assert await coalescer.submit("a") is None


async def test_closing_drains_what_waits_and_refuses_what_comes() -> None:
    flush = Flushes(open_=False)
    coalescer = Coalescer(flush, max_items=1)

    tasks = await start(coalescer, "a", "b")
    closing = asyncio.create_task(coalescer.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await coalescer.submit("c")
    flush.gate.set()
    await closing

    assert [task.result() for task in tasks] == ["a!", "b!"]


async def test_closing_ends_also_where_a_flusher_was_cancelled_before_it_began() -> None:
    coalescer = Coalescer(Flushes(), max_items=1)
    others = asyncio.all_tasks()

    submitted = asyncio.create_task(coalescer.submit("a"))
    while len(asyncio.all_tasks() - others - {submitted}) < 1:
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    await coalescer.close()

    assert (await asyncio.gather(submitted, return_exceptions=True))[0].__class__ is (
        asyncio.CancelledError
    )


async def test_an_item_submitted_the_moment_a_flusher_ends_is_not_forgotten() -> None:
    coalescer = Coalescer(Flushes(), max_items=1)

    # What wakes up here runs right after the flusher's last step, before its callbacks.
    async with asyncio.timeout(30):
        answers = [await coalescer.submit(item) for item in "abc"]

    assert answers == ["a!", "b!", "c!"]


@pytest.mark.parametrize("singly", [False, True])
async def test_a_flusher_that_is_cancelled_leaves_nobody_waiting(singly: bool) -> None:
    in_flight = asyncio.Event()

    async def flush(items: list[str]) -> Sequence[str | Exception]:
        if singly and len(items) > 1:
            raise LookupError
        in_flight.set()
        await asyncio.Event().wait()
        raise AssertionError

    coalescer = Coalescer(flush, max_items=10)
    before = asyncio.all_tasks()
    callers = [asyncio.create_task(coalescer.submit(item)) for item in "ab"]
    await in_flight.wait()
    (flusher,) = asyncio.all_tasks() - before - set(callers)
    flusher.cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 30)

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


class Poison(Exception):
    pass


@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from(["good", "own", "poison", "transient", "cancelled"]),
            st.integers(0, 4),  # steps before it is submitted
        ),
        max_size=30,
    ),
    steps=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    max_items=st.integers(1, 5),
    max_bytes=st.none() | st.integers(1, 10),
    flushers=st.integers(1, 3),
)
async def test_every_item_gets_exactly_its_own_result_whatever_the_interleaving(
    plan: list[tuple[str, int]],
    steps: list[int],
    max_items: int,
    max_bytes: int | None,
    flushers: int,
) -> None:
    flushed: list[int] = []

    async def flush(items: list[int]) -> Sequence[str | Exception]:
        for _ in range(steps[len(flushed) % len(steps)]):
            await asyncio.sleep(0)
        assert 1 <= len(items) <= max_items
        fates = [plan[item][0] for item in items]
        if "transient" in fates:
            raise Unavailable("store")
        if "poison" in fates:
            raise Poison(str(items[fates.index("poison")]))
        flushed.extend(items)
        return [
            KeyError(i) if f == "own" else f"result {i}" for i, f in zip(items, fates, strict=True)
        ]

    coalescer: Coalescer[int, str] = Coalescer(
        flush, max_items=max_items, max_bytes=max_bytes, size=lambda i: i % 4, flushers=flushers
    )

    async def one(item: int) -> str:
        for _ in range(plan[item][1]):
            await asyncio.sleep(0)
        return await coalescer.submit(item)

    tasks = [asyncio.create_task(one(item)) for item in range(len(plan))]
    await asyncio.sleep(0)
    for item, task in enumerate(tasks):
        if plan[item][0] == "cancelled":
            task.cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    await coalescer.close()

    for item, outcome in enumerate(outcomes):
        fate = plan[item][0]
        if isinstance(outcome, Refusal):  # it shared a batch with what is transient
            assert any(other == "transient" for other, _ in plan)
        elif fate == "poison":
            assert isinstance(outcome, Poison)
            assert str(outcome) == str(item)
        elif fate == "own":
            assert isinstance(outcome, KeyError)
            assert outcome.args == (item,)
        elif fate == "good":
            assert outcome == f"result {item}"
            assert flushed.count(item) == 1
        else:
            assert fate == "cancelled"
            assert isinstance(outcome, asyncio.CancelledError)


async def test_an_exception_that_nobody_waits_for_any_more_makes_no_noise() -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    flush = Flushes(open_=False, poison=LookupError("poison"))
    coalescer = Coalescer(flush, max_items=10)

    (task,) = await start(coalescer, "bad")
    task.cancel()
    flush.gate.set()
    await coalescer.close()
    gc.collect()

    assert noise == []


class Item:
    """Something that a weak reference can be had of."""


@pytest.mark.parametrize("poison", [Unavailable("the database"), ValueError("poisoned")])
async def test_a_failure_keeps_nothing_alive_that_it_passed(poison: Exception) -> None:
    async def fail(_: list[Item]) -> Sequence[None]:
        raise poison

    coalescer = Coalescer(fail, max_items=10)
    items = [Item() for _ in range(3)]
    kept = [weakref.ref(item) for item in items]
    gc.disable()
    try:
        await asyncio.gather(*map(coalescer.submit, items), return_exceptions=True)
        items.clear()
        poison.__traceback__ = None  # of the one object that each was given
        await asyncio.sleep(0)

        assert [each() for each in kept] == [None] * 3
    finally:
        gc.enable()
