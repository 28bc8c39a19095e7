import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.rules.v1.rule_service_pb2 import (
    EvaluateEventsRequest,
    EvaluateEventsResponse,
    EventToEvaluate,
)
from pagewire.type.v1.event_pb2 import Event, MessageDetail, Trigger
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import Evaluation
from pagewire_runtime import metrics
from pagewire_runtime.errors import (
    InvalidArgument,
    Kind,
    Refusal,
    Unavailable,
    Unreached,
    refusal_from,
)
from pagewire_webhook.evaluating import (
    KILLS_RULES,
    MOST_DEATHS,
    RULES_DIED,
    Evaluating,
    Rules,
    RulesDied,
    WrongAnswer,
)

STAND_IN = ""
"""The key of what stands for an event."""


def an_event(key: str, *, page_id: str = "1") -> EventToEvaluate:
    return EventToEvaluate(
        event=Event(
            page_id=page_id,
            lane="person:7",
            key=key,
            trigger=Trigger.TRIGGER_MESSAGE,
            person_id="7",
            message=MessageDetail(text="hello"),
        ),
        book_version=7,
        person_name="Ada",
        platform=Platform.PLATFORM_INSTAGRAM,
    )


class MortalRules:
    """Answer, until they are told to die: then every call that they have is lost."""

    def __init__(self) -> None:
        self.poison: set[str] = set()
        self.refusals: dict[str, Refusal] = {}
        self.hold: set[str] = set()
        self.calls: list[list[str]] = []
        self.waited: set[bool] = set()
        self._held: set[asyncio.Future[None]] = set()
        self.has: asyncio.Queue[list[str]] = asyncio.Queue()
        self.last = EvaluateEventsRequest()

    async def EvaluateEvents(
        self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> EvaluateEventsResponse:
        keys = [item.event.key for item in request.events]
        self.calls.append(keys)
        self.waited.add(wait_for_ready)
        self.last = request
        self.has.put_nowait(keys)
        if self.poison & set(keys):
            self.die()
            raise Unreached
        for key in keys:
            if key in self.refusals:
                raise self.refusals[key]
        if self.hold & set(keys):
            held = asyncio.get_running_loop().create_future()
            self._held.add(held)
            try:
                await held
            finally:
                self._held.discard(held)
        return EvaluateEventsResponse(evaluations=[Evaluation() for _ in keys])

    def die(self) -> None:
        for held in self._held:
            held.set_exception(Unreached())

    def go_on(self) -> None:
        for held in self._held:
            held.set_result(None)


@pytest.fixture
def rules() -> MortalRules:
    return MortalRules()


def evaluating_by(rules: Rules, *, settle_seconds: float = 0) -> Evaluating:
    return Evaluating(rules, settle_seconds)


async def errors(evaluating: Evaluating, key: str, times: int) -> list[str | None]:
    """What the event's evaluations alone say; None where nothing could be told."""
    found = [await evaluating.alone(an_event(key)) for _ in range(times)]
    return [None if each is None else each.error for each in found]


async def test_an_event_that_rules_die_of_alone_kills_them_at_the_third_time(
    rules: MortalRules,
) -> None:
    rules.poison = {"e1"}

    found = await errors(evaluating_by(rules), "e1", MOST_DEATHS)

    assert found == [RULES_DIED, RULES_DIED, KILLS_RULES]


async def test_an_event_that_rules_bear_once_starts_with_nothing_against_it(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules)

    for _ in range(4):
        rules.poison = {"e1"}
        died = await errors(evaluating, "e1", MOST_DEATHS - 1)
        rules.poison = set()
        borne = await errors(evaluating, "e1", 1)

        assert (died, borne) == ([RULES_DIED, RULES_DIED], [""])


async def test_deaths_of_one_event_count_against_no_other(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.poison = {f"e{n}" for n in range(20)}
    found = []

    for n in range(20):
        found += await errors(evaluating, f"e{n}", 1)
        await evaluating.together([an_event("good")])

    assert found == [RULES_DIED] * 20


async def test_two_events_that_kill_rules_in_turn_are_both_found_out(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.poison = {"e1", "e2"}
    found = []

    for _ in range(MOST_DEATHS):
        for key in ("e1", "e2"):
            found += await errors(evaluating, key, 1)
            await evaluating.together([an_event("good")])

    assert found == [RULES_DIED] * 4 + [KILLS_RULES] * 2


async def test_rules_that_die_of_every_event_blame_one_and_no_more(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.poison = {f"e{n}" for n in range(5)}
    blamed = []

    for _ in range(3 * MOST_DEATHS):
        for key in sorted(rules.poison):
            with suppress(Unavailable):
                await errors(evaluating, key, 1)
                blamed.append(key)

    assert set(blamed) == {"e0"}


async def test_what_is_lost_is_counted_by_whether_it_was_alone(rules: MortalRules) -> None:
    evaluating, before = evaluating_by(rules), (lost("true"), lost("false"))
    rules.poison = {"e1"}

    with pytest.raises(RulesDied):
        await evaluating.together([an_event("e1"), an_event("e2")])
    await errors(evaluating, "e1", 2)

    assert (lost("true"), lost("false")) == (before[0] + 2, before[1] + 1)


def lost(alone: str) -> float:
    name = "pagewire_evaluations_lost_total"
    return metrics.registry.get_sample_value(name, {"alone": alone}) or 0.0


async def test_right_before_each_trial_rules_answer_for_an_event_that_says_nothing(
    rules: MortalRules,
) -> None:
    rules.refusals = {STAND_IN: InvalidArgument("event", "is none")}

    await evaluating_by(rules).alone(an_event("e1"))

    assert rules.calls == [[STAND_IN], ["e1"]]
    assert rules.waited == {True}


async def test_rules_that_died_have_to_live_for_a_while_before_an_event_is_tried(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules, settle_seconds=0.02)
    rules.poison = {"e1"}
    with pytest.raises(RulesDied):
        await evaluating.together([an_event("e1"), an_event("e2")])
    rules.calls.clear()

    await errors(evaluating, "e2", 2)

    assert rules.calls == [[STAND_IN], [STAND_IN], ["e2"], [STAND_IN], ["e2"]]


async def test_while_rules_settle_no_event_is_tried_and_others_are_evaluated(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules, settle_seconds=3600)
    rules.poison = {"e1"}
    with pytest.raises(RulesDied):
        await evaluating.together([an_event("e1"), an_event("e2")])
    trial = asyncio.ensure_future(evaluating.alone(an_event("e2")))
    await has(rules, [STAND_IN])
    await a_while()

    answered = await evaluating.together([an_event("e3")])
    trial.cancel()
    await asyncio.wait([trial])

    assert len(answered) == 1
    assert ["e2"] not in rules.calls


async def test_the_stand_in_is_for_the_same_rules_and_has_nothing_else_of_the_event(
    rules: MortalRules,
) -> None:
    rules.refusals = {STAND_IN: Unavailable("the newest rule book")}

    with pytest.raises(Refusal):
        await evaluating_by(rules).alone(an_event("e1"))

    assert list(rules.last.events) == [
        EventToEvaluate(
            event=Event(page_id="1", trigger=Trigger.TRIGGER_MESSAGE),
            book_version=7,
            platform=Platform.PLATFORM_INSTAGRAM,
        )
    ]


@pytest.mark.parametrize(
    "refusal", [Unreached(), Unavailable("the newest rule book")], ids=["lost", "not ready"]
)
async def test_while_rules_are_not_well_no_event_is_tried_and_nothing_counts(
    rules: MortalRules, refusal: Refusal
) -> None:
    evaluating = evaluating_by(rules)
    rules.refusals = {STAND_IN: refusal, "e1": Unreached()}

    for _ in range(3 * MOST_DEATHS):
        with pytest.raises(Refusal) as refused:
            await evaluating.alone(an_event("e1"))
        assert refused.value.kind is Kind.TRANSIENT

    assert ["e1"] not in rules.calls
    rules.refusals = {"e1": Unreached()}
    assert await errors(evaluating, "e1", MOST_DEATHS) == [RULES_DIED, RULES_DIED, KILLS_RULES]


@pytest.mark.parametrize(
    "refusal",
    [
        refusal_from(Kind.TRANSIENT, "DEADLINE_EXCEEDED", "late"),
        Unavailable("the newest rule book"),
        InvalidArgument("event", "is poison"),
    ],
    ids=["too late", "not now", "refused"],
)
async def test_a_trial_that_ends_otherwise_tells_nothing_and_counts_nothing(
    rules: MortalRules, refusal: Refusal
) -> None:
    evaluating = evaluating_by(rules)
    rules.refusals = {"e1": refusal}

    assert await errors(evaluating, "e1", 2 * MOST_DEATHS) == [None] * 6
    rules.refusals = {"e1": Unreached()}
    assert await errors(evaluating, "e1", 2) == [RULES_DIED, RULES_DIED]


async def test_events_that_rules_die_with_are_told_so_and_none_is_blamed(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules)
    rules.poison = {"e2"}

    for _ in range(2 * MOST_DEATHS):
        with pytest.raises(RulesDied):
            await evaluating.together([an_event("e1"), an_event("e2")])

    assert await errors(evaluating, "e1", 1) == [""]
    assert await errors(evaluating, "e2", 2) == [RULES_DIED, RULES_DIED]


async def test_a_refusal_is_no_death(rules: MortalRules) -> None:
    rules.refusals = {"e1": Unavailable("the newest rule book")}

    with pytest.raises(Unavailable):
        await evaluating_by(rules).together([an_event("e1")])


async def test_an_answer_with_too_few_evaluations_is_wrong() -> None:
    class Silent:
        async def EvaluateEvents(
            self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
        ) -> EvaluateEventsResponse:
            return EvaluateEventsResponse()

    with pytest.raises(WrongAnswer):
        await evaluating_by(Silent()).together([an_event("e1")])


async def has(rules: MortalRules, keys: list[str]) -> None:
    """Returns when rules have these; fails when that never comes."""
    async with asyncio.timeout(30):
        while await rules.has.get() != keys:
            pass


async def a_while() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_trial_begins_when_rules_have_nothing_else(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.hold = {"e1"}
    others = asyncio.ensure_future(evaluating.together([an_event("e1")]))
    await has(rules, ["e1"])

    trial = asyncio.ensure_future(evaluating.alone(an_event("e2")))
    await has(rules, [STAND_IN])
    await a_while()
    before = list(rules.calls)
    rules.go_on()
    await asyncio.gather(others, trial)

    assert before == [["e1"], [STAND_IN]]
    assert rules.calls == [["e1"], [STAND_IN], ["e2"]]


async def test_a_trial_before_which_rules_die_of_what_they_still_had_is_put_off(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules)
    rules.hold = {"e1"}
    others = asyncio.ensure_future(evaluating.together([an_event("e1")]))
    await has(rules, ["e1"])
    trial = asyncio.ensure_future(evaluating.alone(an_event("e2")))
    await has(rules, [STAND_IN])
    await a_while()

    rules.die()
    found = await asyncio.gather(others, trial, return_exceptions=True)

    assert [type(each) for each in found] == [RulesDied, Unavailable]
    assert ["e2"] not in rules.calls


async def test_what_comes_during_a_trial_waits_for_its_end(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.hold = {"e1"}
    trial = asyncio.ensure_future(evaluating.alone(an_event("e1")))
    await has(rules, ["e1"])

    others = asyncio.ensure_future(evaluating.together([an_event("e2")]))
    await a_while()
    before = list(rules.calls)
    rules.die()
    found = await trial
    await others

    assert before == [[STAND_IN], ["e1"]]
    assert rules.calls == [[STAND_IN], ["e1"], ["e2"]]
    assert found is not None
    assert found.error == RULES_DIED


async def test_while_a_trial_waits_until_rules_are_well_others_are_evaluated(
    rules: MortalRules,
) -> None:
    evaluating = evaluating_by(rules)
    rules.hold = {STAND_IN}
    trial = asyncio.ensure_future(evaluating.alone(an_event("e1")))
    await has(rules, [STAND_IN])

    answered = await evaluating.together([an_event("e2")])
    rules.go_on()
    await trial

    assert len(answered) == 1
    assert rules.calls == [[STAND_IN], ["e2"], ["e1"]]


async def test_a_trial_that_is_cancelled_lets_the_others_go_on(rules: MortalRules) -> None:
    evaluating = evaluating_by(rules)
    rules.hold = {"e1"}
    trial = asyncio.ensure_future(evaluating.alone(an_event("e1")))
    await has(rules, ["e1"])

    trial.cancel()
    await asyncio.wait([trial])

    assert len(await evaluating.together([an_event("e2")])) == 1
    assert await errors(evaluating, "e3", 1) == [""]


class RandomlyKilled(MortalRules):
    """Are killed at calls that somebody else chooses; each call is one moment."""

    def __init__(self, kills: Callable[[], bool]) -> None:
        super().__init__()
        self._kills = kills

    async def EvaluateEvents(
        self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> EvaluateEventsResponse:
        if self._kills():
            raise Unreached
        return await super().EvaluateEvents(request, wait_for_ready=wait_for_ready)


@settings(deadline=None)
@given(st.lists(st.integers(4, 40), max_size=30), st.integers(1, 8))
async def test_kills_that_come_no_faster_than_trials_blame_no_event_for_good(
    between: list[int], events: int
) -> None:
    """A kill every so many moments, four at the least: an event that it met is tried again after a
    stand-in and is answered before the next."""
    left = [gap for gap in between for gap in [*[False] * (gap - 1), True]]
    evaluating = evaluating_by(RandomlyKilled(lambda: left.pop(0) if left else False))
    failures: list[str] = []

    async def decide(key: str) -> None:
        while True:
            try:
                found = await evaluating.alone(an_event(key))
            except Refusal:
                continue
            if found is not None and not found.error:
                return
            failures.append(found.error if found is not None else "")

    for n in range(events):
        await decide(f"e{n}")

    assert KILLS_RULES not in failures
