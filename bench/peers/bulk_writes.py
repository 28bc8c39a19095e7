"""Messages in bulk without the store: inside the server, which is the limit, and as others do it.

All write the same columns of the table `message`, each message once however often it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pagewire_store import mirror_statements, staging
from pagewire_store.trips import BEGIN, COMMIT, trip

PAGE = "1001"
CHUNK = 500


class Row(NamedTuple):
    """A message of a page."""

    mid: str
    participant_id: str
    is_inbound: bool
    text: str
    seconds: int


class InServer:
    """The store's own statement over rows that lie in the server already."""

    def __init__(self, url: str, rows: Sequence[Row]) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        columns = mirror_statements.MESSAGES.columns
        described = ", ".join(f"{name} {column.element}" for name, column in columns.items())
        table = mirror_statements.MESSAGES.staged_in
        self._connection.execute(f"create temporary table {table} ({described})".encode())
        with self._connection.cursor().copy(
            f"copy {table} from stdin (format binary)".encode()
        ) as copy:
            copy.write(_copied(rows))
        self._connection.execute(f"analyze {table}".encode())
        statement = mirror_statements.MESSAGES.staged.sql.decode()
        self._upsert = statement.replace("$1", f"'{PAGE}'").replace("$2", "now()").encode()

    def upsert(self) -> int:
        """How many rows were written: none where all are there, and then it is the anti-join."""
        return self._connection.execute(self._upsert).rowcount

    def close(self) -> None:
        self._connection.close()


class GuardAlone:
    """Arrays in chunks of 500, a transaction each, whose upsert keeps what is stored by its guard.

    As the store would do it if it did not leave out before what is stored.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], rows: Sequence[Row]) -> None:
        self._connection = connection
        self._chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]

    async def upsert(self) -> None:
        for chunk in self._chunks:
            said = _GUARDED.over(PAGE, 0, _columns(chunk))
            await trip(self._connection, BEGIN, said, COMMIT)


_GUARDED = mirror_statements.OfPage(
    """
    insert into message as m (page_id, mid, participant_id, direction, kind, text, attachments,
        created_at, is_unsupported)
    select n.* from {rows} order by n.mid
    on conflict (page_id, mid) do update set text = excluded.text, direction = excluded.direction
    where (m.text, m.direction) is distinct from (excluded.text, excluded.direction)
    """,
    mirror_statements.MESSAGES.columns,
)


def _copied(rows: Sequence[Row]) -> bytes:
    return staging.body(tuple(mirror_statements.MESSAGES.columns.values()), _columns(rows))


def _columns(rows: Sequence[Row]) -> list[list[object]]:
    return [
        [row.mid for row in rows],
        [row.participant_id for row in rows],
        [1 if row.is_inbound else 2 for row in rows],
        [0] * len(rows),
        [row.text for row in rows],
        [None] * len(rows),
        [row.seconds * 1_000_000 for row in rows],
        [False] * len(rows),
    ]


class _Base(DeclarativeBase):
    pass


class _Message(_Base):
    __tablename__ = "message"

    page_id: Mapped[str] = mapped_column(primary_key=True)
    mid: Mapped[str] = mapped_column(primary_key=True)
    participant_id: Mapped[str]
    direction: Mapped[str]
    kind: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[datetime]


def _values(row: Row) -> dict[str, object]:
    return {
        "page_id": PAGE,
        "mid": row.mid,
        "participant_id": row.participant_id,
        "direction": "inbound" if row.is_inbound else "outbound",
        "kind": "message",
        "text": row.text,
        "created_at": datetime.fromtimestamp(row.seconds, UTC),
    }


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


def merge_each(engine: Engine, rows: Sequence[Row]) -> None:
    """What an ORM's guide begins with: `session.merge`, and a commit each."""
    with Session(engine) as session:
        for row in rows:
            session.merge(_Message(**_values(row)))
            session.commit()


def multi_values(engine: Engine, rows: Sequence[Row]) -> None:
    """Statements of 500 rows of VALUES, a transaction each."""
    for at in range(0, len(rows), CHUNK):
        part = [_values(row) for row in rows[at : at + CHUNK]]
        said = postgresql.insert(_Message).values(part)
        changed = {"text": said.excluded.text, "direction": said.excluded.direction}
        with engine.begin() as connection:
            connection.execute(
                said.on_conflict_do_update(index_elements=["page_id", "mid"], set_=changed)
            )
