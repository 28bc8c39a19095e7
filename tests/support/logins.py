"""Two logins of one database, as in production: its owner, and the store's, which owns nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from pagewire_store.migrating import migrate
from tests.support.servers import PostgresServer

Logins = tuple[str, str]


@contextmanager
def two_logins(server: PostgresServer) -> Iterator[Logins]:
    """URLs of the owner and of the store's login, on an empty database of the owner's."""
    with server.database() as url:
        name = urlsplit(url).path.lstrip("/")
        owner, store = f"{name}_owner", f"{name}_store"
        run(url, "create role {0} login; create role {1} login", owner, store)
        run(url, "alter database {0} owner to {1}", name, owner)
        try:
            yield login(url, owner), login(url, store)
        finally:
            run(url, "drop owned by {0}; drop owned by {1}", owner, store)
            run(url, "alter database {0} owner to current_user", name)
            run(url, "drop role {0}; drop role {1}", owner, store)


def run(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def login(url: str, user: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}"))


def user(url: str) -> str:
    return urlsplit(url).username or ""


@pytest.fixture
def logins(postgres_server: PostgresServer) -> Iterator[Logins]:
    with two_logins(postgres_server) as made:
        yield made


@pytest.fixture
def migrated(logins: Logins) -> Logins:
    owner, store = logins
    migrate(owner, user(store))
    return logins
