"""Bringing the database to the schema of this release: Alembic's revisions, one store at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.logs import get_logger
from pagewire_store.grants import granting

log = get_logger(__name__)

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
    Raises SQLAlchemy's OperationalError where the server can't be reached or a lock can't be had,
    OwnerNeeded where the login of `url` must not change the schema; a revision that fails leaves
    the database as it was.
    """
    guard = _engine(url, _WAIT_FOR_TURN)
    worker = _engine(url, _LOCK_TIMEOUT)
    with _our_turn(guard) as looking, worker.connect() as connection:
        config = alembic_config(connection)
        if unknown := _unknown_revisions(looking, config):
            log.warning("the database is newer than this release", revisions=sorted(unknown))
        else:
            _upgrade(config)
            if works_as is not None:
                _grant(connection, works_as)


def _upgrade(config: Config) -> None:
    try:
        command.upgrade(config, "head")
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise OwnerNeeded from None
        raise


def _grant(connection: Connection, login: str) -> None:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101  # for the type checker
    with raw.transaction():
        for statement in granting(login):
            raw.execute(statement)


def alembic_config(connection: Connection) -> Config:
    """How Alembic finds the revisions of this package, and the connection that `env.py` takes."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "pagewire_store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _unknown_revisions(connection: Connection, config: Config) -> set[str]:
    """The revisions that the database has and this package has not."""
    there = MigrationContext.configure(connection).get_current_heads()
    ours = ScriptDirectory.from_config(config).walk_revisions()
    return set(there) - {script.revision for script in ours}


@contextmanager
def _our_turn(guard: Engine) -> Iterator[Connection]:
    # A session's lock on a connection of its own: a revision may commit in between, to build an
    # index concurrently, and a process that dies frees it.
    with guard.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        yield connection


def _engine(url: str, lock_timeout: str) -> Engine:
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        poolclass=NullPool,  # closing the connection is what frees the session's lock
        connect_args={
            "options": f"-c search_path=public -c lock_timeout={lock_timeout} -c timezone=UTC",
            "connect_timeout": 2,
            "application_name": "pagewire-migrating",
        },
    )
