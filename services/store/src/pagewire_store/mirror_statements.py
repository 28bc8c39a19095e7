"""How what Graph shows meets what is stored: which rows are written, and what comes of both.

Each statement writes new rows and those that it changes, in the order of their ids. Rows that are
stored as they are, and archived ones, are left out before anything is locked; the same condition
stands again in the conflict's clause, for rows that others change at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.pq import Format

from pagewire_store.columns import BOOL, BYTES, INT, PLAIN, PLAIN_OR_NULL, TEXT, TIME, Column, words
from pagewire_store.mirrored import ARCHIVED, ATTACHED, DIRECTIONS, KIND_STEP, TOUCHED
from pagewire_store.projections import KINDS, SNIPPET_LENGTH
from pagewire_store.trips import Said, Statement

PAGE, READ_AT = "$1", "$2"
"""What stands for the page, and for the time at which Graph was asked, in every statement here."""


class OfPage:
    """A statement about rows of one page, `n`, which come along as arrays or lie in a table."""

    def __init__(
        self,
        sql: str,
        columns: Mapping[str, Column],
        *,
        staged_in: str = "",
        answer: Format = Format.TEXT,
    ) -> None:
        """`{rows}` in `sql` is the rows; `staged_in` names a temporary table for many of them."""
        self.staged_in = staged_in
        self.columns = columns
        arrays = [f"${at}::{column.element}[]" for at, column in enumerate(columns.values(), 3)]
        unnested = f"unnest({', '.join(arrays)}) as u ({', '.join(columns)})"
        oids = [TEXT.element_oid, TIME.element_oid]
        array_oids = [column.array_oid for column in columns.values()]
        self.carried = Statement(_with_rows(sql, unnested), oids + array_oids, answer=answer)
        self.staged = Statement(_with_rows(sql, f"{staged_in} as u"), oids)

    def over(self, page_id: str, read_at: int, columns: Sequence[Sequence[Any]]) -> Said:
        """The statement with its rows, at least one, as arrays."""
        arrays = [
            column.packed(values)
            for column, values in zip(self.columns.values(), columns, strict=True)
        ]
        return self.carried.said(page_id.encode(), _time(read_at), *arrays)

    def over_staged(self, page_id: str, read_at: int) -> Said:
        """The statement about the rows that lie in the table."""
        return self.staged.said(page_id.encode(), _time(read_at))


def _with_rows(sql: str, rows: str) -> str:
    """The statement upon rows that have their page's id each.

    They keep it (`offset 0`) so that the planner looks each up by the whole key; with the page told
    from the start it may read all of the page for each row.
    """
    of_page = f"(select {PAGE} as page_id, u.* from {rows} offset 0) as n"  # noqa: S608
    return sql.replace("{rows}", of_page)


def _time(at: int) -> bytes:
    (element,) = TIME.elements([at])
    return element[4:]  # behind its length


def _upsert(
    table: str,
    key: str,
    inserted: Mapping[str, str],
    merged: Mapping[str, str],
    *,
    met: Mapping[str, str] | None = None,
    spared: str = "false",
) -> str:
    """Writes rows into a table with the key (page_id, `key`); answers the keys, and whether new.

    `inserted` is what is written, over the row `n` and what is stored of it, `o`. `merged` is what
    comes of a stored row `{o}` and the new one `{n}`, and `met` the same where the stored one was
    not there yet when it was looked for; those that are `spared` stay as they are.
    """
    met = met or merged
    columns = ", ".join(inserted)
    values = ", ".join(inserted.values())
    changes = ", ".join(f"{name} = {_of(by, 'm', 'excluded')}" for name, by in met.items())
    return f"""
        insert into {table} as m (page_id, {key}, {columns})
        select n.page_id, n.{key}, {values}
        from {{rows}} left join {table} o on o.page_id = n.page_id and o.{key} = n.{key}
        where o.page_id is null or {_differs(merged, spared, "o", "n")}
        order by n.{key} collate "C"
        on conflict (page_id, {key}) do update set {changes}
        where {_differs(met, spared, "m", "excluded")}
        returning m.{key}, m.xmax = 0
    """  # noqa: S608  # all of it is constant


def _differs(merged: Mapping[str, str], spared: str, old: str, new: str) -> str:
    differs = " or ".join(
        f"{old}.{name} is distinct from ({_of(by, old, new)})" for name, by in merged.items()
    )
    return f"(not ({_of(spared, old, new)}) and ({differs}))"


def _of(sql: str, old: str, new: str) -> str:
    return sql.replace("{o}", old).replace("{n}", new)


def _place(value: str, words: Sequence[str | None]) -> str:
    """The place of a value among the words, counted from 1; 0 for any other."""
    cases = " ".join(f"when '{word}' then {at}" for at, word in enumerate(words, 1))
    return f"case {value} {cases} else 0 end"


# Graph tells whole seconds, webhooks milliseconds: so a stored time stays, but for that of a row
# which an edit, a hiding or a deletion has made before what it is about was known.
_CREATED = (
    "case when ({touched}) and {n}.created_at <= {o}.created_at - interval '1 second'"
    " then {n}.created_at else {o}.created_at end"
)

# An edit by webhook after Graph was asked is newer than what Graph said.
_TEXT = (
    "case when {o}.is_deleted then null"
    f" when {{o}}.edited_at > {READ_AT} then coalesce({{o}}.text, {{n}}.text)"
    " else coalesce({n}.text, {o}.text) end"
)

# Graph's addresses change with every read: what is known stays.
_ATTACHMENTS = "case when not {o}.is_deleted then coalesce({o}.attachments, {n}.attachments) end"

# What says nothing of the author says nothing but id and time.
MESSAGES = OfPage(
    _upsert(
        "message",
        "mid",
        {
            "participant_id": "n.participant_id",
            "direction": "n.direction",
            "kind": "n.kind",
            "text": "n.text",
            "attachments": "n.attachments",
            "created_at": "n.created_at",
            "is_unsupported": "n.is_unsupported",
        },
        {
            "participant_id": "coalesce(nullif({o}.participant_id, ''), {n}.participant_id)",
            "direction": "coalesce({o}.direction, {n}.direction)",
            "kind": f"case when {{o}}.kind = '{KINDS[0]}' then {{n}}.kind else {{o}}.kind end",
            "text": _TEXT,
            "attachments": _ATTACHMENTS,
            "created_at": _CREATED.replace(
                "{touched}", "{o}.is_deleted or {o}.edited_at is not null"
            ),
            "is_unsupported": "{o}.is_unsupported"
            " or ({o}.direction is null and {n}.is_unsupported)",
        },
        spared="{o}.is_archived",
    ),
    {
        "mid": PLAIN,
        "participant_id": PLAIN,
        "direction": words(*DIRECTIONS),
        "kind": words(*KINDS),
        "text": PLAIN_OR_NULL,
        "attachments": BYTES,
        "created_at": TIME,
        "is_unsupported": BOOL,
    },
    staged_in="mirrored_message",
)

COMMENTS = OfPage(
    _upsert(
        "comment",
        "comment_id",
        {
            "post_id": "n.post_id",
            "parent_id": "n.parent_id",
            "root_id": "coalesce(n.parent_id, n.comment_id)",
            "from_id": f"case when n.is_own then {PAGE} else n.from_id end",
            "from_name": "n.from_name",
            "text": "n.text",
            "attachments": "n.attachments",
            "created_at": "n.created_at",
            "is_hidden": "n.is_hidden",
            "is_own": "n.is_own",
        },
        {
            "post_id": "coalesce({n}.post_id, {o}.post_id)",
            "parent_id": "coalesce({n}.parent_id, {o}.parent_id)",
            "root_id": "coalesce({n}.parent_id, {o}.root_id)",
            "from_id": f"case when {{n}}.is_own then {PAGE}"
            " else coalesce({n}.from_id, {o}.from_id) end",
            "from_name": "coalesce({n}.from_name, {o}.from_name)",
            "text": _TEXT,
            "attachments": _ATTACHMENTS,
            "created_at": _CREATED.replace(
                "{touched}",
                "{o}.is_deleted or {o}.edited_at is not null or {o}.hidden_at is not null",
            ),
            "is_hidden": f"case when {{o}}.hidden_at > {READ_AT} then {{o}}.is_hidden"
            " else {n}.is_hidden end",
            "is_own": "{o}.is_own or {n}.is_own",
        },
        spared="{o}.is_archived",
    ),
    {
        "comment_id": PLAIN,
        "post_id": PLAIN_OR_NULL,
        "parent_id": PLAIN_OR_NULL,
        "from_id": PLAIN_OR_NULL,
        "from_name": PLAIN_OR_NULL,
        "text": PLAIN_OR_NULL,
        "attachments": BYTES,
        "created_at": TIME,
        "is_hidden": BOOL,
        "is_own": BOOL,
    },
    staged_in="mirrored_comment",
)

# A person's comment is answered when the page first wrote below it. Locked in order, as an update
# by itself would lock as it finds.
ANSWERED = OfPage(
    """
    with answered as materialized (
        select c.page_id, c.comment_id, n.at
        from {rows} join comment c on c.page_id = n.page_id and c.comment_id = n.comment_id
        where not c.is_own and not c.is_archived
            and (c.answered_at is null or c.answered_at > n.at)
        order by c.comment_id for update of c
    )
    update comment c set answered_at = answered.at from answered
    where c.page_id = answered.page_id and c.comment_id = answered.comment_id
    """,
    {"comment_id": PLAIN, "at": TIME},
    staged_in="mirrored_answer",
)

LABELS = OfPage(
    _upsert(
        "label",
        "name",
        {"label_id": "n.label_id"},
        {"label_id": "coalesce({n}.label_id, {o}.label_id)"},
    ),
    {"name": PLAIN, "label_id": PLAIN_OR_NULL},
    staged_in="mirrored_label",
)

# A row of Graph's is not older where it is of the same second, which is all that Graph tells, and
# was asked for once the stored one was as it is. Of a message that was unsent here, or edited
# since, no snippet of Graph's is shown.
_FOLLOWED = (
    f"{{n}}.shown_at >= date_trunc('second', {{o}}.updated_at) and {{o}}.updated_at <= {READ_AT}"
)
_SNIPPET = f"""
    coalesce(
        (select case when s.is_deleted then ''
                when s.edited_at > {READ_AT} then left(s.text, {SNIPPET_LENGTH}) end
            from message s
            where s.page_id = {PAGE} and s.participant_id = {{n}}.participant_id
                and s.created_at >= {{n}}.shown_at
            order by s.created_at desc, s.mid limit 1),
        {{n}}.snippet, '')
