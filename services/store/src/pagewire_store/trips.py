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
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from pagewire_runtime import faults

_names = count(1)
_prepared: WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]] = WeakKeyDictionary()
"""What each connection's server knows by name."""

_FAILURES = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)


class Statement:
    """A text that every connection prepares when it first says it."""

    def __init__(
        self, sql: str, types: Sequence[int] = (), *, answer: Format = Format.TEXT
    ) -> None:
        """`types` are the object ids of what stands for `$1`, `$2`, … in `sql`; `answer` is how its
        rows travel: as text, which for few and small values takes less, or as binary."""
        self.answer = answer
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
    like others. Raises the first failure, as psycopg would; InvalidSqlStatementName where the
    server has forgotten a statement (psycopg has it forget all when it rolls back), which is then
    prepared anew by the next trip.
    """
    if faults.on and said[-1] is COMMIT:
        await faults.step("before_commit")
    known = _prepared.setdefault(connection, set())
    async with connection.lock:
        try:
            results = await connection.wait(_exchanged(connection.pgconn, said, known))
        except BaseException:
            known.clear()
            raise
    _check(connection, known, results)
    if faults.on:
        await _told(connection, said)
    return _answers(connection, results[-1 - len(said) : -1])


async def _told(connection: psycopg.AsyncConnection[Any], said: Sequence[Said]) -> None:
    """Tells fault points what became of a transaction by a trip."""
    idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
    if idle and COMMIT in said:
        await faults.step("after_commit")
    elif not idle and BEGIN in said:
        await faults.step("begun")


async def within(connection: psycopg.AsyncConnection[Any], *said: Said) -> list[Answer]:
    """A trip within the transaction that is under way, or else one that it begins."""
    if not said:
        return []
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return await trip(connection, *said)
    return (await trip(connection, BEGIN, *said))[1:]


async def ended(connection: psycopg.AsyncConnection[Any], *said: Said) -> list[Answer]:
    """The last trip of a transaction: what is still to be said, and its commit.

    Raises RolledBack where the server undid it all: it ends a failed transaction without an error.
    """
    answers = await within(connection, *said, COMMIT)
    if answers[-1].status != "COMMIT":
        raise RolledBack
    return answers[:-1]


class RolledBack(RuntimeError):
    """A transaction that was to be committed had failed before."""

    def __init__(self) -> None:
        super().__init__("the transaction was rolled back; nothing of it is stored")


def _exchanged(pgconn: PGconn, said: Sequence[Said], known: set[bytes]) -> PQGen[list[PGresult]]:
    """Sends all of it; the results, of which the last is the end of the pipeline."""
    new = {statement.name: statement for statement, _ in said if statement.name not in known}
    pgconn.enter_pipeline_mode()
    for name, statement in new.items():
        pgconn.send_close_prepared(name)  # it may be there, and is no error where it is not
        pgconn.send_prepare(name, statement.sql, statement.types)
    for statement, values in said:
        if faults.on:
            pgconn.flush()  # so that those before it are with the server if one strikes here
            faults.stating()
        formats = [Format.BINARY] * len(values)
        pgconn.send_query_prepared(statement.name, values, formats, statement.answer)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    if faults.on and said[-1] is COMMIT:
        faults.stepped("commit_sent")
    results: list[PGresult] = []
    while not results or results[-1].status != ExecStatus.PIPELINE_SYNC:
        results += yield from generators.fetch_many(pgconn)
    pgconn.exit_pipeline_mode()
    known.update(new)
    return results


def _check(
    connection: psycopg.AsyncConnection[Any], known: set[bytes], results: Sequence[PGresult]
) -> None:
    for result in results:
        if result.status in _FAILURES:
            known.clear()
            raise psycopg.errors.error_from_result(result, connection.info.encoding)


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
