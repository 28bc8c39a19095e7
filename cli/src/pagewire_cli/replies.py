"""`pagewire reply`: a person's message in a conversation, and what became of it."""

import asyncio
import sys
import uuid
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from pagewire.sync.v1.delivery_service_pb2 import GetReplyRequest, SendMessageRequest
from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from pagewire.type.v1.reply_pb2 import Reply, ReplyContent, ReplyState, Tag
from pagewire_cli import output
from pagewire_cli.connection import ask
from pagewire_cli.exits import Exit
from pagewire_cli.listing import AsJson
from pagewire_cli.shapes import Json, to_json

if TYPE_CHECKING:
    from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceAsyncStub

WAIT = 60.0  # seconds: an uncertain send is looked for within them
EVERY = 0.2
UNSETTLED = (
    ReplyState.REPLY_STATE_READY,
    ReplyState.REPLY_STATE_SENDING,
    ReplyState.REPLY_STATE_UNCERTAIN,
)


def reply(
    conversation_id: Annotated[
        str,
        typer.Argument(
            metavar="CONVERSATION_ID",
            help="Which conversation, by its id: see above.",
        ),
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is said; - is standard input.")],
    client_key: Annotated[
        str, typer.Option(help="Your own key: the same key and text is sent once, however often.")
    ] = "",
    human_agent: Annotated[
        bool, typer.Option("--human-agent", help="Allow it up to 7 days after their message.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until Meta has it, or has not.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write to a person; rules keep quiet in that conversation for a while.

    GET /api/conversations?page_id=PAGE_ID of the HTTP API lists a page's conversations with their
    ids. That of a decision is in its reply: `pagewire decisions tail --json` has the reply_ids, and
    GET /api/replies/REPLY_ID the conversation_id.

    With --wait the exit code is 0 only where Meta accepted the message.

    \b
    pagewire reply c-MTAxADIwMg "It is in stock again" --wait
    """
    request = SendMessageRequest(
        conversation_id=conversation_id,
        content=ReplyContent(text=sys.stdin.read().strip() if text == "-" else text),
        client_key=client_key or uuid.uuid4().hex,
        tag=Tag.TAG_HUMAN_AGENT if human_agent else Tag.TAG_UNSPECIFIED,
    )

    async def work(channel: grpc.aio.Channel) -> Reply:
        service: DeliveryServiceAsyncStub = DeliveryServiceStub(channel)
        made = (await service.SendMessage(request)).reply
        return await _settled(service, made) if wait else made

    made = ask("sync", work)
    shown = reply_json(made)
    if as_json:
        output.document(shown)
    else:
        why = f" ({shown['reason']})" if shown["reason"] else ""
        print(f"{made.reply_id} is {shown['state']}{why}; client key {made.client_key}")
    if wait and made.state != ReplyState.REPLY_STATE_SENT:
        raise typer.Exit(Exit.REFUSED)


async def _settled(service: "DeliveryServiceAsyncStub", made: Reply) -> Reply:
    """The reply as it ended, or as it stands when we have waited long enough."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT
    while made.state in UNSETTLED and loop.time() < deadline:
        await asyncio.sleep(EVERY)
        made = (await service.GetReply(GetReplyRequest(reply_id=made.reply_id))).reply
    return made


def reply_json(made: Reply) -> Json:
    """A reply as the HTTP API shows it."""
    shown = to_json(made)
    return {"reason" if name == "state_reason" else name: shown[name] for name in shown}
