"""History end to end: what the store holds after a run is what Graph shows."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio

from pagewire_cli.launcher import running
from pagewire_simulator.client import AccountView, SimulatorClient
from tests.support.live import Live, until

UNLIMITED = {"conversation_reads": 100_000.0, "conversation_burst": 100_000.0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live() -> AsyncIterator[Live]:
    """Without Meta's two calls a second, on either side."""
    env = {"SYNC_CONVERSATION_CALLS_PER_SECOND": "10000"}
    with tempfile.TemporaryDirectory(prefix="pagewire-history-") as folder:
        async with running(Path(folder), env=env) as system:
            key = system.env["API_KEYS"].split(",")[0]
            headers = {"Authorization": f"Bearer {key}"}
            async with (
                SimulatorClient(system.addresses["simulator"]) as meta,
                httpx.AsyncClient(
                    base_url=system.addresses["operator"], headers=headers, timeout=120
                ) as http,
                httpx.AsyncClient(base_url=system.addresses["public"], timeout=60) as edge,
            ):
                await meta.options(rates=UNLIMITED)
                yield Live(system, meta, http, edge)


async def run(live: Live, page: AccountView, kind: str = "conversations", **body: Any) -> Any:
    answer = await live.operator.post(
        f"/api/{kind}/sync", params={"wait": "true"}, json={"pageId": page.id} | body
    )
    assert answer.status_code == 200
    return answer.json()


async def shown(live: Live, page: AccountView) -> dict[str, tuple[Any, ...]]:
    """Every message that Graph shows: person, direction, text, second."""
    truth = await live.meta.truth(page.id)
    return {
        message.mid: (
            thread.person_id,
            ("inbound" if message.inbound else "outbound") if message.shown == "whole" else None,
            (message.text or "") if message.shown == "whole" else "",
            message.created_at // 1000,
        )
        for thread in truth.conversations
        for message in thread.messages
        if message.shown != "gone"
    }


def kept(live: Live, page: AccountView) -> dict[str, tuple[Any, ...]]:
    """Every message that the store holds, likewise."""
    with psycopg.connect(live.system.env["DATABASE_URL"]) as database:
        rows = database.execute(
            "select mid, participant_id, direction, coalesce(text, ''),"
            " extract(epoch from created_at)::bigint from message where page_id = %s",
            (page.id,),
        ).fetchall()
    return {mid: tuple(rest) for mid, *rest in rows}


def comments(live: Live, page: AccountView) -> set[str]:
    with psycopg.connect(live.system.env["DATABASE_URL"]) as database:
        rows = database.execute(
            "select comment_id from comment where page_id = %s", (page.id,)
        ).fetchall()
    return {comment_id for (comment_id,) in rows}


@pytest.mark.parametrize(
    ("platform", "login"),
    [("messenger", "facebook"), ("instagram", "facebook"), ("instagram", "instagram")],
)
async def test_after_a_full_run_the_store_holds_what_graph_shows(
    live: Live, platform: str, login: str
) -> None:
    page = await connected(live, platform, login)
    await live.meta.create_history(
        page.id, conversations=160, messages=12, long_threads=2, long_messages=700, labels=3
    )

    full = await run(live, page, mode="full")
    again = await run(live, page)

    assert kept(live, page) == await shown(live, page)
    assert (full["state"], full["conversations"]) == ("succeeded", 160)
    assert full["stored"] == len(kept(live, page))
    assert (again["mode"], again["graph_calls"], again["stored"]) == ("incremental", 1, 0)


async def test_comments_and_replies_of_posts_and_ads_are_all_there(live: Live) -> None:
    page = await connected(live, "messenger", "facebook")
    await live.meta.create_history(page.id, posts=4, ads=2, comments=130, replies=2)

    ended = await run(live, page, "comments", mode="full")

    truth = await live.meta.truth(page.id)
    assert ended["state"] == "succeeded"
    assert comments(live, page) == {each.id for each in truth.comments}


async def test_a_thread_that_graph_cannot_show_is_passed_and_the_others_are_there(
    live: Live,
) -> None:
    page = await connected(live, "messenger", "facebook")
    await live.meta.create_history(page.id, conversations=60, messages=6)
    truth = await live.meta.truth(page.id)
    bad = truth.conversations[20]
    await live.meta.change_thread(bad.thread_id, poison=True)

    ended = await run(live, page, mode="full")

    hidden = {message.mid for message in bad.messages}
    expected = {mid: row for mid, row in (await shown(live, page)).items() if mid not in hidden}
    assert kept(live, page) == expected
    assert (ended["state"], ended["error"]) == ("partial", "threads_unreadable")


async def test_what_webhooks_never_told_a_repair_finds_and_marks(live: Live) -> None:
    page = await connected(live, "messenger", "facebook")
    await live.meta.create_history(page.id, conversations=5, messages=4)
    await run(live, page, mode="full")
    with psycopg.connect(live.system.env["DATABASE_URL"]) as database:
        database.execute("update page set connected_at = connected_at - interval '1 hour'")
    missed = await live.meta.say(page.id, "is anybody there", ago=300, silently=True)

    answer = await live.operator.post(
        f"/api/pages/{page.id}/repair", params={"wait": "true"}, json={}
    )

    ended = answer.json()
    assert (ended["state"], ended["recovered"]) == ("succeeded", 1)
    assert kept(live, page) == await shown(live, page)
    (message,) = [
        each for each in await live.messages(page, missed.person or "") if each["recovered"]
    ]
    assert message["mid"] == missed.mid


async def connected(live: Live, platform: str, login: str) -> AccountView:
    account = await live.meta.create_account(platform, login=login, subscribed_fields=[])
    body = {
        "platform": platform,
        "page_id": account.id,
        "name": account.name,
        "access_token": account.token,
        "login": login,
    }
    if account.node != account.id:
        body["facebook_page_id"] = account.node
    await live.post("/api/pages", body)

    async def healthy() -> bool:
        state: str = (await live.get(f"/api/pages/{account.id}"))["state"]
        return state == "healthy"

    await until(healthy)
    return account
