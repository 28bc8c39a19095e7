"""The sender: takes replies from the outbox, asks Graph once each, writes down how that ended."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import AttemptOutcome, ClaimedReply, Verdict
from pagewire_runtime import faults, metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.clocks import at_once
from pagewire_runtime.coalescing import Coalescer
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync import outcomes, policy
from pagewire_sync.anteroom import Anteroom
from pagewire_sync.budget import Budget
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.crew import Crew
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer, Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.labels import Labels
from pagewire_sync.outcomes import Ending
from pagewire_sync.patience import persistently
from pagewire_sync.requests import product_of, request_for

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=1)
CLAIM_ENDS_SECONDS = 2.5
"""A claim that is under way at the end gets so long to hand out what it has marked as SENDING."""
IN_FLIGHT = 200
IN_FLIGHT_OF_A_PAGE = 50
"""So that one page whose calls hang leaves room for the others."""
UNBEGUN = 32
"""Claimed and not begun: what this process hands to the network in a few hundredths of a second."""
BUSY_SECONDS = 2.0
PATIENCE_SECONDS = 2.0
"""A reply waits for its turn in the budget so long; longer, it goes back to the outbox."""

ALARMING = {
    Failure.SUSPENDED: "Meta restricts a page, a person should look",
    Failure.TOKEN: "a page's token was refused, connect the page again",
    Failure.PERMISSION: "a page lacks a permission, grant it and connect the page again",
    Failure.SECRET: "Meta refused the proof, see META_APP_SECRET",
}

_ended = metrics.counter(
    "pagewire_send_attempts", "Attempts to send, by how they ended.", ["verdict"]
)
_in_flight = metrics.gauge("pagewire_sends_in_flight", "Replies that this process holds now.")


class Outbox(Protocol):
    """What the sender asks of the store; the generated stub is one."""

    def ClaimReplies(
        self, request: pb.ClaimRepliesRequest, /
    ) -> Awaitable[pb.ClaimRepliesResponse]: ...

    def RecordOutcomes(
        self, request: pb.RecordOutcomesRequest, /
    ) -> Awaitable[pb.RecordOutcomesResponse]: ...


class Postponed(Exception):
    """The call may not go out now; `seconds` is how long not, None where nobody knows."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Claimed:
    """Replies, and until when (by the loop's clock) nobody else is given them."""

    replies: list[ClaimedReply]
    lease_end: float


