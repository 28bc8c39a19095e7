"""The dispatcher: takes lanes with pending events, has rules evaluate them, and commits."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration

from pagewire.rules.v1.rule_service_pb2 import EventToEvaluate
from pagewire.store.v1 import lane_service_pb2 as lanes_pb
from pagewire.store.v1.lane_service_pb2 import (
    ClaimedLane,
    EventDecision,
    LaneDecisions,
    LaneRef,
    LaneResult,
)
from pagewire.type.v1.decision_pb2 import Outcome
from pagewire.type.v1.rule_pb2 import Evaluation
from pagewire_runtime import faults, metrics
from pagewire_runtime.clocks import at_once
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger
from pagewire_webhook.evaluating import Evaluating, Rules, RulesDied

T = TypeVar("T")

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=1)
PAUSE_SECONDS = 0.05, 1.0
"""The first pause after a call that failed for the moment, and the longest; doubled in between."""

MOMENTARY = frozenset({Kind.TRANSIENT})
SAYS_NOTHING_OF_THE_EVENT = MOMENTARY | {
    Kind.EXHAUSTED,
    Kind.FORBIDDEN,
    Kind.UNAUTHENTICATED,
    Kind.UNIMPLEMENTED,
}
"""Refusals of the caller, whatever it asks: an outage too, until somebody mends it."""

# The store counts decisions too, with their reasons: under a name of its own.
_decisions = metrics.counter(
    "pagewire_dispatcher_decisions_total", "Events decided, by outcome.", ["outcome"]
)
_seconds = metrics.histogram(
    "pagewire_decision_seconds", "From receipt at the edge to the decision's commit.", []
)
_held = metrics.gauge("pagewire_dispatcher_lanes", "Lanes that this process holds now.")


class Store(Protocol):
    """What the dispatcher asks of the store's lanes; the generated stub is one."""

    def ClaimLanes(
        self, request: lanes_pb.ClaimLanesRequest, /
    ) -> Awaitable[lanes_pb.ClaimLanesResponse]: ...

    def ExtendLeases(
        self, request: lanes_pb.ExtendLeasesRequest, /
    ) -> Awaitable[lanes_pb.ExtendLeasesResponse]: ...

    def CommitDecisions(
        self, request: lanes_pb.CommitDecisionsRequest, /
    ) -> Awaitable[lanes_pb.CommitDecisionsResponse]: ...


@dataclass(frozen=True)
class Pace:
    """How much a dispatcher takes at once, and how often it says that it lives."""

    batches: int = 4
    lanes: int = 64
    apart_seconds: float = 0.015
    """Between two claims that found something: what comes meanwhile is claimed, evaluated and
    committed together. A lone event waits for nothing; of many, each costs half as much."""
    heartbeat_seconds: float = 2.0
    alone_seconds: float = 1.0
    """For a lane whose first event failed, or a dispatcher died of it, before more is claimed."""
    settle_seconds: float = 0.5
    """For rules that died to live, before an event of which they may have died is tried alone."""
    claim_ends_seconds: float = 1.5
    """For a claim under way at the end to hand over what it has leased; it waits for 1 s."""


