"""Runs of history: begin them, see how far they are, wait for their end, cancel them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from pagewire.store.v1 import page_service_pb2 as store_pb
from pagewire.sync.v1 import history_service_pb2 as sync_pb
from pagewire.type.v1 import sync_run_pb2 as pb
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_webhook.operator.following import ENDED, following
from pagewire_webhook.operator.listing import Listed, PageListing, next_token
from pagewire_webhook.operator.operation import Answer, Operation
from pagewire_webhook.operator.streaming import Stream, streamed
from pagewire_webhook.operator.values import Id, Time, Words, time_of

if TYPE_CHECKING:
    from pagewire.store.v1.page_service_pb2_grpc import PageServiceAsyncStub
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

KindWord: TypeAlias = Literal["conversations", "comments"]
Mode: TypeAlias = Literal["auto", "full", "incremental"]
State: TypeAlias = Literal["queued", "running", "succeeded", "partial", "failed", "cancelled"]
Origin: TypeAlias = Literal["request", "schedule", "repair"]

KINDS = Words(pb.SyncKind)
MODES = Words(pb.SyncMode)
STATES = Words(pb.SyncState)
ORIGINS = Words(pb.SyncOrigin)


class FacebookPageOther(Refusal):
    """The page is connected, but read at another of Graph's nodes than the caller believes."""

    kind = Kind.STATE
    reason = "FACEBOOK_PAGE_OTHER"


class RunUnknown(Refusal):
    """What stands in the path is no run's id, nor could it be one."""

    kind = Kind.MISSING
    reason = "RUN_UNKNOWN"


class Stopping(Refusal):
    """We stop, and can't wait for a run; it goes on without us."""

    kind = Kind.TRANSIENT
    reason = "STOPPING"


class Waiting(msgspec.Struct, frozen=True):
    """Whether the answer comes at once or when all has ended."""

    wait: Annotated[bool, Meta(description="Answer when the run has ended, however it ended.")] = (
        False
    )


