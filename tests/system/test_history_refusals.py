"""What the edge turned away until Meta gave up is found in Graph, by the system itself: while the
store was away, and while the secret was a wrong one. What is found too late is answered no more.

An edge that stays away would be an outage, another cause (`test_history_outages`): here none lasts
long enough. All other waits are shortened, in their usual order.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView
from pagewire_store.database import open_pools
from tests.support.live import PATIENCE, Live, until
from tests.support.mirrored import UNHURRIED, Mirrored

Lost = Mapping[str, Mapping[str, str]]
"""By page: the ids of messages that no webhook brought, and of who wrote each."""

NOTHING: list[str] = []
ANYTHING = b'{"object":"page","entry":[]}'
"""A webhook that tells of nothing."""
BEFORE = 2.0
"""Seconds from when something is written to its webhook. The grace is longer: so much before the
first webhook that was turned away the gap begins."""
GRACE = 3.0
IMPATIENT = {"retries": [0.2], "give_up_messaging": 0.5}
PATIENT = {"retries": [0.2, 0.5, 1], "give_up_messaging": 3600}
DECIDED = """
    select e.event_key, d.outcome, d.reason
    from event e join decision d using (page_id, event_id) where e.page_id = :page
"""


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return UNHURRIED | {
        "WEBHOOK_REPORT_SECONDS": "0.5",
        "STORE_OUTAGE_SECONDS": "600",
        "STORE_REPAIR_GRACE_SECONDS": str(GRACE),
        "SYNC_REPAIR_GRACE_SECONDS": "1",
        "STORE_REPAIR_INTERVAL_SECONDS": "2",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mirrored(live: Live) -> AsyncIterator[Mirrored]:
    pools = open_pools(live.system.env["DATABASE_URL"], 13)
    await live.meta.options(rates={"conversation_reads": 0}, plan=PATIENT)
    yield Mirrored(live, pools.upkeep)
    await pools.dispose()


async def a_page_with_a_past(mirrored: Mirrored) -> AccountView:
    """Mirrored as it is, with a rule; webhooks come, and nothing of its past is of this day."""
    live = mirrored.live
    page = await live.page()
    await mirrored.connected_yesterday(page)
    await live.rule(page, "price")
    past = {"conversations": 5, "messages": 4, "unsupported": 0, "newest_ago": 3 * 86_400}
    await live.meta.create_history(page.id, **past)
    await live.meta.say(page.id, "hello")
    assert (await live.meta.wait(settled=True)).reached
    await mirrored.sync(page)
    return page


async def ask_in_vain(mirrored: Mirrored, numbers: Mapping[str, int], status: int) -> Lost:
    """So many people of each page ask for a price, each once; Meta tells of it, and gives up."""
    meta = mirrored.live.meta
    says = [
        Say(account=page, text="price?", ago=BEFORE)
        for page, number in numbers.items()
        for _ in range(number)
    ]
    before = len(await meta.deliveries())
    await meta.options(plan=IMPATIENT)

    done = await meta.acts(says, batch=5)

    assert (await meta.wait(settled=True)).reached
    await meta.options(plan=PATIENT)
    statuses = {post.status for post in await meta.deliveries(before)}
    assert status in statuses
    assert 200 not in statuses
    lost: dict[str, dict[str, str]] = {page: {} for page in numbers}
    for say, made in zip(says, done, strict=True):
        lost[say.account][str(made.mid)] = str(made.person)
    return lost


@asynccontextmanager
async def another_secret(live: Live) -> AsyncIterator[None]:
    """Within the block the edge takes the secret of another app for ours."""
    edge = live.system.process("webhook")
    ours = edge.spec
    edge.spec = replace(ours, env={**ours.env, "META_APP_SECRET": "the-secret-of-another-app"})
    await edge.restart()
    try:
        yield
    finally:
        edge.spec = ours
        await edge.restart()


async def are_found_and_answered(mirrored: Mirrored, lost: Lost, cause: str) -> None:
    """Each of them is stored, marked, counted for its page, and answered: once."""
    await mirrored.ready()

    async def is_done(page: str) -> bool:
        asked = lost[page]
        return (
            {*asked} <= await marked(mirrored, page)
            and {*asked.values()} <= {*await answered(mirrored, page)}
            and sum(run["recovered"] for run in await repairs(mirrored, page)) >= len(asked)
        )

    for page in lost:
        await until(partial(is_done, page))
    await nothing_more_is_found(mirrored, lost)
    for page, asked in lost.items():
        assert await marked(mirrored, page) == {*asked}
        assert sorted(await answered(mirrored, page)) == sorted(asked.values())
        assert await fired(mirrored, page) == sorted(f"message:{mid}" for mid in asked)
        assert sum(run["recovered"] for run in await repairs(mirrored, page)) == len(asked)
        assert await causes(mirrored, page) == [cause]


async def nothing_more_is_found(mirrored: Mirrored, lost: Lost) -> None:
    """As soon as a loss is old enough its gap is closed; who looks once more finds nothing."""
    await mirrored.query(
        "update mirror set gap_noticed_at = gap_noticed_at - interval '1 minute'"
        " where gap_from is not null"
    )

    async def is_closed() -> bool:
        return not await mirrored.query("select 1 from mirror where gap_from is not null")

    await until(is_closed)
    for page in [each for each in await mirrored.live.meta.accounts() if each.id in lost]:
        again = await mirrored.repair(page)
        assert (again["state"], again["recovered"]) == ("succeeded", 0)
        assert await unlike(mirrored, page) == NOTHING


async def unlike(mirrored: Mirrored, page: AccountView) -> list[str]:
    """What differs from the truth, but for replies: without an echo, for which nobody was
    subscribed, each keeps the time at which it was sent.
    """
    sent = [str(send.created) for send in await mirrored.live.meta.sends(account=page.id)]
    found = await mirrored.unlike(page)
    return [each for each in found if not any(mid in each for mid in sent)]


async def webhooks_come_again(mirrored: Mirrored, page: AccountView) -> None:
    """Meta, which had ended the page's subscription as it gave up, was asked for it again."""
    meta = mirrored.live.meta

    async def is_subscribed() -> bool:
        return any(each.id == page.id and each.subscribed_fields for each in await meta.accounts())

    await until(is_subscribed)
    known = await marked(mirrored, page.id)
    said = await meta.say(page.id, "price?")

    async def is_answered() -> bool:
        return said.person in await answered(mirrored, page.id)

    await until(is_answered)
    assert await marked(mirrored, page.id) == known


