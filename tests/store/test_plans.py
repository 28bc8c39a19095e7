"""Plans are kept, so each must find rows by their keys: in empty, small and large tables."""

import re
from types import ModuleType

import psycopg
import pytest

from pagewire_store import (
    claiming,
    committing,
    echoes,
    marks,
    mirror_statements,
    nameless,
    outbox,
    projecting,
    settling,
    showing,
    statements,
    takeovers,
)
from pagewire_store.columns import Bulk
from pagewire_store.database import BY_KEY
from pagewire_store.mirror_statements import OfPage
from pagewire_store.trips import Statement
from tests.support.servers import database_url, migrated_template, postgres_server

__all__ = ["database_url", "migrated_template", "postgres_server"]

MODULES = [
    claiming,
    committing,
    echoes,
    marks,
    mirror_statements,
    nameless,
    outbox,
    projecting,
    settling,
    showing,
    statements,
    takeovers,
]

BY_PAGE = {
    "event_by_id",
    "message_by_conversation",
    "message_unarchived",
    "conversation_by_update",
    "comment_by_time",
    "decision_by_time",
    "outbox_order",
    "outbox_by_conversation",
}
"""Indexes that begin as their table's key does, so that they find a page's rows, not one row."""

MEANT = {
    "_RATES": {"outbox_order", "outbox_by_conversation"},
    "_PAGE_RATES": {"decision_by_time"},
    "_PAUSE_BY_WAITING_ECHOES": {"message_by_conversation"},
    "_WAITING_FOR_ANYBODY": {"conversation_by_update"},
    "CONVERSATIONS": {"message_by_conversation"},
    "HELD_CONVERSATIONS": {"message_by_conversation"},
    "STORED_MESSAGES": {"message_by_conversation"},
    # Rare, and for nobody on Instagram, where a commenter's id is the one to write to.
    "_TO_ANYBODY": {"outbox_by_conversation"},
}
"""Statements that look for rows as those indexes hold them."""

MAY_BE_READ = re.compile(
    r"(using|on) (lane_pending|outbox_(ready|expiring|one_in_flight|unsettled)|page_\w+) "
)
"""Indexes that hold what waits or is under way and nothing else; and pages, of which few are."""

FILL = """
insert into page (page_id, platform, login, name, state, connected, connected_at)
select p::text, 'messenger', 'facebook', 'x', 'healthy', true, now() from generate_series(1, 3) p;
create temporary view n as
select n, (n % 3 + 1)::text as page, (n / 10)::text as person, 'person:' || n / 10 as lane
from generate_series(1, {rows}) n;
insert into lane (page_id, lane) select distinct page, lane from n;
insert into conversation (page_id, participant_id, updated_at)
select distinct page, person, now() from n;
insert into event (page_id, event_key, event_id, number, lane, kind, trigger, source, person_id,
    event_time, received_at, delivery_id, state, detail)
select page, 'message:m_' || n, n, n, lane, 1, 1, 1, person, now(), now(), gen_random_uuid(),
    'done', '' from n;
insert into message (page_id, mid, participant_id, direction, kind, text, created_at)
select page, 'm_' || n, person, 'inbound', 'message', 'x', now() from n;
insert into comment (page_id, comment_id, post_id, root_id, from_id, created_at)
select page, 'c_' || n, 'p', 'c_' || n, 'x', now() from n;
insert into decision (page_id, event_id, trigger, outcome, reason, verdicts, book_version,
    received_at, stored_at)
select page, n, 1, 'answered', 'fired', '', 1, now(), now() from n;
insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id, state, expires_at,
    mid, tag)
select page, n, lane, n, 'message', 'rule', person, 'sent', now(), 'm_out_' || n, 'pw1.' || n
from n;
insert into attempt (page_id, tag, reply_id, number, token_version, started_at)
select page, 'pw1.' || n, n, 1, 1, now() from n;
insert into mark (page_id, mark_key, event_id, rule_id, reply_id)
select page, 'once:' || n, n, 'r', n from n;
insert into delivery (delivery_id, received_at, signed_by, body, events, outcome)
select gen_random_uuid(), now(), 'app', 'x', 1, 'parsed' from n;
"""


def statements_of(module: ModuleType) -> dict[str, str]:
    said = {name: one for name, one in vars(module).items() if isinstance(one, Bulk | Statement)}
    of_page = {name: one for name, one in vars(module).items() if isinstance(one, OfPage)}
    return {
        name: one.sql if isinstance(one, Bulk) else one.sql.decode() for name, one in said.items()
    } | {name: one.carried.sql.decode() for name, one in of_page.items()}


def reads_all(plan: str) -> bool:
    """Whether a table of many rows, or an index that holds all of one, is read from end to end."""
    scans = [node for node in re.split(r"\n\s*->  ", plan) if re.search(r"(Index|Only) Scan", node)]
    whole = [node for node in scans if "Index Cond" not in node and not MAY_BE_READ.search(node)]
    return "Seq Scan" in plan or bool(whole)


@pytest.mark.parametrize(
    ("rows", "analyzed"),
    [(0, False), (30, False), (300, False), (3_000, False), (20_000, False), (5_000, True)],
)
async def test_a_kept_plan_finds_rows_by_their_keys_however_many_there_are(
    database_url: str, rows: int, analyzed: bool
) -> None:
    wrong = {}

    async with await psycopg.AsyncConnection.connect(
        database_url, autocommit=True, options=BY_KEY.strip()
    ) as planner:
        if rows:
            await planner.execute(FILL.format(rows=rows).encode())
        if analyzed:
            await planner.execute("analyze")
        for module in MODULES:
            for name, sql in statements_of(module).items():
                found = await planner.execute(f"explain (generic_plan) {sql}".encode())
                plan = "\n".join(row[0] for row in await found.fetchall())
                by_page = set(re.findall(r"(?:using|Scan on) (\w+) ", plan)) & BY_PAGE
                if by_page - MEANT.get(name, set()) or reads_all(plan):
                    wrong[module.__name__, name] = plan

    assert not wrong, "\n\n".join(f"{name}\n{plan}" for name, plan in wrong.items())


def test_each_of_these_modules_has_statements_that_are_kept() -> None:
    assert all(statements_of(module) for module in MODULES)