class NewSync(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """What is to be mirrored of a page."""

    page_id: Annotated[Id, Meta(description="The page.")]
    facebook_page_id: Annotated[
        Id | None,
        Meta(description="Checked where given: the Page at whose node Graph is asked."),
    ] = None
    mode: Annotated[
        Mode | None,
        Meta(description="`auto`: `incremental` where the page was mirrored before, else `full`."),
    ] = "auto"


class NewSyncOfAll(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every connected page is to be mirrored."""

    mode: Mode | None = "auto"


class NewRepair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What webhooks missed is to be looked for."""


class StartedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was begun, or one that goes on and does as much."""

    run_id: Id


class StartedRuns(msgspec.Struct, frozen=True, kw_only=True):
    """A run of each connected page."""

    run_ids: list[Id]


class SyncRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run and how far it is."""

    run_id: Id
    page_id: Id
    kind: KindWord | None
    mode: Annotated[Mode | None, Meta(description="`full` or `incremental`.")]
    state: Annotated[
        State | None,
        Meta(description="`partial`: what could not be read is marked, all else is stored."),
    ]
    conversations: Annotated[int, Meta(description="Gone through so far.")]
    messages: Annotated[int, Meta(description="Gone through so far.")]
    comments: Annotated[int, Meta(description="Gone through so far.")]
    graph_calls: Annotated[int, Meta(description="As Meta counts: a batch's operations are each.")]
    started_at: Annotated[Time | None, Meta(description="Null while it is queued.")]
    finished_at: Time | None
    error: Annotated[str | None, Meta(description="Why it did not succeed: a stable word.")]
    created_at: Annotated[Time | None, Meta(description="When it was asked for.")]
    origin: Origin | None
    stored: Annotated[int, Meta(description="Messages and comments that were new.")]
    recovered: Annotated[int, Meta(description="A repair's: messages that no webhook brought.")]
    unreadable: Annotated[int, Meta(description="Threads or posts that Graph would not give.")]
    expected: Annotated[
        int | None, Meta(description="Conversations or posts in all; null where nobody can tell.")
    ]
    budget_left_percent: Annotated[int, Meta(description="Of Meta's allowance for the page.")]


class EndedRuns(StartedRuns, frozen=True, kw_only=True):
    """The runs of all pages, each as it ended."""

    runs: list[SyncRun]


class SyncRunList(Listed, frozen=True, kw_only=True):
    """Runs, newest first."""

    runs: list[SyncRun]


class SyncRuns:
    """The operations, over sync's HistoryService.

    `stopping` is set when the server drains: who waits is sent away then, the runs go on.
    """

    def __init__(
        self,
        sync: HistoryServiceAsyncStub,
        store: PageServiceAsyncStub,
        stopping: asyncio.Event,
    ) -> None:
        self._sync = sync
        self._store = store
        self._stopping = stopping

    def operations(self) -> list[Operation]:
        of_one = {202: StartedRun, 200: SyncRun}
        return [
            Operation(
                "POST",
                "/api/conversations/sync",
                self.sync_conversations,
                "Mirrors a page's conversations with their messages.",
                of_one,
            ),
            Operation(
                "POST",
                "/api/messages/sync",
                self.sync_conversations,
                "The same: conversations come with their messages.",
                of_one,
            ),
            Operation(
                "POST",
                "/api/comments/sync",
                self.sync_comments,
                "Mirrors a page's comments.",
                of_one,
            ),
            Operation(
                "POST",
                "/api/conversations/sync-all",
                self.sync_all,
                "Mirrors the conversations of every connected page.",
                {202: StartedRuns, 200: EndedRuns},
            ),
            Operation(
                "POST",
                "/api/pages/{page_id}/repair",
                self.repair,
                "Looks for messages that webhooks should have brought and did not.",
                of_one,
            ),
            Operation("GET", "/api/sync-runs", self.list, "Lists runs.", {200: SyncRunList}),
            Operation("GET", "/api/sync-runs/{run_id}", self.get, "Shows a run.", {200: SyncRun}),
            Operation(
                "DELETE",
                "/api/sync-runs/{run_id}",
                self.cancel,
                "Cancels a run; what it has stored stays.",
                {200: dict[str, str]},
            ),
            Operation(
                "GET",
                "/api/sync-runs/{run_id}/events",
                self.events,
                "Streams a run as it stands, then whenever it has changed, up to its end.",
                {200: Stream(SyncRun)},
            ),
        ]

    async def sync_conversations(self, request: Request, body: NewSync, query: Waiting) -> Answer:
        return await self._sync_page(request, body, query, pb.SYNC_KIND_CONVERSATIONS)

    async def sync_comments(self, request: Request, body: NewSync, query: Waiting) -> Answer:
        return await self._sync_page(request, body, query, pb.SYNC_KIND_COMMENTS)

    async def _sync_page(
        self, request: Request, body: NewSync, query: Waiting, kind: pb.SyncKind.ValueType
    ) -> Answer:
        if body.facebook_page_id is not None:
            await self._check_node(body.page_id, body.facebook_page_id)
        started = sync_pb.StartSyncRequest(
            page_id=body.page_id, kind=kind, mode=MODES.value(body.mode or "auto")
        )
        return await self._start_one(request, started, query)

    async def repair(
        self, request: Request, page_id: str, body: NewRepair, query: Waiting
    ) -> Answer:
        started = sync_pb.StartSyncRequest(
            page_id=page_id, kind=pb.SYNC_KIND_CONVERSATIONS, repair=True
        )
        return await self._start_one(request, started, query)

    async def _start_one(
        self, request: Request, started: sync_pb.StartSyncRequest, query: Waiting
    ) -> Answer:
        with naming_ids():
            run = (await self._sync.StartSync(started)).run
        if not query.wait:
            return Answer(StartedRun(run_id=run.run_id), 202)
        (ended,) = await self._ends(request, [run])
        return Answer(run_json(ended), 200)

    async def sync_all(self, request: Request, body: NewSyncOfAll, query: Waiting) -> Answer:
        asked = sync_pb.StartSyncRequest(
            all_pages=True,
            kind=pb.SYNC_KIND_CONVERSATIONS,
            mode=MODES.value(body.mode or "auto"),
        )
        runs = (await self._sync.StartSync(asked)).runs
        run_ids = [run.run_id for run in runs]
        if not query.wait:
            return Answer(StartedRuns(run_ids=run_ids), 202)
        ended = await self._ends(request, runs)
        return Answer(EndedRuns(run_ids=run_ids, runs=[run_json(run) for run in ended]), 200)

    async def list(self, query: PageListing) -> SyncRunList:
        response = await self._sync.ListSyncRuns(
            sync_pb.ListSyncRunsRequest(
                page_id=query.page_id or "", page_size=query.page_size, page_token=query.page_token
            )
        )
        return SyncRunList(
            runs=[run_json(run) for run in response.runs],
            next_page_token=next_token(response.next_page_token),
        )

    async def get(self, run_id: str) -> SyncRun:
        with naming_ids():
            response = await self._sync.GetSyncRun(sync_pb.GetSyncRunRequest(run_id=run_id))
        return run_json(response.run)

    async def cancel(self, run_id: str) -> dict[str, str]:
        with naming_ids():
            await self._sync.CancelSyncRun(sync_pb.CancelSyncRunRequest(run_id=run_id))
        return {}

    async def events(self, run_id: str) -> Response:
        runs = following(self._sync, run_id)
        with naming_ids():
            first = await anext(runs)  # an unknown run is refused before anything is streamed

        async def told() -> AsyncIterator[SyncRun]:
            yield run_json(first)
            async for run in runs:
                yield run_json(run)

        return streamed(told(), self._stopping)

    async def _check_node(self, page_id: str, facebook_page_id: str) -> None:
        """Raises FacebookPageOther where Graph is asked about the page at another node."""
        page = (await self._store.GetPage(store_pb.GetPageRequest(page_id=page_id))).page
        known = page.facebook_page_id or page.page_id
        if facebook_page_id != known:
            raise FacebookPageOther(
                f"the page is connected with the Facebook Page {known}; to change that,"
                " connect it again with facebook_page_id",
                field="facebookPageId",
                facebook_page_id=known,
            )

    async def _ends(self, request: Request, runs: Sequence[pb.SyncRun]) -> Sequence[pb.SyncRun]:
        """The runs as they ended. Raises Stopping, also where nobody is there for the answer."""
        ending = asyncio.ensure_future(self._ends_in_turn(runs))
        others = [asyncio.ensure_future(each) for each in (_gone(request), self._stopping.wait())]
        try:
            await asyncio.wait({ending, *others}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return ending.result()
        finally:
            for each in (ending, *others):
                each.cancel()
        run_ids = ",".join(run.run_id for run in runs)
        raise Stopping("this process stops; the runs go on, ask again", run_ids=run_ids)

    async def _ends_in_turn(self, runs: Sequence[pb.SyncRun]) -> Sequence[pb.SyncRun]:
        """One is watched at a time: who wants the end of all needs no more."""
        return [await self._end_of(run) for run in runs]

    async def _end_of(self, run: pb.SyncRun) -> pb.SyncRun:
        last = run
        if run.state not in ENDED:
            async for now in following(self._sync, run.run_id):
                last = now
        return last


@contextmanager
def naming_ids() -> Iterator[None]:
    """Within the block: an id that sync cannot take is named as the API names it."""
    try:
        yield
    except Refusal as refusal:
        match refusal.kind, refusal.metadata.get("field"):
            case Kind.INVALID, "run_id":
                raise RunUnknown("there is no such run") from refusal
            case Kind.INVALID, "page_id":
                why = refusal.message.removeprefix("page_id: ")
                raise InvalidArgument("pageId", why) from refusal
            case _:
                raise


async def _gone(request: Request) -> None:
    """Returns when the client has hung up; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def run_json(run: pb.SyncRun) -> SyncRun:
    """A run as the API shows it."""
    return SyncRun(
        run_id=run.run_id,
        page_id=run.page_id,
        kind=KINDS.word(run.kind),
        mode=MODES.word(run.mode),
        state=STATES.word(run.state),
        conversations=run.conversations,
        messages=run.messages,
        comments=run.comments,
        graph_calls=run.graph_calls,
        started_at=time_of(run, "start_time"),
        finished_at=time_of(run, "end_time"),
        error=run.error or None,
        created_at=time_of(run, "create_time"),
        origin=ORIGINS.word(run.origin),
        stored=run.stored,
        recovered=run.recovered,
        unreadable=run.unreadable,
        expected=run.expected or None,
        budget_left_percent=run.budget_left_percent,
    )
