from typing import Any

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1 import conversation_service_pb2 as conversations_pb
from pagewire.store.v1 import operation_service_pb2 as operations_pb
from pagewire.type.v1 import conversation_pb2 as pb
from pagewire.type.v1 import decision_pb2 as decision_pb
from pagewire.type.v1 import event_pb2 as event_pb
from pagewire.type.v1 import reply_pb2 as reply_pb
from pagewire.type.v1 import rule_pb2 as rule_pb
from pagewire_runtime.errors import Kind, refusal_from
from tests.support.upstreams import Upstream


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=1_767_323_045 + seconds, nanos=123_999_000)


async def test_decisions_are_listed_with_the_time_of_each_stage(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListDecisions"] = operations_pb.ListDecisionsResponse(
        decisions=[
            decision_pb.Decision(
                event_id="e-1-2",
                page_id="1",
                kind=event_pb.TRIGGER_STORY_REPLY,
                outcome=decision_pb.OUTCOME_ANSWERED,
                reason="fired",
                rules=[
                    rule_pb.RuleVerdict(
                        rule_id="rule-1",
                        version=3,
                        name="price",
                        fired=True,
                        reason="fired",
                        left_out=[rule_pb.LeftOut(action="add_label", reason="label_unsupported")],
                    )
                ],
                receive_time=at(0),
                store_time=at(1),
                decide_time=at(2),
                sent_time=at(3),
            ),
            decision_pb.Decision(
                event_id="e-1-1",
                page_id="1",
                kind=event_pb.TRIGGER_MESSAGE,
                outcome=decision_pb.OUTCOME_DECLINED,
                reason="no_rule_matched",
                receive_time=at(0),
                store_time=at(1),
                decide_time=at(2),
            ),
        ],
        next_page_token="next",
    )

    response = await api.get("/api/decisions?page_id=1&page_size=2&page_token=t")

    assert response.json() == {
        "decisions": [
            {
                "event_id": "e-1-2",
                "kind": "story_reply",
                "outcome": "answered",
                "reason": "fired",
                "rules": [
                    {
                        "rule_id": "rule-1",
                        "version": 3,
                        "fired": True,
                        "reason": "fired",
                        "left_out": [{"action": "add_label", "reason": "label_unsupported"}],
                    }
                ],
                "received_at": "2026-01-02T03:04:05.123Z",
                "stored_at": "2026-01-02T03:04:06.123Z",
                "decided_at": "2026-01-02T03:04:07.123Z",
                "sent_at": "2026-01-02T03:04:08.123Z",
            },
            {
                "event_id": "e-1-1",
                "kind": "message",
                "outcome": "declined",
                "reason": "no_rule_matched",
                "rules": [],
                "received_at": "2026-01-02T03:04:05.123Z",
                "stored_at": "2026-01-02T03:04:06.123Z",
                "decided_at": "2026-01-02T03:04:07.123Z",
                "sent_at": None,
            },
        ],
        "next_page_token": "next",
    }
    assert upstream.request == operations_pb.ListDecisionsRequest(
        page_id="1", page_size=2, page_token="t"
    )


