"""Writing projections: a statement a table, whatever the number of rows; no row moves backwards.

An edit, a deletion or a hiding may come before what it is about. It then makes the row as far as it
is known, and the message or comment fills it in when it comes.
"""

from __future__ import annotations

from pagewire_store.columns import BOOL, BYTES, INT, TEXT, TIME, Bulk
from pagewire_store.projections import KINDS, SNIPPET_LENGTH, MessageChange, Projections
from pagewire_store.trips import Said

__all__ = ["LOCK_CONVERSATIONS", "said"]

# Outcomes of sends lock conversations too, without their lanes: so all in one order, and at once.
LOCK_CONVERSATIONS = Bulk(
    """
    select from {rows}
    join conversation c on c.page_id = n.page_id and c.participant_id = n.participant_id
    order by c.page_id, c.participant_id for update of c
    """,
    page_id=TEXT,
    participant_id=TEXT,
)

# A message that was edited or unsent before it came is shown as it is now. What a person wrote
# before the page's last word is not unread, so a late message of then does not count; nor does one
# that history brought first, with Graph's own count.
_CONVERSATIONS = Bulk(
    f"""
    insert into conversation as c (
        page_id, participant_id, participant_name, updated_at, snippet, unread_count,
        last_inbound_at, last_outbound_at)
    select n.page_id, n.participant_id, n.participant_name, n.updated_at,
        coalesce(
            (select case when m.is_deleted then '' else left(m.text, {SNIPPET_LENGTH}) end
                from message m where m.page_id = n.page_id and m.mid = n.snippet_mid),
            n.snippet),
        n.unread_count - (
            select count(*)::int
            from unnest(string_to_array(n.unread_mids, ' ')) as u (mid)
                join message m on m.page_id = n.page_id and m.mid = u.mid
            where m.edit_number = 0),
        n.last_inbound_at, n.last_outbound_at
    from {{rows}} order by n.ord
    on conflict (page_id, participant_id) do update set
        participant_name = coalesce(excluded.participant_name, c.participant_name),
        snippet = case when excluded.updated_at >= c.updated_at
            then excluded.snippet else c.snippet end,
        updated_at = greatest(c.updated_at, excluded.updated_at),
        unread_count =
            case when excluded.last_outbound_at >= coalesce(c.last_inbound_at, '-infinity')
                then 0 else c.unread_count end
            + case when excluded.last_inbound_at <= c.last_outbound_at
                then 0 else excluded.unread_count end,
        last_inbound_at = greatest(c.last_inbound_at, excluded.last_inbound_at),
        last_outbound_at = greatest(c.last_outbound_at, excluded.last_outbound_at)
    """,  # noqa: S608  # the length is a constant
    page_id=TEXT,
    participant_id=TEXT,
    participant_name=TEXT,
    updated_at=TIME,
    snippet=TEXT,
    snippet_mid=TEXT,
    unread_count=INT,
    unread_mids=TEXT,
    last_inbound_at=TIME,
    last_outbound_at=TIME,
)

# A reaction or a referral may be answered, so it makes the conversation where there is none; a read
# or a delivery does not.
_NEW_CONVERSATIONS = Bulk(
    """
    insert into conversation (page_id, participant_id, updated_at)
    select n.page_id, n.participant_id, n.at from {rows} order by n.ord
    on conflict (page_id, participant_id) do nothing
    """,
    page_id=TEXT,
    participant_id=TEXT,
    at=TIME,
)

# Instagram's read names a message: the later one stays, by the time at which they were written.
_TOUCHES = Bulk(
    """
    update conversation c set
        participant_name = coalesce(n.participant_name, c.participant_name),
        last_inbound_at = greatest(c.last_inbound_at, n.last_inbound_at),
        read_watermark = greatest(c.read_watermark, n.read_watermark),
        delivered_watermark = greatest(c.delivered_watermark, n.delivered_watermark),
        read_mid = case
            when n.read_mid is null then c.read_mid
            when (select m.created_at from message m
                    where m.page_id = c.page_id and m.mid = c.read_mid)
                > (select m.created_at from message m
                    where m.page_id = n.page_id and m.mid = n.read_mid)
                then c.read_mid
            else n.read_mid end
    from {rows}
    where c.page_id = n.page_id and c.participant_id = n.participant_id
    """,
    page_id=TEXT,
    participant_id=TEXT,
    participant_name=TEXT,
    last_inbound_at=TIME,
    read_watermark=TIME,
    read_mid=TEXT,
    delivered_watermark=TIME,
)

