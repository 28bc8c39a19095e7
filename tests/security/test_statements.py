"""What people write reaches PostgreSQL as values, never as a part of a statement."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.protobuf.message import Message

from pagewire.store.v1 import conversation_service_pb2 as conversations_pb
from pagewire.store.v1 import operation_service_pb2 as operations_pb
from pagewire.store.v1 import outbox_service_pb2 as outbox_pb
from pagewire.store.v1 import page_service_pb2 as pages_pb
from pagewire.store.v1 import rule_book_service_pb2 as rules_pb
from pagewire.store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from pagewire.store.v1.ingest_service_pb2 import IngestRequest
from pagewire.store.v1.ingest_service_pb2_grpc import IngestServiceStub
from pagewire.store.v1.operation_service_pb2_grpc import OperationServiceStub
from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceStub
from pagewire.store.v1.page_service_pb2_grpc import PageServiceStub
from pagewire.store.v1.rule_book_service_pb2_grpc import RuleBookServiceStub
from pagewire.type.v1.event_pb2 import TRIGGER_MESSAGE
from pagewire.type.v1.page_pb2 import PLATFORM_MESSENGER, Page
from pagewire.type.v1.reply_pb2 import ReplyContent, ReplyKind
from pagewire.type.v1.rule_pb2 import TEXT_MODE_WORD, Rule
from pagewire_cli.embedded import EmbeddedPostgres
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store.ids import conversation_id
from pagewire_store.main import brought_up_to_date, storing
from tests.store.test_main import settings
from tests.support.deliveries import delivery, message
from tests.support.servers import FORGETFUL, server_folder
from tests.support.stored import SERVICE_TOKENS

PLANTED = "planted'; drop table page; -- \" $1 %s {0} \\"
"""Ends a literal, a statement and the rest of the line, and names a place in each of the ways."""
PAGE, PERSON = "104200000000901", "person901"


@dataclass(frozen=True)
class Logged:
    """A store on a server that writes down every statement."""

    target: str
    url: str
    log: Path

    async def ask(self, role: str, asking: Callable[[grpc.aio.Channel], Any]) -> Any:
        async with channel(self.target, token=SERVICE_TOKENS.first(role)) as opened:
            return await asking(opened)


@asynccontextmanager
async def logged() -> AsyncIterator[Logged]:
    with (
        server_folder() as folder,
        EmbeddedPostgres(folder / "postgres", **FORGETFUL, log_statement="all") as server,
    ):
        await brought_up_to_date(server.url)
        async with storing(settings(server.url)) as store:
            yield Logged(f"127.0.0.1:{store.port}", server.url, server.log)


def rule() -> Rule:
    made = Rule(name=PLANTED, enabled=True, events=[TRIGGER_MESSAGE])
    made.when.text.mode = TEXT_MODE_WORD
    made.when.text.any.append(PLANTED)
    made.then.add().reply.text = PLANTED
    return made


Asked = tuple[str, Any, str, Message]

ASKED: list[Asked] = [
    ("operator", PageServiceStub, "ListPages", pages_pb.ListPagesRequest(page_token=PLANTED)),
    ("operator", PageServiceStub, "GetPage", pages_pb.GetPageRequest(page_id=PLANTED)),
    (
        "operator",
        ConversationServiceStub,
        "ListConversations",
        conversations_pb.ListConversationsRequest(page_id=PLANTED),
    ),
    (
        "operator",
        ConversationServiceStub,
        "ListMessages",
        conversations_pb.ListMessagesRequest(conversation_id=conversation_id(PAGE, PLANTED)),
    ),
    (
        "operator",
        ConversationServiceStub,
        "ListComments",
        conversations_pb.ListCommentsRequest(page_id=PLANTED),
    ),
    (
        "operator",
        OperationServiceStub,
        "ListDecisions",
        operations_pb.ListDecisionsRequest(page_id=PLANTED),
    ),
    (
        "operator",
        OperationServiceStub,
        "ListParked",
        operations_pb.ListParkedRequest(page_id=PLANTED),
    ),
    ("operator", RuleBookServiceStub, "GetRule", rules_pb.GetRuleRequest(rule_id=PLANTED)),
    ("rules", RuleBookServiceStub, "CreateRule", rules_pb.CreateRuleRequest(rule=rule())),
    (
        "sync",
        OutboxServiceStub,
        "EnqueueReply",
        outbox_pb.EnqueueReplyRequest(
            kind=ReplyKind.REPLY_KIND_MESSAGE,
            conversation_id=conversation_id(PAGE, PERSON),
            content=ReplyContent(text=PLANTED),
            client_key=PLANTED,
        ),
    ),
]


async def test_planted_quotes_are_stored_as_they_are_and_stand_in_no_statement() -> None:
    async with logged() as store:
        page = Page(page_id=PAGE, platform=PLATFORM_MESSENGER, name=PLANTED)
        connect = pages_pb.ConnectPageRequest(page=page, access_token=PLANTED.replace(" ", ""))
        await store.ask("operator", lambda to: PageServiceStub(to).ConnectPage(connect))
        said = message("m_planted", text=PLANTED, page_id=PAGE, person=PERSON)
        ingest = IngestRequest(deliveries=[delivery(said)])
        await store.ask("webhook", lambda to: IngestServiceStub(to).Ingest(ingest))
        kinds = [await refused(store, asked) for asked in ASKED]

        async with await psycopg.AsyncConnection.connect(store.url) as database:
            stored = await database.execute(
                "select (select name from page), (select text from message),"
                " (select client_key from outbox)"
            )
            row = await stored.fetchone()
        lines = store.log.read_text().splitlines()

    assert row == (PLANTED, PLANTED, PLANTED)
    assert set(kinds) <= {None, Kind.INVALID, Kind.MISSING}
    statements = [line for line in lines if re.search(r"LOG: +(statement|execute)", line)]
    assert len(statements) > 50
    assert not [line for line in lines if "planted" in line]


async def refused(store: Logged, asked: Asked) -> Kind | None:
    role, stub, method, request = asked
    try:
        await store.ask(role, lambda to: getattr(stub(to), method)(request))
    except Refusal as refusal:
        return refusal.kind
    return None
