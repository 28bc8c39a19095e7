import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.page_care_service_pb2 import (
    ClaimPageChecksRequest,
    GetPageCredentialsRequest,
    RecordPageCheckRequest,
    ReplaceTokenRequest,
)
from pagewire.store.v1.page_care_service_pb2_grpc import (
    PageCareServiceStub,
    add_PageCareServiceServicer_to_server,
)
from pagewire.type.v1.page_pb2 import (
    PAGE_STATE_BLOCKED,
    PAGE_STATE_EXPIRING,
    PAGE_STATE_HEALTHY,
    PAGE_STATE_UNSPECIFIED,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store.database import Pools
from pagewire_store.page_care_servicer import PageCareServicer
from pagewire_store.waking import Waking
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import KEYS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.page_care_service_pb2_grpc import PageCareServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]

SOON = Timestamp(seconds=4_000_000_000)


class Count:
    def __init__(self) -> None:
        self.value = 0

    def __call__(self) -> None:
        self.value += 1


@pytest.fixture
def checks(database_url: str) -> Waking:
    return Waking(database_url)


@pytest.fixture
def checked() -> Count:
    return Count()


@pytest.fixture
async def service(
    pools: Pools, checks: Waking, checked: Count
) -> "AsyncIterator[PageCareServiceAsyncStub]":
    servicer = PageCareServicer(
        pools.general, KEYS, checks, lease=timedelta(minutes=1), checked=checked
    )
    async with channel_to(
        lambda server: add_PageCareServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        yield PageCareServiceStub(channel)


async def due_page(rows: Rows, page_id: str, **values: Any) -> None:
    await rows.add_page(page_id, **values)
    await rows.query(
        "update page set check_due_at = now() - interval '1 s' where page_id = :id", id=page_id
    )


async def claimed(service: "PageCareServiceAsyncStub", at_most: int = 10) -> list[str]:
    answer = await service.ClaimPageChecks(ClaimPageChecksRequest(max_pages=at_most))
    return sorted(page.page_id for page in answer.pages)


def found(**fields: Any) -> RecordPageCheckRequest:
    values: dict[str, Any] = {
        "page_id": "1",
        "state": PAGE_STATE_HEALTHY,
        "next_check_time": SOON,
        "token_version": 1,
    }
    return RecordPageCheckRequest(**(values | fields))


async def test_a_due_check_is_given_to_one_caller(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await due_page(rows, "1")

    claims = await asyncio.gather(*(claimed(service) for _ in range(5)))

    assert sorted(claims) == [[], [], [], [], ["1"]]


async def test_pages_not_due_and_disconnected_ones_are_not_checked(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")
    await due_page(rows, "2", connected=False)
    await due_page(rows, "3")
    await due_page(rows, "4")

    assert len(await claimed(service, at_most=1)) == 1
    assert len(await claimed(service)) == 1
    assert await claimed(service) == []


async def test_a_check_whose_caller_died_is_given_again_after_its_lease(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await due_page(rows, "1")
    await claimed(service)
    await rows.query("update page set check_lease_until = now() - interval '1 s'")

    assert await claimed(service) == ["1"]


async def test_who_waits_for_a_check_gets_it_as_soon_as_it_is_due(
    service: "PageCareServiceAsyncStub", rows: Rows, checks: Waking
) -> None:
    async def wait() -> list[str]:
        request = ClaimPageChecksRequest(max_pages=1, wait=Duration(seconds=4))
        return [page.page_id for page in (await service.ClaimPageChecks(request)).pages]

    waiting = asyncio.create_task(wait())
    await due_page(rows, "1")
    while not waiting.done():
        checks.wake()
        await asyncio.sleep(0.01)

    assert await waiting == ["1"]


async def test_a_claim_of_nothing_is_refused(service: "PageCareServiceAsyncStub") -> None:
    with pytest.raises(Refusal) as refused:
        await service.ClaimPageChecks(ClaimPageChecksRequest())

    assert refused.value.kind is Kind.INVALID


async def test_what_a_check_found_is_written_and_the_next_is_due_when_said(
    service: "PageCareServiceAsyncStub", rows: Rows, checked: Count
) -> None:
    await due_page(rows, "1")
    await claimed(service)

    await service.RecordPageCheck(found(state=PAGE_STATE_EXPIRING, state_reason="token_expires"))

    row = await rows.one(
        "select state, state_reason, extract(epoch from check_due_at) as due, check_lease_until"
        " from page"
    )
    assert tuple(row) == ("expiring", "token_expires", 4_000_000_000, None)
    assert checked.value == 1


async def test_a_blocked_page_is_blocked_from_the_first_time_it_was_found_so(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    await service.RecordPageCheck(found(state=PAGE_STATE_BLOCKED))
    first = await rows.one("select state, blocked_at from page")
    await service.RecordPageCheck(found(state=PAGE_STATE_BLOCKED))
    second = await rows.one("select state, blocked_at from page")

    assert first.state == "blocked"
    assert first.blocked_at is not None
    assert second.blocked_at == first.blocked_at


async def test_a_page_found_healthy_again_is_unblocked(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1", state="blocked")
    await rows.query("update page set blocked_at = now()")

    await service.RecordPageCheck(found())

    assert tuple(await rows.one("select state, blocked_at from page")) == ("healthy", None)


async def test_a_check_of_an_older_token_changes_nothing(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await due_page(rows, "1", token_version=2)
    before = await rows.one("select * from page")

    await service.RecordPageCheck(found(state=PAGE_STATE_BLOCKED, token_version=1))

    assert await rows.one("select * from page") == before


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("state", {"state": PAGE_STATE_UNSPECIFIED}),
        ("state", {"state": 99}),
        ("state_reason", {"state_reason": "x" * 201}),
        ("next_check_time", {"next_check_time": None}),
    ],
)
async def test_a_check_that_does_not_say_what_it_found_is_refused(
    service: "PageCareServiceAsyncStub", rows: Rows, field: str, fields: dict[str, Any]
) -> None:
    await rows.add_page("1")

    with pytest.raises(Refusal) as refused:
        await service.RecordPageCheck(found(**fields))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, field)


async def test_a_pages_token_is_handed_to_sync(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1", token_version=7)

    answer = await service.GetPageCredentials(GetPageCredentialsRequest(page_id="1"))

    assert (answer.access_token, answer.token_version) == ("token-of-1", 7)
    assert answer.page.page_id == "1"


async def test_another_pages_ciphertext_is_not_handed_out(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1", token=KEYS.seal("2", "token-of-2"))

    with pytest.raises(Refusal) as refused:
        await service.GetPageCredentials(GetPageCredentialsRequest(page_id="1"))

    assert (refused.value.kind, refused.value.reason) == (Kind.STATE, "TOKEN_UNREADABLE")
    assert "token-of-2" not in refused.value.message


@pytest.mark.parametrize("page_id", ["2", "3", ""])
async def test_a_page_that_is_not_connected_has_neither_check_nor_token(
    service: "PageCareServiceAsyncStub", rows: Rows, page_id: str
) -> None:
    await rows.add_page("2", connected=False, token=None)

    with pytest.raises(Refusal) as no_token:
        await service.GetPageCredentials(GetPageCredentialsRequest(page_id=page_id))
    with pytest.raises(Refusal) as no_check:
        await service.RecordPageCheck(found(page_id=page_id))

    assert no_token.value.reason == no_check.value.reason == "PAGE_UNKNOWN"
    assert no_token.value.kind is no_check.value.kind is Kind.MISSING


async def stored_token(rows: Rows) -> tuple[str, int]:
    row = await rows.one("select token, token_version from page where page_id = '1'")
    return KEYS.open("1", row.token), row.token_version


def refreshed(**fields: Any) -> ReplaceTokenRequest:
    values: dict[str, Any] = {
        "page_id": "1",
        "access_token": "EAArefreshed",
        "token_version": 1,
        "expire_time": SOON,
    }
    return ReplaceTokenRequest(**(values | fields))


async def test_a_refreshed_token_is_sealed_in_the_place_of_the_one_it_was_made_from(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    answer = await service.ReplaceToken(refreshed())

    row = await rows.one("select cast(page as text) as shown, token from page")
    kept = await service.GetPageCredentials(GetPageCredentialsRequest(page_id="1"))
    assert answer.token_version == 2
    assert await stored_token(rows) == ("EAArefreshed", 2)
    assert bytes(row.token).startswith(KEYS.prefix)
    assert b"EAArefreshed".hex() not in row.shown
    assert (kept.access_token, kept.token_version) == ("EAArefreshed", 2)
    assert kept.page.token_expire_time == SOON


async def test_a_token_made_from_one_that_was_replaced_since_is_refused(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1", token_version=3)

    with pytest.raises(Refusal) as refused:
        await service.ReplaceToken(refreshed(token_version=2))

    assert (refused.value.kind, refused.value.reason) == (Kind.STATE, "TOKEN_REPLACED")
    assert "EAArefreshed" not in refused.value.message
    assert await stored_token(rows) == ("token-of-1", 3)
    assert not await rows.query("select 1 from audit")


async def test_of_two_that_refresh_at_once_one_is_told_of_the_other(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    ends = await asyncio.gather(
        *(service.ReplaceToken(refreshed(access_token=f"EAA{n}")) for n in range(4)),
        return_exceptions=True,
    )

    refusals = [end for end in ends if isinstance(end, Refusal)]
    assert [refusal.reason for refusal in refusals] == ["TOKEN_REPLACED"] * 3
    assert (await stored_token(rows))[1] == 2


async def test_a_replacement_that_is_repeated_is_answered_the_same(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")
    first = await service.ReplaceToken(refreshed())

    assert await service.ReplaceToken(refreshed()) == first
    assert await stored_token(rows) == ("EAArefreshed", 2)


async def test_the_same_token_with_a_later_end_is_no_new_version(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    answer = await service.ReplaceToken(refreshed(access_token="token-of-1"))

    row = await rows.one("select extract(epoch from token_expires_at) as ends from page")
    assert answer.token_version == 1
    assert row.ends == SOON.seconds


async def test_a_token_that_no_key_opens_can_be_replaced(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1", token=b"\x04gone" + bytes(40))

    await service.ReplaceToken(refreshed())

    assert await stored_token(rows) == ("EAArefreshed", 2)


async def test_who_replaced_a_token_is_in_the_audit_and_the_token_is_not(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    await service.ReplaceToken(refreshed())

    row = await rows.one("select role, action, subject, cast(audit as text) as shown from audit")
    assert (row.role, row.action, row.subject) == ("sync", "page.refresh_token", "1")
    assert "EAArefreshed" not in row.shown


@pytest.mark.parametrize("access_token", ["", "a b", "tok\u00e9n", "a" * 4097])
async def test_what_is_no_token_replaces_none(
    service: "PageCareServiceAsyncStub", rows: Rows, access_token: str
) -> None:
    await rows.add_page("1")

    with pytest.raises(Refusal) as refused:
        await service.ReplaceToken(refreshed(access_token=access_token))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, "access_token")
    assert await stored_token(rows) == ("token-of-1", 1)


@pytest.mark.parametrize("page_id", ["2", "3", ""])
async def test_the_token_of_a_page_that_is_not_connected_is_not_replaced(
    service: "PageCareServiceAsyncStub", rows: Rows, page_id: str
) -> None:
    await rows.add_page("2", connected=False, token=None)

    with pytest.raises(Refusal) as refused:
        await service.ReplaceToken(refreshed(page_id=page_id))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_when_a_token_ends_is_kept_until_a_check_says_something_else(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")

    await service.RecordPageCheck(found(token_expire_time=SOON))
    await service.RecordPageCheck(found())

    row = await rows.one("select extract(epoch from token_expires_at) as ends from page")
    assert row.ends == SOON.seconds


async def test_since_when_a_token_is_stored_is_told_with_it(
    service: "PageCareServiceAsyncStub", rows: Rows
) -> None:
    await rows.add_page("1")
    unknown = await service.GetPageCredentials(GetPageCredentialsRequest(page_id="1"))

    await service.ReplaceToken(refreshed())

    known = await service.GetPageCredentials(GetPageCredentialsRequest(page_id="1"))
    row = await rows.one("select extract(epoch from token_since) as since from page")
    assert not unknown.HasField("token_store_time")
    assert known.token_store_time.ToNanoseconds() / 1e9 == pytest.approx(float(row.since))
