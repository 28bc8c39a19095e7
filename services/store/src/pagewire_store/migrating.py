"""Bringing the database to the schema of this release, one store at a time.

Nearly every start finds it there already. The driver is asked whether it does: Alembic takes a
tenth of a second to load, and a store that died should be back soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import UndefinedTable

from pagewire_runtime.errors import SettingsError
from pagewire_store.connections import LINK
from pagewire_store.grants import granting

NEWEST = "0002"
"""The revision that this release needs, the last of `migrations`."""

# Whoever else starts meanwhile waits for this lock, then finds nothing left to do.
_LOCK_KEY = int.from_bytes(b"pagewire")

# Longer than our migrations take; after it the caller may try again.
_WAIT_FOR_TURN = "10s"

# A running release keeps its rows locked for milliseconds; a statement that waits longer for one
# would hold up every query that queues behind it, so it fails and the start is tried again.
_LOCK_TIMEOUT = "5s"


class OwnerNeeded(SettingsError):
    """The schema is of an earlier release, and this login may not change it."""

    def __init__(self) -> None:
        super().__init__(
            "DATABASE_OWNER_URL: set it, the schema has to be brought up to this release"
        )


def migrate(url: str, works_as: str | None = None) -> None:
    """Upgrades the database to the newest revision; changes nothing where it is there already.

    One that a newer release has upgraded stays as it is: a release bears the next one's schema.
    `url` is a `postgresql://` URL as libpq reads it, `works_as` another login than its own, which
    gets the rights that the store needs. Safe to call from many processes at once.
    Raises psycopg's OperationalError where the server can't be reached or a lock can't be had,
    OwnerNeeded where the login of `url` must not change the schema; a revision that fails leaves
    the database as it was.
    """
    with _our_turn(url) as guard:
        is_ours = _revisions(guard) == {NEWEST} or _upgraded(url)
        if is_ours and works_as is not None:
            _grant(url, works_as)


def connecting(lock_timeout: str = _LOCK_TIMEOUT) -> dict[str, Any]:
    """How a connection is made that is used here."""
    return {
        **LINK,
        "options": f"-c search_path=public -c lock_timeout={lock_timeout} -c timezone=UTC",
        "application_name": "pagewire-migrating",
    }


def _upgraded(url: str) -> bool:
    from pagewire_store import upgrading  # it loads Alembic

    return upgrading.upgraded(url)


def _revisions(connection: psycopg.Connection) -> set[str]:
    """What Alembic wrote down that it had reached."""
    try:
        found = connection.execute("select version_num from alembic_version").fetchall()
    except UndefinedTable:
        return set()
    return {revision for (revision,) in found}


def _grant(url: str, login: str) -> None:
    with psycopg.connect(url, **connecting()) as connection:
        connection.execute(sql.SQL(";").join(granting(login)))


@contextmanager
def _our_turn(url: str) -> Iterator[psycopg.Connection]:
    # A session's lock on a connection of its own: a revision may commit in between, to build an
    # index concurrently, and a process that dies frees it.
    with psycopg.connect(url, autocommit=True, **connecting(_WAIT_FOR_TURN)) as connection:
        connection.execute("select pg_advisory_lock(%s)", (_LOCK_KEY,))
        yield connection