@dataclass
class Dispatcher:
    """Works until it is cancelled; then frees the lanes that it still holds.

    Lanes claimed together are evaluated in one call, and committed and freed in one. Where that
    fails each goes on by itself, so that none delays another. What fails for the moment (rules or
    store not reachable, a deadline) is tried again under the same lease and counts against no
    event; an event of which rules die is told from that by `Evaluating`.
    """

    store: Store
    rules: Rules
    owner: str
    pace: Pace = Pace()
    ready: Callable[[], Awaitable[None]] = at_once
    """Returns when lanes may be claimed."""
    _leases: dict[tuple[str, str], LaneRef] = field(default_factory=dict)
    _evaluating: Evaluating = field(init=False)

    def __post_init__(self) -> None:
        self._evaluating = Evaluating(self.rules, self.pace.settle_seconds)

    async def run(self) -> None:
        """Claim and decide until cancelled."""
        room = asyncio.Semaphore(self.pace.batches)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_leases())
            while True:
                await room.acquire()
                claimed = await self._claim()
                self._hold(claimed)
                task = tasks.create_task(self._decide(claimed))
                task.add_done_callback(lambda _: room.release())
                await asyncio.sleep(self.pace.apart_seconds)
                if any(map(_has_failed, claimed)):
                    # If this process dies of it, it dies of nothing else.
                    await asyncio.wait([task], timeout=self.pace.alone_seconds)

    async def _claim(self) -> Sequence[ClaimedLane]:
        request = lanes_pb.ClaimLanesRequest(
            owner=self.owner, max_lanes=self.pace.lanes, wait=CLAIM_WAIT
        )
        while True:
            await self.ready()
            claiming = asyncio.ensure_future(
                # Whatever is wrong, the process may have other parts that work.
                _persistently(lambda: self.store.ClaimLanes(request), frozenset(Kind))
            )
            try:
                response = await asyncio.shield(claiming)
            except asyncio.CancelledError:
                await self._free_last(claiming)
                raise
            if response.lanes:
                return response.lanes

    async def _free_last(self, claiming: asyncio.Future[lanes_pb.ClaimLanesResponse]) -> None:
        """A claim that is cut off would leave lanes leased to nobody until their leases end."""
        await asyncio.wait([claiming], timeout=self.pace.claim_ends_seconds)
        claiming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._free((await claiming).lanes)

    async def _decide(self, claimed: Sequence[ClaimedLane]) -> None:
        try:
            await faults.reach("dispatcher.claimed", _named(claimed))
            suspects = [lane for lane in claimed if _has_failed(lane)]
            if suspects:
                others = [lane for lane in claimed if not _has_failed(lane)]
                alone = (self._decide_alone(lane, suspect=True) for lane in suspects)
                await _all([self._decide_together(others), *alone])
            else:
                await self._decide_together(claimed)
        except asyncio.CancelledError:
            await self._free(claimed)
            raise
        finally:
            self._let_go(claimed)

    async def _decide_together(self, claimed: Sequence[ClaimedLane]) -> None:
        if not claimed:
            return
        if len(claimed) == 1:
            await self._decide_alone(claimed[0])
            return
        events = [event for lane in claimed for event in _to_evaluate(lane)]
        try:
            evaluations = iter(await self._evaluating.together(events))
        except RulesDied:
            await _all(self._decide_alone(lane, suspect=True) for lane in claimed)
            return
        except Refusal as refusal:
            one_by_one = refusal.kind is not Kind.TRANSIENT
            await _all(self._decide_alone(lane, one_by_one=one_by_one) for lane in claimed)
            return
        decisions = [lane_decisions(x, [next(evaluations) for _ in x.events]) for x in claimed]
        try:
            await self._commit(claimed, decisions)
        except Refusal:
            await _all(map(self._commit_alone, claimed, decisions))

    async def _decide_alone(
        self, lane: ClaimedLane, *, one_by_one: bool = False, suspect: bool = False
    ) -> None:
        events = _to_evaluate(lane)
        evaluations: Sequence[Evaluation] = ()
        if not one_by_one and not suspect:
            try:
                evaluations = await _persistently(lambda: self._evaluating.together(events))
            except RulesDied:
                suspect = True
            except Refusal:
                pass  # one of them may be why
        if not evaluations:
            evaluations = await self._one_by_one(events, suspect=suspect)
        await self._commit_alone(lane, lane_decisions(lane, evaluations))

    async def _one_by_one(
        self, events: Sequence[EventToEvaluate], *, suspect: bool
    ) -> Sequence[Evaluation]:
        """Up to and with the first that can't be evaluated: it costs those before it nothing, and
        those behind it wait for it."""
        evaluations: list[Evaluation] = []
        for event in events:
            evaluations.append(await self._evaluate_alone(event, suspect=suspect))
            if evaluations[-1].error:
                break
        return evaluations

    async def _evaluate_alone(self, event: EventToEvaluate, *, suspect: bool) -> Evaluation:
        while True:
            if suspect:
                found = await _persistently(lambda: self._evaluating.alone(event))
                if found is not None:
                    return found
            try:
                (evaluation,) = await _persistently(
                    lambda: self._evaluating.together([event]), SAYS_NOTHING_OF_THE_EVENT
                )
            except RulesDied:
                suspect = True
            except Refusal as refusal:
                return Evaluation(error=refusal.reason.lower())
            else:
                return evaluation

    async def _commit_alone(self, lane: ClaimedLane, decisions: LaneDecisions) -> None:
        try:
            await _persistently(lambda: self._commit([lane], [decisions]))
        except Refusal as refusal:
            # The lease ends by itself, and somebody claims the lane again.
            log.error("a lane could not be decided", reason=refusal.reason)
        finally:
            self._let_go([lane])

    async def _commit(
        self, claimed: Sequence[ClaimedLane], decisions: Sequence[LaneDecisions]
    ) -> None:
        request = lanes_pb.CommitDecisionsRequest(lanes=decisions)
        response = await self.store.CommitDecisions(request)
        await faults.reach("dispatcher.committed", _named(claimed))
        for lane, result in zip(claimed, response.results, strict=False):  # only to count
            _observe(lane, result)

    async def _free(self, claimed: Sequence[ClaimedLane]) -> None:
        """Give lanes back undecided; where that fails their leases end by themselves."""
        lanes = [LaneDecisions(ref=lane.ref, release=True) for lane in claimed]
        if not lanes:
            return
        with contextlib.suppress(Refusal):
            await asyncio.shield(
                self.store.CommitDecisions(lanes_pb.CommitDecisionsRequest(lanes=lanes))
            )

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self.pace.heartbeat_seconds)
            if not self._leases:
                continue
            request = lanes_pb.ExtendLeasesRequest(lanes=list(self._leases.values()))
            try:
                response = await self.store.ExtendLeases(request)
            except Refusal:
                continue  # the next beat comes before the lease ends; a lost one is fenced
            for ref in response.lost:
                self._leases.pop((ref.page_id, ref.lane), None)

    def _hold(self, claimed: Sequence[ClaimedLane]) -> None:
        self._leases.update({(lane.ref.page_id, lane.ref.lane): lane.ref for lane in claimed})
        _held.set(len(self._leases))

    def _let_go(self, claimed: Sequence[ClaimedLane]) -> None:
        for lane in claimed:
            key = (lane.ref.page_id, lane.ref.lane)
            if (held := self._leases.get(key)) and held.epoch == lane.ref.epoch:
                del self._leases[key]
        _held.set(len(self._leases))


