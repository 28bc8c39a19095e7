import json
import logging
import traceback
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pagewire_runtime import logs
from pagewire_runtime.tracebacks import formatted, told, without_rows
from tests.support.servers import database_url, migrated_template, postgres_server

from .conftest import Lines

__all__ = ["database_url", "migrated_template", "postgres_server"]

CANARY = "canary of a person\nDETAIL: [SQL: and more of the canary"

FAILING = {
    "unique": "insert into keyed values (%(v)s), (%(v)s)",
    "not_null": "insert into noted values (null, %s)",
    "check": "insert into noted values (-1, %s)",
    "cast": "select cast(%s::text as int)",
    "foreign": "insert into naming values (%s)",
}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "create table noted (id int primary key check (id > 0), words text)"
        )
        await connection.execute("create table keyed (words text primary key)")
        await connection.execute("create table naming (words text references keyed)")
        yield connection


async def failed(database: psycopg.AsyncConnection, statement: str) -> psycopg.Error:
    values = {"v": CANARY} if "%(v)s" in statement else [CANARY]
    with pytest.raises(psycopg.Error) as caught:
        await database.execute(statement, values)
    return caught.value


async def through_sqlalchemy(database_url: str) -> SQLAlchemyError:
    """The same error in SQLAlchemy's wrapper, which does not hide the parameters here."""
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+psycopg:", 1))

    async def twice(connection: AsyncConnection) -> None:
        values = [{"v": CANARY}, {"v": CANARY}]
        await connection.execute(text("insert into keyed values (:v)"), values)

    try:
        with pytest.raises(SQLAlchemyError) as caught:
            async with engine.begin() as connection:
                await twice(connection)
    finally:
        await engine.dispose()
    return caught.value


def chained(error: Exception) -> Exception:
    """A cause and a context, as a service makes them of a database's error."""
    try:
        try:
            raise LookupError("not there") from error
        except LookupError:
            raise ValueError("while it was handled")  # noqa: B904  # the context is meant
    except ValueError as both:
        return both


def logged(error: Exception, lines: Lines) -> str:
    """All that is logged of the error, by every way into the log."""
    log = logs.get_logger("x")
    log.error("by value", exc_info=error)
    log.error("by repr", error=error, held=[error])
    log.error(str(error), said=str(error), repeated=repr(error))
    logging.getLogger("x").error("by the library", exc_info=error)
    logging.getLogger("x").error("in its text: %s", error)
    return json.dumps(lines())


@pytest.mark.parametrize("statement", FAILING.values(), ids=list(FAILING))
async def test_no_way_into_the_log_shows_the_row_of_a_real_error(
    database: psycopg.AsyncConnection, lines: Lines, statement: str
) -> None:
    error = await failed(database, statement)
    assert "canary" in str(error)

    written = logged(error, lines)

    assert type(error).__name__ in written
    assert "canary" not in written


async def test_nor_does_one_that_is_chained_grouped_or_wrapped(
    database: psycopg.AsyncConnection, database_url: str, lines: Lines
) -> None:
    error = await failed(database, FAILING["unique"])
    wrapped = await through_sqlalchemy(database_url)
    noted = ValueError("noted")
    noted.add_note(str(error))

    for each in (chained(error), wrapped, chained(wrapped), ExceptionGroup("two", [error, noted])):
        written = logged(each, lines)

        assert "canary" not in written
        assert "keyed_pkey" in written


async def test_what_helps_to_mend_it_stays(
    database: psycopg.AsyncConnection, database_url: str
) -> None:
    error = await failed(database, FAILING["unique"])
    wrapped = await through_sqlalchemy(database_url)

    assert told(error) == 'duplicate key value violates unique constraint "keyed_pkey"'
    assert told(wrapped).startswith(f"(psycopg.errors.UniqueViolation) {told(error)}")
    assert "insert into keyed values (" in told(wrapped)
    assert "in twice" in formatted(wrapped)


async def test_the_value_that_could_not_be_read_is_left_out_of_the_first_line(
    database: psycopg.AsyncConnection,
) -> None:
    error = await failed(database, FAILING["cast"])

    assert told(error) == "invalid input syntax for type integer: [left out]"


async def test_a_value_within_the_first_line_is_left_out_too(
    database: psycopg.AsyncConnection,
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        await database.execute("select cast(%s::text as int)", ["9876543210"])

    assert "9876543210" in str(caught.value)
    assert told(caught.value) == 'value "…" is out of range for type integer'


def test_any_other_error_is_printed_as_python_prints_it() -> None:
    error = chained(LookupError("first"))

    assert formatted(error) == "".join(traceback.format_exception(error)).rstrip("\n")


def test_errors_that_led_to_each_other_are_told_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first

    assert formatted(first).count("ValueError") == 2


def test_an_error_that_can_not_be_told_is_still_named() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert formatted(Broken()).endswith("Broken: [it can't be told]")


@pytest.mark.parametrize(
    "quoted",
    [
        "DETAIL:  Key (page_id, mid)=(1, m_1) already exists.",
        "Key (page_id, mid)=(1, m_1) already exists.",
        "Failing row contains (1, m_1, hello).",
        "CONTEXT:  COPY message, line 1, column text: hello m_1",
        "[parameters: {'mid': 'm_1'}]",
    ],
)
def test_a_text_ends_where_a_row_begins(quoted: str) -> None:
    assert without_rows(f"it failed: {quoted}") == "it failed: [left out]"
