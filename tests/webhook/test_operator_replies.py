from typing import Any

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.sync.v1 import delivery_service_pb2 as sync_pb
from pagewire.type.v1 import reply_pb2 as pb
from pagewire_runtime.errors import InvalidArgument, Kind, refusal_from
from pagewire_webhook.operator.replies import REPLY_STATES
from tests.support.upstreams import Upstream

BODY = {"conversation_id": "c-MQ", "text": "Hello", "client_key": "key 1"}


async def test_a_reply_is_accepted_and_stands_where_it_stands(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    response = await api.post("/api/replies", json=BODY)

    assert (response.status_code, response.json()) == (
        202,
        {"reply_id": "r-1-1", "state": "ready"},
    )
    assert upstream.request == sync_pb.SendMessageRequest(
        conversation_id="c-MQ", content=pb.ReplyContent(text="Hello"), client_key="key 1"
    )


async def test_a_reply_may_carry_the_tag_of_a_human_agent(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    await api.post("/api/replies", json={**BODY, "tag": "HUMAN_AGENT"})

    assert upstream.request.tag == pb.TAG_HUMAN_AGENT


async def test_a_text_that_sync_refuses_is_the_bodys_text(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["SendMessage"] = InvalidArgument("content.text", "must have 1 characters")

    response = await api.post("/api/replies", json=BODY)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": "text"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"conversation_id": "c MQ"}, "conversation_id"),
        ({"text": ""}, "text"),
        ({"text": None}, "text"),
        ({"client_key": ""}, "client_key"),
        ({"client_key": "k" * 201}, "client_key"),
        ({"tag": "ACCOUNT_UPDATE"}, "tag"),
        ({"messaging_type": "RESPONSE"}, "messaging_type"),
    ],
)
async def test_a_reply_that_is_wrong_is_400_and_names_the_field(
    api: httpx.AsyncClient, upstream: Upstream, change: dict[str, Any], field: str
) -> None:
    response = await api.post("/api/replies", json=BODY | change)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": field}
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("SendMessage", "/api/replies", BODY),
        ("ReplyToComment", "/api/comments/1_2/reply", {"text": "Hello", "client_key": "k"}),
        ("HideComment", "/api/comments/1_2/hide", {"hidden": True, "client_key": "k"}),
    ],
)
async def test_a_key_with_another_body_is_409(
    api: httpx.AsyncClient, upstream: Upstream, method: str, path: str, body: dict[str, Any]
) -> None:
    upstream.answers[method] = refusal_from(Kind.EXISTS, "CLIENT_KEY_REUSED", "used before")

    response = await api.post(path, json=body)

    assert response.status_code == 409
    assert response.json()["error"]["reason"] == "CLIENT_KEY_REUSED"


async def test_a_comment_is_answered_below_it(api: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await api.post(
        "/api/comments/10_20/reply", json={"text": "Thanks", "client_key": "k"}
    )

    assert (response.status_code, response.json()) == (
        202,
        {"reply_id": "r-1-1", "state": "ready"},
    )
    assert upstream.request == sync_pb.ReplyToCommentRequest(
        comment_id="10_20", text="Thanks", client_key="k"
    )


@pytest.mark.parametrize(
    ("body", "hidden", "key"),
    [
        ({"hidden": True}, True, ""),
        ({"hidden": False, "client_key": "k"}, False, "k"),
        ({"client_key": None}, True, ""),
    ],
)
async def test_a_comment_is_hidden_or_shown_again(
    api: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], hidden: bool, key: str
) -> None:
    response = await api.post("/api/comments/10_20/hide", json=body)

    assert response.status_code == 202
    assert upstream.request == sync_pb.HideCommentRequest(
        comment_id="10_20", hidden=hidden, client_key=key
    )


async def test_a_reply_is_shown_with_what_became_of_it(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetReply"] = sync_pb.GetReplyResponse(
        reply=pb.Reply(
            reply_id="r-1-2",
            page_id="1",
            kind=pb.REPLY_KIND_MESSAGE,
            state=pb.REPLY_STATE_SENT,
            conversation_id="c-MQ",
            content=pb.ReplyContent(text="Hello"),
            mid="m_9",
            origin=pb.REPLY_ORIGIN_PERSON,
            client_key="k",
            create_time=Timestamp(seconds=1_700_000_000),
            sending_time=Timestamp(seconds=1_700_000_001),
            sent_time=Timestamp(seconds=1_700_000_002),
        )
    )

    response = await api.get("/api/replies/r-1-2")

    assert response.json() == {
        "reply_id": "r-1-2",
        "page_id": "1",
        "kind": "message",
        "state": "sent",
        "reason": None,
        "conversation_id": "c-MQ",
        "comment_id": None,
        "content": {"text": "Hello"},
        "mid": "m_9",
        "origin": "person",
        "client_key": "k",
        "created_at": "2023-11-14T22:13:20.000Z",
        "sending_at": "2023-11-14T22:13:21.000Z",
        "sent_at": "2023-11-14T22:13:22.000Z",
    }
    assert upstream.request.reply_id == "r-1-2"


async def test_a_hiding_that_was_refused_is_shown_with_the_reason(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetReply"] = sync_pb.GetReplyResponse(
        reply=pb.Reply(
            reply_id="r-1-3",
            page_id="1",
            kind=pb.REPLY_KIND_HIDE_COMMENT,
            state=pb.REPLY_STATE_FAILED,
            state_reason="graph_200",
            comment_id="10_20",
            origin=pb.REPLY_ORIGIN_RULE,
        )
    )

    shown = (await api.get("/api/replies/r-1-3")).json()

    assert (shown["state"], shown["reason"], shown["kind"]) == (
        "failed",
        "graph_200",
        "hide_comment",
    )
    assert (shown["comment_id"], shown["content"], shown["mid"]) == ("10_20", None, None)


def test_the_states_of_a_reply_are_those_that_the_interface_names() -> None:
    assert set(REPLY_STATES) == {
        "ready",
        "sending",
        "uncertain",
        "sent",
        "failed",
        "expired",
        "parked",
    }
