"""Storing what Graph shows: rows of one page in chunks, each by one short transaction.

In a chunk stand conversations, messages, comments and labels, in this order and each sorted by its
id: so are all locks taken, here and by ingest. Lanes, events and replies are not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pagewire.store.v1.mirror_service_pb2 import (
    ROW_KIND_COMMENT,
    ROW_KIND_CONVERSATION,
    ROW_KIND_LABEL,
    ROW_KIND_MESSAGE,
    UpsertHistoryRequest,
    UpsertHistoryResponse,
)
from pagewire_runtime.errors import InvalidArgument
from pagewire_store import mirror_statements as sql
from pagewire_store import mirrored, staging
from pagewire_store.connections import Connections, Driver
from pagewire_store.database import fault_of_values, in_yielding_transaction
from pagewire_store.mirror_statements import OfPage
from pagewire_store.mirrored import Batch, Sifted
from pagewire_store.pages import PageUnknown
from pagewire_store.projections import timestamp_micros
from pagewire_store.trips import BEGIN, COMMIT, Answer, Said, trip

MOST_ROWS = 20_000
"""Of a request, in all."""
LARGE_CALL = 5_000
"""Rows of a request that is stored in large chunks: no page of Graph's makes such a one."""
STAGED_FROM = 1_000
"""Rows of one kind in a chunk that go by COPY: none of a usual chunk's, most of a large one's."""
DAY = 86_400_000_000
"""In microseconds: how far Meta's clock may be ahead."""


@dataclass(slots=True)
class _Chunk:
    """Rows of one transaction."""

    rows: int = 0
    conversations: Batch | None = None
    messages: Batch | None = None
    comments: Batch | None = None
    answers: Sequence[tuple[str, int]] = ()
    labels: Batch | None = None

    def steps(self) -> Iterator[tuple[OfPage, Sequence[Sequence[Any]]]]:
        """What is to be said, in order."""
        if threads := mirrored.threads(self.conversations, self.messages):
            columns = list(zip(*threads, strict=True))
            yield sql.HELD_CONVERSATIONS, columns
            yield sql.CONVERSATIONS, columns
        if self.messages:
            yield sql.MESSAGES, self.messages.columns
        if self.comments:
            yield sql.COMMENTS, self.comments.columns
        if self.answers:
            yield sql.ANSWERED, list(zip(*self.answers, strict=True))
        if self.labels:
            yield sql.LABELS, self.labels.columns

    def pieces(self) -> Iterator[_Chunk]:
        """Its rows, those of each kind by themselves, in halves."""
        for name in ("conversations", "messages", "comments", "labels"):
            batch: Batch | None = getattr(self, name)
            for half in batch.halves() if batch else ():
                piece = _Chunk(len(half.positions))
                setattr(piece, name, half)
                yield piece
        middle = (len(self.answers) + 1) // 2
        for answers in (self.answers[:middle], self.answers[middle:]):
            if answers:
                yield _Chunk(len(answers), answers=answers)


