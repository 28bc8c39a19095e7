"""Evaluating: asks rules what they say of events, and finds out of which event they die.

Where rules die while they have events, each of these may be why. Such a suspect is evaluated alone:
while rules have it they have nothing else of this process. Right before, they have answered for a
stand-in, an event of the same page that says nothing; and some time before that too where they died
lately, for what kills them at their start is no event. So neither an outage counts against an
event, nor do deaths of any other cause: those would have to meet the same event alone three times,
within the moment that it takes. Nor does it count while rules die of every event, as a bad release
may.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from pagewire.rules.v1.rule_service_pb2 import (
    EvaluateEventsRequest,
    EvaluateEventsResponse,
    EventToEvaluate,
)
from pagewire.type.v1.event_pb2 import Event
from pagewire.type.v1.rule_pb2 import Evaluation
from pagewire_runtime import faults, metrics
from pagewire_runtime.errors import Kind, Refusal, Unavailable, Unreached
from pagewire_runtime.logs import get_logger

log = get_logger(__name__)

_lost = metrics.counter(
    "pagewire_evaluations_lost_total",
    "Evaluations during which rules were lost, by whether they had one event alone for a trial.",
    ["alone"],
)

MOST_DEATHS = 3
"""Of rules, of one event alone. Fewer than of dispatchers: each takes the answers of all."""

RULES_DIED = "rules_died"
"""A failure of an event that rules had alone when they died."""
KILLS_RULES = "kills_rules"
"""The same for the last time: the store parks the event at once."""


class Rules(Protocol):
    """What is asked of rules: one evaluation an event, in order. No effect.

    Waits for a connection, so that Unreached means: it was lost while they had the events.
    """

    def EvaluateEvents(
        self, request: EvaluateEventsRequest, /, *, wait_for_ready: bool
    ) -> Awaitable[EvaluateEventsResponse]: ...


class WrongAnswer(Refusal):
    """A service answered something else than was asked."""

    reason = "WRONG_ANSWER"


class RulesDied(Refusal):
    """Rules died while they had the events: one of these may be why."""

    reason = "RULES_DIED"


class Evaluating:
    """Evaluates events, many at a time or one alone.

    How often rules died of an event is kept here and not in the store: a dispatcher that starts
    anew counts anew, which costs two deaths more and parks nothing too early. The store counts each
    such death as a failure, and so ends by itself what several dispatchers count apart.
    """

    def __init__(self, rules: Rules, settle_seconds: float) -> None:
        """`settle_seconds`: so long rules have to live after a death before an event is tried."""
        self._rules = rules
        self._settle_seconds = settle_seconds
        self._settled_at: float | None = None
        """By the loop's clock, in this life of rules; None where it has not answered yet."""
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._last: tuple[str, str] | None = None
        self._some_live = True
        """Whether rules have borne an event since they last died of one."""
        self._trial = asyncio.Lock()
        self._door = asyncio.Lock()
        self._under_way = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def together(self, events: Sequence[EventToEvaluate]) -> Sequence[Evaluation]:
        """One evaluation an event. Raises RulesDied, where each is to be evaluated `alone`, and
        what else Refusal there is."""
        async with self._among_others():
            try:
                return await self._evaluated(events)
            except RulesDied:
                _lost.labels("false").inc()
                raise

    async def alone(self, event: EventToEvaluate) -> Evaluation | None:
        """Of an event of which rules may have died; None where that can't be told this time.

        An evaluation with an error where they died of it again. Raises a Refusal that is TRANSIENT
        where rules are not well before, or die of others too: try again.
        """
        async with self._trial:
            settled_at = await self._see_well(event)
            async with self._by_itself():
                if self._settled_at != settled_at:  # they died of what they still had
                    raise Unavailable("rules")
                try:
                    (evaluation,) = await self._evaluated([event])
                except RulesDied:
                    return Evaluation(error=self._died_of(event))
                except Refusal:
                    return None
        del self._deaths[_name(event)]
        return evaluation

    async def _evaluated(self, events: Sequence[EventToEvaluate]) -> Sequence[Evaluation]:
        try:
            response = await self._ask(events)
        except Unreached:
            raise RulesDied("rules died while they had these events") from None
        if len(response.evaluations) != len(events):
            raise WrongAnswer("rules did not answer event by event")
        self._some_live = True
        await faults.reach("dispatcher.evaluated", faults.named(each.event for each in events))
        return response.evaluations

    async def _ask(self, events: Sequence[EventToEvaluate]) -> EvaluateEventsResponse:
        request = EvaluateEventsRequest(events=events)
        try:
            response = await self._rules.EvaluateEvents(request, wait_for_ready=True)
        except Unreached:
            self._settled_at = None
            raise
        self._see_settling()
        return response

    async def _see_well(self, event: EventToEvaluate) -> float:
        """When rules have settled in this life. Raises a Refusal that is TRANSIENT where they are
        not well."""
        settled_at = await self._see_alive(event)
        while (rest := settled_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(rest)
            settled_at = await self._see_alive(event)
        return settled_at

    async def _see_alive(self, event: EventToEvaluate) -> float:
        """Has rules evaluate a stand-in; a refusal of theirs shows too that they live."""
        try:
            await self._ask([stand_in(event)])
        except Refusal as refusal:
            if refusal.kind is Kind.TRANSIENT:
                raise
        return self._see_settling()

    def _see_settling(self) -> float:
        if self._settled_at is None:
            # At random, so that several dispatchers do not try theirs at the same time.
            settling = random.uniform(0.5, 1) * self._settle_seconds  # noqa: S311  # no secret
            self._settled_at = asyncio.get_running_loop().time() + settling
        return self._settled_at

    def _died_of(self, event: EventToEvaluate) -> str:
        _lost.labels("true").inc()
        name = _name(event)
        if name != self._last and not self._some_live:
            raise Unavailable("rules")
        self._last, self._some_live = name, False
        self._deaths[name] += 1
        log.error("rules died of one event", page_id=event.event.page_id, times=self._deaths[name])
        if self._deaths[name] < MOST_DEATHS:
            return RULES_DIED
        del self._deaths[name]
        return KILLS_RULES

    @asynccontextmanager
    async def _among_others(self) -> AsyncIterator[None]:
        async with self._door:
            self._under_way += 1
            self._is_idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._is_idle.set()

    @asynccontextmanager
    async def _by_itself(self) -> AsyncIterator[None]:
        async with self._door:
            await self._is_idle.wait()
            yield


def stand_in(event: EventToEvaluate) -> EventToEvaluate:
    """An event of the same kind that says nothing, for the same rules."""
    return EventToEvaluate(
        event=Event(page_id=event.event.page_id, trigger=event.event.trigger),
        book_version=event.book_version,
        platform=event.platform,
    )


def _name(event: EventToEvaluate) -> tuple[str, str]:
    return event.event.page_id, event.event.key
