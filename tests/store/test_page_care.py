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