class Mirror:
    """Takes what was read from Graph."""

    def __init__(
        self,
        connections: Connections,
        *,
        chunk_rows: int,
        large_chunk_rows: int,
        large_call: int = LARGE_CALL,
        staged_from: int = STAGED_FROM,
    ) -> None:
        """`chunk_rows` are stored by one transaction at the most, and of a large call
        `large_chunk_rows`.
        """
        self._connections = connections
        self._chunk_rows = chunk_rows
        self._large_chunk_rows = large_chunk_rows
        self._large_call = large_call
        self._staged_from = staged_from
        self._turns = asyncio.Semaphore(connections.size)

    async def upsert(self, request: UpsertHistoryRequest) -> UpsertHistoryResponse:
        """Stores the rows, and says which were new.

        Raises InvalidArgument, PageUnknown, and Unavailable where PostgreSQL cannot be had, or
        others hold the rows for long; then some chunks may be stored.
        """
        is_large = _check(request) >= self._large_call
        chunk_rows = self._large_chunk_rows if is_large else self._chunk_rows
        upsert = _Upsert(request, chunk_rows, timestamp_micros(request.read_time) + DAY)
        if not mirrored.is_id(request.page_id):
            raise PageUnknown(request.page_id)
        for chunk in upsert.chunks():
            await self._look(upsert, chunk)
            await self._store(upsert, chunk)
        return upsert.found

    async def _look(self, upsert: _Upsert, chunk: _Chunk) -> None:
        """Leaves out what is stored as it is shown, mostly all; and what cannot be stored.

        Raises PageUnknown.
        """
        page_id, conversations, messages = upsert.page_id, chunk.conversations, chunk.messages
        strangers = upsert.strangers(messages)
        said = [sql.CONNECTED.said(page_id.encode())]
        if strangers:
            said.append(sql.KNOWN.over(page_id, 0, [strangers]))
        if conversations:
            said.append(sql.STORED_CONVERSATIONS.over(page_id, 0, conversations.columns[:1]))
        if messages:
            said.append(sql.STORED_MESSAGES.over(page_id, 0, upsert.spans(messages)))
        connected, *found = await self._say(*said)
        if not connected.rows:
            raise PageUnknown(page_id)
        answers: Iterator[Any] = (answer.rows for answer in found)
        if strangers:
            upsert.known.update(person for (person,) in next(answers))
        if conversations:
            chunk.conversations = mirrored.threads_not_as_shown(conversations, next(answers))
        if messages:
            ((ids, texts, numbers),) = next(answers)
            if ids is not None:  # as none is, where there are none
                messages = mirrored.not_as_shown(messages, ids, texts, numbers)
            chunk.messages = upsert.good(messages)

    async def _say(self, *said: Said) -> list[Answer]:
        """What only reads."""

        async def work(connection: Driver) -> list[Answer]:
            return await trip(connection, *said)

        async with self._turns:
            return await in_yielding_transaction(self._connections, work)

    async def _store(self, upsert: _Upsert, chunk: _Chunk) -> None:
        """Stores a chunk; where PostgreSQL refuses something of it, by halves, down to the row."""
        try:
            said = await self._committed(upsert.page_id, upsert.read_at, chunk)
        except psycopg.Error as error:
            reason = fault_of_values(error)
            if reason is None:
                raise
            if chunk.rows > 1:
                for piece in chunk.pieces():
                    await self._store(upsert, piece)
            else:
                upsert.refuse(chunk, reason)
        else:
            upsert.note(chunk, said)

    async def _committed(self, page_id: str, read_at: int, chunk: _Chunk) -> dict[OfPage, Answer]:
        """What each statement said, once all is committed."""
        steps = list(chunk.steps())
        if not steps:
            return {}
        many = {
            statement.staged_in: (statement, columns)
            for statement, columns in steps
            if statement.staged_in and len(columns[0]) >= self._staged_from
        }
        said = [
            statement.over_staged(page_id, read_at)
            if statement.staged_in in many
            else statement.over(page_id, read_at, columns)
            for statement, columns in steps
        ]

        async def work(connection: Driver) -> list[Answer]:
            if not many:
                return (await trip(connection, BEGIN, *said, COMMIT))[1:-1]
            for table, (statement, _) in many.items():
                await staging.make(connection, table, statement.columns)
            await trip(connection, BEGIN)
            for table, (statement, columns) in many.items():
                await staging.fill(connection, table, statement.columns, columns)
            return (await trip(connection, *said, COMMIT))[:-1]

        async with self._turns:
            answers = await in_yielding_transaction(self._connections, work)
        return {statement: answer for (statement, _), answer in zip(steps, answers, strict=True)}


