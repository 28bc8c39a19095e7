"""The live path: pages, deliveries, lanes, events, what they say, decisions, the outbox and the rules.

Keys start with the page, so that what grows can be partitioned or sharded by page. Identifiers from
Meta compare byte by byte (collate "C"): two mids that differ in case are two messages.

Of indexes that cost the same, as all do while a table is empty, the planner takes the one that was
made last. Plans are kept, so a table's key is made after its other indexes that begin alike.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UP = """
create sequence event_number;
create sequence reply_number;

create table page (
    page_id text collate "C" primary key,
    platform text not null check (platform in ('messenger', 'instagram')),
    login text not null check (login in ('facebook', 'instagram')),
    facebook_page_id text collate "C",
    name text not null,
    token bytea,
    token_version bigint not null default 0,
    state text not null check (state in ('healthy', 'expiring', 'degraded', 'blocked')),
    state_reason text not null default '',
    blocked_at timestamptz,
    connected boolean not null,
    connected_at timestamptz not null,
    last_synced_at timestamptz,
    check_due_at timestamptz,
    check_lease_until timestamptz
);
create index page_by_facebook_page on page (facebook_page_id) where facebook_page_id is not null;
comment on column page.token is 'key id, nonce and ciphertext, bound to the page id; null while disconnected';

create table delivery (
    delivery_id uuid primary key,
    received_at timestamptz not null,
    stored_at timestamptz not null default clock_timestamp(),
    signed_by text not null,
    body bytea not null,
    events int not null,
    outcome text not null check (outcome in ('parsed', 'partial', 'quarantined'))
);
create index delivery_by_age on delivery (received_at);

create table quarantine (
    quarantine_id bigint generated always as identity,
    delivery_id uuid not null references delivery on delete cascade,
    path text not null,
    reason text not null,
    page_id text collate "C",
    received_at timestamptz not null,
    replay_requested_at timestamptz,
    replay_lease_until timestamptz,
    replayed_at timestamptz
);
create index quarantine_by_delivery on quarantine (delivery_id);
create index quarantine_open on quarantine (quarantine_id) where replayed_at is null;
alter table quarantine add primary key (quarantine_id);

create table lane (
    page_id text collate "C" not null,
    lane text collate "C" not null,
    epoch bigint not null default 0,
    lease_owner text,
    lease_until timestamptz,
    blocked_until timestamptz,
    pending int not null default 0 check (pending >= 0),
    pending_since timestamptz,
    last_ordinal bigint not null default 0,
    primary key (page_id, lane)
) with (fillfactor = 70);
create index lane_pending on lane (pending_since) where pending > 0;

create table event (
    page_id text collate "C" not null,
    event_key text collate "C" not null,
    event_id bigint not null,
    number bigint not null,
    lane text collate "C" not null,
    kind smallint not null,
    trigger smallint not null,
    source smallint not null,
    person_id text collate "C" not null default '',
    event_time timestamptz not null,
    received_at timestamptz not null,
    stored_at timestamptz not null default clock_timestamp(),
    delivery_id uuid not null,
    state text not null check (state in ('pending', 'done', 'parked', 'unknown_page')),
    attempts int not null default 0,
    first_failed_at timestamptz,
    last_error text,
    detail bytea not null
) with (fillfactor = 85);
comment on column event.event_key is 'the natural key; of a state without one (comment hidden) the kind, its target and entry.time';
comment on column event.number is 'drawn from event_number under the lane''s lock: its order is commit order';
comment on column event.detail is 'pagewire.type.v1.Event as protobuf';
create unique index event_by_id on event (page_id, event_id);
create index event_pending on event (page_id, lane, number) where state = 'pending';
create index event_unknown_page on event (page_id, number) where state = 'unknown_page';
create index event_parked on event (page_id, event_id) where state = 'parked';
alter table event add primary key (page_id, event_key);

create table conversation (
    page_id text collate "C" not null,
    participant_id text collate "C" not null,
    participant_name text,
    thread_id text collate "C",
    updated_at timestamptz not null,
    snippet text not null default '',
    unread_count int not null default 0,
    last_inbound_at timestamptz,
    last_outbound_at timestamptz,
    read_watermark timestamptz,
    read_mid text collate "C",
    delivered_watermark timestamptz,
    automation_paused_until timestamptz
) with (fillfactor = 80);
create index conversation_by_update on conversation (page_id, updated_at desc, participant_id);
alter table conversation add primary key (page_id, participant_id);

