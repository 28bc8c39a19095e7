"""Reading: what history asks of Graph. Each read waits for the page's budget, is shared with who
asks the same meanwhile, and is asked again where that may help.

A read changes nothing, so it may be repeated; writes do not come this way. One page's trouble is
its own: only Meta's code 4, and a version of Graph that is gone, stop all.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeAlias

from pagewire_runtime import metrics
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.batches import Batches, Operation, Weight
from pagewire_sync.budget import Budget, Product
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.results import Done, Failed, Outcome, Result, Unfinished

log = get_logger(__name__)

ATTEMPTS = 6
BACKOFF_LEAST = 0.5
BACKOFF_MOST = 30.0
"""Between tries, full jitter below a bound that doubles up to this: six tries bear some ten seconds
of trouble. What lasts longer is the caller's, who knows what the page can do meanwhile."""
PATIENCE_SECONDS = 3_600.0
"""The longest a read waits for its page's limits to pass."""
JITTER_SECONDS = 10.0
"""After a stop, pages begin again within so much, or as much as it took, not all at once."""
OF_PAGE = 32
"""Reads of one page on their way. Two a second that take fifteen seconds each are thirty."""
OF_FREE = 8
"""Of what may be on its way in all, a page has an eighth of what is free, and one read in any case:
however many pages wait for their timeout, another finds a place, and has more when they have less.
"""
TOKEN_SECONDS = 3_600.0
"""A dead token stays dead: a newer one opens the page. One that its owner has mended at Meta's (an
account that was checkpointed) page care finds by its hourly look, and a read that late does too."""
VERSION_SECONDS = 60.0
"""When the version is gone, one call in so many asks whether it still is."""

TIMEOUTS = 2
"""What ran out of time alone so often asks for too much; each costs more than a minute."""
TIMED_OUT = Unfinished("timeout")
UNREAD = Unfinished("answer_too_large")
TOO_LARGE = Failed(GraphError(Failure.SHRINK, 200), UNREAD.reason)

AGAIN = frozenset({Failure.TRANSIENT, Failure.THROTTLED, Failure.APP_THROTTLED})
"""Worth another try, once the budget lets it out."""

