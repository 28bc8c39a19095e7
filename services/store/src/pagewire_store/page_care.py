"""Looking after connected pages: whose check is due, what a check found, and the token for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.page_care_service_pb2 import RecordPageCheckRequest, ReplaceTokenRequest
from pagewire.type.v1.page_pb2 import (
    PAGE_STATE_BLOCKED,
    PAGE_STATE_DEGRADED,
    PAGE_STATE_EXPIRING,
    PAGE_STATE_HEALTHY,
    Page,
    PageState,
)
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_store import audit
from pagewire_store.pages import COLUMNS, PageUnknown, check_token, let_clocks_run, page_from
from pagewire_store.tokens import TokenKeys, TokenUnreadable

_REASON_MAX = 200
_STATES = {PAGE_STATE_HEALTHY, PAGE_STATE_EXPIRING, PAGE_STATE_DEGRADED, PAGE_STATE_BLOCKED}


class TokenReplaced(Refusal):
    """A token made from one that is not stored any more: somebody has given another since."""

    kind = Kind.STATE
    reason = "TOKEN_REPLACED"

    def __init__(self, page_id: str) -> None:
        super().__init__(
            f"another token of page {page_id} is stored by now: ask for that one", page_id=page_id
        )


class Credentials(NamedTuple):
    """A page with its token; `token_version` counts the token's changes, `since` is when it came
    to be stored.
    """

    page: Page
    access_token: str
    token_version: int
    since: datetime | None


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
        token_expires_at = coalesce(cast(:token_expires as timestamptz), token_expires_at),
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
        "token_expires": found.token_expire_time.ToJsonString()
        if found.HasField("token_expire_time")
        else None,
    }
    await connection.execute(_RECORD, values)


def _check(found: RecordPageCheckRequest) -> None:
    if found.state not in _STATES:
        raise InvalidArgument("state", "must say how the page is")
    if len(found.state_reason) > _REASON_MAX or "\0" in found.state_reason:
        raise InvalidArgument("state_reason", f"must be at most {_REASON_MAX} characters")
    if not found.HasField("next_check_time"):
        raise InvalidArgument("next_check_time", "must say when to check again")


_HOLD_TOKEN = text("""
    select token, token_version from page where page_id = :page_id and connected for update
""")

_REPLACE = text("""
    update page set
        token = :token, token_version = token_version + :changes, token_since = now(),
        token_expires_at = cast(:token_expires as timestamptz)
    where page_id = :page_id
    returning token_version
""")


async def replace_token(
    connection: AsyncConnection, keys: TokenKeys, fresh: ReplaceTokenRequest
) -> int:
    """Puts a refreshed token in the place of the one that it was made from; returns its version.

    The same token with a later end is no new version, so that again is the same answer. Raises
    PageUnknown, TokenReplaced, and InvalidArgument for what is no token.
    """
    check_token(fresh.access_token)
    held = (await connection.execute(_HOLD_TOKEN, {"page_id": fresh.page_id})).one_or_none()
    if held is None:
        raise PageUnknown(fresh.page_id)
    changes = not _is_stored(keys, fresh, held.token)
    if changes and held.token_version != fresh.token_version:
        raise TokenReplaced(fresh.page_id)
    values = {
        "page_id": fresh.page_id,
        "changes": int(changes),
        "token": keys.seal(fresh.page_id, fresh.access_token),
        "token_expires": fresh.expire_time.ToJsonString()
        if fresh.HasField("expire_time")
        else None,
    }
    version = (await connection.execute(_REPLACE, values)).scalar_one()
    await audit.record(connection, "page.refresh_token", fresh.page_id)
    return int(version)


def _is_stored(keys: TokenKeys, fresh: ReplaceTokenRequest, sealed: bytes) -> bool:
    try:
        return keys.open(fresh.page_id, sealed) == fresh.access_token
    except TokenUnreadable:
        return False


_CREDENTIALS = text(f"""
    select {COLUMNS}, token, token_version, token_since from page
    where page_id = :page_id and connected
""")  # noqa: S608


async def credentials(connection: AsyncConnection, keys: TokenKeys, page_id: str) -> Credentials:
    """The page's token. Raises PageUnknown, or TokenUnreadable where no key of ours opens it."""
    row = (await connection.execute(_CREDENTIALS, {"page_id": page_id})).one_or_none()
    if row is None:
        raise PageUnknown(page_id)
    token = keys.open(page_id, row.token)
    return Credentials(page_from(row), token, row.token_version, row.token_since)
