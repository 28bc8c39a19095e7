"""`pagewire quarantine`: what could not be read of Meta's webhooks, and reading it again."""

import sys
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.store.v1.operation_service_pb2 import (
    GetQuarantinedRequest,
    GetQuarantinedResponse,
    ListQuarantinedRequest,
    ReplayQuarantinedRequest,
    ReplayQuarantinedResponse,
)
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.exits import Misused
from pagewire_cli.listing import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    fetched,
    more_remark,
)
from pagewire_cli.shapes import Json, to_json

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

app = typer.Typer(help="What could not be read: list, show, read again.", rich_markup_mode=None)


def _service(channel: grpc.aio.Channel) -> "OperationServiceAsyncStub":
    return OperationServiceStub(channel)


@app.command("list")
def list_quarantined(
    replayed: Annotated[
        bool, typer.Option("--replayed", help="Also what was read again with success.")
    ] = False,
    page_size: PageSize = 50,
    page_token: PageToken = "",
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List what could not be read, newest first.

    \b
    pagewire quarantine list
    """

    async def work(channel: grpc.aio.Channel) -> Json:
        return await fetched(
            _service(channel).ListQuarantined,
            ListQuarantinedRequest(include_replayed=replayed),
            "quarantined",
            page_size=page_size,
            page_token=page_token,
            everything=everything,
        )

    answer = ask("store", work)
    if as_json:
        output.document(answer)
        return
    output.table(
        ("ID", "RECEIVED", "PAGE", "REASON", "WHERE", "BYTES", "REPLAY"),
        [
            (
                one["quarantine_id"],
                output.moment(one["received_at"]),
                one["page_id"],
                one["reason"],
                one["path"] or "the whole body",
                str(one["size"]),
                _replay(one),
            )
            for one in answer["quarantined"]
        ],
        empty="Nothing is in quarantine.",
    )
    if more := more_remark(answer):
        output.remark(more)


def _replay(one: Json) -> str | None:
    if one["replayed_at"]:
        return f"done {output.moment(one['replayed_at'])}"
    return "asked for" if one["replay_requested"] else None


@app.command()
def show(
    quarantine_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")],
    body: Annotated[
        bool, typer.Option("--body", help="Write the body alone, byte for byte, to stdout.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show why something could not be read; with --body also what Meta sent.

    A body holds what customers wrote: be careful where it goes.

    \b
    pagewire quarantine show 7
    pagewire quarantine show 7 --body > body.json
    """

    async def work(channel: grpc.aio.Channel) -> GetQuarantinedResponse:
        request = GetQuarantinedRequest(quarantine_id=quarantine_id)
        return await _service(channel).GetQuarantined(request)

    found = ask("store", work)
    if body:
        sys.stdout.flush()
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
        return
    shown = to_json(found.quarantined)
    if as_json:
        output.document(shown)
        return
    print(output.aligned([[name, output.plain(_text(value))] for name, value in shown.items()]))


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else str(value)


@app.command()
def replay(
    quarantine_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Which ones.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not read yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have bodies read again by the reader of today, as after an update that knows more.

    What was stored of them before is not stored twice.

    \b
    pagewire quarantine replay 7 8
    pagewire quarantine replay --all
    """
    if bool(quarantine_ids) is everything:
        raise Misused("say which ones, or --all")

    async def work(channel: grpc.aio.Channel) -> ReplayQuarantinedResponse:
        request = ReplayQuarantinedRequest(quarantine_ids=quarantine_ids or ())
        return await _service(channel).ReplayQuarantined(request)

    answer = ask("store", work)
    if as_json:
        output.document(to_json(answer))
        return
    print(f"{answer.requested} will be read again; `pagewire quarantine list` shows what is left.")
