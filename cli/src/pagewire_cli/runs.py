"""`pagewire runs`: runs of history, as they stand, as they go on, and ended by hand."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.sync.v1.history_service_pb2 import (
    CancelSyncRunRequest,
    GetSyncRunRequest,
    ListSyncRunsRequest,
)
from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceStub
from pagewire.type.v1.sync_run_pb2 import SyncRun, SyncState
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.exits import Exit
from pagewire_cli.listing import AsJson, Everything, PageSize, PageToken, fetched, more_remark
from pagewire_cli.progress import ENDED, board, ended, state_of
from pagewire_cli.shapes import Json, to_json

if TYPE_CHECKING:
    from pagewire.sync.v1.history_service_pb2_grpc import HistoryServiceAsyncStub

app = typer.Typer(help="Runs of history: list, watch, cancel.", rich_markup_mode=None)

RunIds = Annotated[list[str], typer.Argument(metavar="RUN_ID", help="Which runs.")]

NAMED = 3  # as many runs as a line has room for

ADVICE = {
    "token_dead": "its token is no longer valid: connect the page again with a new one",
    "permission": "its token lacks a permission: docs/connect-a-page.md names them",
    "app_secret_wrong": "sync has another secret than the app that made its token",
    "suspended": "Meta restricts the page or the app for a while: its support inbox says why",
    "throttled": "Meta has refused calls for long: sync it again when its limits allow",
    "graph_version_gone": "Meta has ended the version that we ask for: set GRAPH_API_VERSION",
    "graph_unavailable": "Graph did not answer for long: what was read is stored, sync it again",
    "page_disconnected": "it was disconnected meanwhile",
    "threads_unreadable": "Graph would not give some of it: that is marked, all else is stored",
    "events_refused": "the store would not have some of what it found: see its log",
    "labels_unreadable": "Graph would not give its labels: the next run reads them",
    "list_unavailable": "Graph gave no list: threads known before were read, sync it again",
    "internal": "that is our fault: the log of sync says more",
}
"""What a person can do about a run that did not succeed, by its error."""


def service_on(channel: grpc.aio.Channel) -> "HistoryServiceAsyncStub":
    return HistoryServiceStub(channel)


@app.command("list")
def list_runs(
    page: Annotated[str, typer.Option("--page", help="Only this page.")] = "",
    page_size: PageSize = 20,
    page_token: PageToken = "",
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    \b
    pagewire runs list --page 101
    """

    async def work(channel: grpc.aio.Channel) -> Json:
        return await fetched(
            service_on(channel).ListSyncRuns,
            ListSyncRunsRequest(page_id=page),
            "runs",
            page_size=page_size,
            page_token=page_token,
            everything=everything,
        )

    answer = ask("sync", work)
    answer["runs"] = [of_known_size(run) for run in answer["runs"]]
    if as_json:
        output.document(answer)
        return
    table(answer["runs"], empty="Nothing was synced yet; `pagewire sync --help` says how.")
    if more := more_remark(answer):
        output.remark(more)


@app.command()
def watch(run_ids: RunIds, as_json: AsJson = False) -> None:
    """Show how runs go on until they have ended; exit 1 where one did not succeed.

    \b
    pagewire runs watch run-0123456789abcdef
    """

    async def work(channel: grpc.aio.Channel) -> Sequence[SyncRun]:
        service = service_on(channel)
        asked = (service.GetSyncRun(GetSyncRunRequest(run_id=run_id)) for run_id in run_ids)
        known = [answer.run for answer in await asyncio.gather(*asked)]
        with board(len(known)) as show:
            return await ended(service, known, show)

    with going_on_without_us(run_ids):
        runs = ask("sync", work)
    tell(runs, as_json=as_json)
    raise typer.Exit(exit_of(runs))


@app.command()
def cancel(run_ids: RunIds, as_json: AsJson = False) -> None:
    """Cancel runs: a queued one at once, one under way within seconds; what is stored stays.

    \b
    pagewire runs cancel run-0123456789abcdef
    """

    async def work(channel: grpc.aio.Channel) -> Sequence[SyncRun]:
        service = service_on(channel)
        asked = (service.CancelSyncRun(CancelSyncRunRequest(run_id=run_id)) for run_id in run_ids)
        return [answer.run for answer in await asyncio.gather(*asked)]

    runs = ask("sync", work)
    if as_json:
        tell(runs, as_json=True)
        return
    for run in runs:
        print(f"{run.run_id} {'is ' + state_of(run) if run.state in ENDED else 'will end soon'}.")


@contextmanager
def going_on_without_us(run_ids: Sequence[str]) -> Iterator[None]:
    """Within the block: who interrupts it is told that the runs go on, and what to do about it."""
    try:
        yield
    except KeyboardInterrupt:
        if run_ids:
            they = " ".join(run_ids) if len(run_ids) <= NAMED else "RUN_ID..."
            output.remark(
                f"syncing goes on without us: `pagewire runs list` shows it,"
                f" `pagewire runs watch {they}` follows it, `pagewire runs cancel {they}` ends it"
            )
        raise


def tell(runs: Sequence[SyncRun], *, as_json: bool) -> None:
    """Shows runs, and what to do about those that did not succeed."""
    if as_json:
        output.document({"runs": [run_json(run) for run in runs]})
        return
    table([run_json(run) for run in runs], empty="Nothing was synced.")
    for run in runs:
        if advice := ADVICE.get(run.error):
            output.remark(f"{run.page_id}: {advice}")


def exit_of(runs: Sequence[SyncRun]) -> Exit:
    """Well only where every run has succeeded."""
    succeeded = all(run.state == SyncState.SYNC_STATE_SUCCEEDED for run in runs)
    return Exit.OK if succeeded else Exit.REFUSED


def table(runs: Sequence[Json], *, empty: str) -> None:
    """Runs as a person reads them."""
    output.table(
        ("RUN", "PAGE", "WHAT", "STATE", "THREADS", "MESSAGES", "COMMENTS", "NEW", "CALLS",
         "BEGAN", "TOOK", "WHY"),
        [
            (
                run["run_id"],
                run["page_id"],
                what(run),
                run["state"],
                f"{run['conversations']:,}",
                f"{run['messages']:,}",
                f"{run['comments']:,}",
                f"{run['stored']:,}",
                f"{run['graph_calls']:,}",
                output.moment(run["started_at"]),
                output.took(run["started_at"], run["finished_at"]),
                run["error"],
            )
            for run in runs
        ],
        empty=empty,
    )  # fmt: skip


def what(run: Json) -> str:
    """What a run was to do, and what of it is worth a word."""
    told = "repair" if run["origin"] == "repair" else f"{run['mode']} {run['kind']}"
    recovered = f", {run['recovered']:,} recovered" if run["recovered"] else ""
    unreadable = f", {run['unreadable']:,} unreadable" if run["unreadable"] else ""
    return f"{told}{recovered}{unreadable}"


def run_json(run: SyncRun) -> Json:
    """A run as the HTTP API shows it."""
    return of_known_size(to_json(run))


def of_known_size(run: Json) -> Json:
    """The run with null where nobody can tell how much there is."""
    return run | {"expected": run["expected"] or None}
