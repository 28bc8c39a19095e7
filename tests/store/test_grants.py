"""What the store's login may do with the database, and what it may not."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

import pagewire_store
from pagewire_store.grants import SEQUENCES, TABLES
from pagewire_store.migrating import OwnerNeeded, migrate
from tests.support.logins import Logins, logins, migrated, run, two_logins, user
from tests.support.servers import PostgresServer, postgres_server

__all__ = ["logins", "migrated", "postgres_server"]

FORBIDDEN = [
    "create table mine (a int)",
    "create function mine() returns int language sql as 'select 1'",
    "alter table page add column mine int",
    "drop table audit",
    "truncate event",
    "update audit set actor = 'nobody'",
    "delete from audit",
    "delete from message",
    "delete from event",
    "delete from page",
    "update fired_rule set rule_version = 0",
    "update decision set reason = 'fired'",
    "update rule_version set actor = 'nobody'",
    "update alembic_version set version_num = '0'",
    "select setval('event_number', 1)",
    "create role mine",
    "alter role current_user superuser",
    "copy page to program 'true'",
]


@pytest.fixture(scope="module")
def standing(postgres_server: PostgresServer) -> Iterator[Logins]:
    """For who changes nothing."""
    with two_logins(postgres_server) as (owner, store):
        migrate(owner, user(store))
        yield owner, store


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_stores_login_is_refused(standing: Logins, statement: str) -> None:
    _, store = standing

    with psycopg.connect(store) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_stores_login_adds_to_the_audit_and_reads_it(migrated: Logins) -> None:
    _, store = migrated

    with psycopg.connect(store) as connection:
        connection.execute(
            "insert into audit (role, actor, action, subject) values ('operator', 'a', 'b', 'c')"
        )
        found = connection.execute("select action from audit").fetchall()

    assert found == [("b",)]


def test_neither_login_is_a_superuser_or_makes_roles(standing: Logins) -> None:
    for url in standing:
        with psycopg.connect(url) as connection:
            rights = connection.execute(
                "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication"
                " from pg_roles where rolname = current_user"
            ).fetchone()
        assert rights == (False,) * 5


def test_what_is_granted_is_what_the_table_says_and_no_more(standing: Logins) -> None:
    _, store = standing
    with psycopg.connect(store) as connection:
        rows = connection.execute(
            "select table_name, lower(privilege_type) from information_schema.table_privileges"
            " where grantee = current_user and table_schema = 'public'"
        ).fetchall()

    granted = {(table, right) for table, right in rows}
    assert granted == {
        (table, right) for table, rights in TABLES.items() for right in rights.split(", ")
    }


def test_every_table_and_sequence_of_the_schema_is_named(standing: Logins) -> None:
    owner, _ = standing
    with psycopg.connect(owner) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'")
        assert {name for (name,) in tables} == set(TABLES)
        drawn = connection.execute(
            "select relname from pg_class where relkind = 'S' and not exists ("
            " select from pg_depend where objid = pg_class.oid and deptype in ('a', 'i'))"
        )
        assert {name for (name,) in drawn} == set(SEQUENCES)


VERBS = {
    "insert": r"\binsert\s+into\s+{0}\b",
    "delete": r"\bdelete\s+from\s+{0}\b",
}


def statements() -> str:
    """The store's sources, but for what its owner does."""
    folder = Path(pagewire_store.__file__).parent
    return "\n".join(file.read_text() for file in sorted(folder.glob("*.py")))


@pytest.mark.parametrize("table", sorted(set(TABLES) - {"alembic_version"}))
def test_a_login_may_add_and_delete_where_a_statement_does_and_nowhere_else(table: str) -> None:
    said = statements()
    for verb in ("insert", "delete"):
        found = re.search(VERBS[verb].format(table), said, re.IGNORECASE) is not None
        assert found is (verb in TABLES[table].split(", ")), verb


@pytest.mark.parametrize(
    "table", sorted(table for table, rights in TABLES.items() if "update" not in rights)
)
def test_what_can_only_be_added_to_is_changed_by_no_statement(table: str) -> None:
    said = statements()
    own = rf'\binsert\s+into\s+{table}\b(?:(?!insert\s+into|""").)*?\bdo\s+update\b'

    assert not re.search(rf"\bupdate\s+{table}\b", said, re.IGNORECASE)
    assert not re.search(own, said, re.IGNORECASE | re.DOTALL)


def test_a_release_that_has_nothing_to_migrate_starts_without_the_owner(migrated: Logins) -> None:
    _, store = migrated

    migrate(store)


def test_a_schema_of_an_earlier_release_wants_the_owner(logins: Logins) -> None:
    _, store = logins

    with pytest.raises(OwnerNeeded, match="DATABASE_OWNER_URL"):
        migrate(store)


def test_a_right_that_is_granted_no_more_is_taken_away(migrated: Logins) -> None:
    owner, store = migrated
    run(owner, "grant delete on audit to {0}", user(store))

    migrate(owner, user(store))

    with psycopg.connect(store) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("delete from audit")


def test_a_schema_that_somebody_put_before_ours_is_not_looked_into(migrated: Logins) -> None:
    owner, store = migrated
    run(owner, "create schema {0}; create table {0}.page (a int)", user(store))
    run(owner, "grant all on schema {0} to {0}; grant all on {0}.page to {0}", user(store))

    migrate(owner, user(store))  # would find another alembic_version, or make one there

    with psycopg.connect(owner) as connection:
        found = connection.execute(
            "select schemaname from pg_tables where tablename = 'alembic_version'"
        ).fetchall()
    assert found == [("public",)]
