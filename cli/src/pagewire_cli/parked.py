"""`pagewire parked`: events and replies that wait for a person: trying them again, ending them."""

from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.store.v1.operation_service_pb2 import (
    SETTLEMENT_DROPPED,
    SETTLEMENT_SENT,
    ListParkedRequest,
    RetryParkedRequest,
    RetryParkedResponse,
    SettleParkedRequest,
    SettleParkedResponse,
)
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.listing import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    fetched,
    more_remark,
)
from pagewire_cli.shapes import Json

if TYPE_CHECKING:
    from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceAsyncStub

app = typer.Typer(help="What waits for a person: list, try again, end.", rich_markup_mode=None)


def _service(channel: grpc.aio.Channel) -> "OperationServiceAsyncStub":
    return OperationServiceStub(channel)


@app.command("list")
def list_parked(
    page: Annotated[str, typer.Option("--page", help="Only this page.")] = "",
    page_size: PageSize = 50,
    page_token: PageToken = "",
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List events that could not be decided and replies of which nobody knows if they were sent.

    \b
    pagewire parked list --page 101
    """

    async def work(channel: grpc.aio.Channel) -> Json:
        return await fetched(
            _service(channel).ListParked,
            ListParkedRequest(page_id=page),
            "parked",
            page_size=page_size,
            page_token=page_token,
            everything=everything,
        )

    answer = ask("store", work)
    if as_json:
        output.document(answer)
        return
    output.table(
        ("ID", "PARKED", "PAGE", "WHAT", "REASON"),
        [
            (
                one["parked_id"],
                output.moment(one["parked_at"]),
                one["page_id"],
                _what(one),
                one["reason"],
            )
            for one in answer["parked"]
        ],
        empty="Nothing is parked.",
    )
    if more := more_remark(answer):
        output.remark(more)


def _what(one: Json) -> str:
    if "event" in one:
        return f"event: {one['event']['kind']}, tried {one['event']['attempts']} times"
    return f"reply: {one['reply']['kind']}" if "reply" in one else "unknown"


@app.command()
def retry(
    parked_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")],
    as_json: AsJson = False,
) -> None:
    """Put a parked event or reply back, at the end of its lane.

    A reply that was parked as uncertain may have been sent: look into the conversation first.

    \b
    pagewire parked retry r-101-7
    """

    async def work(channel: grpc.aio.Channel) -> RetryParkedResponse:
        return await _service(channel).RetryParked(RetryParkedRequest(parked_id=parked_id))

    ask("store", work)
    if as_json:
        output.document({"parked_id": parked_id, "retried": True})
        return
    print(f"{parked_id} is tried again.")


@app.command()
def settle(
    parked_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")],
    was_sent: Annotated[
        bool,
        typer.Option("--sent/--dropped", help="It stands in the conversation; or let it go."),
    ],
    as_json: AsJson = False,
) -> None:
    """End what is parked, as you found it in the conversation.

    A dropped reply fails, and a rule that may answer once may answer that person again; a dropped
    event stays undecided.

    \b
    pagewire parked settle r-101-7 --sent
    pagewire parked settle e-101-3 --dropped
    """
    end = SETTLEMENT_SENT if was_sent else SETTLEMENT_DROPPED

    async def work(channel: grpc.aio.Channel) -> SettleParkedResponse:
        request = SettleParkedRequest(parked_id=parked_id, settlement=end)
        return await _service(channel).SettleParked(request)

    ask("store", work)
    settled = "sent" if was_sent else "dropped"
    if as_json:
        output.document({"parked_id": parked_id, "settled": settled})
        return
    print(f"{parked_id} has ended: {settled}.")
