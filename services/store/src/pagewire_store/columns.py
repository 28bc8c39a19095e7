"""Rows that travel to PostgreSQL as columns: one binary array each, unnested by one statement.

psycopg can send lists itself, but picks an array's type by what is in it, so that an empty list, or
one of small numbers, makes another statement to prepare; and it takes three times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, overload

from pagewire_store.trips import Said, Statement

_HEADER = struct.Struct("!iIIii")  # dimensions, whether nulls occur, element type, length, first
_NULL = b"\xff\xff\xff\xff"
_UUID_LENGTH = b"\0\0\0\x10"
_REPLACEMENT = "\ufffd".encode()
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
_LENGTHS = tuple(length.to_bytes(4) for length in range(512))
"""The lengths of most texts, as they are sent."""
_LENGTHS_OR_NULL = (_NULL, *_LENGTHS[1:])
_EPOCH = 946_684_800_000_000
"""2000-01-01, where PostgreSQL counts from, in microseconds of Unix time."""

Packed: TypeAlias = Callable[[Sequence[Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Column:
    """A sort of values; None is null."""

    element: str
    """The type of one, as PostgreSQL names it."""
    element_oid: int
    array_oid: int
    elements: Packed
    """Each value as an array holds it, behind its length."""
    pieces: int = 1
    """Of how many `elements` one value is made."""

    def packed(self, values: Sequence[Any]) -> bytes:
        """The array as PostgreSQL receives it."""
        header = _HEADER.pack(1, 1, self.element_oid, len(values), 1)
        return header + b"".join(self.elements(values))


def _texts(values: Sequence[str | None]) -> list[bytes]:
    elements: list[bytes] = []
    for value in values:
        if value is None:
            elements.append(_NULL)
            continue
        data = value.encode()
        if "\0" in value:
            data = data.replace(b"\0", _REPLACEMENT)
        length = len(data)
        elements += (_LENGTHS[length] if length < 512 else length.to_bytes(4), data)
    return elements


def _plain(values: Sequence[str]) -> list[bytes]:
    return _with_lengths([value.encode() for value in values], _LENGTHS)


def _plain_or_null(values: Sequence[str]) -> list[bytes]:
    return _with_lengths([value.encode() for value in values], _LENGTHS_OR_NULL)


def _with_lengths(data: list[bytes], lengths: Sequence[bytes]) -> list[bytes]:
    elements = data * 2
    elements[1::2] = data
    try:
        elements[::2] = [lengths[len(value)] for value in data]
    except IndexError:
        elements[::2] = [_length(value, lengths) for value in data]
    return elements


def _length(value: bytes, lengths: Sequence[bytes]) -> bytes:
    return lengths[len(value)] if len(value) < len(lengths) else len(value).to_bytes(4)


def _bytes(values: Sequence[bytes | None]) -> list[bytes]:
    elements: list[bytes] = []
    for value in values:
        elements += (_NULL, b"") if value is None else (len(value).to_bytes(4), value)
    return elements


def _numbers(form: str, size: int, shift: int = 0) -> Packed:
    pack = struct.Struct(form).pack

    def elements(values: Sequence[int | None]) -> list[bytes]:
        return [_NULL if value is None else pack(size, value - shift) for value in values]

    return elements


def _bools(values: Sequence[bool | None]) -> list[bytes]:
    return [_NULL if value is None else _TRUE if value else _FALSE for value in values]


def _uuids(values: Sequence[str]) -> list[bytes]:
    return [_UUID_LENGTH + bytes.fromhex(value.replace("-", "")) for value in values]


TEXT = Column("text", 25, 1009, _texts)
"""Texts; NUL, which PostgreSQL's cannot hold, becomes U+FFFD."""
PLAIN = Column("text", 25, 1009, _plain, pieces=2)
"""Texts in bulk, neither null nor with a NUL in them."""
PLAIN_OR_NULL = Column("text", 25, 1009, _plain_or_null, pieces=2)
"""The same; an empty one is null."""
BYTES = Column("bytea", 17, 1001, _bytes, pieces=2)
SMALLINT = Column("int2", 21, 1005, _numbers("!ih", 2))
INT = Column("int4", 23, 1007, _numbers("!ii", 4))
BIGINT = Column("int8", 20, 1016, _numbers("!iq", 8))
BOOL = Column("bool", 16, 1000, _bools)
TIME = Column("timestamptz", 1184, 1185, _numbers("!iq", 8, _EPOCH))
"""Microseconds of Unix time."""
UUIDS = Column("uuid", 2950, 2951, _uuids)
"""UUIDs as texts, hexadecimal with dashes."""


def words(*known: str | None) -> Column:
    """Texts of which there are few, given as their places in `known`."""
    packed = [_NULL if word is None else b"".join(_plain([word])) for word in known]
    return Column("text", 25, 1009, lambda values: [packed[value] for value in values])


_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@overload
def micros(time: datetime) -> int: ...
@overload
def micros(time: None) -> None: ...
@overload
def micros(time: datetime | None) -> int | None: ...
def micros(time: datetime | None) -> int | None:
    """The time as `TIME` takes it."""
    return None if time is None else (time - _UNIX) // _MICROSECOND


class Bulk:
    """A statement over rows: `{rows}` in its text is them, as `n`, with their position as `n.ord`.

    The columns are named by keyword, in the order of a row's values.
    """

    def __init__(self, sql: str, **columns: Column) -> None:
        self._columns = tuple(columns.values())
        oids = [column.array_oid for column in self._columns]
        self._statement = Statement(_unnested(sql, columns), oids)

    @property
    def sql(self) -> str:
        """The statement as it is prepared, an array a column."""
        return self._statement.sql.decode()

    def over(self, rows: Sequence[Sequence[Any]]) -> Said:
        """The statement about at least one row, to go along on a trip."""
        values = zip(*rows, strict=True)
        return self._statement.said(
            *[
                column.packed(column_values)
                for column, column_values in zip(self._columns, values, strict=True)
            ]
        )


def _unnested(sql: str, columns: dict[str, Column]) -> str:
    arrays = [f"${at}::{column.element}[]" for at, column in enumerate(columns.values(), start=1)]
    names = ", ".join(columns)
    rows = f"unnest({', '.join(arrays)}) with ordinality as n ({names}, ord)"
    return sql.replace("{rows}", rows)
