"""A reply as callers see it: an outbox row in, a message out."""

from __future__ import annotations

from typing import Any

from pagewire.type.v1.reply_pb2 import Reply, ReplyContent, ReplyKind, ReplyOrigin, ReplyState
from pagewire_store import ids

COLUMNS = """
    page_id, reply_id, kind, state, state_reason, person_id, comment_id, content, mid, origin,
    client_key, created_at, sending_at, sent_at
"""
"""What `reply_from` reads of a row of table outbox."""


def reply_from(row: Any) -> Reply:
    """The reply of a row with COLUMNS as attributes."""
    return Reply(
        reply_id=ids.reply_id(row.page_id, row.reply_id),
        page_id=row.page_id,
        kind=kind_of(row.kind),
        state=state_of(row.state),
        state_reason=row.state_reason,
        conversation_id=ids.conversation_id(row.page_id, row.person_id) if row.person_id else "",
        comment_id=row.comment_id,
        content=content_of(row.content),
        mid=row.mid,
        origin=ReplyOrigin.Value(f"REPLY_ORIGIN_{row.origin.upper()}"),
        client_key=row.client_key,
        create_time=row.created_at,
        sending_time=row.sending_at,
        sent_time=row.sent_at,
    )


def kind_of(word: str) -> ReplyKind.ValueType:
    """The kind that the table calls by this word."""
    return ReplyKind.Value(f"REPLY_KIND_{word.upper()}")


def state_of(word: str) -> ReplyState.ValueType:
    """The state that the table calls by this word."""
    return ReplyState.Value(f"REPLY_STATE_{word.upper()}")


def content_of(stored: bytes | None) -> ReplyContent | None:
    """What is said, as it is stored; None for what says nothing."""
    return None if stored is None else ReplyContent.FromString(stored)
