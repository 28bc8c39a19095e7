"""Letting go of what was kept long enough, a few rows at a time; events and their keys stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime import metrics
from pagewire_store.database import in_transaction

CHUNK = 500
PAUSE = 0.05
"""Seconds between two chunks, for those who are in a hurry."""

_purged = metrics.counter("pagewire_purged_rows_total", "Rows let go of, by table.", ["table"])


@dataclass(frozen=True)
class Retention:
    """How long what is kept."""

    deliveries: timedelta
    quarantine: timedelta
    attempts: timedelta
    runs: timedelta
    """After their end."""


# Bodies that were read; of the others the quarantine decides.
_DELIVERIES = text("""
    delete from delivery where delivery_id in (
        select delivery_id from delivery
        where received_at < now() - :kept and not exists (
            select from quarantine
            where quarantine.delivery_id = delivery.delivery_id and replayed_at is null)
        order by received_at limit :chunk
        for update skip locked)
""")

# Bodies that were not read, and with them their rows in quarantine.
_QUARANTINE = text("""
    delete from delivery where delivery_id in (
        select delivery_id from delivery
        where received_at < now() - :kept
        order by received_at limit :chunk
        for update skip locked)
""")

_ATTEMPTS = text("""
    delete from attempt where (page_id, tag) in (
        select page_id, tag from attempt
        where started_at < now() - :kept
        limit :chunk
        for update skip locked)
""")

_RUNS = text("""
    delete from sync_run where run_id in (
        select run_id from sync_run
        where finished_at < now() - :kept
        order by finished_at limit :chunk
        for update skip locked)
""")


async def purge(engine: AsyncEngine, retention: Retention) -> int:
    """Lets go of all that is older than it need be; returns how many rows. Raises Unavailable."""
    return (
        await _purge(engine, "delivery", _DELIVERIES, retention.deliveries)
        + await _purge(engine, "quarantine", _QUARANTINE, retention.quarantine)
        + await _purge(engine, "attempt", _ATTEMPTS, retention.attempts)
        + await _purge(engine, "sync_run", _RUNS, retention.runs)
    )


async def _purge(engine: AsyncEngine, table: str, statement: TextClause, kept: timedelta) -> int:
    chunk = partial(_purge_chunk, statement=statement, kept=kept)
    rows = 0
    while True:
        gone = await in_transaction(engine, chunk)
        _purged.labels(table).inc(gone)
        rows += gone
        if gone < CHUNK:
            return rows
        await asyncio.sleep(PAUSE)


async def _purge_chunk(connection: AsyncConnection, statement: TextClause, kept: timedelta) -> int:
    gone = await connection.execute(statement, {"kept": kept, "chunk": CHUNK})
    return gone.rowcount
