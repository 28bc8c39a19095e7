"""History: runs and what they reached, what could not be read, where webhooks may be missing.

A page's watermark moves out of `page`: that row is read by every ingest, and runs write often.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = """
create table sync_run (
    run_id text collate "C" primary key,
    page_id text collate "C" not null,
    kind text not null check (kind in ('conversations', 'comments')),
    mode text not null check (mode in ('full', 'incremental')),
    origin text not null check (origin in ('request', 'schedule', 'repair')),
    state text not null
        check (state in ('queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled')),
    gap_from timestamptz,
    conversations bigint not null default 0,
    messages bigint not null default 0,
    comments bigint not null default 0,
    graph_calls bigint not null default 0,
    stored bigint not null default 0,
    recovered bigint not null default 0,
    unreadable bigint not null default 0,
    expected bigint not null default 0,
    budget_left_percent int not null default 100,
    error text not null default '',
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    cancel_requested_at timestamptz,
    epoch bigint not null default 0,
    lease_owner text,
    lease_until timestamptz,
    checkpoint bytea
) with (fillfactor = 70);
comment on column sync_run.gap_from is 'a repair: since when webhooks may be missing';
comment on column sync_run.checkpoint is 'sync''s own format, to be handed to who takes the run over; dropped at the end';
create index sync_run_open on sync_run (page_id, kind, created_at) where state in ('queued', 'running');
create unique index sync_run_one_running on sync_run (page_id, kind) where state = 'running';
create index sync_run_ended on sync_run (finished_at) where finished_at is not null;
create index sync_run_of_page on sync_run (page_id, created_at desc, run_id desc);
create index sync_run_by_time on sync_run (created_at desc, run_id desc);

create table mirror (
    page_id text collate "C" not null,
    kind text not null check (kind in ('conversations', 'comments')),
    synced_at timestamptz,
    page_sizes jsonb not null default '{}',
    conversations bigint not null default 0,
    run_ended_at timestamptz,
    gap_from timestamptz,
    gap_cause text,
    gap_noticed_at timestamptz,
    repaired_at timestamptz,
    primary key (page_id, kind)
);
comment on column mirror.synced_at is 'everything up to then is stored; by Meta''s clock';
comment on column mirror.conversations is 'how many the last full run has gone through';
comment on column mirror.gap_from is 'webhooks may be missing since; null where none are';

create table unreadable_thread (
    page_id text collate "C" not null,
    thread_id text collate "C" not null,
    kind text not null check (kind in ('conversations', 'comments')),
    reason text not null,
    updated_at timestamptz,
    found_at timestamptz not null default clock_timestamp(),
    primary key (page_id, thread_id)
);

create table reception (
    edge text collate "C" primary key,
    seen_at timestamptz not null,
    bad_since timestamptz
);
comment on table reception is 'edges, and when each was last heard of: a time without any is a gap';
comment on column reception.bad_since is 'no signature was good since then, and some were bad';

insert into mirror (page_id, kind, synced_at)
    select page_id, 'conversations', last_synced_at from page where last_synced_at is not null;
alter table page drop column last_synced_at;
alter table page add column token_expires_at timestamptz;
alter table page add column token_since timestamptz;
comment on column page.token_since is 'it is at least that old';
update page set token_since = connected_at where connected;
alter table message alter column direction drop not null;
comment on column message.direction is 'null where Graph tells id and time alone';
alter table conversation add column name_asked_at timestamptz;
create index conversation_nameless on conversation (name_asked_at nulls first, last_inbound_at)
    where participant_name is null and last_inbound_at is not null;
"""

DOWN = """
drop index conversation_nameless;
alter table conversation drop column name_asked_at;
update message set direction = 'inbound' where direction is null;
alter table message alter column direction set not null;
alter table page drop column token_expires_at;
alter table page drop column token_since;
alter table page add column last_synced_at timestamptz;
update page set last_synced_at = mirror.synced_at
    from mirror where mirror.page_id = page.page_id and mirror.kind = 'conversations';
drop table reception, unreadable_thread, mirror, sync_run;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
