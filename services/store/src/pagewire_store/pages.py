"""Pages: connecting, showing and disconnecting them; a token goes in sealed and stays so."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.type.v1.page_pb2 import (
    LOGIN_FACEBOOK,
    LOGIN_INSTAGRAM,
    LOGIN_UNSPECIFIED,
    PLATFORM_INSTAGRAM,
    PLATFORM_MESSENGER,
    Login,
    Page,
    PageState,
    Platform,
)
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_store.page_tokens import Position
from pagewire_store.tokens import TokenKeys, TokenUnreadable

_PAGE_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_NAME_MAX = 200
_TOKEN_MAX = 4096


class PageUnknown(Refusal):
    """No page of this id is connected."""

    kind = Kind.MISSING
    reason = "PAGE_UNKNOWN"

    def __init__(self, page_id: str) -> None:
        super().__init__(f"no page {page_id} is connected", page_id=page_id)


class PageOfOtherPlatform(Refusal):
    """The id belongs to a page of the other platform; what is stored under it is that page's."""

    kind = Kind.EXISTS
    reason = "PAGE_OTHER_PLATFORM"


class PageStillEnding(Refusal):
    """What a page had left to be done when it was disconnected takes longer to end than a call."""

    kind = Kind.TRANSIENT
    reason = "PAGE_STILL_ENDING"

    def __init__(self, page_id: str) -> None:
        super().__init__(
            f"what {page_id} had left to be done when it was disconnected is still being ended:"
            " connect it again in a moment",
            retry_after=1,
            page_id=page_id,
        )


class Connected(NamedTuple):
    """A page after it was connected, and whether it was not before."""

    page: Page
    created: bool


COLUMNS = """
    page_id, platform, login, facebook_page_id, name, state, state_reason, connected_at,
    token_expires_at,
    (
        select synced_at from mirror
        where mirror.page_id = page.page_id and mirror.kind = 'conversations'
    ) as last_synced_at
"""
"""What `page_from` reads of a row of table page."""


def page_from(row: Row[Any]) -> Page:
    """The page as callers see it."""
    return Page(
        page_id=row.page_id,
        platform=Platform.Value(f"PLATFORM_{row.platform.upper()}"),
        login=Login.Value(f"LOGIN_{row.login.upper()}"),
        facebook_page_id=row.facebook_page_id,
        name=row.name,
        state=PageState.Value(f"PAGE_STATE_{row.state.upper()}"),
        state_reason=row.state_reason,
        connect_time=row.connected_at,
        last_synced_time=row.last_synced_at,
        token_expire_time=row.token_expires_at,
    )


def check(page: Page, access_token: str) -> None:
    """Raises InvalidArgument, with the field's name, where the page can't be connected so."""
    if not _PAGE_ID.fullmatch(page.page_id):
        raise InvalidArgument("page.page_id", "must be 1 to 128 of A-Z a-z 0-9 . _ ~ -")
    if page.platform not in (PLATFORM_MESSENGER, PLATFORM_INSTAGRAM):
        raise InvalidArgument("page.platform", "must be messenger or instagram")
    if page.login not in (LOGIN_UNSPECIFIED, LOGIN_FACEBOOK, LOGIN_INSTAGRAM):
        raise InvalidArgument("page.login", "must be facebook or instagram")
    if page.login == LOGIN_INSTAGRAM and page.platform != PLATFORM_INSTAGRAM:
        raise InvalidArgument("page.login", "instagram is for accounts of instagram only")
    _check_linked_page(page)
    if not 1 <= len(page.name) <= _NAME_MAX or "\0" in page.name:
        raise InvalidArgument("page.name", f"must be 1 to {_NAME_MAX} characters")
    check_token(access_token)


def _check_linked_page(page: Page) -> None:
    if not page.facebook_page_id:
        return
    if page.login == LOGIN_INSTAGRAM:
        raise InvalidArgument("page.facebook_page_id", "is for the login facebook only")
    if not _PAGE_ID.fullmatch(page.facebook_page_id):
        raise InvalidArgument("page.facebook_page_id", "must be 1 to 128 of A-Z a-z 0-9 . _ ~ -")


def check_token(value: str) -> None:
    """Raises InvalidArgument for what is no access token."""
    if not (1 <= len(value) <= _TOKEN_MAX and all("!" <= character <= "~" for character in value)):
        raise InvalidArgument(
            "access_token", f"must be 1 to {_TOKEN_MAX} printable ASCII characters, no spaces"
        )


_MAKE = text("""
    insert into page (page_id, platform, login, name, state, connected, connected_at)
    values (:page_id, :platform, :login, :name, 'degraded', false, now())
    on conflict (page_id) do nothing
""")

_HOLD = text("""
    select page_id, platform, connected, token, token_version from page
    where page_id = :page_id for update
""")

