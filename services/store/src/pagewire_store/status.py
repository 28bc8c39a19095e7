"""How things stand, counted; an answer also where PostgreSQL gives none."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.store.v1.operation_service_pb2 import (
    GetStatusResponse,
    PageStateCount,
    ReplyStateCount,
)
from pagewire.type.v1.page_pb2 import PageState
from pagewire.type.v1.reply_pb2 import ReplyState
from pagewire_runtime.logs import get_logger
from pagewire_store.database import sqlstate

log = get_logger(__name__)

PATIENCE = 1.5
"""Seconds; who asks how things stand must learn that the database hangs before giving up."""

_COUNTS = text("""
    select
        (select coalesce(sum(pending), 0) from lane where pending > 0) as pending_events,
        (select now() - min(pending_since) from lane where pending > 0) as oldest_pending,
        (select count(*) from event where state = 'parked') as parked_events,
        (select count(*) from quarantine where replayed_at is null) as quarantined,
        (select count(*) from event where state = 'unknown_page') as unknown_page_events
""")

_PAGES = text("select state, count(*) as count from page where connected group by state")

# Final states by the index over time: no reply is under way for longer than seven days.
_REPLIES = text("""
    select state, count(*) as count from outbox
    where state in ('ready', 'sending', 'uncertain')
    group by state
    union all
    select state, count(*) from outbox
    where state = 'parked'
    group by state
    union all
    select state, count(*) from outbox
    where state in ('sent', 'failed', 'expired') and created_at > now() - interval '8 days'
        and ended_at > now() - interval '24 hours'
    group by state
""")


async def status(engine: AsyncEngine) -> GetStatusResponse:
    """The counts, or in `database` why there are none; `cache` is left to the caller."""
    try:
        async with asyncio.timeout(PATIENCE), engine.connect() as connection:
            return await _counted(connection)
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        log.warning("status_without_database", kind=type(error).__name__, sqlstate=sqlstate(error))
        return GetStatusResponse(database=_why(error))


def _why(error: BaseException) -> str:
    if isinstance(error, PoolTimeout):
        return "all connections are in use"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    state = sqlstate(error)
    return "cannot be reached" if state is None else f"refuses: SQLSTATE {state}"


async def _counted(connection: AsyncConnection) -> GetStatusResponse:
    counts = (await connection.execute(_COUNTS)).one()
    response = GetStatusResponse(
        database="ok",
        pending_events=counts.pending_events,
        parked_events=counts.parked_events,
        quarantined=counts.quarantined,
        unknown_page_events=counts.unknown_page_events,
        pages=[
            PageStateCount(state=PageState.Value(f"PAGE_STATE_{state.upper()}"), count=count)
            for state, count in await connection.execute(_PAGES)
        ],
        replies=[
            ReplyStateCount(state=ReplyState.Value(f"REPLY_STATE_{state.upper()}"), count=count)
            for state, count in await connection.execute(_REPLIES)
        ],
    )
    if counts.oldest_pending is not None:
        response.oldest_pending.FromTimedelta(max(counts.oldest_pending, timedelta()))
    return response
