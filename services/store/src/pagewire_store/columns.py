"""Rows that travel to PostgreSQL as columns: one binary array each, unnested by one statement.

psycopg can send lists itself, but picks an array's type by what is in it, so that an empty list, or
one of small numbers, makes another statement to prepare; and it takes three times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = struct.Struct("!iIIii")  # dimensions, whether nulls occur, element type, length, first
_NULL = b"\xff\xff\xff\xff"
_UUID_LENGTH = b"\0\0\0\x10"
_INT2 = struct.Struct("!ih")
_INT4 = struct.Struct("!ii")
_INT8 = struct.Struct("!iq")
_REPLACEMENT = "\ufffd".encode()
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
_EPOCH = 946_684_800_000_000
"""2000-01-01, where PostgreSQL counts from, in microseconds of Unix time."""


class Column:
    """The values of one column; None is null."""

    element = ""
    element_oid = 0
    array_oid = 0

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values

    @staticmethod
    def packed(value: Any) -> bytes:
        raise NotImplementedError


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        pack = obj.packed
        elements = [_NULL if value is None else pack(value) for value in obj.values]
        header = _HEADER.pack(1, 1, obj.element_oid, len(elements), 1)
        return header + b"".join(elements)


def _kind(
    element: str, element_oid: int, array_oid: int, packed: Callable[[Any], bytes]
) -> type[Column]:
    members = {
        "element": element,
        "element_oid": element_oid,
        "array_oid": array_oid,
        "packed": staticmethod(packed),
    }
    column = type(f"{element.capitalize()}s", (Column,), members)
    dumper = type(f"{element.capitalize()}sDumper", (_ColumnDumper,), {"oid": array_oid})
    psycopg.adapters.register_dumper(column, dumper)
    return column


def _text(value: str) -> bytes:
    data = value.encode()
    if b"\0" in data:
        data = data.replace(b"\0", _REPLACEMENT)
    return len(data).to_bytes(4) + data


TEXT = _kind("text", 25, 1009, _text)
"""Texts; NUL, which PostgreSQL's cannot hold, becomes U+FFFD."""
BYTES = _kind("bytea", 17, 1001, lambda value: len(value).to_bytes(4) + value)
SMALLINT = _kind("int2", 21, 1005, partial(_INT2.pack, 2))
INT = _kind("int4", 23, 1007, partial(_INT4.pack, 4))
BIGINT = _kind("int8", 20, 1016, partial(_INT8.pack, 8))
BOOL = _kind("bool", 16, 1000, lambda value: _TRUE if value else _FALSE)
TIME = _kind("timestamptz", 1184, 1185, lambda value: _INT8.pack(8, value - _EPOCH))
"""Microseconds of Unix time."""
UUIDS = _kind(
    "uuid", 2950, 2951, lambda value: _UUID_LENGTH + bytes.fromhex(value.replace("-", ""))
)
"""UUIDs as texts, hexadecimal with dashes."""


class Bulk:
    """A statement over rows: `{rows}` in its text is them, as `n`, with their position as `n.ord`.

    The columns are named by keyword, in the order of a row's values.
    """

    def __init__(self, sql: str, **columns: type[Column]) -> None:
        arrays = ", ".join(f"%b::{column.element}[]" for column in columns.values())
        unnested = f"unnest({arrays}) with ordinality as n ({', '.join(columns)}, ord)"
        self._sql = sql.replace("{rows}", unnested).encode()
        self._columns = tuple(columns.values())

    async def run(
        self,
        connection: psycopg.AsyncConnection[Any],
        rows: Sequence[Sequence[Any]],
        *parameters: Any,
    ) -> psycopg.AsyncCursor[Any]:
        """Executes it for at least one row; `parameters` stand behind the rows in its text."""
        arrays = [
            column(values)
            for column, values in zip(self._columns, zip(*rows, strict=True), strict=True)
        ]
        return await connection.execute(self._sql, [*arrays, *parameters])
