import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pagewire.store.v1 import page_care_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Login, PageState, Platform
from pagewire_runtime import metrics
from pagewire_runtime.errors import Refusal, Unavailable
from pagewire_sync.budget import Budget
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.graph import Answer, Credentials, Graph, Hosts, open_transport
from pagewire_sync.page_states import DAILY, HOURLY
from pagewire_sync.pagecare import INSTAGRAM_FIELDS, PageCare
from pagewire_sync.refreshing import Refreshed, Refresher, finding_of, is_due, read_fresh
from tests.support.outbox import FakePages
from tests.support.rawgraph import RawGraph, http, raw_graph
from tests.support.sending import OUR_APP, Meta

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ACCOUNT = "178400000000001"
OLD, NEW = "IGAAold", "IGAAnew"
SIXTY_DAYS = 60 * 86_400
DAY = timedelta(days=1)

Said = tuple[int, dict[str, Any]]
REFUSED: Said = 400, {"error": {"code": 100, "message": "not yet", "type": "IGApiException"}}
DEAD: Said = 400, {"error": {"code": 190, "error_subcode": 463, "message": "expired"}}
FRESH: Said = 200, {"access_token": NEW, "token_type": "bearer", "expires_in": SIXTY_DAYS}


@dataclass
class Account:
    """An account of Instagram login at Graph, and what Pagewire's store knows of it."""

    host: RawGraph
    pages: FakePages
    graph: Graph
    budget: Budget
    answers: dict[str, Said] = field(default_factory=dict)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What was asked of Graph, and with which token."""
        return [(_node(one.line), one.headers["authorization"]) for one in self.host.requests]

    def stored(self, age: timedelta, ends: timedelta | None) -> None:
        self.pages.since[ACCOUNT] = NOW - age
        if ends is not None:
            self.pages.pages[ACCOUNT][0].token_expire_time.FromDatetime(NOW + ends)

    def refresher(self) -> Refresher:
        return Refresher(self.pages, self.graph, now=lambda: NOW)

    async def credentials(self) -> Credentials:
        return await CredentialCache(self.pages).newest(ACCOUNT)

    async def refresh(self) -> Refreshed:
        return await self.refresher().refresh(await self.credentials())

    async def checked(self) -> tuple[str, str, timedelta]:
        care = PageCare(
            self.pages, CredentialCache(self.pages), self.graph, OUR_APP.app_id, now=lambda: NOW
        )
        await care.check(self.pages.pages[ACCOUNT][0])
        found = self.pages.found[-1]
        state = PageState.Name(found.state).removeprefix("PAGE_STATE_").lower()
        return state, found.state_reason, found.next_check_time.ToDatetime(UTC) - NOW


def _node(line: str) -> str:
    return urlsplit(line.split(" ")[1]).path.rpartition("/")[2]


@pytest.fixture
async def account() -> AsyncIterator[Account]:
    async with at_graph() as made:
        yield made


@asynccontextmanager
async def at_graph() -> AsyncIterator[Account]:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, body = made.answers[_node(made.host.requests[-1].line)]
        writer.write(http(json.dumps(body).encode(), status=f"{status} Said"))
        await writer.drain()

    async with raw_graph(behave) as host, open_transport() as transport:
        hosts = Hosts("http://127.0.0.1:1", host.url, "v25.0")
        budget = Budget()
        made = Account(host, FakePages(), Graph(transport, hosts, OUR_APP, budget), budget)
        made.pages.connect(
            ACCOUNT,
            OLD,
            platform=Platform.PLATFORM_INSTAGRAM,
            login=Login.LOGIN_INSTAGRAM,
            state=PageState.PAGE_STATE_HEALTHY,
        )
        subscribed = {"id": "880", "subscribed_fields": sorted(INSTAGRAM_FIELDS)}
        made.answers = {
            "refresh_access_token": FRESH,
            "me": (200, {"id": ACCOUNT}),
            "subscribed_apps": (200, {"data": [subscribed]}),
        }
        yield made


async def test_a_token_near_its_end_is_refreshed_and_takes_the_old_one_s_place(
    account: Account,
) -> None:
    account.stored(age=50 * DAY, ends=9 * DAY)

    end = await account.refresh()

    page, token, version = account.pages.pages[ACCOUNT]
    assert end is Refreshed.DONE
    assert (token, version) == (NEW, 2)
    assert page.token_expire_time.ToDatetime(UTC) == NOW + 60 * DAY


async def test_no_token_stands_in_an_address_and_the_proof_goes_along(account: Account) -> None:
    account.stored(age=2 * DAY, ends=None)

    await account.refresh()

    refresh, trial = account.host.requests
    query = parse_qs(urlsplit(refresh.line.split(" ")[1]).query)
    assert query["grant_type"] == ["ig_refresh_token"]
    assert set(query) == {"grant_type", "appsecret_proof"}
    assert OLD not in refresh.line + trial.line
    assert NEW not in refresh.line + trial.line
    assert account.asked == [
        ("refresh_access_token", f"Bearer {OLD}"),
        ("me", f"Bearer {NEW}"),
    ]


@pytest.mark.parametrize(
    ("age", "ends", "due"),
    [
        (None, None, False),
        (timedelta(hours=23), None, False),
        (timedelta(hours=24), None, True),
        (timedelta(hours=23), 3 * DAY, False),
        (30 * DAY, 11 * DAY, False),
        (30 * DAY, 10 * DAY, True),
        (30 * DAY, timedelta(minutes=1), True),
        (61 * DAY, timedelta(), False),
        (61 * DAY, -DAY, False),
    ],
)
def test_a_token_is_due_when_it_is_a_day_old_and_near_its_end_or_of_unknown_end(
    age: timedelta | None, ends: timedelta | None, due: bool
) -> None:
    credentials = Credentials(
        ACCOUNT,
        ACCOUNT,
        Login.LOGIN_INSTAGRAM,
        OLD,
        since=None if age is None else NOW - age,
        ends=None if ends is None else NOW + ends,
    )

    assert is_due(credentials, NOW) is due
    assert not is_due(replace(credentials, login=Login.LOGIN_FACEBOOK), NOW)


async def test_a_token_that_is_not_due_costs_no_call(account: Account) -> None:
    account.stored(age=timedelta(hours=1), ends=None)

    assert await account.refresh() is Refreshed.NOT_DUE
    assert account.asked == []


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (REFUSED, Refreshed.REFUSED),
        (DEAD, Refreshed.REFUSED),
        ((200, {"expires_in": SIXTY_DAYS}), Refreshed.FAILED),
        ((200, {"access_token": ""}), Refreshed.FAILED),
        ((500, {}), Refreshed.FAILED),
        ((400, {"error": {"code": 4, "is_transient": True}}), Refreshed.FAILED),
    ],
)
async def test_a_refresh_without_a_new_token_leaves_the_old_one(
    account: Account, answer: Said, end: Refreshed
) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.answers["refresh_access_token"] = answer
    before = refreshes(end)

    assert await account.refresh() is end
    assert account.pages.pages[ACCOUNT][1:] == (OLD, 1)
    assert refreshes(end) == before + 1


async def test_while_meta_has_the_whole_app_wait_no_token_is_refreshed(account: Account) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.budget.stop_app(asyncio.get_running_loop().time(), 600)

    assert await account.refresh() is Refreshed.FAILED
    assert account.asked == []


async def test_a_refresh_that_has_the_whole_app_wait_is_the_check_s_last_call(
    account: Account,
) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.answers["refresh_access_token"] = 403, {"error": {"code": 4, "is_transient": True}}

    state, reason, again = await account.checked()

    assert (state, reason) == ("healthy", "not_checked"), "as it was"
    assert timedelta(seconds=30) < again <= timedelta(minutes=1)
    assert [node for node, _ in account.asked] == ["refresh_access_token"]


async def test_a_new_token_that_does_not_work_leaves_the_old_one(account: Account) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.answers["me"] = DEAD

    assert await account.refresh() is Refreshed.REFUSED
    assert account.pages.pages[ACCOUNT][1:] == (OLD, 1)


async def test_graph_out_of_reach_leaves_the_old_token(account: Account) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.graph._hosts = Hosts("http://127.0.0.1:1", "http://127.0.0.1:1", "v25.0")

    assert await account.refresh() is Refreshed.FAILED
    assert account.pages.pages[ACCOUNT][1:] == (OLD, 1)


async def test_a_page_that_was_connected_anew_meanwhile_keeps_that_token(
    account: Account,
) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    credentials = await account.credentials()
    account.pages.connect(
        ACCOUNT, "IGAAgiven", login=Login.LOGIN_INSTAGRAM, platform=Platform.PLATFORM_INSTAGRAM
    )

    end = await account.refresher().refresh(credentials)

    assert end is Refreshed.REPLACED
    assert account.pages.pages[ACCOUNT][1:] == ("IGAAgiven", 2)


async def test_a_store_that_is_away_gets_the_new_token_when_it_is_back(account: Account) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    refusals: list[Refusal] = [Unavailable("the store"), Unavailable("the store")]
    replace_token = account.pages.ReplaceToken

    async def at_first_away(request: pb.ReplaceTokenRequest) -> pb.ReplaceTokenResponse:
        if refusals:
            raise refusals.pop()
        return await replace_token(request)

    account.pages.ReplaceToken = at_first_away  # type: ignore[method-assign]

    assert await account.refresh() is Refreshed.DONE
    assert account.pages.pages[ACCOUNT][1:] == (NEW, 2)
    assert [node for node, _ in account.asked] == ["refresh_access_token", "me"]


async def test_the_daily_check_refreshes_and_goes_on_with_the_new_token(account: Account) -> None:
    account.stored(age=2 * DAY, ends=None)

    finding = await account.checked()

    assert finding == ("healthy", "", DAILY)
    assert account.pages.found[-1].token_version == 2
    assert account.pages.found[-1].token_expire_time.ToDatetime(UTC) == NOW + 60 * DAY
    assert account.asked[-1] == ("subscribed_apps", f"Bearer {NEW}")


@pytest.mark.parametrize("ends", [9 * DAY, 5 * DAY, None])
async def test_a_refused_refresh_shows_though_the_token_still_works(
    account: Account, ends: timedelta | None
) -> None:
    account.stored(age=2 * DAY, ends=ends)
    account.answers["refresh_access_token"] = REFUSED

    assert await account.checked() == ("expiring", "token_refresh_refused", DAILY)
    assert account.pages.found[-1].token_version == 1


@pytest.mark.parametrize(
    ("ends", "finding"),
    [
        (9 * DAY, ("healthy", "", HOURLY)),
        (5 * DAY, ("expiring", "token_expires_soon", HOURLY)),
        (None, ("healthy", "", HOURLY)),
    ],
)
async def test_a_failed_refresh_is_tried_again_within_the_hour(
    account: Account, ends: timedelta | None, finding: tuple[str, str, timedelta]
) -> None:
    account.stored(age=2 * DAY, ends=ends)
    account.answers["refresh_access_token"] = (503, {})

    assert await account.checked() == finding


async def test_a_dead_token_is_blocked_whatever_its_refresh_said(account: Account) -> None:
    account.stored(age=2 * DAY, ends=5 * DAY)
    account.answers |= {"refresh_access_token": DEAD, "subscribed_apps": DEAD}

    assert await account.checked() == ("blocked", "token_expired", HOURLY)


async def test_a_blocked_page_s_token_is_not_refreshed(account: Account) -> None:
    account.stored(age=2 * DAY, ends=None)
    account.pages.pages[ACCOUNT][0].state = PageState.PAGE_STATE_BLOCKED
    account.answers["subscribed_apps"] = DEAD

    await account.checked()

    assert [node for node, _ in account.asked] == ["subscribed_apps"]


async def test_a_token_too_young_to_be_refreshed_shows_its_end_all_the_same(
    account: Account,
) -> None:
    account.stored(age=timedelta(hours=1), ends=5 * DAY)

    assert await account.checked() == ("expiring", "token_expires_soon", DAILY)


async def at_meta(meta: Meta, *, issued: timedelta, ends: timedelta) -> str:
    """A connected account whose token was made so long ago, and stored as long; its id."""
    account, now = await meta.instagram_account(), datetime.now(UTC)
    await meta.simulator.change_account(
        account.id, issued_at=_ms(now - issued), expires_at=_ms(now + ends)
    )
    page, _, _ = meta.pages.pages[account.id]
    page.state = PageState.PAGE_STATE_HEALTHY
    page.token_expire_time.FromDatetime(now + ends)
    meta.pages.since[account.id] = now - 2 * DAY
    return account.id


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


async def check_at_meta(meta: Meta, account: str) -> None:
    care = PageCare(meta.pages, CredentialCache(meta.pages), meta.graph, OUR_APP.app_id)
    await care.check(meta.pages.pages[account][0])


async def test_meta_gives_sixty_days_more_and_the_old_token_stays_good(meta: Meta) -> None:
    account = await at_meta(meta, issued=50 * DAY, ends=9 * DAY)
    old = await CredentialCache(meta.pages).newest(account)

    await check_at_meta(meta, account)

    found, new = meta.pages.found[-1], await CredentialCache(meta.pages).newest(account)
    with_old = await meta.graph.get(old, "me", "", {"fields": "id"}, operation="test")
    assert new.token != old.token
    assert (found.state, found.token_version) == (PageState.PAGE_STATE_HEALTHY, 2)
    assert new.ends is not None
    assert timedelta(days=59) < new.ends - datetime.now(UTC) <= timedelta(days=60)
    assert isinstance(with_old, Answer)
    assert not any(call.token_in_url for call in await meta.simulator.calls())


async def test_meta_refreshes_no_token_that_is_younger_than_a_day(meta: Meta) -> None:
    account = await at_meta(meta, issued=timedelta(hours=23), ends=9 * DAY)

    await check_at_meta(meta, account)

    found = meta.pages.found[-1]
    assert (found.state_reason, found.token_version) == ("token_refresh_refused", 1)


async def test_meta_refreshes_no_token_that_has_ended(meta: Meta) -> None:
    account = await at_meta(meta, issued=60 * DAY, ends=timedelta())

    await check_at_meta(meta, account)

    found = meta.pages.found[-1]
    assert (found.state, found.state_reason) == (PageState.PAGE_STATE_BLOCKED, "token_expired")


@pytest.mark.parametrize("end", [Refreshed.NOT_DUE, Refreshed.DONE, Refreshed.REPLACED])
def test_a_token_with_time_left_is_healthy(end: Refreshed) -> None:
    finding = finding_of(end, NOW + 60 * DAY, NOW)

    assert (finding.state, finding.again) == (PageState.PAGE_STATE_HEALTHY, DAILY)
    assert finding.token_ends == NOW + 60 * DAY


@pytest.mark.parametrize("seconds", [None, 0, -1, "5183944", 1.5, 2**40])
def test_an_end_that_is_no_number_of_seconds_is_unknown(seconds: Any) -> None:
    fresh = read_fresh({"access_token": NEW, "expires_in": seconds}, NOW)

    assert fresh is not None
    assert (fresh.token, fresh.ends) == (NEW, None)


def refreshes(end: Refreshed) -> float:
    name = "pagewire_token_refreshes_total"
    return metrics.registry.get_sample_value(name, {"end": end.value}) or 0.0
