"""What the store's login may do with each table: what the store's statements do, and no more.

Where it is not the owner's login, it makes and changes no table, and what the audit says it can
only add to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

_ADDED = "select, insert"
_KEPT = "select, insert, update"
_REPLACED = "select, insert, delete"
_PURGED = "select, insert, update, delete"

TABLES: Mapping[str, str] = {
    "page": _KEPT,
    "delivery": _PURGED,
    "quarantine": _KEPT,
    "lane": _KEPT,
    "event": _KEPT,
    "conversation": _KEPT,
    "message": _KEPT,
    "comment": _KEPT,
    "reaction": _KEPT,
    "label": _KEPT,
    "person_label": _REPLACED,
    "decision": _REPLACED,
    "fired_rule": _ADDED,
    "mark": _KEPT,
    "outbox": _KEPT,
    "attempt": _PURGED,
    "rule": _KEPT,
    "rule_page": _REPLACED,
    "rule_version": _ADDED,
    "rule_book": _KEPT,
    "sync_run": _PURGED,
    "mirror": _KEPT,
    "unreadable_thread": _PURGED,
    "reception": _PURGED,
    "audit": _ADDED,
    "alembic_version": "select",
}
"""By table; a table that is not here is out of the login's reach. Locking a row takes `update`."""

SEQUENCES = ("event_number", "reply_number")


def granting(role: str) -> Iterator[sql.Composed]:
    """The statements by which the owner gives a login these rights, and takes any other away."""
    login = sql.Identifier(role)
    yield sql.SQL("revoke create on schema public from public").format()
    yield sql.SQL("grant usage on schema public to {}").format(login)
    yield sql.SQL("revoke all on all tables in schema public from {}").format(login)
    for table, rights in TABLES.items():
        yield sql.SQL("grant {} on {} to {}").format(sql.SQL(rights), sql.Identifier(table), login)
    for sequence in SEQUENCES:
        yield sql.SQL("grant usage on sequence {} to {}").format(sql.Identifier(sequence), login)
