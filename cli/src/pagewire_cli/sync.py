"""`pagewire sync` and `pagewire repair`: history mirrored, with progress while it is."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from pagewire.sync.v1.history_service_pb2 import StartSyncRequest
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode, SyncRun
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.exits import Exit, Failure, Misused
from pagewire_cli.listing import AsJson
from pagewire_cli.progress import board, ended
from pagewire_cli.runs import exit_of, going_on_without_us, service_on, tell
from pagewire_runtime.errors import Kind, Refusal

if TYPE_CHECKING:
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

BEGUN_AT_ONCE = 20

Pages = Annotated[
    list[str] | None, typer.Argument(metavar="PAGE_ID", help="Which pages or accounts.")
]
All = Annotated[bool, typer.Option("--all", help="Every connected page.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Begin, say which runs, and do not wait for them.")
]


def sync(
    page_ids: Pages = None,
    every: All = False,
    full: Annotated[bool, typer.Option("--full", help="Everything, from the beginning.")] = False,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what is newer than the last time.")
    ] = False,
    comments: Annotated[bool, typer.Option("--comments", help="The comments too.")] = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Mirror conversations with their messages, and show how far it is.

    What is new since the last time, or everything where there was none. Where the same is under
    way already, that is shown. Ctrl-C leaves it going on. The exit code is 0 only where all of it
    succeeded; it is 1 also where some of it could not be read.

    \b
    pagewire sync 101
    pagewire sync --all --full --comments
    pagewire sync --all --no-wait --json | jq -r '.runs[].run_id'
    """
    if full and incremental:
        raise Misused("--full or --incremental, not both")
    mode = SyncMode.SYNC_MODE_AUTO
    if full or incremental:
        mode = SyncMode.SYNC_MODE_FULL if full else SyncMode.SYNC_MODE_INCREMENTAL
    kinds = [SyncKind.SYNC_KIND_CONVERSATIONS]
    if comments:
        kinds.append(SyncKind.SYNC_KIND_COMMENTS)
    asked = [
        _asked(chosen, kind=kind, mode=mode)
        for chosen in _chosen(page_ids, every)
        for kind in kinds
    ]
    _run(asked, no_wait=no_wait, as_json=as_json)


def repair(
    page_ids: Pages = None, every: All = False, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Look for messages that webhooks should have brought and did not, and take them in.

    Pagewire does it by itself after its own downtime, refusals and signature failures, and where
    a page is silent for far too long. What is found is marked as recovered; rules answer it only
    while it is fresh.

    \b
    pagewire repair 101
    pagewire repair --all
    """
    asked = [
        _asked(chosen, kind=SyncKind.SYNC_KIND_CONVERSATIONS, repair=True)
        for chosen in _chosen(page_ids, every)
    ]
    _run(asked, no_wait=no_wait, as_json=as_json)


def _chosen(page_ids: Sequence[str] | None, every: bool) -> list[StartSyncRequest]:
    """A request for each page meant, or one for all. Raises Misused: none was named, or some and
    all.
    """
    if bool(page_ids) is every:
        raise Misused(
            "name pages or say --all" if not every else "name pages or say --all, not both"
        )
    if every:
        return [StartSyncRequest(all_pages=True)]
    return [StartSyncRequest(page_id=page_id) for page_id in dict.fromkeys(page_ids or ())]


def _asked(chosen: StartSyncRequest, **more: Any) -> StartSyncRequest:
    request = StartSyncRequest(**more)
    request.MergeFrom(chosen)
    return request


def _run(asked: Sequence[StartSyncRequest], *, no_wait: bool, as_json: bool) -> None:
    """Begins, follows and tells. Raises typer.Exit where not all of it succeeded."""
    run_ids: list[str] = []

    async def work(channel: grpc.aio.Channel) -> list[SyncRun]:
        service = service_on(channel)
        begun = await _begun(service, asked)
        run_ids.extend(run.run_id for run in begun)
        if no_wait:
            return begun
        with board(len(begun)) as show:
            return await ended(service, begun, show)

    with going_on_without_us(run_ids):
        runs = ask("sync", work)
    tell(runs, as_json=as_json)
    if len(runs) < len(asked):
        raise typer.Exit(Exit.REFUSED)
    if not no_wait:
        raise typer.Exit(exit_of(runs))


async def _begun(
    service: "HistoryServiceAsyncStub", asked: Sequence[StartSyncRequest]
) -> list[SyncRun]:
    """The runs; a page that is refused is told and keeps nothing from the others.

    Raises Refusal where sync does not answer.
    """
    room = asyncio.Semaphore(BEGUN_AT_ONCE)

    async def begin(request: StartSyncRequest) -> Sequence[SyncRun]:
        async with room:
            try:
                started = await service.StartSync(request)
            except Refusal as refusal:
                if refusal.kind in (Kind.TRANSIENT, Kind.UNAUTHENTICATED):
                    raise
                output.remark(f"{request.page_id}: {refusal.message} ({refusal.reason})")
                return []
        if request.all_pages and not started.runs:
            raise Failure("no page is connected; `pagewire pages connect --help` says how")
        return started.runs if request.all_pages else [started.run]

    begun = await asyncio.gather(*map(begin, asked))
    return [run for runs in begun for run in runs]
