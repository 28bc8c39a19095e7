"""Looking after connected pages: whose check is due, what a check found, and the token for it."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.page_care_service_pb2 import RecordPageCheckRequest
from pagewire.type.v1.page_pb2 import (
    PAGE_STATE_BLOCKED,
    PAGE_STATE_DEGRADED,
    PAGE_STATE_EXPIRING,
    PAGE_STATE_HEALTHY,
    Page,
    PageState,
)
from pagewire_runtime.errors import InvalidArgument
from pagewire_store.pages import COLUMNS, PageUnknown, let_clocks_run, page_from
from pagewire_store.tokens import TokenKeys

_REASON_MAX = 200
_STATES = {PAGE_STATE_HEALTHY, PAGE_STATE_EXPIRING, PAGE_STATE_DEGRADED, PAGE_STATE_BLOCKED}


class Credentials(NamedTuple):
    """A page with its token; `token_version` counts the token's changes."""

    page: Page
    access_token: str
    token_version: int


_CLAIM = text(f"""
    with due as materialized (
        select page_id as due_id from page
        where connected and check_due_at <= now()
            and (check_lease_until is null or check_lease_until < now())
        order by check_due_at limit :at_most
        for update skip locked
    )
    update page set check_lease_until = now() + :lease
    from due where page_id = due_id
    returning {COLUMNS}
""")  # noqa: S608  # the columns are a constant


async def claim_checks(connection: AsyncConnection, at_most: int, lease: timedelta) -> list[Page]:
    """Pages whose check is due, which nobody else is given before the lease ends."""
    rows = await connection.execute(_CLAIM, {"at_most": at_most, "lease": lease})
    return [page_from(row) for row in rows]


_HOLD = text("""
    select token_version from page where page_id = :page_id and connected for update
""")

_RECORD = text("""
    update page set
        state = :state, state_reason = :state_reason,
        check_due_at = cast(:next_check as timestamptz), check_lease_until = null,
        blocked_at = case when :state = 'blocked' then coalesce(blocked_at, now()) end
    where page_id = :page_id
""")


async def record_check(connection: AsyncConnection, found: RecordPageCheckRequest) -> None:
    """Writes down what a check found; changes nothing where it checked an older token.

    Raises PageUnknown, and InvalidArgument for a state or a time that is missing.
    """
    _check(found)
    held = (await connection.execute(_HOLD, {"page_id": found.page_id})).one_or_none()
    if held is None:
        raise PageUnknown(found.page_id)
    if held.token_version != found.token_version:
        return
    if found.state != PAGE_STATE_BLOCKED:
        await let_clocks_run(connection, found.page_id)
    values = {
        "page_id": found.page_id,
        "state": PageState.Name(found.state).removeprefix("PAGE_STATE_").lower(),
        "state_reason": found.state_reason,
        "next_check": found.next_check_time.ToJsonString(),
    }
    await connection.execute(_RECORD, values)


def _check(found: RecordPageCheckRequest) -> None:
    if found.state not in _STATES:
        raise InvalidArgument("state", "must say how the page is")
    if len(found.state_reason) > _REASON_MAX or "\0" in found.state_reason:
        raise InvalidArgument("state_reason", f"must be at most {_REASON_MAX} characters")
    if not found.HasField("next_check_time"):
        raise InvalidArgument("next_check_time", "must say when to check again")


_CREDENTIALS = text(f"""
    select {COLUMNS}, token, token_version from page where page_id = :page_id and connected
""")  # noqa: S608


async def credentials(connection: AsyncConnection, keys: TokenKeys, page_id: str) -> Credentials:
    """The page's token. Raises PageUnknown, or TokenUnreadable where no key of ours opens it."""
    row = (await connection.execute(_CREDENTIALS, {"page_id": page_id})).one_or_none()
    if row is None:
        raise PageUnknown(page_id)
    return Credentials(page_from(row), keys.open(page_id, row.token), row.token_version)
