"""Asking: a run's calls to Graph, counted, and what it means for the run when they fail."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pagewire_runtime import metrics
from pagewire_runtime.clock import WALL
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.batches import Weight
from pagewire_sync.budget import Product
from pagewire_sync.failures import Failure
from pagewire_sync.graph import Credentials
from pagewire_sync.reading import Tally
from pagewire_sync.results import Done, Failed, Outcome

log = get_logger(__name__)

_withheld = metrics.counter(
    "pagewire_history_withheld",
    "Lists that Graph refuses a page and its run goes on without, by what they hold.",
    ["what", "reason"],
)

PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0)
"""Between looks at a Graph that fails, each of which is several tries: five minutes of trouble, in
which other pages go on."""
ONE_LOOK = 3
"""Tries of a read that may have itself to blame, before something smaller is asked."""

_ENDS = {
    Failure.TOKEN: "token_dead",
    Failure.PERMISSION: "permission",
    Failure.SECRET: "app_secret_wrong",
    Failure.SUSPENDED: "suspended",
    Failure.VERSION: "graph_version_gone",
}
"""What no other call of the page would end otherwise, as the run's reason."""
_THROTTLED = frozenset({Failure.THROTTLED, Failure.APP_THROTTLED})
_STOPS = 30
"""So many times Graph stops a read after all the client's own waiting, before the run gives up."""
_TOO_MUCH = frozenset({"timeout", "answer_too_large"})
_CURSOR_CODES = frozenset({100, 2642})


class RunFailed(Exception):
    """The run cannot go on; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GraphUnavailable(RunFailed):
    """Graph went on failing for minutes."""

    def __init__(self) -> None:
        super().__init__("graph_unavailable")


class Reads(Protocol):
    """What is asked of the client; `reading.Reads` is one."""

    async def get(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product,
        weight: Weight = ...,
        batched: bool = ...,
        attempts: int = ...,
        tally: Tally | None = ...,
    ) -> Outcome:
        """Read a node or an edge of it, within the page's budget."""
        ...

    def left_percent(self, page_id: str) -> int:
        """What is left of the page's limits."""
        ...


@dataclass(frozen=True)
class Asking:
    """Reads for one run of one page."""

    reads: Reads
    credentials: Credentials
    tally: Tally = field(default_factory=Tally)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = WALL.now

    async def once(
        self,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product = Product.CONVERSATIONS,
        heavy: bool = False,
        batched: bool = False,
        attempts: int = ONE_LOOK,
    ) -> Outcome:
        """Read; where Graph stops the page, later. Raises RunFailed for what no other call would
        mend.
        """
        for _ in range(_STOPS):
            outcome = await self.reads.get(
                self.credentials,
                node,
                edge,
                params,
                operation=operation,
                product=product,
                weight=Weight.HEAVY if heavy else Weight.LIGHT,
                batched=batched,
                attempts=attempts,
                tally=self.tally,
            )
            if isinstance(outcome, Done):
                return outcome
            if reason := _ENDS.get(outcome.error.failure):
                raise RunFailed(reason)
            if outcome.error.failure not in _THROTTLED:
                return outcome
            if outcome.lost:  # the client was told to wait for longer than it does
                break
        raise RunFailed("throttled")

    async def patiently(
        self, node: str, edge: str, params: Mapping[str, str], **how: Any
    ) -> Outcome:
        """The same for what cannot be made smaller: while Graph fails it is asked again, for
        minutes. Raises RunFailed, GraphUnavailable where it goes on failing.
        """
        outcome = await self.again(PAUSES, node, edge, params, **how)
        if is_trouble(outcome):
            raise GraphUnavailable
        return outcome

    async def again(
        self, pauses: Sequence[float], node: str, edge: str, params: Mapping[str, str], **how: Any
    ) -> Outcome:
        """The last answer: while Graph fails it is asked again after each of these pauses. Raises
        RunFailed.
        """
        outcome = await self.once(node, edge, params, **how)
        for pause in pauses:
            if not is_trouble(outcome):
                break
            await self.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # jitter, no secret
            outcome = await self.once(node, edge, params, **how)
        return outcome


def goes_without(credentials: Credentials, what: str, reason: str) -> None:
    """Say that Graph refuses the page a list that not every page needs, and the run goes on."""
    log.warning("Graph refuses a list", what=what, reason=reason, page=ref(credentials.page_id))
    _withheld.labels(what, reason).inc()


def is_trouble(outcome: Outcome) -> bool:
    """Whether Graph failed, rather than refused."""
    return isinstance(outcome, Failed) and outcome.error.failure is Failure.TRANSIENT


def is_too_much(outcome: Failed) -> bool:
    """Whether less might be answered: Graph says so, or its answer was too late or too large."""
    return outcome.error.failure is Failure.SHRINK or outcome.lost in _TOO_MUCH


def is_cursor(outcome: Failed) -> bool:
    """Whether a cursor was refused (Meta's page on paginated results, and clients' tables)."""
    return outcome.error.failure is Failure.PARAMETER and outcome.error.code in _CURSOR_CODES


def needed(outcome: Outcome) -> Done:
    """The answer. Raises RunFailed where it is none."""
    if isinstance(outcome, Failed):
        raise RunFailed(outcome.reason)
    return outcome
