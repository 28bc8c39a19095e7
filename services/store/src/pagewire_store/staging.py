"""Rows by COPY into a temporary table, where there are very many.

Each connection keeps a table of each sort, which is empty again after every transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from pagewire_store.columns import Column
from pagewire_store.connections import Driver

_BEGINNING = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"

_made: WeakKeyDictionary[psycopg.AsyncConnection[Any], set[str]] = WeakKeyDictionary()
"""The tables that each connection has."""


async def make(connection: Driver, table: str, columns: Mapping[str, Column]) -> None:
    """Makes the table, outside of a transaction, where the connection does not have it."""
    made = _made.setdefault(connection, set())
    if table in made:
        return
    described = ", ".join(f"{name} {column.element}" for name, column in columns.items())
    await connection.execute(
        f"create temporary table if not exists {table} ({described}) on commit delete rows".encode()
    )
    await connection.commit()
    made.add(table)


async def fill(
    connection: Driver, table: str, columns: Mapping[str, Column], values: Sequence[Sequence[Any]]
) -> None:
    """Puts rows into the table, within the transaction under way; `values` a column each."""
    async with connection.cursor() as cursor:
        said = f"copy {table} ({', '.join(columns)}) from stdin (format binary)".encode()
        async with cursor.copy(said) as copy:
            await copy.write(body(tuple(columns.values()), values))


def body(columns: Sequence[Column], values: Sequence[Sequence[Any]]) -> bytes:
    """The rows as COPY takes them; a column's values are packed as for an array."""
    pieces: list[Any] = [repeat(len(columns).to_bytes(2), len(values[0]))]
    for column, column_values in zip(columns, values, strict=True):
        elements = list(column.elements(column_values))
        pieces += [elements[at :: column.pieces] for at in range(column.pieces)]
    return b"".join((_BEGINNING, *chain.from_iterable(zip(*pieces, strict=True)), _END))