# Before the messages themselves, as the lock order wants it.
_CHANGED_SNIPPETS = Bulk(
    f"""
    update conversation c set
        snippet = case when n.is_deleted then '' else left(n.text, {SNIPPET_LENGTH}) end
    from {{rows}} join message m on m.page_id = n.page_id and m.mid = n.mid
    where c.page_id = m.page_id and c.participant_id = m.participant_id
        and c.updated_at = m.created_at
        and (n.is_deleted or (not m.is_deleted and n.edit_number > m.edit_number))
    """,  # noqa: S608  # the length is a constant
    page_id=TEXT,
    mid=TEXT,
    edit_number=INT,
    text=TEXT,
    is_deleted=BOOL,
)

# What history brought first is filled in. Graph's addresses of attachments expire, and it tells
# less of a message's kind, or nothing but its time: so what a webhook says of these goes first.
_MESSAGES = Bulk(
    f"""
    insert into message as m (
        page_id, mid, participant_id, direction, kind, text, attachments, created_at,
        is_unsupported, recovered, app_id)
    select n.page_id, n.mid, n.participant_id, n.direction, n.kind, n.text, n.attachments,
        n.created_at, n.is_unsupported, n.recovered, n.app_id
    from {{rows}} order by n.ord
    on conflict (page_id, mid) do update set
        participant_id = excluded.participant_id,
        direction = excluded.direction,
        kind = case when excluded.kind = '{KINDS[0]}' then m.kind else excluded.kind end,
        text = case when not m.is_deleted then coalesce(m.text, excluded.text) end,
        attachments = case when not m.is_deleted
            then coalesce(excluded.attachments, m.attachments) end,
        created_at = excluded.created_at,
        is_unsupported = excluded.is_unsupported,
        recovered = m.recovered or excluded.recovered,
        app_id = coalesce(m.app_id, excluded.app_id)
    """,  # noqa: S608  # the kind is a constant
    page_id=TEXT,
    mid=TEXT,
    participant_id=TEXT,
    direction=TEXT,
    kind=TEXT,
    text=TEXT,
    attachments=BYTES,
    created_at=TIME,
    is_unsupported=BOOL,
    recovered=BOOL,
    app_id=TEXT,
)

# A message that is not known yet is made only for a person who is.
_MESSAGE_CHANGES = Bulk(
    """
    insert into message as m (
        page_id, mid, participant_id, direction, kind, text, created_at, edit_number, edited_at,
        is_deleted)
    select n.page_id, n.mid, n.participant_id, n.direction, 'message',
        case when not n.is_deleted then n.text end, n.at, greatest(n.edit_number, 0), n.edited_at,
        n.is_deleted
    from {rows}
    where n.participant_id <> '' or (
        select k.mid from message k where k.page_id = n.page_id and k.mid = n.mid) is not null
    order by n.ord
    on conflict (page_id, mid) do update set
        direction = coalesce(m.direction, excluded.direction),
        text = case
            when m.is_deleted or excluded.is_deleted then null
            when excluded.edit_number > m.edit_number then excluded.text
            else m.text end,
        attachments = case when not (m.is_deleted or excluded.is_deleted) then m.attachments end,
        edited_at = case when excluded.edit_number > m.edit_number
            then excluded.edited_at else m.edited_at end,
        edit_number = greatest(m.edit_number, excluded.edit_number),
        is_deleted = m.is_deleted or excluded.is_deleted
    """,
    page_id=TEXT,
    mid=TEXT,
    participant_id=TEXT,
    direction=TEXT,
    at=TIME,
    edit_number=INT,
    edited_at=TIME,
    text=TEXT,
    is_deleted=BOOL,
)

_COMMENTS = Bulk(
    """
    insert into comment as c (
        page_id, comment_id, post_id, parent_id, root_id, from_id, from_name, text, attachments,
        created_at, is_own, is_live)
    select n.page_id, n.comment_id, n.post_id, n.parent_id, n.root_id, n.from_id, n.from_name,
        n.text, n.attachments, n.created_at, n.is_own, n.is_live
    from {rows} order by n.ord
    on conflict (page_id, comment_id) do update set
        post_id = coalesce(excluded.post_id, c.post_id),
        parent_id = coalesce(excluded.parent_id, c.parent_id),
        root_id = excluded.root_id,
        from_id = coalesce(excluded.from_id, c.from_id),
        from_name = coalesce(excluded.from_name, c.from_name),
        text = case when not c.is_deleted then coalesce(c.text, excluded.text) end,
        attachments = case when not c.is_deleted
            then coalesce(excluded.attachments, c.attachments) end,
        created_at = excluded.created_at,
        is_own = c.is_own or excluded.is_own,
        is_live = c.is_live or excluded.is_live
    """,
    page_id=TEXT,
    comment_id=TEXT,
    post_id=TEXT,
    parent_id=TEXT,
    root_id=TEXT,
    from_id=TEXT,
    from_name=TEXT,
    text=TEXT,
    attachments=BYTES,
    created_at=TIME,
    is_own=BOOL,
    is_live=BOOL,
)

