import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import OperationalError
from sqlalchemy import create_engine

from pagewire_store import migrating
from pagewire_store.migrating import NEWEST, migrate
from pagewire_store.upgrading import alembic_config
from tests.support.servers import PostgresServer, database_url, migrated_template, postgres_server

__all__ = ["database_url", "migrated_template", "postgres_server"]


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


def tables(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select table_name from information_schema.tables where table_schema = 'public'"
        )
        return sorted(row[0] for row in found)


def test_an_empty_database_gets_the_schema(empty_url: str) -> None:
    migrate(empty_url)

    assert {"alembic_version", "page", "event", "outbox", "rule_book"} <= set(tables(empty_url))
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select version_num from alembic_version").fetchone()


def test_a_migrated_database_stays_as_it_is(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute("update rule_book set version = 7 where page_id = '#'")

    migrate(empty_url)

    with psycopg.connect(empty_url) as connection:
        kept = connection.execute("select version from rule_book where page_id = '#'").fetchone()
    assert kept == (7,)


def test_stores_that_start_at_once_migrate_once(empty_url: str) -> None:
    failures: list[Exception] = []

    def start() -> None:
        try:
            migrate(empty_url)
        except Exception as error:
            failures.append(error)

    starting = [threading.Thread(target=start) for _ in range(5)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()

    assert failures == []
    assert "page" in tables(empty_url)


def test_a_store_whose_turn_does_not_come_says_so(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_WAIT_FOR_TURN", "50ms")

    with psycopg.connect(empty_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (migrating._LOCK_KEY,))
        with pytest.raises(OperationalError, match="lock timeout"):
            migrate(empty_url)

    migrate(empty_url)
    assert "page" in tables(empty_url)


def test_the_schema_is_public_whatever_the_role_prefers(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("create schema elsewhere")
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" set search_path = elsewhere'.encode())

    migrate(empty_url)

    assert "page" in tables(empty_url)


def test_every_revision_can_be_taken_back(empty_url: str) -> None:
    migrate(empty_url)
    engine = create_engine(empty_url.replace("postgresql://", "postgresql+psycopg://"))

    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
    engine.dispose()

    assert tables(empty_url) == ["alembic_version"]
    migrate(empty_url)
    assert "page" in tables(empty_url)


def test_a_database_of_a_newer_release_stays_as_it_is(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute("update alembic_version set version_num = '9999'")

    migrate(empty_url)

    with psycopg.connect(empty_url) as connection:
        kept = connection.execute("select version_num from alembic_version").fetchone()
    assert kept == ("9999",)


def test_a_server_that_is_not_there_is_an_operational_error() -> None:
    with pytest.raises(OperationalError):
        migrate("postgresql://nobody@/none?host=/nonexistent")


def test_the_revision_that_a_start_looks_for_is_the_last_of_the_package(empty_url: str) -> None:
    engine = create_engine(empty_url.replace("postgresql://", "postgresql+psycopg://"))

    with engine.connect() as connection:
        heads = ScriptDirectory.from_config(alembic_config(connection)).get_heads()
    engine.dispose()

    assert heads == [NEWEST]


def test_a_start_on_the_schema_of_its_release_loads_no_alembic(empty_url: str) -> None:
    migrate(empty_url)
    start = (
        "import sys; from pagewire_store.migrating import migrate; import pagewire_store.main;"
        " migrate(sys.argv[1]); print(sorted({'alembic', 'redis'} & sys.modules.keys()))"
    )

    said = subprocess.run(
        [sys.executable, "-c", start, empty_url], capture_output=True, text=True, check=True
    )

    assert said.stdout == "[]\n"