def _has_failed(lane: ClaimedLane) -> bool:
    """Whether the first event of the lane failed before, or a dispatcher or rules died with it."""
    return bool(lane.events and lane.events[0].attempts)


def _named(claimed: Iterable[ClaimedLane]) -> Iterator[str]:
    for lane in claimed:
        yield from (each.event_id for each in lane.events)
        yield from faults.named(each.event for each in lane.events)


def _to_evaluate(lane: ClaimedLane) -> list[EventToEvaluate]:
    """What rules are told of a lane's events."""
    return [
        EventToEvaluate(
            event=claimed.event,
            book_version=lane.book_version,
            person_name=claimed.person_name,
            platform=lane.platform,
        )
        for claimed in lane.events
    ]


def lane_decisions(lane: ClaimedLane, evaluations: Sequence[Evaluation]) -> LaneDecisions:
    """A lane's decisions up to and with the first event that could not be evaluated.

    What stands behind that one waits for it, evaluated or not: a lane is decided in order.
    """
    decisions = LaneDecisions(ref=lane.ref, release=True)
    for claimed, evaluation in zip(lane.events, evaluations, strict=False):
        if evaluation.error:
            decisions.events.add(event_id=claimed.event_id, failure=evaluation.error)
            break
        decisions.events.append(EventDecision(event_id=claimed.event_id, evaluation=evaluation))
    return decisions


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it, at the same time."""
    async with asyncio.TaskGroup() as tasks:
        for each in work:
            tasks.create_task(each)


async def _persistently(
    call: Callable[[], Awaitable[T]], passing: Container[Kind] = MOMENTARY
) -> T:
    """Call until it is answered. Raises the Refusal whose kind is not one that passes."""
    pause, longest = PAUSE_SECONDS
    while True:
        try:
            return await call()
        except Refusal as refusal:
            if refusal.kind not in passing:
                raise
            if refusal.kind is not Kind.TRANSIENT:
                log.error("a call is refused and made again", reason=refusal.reason)
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter, no secret
        pause = min(2 * pause, longest)


def _observe(lane: ClaimedLane, result: LaneResult) -> None:
    received = {claimed.event_id: claimed.receive_time for claimed in lane.events}
    for decision in result.decisions:
        name = Outcome.Name(decision.outcome).removeprefix("OUTCOME_").lower()
        _decisions.labels(name).inc()
        if came := received.get(decision.event_id):
            took = decision.decide_time.ToNanoseconds() - came.ToNanoseconds()
            _seconds.observe(max(took, 0) / 1e9)