_COMMENT_CHANGES = Bulk(
    """
    insert into comment as c (
        page_id, comment_id, post_id, root_id, created_at, edited_at, text, hidden_at, is_hidden,
        is_deleted)
    select n.page_id, n.comment_id, n.post_id, n.root_id, n.at, n.edited_at,
        case when not n.is_deleted then n.text end, n.hidden_at, n.is_hidden, n.is_deleted
    from {rows} order by n.ord
    on conflict (page_id, comment_id) do update set
        post_id = coalesce(c.post_id, excluded.post_id),
        text = case
            when c.is_deleted or excluded.is_deleted then null
            when excluded.edited_at >= coalesce(c.edited_at, '-infinity')
                then coalesce(excluded.text, c.text)
            else c.text end,
        attachments = case when not (c.is_deleted or excluded.is_deleted) then c.attachments end,
        edited_at = greatest(c.edited_at, excluded.edited_at),
        is_hidden = case when excluded.hidden_at >= coalesce(c.hidden_at, '-infinity')
            then excluded.is_hidden else c.is_hidden end,
        hidden_at = greatest(c.hidden_at, excluded.hidden_at),
        is_deleted = c.is_deleted or excluded.is_deleted
    """,
    page_id=TEXT,
    comment_id=TEXT,
    post_id=TEXT,
    root_id=TEXT,
    at=TIME,
    edited_at=TIME,
    text=TEXT,
    hidden_at=TIME,
    is_hidden=BOOL,
    is_deleted=BOOL,
)

_REACTIONS = Bulk(
    """
    insert into reaction as r (
        page_id, target_id, person_id, reaction, emoji, removed, reacted_at)
    select n.page_id, n.target_id, n.person_id, n.reaction, n.emoji, n.removed, n.reacted_at
    from {rows} order by n.ord
    on conflict (page_id, target_id, person_id) do update set
        reaction = excluded.reaction, emoji = excluded.emoji, removed = excluded.removed,
        reacted_at = excluded.reacted_at
    where excluded.reacted_at >= r.reacted_at
    """,
    page_id=TEXT,
    target_id=TEXT,
    person_id=TEXT,
    reaction=TEXT,
    emoji=TEXT,
    removed=BOOL,
    reacted_at=TIME,
)


def said(rows: Projections) -> list[Said]:
    """What writes them, in the one lock order."""
    inbound = [touch for touch in rows.touches if touch.last_inbound_at is not None]
    return [
        statement.over(batch)
        for statement, batch in (
            (LOCK_CONVERSATIONS, _conversations(rows)),
            (_CONVERSATIONS, rows.conversations),
            (
                _NEW_CONVERSATIONS,
                [(t.page_id, t.participant_id, t.last_inbound_at) for t in inbound],
            ),
            (_TOUCHES, rows.touches),
            (_CHANGED_SNIPPETS, [_snippet(change) for change in rows.message_changes]),
            (_MESSAGES, rows.messages),
            (_MESSAGE_CHANGES, rows.message_changes),
            (_COMMENTS, rows.comments),
            (_COMMENT_CHANGES, rows.comment_changes),
            (_REACTIONS, rows.reactions),
        )
        if batch
    ]


def _conversations(rows: Projections) -> list[tuple[str, str]]:
    """The conversations, sorted; none where one statement alone is about them, in their order."""
    if not (rows.touches or rows.message_changes):
        return []
    named = {(row.page_id, row.participant_id) for row in rows.conversations}
    named.update((row.page_id, row.participant_id) for row in rows.touches)
    named.update((row.page_id, row.participant_id) for row in rows.message_changes)
    return sorted(named) if len(named) > 1 else []


def _snippet(change: MessageChange) -> tuple[str, str, int, str | None, bool]:
    return (change.page_id, change.mid, change.edit_number, change.text, change.is_deleted)
