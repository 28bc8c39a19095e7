import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pagewire.store.v1.page_service_pb2 import (
    ConnectPageRequest,
    ConnectPageResponse,
    DisconnectPageRequest,
    GetPageRequest,
    ListPagesRequest,
)
from pagewire.store.v1.page_service_pb2_grpc import (
    PageServiceStub,
    add_PageServiceServicer_to_server,
)
from pagewire.type.v1.page_pb2 import (
    LOGIN_FACEBOOK,
    LOGIN_INSTAGRAM,
    PAGE_STATE_DEGRADED,
    PLATFORM_INSTAGRAM,
    PLATFORM_MESSENGER,
    Page,
)
from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store.database import Pools
from pagewire_store.page_servicer import PageServicer
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import KEYS, TOKENS, Rows, channel_to, pools, rows

if TYPE_CHECKING:
    from pagewire.store.v1.page_service_pb2_grpc import PageServiceAsyncStub

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]


class Wirings:
    """Notes what the servicer calls for beside its own rows."""

    def __init__(self) -> None:
        self.connected = 0
        self.ended: list[str] = []
        self.fails = False

    def on_connected(self) -> None:
        self.connected += 1

    async def end(self, connection: AsyncConnection, page_id: str) -> bool:
        if self.fails:
            raise ArithmeticError("ending failed")
        self.ended.append(page_id)
        return False


@pytest.fixture
def wirings() -> Wirings:
    return Wirings()


@pytest.fixture
async def service(pools: Pools, wirings: Wirings) -> "AsyncIterator[PageServiceAsyncStub]":
    servicer = PageServicer(
        pools.general, KEYS, TOKENS, connected=wirings.on_connected, end=wirings.end
    )
    async with channel_to(
        lambda server: add_PageServiceServicer_to_server(servicer, server), "operator"
    ) as channel:
        yield PageServiceStub(channel)


def request(page_id: str = "1", access_token: str = "EAAfirst", **fields: Any) -> Any:
    page: dict[str, Any] = {"platform": PLATFORM_MESSENGER, "name": "A page"} | fields
    return ConnectPageRequest(page=Page(page_id=page_id, **page), access_token=access_token)


async def stored_token(rows: Rows, page_id: str = "1") -> tuple[str, int]:
    row = await rows.one("select token, token_version from page where page_id = :id", id=page_id)
    return KEYS.open(page_id, row.token), row.token_version