create table message (
    page_id text collate "C" not null,
    mid text collate "C" not null,
    participant_id text collate "C" not null,
    direction text not null check (direction in ('inbound', 'outbound')),
    kind text not null check (kind in ('message', 'story_reply', 'story_mention', 'postback')),
    text text,
    attachments bytea,
    created_at timestamptz not null,
    edit_number int not null default 0,
    edited_at timestamptz,
    is_deleted boolean not null default false,
    is_archived boolean not null default false,
    is_unsupported boolean not null default false,
    recovered boolean not null default false,
    app_id text,
    reply_id bigint
) with (fillfactor = 90);
comment on column message.attachments is 'pagewire.type.v1.MessageDetail with attachments alone, as protobuf';
create index message_by_conversation on message (page_id, participant_id, created_at desc) include (mid);
create index message_unarchived on message (page_id, participant_id, created_at desc) where not is_archived;
alter table message add primary key (page_id, mid);

create table comment (
    page_id text collate "C" not null,
    comment_id text collate "C" not null,
    post_id text collate "C",
    parent_id text collate "C",
    root_id text collate "C" not null,
    from_id text collate "C",
    from_name text,
    text text,
    attachments bytea,
    created_at timestamptz not null,
    edited_at timestamptz,
    is_hidden boolean not null default false,
    hidden_at timestamptz,
    is_deleted boolean not null default false,
    is_archived boolean not null default false,
    is_own boolean not null default false,
    is_live boolean not null default false,
    answered_at timestamptz,
    reply_id bigint
);
comment on column comment.hidden_at is 'entry.time of the newest hide or unhide';
create index comment_by_time on comment (page_id, created_at desc, comment_id);
alter table comment add primary key (page_id, comment_id);

create table reaction (
    page_id text collate "C" not null,
    target_id text collate "C" not null,
    person_id text collate "C" not null,
    reaction text,
    emoji text,
    removed boolean not null,
    reacted_at timestamptz not null,
    primary key (page_id, target_id, person_id)
);

create table label (
    page_id text collate "C" not null,
    name text not null,
    label_id text collate "C",
    primary key (page_id, name)
);

create table person_label (
    page_id text collate "C" not null,
    person_id text collate "C" not null,
    name text not null,
    primary key (page_id, person_id, name)
);

create table decision (
    page_id text collate "C" not null,
    event_id bigint not null,
    trigger smallint not null,
    outcome text not null check (outcome in ('answered', 'declined', 'expired', 'failed')),
    reason text not null,
    verdicts bytea not null,
    book_version bigint not null,
    received_at timestamptz not null,
    stored_at timestamptz not null,
    decided_at timestamptz not null default clock_timestamp(),
    epoch bigint
);
comment on column decision.epoch is
    'of its lane, under which it was decided; none where no dispatcher did';
comment on column decision.verdicts is 'pagewire.type.v1.Decision with its rules alone, as protobuf';
create index decision_by_time on decision (page_id, decided_at desc, event_id desc);
create index decision_of_all_by_time on decision (decided_at desc, event_id desc);
alter table decision add primary key (page_id, event_id);

create table fired_rule (
    page_id text collate "C" not null,
    event_id bigint not null,
    rule_id text collate "C" not null,
    rule_version bigint not null,
    primary key (page_id, event_id, rule_id)
);
comment on table fired_rule is 'one row an event and rule, whatever its version: a rule fires once for an event';

create table mark (
    page_id text collate "C" not null,
    mark_key text collate "C" not null,
    event_id bigint not null,
    rule_id text collate "C" not null,
    reply_id bigint,
    until timestamptz,
    released boolean not null default false,
    primary key (page_id, mark_key)
);
comment on column mark.mark_key is 'once:<rule>:<space>:<person>, cooldown:<rule>:<space>:<person>, or day:<rule>:<space>:<person>:<UTC date>:<n>';
comment on column mark.reply_id is 'the reply that the mark stands for: FAILED or EXPIRED releases it';
comment on column mark.released is 'free for whoever comes; kept, so that a late acceptance can take it back while nobody did';
create index mark_by_reply on mark (page_id, reply_id) where reply_id is not null;

