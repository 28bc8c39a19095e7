"""The audit: who changed what, and when; never what was in it."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_runtime.auth import caller
from pagewire_store.connections import Driver
from pagewire_store.database import driver

_RECORD = b"""
insert into audit (role, actor, action, subject, detail)
values (%(role)s, %(actor)s, %(action)s, %(subject)s, %(detail)s)
"""


async def record(connection: AsyncConnection, action: str, subject: str, detail: str = "") -> None:
    """Writes down, in the transaction that does it, what the caller of this call did.

    `action` is a stable word such as `page.connect`, `subject` an id, `detail` a few stable words.
    """
    await record_live(await driver(connection), action, subject, detail)


async def record_live(connection: Driver, action: str, subject: str, detail: str = "") -> None:
    """The same on the driver itself."""
    who = caller()
    values = {
        "role": who.role,
        "actor": who.actor or "",
        "action": action,
        "subject": subject,
        "detail": detail,
    }
    await connection.execute(_RECORD, values)
