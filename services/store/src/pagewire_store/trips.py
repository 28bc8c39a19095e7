"""Statements that travel together: sent as one, answered as one, whatever their number.

psycopg's own pipeline sends each statement as it comes, and waits for the socket each time; for the
few rows of most batches that takes longer than the statements themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

_names = count(1)
_prepared: WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]] = WeakKeyDictionary()
"""What each connection's server knows by name."""

_FAILURES = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)


class Statement:
    """A text that every connection prepares when it first says it."""

    def __init__(self, sql: str, types: Sequence[int] = ()) -> None:
        """`types` are the object ids of what stands for `$1`, `$2`, … in `sql`."""
        self.name = b"trip_%d" % next(_names)
        self.sql = sql.encode()
        self.types = tuple(types)

    def said(self, *values: bytes) -> Said:
        """The statement with its values, in PostgreSQL's binary form, to go along on a trip."""
        return Said(self, values)


class Said(NamedTuple):
    """A statement and its values."""

    statement: Statement
    values: Sequence[bytes]


class Answer(NamedTuple):
    """What the server said to a statement."""

    rows: list[tuple[Any, ...]]
    status: str
    """As `COMMIT` or `INSERT 0 1`."""


BEGIN = Statement("begin").said()
COMMIT = Statement("commit").said()
ROLLBACK = Statement("rollback").said()


async def trip(connection: psycopg.AsyncConnection[Any], *said: Said) -> list[Answer]:
    """The answers to `said`, in order; where one fails, those behind it are not executed.

    What is said outside of a transaction is one of its own. `BEGIN` and `COMMIT` are statements
    like others. Raises the first failure, as psycopg would.
    """
    known = _prepared.setdefault(connection, set())
    async with connection.lock:
        results = await connection.wait(_exchanged(connection, said, known))
    return _answers(connection, results)


def _exchanged(
    connection: psycopg.AsyncConnection[Any], said: Sequence[Said], known: set[bytes]
) -> Any:
    """Sends all of it and returns a result each; the connection is out of its pipeline again."""
    pgconn = connection.pgconn
    new = {statement.name: statement for statement, _ in said if statement.name not in known}
    pgconn.enter_pipeline_mode()
    for statement in new.values():
        pgconn.send_prepare(statement.name, statement.sql, statement.types)
    for statement, values in said:
        pgconn.send_query_prepared(statement.name, values, [Format.BINARY] * len(values))
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    results: list[PGresult] = []
    while not results or results[-1].status != ExecStatus.PIPELINE_SYNC:
        results += yield from generators.fetch_many(pgconn)
    pgconn.exit_pipeline_mode()
    for name, result in zip(new, results, strict=False):
        if result.status == ExecStatus.COMMAND_OK:
            known.add(name)
    failed = [result for result in results if result.status in _FAILURES]
    if failed:
        raise psycopg.errors.error_from_result(failed[0], connection.info.encoding)
    return results[len(new) : -1]


def _answers(connection: psycopg.AsyncConnection[Any], results: Sequence[PGresult]) -> list[Answer]:
    reader = Transformer(connection)
    answers = []
    for result in results:
        rows: list[tuple[Any, ...]] = []
        if result.ntuples:
            reader.set_pgresult(result)
            rows = reader.load_rows(0, result.ntuples, tuple)
        answers.append(Answer(rows, (result.command_status or b"").decode()))
    return answers