@dataclass
class Sender:
    """Sends until it is cancelled; then finishes what is under way, and writes it down.

    A reply is sent under a lease that counts from the moment before it was asked for: a request
    goes out only if it would end within it, so that nobody else sends the same at that time.
    """

    outbox: Outbox
    credentials: CredentialCache
    graph: Graph
    budget: Budget
    owner: str
    now: Callable[[], datetime] = WALL.now
    ready: Callable[[], Awaitable[None]] = at_once
    """Returns when replies may be claimed: what `now` says decides which are too late."""
    _busy: Counter[str] = field(default_factory=Counter)
    _crew: Crew = field(default_factory=lambda: Crew(IN_FLIGHT))
    _unbegun: Anteroom = field(default_factory=lambda: Anteroom(UNBEGUN))
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._labels = Labels(self.graph)
        self._outcomes: Coalescer[AttemptOutcome, None] = Coalescer(self._record, max_items=200)

    async def run(self) -> None:
        """Claim and send until cancelled."""
        claiming = asyncio.create_task(self._claim_on())
        try:
            # A claim that is cut off leaves replies marked as SENDING, by nobody.
            await asyncio.shield(claiming)
        finally:
            self._stopping = True
            await asyncio.wait([claiming], timeout=CLAIM_ENDS_SECONDS)
            claiming.cancel()
            await self._drain()

    async def _drain(self) -> None:
        """What is not written down by then is uncertain when its lease ends, and looked for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.graph.total_seconds + PATIENCE_SECONDS):
                await self._crew.finish()
                await self._outcomes.close()
        await self._crew.dismiss()

    async def _claim_on(self) -> None:
        while not self._stopping:
            room = min(await self._unbegun.room(), await self._crew.room())
            await self.ready()
            claimed = await persistently(partial(self._claim, room))
            self._unbegun.enter(reply.tag for reply in claimed.replies)
            for reply in claimed.replies:
                self._crew.start(self.send(reply, claimed.lease_end))
            _in_flight.set(len(self._crew))

    async def _claim(self, room: int) -> Claimed:
        begun = asyncio.get_running_loop().time()
        response = await self.outbox.ClaimReplies(
            pb.ClaimRepliesRequest(owner=self.owner, max_replies=room, wait=CLAIM_WAIT)
        )
        if response.replies:
            await faults.reach("sync.claimed", _named(*response.replies))
        lease_end = begun + response.lease.ToTimedelta().total_seconds()
        return Claimed(list(response.replies), lease_end)

    async def send(self, reply: ClaimedReply, lease_end: float) -> None:
        """Send one reply, or not, and write down how that ended."""
        send_time = self.now()
        self._busy[reply.page_id] += 1
        try:
            with faults.walk("sync", _named(reply)):
                ending = await self._attempt(reply, lease_end)
        finally:
            self._unbegun.leave(reply.tag)
            self._busy[reply.page_id] -= 1
            if not self._busy[reply.page_id]:
                del self._busy[reply.page_id]
        _ended.labels(Verdict.Name(ending.verdict).removeprefix("VERDICT_").lower()).inc()
        outcome = outcomes.to_outcome(reply, ending)
        outcome.send_time.FromDatetime(send_time)
        await faults.reach("sync.after_response", _named(reply))
        await self._write_down(outcome)
        await faults.reach("sync.recorded", _named(reply))

    async def _attempt(self, reply: ClaimedReply, lease_end: float) -> Ending:
        if forbidden := self._forbidden(reply):
            return forbidden
        if self._busy[reply.page_id] > IN_FLIGHT_OF_A_PAGE:
            return outcomes.postponed("page_busy", BUSY_SECONDS)
        try:
            credentials = await self.credentials.of(reply.page_id, reply.token_version)
            return await self._ask(reply, credentials, lease_end)
        except Refusal as refusal:
            if refusal.kind is Kind.MISSING:
                return Ending(Verdict.VERDICT_REFUSED, "page_disconnected")
            return outcomes.postponed(refusal.reason.lower())
        except Postponed as later:
            return outcomes.postponed(later.reason, later.seconds)
        except NotSent:
            return outcomes.postponed("connect_failed")
        except OutcomeUnknown as lost:
            return outcomes.unknown(reply, lost.reason)
        except Exception:
            log.exception("sending failed in a way that nobody foresaw", reply=ref(reply.reply_id))
            return outcomes.unknown(reply, "unforeseen")

    async def _ask(self, reply: ClaimedReply, credentials: Credentials, lease_end: float) -> Ending:
        self._unbegun.leave(reply.tag)  # one that waits for its page's turn keeps out no other's
        if reply.kind in policy.LABELS:
            turn = partial(self._turn, reply, lease_end)
            return self._ending(reply, await self._labels.apply(credentials, reply, turn))
        await self._turn(reply, lease_end)
        if forbidden := self._forbidden(reply):  # its time may have passed in the wait
            return forbidden
        request = request_for(reply, self.now())
        answer = await self.graph.post(
            credentials,
            request.node,
            request.edge,
            request.body,
            operation=request.operation,
            product=product_of(reply),
        )
        return self._ending(reply, answer)

    def _forbidden(self, reply: ClaimedReply) -> Ending | None:
        refused = policy.examine(reply, self.now())
        return Ending(refused.verdict, refused.reason) if refused else None

    async def _turn(self, reply: ClaimedReply, lease_end: float) -> None:
        """Return when the budget allows a call that ends within the lease. Raises Postponed."""
        clock, product = asyncio.get_running_loop().time, product_of(reply)
        wait = self.budget.wait(reply.page_id, product, clock())
        if wait > PATIENCE_SECONDS:
            raise Postponed("budget_spent", wait)
        self.budget.spend(reply.page_id, product, clock())
        if wait:
            await asyncio.sleep(wait)
        if stopped := self.budget.stopped(reply.page_id, product, clock()):
            raise Postponed("budget_spent", stopped)
        if clock() + self.graph.total_seconds > lease_end:
            raise Postponed("lease_too_short")
        await faults.step("before_write")

    def _ending(self, reply: ClaimedReply, answer: Answer | GraphError) -> Ending:
        if isinstance(answer, Answer):
            return outcomes.accepted(reply, answer)
        if warning := ALARMING.get(answer.failure):
            log.warning(warning, page=ref(reply.page_id), reason=answer.reason)
        return outcomes.refused(reply, answer)

    async def _write_down(self, outcome: AttemptOutcome) -> None:
        """Until the store has it: it is the only witness."""
        try:
            await persistently(lambda: self._outcomes.submit(outcome))
        except Refusal as refusal:
            log.error("the store will not take an outcome", reason=refusal.reason)

    async def _record(self, batch: list[AttemptOutcome]) -> list[Exception | None]:
        await self.outbox.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=batch))
        return [None] * len(batch)


def _named(*replies: ClaimedReply) -> list[str]:
    """What fault points call them."""
    return [name for reply in replies for name in (reply.reply_id, reply.page_id)]