async def marked(mirrored: Mirrored, page: str) -> set[str]:
    found = await mirrored.query(
        "select mid from message where page_id = :page and recovered", page=page
    )
    return {row.mid for row in found}


async def answered(mirrored: Mirrored, page: str) -> list[str]:
    return [str(send.person_id) for send in await mirrored.live.meta.sends(account=page)]


async def repairs(mirrored: Mirrored, page: str) -> list[dict[str, Any]]:
    listed = await mirrored.live.get(f"/api/sync-runs?page_id={page}&page_size=1000")
    return [run for run in listed["runs"] if run["origin"] == "repair"]


async def fired(mirrored: Mirrored, page: str) -> list[str]:
    found = await mirrored.query(DECIDED, page=page)
    return sorted(row.event_key for row in found if row.reason == "fired")


async def causes(mirrored: Mirrored, page: str) -> list[str]:
    found = await mirrored.query(
        "select gap_cause from mirror where page_id = :page and gap_cause is not null", page=page
    )
    return [row.gap_cause for row in found]


async def test_what_was_refused_while_the_store_was_away_is_found_by_itself_and_answered_once(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    busy, quiet, silent = [await a_page_with_a_past(mirrored) for _ in range(3)]
    store = live.system.process("store")
    await store.stop()
    try:
        assert (await live.deliver(ANYTHING)).status_code == 503

        lost = await ask_in_vain(mirrored, {busy.id: 12, quiet.id: 3, silent.id: 0}, 503)
    finally:
        await store.start()

    await are_found_and_answered(mirrored, lost, "refused")
    await webhooks_come_again(mirrored, busy)


async def test_what_a_wrong_secret_turned_away_is_found_by_itself_and_answered_once(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    busy, quiet, silent = [await a_page_with_a_past(mirrored) for _ in range(3)]
    pages = [busy.id, quiet.id, silent.id]

    async def is_noted() -> bool:
        noted = [cause for page in pages for cause in await causes(mirrored, page)]
        return noted == ["signatures"] * len(pages)

    async with another_secret(live):
        assert (await live.deliver(ANYTHING)).status_code == 403
        lost = await ask_in_vain(mirrored, {busy.id: 12, quiet.id: 3, silent.id: 0}, 403)
        await until(is_noted)

    await are_found_and_answered(mirrored, lost, "signatures")
    await webhooks_come_again(mirrored, busy)


async def test_what_a_repair_by_hand_finds_too_late_is_stored_and_declined_and_never_answered(
    mirrored: Mirrored,
) -> None:
    live, page = mirrored.live, await a_page_with_a_past(mirrored)
    late = [
        Say(account=page.id, text="price?", silently=True, ago=60 * minutes)
        for minutes in (11, 25, 600)
    ]
    missed = {str(made.mid) for made in await live.meta.acts(late)}

    run = await by_command(live, "repair", page.id)

    async def are_decided() -> bool:
        found = await mirrored.query(DECIDED, page=page.id)
        return missed <= {row.event_key.removeprefix("message:") for row in found}

    await until(are_decided)
    decided = await mirrored.query(DECIDED, page=page.id)
    assert (run["state"], run["recovered"]) == ("succeeded", len(missed))
    assert await marked(mirrored, page.id) == missed
    assert sorted((row.outcome, row.reason) for row in decided) == [
        ("declined", "no_rule_matched"),
        *[("declined", "recovered_late")] * len(missed),
    ]
    assert await answered(mirrored, page.id) == []
    assert await mirrored.unlike(page) == NOTHING


async def by_command(live: Live, *arguments: str) -> dict[str, Any]:
    """The one run of a `pagewire` command that waited for it, as somebody types it."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from pagewire_cli.main import main; main()"),
        *(*arguments, "--json"),
        env={"PAGEWIRE_DATA_DIR": str(live.system.folder)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(command.communicate(), PATIENCE)
    assert command.returncode == 0
    (run,) = json.loads(output)["runs"]
    shown: dict[str, Any] = run
    return shown