create table outbox (
    page_id text collate "C" not null,
    reply_id bigint not null,
    lane text collate "C" not null,
    ordinal bigint not null,
    kind text not null
        check (kind in ('message', 'private_reply', 'comment_reply', 'hide_comment', 'add_label', 'remove_label')),
    origin text not null check (origin in ('rule', 'person')),
    event_id bigint,
    rule_id text collate "C",
    action_index int,
    client_key text collate "C",
    request_hash bytea,
    person_id text collate "C",
    comment_id text collate "C",
    content bytea,
    hidden boolean,
    label text,
    message_tag text,
    state text not null
        check (state in ('ready', 'sending', 'uncertain', 'sent', 'failed', 'expired', 'parked')),
    state_reason text not null default '',
    attempt int not null default 0,
    tag text collate "C",
    lease_owner text,
    lease_until timestamptz,
    not_before timestamptz,
    expires_at timestamptz not null,
    uncertain_at timestamptz,
    uncertain_before boolean not null default false,
    clean_looks int not null default 0,
    look_due_at timestamptz,
    look_lease_until timestamptz,
    mid text collate "C",
    settled_by text check (settled_by in ('response', 'echo', 'readback', 'webhook', 'person')),
    created_at timestamptz not null default clock_timestamp(),
    sending_at timestamptz,
    sent_at timestamptz,
    ended_at timestamptz
) with (fillfactor = 70);
comment on column outbox.ordinal is 'drawn under the lane''s lock; the lowest unsettled one of a lane is the next to be sent';
create unique index outbox_once_per_action on outbox (page_id, event_id, rule_id, action_index) where event_id is not null;
create unique index outbox_client_key on outbox (page_id, client_key) where client_key is not null;
create unique index outbox_mid on outbox (page_id, mid) where mid is not null;
create unique index outbox_order on outbox (page_id, lane, ordinal);
create unique index outbox_one_in_flight on outbox (page_id, lane) where state in ('sending', 'uncertain');
create index outbox_unsettled on outbox (page_id, lane, ordinal) where state in ('ready', 'sending', 'uncertain');
create index outbox_ready on outbox (page_id, created_at) where state = 'ready';
create index outbox_expiring on outbox (expires_at) where state = 'ready';
create index outbox_parked on outbox (page_id, reply_id) where state = 'parked';
create index outbox_by_conversation on outbox (page_id, person_id, created_at desc);
create index outbox_by_time on outbox using brin (created_at) with (autosummarize = on);
create index outbox_by_comment on outbox (page_id, comment_id) where comment_id is not null;
alter table outbox add primary key (page_id, reply_id);

create table attempt (
    page_id text collate "C" not null,
    tag text collate "C" not null,
    reply_id bigint not null,
    number int not null,
    token_version bigint not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    verdict text,
    reason text,
    http_status int,
    code int,
    subcode int,
    mid text collate "C",
    settled_by text
);
create index attempt_by_time on attempt using brin (started_at) with (autosummarize = on);
create index attempt_by_reply on attempt (page_id, reply_id);
create unique index attempt_by_tag on attempt (tag);
alter table attempt add primary key (page_id, tag);

create table rule (
    rule_id text collate "C" primary key,
    version bigint not null,
    definition bytea not null,
    priority int not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    deleted_at timestamptz
);
comment on column rule.definition is 'pagewire.type.v1.Rule as protobuf';
create index rule_by_priority on rule (priority desc, created_at, rule_id) where deleted_at is null;

create table rule_page (
    page_id text collate "C" not null,
    rule_id text collate "C" not null references rule on delete cascade,
    primary key (page_id, rule_id)
);
comment on table rule_page is 'which rules are in a page''s book; the page id * stands for every page';

create table rule_version (
    rule_id text collate "C" not null references rule on delete cascade,
    version bigint not null,
    definition bytea not null,
    deleted boolean not null,
    actor text not null,
    changed_at timestamptz not null,
    primary key (rule_id, version)
);

create table rule_book (
    page_id text collate "C" primary key,
    version bigint not null
);
comment on table rule_book is
    'the version of each page''s own rules (* for every page''s, # for the counter that all draw from and that serialises rule writes)';
insert into rule_book values ('#', 0), ('*', 0);

create table audit (
    audit_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    role text not null,
    actor text not null,
    action text not null,
    subject text not null,
    detail text not null default ''
);
"""

DOWN = """
drop table audit, rule_book, rule_version, rule_page, rule, attempt, outbox, mark, fired_rule, decision,
    person_label, label, reaction, comment, message, conversation, event, lane, quarantine, delivery, page;
drop sequence reply_number, event_number;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
