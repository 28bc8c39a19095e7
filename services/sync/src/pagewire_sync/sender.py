"""The sender: takes replies from the outbox, asks Graph once each, writes down how that ended."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration

from pagewire.store.v1 import outbox_service_pb2 as pb
from pagewire.store.v1.outbox_service_pb2 import AttemptOutcome, ClaimedReply, Verdict
from pagewire_runtime import metrics
from pagewire_runtime.coalescing import Coalescer
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger
from pagewire_sync import labels, outcomes, policy
from pagewire_sync.budget import Budget, Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import TOTAL_SECONDS, Answer, Credentials, Graph, NotSent, OutcomeUnknown
from pagewire_sync.outcomes import Ending
from pagewire_sync.requests import request_for
from pagewire_sync.usage import Usage

T = TypeVar("T")

log = get_logger(__name__)

CLAIM_WAIT = Duration(seconds=1)
IN_FLIGHT = 64
IN_FLIGHT_OF_A_PAGE = 24
"""So that one page whose calls hang leaves room for the others."""
PATIENCE_SECONDS = 2.0
"""A reply waits for its turn in the budget so long; longer, it goes back to the outbox."""
THROTTLED_SECONDS = 60.0
"""Where Meta does not say when a throttled page may call again."""

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
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _busy: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._outcomes: Coalescer[AttemptOutcome, None] = Coalescer(self._record, max_items=200)

    async def run(self) -> None:
        """Claim and send until cancelled."""
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                await _room(sending)
                begun = asyncio.get_running_loop().time()
                response = await self._claim(IN_FLIGHT - len(sending))
                lease_end = begun + response.lease.ToTimedelta().total_seconds()
                for reply in response.replies:
                    task = asyncio.create_task(self.send(reply, lease_end))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                _in_flight.set(len(sending))
        finally:
            if sending:
                await asyncio.wait(sending, timeout=TOTAL_SECONDS + PATIENCE_SECONDS)
            await self._outcomes.close()

    async def send(self, reply: ClaimedReply, lease_end: float) -> None:
        """Send one reply, or not, and write down how that ended."""
        self._busy[reply.page_id] += 1
        send_time = self.now()
        try:
            ending = await self._attempt(reply, lease_end)
        finally:
            self._busy[reply.page_id] -= 1
            if not self._busy[reply.page_id]:
                del self._busy[reply.page_id]
        outcome = outcomes.to_outcome(reply, ending)
        outcome.send_time.FromDatetime(send_time)
        _ended.labels(Verdict.Name(ending.verdict).removeprefix("VERDICT_").lower()).inc()
        await self._outcomes.submit(outcome)

    async def _attempt(self, reply: ClaimedReply, lease_end: float) -> Ending:
        if refusal := policy.examine(reply, self.now()):
            return Ending(refusal.verdict, refusal.reason)
        if self._busy[reply.page_id] > IN_FLIGHT_OF_A_PAGE:
            return outcomes.postponed("page_busy", 1.0)
        try:
            credentials = await self.credentials.of(reply.page_id, reply.token_version)
        except Refusal as refused:
            return outcomes.postponed(refused.reason.lower())
        return await self._ask(reply, credentials, lease_end)

    async def _ask(self, reply: ClaimedReply, credentials: Credentials, lease_end: float) -> Ending:
        loop = asyncio.get_running_loop()
        product = _product(reply, self.now())
        wait = self.budget.wait(reply.page_id, product, loop.time())
        if wait > PATIENCE_SECONDS:
            return outcomes.postponed("budget_spent", wait)
        self.budget.spend(reply.page_id, product, loop.time())
        await asyncio.sleep(wait)
        if loop.time() + TOTAL_SECONDS > lease_end:
            return outcomes.postponed("lease_too_short", 0.0)
        try:
            answer, usage = await self._call(reply, credentials)
        except NotSent:
            return outcomes.postponed("connect_failed")
        except OutcomeUnknown as lost:
            return outcomes.unknown(reply, lost.reason)
        self._heed(reply.page_id, answer, usage)
        if isinstance(answer, GraphError):
            return outcomes.refused(reply, answer)
        return outcomes.accepted(answer)

    async def _call(
        self, reply: ClaimedReply, credentials: Credentials
    ) -> tuple[Answer | GraphError, Usage]:
        if reply.kind in policy.LABELS:
            return await labels.apply(self.graph, credentials, reply)
        request = request_for(reply, self.now())
        return await self.graph.post(
            credentials, request.path, request.body, operation=request.operation
        )

    def _heed(self, page_id: str, answer: Answer | GraphError, usage: Usage) -> None:
        """Let the answer correct the budget."""
        now = asyncio.get_running_loop().time()
        self.budget.observe(page_id, usage, now)
        if isinstance(answer, GraphError):
            pause = answer.retry_after or THROTTLED_SECONDS
            if answer.failure is Failure.THROTTLED:
                self.budget.stop(page_id, now, pause)
            elif answer.failure is Failure.APP_THROTTLED:
                self.budget.stop_app(now, pause)

    async def _claim(self, room: int) -> pb.ClaimRepliesResponse:
        request = pb.ClaimRepliesRequest(owner=self.owner, max_replies=room, wait=CLAIM_WAIT)
        return await persistently(lambda: self.outbox.ClaimReplies(request))

    async def _record(self, batch: list[AttemptOutcome]) -> list[Exception | None]:
        """Write outcomes down, however long that takes: they are the only witness."""
        request = pb.RecordOutcomesRequest(outcomes=batch)
        await persistently(lambda: self.outbox.RecordOutcomes(request))
        return [None] * len(batch)


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until it is answered; raise only what another try would not mend."""
    pause = 0.05
    while True:
        try:
            return await call()
        except Refusal as refusal:
            if refusal.kind not in (Kind.TRANSIENT, Kind.EXHAUSTED):
                raise
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter, no secret
        pause = min(2 * pause, 1.0)


async def _room(sending: set[asyncio.Task[None]]) -> None:
    if len(sending) >= IN_FLIGHT:
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)


def _product(reply: ClaimedReply, now: datetime) -> Product:
    return Product.PAGE if reply.kind in policy.LABELS else request_for(reply, now).product