class _Upsert:
    """A request on its way: what is read of it so far, and what became of that."""

    def __init__(self, request: UpsertHistoryRequest, chunk_rows: int, latest: int) -> None:
        self.page_id = request.page_id
        self.read_at = timestamp_micros(request.read_time)
        self.known: set[str] = set()
        """People whose conversations are stored, or will be before their messages are."""
        self._chunk_rows = chunk_rows
        self._latest = latest
        self._conversations = list(request.conversations)
        self._messages = list(request.messages)
        self._comments = list(request.comments)
        self._labels = list(request.labels)
        self._answers: list[tuple[str, int]] = []
        self.found = UpsertHistoryResponse()

    def strangers(self, messages: Batch | None) -> list[str]:
        """Who writes these and is not known so far."""
        people = set(messages.columns[1]) - self.known if messages else ()
        return [person for person in people if mirrored.is_id(person)]

    def chunks(self) -> Iterator[_Chunk]:
        """The rows, read when it is their turn; one without any where there are none."""
        chunk, any_full = _Chunk(), False
        kinds: tuple[tuple[Sequence[object], Callable[[_Chunk, int, int], None]], ...] = (
            (self._conversations, self._add_conversations),
            (self._messages, self._add_messages),
            (self._comments, self._add_comments),
            (self._answers, self._add_answers),  # which the comments before have filled
            (self._labels, self._add_labels),
        )
        for shown, add in kinds:
            at = 0
            while at < len(shown):
                end = min(len(shown), at + self._chunk_rows - chunk.rows)
                add(chunk, at, end)
                chunk.rows += end - at
                at = end
                if chunk.rows == self._chunk_rows:
                    yield chunk
                    chunk, any_full = _Chunk(), True
        if chunk.rows or not any_full:
            yield chunk

    def note(self, chunk: _Chunk, said: dict[OfPage, Answer]) -> None:
        """Takes down what became of a chunk."""
        for statement, batch, new in (
            (sql.CONVERSATIONS, chunk.conversations, self.found.new_conversations),
            (sql.MESSAGES, chunk.messages, self.found.new_messages),
            (sql.COMMENTS, chunk.comments, self.found.new_comments),
            (sql.LABELS, chunk.labels, None),
        ):
            if statement not in said:
                continue
            rows = said[statement].rows
            made = [key for key, is_new in rows if is_new]
            self.found.changed += len(rows) - len(made)
            if made and batch and new is not None:
                new.extend(batch.positions_of(made))

    def refuse(self, chunk: _Chunk, reason: str) -> None:
        """Takes down that the chunk's one row cannot be stored."""
        for kind, batch in (
            (ROW_KIND_CONVERSATION, chunk.conversations),
            (ROW_KIND_MESSAGE, chunk.messages),
            (ROW_KIND_COMMENT, chunk.comments),
            (ROW_KIND_LABEL, chunk.labels),
        ):
            if batch:
                self.found.refused.append(mirrored.refused(kind, batch, reason))

    def _add_conversations(self, chunk: _Chunk, at: int, end: int) -> None:
        sifted = mirrored.conversations(self._conversations[at:end], at, self._latest)
        chunk.conversations = self._good(sifted)
        self.known.update(chunk.conversations.columns[0])

    def _add_messages(self, chunk: _Chunk, at: int, end: int) -> None:
        chunk.messages = mirrored.messages(self._messages[at:end], at)

    def spans(self, messages: Batch) -> Sequence[Sequence[Any]]:
        """Where messages are to be looked for."""
        return mirrored.spans(messages, self._latest)

    def good(self, messages: Batch) -> Batch:
        """Those that can be stored."""
        if not messages:
            return messages
        return self._good(
            mirrored.sifted_messages(
                messages,
                self._latest,
                self.known,
                lambda position: self._messages[position].HasField("create_time"),
            )
        )

    def _add_comments(self, chunk: _Chunk, at: int, end: int) -> None:
        chunk.comments = self._good(mirrored.comments(self._comments[at:end], at, self._latest))
        self._answers += mirrored.answers(chunk.comments).items()

    def _add_answers(self, chunk: _Chunk, at: int, end: int) -> None:
        chunk.answers = self._answers[at:end]

    def _add_labels(self, chunk: _Chunk, at: int, end: int) -> None:
        chunk.labels = self._good(mirrored.labels(self._labels[at:end], at))

    def _good(self, sifted: Sifted) -> Batch:
        self.found.refused.extend(sifted.refused)
        return sifted.batch


def _check(request: UpsertHistoryRequest) -> int:
    """How many rows it has. Raises InvalidArgument."""
    rows = len(request.conversations) + len(request.messages)
    rows += len(request.comments) + len(request.labels)
    if rows > MOST_ROWS:
        raise InvalidArgument("rows", f"must be at most {MOST_ROWS} in all")
    if not request.HasField("read_time"):
        raise InvalidArgument("read_time", "must say when Graph was asked")
    return rows
