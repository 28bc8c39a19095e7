"""`pagewire decisions`: what was decided of each event that a rule could answer, and why."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.store.v1.operation_service_pb2 import ListDecisionsRequest
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.listing import PAGE_SIZE_MAX, AsJson, fetched
from pagewire_cli.shapes import Json
from pagewire_runtime.errors import Kind, Refusal

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

app = typer.Typer(help="Decisions: what was answered, what not, and why.", rich_markup_mode=None)

EVERY = 0.5  # seconds between two looks
PAUSE = 2.0  # seconds to wait for a store that does not answer

COLUMNS = ("TIME", "PAGE", "KIND", "OUTCOME", "REASON", "RULE", "DECIDED", "SENT")
WIDTHS = (19, 16, 13, 8, 16, 20, 7)  # of what goes on for ever: nobody knows the widest yet


@app.command()
def tail(
    page: Annotated[str, typer.Option("--page", help="Only this page.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")
    ] = False,
    number: Annotated[
        int, typer.Option("-n", min=1, max=PAGE_SIZE_MAX, help="How many of the last.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the last decisions, the newest at the bottom.

    DECIDED is the time from receipt to the decision, SENT that from receipt to the request to
    Graph. With --follow, --json prints one decision a line.

    \b
    pagewire decisions tail -n 50
    pagewire decisions tail --page 101 --follow
    pagewire decisions tail --json | jq '.decisions[] | select(.outcome == "failed")'
    """

    async def last(channel: grpc.aio.Channel) -> Json:
        return await _after(OperationServiceStub(channel), page, "", number)

    async def on(channel: grpc.aio.Channel) -> None:
        async for decision in following(OperationServiceStub(channel), page, number):
            if as_json:
                output.line(decision)
            else:
                print(_line(decision), flush=True)

    if follow:
        if not as_json:
            print(_columns(COLUMNS), flush=True)
        ask("store", on)
        return
    answer = ask("store", last)
    if as_json:
        output.document(answer)
        return
    output.table(
        COLUMNS,
        [row(decision) for decision in reversed(answer["decisions"])],
        empty="Nothing was decided yet.",
    )


async def following(
    service: "OperationServiceAsyncStub", page: str, number: int, *, every: float = EVERY
) -> AsyncIterator[Json]:
    """The last decisions, then each new one as it is made, the oldest first, for ever.

    It looks for new ones `every` so many seconds; a store that is gone for a while is waited for.
    """
    newest = ""
    while True:
        try:
            answer = await _after(service, page, newest, number, everything=bool(newest))
        except Refusal as refusal:
            if refusal.kind is not Kind.TRANSIENT or not newest:
                raise
            output.remark("the store does not answer; trying again")
            await asyncio.sleep(PAUSE)
            continue
        for decision in reversed(answer["decisions"]):
            newest = decision["event_id"]
            yield decision
        await asyncio.sleep(every)


async def _after(
    service: "OperationServiceAsyncStub",
    page: str,
    event_id: str,
    number: int,
    *,
    everything: bool = False,
) -> Json:
    return await fetched(
        service.ListDecisions,
        ListDecisionsRequest(page_id=page, after_event_id=event_id),
        "decisions",
        page_size=number,
        everything=everything,
    )


def row(decision: Json) -> list[str]:
    """What a person sees of a decision."""
    fired = next((_rule(rule) for rule in decision["rules"] if rule["fired"]), None)
    received = decision["received_at"]
    return [
        output.moment(received) or "–",
        decision["page_id"],
        decision["kind"],
        decision["outcome"],
        decision["reason"] or "–",
        fired or "–",
        output.took(received, decision["decided_at"]) or "–",
        output.took(received, decision["sent_at"]) or "–",
    ]


def _rule(verdict: Json) -> str:
    """The rule that fired, and what it could not do."""
    missing = [f"no {each['action']}: {each['reason']}" for each in verdict["left_out"]]
    return f"{verdict['name']} ({', '.join(missing)})" if missing else str(verdict["name"])


def _line(decision: Json) -> str:
    return _columns([output.clean(cell) for cell in row(decision)])


def _columns(cells: list[str] | tuple[str, ...]) -> str:
    return "  ".join([*map(str.ljust, cells, WIDTHS), cells[-1]])
