"""Real PostgreSQL and Valkey for tests: the servers given, or else private ones from the wheels.

A test module that needs them imports the fixtures by their names. Each xdist worker has servers
of its own: a start costs less than the lock and the bookkeeping by which workers could share one.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from pagewire_cli.embedded import discard, embedded_postgres, embedded_valkey

# Read before the fixture that clears the environment of each test.
GIVEN_DATABASE_URL = os.environ.get("DATABASE_URL")
GIVEN_REDIS_URL = os.environ.get("REDIS_URL")

# What a test run may forget when the machine loses power; nothing but unit tests runs with it.
FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """A server on which a test run makes databases, all named by the run's own prefix."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"pagewire_test_{secrets.token_hex(6)}"
        self._made = 0

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a new database, a copy of the one that `template` is the URL of."""
        self._made += 1
        name = f"{self._prefix}_{self._made}"
        source = urlsplit(template).path.lstrip("/") if template else "template0"
        self._do("CREATE DATABASE {} TEMPLATE {}", name, source)
        try:
            yield urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))
        finally:
            self._do("DROP DATABASE {} WITH (FORCE)", name)

    def _do(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def server_folder() -> Iterator[Path]:
    """A throw-away folder which, unlike pytest's own, the servers' user can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="pagewire-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for base in folder.iterdir():
            discard(base)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of DATABASE_URL, or a private one."""
    if GIVEN_DATABASE_URL:
        yield PostgresServer(GIVEN_DATABASE_URL)
        return
    with server_folder() as folder, embedded_postgres(folder / "postgres", **FORGETFUL) as url:
        yield PostgresServer(url)


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database with the store's schema, for copying; connect to none but copies."""
    from pagewire_store import migrating  # only who asks for a schema needs the store

    with postgres_server.database() as url:
        migrating.migrate(url)
        yield url


@pytest.fixture
def database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for one test."""
    with postgres_server.database(template=migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for the tests of one module, which may see each other's rows."""
    with postgres_server.database(template=migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The server of REDIS_URL, or a private one; keys in it may be another test's."""
    if GIVEN_REDIS_URL:
        yield GIVEN_REDIS_URL
        return
    with server_folder() as folder, embedded_valkey(folder / "valkey") as url:
        yield url