_CONNECT = text(f"""
    update page set
        login = :login, facebook_page_id = nullif(:facebook_page_id, ''), name = :name,
        token = :token, token_version = :token_version,
        token_since = case when token_version = :token_version then token_since else now() end,
        token_expires_at = case when token_version = :token_version then token_expires_at end,
        state = 'degraded', state_reason = 'not_checked', blocked_at = null,
        connected_at = case when connected then connected_at else now() end, connected = true,
        check_due_at = now(), check_lease_until = null
    where page_id = :page_id
    returning {COLUMNS}
""")  # noqa: S608  # the columns are a constant


_HOLD_DISCONNECTED = text("""
    select 1 from page where page_id = :page_id and not connected for update
""")


async def hold_disconnected(connection: AsyncConnection, page_id: str) -> bool:
    """Whether the page was disconnected; nobody connects it then before the transaction ends."""
    held = await connection.execute(_HOLD_DISCONNECTED, {"page_id": page_id})
    return held.one_or_none() is not None


async def connect(
    connection: AsyncConnection, keys: TokenKeys, page: Page, access_token: str
) -> Connected:
    """Connects the page, or updates it; its check is due at once and it is blocked no more.

    `page` and `access_token` have passed `check`. Raises PageOfOtherPlatform.
    """
    values = {
        "page_id": page.page_id,
        "platform": Platform.Name(page.platform).removeprefix("PLATFORM_").lower(),
        "login": "instagram" if page.login == LOGIN_INSTAGRAM else "facebook",
        "name": page.name,
        "facebook_page_id": page.facebook_page_id,
    }
    await connection.execute(_MAKE, values)
    before = (await connection.execute(_HOLD, values)).one()
    if before.platform != values["platform"]:
        raise PageOfOtherPlatform(
            f"{page.page_id} is a page of {before.platform}: it can't be connected as another",
            page_id=page.page_id,
            platform=before.platform,
        )
    await let_clocks_run(connection, page.page_id)
    token = {
        "token": keys.seal(page.page_id, access_token),
        "token_version": before.token_version + _changes(keys, before, access_token),
    }
    after = (await connection.execute(_CONNECT, values | token)).one()
    return Connected(page_from(after), created=not before.connected)


def _changes(keys: TokenKeys, before: Row[Any], access_token: str) -> int:
    """1 where the token is another than the stored one, which counts its versions; else 0."""
    if before.token is None:
        return 1
    try:
        return int(keys.open(before.page_id, before.token) != access_token)
    except TokenUnreadable:
        return 1


_LET_RUN = text("""
    update outbox set uncertain_at = uncertain_at + (now() - greatest(uncertain_at, blocked_at))
    from page
    where page.page_id = :page_id and page.blocked_at is not null
        and outbox.page_id = page.page_id and outbox.state = 'uncertain'
""")


async def let_clocks_run(connection: AsyncConnection, page_id: str) -> None:
    """Before a page is unblocked: the time that it was blocked is none of its uncertain replies'.

    A reply's end (`expires_at`) stays: Meta's windows do not wait for a page.
    """
    await connection.execute(_LET_RUN, {"page_id": page_id})


_GET = text(f"select {COLUMNS} from page where page_id = :page_id and connected")  # noqa: S608


async def get(connection: AsyncConnection, page_id: str) -> Page:
    """The connected page. Raises PageUnknown."""
    row = (await connection.execute(_GET, {"page_id": page_id})).one_or_none()
    if row is None:
        raise PageUnknown(page_id)
    return page_from(row)


_IS_KNOWN = text("select 1 from page where page_id = :page_id")


async def require_known(connection: AsyncConnection, page_id: str) -> None:
    """Raises PageUnknown where nothing is stored of the page; one disconnected may be read."""
    if (await connection.execute(_IS_KNOWN, {"page_id": page_id})).one_or_none() is None:
        raise PageUnknown(page_id)


_LIST = text(f"""
    select {COLUMNS} from page
    where connected
        and (cast(:connected_at as text) is null
            or (connected_at, page_id) < (cast(:connected_at as timestamptz), :page_id))
    order by connected_at desc, page_id desc
    limit :at_most
""")  # noqa: S608


async def list_connected(
    connection: AsyncConnection, after: Position | None, at_most: int
) -> list[Page]:
    """Connected pages, those connected last first, behind the position of `position_of`."""
    connected_at, page_id = after or (None, None)
    values = {"connected_at": connected_at, "page_id": page_id, "at_most": at_most}
    return [page_from(row) for row in await connection.execute(_LIST, values)]


def position_of(page: Page) -> Position:
    """Where a list goes on behind this page."""
    return (page.connect_time.ToJsonString(), page.page_id)


_DISCONNECT = text("""
    update page set
        connected = false, token = null, token_since = null, token_expires_at = null,
        state = 'degraded', state_reason = 'page_disconnected',
        blocked_at = null, check_due_at = null, check_lease_until = null
    where page_id = :page_id and connected
    returning 1
""")


async def disconnect(connection: AsyncConnection, page_id: str) -> None:
    """Erases the token; what is stored of the page stays. Raises PageUnknown."""
    if (await connection.execute(_DISCONNECT, {"page_id": page_id})).one_or_none() is None:
        raise PageUnknown(page_id)
