"""The database's time: what every process compares its own clock with."""

from __future__ import annotations

from datetime import datetime

from pagewire_store.connections import Connections, Driver
from pagewire_store.database import in_live_transaction
from pagewire_store.trips import Statement, trip

_NOW = Statement("select clock_timestamp()").said()


async def database_time(connections: Connections) -> datetime:
    """The time by which leases end and rows are dated. Raises Unavailable."""

    async def ask(connection: Driver) -> datetime:
        (answer,) = await trip(connection, _NOW)
        now: datetime = answer.rows[0][0]
        return now

    return await in_live_transaction(connections, ask)