async def test_a_connected_page_is_shown_without_its_token(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    answer: ConnectPageResponse = await service.ConnectPage(request())

    assert answer.created
    assert answer.page.page_id == "1"
    assert answer.page.platform == PLATFORM_MESSENGER
    assert answer.page.login == LOGIN_FACEBOOK
    assert (answer.page.state, answer.page.state_reason) == (PAGE_STATE_DEGRADED, "not_checked")
    assert "EAAfirst" not in str(answer)
    assert (await service.GetPage(GetPageRequest(page_id="1"))).page == answer.page
    assert await stored_token(rows) == ("EAAfirst", 1)


async def test_no_byte_of_the_database_holds_a_token_in_the_clear(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    await service.ConnectPage(request(access_token="EAAcanary"))

    dumped = await rows.query("select cast(page as text) as row from page")
    audited = await rows.query("select cast(audit as text) as row from audit")

    assert b"EAAcanary".hex() not in dumped[0].row
    assert "EAAcanary" not in dumped[0].row + audited[0].row


async def test_a_connected_page_is_due_to_be_checked_and_wakes_who_waits(
    service: "PageServiceAsyncStub", rows: Rows, wirings: Wirings
) -> None:
    await service.ConnectPage(request())

    row = await rows.one("select check_due_at <= clock_timestamp() as due from page")
    assert row.due
    assert wirings.connected == 1


async def test_connecting_again_updates_the_page(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    first = await service.ConnectPage(request())

    again = await service.ConnectPage(request(access_token="EAAsecond", name="New name"))

    assert not again.created
    assert again.page.name == "New name"
    assert again.page.connect_time == first.page.connect_time
    assert await stored_token(rows) == ("EAAsecond", 2)


async def test_the_same_token_again_is_no_new_version(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    await service.ConnectPage(request())

    await service.ConnectPage(request())

    assert await stored_token(rows) == ("EAAfirst", 1)


async def test_only_another_token_is_young_and_of_unknown_end(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    await service.ConnectPage(request())
    await rows.query(
        "update page set token_since = '2026-01-01Z', token_expires_at = '2026-03-01Z'"
    )

    await service.ConnectPage(request(name="New name"))
    same = await rows.one("select token_since, token_expires_at from page")
    await service.ConnectPage(request(access_token="EAAsecond"))
    other = await rows.one("select token_since > '2026-01-02Z', token_expires_at from page")

    assert [each.strftime("%m-%d") for each in same] == ["01-01", "03-01"]
    assert tuple(other) == (True, None)


async def test_a_page_whose_key_is_lost_can_be_connected_again(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    await service.ConnectPage(request())
    await rows.query("update page set token = :token", token=b"\x04gone" + bytes(40))

    await service.ConnectPage(request())

    assert await stored_token(rows) == ("EAAfirst", 2)


@pytest.mark.parametrize("disconnected", [False, True])
async def test_an_id_of_one_platform_cannot_become_one_of_the_other(
    service: "PageServiceAsyncStub", rows: Rows, disconnected: bool
) -> None:
    await service.ConnectPage(request())
    if disconnected:
        await service.DisconnectPage(DisconnectPageRequest(page_id="1"))

    with pytest.raises(Refusal) as refused:
        await service.ConnectPage(request(platform=PLATFORM_INSTAGRAM))

    assert (refused.value.kind, refused.value.reason) == (Kind.EXISTS, "PAGE_OTHER_PLATFORM")
    assert (await rows.one("select platform from page")).platform == "messenger"


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("page.page_id", {"page_id": ""}),
        ("page.page_id", {"page_id": "a/b"}),
        ("page.page_id", {"page_id": "1\n"}),
        ("page.page_id", {"page_id": "1" * 129}),
        ("page.platform", {"platform": 0}),
        ("page.platform", {"platform": 9}),
        ("page.login", {"login": 9}),
        ("page.login", {"login": LOGIN_INSTAGRAM}),
        (
            "page.facebook_page_id",
            {
                "platform": PLATFORM_INSTAGRAM,
                "login": LOGIN_INSTAGRAM,
                "facebook_page_id": "2",
            },
        ),
        ("page.facebook_page_id", {"facebook_page_id": "2 3"}),
        ("page.name", {"name": ""}),
        ("page.name", {"name": "n" * 201}),
        ("page.name", {"name": "a\0b"}),
        ("access_token", {"access_token": ""}),
        ("access_token", {"access_token": "a b"}),
        ("access_token", {"access_token": "tokén"}),
        ("access_token", {"access_token": "a" * 4097}),
    ],
)
async def test_a_malformed_page_is_refused_by_the_name_of_its_field(
    service: "PageServiceAsyncStub", rows: Rows, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.ConnectPage(request(**fields))

    assert refused.value.kind is Kind.INVALID
    assert refused.value.metadata["field"] == field
    assert fields.get("access_token") not in refused.value.message.split()
    assert not await rows.query("select 1 from page")


async def test_an_instagram_account_of_facebook_login_keeps_its_page(
    service: "PageServiceAsyncStub",
) -> None:
    answer = await service.ConnectPage(
        request(platform=PLATFORM_INSTAGRAM, facebook_page_id="2", name="n" * 200)
    )

    assert answer.page.facebook_page_id == "2"
    assert answer.page.login == LOGIN_FACEBOOK


async def test_a_disconnected_page_is_unknown_and_its_token_gone(
    service: "PageServiceAsyncStub", rows: Rows, wirings: Wirings
) -> None:
    await service.ConnectPage(request())

    await service.DisconnectPage(DisconnectPageRequest(page_id="1"))

    row = await rows.one("select connected, token, token_since, check_due_at from page")
    assert tuple(row) == (False, None, None, None)
    assert wirings.ended == ["1"]
    with pytest.raises(Refusal) as refused:
        await service.GetPage(GetPageRequest(page_id="1"))
    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_a_page_whose_ending_fails_stays_connected(
    service: "PageServiceAsyncStub", rows: Rows, wirings: Wirings
) -> None:
    await service.ConnectPage(request())
    wirings.fails = True

    with pytest.raises(Refusal):
        await service.DisconnectPage(DisconnectPageRequest(page_id="1"))

    assert (await rows.one("select connected from page")).connected


@pytest.mark.parametrize("page_id", ["1", "", "*", "#"])
async def test_what_is_not_connected_cannot_be_disconnected(
    service: "PageServiceAsyncStub", page_id: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.DisconnectPage(DisconnectPageRequest(page_id=page_id))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "PAGE_UNKNOWN")


async def test_a_page_comes_back_as_new(service: "PageServiceAsyncStub", rows: Rows) -> None:
    first = await service.ConnectPage(request())
    await service.DisconnectPage(DisconnectPageRequest(page_id="1"))

    back = await service.ConnectPage(request())

    assert back.created
    assert back.page.connect_time.ToNanoseconds() > first.page.connect_time.ToNanoseconds()
    assert await stored_token(rows) == ("EAAfirst", 2)


async def test_connecting_unblocks_the_page_and_its_uncertain_replies_clocks_stood_still(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    await service.ConnectPage(request())
    await rows.query("update page set state = 'blocked', blocked_at = now() - interval '1 hour'")
    await rows.query(
        """
        insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, expires_at, state,
            uncertain_at)
        values
            ('1', 1, 'a', 1, 'message', 'rule', now(), 'uncertain', now() - interval '61 min'),
            ('1', 2, 'b', 1, 'message', 'rule', now(), 'uncertain', now() - interval '5 min'),
            ('1', 3, 'c', 1, 'message', 'rule', now(), 'ready', null)
        """
    )
    before = await rows.query("select expires_at from outbox order by reply_id")

    await service.ConnectPage(request())

    assert (await rows.one("select blocked_at from page")).blocked_at is None
    after = await rows.query(
        "select expires_at, extract(epoch from now() - uncertain_at) as age"
        " from outbox order by reply_id"
    )
    assert [row.expires_at for row in after] == [row.expires_at for row in before]
    assert float(after[0].age) == pytest.approx(60, abs=5)
    assert float(after[1].age) == pytest.approx(0, abs=5)
    assert after[2].age is None


async def test_who_connected_and_disconnected_a_page_is_in_the_audit(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    with calling_as(Caller(role="", actor="ops@example.org")):
        await service.ConnectPage(request())
        await service.ConnectPage(request())
        await service.DisconnectPage(DisconnectPageRequest(page_id="1"))

    written = await rows.query("select role, actor, action, subject from audit order by audit_id")
    assert [tuple(row) for row in written] == [
        ("operator", "ops@example.org", "page.connect", "1"),
        ("operator", "ops@example.org", "page.update", "1"),
        ("operator", "ops@example.org", "page.disconnect", "1"),
    ]


async def test_pages_are_listed_part_by_part_newest_first(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    for number in range(5):
        await service.ConnectPage(request(f"{number}"))
    await service.DisconnectPage(DisconnectPageRequest(page_id="2"))

    seen, token = [], ""
    while True:
        part = await service.ListPages(ListPagesRequest(page_size=2, page_token=token))
        seen.append([page.page_id for page in part.pages])
        token = part.next_page_token
        if not token:
            break

    assert seen == [["4", "3"], ["1", "0"]]


async def test_connecting_one_page_twice_at_once_makes_one_page(
    service: "PageServiceAsyncStub", rows: Rows
) -> None:
    answers = await asyncio.gather(*(service.ConnectPage(request()) for _ in range(4)))

    assert [answer.created for answer in answers].count(True) == 1
    assert await stored_token(rows) == ("EAAfirst", 1)
