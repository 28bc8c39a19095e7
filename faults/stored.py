"""What the store has, read into `Rows` in one transaction; and what it forgets, as it comes by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row

from faults.history import (
    AttemptRow,
    CommentRow,
    DecisionRow,
    DoubtRow,
    EventRow,
    FiredRow,
    LaneRow,
    LeaseRow,
    MarkRow,
    MessageRow,
    OutboxRow,
    RawRow,
    Rows,
    RuleVersionRow,
    Verdict,
)
from pagewire.type.v1.decision_pb2 import Decision
from pagewire.type.v1.event_pb2 import EventKind, Source, Trigger
from pagewire.type.v1.reply_pb2 import ReplyContent

T = TypeVar("T")

RAW = """
    select d.delivery_id::text, d.received_at, d.body, d.events, d.outcome,
        exists (select from quarantine q where q.delivery_id = d.delivery_id) as quarantined
    from delivery d order by d.received_at, d.delivery_id
"""
EVENTS = """
    select page_id, event_id, event_key as key, number, lane, kind, trigger, source, person_id,
        state, attempts, delivery_id::text, event_time, received_at, stored_at
    from event order by number
"""
DECISIONS = """
    select page_id, event_id, outcome, reason, verdicts, book_version, decided_at, epoch
    from decision order by decided_at, event_id
"""
FIRED = "select page_id, event_id, rule_id, rule_version from fired_rule"
OUTBOX = """
    select page_id, reply_id, lane, ordinal, kind, origin, event_id, rule_id, action_index,
        client_key, person_id, comment_id, content, state, state_reason, attempt, tag, mid,
        settled_by, uncertain_before, clean_looks, lease_until, not_before, expires_at, created_at,
        sending_at, uncertain_at, sent_at, ended_at
    from outbox order by page_id, lane, ordinal
"""
ATTEMPTS = """
    select page_id, tag, reply_id, number, started_at, ended_at, verdict, reason, mid, settled_by
    from attempt order by page_id, reply_id, number
"""
LANES = """
    select page_id, lane, epoch, lease_owner, lease_until, blocked_until, pending, last_ordinal
    from lane order by page_id, lane
"""
MESSAGES = """
    select page_id, mid, participant_id, direction, text, is_deleted, reply_id
    from message order by created_at, mid
"""
COMMENTS = """
    select page_id, comment_id, text, is_own, is_deleted, reply_id
    from comment order by created_at, comment_id
"""
MARKS = "select page_id, mark_key, event_id, rule_id, reply_id, released from mark"
RULE_VERSIONS = """
    select rule_id, version, definition, deleted, changed_at
    from rule_version order by rule_id, version
"""
LEASES = "select page_id, lane, epoch, owner, leased_at from witness.lease order by leased_at"
DOUBTS = "select page_id, reply_id, tag, doubted_at from witness.doubt order by doubted_at"
WITNESS: LiteralString = """
    create schema witness;
    create table witness.lease (
        page_id text, lane text, epoch bigint, owner text,
        leased_at timestamptz not null default clock_timestamp());
    create function witness.note_lease() returns trigger language plpgsql security definer as $$
    begin
        insert into witness.lease (page_id, lane, epoch, owner)
        values (new.page_id, new.lane, new.epoch, new.lease_owner);
        return null;
    end $$;
    create trigger note_lease after update of epoch on public.lane
        for each row execute function witness.note_lease();
    create table witness.doubt (
        page_id text, reply_id bigint, tag text,
        doubted_at timestamptz not null default clock_timestamp());
    create function witness.note_doubt() returns trigger language plpgsql security definer as $$
    begin
        insert into witness.doubt (page_id, reply_id, tag)
        values (new.page_id, new.reply_id, new.tag);
        return null;
    end $$;
    create trigger note_doubt after update of state on public.outbox
        for each row when (new.state = 'uncertain' and old.state <> 'uncertain')
        execute function witness.note_doubt();
"""
"""Has every claim of a lane written down, which the store itself forgets at the next one, and every
reply that comes to be in doubt, of which no trace is left in the store where an acceptance ends it.
"""
UNFINISHED = """
    select (select count(*) from event where state = 'pending'),
        (select count(*) from outbox where state in ('ready', 'sending', 'uncertain'))
"""


async def rows(url: str) -> Rows:
    """Everything, as of one moment. Raises psycopg.OperationalError where PostgreSQL is away."""
    connection = await psycopg.AsyncConnection.connect(url, row_factory=dict_row)
    async with connection, connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")

        async def read(sql: LiteralString, of: Callable[[DictRow], T]) -> tuple[T, ...]:
            found = await (await connection.execute(sql)).fetchall()
            return tuple(of({name: _plain(value) for name, value in row.items()}) for row in found)

        return Rows(
            read_at=(await read("select clock_timestamp() as now", lambda row: row["now"]))[0],
            pages=frozenset(
                await read("select page_id from page where connected", lambda row: row["page_id"])
            ),
            raw=await read(RAW, lambda row: RawRow(**row)),
            events=await read(EVENTS, _event),
            decisions=await read(DECISIONS, _decision),
            fired=await read(FIRED, lambda row: FiredRow(**row)),
            outbox=await read(OUTBOX, _outbox),
            attempts=await read(ATTEMPTS, lambda row: AttemptRow(**row)),
            lanes=await read(LANES, lambda row: LaneRow(**row)),
            messages=await read(MESSAGES, lambda row: MessageRow(**row)),
            comments=await read(COMMENTS, lambda row: CommentRow(**row)),
            marks=await read(MARKS, lambda row: MarkRow(**row)),
            rule_versions=await read(RULE_VERSIONS, lambda row: RuleVersionRow(**row)),
            leases=await read(LEASES, lambda row: LeaseRow(**row)),
            doubts=await read(DOUBTS, lambda row: DoubtRow(**row)),
        )


async def put_witness(url: str) -> None:
    """To be called as superuser, once, when the store has made its tables."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(WITNESS)


async def unfinished(url: str) -> tuple[int, int]:
    """How many events are still to be decided, and how many replies to be settled."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await (await connection.execute(UNFINISHED)).fetchone()
    assert found is not None
    return found[0], found[1]


def _plain(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value


def _event(row: DictRow) -> EventRow:
    words = {
        "kind": EventKind.Name(row["kind"]).removeprefix("EVENT_KIND_").lower(),
        "trigger": Trigger.Name(row["trigger"]).removeprefix("TRIGGER_").lower(),
        "source": Source.Name(row["source"]).removeprefix("SOURCE_").lower(),
    }
    return EventRow(**row | words)


def _decision(row: DictRow) -> DecisionRow:
    decided = Decision.FromString(row["verdicts"])
    verdicts = tuple(
        Verdict(rule.rule_id, rule.version, rule.fired, rule.reason) for rule in decided.rules
    )
    return DecisionRow(**row | {"verdicts": verdicts})


def _outbox(row: DictRow) -> OutboxRow:
    content = row.pop("content")
    said = ReplyContent.FromString(content) if content is not None else ReplyContent()
    text = said.text or said.quick_replies.text or None
    return OutboxRow(**row, text=text)