_reads = metrics.counter(
    "pagewire_graph_reads",
    "Operations of history at Graph, by how they ended: done, unfinished or the class of error.",
    ["operation", "end"],
)
_reads_that_ended = cache(_reads.labels)  # looked up once, as that takes longer than to count
_waits = metrics.histogram(
    "pagewire_graph_wait_seconds",
    "How long reads waited for their page's budget.",
    buckets=(0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)
_shared = metrics.counter(
    "pagewire_graph_reads_shared", "Reads that were answered by an equal one already on its way."
)
_version_gone = metrics.gauge(
    "pagewire_graph_version_gone",
    "1 while Graph refuses the version that is asked for: set GRAPH_API_VERSION.",
)

TokenDied: TypeAlias = Callable[[Credentials, GraphError], Awaitable[None]]
Key: TypeAlias = tuple[str, int, str, str, frozenset[tuple[str, str]]]


@dataclass(slots=True)
class Tally:
    """What a run has used: every operation that went out, the repeated ones too."""

    calls: int = 0


@dataclass(slots=True)
class _Asked:
    """A read on its way, and how many wait for it."""

    task: asyncio.Task[Outcome]
    waiting: int = 0


class _Room:
    """For so many reads of a page as there may be now."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._held = 0
        self._left = asyncio.Event()

    async def __aenter__(self) -> None:
        while self._held >= max(self._most(), 1):
            self._left.clear()
            await self._left.wait()
        self._held += 1

    async def __aexit__(self, *ended: object) -> None:
        self._held -= 1
        self._left.set()


@dataclass(slots=True)
class _Page:
    """What is known of a page: the room for its reads, and the version of its token that died."""

    room: _Room
    turns: defaultdict[Product, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    dead: "_Shut | None" = None
    """Its token, by the version that died."""


@dataclass(frozen=True, slots=True)
class _Shut:
    """What every call is refused for, and when one last asked whether it still is."""

    asked_at: float
    error: GraphError
    token_version: int = 0


class Reads:
    """Reads from Graph for history, within every page's budget."""

    def __init__(
        self,
        batches: Batches,
        budget: Budget,
        *,
        token_died: TokenDied,
        of_page: int = OF_PAGE,
        jitter: Callable[[float], float] = lambda most: random.uniform(0, most),  # noqa: S311
    ) -> None:
        """`token_died` is told once of each token that Graph refuses as dead."""
        self._batches = batches
        self._budget = budget
        self._token_died = token_died
        self._jitter = jitter
        self._clock = asyncio.get_running_loop().time
        self._of_page = of_page
        self._pages: defaultdict[str, _Page] = defaultdict(lambda: _Page(_Room(self._most)))
        self._asked: dict[Key, _Asked] = {}
        self._gone: _Shut | None = None
        """The version of Graph."""

    def _most(self) -> int:
        """Reads of a page now."""
        return min(self._of_page, self._batches.free // OF_FREE)

    def left_percent(self, page_id: str) -> int:
        """What is left of the page's limits, as Graph last said."""
        return self._budget.left_percent(page_id)

    async def get(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product,
        weight: Weight = Weight.LIGHT,
        batched: bool = False,
        attempts: int = ATTEMPTS,
        tally: Tally | None = None,
    ) -> Outcome:
        """Read a node (`edge` empty) or an edge of it.

        `batched` is for reads that others are asked for beside; a walk along a cursor is none.
        `attempts` is how often it may be asked in all. Where an equal read is on its way, that
        one's answer is this one's, and costs `tally` nothing.
        """
        asked_for = Operation(credentials, node, edge, params, operation, weight, product)
        key = _key(asked_for)
        asked = self._asked.get(key)
        if asked is None:
            reading = self._read(asked_for, batched, attempts, tally or Tally())
            asked = self._asked[key] = _Asked(asyncio.create_task(reading))
        else:
            _shared.inc()
        asked.waiting += 1
        try:
            return await asyncio.shield(asked.task)
        finally:
            asked.waiting -= 1
            if not asked.waiting:  # it has ended, or all who wanted it have gone
                asked.task.cancel()
            if self._asked.get(key) is asked and (asked.task.done() or not asked.waiting):
                del self._asked[key]

    async def _read(
        self, operation: Operation, batched: bool, attempts: int, tally: Tally
    ) -> Outcome:
        result = await self._attempt(operation, batched, tally)
        pause, timeouts = BACKOFF_LEAST, 0
        for _ in range(attempts - 1):
            timeouts += result == TIMED_OUT
            if timeouts == TIMEOUTS or not _worth_another(result):
                break
            await asyncio.sleep(max(self._jitter(pause), _retry_after(result)))
            pause = min(2 * pause, BACKOFF_MOST)
            result = await self._attempt(operation, False, tally)
        return result.failed if isinstance(result, Unfinished) else result

    async def _attempt(self, operation: Operation, batched: bool, tally: Tally) -> Result:
        """One try; where it is known to fail, or would wait too long, none.

        One of a page's reads waits at the budget, the others behind it: so sends and looks, which
        do not wait there, come first.
        """
        page = self._pages[operation.credentials.page_id]
        async with AsyncExitStack() as held:
            async with page.turns[operation.product]:
                await held.enter_async_context(page.room)
                if refused := await self._turn(operation, page):
                    return refused
                self._ask_anew(page)
            tally.calls += 1
            ask = self._batches.gathered if batched else self._batches.alone
            result = await ask(operation)
            _reads_that_ended(operation.name, _end(result)).inc()
            await self._learn(operation, page, result)
            return TOO_LARGE if result == UNREAD and not batched else result

    async def _turn(self, operation: Operation, page: _Page) -> Failed | None:
        """Wait until the budget lets a call out, and spend it; or how it would be refused."""
        page_id, product = operation.credentials.page_id, operation.product
        begun = self._clock()
        while not (refused := self._known(operation, page)):
            wait = self._budget.wait(page_id, product, self._clock())
            if not wait:
                self._budget.spend(page_id, product, self._clock())
                _waits.observe(self._clock() - begun)
                return None
            if wait > PATIENCE_SECONDS:
                return Failed(GraphError(Failure.THROTTLED, 0, retry_after=wait), "throttled")
            stopped = self._budget.stopped(page_id, product, self._clock())
            await asyncio.sleep(wait + self._jitter(min(stopped, JITTER_SECONDS)))
        return refused

    def _known(self, operation: Operation, page: _Page) -> Failed | None:
        """How the read would be refused, as far as that is known without a call."""
        now, dead, gone = self._clock(), page.dead, self._gone
        is_dead = dead and operation.credentials.version <= dead.token_version
        if dead and is_dead and now < dead.asked_at + TOKEN_SECONDS:
            return Failed(dead.error)
        if gone and now < gone.asked_at + VERSION_SECONDS:
            return Failed(gone.error)
        return None

    def _ask_anew(self, page: _Page) -> None:
        """This call asks whether what was shut still is, and no other meanwhile."""
        now = self._clock()
        page.dead = page.dead and replace(page.dead, asked_at=now)
        self._gone = self._gone and replace(self._gone, asked_at=now)

    async def _learn(self, operation: Operation, page: _Page, result: Result) -> None:
        match result:
            case Failed(GraphError(failure=Failure.TOKEN) as error):
                await self._bury(operation.credentials, page, error)
            case Failed(GraphError(failure=Failure.VERSION) as error):
                log.error("the version of Graph that is asked for is gone", reason=error.reason)
                self._gone = _Shut(self._clock(), error)
                _version_gone.set(1)
            case Done():
                if page.dead and operation.credentials.version == page.dead.token_version:
                    page.dead = None
                if self._gone:
                    self._gone = None
                    _version_gone.set(0)

    async def _bury(self, credentials: Credentials, page: _Page, error: GraphError) -> None:
        if page.dead and credentials.version <= page.dead.token_version:
            return
        page.dead = _Shut(self._clock(), error, credentials.version)
        log.warning("a page's token is dead", page=ref(credentials.page_id), reason=error.reason)
        await self._token_died(credentials, error)


def _key(operation: Operation) -> Key:
    credentials = operation.credentials
    return (
        credentials.page_id,
        credentials.version,
        operation.node,
        operation.edge,
        frozenset(operation.params.items()),
    )


def _worth_another(result: Result) -> bool:
    if isinstance(result, Failed):
        return result.error.failure in AGAIN and not result.lost
    return isinstance(result, Unfinished)


def _retry_after(result: Result) -> float:
    """What Graph asked for; the stops of a throttled page are the budget's."""
    if isinstance(result, Failed) and result.error.failure is Failure.TRANSIENT:
        return result.error.retry_after or 0.0
    return 0.0


def _end(result: Result) -> str:
    match result:
        case Done():
            return "done"
        case Unfinished():
            return "unfinished"
        case Failed(error):
            return error.failure.name.lower()
