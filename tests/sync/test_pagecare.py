import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pagewire.type.v1.page_pb2 import Page, PageState
from pagewire_runtime import metrics
from pagewire_runtime.errors import Unavailable
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_simulator.subscriptions import INSTAGRAM_FIELDS as KNOWN_INSTAGRAM_FIELDS
from pagewire_simulator.subscriptions import PAGE_FIELDS as KNOWN_PAGE_FIELDS
from pagewire_sync import page_states
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import App
from pagewire_sync.page_states import AT_ONCE, DAILY, HOURLY
from pagewire_sync.pagecare import INSTAGRAM_FIELDS, PAGE_FIELDS, PageCare, subscribed_fields
from tests.support.outbox import PAGE
from tests.support.sending import OUR_APP, Meta, running

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
STATES = {
    "healthy": PageState.PAGE_STATE_HEALTHY,
    "expiring": PageState.PAGE_STATE_EXPIRING,
    "degraded": PageState.PAGE_STATE_DEGRADED,
    "blocked": PageState.PAGE_STATE_BLOCKED,
}


def care(meta: Meta) -> PageCare:
    return PageCare(
        meta.pages, CredentialCache(meta.pages), meta.graph, OUR_APP.app_id, now=lambda: NOW
    )


async def checked(meta: Meta, account: AccountView) -> tuple[str, str, timedelta]:
    """Checks the page once: its state, the reason, and how soon it is checked again."""
    await care(meta).check(meta.pages.pages[account.id][0])
    found = meta.pages.found[-1]
    state = next(word for word, state in STATES.items() if state == found.state)
    return state, found.state_reason, found.next_check_time.ToDatetime(UTC) - NOW


async def unsubscribed(meta: Meta, account: AccountView, *fields: str) -> AccountView:
    return await meta.simulator.change_account(account.id, subscribed_fields=fields)


async def subscriptions(meta: Meta, account: AccountView) -> set[str]:
    found = {one.id: one for one in await meta.simulator.accounts()}
    return set(found[account.id].subscribed_fields or ())


async def operations(meta: Meta) -> list[str]:
    return [call.endpoint for call in await meta.simulator.calls()]


async def test_a_connected_page_is_subscribed_and_that_is_read_back(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.page())

    finding = await checked(meta, account)

    assert finding == ("healthy", "", DAILY)
    assert await subscriptions(meta, account) == PAGE_FIELDS
    assert await operations(meta) == ["subscription", "subscribe", "subscription", "debug_token"]


async def test_an_account_of_instagram_login_is_subscribed_to_instagram_s_fields(
    meta: Meta,
) -> None:
    account = await unsubscribed(meta, await meta.instagram_account())

    finding = await checked(meta, account)

    assert finding == ("healthy", "", DAILY)
    assert await subscriptions(meta, account) == INSTAGRAM_FIELDS
    assert "debug_token" not in await operations(meta)


async def test_an_instagram_account_of_facebook_login_has_its_page_subscribed(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.linked_account())

    finding = await checked(meta, account)

    assert finding == ("healthy", "", DAILY)
    assert await subscriptions(meta, account) == {"feed"}


async def test_the_care_of_a_linked_account_takes_nothing_from_its_page(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.linked_account(), "messages", "leadgen")

    await checked(meta, account)

    assert await subscriptions(meta, account) == {"messages", "leadgen"}


async def test_what_others_of_the_app_subscribed_stays(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.page(), "leadgen", "messages")

    await checked(meta, account)

    assert await subscriptions(meta, account) == PAGE_FIELDS | {"leadgen"}


async def test_a_page_that_is_subscribed_is_only_read(meta: Meta) -> None:
    account = await meta.page()

    await checked(meta, account)

    assert await operations(meta) == ["subscription", "debug_token"]


def test_every_field_is_one_that_meta_knows_for_the_login() -> None:
    assert PAGE_FIELDS <= KNOWN_PAGE_FIELDS
    assert INSTAGRAM_FIELDS <= KNOWN_INSTAGRAM_FIELDS


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("token_expired", ("blocked", "token_expired", HOURLY)),
        ("permission", ("blocked", "permission_missing", HOURLY)),
        ("policy", ("degraded", "restricted", HOURLY)),
        ("error", ("degraded", "graph_1", AT_ONCE)),
        ("app_throttled", ("degraded", "graph_4", AT_ONCE)),
        ("empty", ("degraded", "graph_answer_unreadable", AT_ONCE)),
        ("html", ("degraded", "graph_answer_unreadable", AT_ONCE)),
    ],
)
@pytest.mark.parametrize("endpoint", ["subscribe", "subscription"])
async def test_what_graph_answers_is_what_is_found(
    meta: Meta, endpoint: str, fault: str, finding: tuple[str, str, timedelta]
) -> None:
    account = await unsubscribed(meta, await meta.page())
    await meta.simulator.faults(Script(fault=fault, endpoint=endpoint))

    assert await checked(meta, account) == finding


