import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from pagewire.store.v1.outbox_service_pb2 import (
    EnqueueReplyRequest,
    EnqueueReplyResponse,
    GetLastHidingRequest,
    GetLastHidingResponse,
    GetReplyRequest,
    GetReplyResponse,
)
from pagewire.store.v1.outbox_service_pb2_grpc import (
    OutboxServiceServicer,
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from pagewire.sync.v1 import delivery_service_pb2 as pb
from pagewire.sync.v1.delivery_service_pb2_grpc import (
    DeliveryServiceStub,
    add_DeliveryServiceServicer_to_server,
)
from pagewire.type.v1.reply_pb2 import (
    Media,
    MediaType,
    QuickReplies,
    QuickReply,
    Reply,
    ReplyContent,
    ReplyKind,
    ReplyState,
    Tag,
)
from pagewire_runtime.auth import Caller, caller, calling_as, parse_service_tokens
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.serving import serving
from pagewire_sync.access import METHOD_ROLES
from pagewire_sync.servicer import DeliveryServicer

if TYPE_CHECKING:
    from pagewire.sync.v1.delivery_service_pb2_grpc import DeliveryServiceAsyncStub

TOKENS = parse_service_tokens(
    ",".join(f"{role}:{role}-token-{'x' * 16}" for role in ("operator", "reader", "sync"))
)
ENQUEUE = "/pagewire.store.v1.OutboxService/EnqueueReply"
GET = "/pagewire.store.v1.OutboxService/GetReply"
LAST_HIDING = "/pagewire.store.v1.OutboxService/GetLastHiding"
SYNC = frozenset({"sync"})
SENT = ReplyState.REPLY_STATE_SENT
HIDE = ReplyKind.REPLY_KIND_HIDE_COMMENT


class ClientKeyReused(Refusal):
    kind = Kind.EXISTS
    reason = "CLIENT_KEY_REUSED"


class ReplyUnknown(Refusal):
    kind = Kind.MISSING
    reason = "REPLY_UNKNOWN"


class FakeStore(OutboxServiceServicer):
    """The store's promise: one reply a key, refused for other content under it."""

    def __init__(self) -> None:
        self.asked: list[EnqueueReplyRequest] = []
        self.callers: list[Caller] = []
        self.replies: dict[str, tuple[bytes, Reply]] = {}
        self.looked = 0

    async def EnqueueReply(self, request: EnqueueReplyRequest, context: Any) -> Any:
        self.asked.append(request)
        self.callers.append(caller())
        said = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if request.client_key not in self.replies:
            reply = Reply(
                reply_id=f"r-1-{len(self.replies)}",
                state=ReplyState.REPLY_STATE_READY,
                kind=request.kind,
                client_key=request.client_key,
            )
            self.replies[request.client_key] = said, reply
        known, reply = self.replies[request.client_key]
        if known != said:
            raise ClientKeyReused("another")
        return EnqueueReplyResponse(reply=reply)

    async def GetReply(self, request: GetReplyRequest, context: Any) -> Any:
        for _, reply in self.replies.values():
            if reply.reply_id == request.reply_id:
                return GetReplyResponse(reply=reply)
        raise ReplyUnknown("no such reply")

    async def GetLastHiding(self, request: GetLastHidingRequest, context: Any) -> Any:
        self.looked += 1
        for asked in reversed(self.asked):
            if (asked.kind, asked.comment_id) == (HIDE, request.comment_id):
                _, reply = self.replies[asked.client_key]
                return GetLastHidingResponse(reply=reply, hidden=asked.hidden)
        return GetLastHidingResponse()

    def end(self, reply_id: str, state: ReplyState.ValueType = SENT) -> None:
        for _, reply in self.replies.values():
            if reply.reply_id == reply_id:
                reply.state = state


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()  # type: ignore[abstract]  # what sync does not call is left out


@asynccontextmanager
async def connected(store: FakeStore, role: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the sync service, on which a role calls."""
    roles = {ENQUEUE: SYNC, GET: SYNC, LAST_HIDING: SYNC}
    at_store = lambda server: add_OutboxServiceServicer_to_server(store, server)  # noqa: E731
    async with serving("127.0.0.1:0", at_store, tokens=TOKENS, method_roles=roles) as behind:
        token, target = TOKENS.first("sync"), f"127.0.0.1:{behind.port}"
        async with channel(target, token=token) as to_store:

            def register(server: grpc.aio.Server) -> None:
                delivery = DeliveryServicer(OutboxServiceStub(to_store))
                add_DeliveryServiceServicer_to_server(delivery, server)

            async with (
                serving("127.0.0.1:0", register, tokens=TOKENS, method_roles=METHOD_ROLES) as own,
                channel(f"127.0.0.1:{own.port}", token=TOKENS.first(role)) as ours,
            ):
                yield ours


@pytest.fixture
async def sync(store: FakeStore) -> "AsyncIterator[DeliveryServiceAsyncStub]":
    async with connected(store, "operator") as ours:
        yield DeliveryServiceStub(ours)


def message(**fields: Any) -> pb.SendMessageRequest:
    defaults: dict[str, Any] = {
        "conversation_id": "c-abc",
        "content": ReplyContent(text="hi"),
        "client_key": "key-1",
    }
    return pb.SendMessageRequest(**(defaults | fields))


async def test_a_message_is_put_in_as_the_caller_said_it(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    response = await sync.SendMessage(message(tag=Tag.TAG_HUMAN_AGENT))

    assert response.reply.reply_id == "r-1-0"
    assert store.asked == [
        EnqueueReplyRequest(
            kind=ReplyKind.REPLY_KIND_MESSAGE,
            conversation_id="c-abc",
            content=ReplyContent(text="hi"),
            client_key="key-1",
            tag=Tag.TAG_HUMAN_AGENT,
        )
    ]


async def test_the_same_key_gets_the_same_reply_and_other_words_under_it_none(
    sync: "DeliveryServiceAsyncStub",
) -> None:
    first = await sync.SendMessage(message())
    again = await sync.SendMessage(message())

    with pytest.raises(Refusal) as refused:
        await sync.SendMessage(message(content=ReplyContent(text="ho")))

    assert first == again
    assert (refused.value.kind, refused.value.reason) == (Kind.EXISTS, "CLIENT_KEY_REUSED")


async def test_a_comment_is_answered(sync: "DeliveryServiceAsyncStub", store: FakeStore) -> None:
    await sync.ReplyToComment(
        pb.ReplyToCommentRequest(comment_id="1_2", text="10 euro", client_key="k")
    )

    assert store.asked == [
        EnqueueReplyRequest(
            kind=ReplyKind.REPLY_KIND_COMMENT_REPLY,
            comment_id="1_2",
            content=ReplyContent(text="10 euro"),
            client_key="k",
        )
    ]


async def test_the_store_learns_who_wants_it_said_or_hidden(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    with calling_as(Caller("", "anna@example.com")):
        await sync.SendMessage(message())
        await sync.ReplyToComment(
            pb.ReplyToCommentRequest(comment_id="1_2", text="10 euro", client_key="k")
        )
        await sync.HideComment(pb.HideCommentRequest(comment_id="1_2", hidden=True))

    assert store.callers == [Caller("sync", "anna@example.com")] * 3


async def test_a_reply_is_shown(sync: "DeliveryServiceAsyncStub") -> None:
    made = await sync.SendMessage(message())

    found = await sync.GetReply(pb.GetReplyRequest(reply_id=made.reply.reply_id))

    assert found.reply == made.reply
    with pytest.raises(Refusal) as refused:
        await sync.GetReply(pb.GetReplyRequest(reply_id="r-1-99"))
    assert refused.value.reason == "REPLY_UNKNOWN"


async def test_hiding_takes_the_caller_s_key(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    await sync.HideComment(pb.HideCommentRequest(comment_id="1_2", hidden=True, client_key="k"))
    store.end("r-1-0")

    again = await sync.HideComment(
        pb.HideCommentRequest(comment_id="1_2", hidden=True, client_key="k")
    )

    assert again.reply.reply_id == "r-1-0"


async def test_hiding_without_a_key_twice_is_one_while_it_is_under_way(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    hide = pb.HideCommentRequest(comment_id="1_2", hidden=True)
    show = pb.HideCommentRequest(comment_id="1_2", hidden=False)

    replies = [(await sync.HideComment(each)).reply.reply_id for each in (hide, hide, show, show)]

    assert replies == ["r-1-0", "r-1-0", "r-1-1", "r-1-1"]
    assert all(0 < len(asked.client_key) <= 200 for asked in store.asked)


async def test_a_comment_can_be_hidden_again_after_it_was_shown(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    hide = pb.HideCommentRequest(comment_id="1_2", hidden=True)
    made = []
    for state in (SENT, ReplyState.REPLY_STATE_FAILED, SENT):
        made.append((await sync.HideComment(hide)).reply.reply_id)
        store.end(made[-1], state)

    last = await sync.HideComment(hide)

    assert len({*made, last.reply.reply_id}) == 4


async def test_a_comment_is_hidden_again_behind_what_shows_it_though_that_is_under_way(
    sync: "DeliveryServiceAsyncStub",
) -> None:
    hide = pb.HideCommentRequest(comment_id="1_2", hidden=True)
    show = pb.HideCommentRequest(comment_id="1_2", hidden=False)

    replies = [(await sync.HideComment(each)).reply.reply_id for each in (hide, show, hide, hide)]

    assert replies == ["r-1-0", "r-1-1", "r-1-2", "r-1-2"]


async def test_the_hundredth_hiding_costs_no_more_calls_than_the_first(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    hide = pb.HideCommentRequest(comment_id="1_2", hidden=True)
    for _ in range(99):
        store.end((await sync.HideComment(hide)).reply.reply_id)

    await sync.HideComment(hide)

    assert (store.looked, len(store.asked), len(store.replies)) == (100, 100, 100)


async def test_hiding_at_once_without_a_key_is_one(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    hide = pb.HideCommentRequest(comment_id="1_2", hidden=True)
    store.end((await sync.HideComment(hide)).reply.reply_id)

    await asyncio.gather(*(sync.HideComment(hide) for _ in range(5)))

    assert len(store.replies) == 2


async def test_no_two_comments_share_a_key(
    sync: "DeliveryServiceAsyncStub", store: FakeStore
) -> None:
    await sync.HideComment(pb.HideCommentRequest(comment_id="x" * 900, hidden=True))
    await sync.HideComment(pb.HideCommentRequest(comment_id="x" * 899, hidden=True))

    assert len(store.replies) == 2


def answer(**fields: Any) -> pb.ReplyToCommentRequest:
    defaults: dict[str, Any] = {"comment_id": "1_2", "text": "10 euro", "client_key": "k"}
    return pb.ReplyToCommentRequest(**(defaults | fields))


def buttons(*titles: str, payload: str = "p") -> ReplyContent:
    listed = [QuickReply(title=title, payload=payload) for title in titles]
    return ReplyContent(quick_replies=QuickReplies(text="Which?", quick_replies=listed))


def medium(url: str, type_: MediaType.ValueType = MediaType.MEDIA_TYPE_IMAGE) -> ReplyContent:
    return ReplyContent(media=Media(type=type_, url=url))


@pytest.mark.parametrize(
    "content",
    [
        ReplyContent(text="x" * 8_000),
        buttons("Red"),
        buttons(*(f"button {n}" for n in range(13))),
        medium("https://files.example/1.png"),
    ],
)
async def test_what_can_be_said_is_taken(
    sync: "DeliveryServiceAsyncStub", content: ReplyContent
) -> None:
    response = await sync.SendMessage(message(content=content))

    assert response.reply.reply_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"conversation_id": ""}, "conversation_id"),
        ({"conversation_id": "c" * 1001}, "conversation_id"),
        ({"client_key": ""}, "client_key"),
        ({"client_key": "k" * 201}, "client_key"),
        ({"client_key": "a\0b"}, "client_key"),
        ({"content": None}, "content"),
        ({"content": ReplyContent(text="")}, "content.text"),
        ({"content": ReplyContent(text=" \n")}, "content.text"),
        ({"content": ReplyContent(text="x" * 8_001)}, "content.text"),
        ({"content": buttons()}, "content.quick_replies"),
        ({"content": buttons(*"abcdefghijklmn")}, "content.quick_replies"),
        ({"content": buttons("x" * 21)}, "content.quick_replies.quick_replies.title"),
        ({"content": buttons("")}, "content.quick_replies.quick_replies.title"),
        ({"content": buttons("a", payload="")}, "content.quick_replies.quick_replies.payload"),
        ({"content": medium("http://files.example/1.png")}, "content.media.url"),
        ({"content": medium("https://" + "x" * 2_000)}, "content.media.url"),
        (
            {"content": medium("https://a.example/b", MediaType.MEDIA_TYPE_UNSPECIFIED)},
            "content.media.type",
        ),
        ({"content": medium("https://a.example/b", 99)}, "content.media.type"),  # type: ignore[arg-type]
        ({"tag": 99}, "tag"),
    ],
)
async def test_what_cannot_be_said_is_refused_by_the_name_of_its_field(
    sync: "DeliveryServiceAsyncStub", store: FakeStore, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await sync.SendMessage(message(**fields))

    assert refused.value.kind is Kind.INVALID
    assert refused.value.metadata["field"] == field
    assert store.asked == []


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s: s.ReplyToComment(answer(comment_id="")), "comment_id"),
        (lambda s: s.ReplyToComment(answer(text="")), "text"),
        (lambda s: s.ReplyToComment(answer(client_key="")), "client_key"),
        (lambda s: s.HideComment(pb.HideCommentRequest(hidden=True)), "comment_id"),
        (lambda s: s.GetReply(pb.GetReplyRequest()), "reply_id"),
    ],
)
async def test_what_is_missing_is_named(
    sync: "DeliveryServiceAsyncStub", call: Callable[[Any], Any], field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await call(sync)

    assert refused.value.metadata["field"] == field


async def test_a_reader_may_look_and_say_nothing(store: FakeStore) -> None:
    async with connected(store, "reader") as ours:
        sync: Any = DeliveryServiceStub(ours)

        with pytest.raises(Refusal) as unknown:
            await sync.GetReply(pb.GetReplyRequest(reply_id="r-1-1"))
        with pytest.raises(Refusal) as forbidden:
            await sync.SendMessage(message())

    assert unknown.value.kind is Kind.MISSING
    assert forbidden.value.kind is Kind.FORBIDDEN