async def test_conversations_are_listed(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["ListConversations"] = conversations_pb.ListConversationsResponse(
        conversations=[
            pb.Conversation(
                conversation_id="c-MQ",
                page_id="1",
                participant_id="7",
                participant_name="Ada",
                thread_id="t_1",
                update_time=at(0),
                snippet="the price",
                unread_count=2,
                labels=["lead"],
                window_open_until=at(60),
                automation_paused_until=at(5),
            ),
            pb.Conversation(conversation_id="c-Mg", page_id="1", participant_id="8"),
        ]
    )

    response = await api.get("/api/conversations?page_id=1")

    assert response.json() == {
        "conversations": [
            {
                "id": "c-MQ",
                "page_id": "1",
                "participant_id": "7",
                "participant_name": "Ada",
                "thread_id": "t_1",
                "updated_time": "2026-01-02T03:04:05.123Z",
                "snippet": "the price",
                "unread_count": 2,
                "labels": ["lead"],
                "window_open_until": "2026-01-02T03:05:05.123Z",
            },
            {
                "id": "c-Mg",
                "page_id": "1",
                "participant_id": "8",
                "participant_name": None,
                "thread_id": None,
                "updated_time": None,
                "snippet": None,
                "unread_count": 0,
                "labels": [],
                "window_open_until": None,
            },
        ]
    }


async def test_messages_are_listed_with_replies_that_are_not_sent_yet(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListMessages"] = conversations_pb.ListMessagesResponse(
        messages=[
            pb.Message(
                direction=pb.DIRECTION_OUTBOUND,
                text="10 euro",
                create_time=at(1),
                reply_state=reply_pb.REPLY_STATE_READY,
                reply_id="r-1-1",
            ),
            pb.Message(
                mid="m_1:a/b",
                direction=pb.DIRECTION_INBOUND,
                attachments=[
                    event_pb.Attachment(
                        type="fallback",
                        url="https://shop.example/a",
                        title="A",
                        payload='{"n":[12345678901234567890123,"é"],"x":null}',
                    ),
                    event_pb.Attachment(type="image"),
                ],
                create_time=at(0),
                is_archived=True,
                is_deleted=True,
                recovered=True,
            ),
        ]
    )

    response = await api.get("/api/conversations/c-MQ/messages?page_size=5&page_token=t")

    assert response.json() == {
        "messages": [
            {
                "mid": None,
                "direction": "outbound",
                "text": "10 euro",
                "attachments": [],
                "created_time": "2026-01-02T03:04:06.123Z",
                "is_archived": False,
                "is_deleted": False,
                "recovered": False,
                "reply_state": "ready",
            },
            {
                "mid": "m_1:a/b",
                "direction": "inbound",
                "text": None,
                "attachments": [
                    {
                        "type": "fallback",
                        "url": "https://shop.example/a",
                        "title": "A",
                        "payload": {"n": [12345678901234567890123, "é"], "x": None},
                    },
                    {"type": "image", "url": None, "title": None, "payload": None},
                ],
                "created_time": "2026-01-02T03:04:05.123Z",
                "is_archived": True,
                "is_deleted": True,
                "recovered": True,
                "reply_state": None,
            },
        ]
    }
    assert upstream.request == conversations_pb.ListMessagesRequest(
        conversation_id="c-MQ", page_size=5, page_token="t"
    )


async def test_comments_are_listed(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["ListComments"] = conversations_pb.ListCommentsResponse(
        comments=[
            pb.Comment(
                comment_id="10_20",
                page_id="1",
                post_id="1_10",
                parent_id="10_19",
                from_id="7",
                from_name="Ada",
                text="price?",
                create_time=at(0),
                is_hidden=True,
                is_archived=True,
                answer_time=at(2),
            ),
            pb.Comment(comment_id="10_21", page_id="1", is_deleted=True),
        ]
    )

    response = await api.get("/api/comments?page_id=1")

    assert response.json() == {
        "comments": [
            {
                "comment_id": "10_20",
                "post_id": "1_10",
                "parent_id": "10_19",
                "from_id": "7",
                "text": "price?",
                "created_time": "2026-01-02T03:04:05.123Z",
                "is_hidden": True,
                "is_deleted": False,
                "is_archived": True,
                "answered_at": "2026-01-02T03:04:07.123Z",
            },
            {
                "comment_id": "10_21",
                "post_id": None,
                "parent_id": None,
                "from_id": None,
                "text": None,
                "created_time": None,
                "is_hidden": False,
                "is_deleted": True,
                "is_archived": False,
                "answered_at": None,
            },
        ]
    }


@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("/api/conversations?page_id=1", {"page_id": "1"}),
        ("/api/comments?page_id=1", {"page_id": "1"}),
        ("/api/conversations/c-MQ/messages?", {"conversation_id": "c-MQ"}),
    ],
)
async def test_what_is_archived_is_included_only_when_asked_for(
    api: httpx.AsyncClient, upstream: Upstream, path: str, least: dict[str, Any]
) -> None:
    await api.get(path)
    await api.get(f"{path}&archived=include&page_size=9&page_token=t")

    request = type(upstream.requests[0])
    assert upstream.requests == [
        request(**least, page_size=50),
        request(**least, page_size=9, page_token="t", include_archived=True),
    ]


async def test_a_page_token_that_is_forged_is_400(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListDecisions"] = refusal_from(
        Kind.INVALID, "PAGE_TOKEN_INVALID", "page_token: is not ours", {"field": "page_token"}
    )

    response = await api.get("/api/decisions?page_token=forged")

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": "page_token"}


async def test_an_unknown_conversation_is_404(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["ListMessages"] = refusal_from(Kind.MISSING, "CONVERSATION_UNKNOWN", "none")

    response = await api.get("/api/conversations/c-xx/messages")

    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "CONVERSATION_UNKNOWN"