async def test_a_wrong_app_secret_has_a_name(meta: Meta) -> None:
    account = await meta.page()
    meta.graph._app = App(OUR_APP.app_id, "another", "another")

    finding = await checked(meta, account)

    assert finding == ("blocked", "app_secret_wrong", HOURLY)


@pytest.mark.parametrize("state", ["healthy", "expiring", "blocked"])
async def test_where_nothing_was_learnt_a_page_stays_as_it_was(meta: Meta, state: str) -> None:
    account = await meta.page()
    page = meta.pages.pages[account.id][0]
    page.state, page.state_reason = STATES[state], "as_before"
    await meta.simulator.faults(Script(fault="unavailable"))

    assert await checked(meta, account) == (state, "as_before", AT_ONCE)


def repairs(end: str) -> float:
    return (
        metrics.registry.get_sample_value("pagewire_subscription_repairs_total", {"end": end})
        or 0.0
    )


async def test_a_field_that_went_missing_is_subscribed_again_and_counted(meta: Meta) -> None:
    account = await meta.page()
    page = meta.pages.pages[account.id][0]
    page.state, page.state_reason = STATES["healthy"], ""
    await unsubscribed(meta, account, *(PAGE_FIELDS - {"message_echoes"}))
    before = repairs("repaired")

    finding = await checked(meta, account)

    assert finding == ("healthy", "", DAILY)
    assert await subscriptions(meta, account) == PAGE_FIELDS
    assert repairs("repaired") == before + 1


async def test_the_first_subscription_is_no_repair(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.page())
    before = repairs("repaired")

    await checked(meta, account)

    assert repairs("repaired") == before


async def test_a_subscription_that_does_not_show_is_missing(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.page())
    meta.pages.pages[account.id][0].state_reason = "subscription_missing"
    other = PageCare(meta.pages, CredentialCache(meta.pages), meta.graph, "another app")
    before = repairs("missing")

    await other.check(meta.pages.pages[account.id][0])

    assert meta.pages.found[-1].state == PageState.PAGE_STATE_DEGRADED
    assert meta.pages.found[-1].state_reason == "subscription_missing"
    assert repairs("missing") == before + 1


def stopped_for_all(meta: Meta, seconds: float) -> None:
    meta.budget.stop_app(asyncio.get_running_loop().time(), seconds)


@pytest.mark.parametrize("state", sorted(STATES))
async def test_while_meta_has_the_whole_app_wait_no_page_is_checked_and_none_changes(
    meta: Meta, state: str
) -> None:
    account = await meta.page()
    page = meta.pages.pages[account.id][0]
    page.state, page.state_reason = STATES[state], "as_before"
    stopped_for_all(meta, 600)

    found, reason, again = await checked(meta, account)

    assert (found, reason) == (state, "as_before")
    assert timedelta(minutes=9) < again <= timedelta(minutes=10)
    assert await meta.simulator.calls() == []


async def test_a_page_of_which_nothing_is_known_waits_with_the_app_and_is_degraded(
    meta: Meta,
) -> None:
    account = await meta.page()
    meta.pages.pages[account.id][0].state = PageState.PAGE_STATE_UNSPECIFIED
    stopped_for_all(meta, 600)

    assert (await checked(meta, account))[:2] == ("degraded", "graph_4")


async def test_a_check_goes_no_further_once_meta_has_the_whole_app_wait(meta: Meta) -> None:
    account = await unsubscribed(meta, await meta.page())
    await meta.simulator.faults(Script(fault="app_throttled", endpoint="subscription"))

    await checked(meta, account)
    again = await checked(meta, account)

    assert await operations(meta) == ["subscription"]
    assert again[2] > timedelta(seconds=30)


