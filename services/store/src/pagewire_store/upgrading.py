"""Upgrading: Alembic runs the revisions that a database lacks."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from pagewire_runtime.logs import get_logger
from pagewire_store.migrating import OwnerNeeded, connecting

log = get_logger(__name__)


def upgraded(url: str) -> bool:
    """Upgrades to this release's newest revision; False where a newer release has been there.

    Raises OwnerNeeded, and psycopg's OperationalError.
    """
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        connect_args=connecting(),
    )
    with engine.connect() as connection:
        config = alembic_config(connection)
        if unknown := _unknown_revisions(connection, config):
            log.warning("the database is newer than this release", revisions=sorted(unknown))
            return False
        # Alembic joins a transaction that is open, and never commits it.
        connection.rollback()
        _upgrade(config)
        return True


def alembic_config(connection: Connection) -> Config:
    """How Alembic finds the revisions of this package, and the connection that `env.py` takes."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "pagewire_store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(config: Config) -> None:
    try:
        command.upgrade(config, "head")
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise OwnerNeeded from None
        raise
    except OperationalError as error:
        if error.orig is None:
            raise
        raise error.orig from error


def _unknown_revisions(connection: Connection, config: Config) -> set[str]:
    """The revisions that the database has and this package has not."""
    there = MigrationContext.configure(connection).get_current_heads()
    ours = ScriptDirectory.from_config(config).walk_revisions()
    return set(there) - {script.revision for script in ours}
