from pathlib import Path

import psycopg
import pytest

from tests.support import servers
from tests.support.servers import PostgresServer, server_folder

postgres_server = servers.postgres_server
migrated_template = servers.migrated_template
database_url = servers.database_url


def tables(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT LIKE 'pg\\_%'"
            " AND schemaname <> 'information_schema'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_database_is_a_copy_of_its_template_and_gone_after_use(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as template:
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("CREATE TABLE one (value int)")

        with (
            postgres_server.database(template=template) as first,
            postgres_server.database(template=template) as second,
        ):
            with psycopg.connect(first, autocommit=True) as connection:
                connection.execute("DROP TABLE one")

            assert tables(first) == 0
            assert tables(second) == 1

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        tables(first)


def test_a_database_goes_also_when_a_test_left_a_connection_open(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        left_open = psycopg.connect(url)

    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    left_open.close()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_the_stores_schema_to_itself(database_url: str, turn: int) -> None:
    before = tables(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE made_by_this_test (turn int)")

    after = tables(database_url)

    assert before > 5
    assert after == before + 1


def test_a_servers_folder_is_removed_with_all_it_has() -> None:
    with server_folder() as folder:
        (folder / "postgres").mkdir()

    assert not Path(folder).exists()