async def test_a_throttled_page_is_checked_again_when_its_stop_is_over(meta: Meta) -> None:
    error = GraphError(Failure.APP_THROTTLED, 403, 4, retry_after=900)

    finding = page_states.refused(Page(state=STATES["healthy"]), error)

    assert finding == page_states.Finding(STATES["healthy"], "", timedelta(minutes=15))


async def test_a_token_that_ends_soon_is_told_of(meta: Meta) -> None:
    account = await meta.page()
    soon = datetime.now(UTC) + timedelta(days=3)
    await meta.simulator.change_account(account.id, expires_at=int(soon.timestamp() * 1000))
    checks = PageCare(meta.pages, CredentialCache(meta.pages), meta.graph, OUR_APP.app_id)

    await checks.check(meta.pages.pages[account.id][0])

    assert meta.pages.found[-1].state == PageState.PAGE_STATE_EXPIRING
    assert meta.pages.found[-1].state_reason == "token_expires_soon"
    ends = meta.pages.found[-1].token_expire_time.ToDatetime(UTC)
    assert ends == soon.replace(microsecond=0)


async def test_an_inspection_that_fails_harms_no_page(meta: Meta) -> None:
    account = await meta.page()
    meta.graph._app = App("another app", OUR_APP.secret, OUR_APP.instagram_secret)

    finding = await checked(meta, account)

    assert finding == ("healthy", "", DAILY)


async def test_the_check_tells_the_version_of_the_token_that_it_saw(meta: Meta) -> None:
    account = await meta.page()
    meta.pages.connect(account.id, account.token)

    await checked(meta, account)

    assert meta.pages.found[-1].token_version == 2


async def test_a_page_that_was_disconnected_meanwhile_is_let_be(meta: Meta) -> None:
    await care(meta).check(Page(page_id=PAGE))

    assert meta.pages.found == []


async def test_a_store_that_is_away_ends_no_care(meta: Meta) -> None:
    account = await meta.page()
    refusals = [Unavailable("the store")]
    record = meta.pages.RecordPageCheck

    async def at_first_unavailable(request: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await record(request)

    meta.pages.RecordPageCheck = at_first_unavailable  # type: ignore[method-assign]
    meta.pages.due = [account.id]
    async with running(care(meta).run()), asyncio.timeout(60):
        while refusals:
            await asyncio.sleep(0.005)
        meta.pages.due = [account.id]
        while not meta.pages.found:
            await asyncio.sleep(0.005)

    assert meta.pages.found[-1].state == PageState.PAGE_STATE_HEALTHY


async def test_pages_are_checked_beside_each_other(hasty: Meta) -> None:
    hanging, other = await hasty.page(1), await hasty.page(2)
    await hasty.simulator.faults(Script(fault="slow", seconds=6, account=hanging.id))
    hasty.pages.due = [hanging.id, other.id]

    async with running(care(hasty).run()), asyncio.timeout(60):
        while len(hasty.pages.found) < 2:
            await asyncio.sleep(0.005)

    assert [found.page_id for found in hasty.pages.found] == [other.id, hanging.id]


OURS = {"id": "880", "subscribed_fields": ["messages", "feed"]}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"data": [OURS]}, {"messages", "feed"}),
        ({"data": [{"id": "990", "subscribed_fields": ["messages"]}]}, set()),
        ({"data": [{"subscribed_fields": ["messages"]}]}, {"messages"}),
        ({"data": [{"id": "880"}]}, set()),
        ({"data": [{"id": "880", "subscribed_fields": "messages"}, 7]}, set()),
        ({"data": []}, set()),
        ({}, set()),
    ],
)
def test_only_our_own_app_s_fields_count(body: dict[str, Any], fields: set[str]) -> None:
    assert subscribed_fields(body, "880") == fields


def test_on_instagram_s_host_the_app_has_another_id() -> None:
    assert subscribed_fields({"data": [OURS]}, None) == {"messages", "feed"}


@pytest.mark.parametrize(
    ("webhook_object", "wanted"), [("Page", PAGE_FIELDS), ("Instagram", INSTAGRAM_FIELDS)]
)
def test_the_guide_has_people_subscribe_the_app_to_the_fields_that_are_checked(
    webhook_object: str, wanted: frozenset[str]
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "connect-a-page.md"

    (row,) = (
        line.strip("| ").split(" | ")
        for line in guide.read_text().splitlines()
        if line.startswith(f"| {webhook_object} |")
    )

    fields = row[-1].split(", ")
    assert set(fields) == wanted
    assert len(fields) == len(wanted)
