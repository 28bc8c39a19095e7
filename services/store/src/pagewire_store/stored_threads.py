"""The threads that are stored of a page, newest first: for when Graph gives no list of them."""

from __future__ import annotations

from datetime import UTC

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.mirror_service_pb2 import ListThreadsRequest, StoredThread
from pagewire_runtime.errors import InvalidArgument

MOST = 1_000
"""Threads of an answer."""

_NEWEST = """
    select thread_id, participant_id, updated_at from conversation
    where page_id = :page_id and thread_id is not null {behind}
    order by updated_at desc, participant_id limit :at_most
"""
_FIRST = text(_NEWEST.format(behind=""))
# `updated_at <=` alone is what the index can begin at.
_NEXT = text(
    _NEWEST.format(
        behind="""
            and updated_at <= :updated_at
            and (updated_at < :updated_at or participant_id > :participant_id)"""
    )
)


async def list_newest(
    connection: AsyncConnection, request: ListThreadsRequest
) -> list[StoredThread]:
    """Those behind the one that the request names, or the newest. Raises InvalidArgument."""
    if not 1 <= request.max_threads <= MOST:
        raise InvalidArgument("max_threads", f"must be 1 to {MOST}")
    values = {"page_id": _storable(request.page_id), "at_most": request.max_threads}
    if request.HasField("after"):
        behind = {
            "updated_at": request.after.update_time.ToDatetime(UTC),
            "participant_id": _storable(request.after.participant_id),
        }
        rows = await connection.execute(_NEXT, values | behind)
    else:
        rows = await connection.execute(_FIRST, values)
    return [
        StoredThread(
            thread_id=row.thread_id, participant_id=row.participant_id, update_time=row.updated_at
        )
        for row in rows
    ]


def _storable(key: str) -> str:
    """As PostgreSQL can compare it: what holds NUL is no key of ours."""
    return key.replace("\0", "\ufffd")
