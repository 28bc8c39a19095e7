"""The audit: who changed what, and when; never what was in it."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire_runtime.auth import caller

_RECORD = text("""
    insert into audit (role, actor, action, subject, detail)
    values (:role, :actor, :action, :subject, :detail)
""")


async def record(connection: AsyncConnection, action: str, subject: str, detail: str = "") -> None:
    """Writes down, in the transaction that does it, what the caller of this call did.

    `action` is a stable word such as `page.connect`, `subject` an id, `detail` a few stable words.
    """
    who = caller()
    await connection.execute(
        _RECORD,
        {
            "role": who.role,
            "actor": who.actor or "",
            "action": action,
            "subject": subject,
            "detail": detail,
        },
    )