"""  # noqa: S608  # the length is a constant
_MOVED_UP = {
    "participant_name": "coalesce({n}.participant_name, {o}.participant_name)",
    "thread_id": "coalesce({n}.thread_id, {o}.thread_id)",
    "updated_at": "greatest({o}.updated_at, {n}.updated_at)",
    "last_inbound_at": "greatest({o}.last_inbound_at, {n}.last_inbound_at)",
    "last_outbound_at": "greatest({o}.last_outbound_at, {n}.last_outbound_at)",
}
_THREAD = _MOVED_UP | {
    "snippet": "case when {n}.snippet = {o}.snippet or not coalesce("
    + _FOLLOWED
    + ", {o}.page_id is null) then {o}.snippet else "
    + _SNIPPET
    + " end",
    "unread_count": f"case when {_FOLLOWED} or {{o}}.page_id is null then {{n}}.unread_count"
    " else {o}.unread_count end",
}
_THREAD_MET = _MOVED_UP | {
    name: f"case when {{n}}.updated_at >= {{o}}.updated_at then {{n}}.{name} else {{o}}.{name} end"
    for name in ("snippet", "unread_count")
}
_THREAD_COLUMNS = {
    "participant_id": PLAIN,
    "participant_name": PLAIN_OR_NULL,
    "thread_id": PLAIN_OR_NULL,
    "shown_at": TIME,
    "snippet": PLAIN_OR_NULL,
    "unread_count": INT,
    "updated_at": TIME,
    "last_inbound_at": TIME,
    "last_outbound_at": TIME,
}

# As what is unsent meanwhile must not be shown: with the rows held, the next statement sees it.
HELD_CONVERSATIONS = OfPage(
    f"""
    select from {{rows}}
    join conversation o on o.page_id = n.page_id and o.participant_id = n.participant_id
    where {_differs(_THREAD, "false", "o", "n")}
    order by o.participant_id for update of o
    """,
    _THREAD_COLUMNS,
    staged_in="mirrored_conversation",
)

CONVERSATIONS = OfPage(
    _upsert(
        "conversation",
        "participant_id",
        {name: _of(by, "o", "n") for name, by in _THREAD.items()},
        _THREAD,
        met=_THREAD_MET,
    ),
    _THREAD_COLUMNS,
    staged_in="mirrored_conversation",
)

# What is stored of threads, as `mirrored.not_as_shown` compares it: of each message in the time
# that those shown are of, its id, its text, and a number that says the rest. By thread: to look up
# each by its id takes PostgreSQL three times as long. In the order of the index that it is to use,
# for without statistics another one seems as good. As one row of arrays, which is read at once.
STORED_MESSAGES = OfPage(
    f"""
    select array_agg(m.mid), array_agg(
            case when m.is_archived then '' else coalesce(m.text, '') end),
        array_agg(case
            when m.is_archived then {ARCHIVED}
            when m.is_deleted or m.edited_at is not null then {TOUCHED}
            else {_place("m.direction", DIRECTIONS[1:])}
                + {_place("m.kind", KINDS[1:])} * {KIND_STEP}
                + (m.attachments is not null)::int * {ATTACHED} end)
    from {{rows}}
    cross join lateral (
        select * from message o where o.page_id = n.page_id and o.participant_id = n.participant_id
            and o.created_at between n.first_at and n.last_at
        order by o.created_at desc, o.mid offset 0) m
    """,  # noqa: S608  # all of it is constant
    {"participant_id": PLAIN, "first_at": TIME, "last_at": TIME},
    answer=Format.BINARY,
)
STORED_CONVERSATIONS = OfPage(
    """
    select c.participant_id, coalesce(c.participant_name, ''), coalesce(c.thread_id, ''),
        (extract(epoch from c.updated_at) * 1000000)::bigint, c.snippet, c.unread_count
    from {rows}
    join conversation c on c.page_id = n.page_id and c.participant_id = n.participant_id
    """,
    {"participant_id": PLAIN},
)

# Which of these people have a conversation with the page, and whether it is connected.
KNOWN = OfPage(
    """
    select c.participant_id from {rows}
    join conversation c on c.page_id = n.page_id and c.participant_id = n.participant_id
    """,
    {"participant_id": PLAIN},
)
CONNECTED = Statement("select from page where page_id = $1 and connected", [TEXT.element_oid])
