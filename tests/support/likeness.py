"""Whether what is stored is like the simulator's truth, message for message, and what differs.

An attachment is as Graph shows it, or as the webhook told that brought it: its address in either
case, but for the signature, which is another one at each read.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from pagewire.type.v1.event_pb2 import MessageDetail
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.entities import Comment
from pagewire_simulator.truth import TrueConversation, TrueMessage, Truth
from pagewire_store.projections import SNIPPET_LENGTH

_CONVERSATIONS = "select * from conversation where page_id = :page"
_MESSAGES = "select * from message where page_id = :page"
_COMMENTS = "select * from comment where page_id = :page and not is_deleted"
_LABELS = "select label_id, name from label where page_id = :page"


async def differences(
    database: AsyncEngine,
    meta: SimulatorClient,
    account: AccountView,
    *,
    without: Collection[str] = (),
) -> list[str]:
    """What the store lacks of the account, has too much of, or has otherwise; empty where nothing.

    `without`: threads that could not be read. Of what Graph does not show at all, the store may
    have what a webhook brought; of what it shows without details, more than Graph tells.
    """
    truth = await meta.truth(account.id)
    people = {row.participant_id: row for row in await _rows(database, _CONVERSATIONS, account)}
    messages = {row.mid: row for row in await _rows(database, _MESSAGES, account)}
    found: list[str] = []
    threads = [one for one in truth.conversations if one.thread_id not in without]
    for thread in threads:
        found += _of_thread(thread, people.get(thread.person_id))
        for message in thread.messages:
            row = messages.get(message.mid)
            differing = _of_message(message, row, account.platform)
            found += [f"message {message.mid}: {what}" for what in differing]
    known = {message.mid for thread in truth.conversations for message in thread.messages}
    found += [f"message {mid}: nobody wrote it" for mid in messages.keys() - known]
    return found


async def comment_differences(
    database: AsyncEngine, meta: SimulatorClient, account: AccountView
) -> list[str]:
    """The same of its comments."""
    truth = await meta.truth(account.id)
    stored = {row.comment_id: row for row in await _rows(database, _COMMENTS, account)}
    there = {one.id: one for one in truth.comments if not one.deleted}
    found = [f"comment {id}: nobody wrote it" for id in stored.keys() - there.keys()]
    for id, comment in there.items():
        found += [f"comment {id}: {what}" for what in _of_comment(comment, stored.get(id))]
    return found


async def label_differences(
    database: AsyncEngine, meta: SimulatorClient, account: AccountView
) -> list[str]:
    """The same of its labels."""
    truth = await meta.truth(account.id)
    stored = {(row.label_id, row.name) for row in await _rows(database, _LABELS, account)}
    return [f"label {label}" for label in stored ^ {(one.id, one.name) for one in truth.labels}]


def shown(truth: Truth) -> int:
    """How many messages Graph shows of the account."""
    return sum(one.shown != "gone" for thread in truth.conversations for one in thread.messages)


async def _rows(database: AsyncEngine, statement: str, account: AccountView) -> list[Row[Any]]:
    async with database.connect() as connection:
        return list(await connection.execute(text(statement), {"page": account.id}))


def _of_thread(thread: TrueConversation, row: Row[Any] | None) -> list[str]:
    listed = [message for message in thread.messages if message.shown != "gone"]
    if not listed:
        return []
    if row is None:
        return [f"thread {thread.thread_id}: is missing"]
    expected = {
        "thread_id": thread.thread_id,
        "participant_name": thread.name,
        "updated_at": _second(thread.updated_at),
        "snippet": (listed[-1].text or "")[:SNIPPET_LENGTH],
        "unread_count": thread.unread,
    }
    is_now = {
        "thread_id": row.thread_id,
        "participant_name": row.participant_name,
        "updated_at": row.updated_at.replace(microsecond=0),
        "snippet": row.snippet,
        "unread_count": row.unread_count,
    }
    return [f"thread {thread.thread_id}: {what}" for what in _other(expected, is_now)]


def _of_message(message: TrueMessage, row: Row[Any] | None, platform: str) -> list[str]:
    if message.shown == "gone":
        return [] if row is None or row.is_deleted else ["was unsent"]
    if row is None:
        return ["is missing"]
    expected: dict[str, Any] = {"created_at": _second(message.created_at), "is_deleted": False}
    is_now = {"created_at": row.created_at.replace(microsecond=0), "is_deleted": row.is_deleted}
    if message.shown == "whole" or row.direction is not None:
        expected |= {
            "direction": "inbound" if message.inbound else "outbound",
            "text": message.text or "",
            "is_unsupported": message.unsupported,
            "kind": _STORIES[message.story[0]] if message.story else "message",
            "attachments": _shown_by_graph(message, platform),
        }
        is_now |= {
            "direction": row.direction,
            "text": row.text or "",
            "is_unsupported": row.is_unsupported,
            "kind": row.kind,
            "attachments": _attached(row),
        }
        if is_now["attachments"] == _told_by_a_webhook(message):
            del expected["attachments"]
    return _other(expected, is_now)


_STORIES = {"reply_to": "story_reply", "mention": "story_mention"}


def _attached(row: Row[Any]) -> list[tuple[str, str]]:
    """The type and the address of each."""
    detail = MessageDetail.FromString(row.attachments or b"")
    return [(each.type, each.url.partition("?")[0]) for each in detail.attachments]


def _told_by_a_webhook(message: TrueMessage) -> list[tuple[str, str]]:
    return [(each["type"], each["payload"]["url"]) for each in message.attachments]


def _shown_by_graph(message: TrueMessage, platform: str) -> list[tuple[str, str]]:
    """Without the word of webhooks: Messenger tells the kind of a file, Instagram of no sound."""
    told = _told_by_a_webhook(message)
    known = ("image", "video", "audio") if platform == "messenger" else ("image", "video")
    files = [(kind if kind in known else "file", url) for kind, url in told]
    return files + [("share", url) for kind, url in told if kind in ("share", "fallback")]


def _of_comment(comment: Comment, row: Row[Any] | None) -> list[str]:
    if row is None:
        return ["is missing"]
    expected = {
        "post_id": comment.post_id,
        "parent_id": comment.parent_id,
        "text": comment.text,
        "created_at": _second(comment.created_at),
        "is_hidden": comment.hidden,
        "is_own": comment.person_id is None,
        "from_id": comment.from_id,
        "from_name": comment.from_name,
        "attachments": [comment.attachment] if comment.attachment else [],
    }
    is_now = {
        "post_id": row.post_id,
        "parent_id": row.parent_id,
        "text": row.text or "",
        "created_at": row.created_at.replace(microsecond=0),
        "is_hidden": row.is_hidden,
        "is_own": row.is_own,
        "from_id": row.from_id,
        "from_name": row.from_name,
        "attachments": _attached(row),
    }
    return _other(expected, is_now)


def _other(expected: dict[str, Any], is_now: dict[str, Any]) -> list[str]:
    return [
        f"{name} is {is_now[name]!r}, not {value!r}"
        for name, value in expected.items()
        if is_now[name] != value
    ]


def _second(at: int) -> datetime:
    """As Graph shows a time."""
    return datetime.fromtimestamp(at // 1000, UTC)
