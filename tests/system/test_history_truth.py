"""History as its users see it: after a sync the store equals what Meta has, and costs what it must.

Without Meta's limit of two calls a second, which tests of the budget are about.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pagewire_simulator.acts import InboxReply, Say
from pagewire_simulator.client import AccountView
from pagewire_store.database import open_pools
from tests.support.likeness import comment_differences, label_differences
from tests.support.live import Live, until
from tests.support.mirrored import UNHURRIED, Mirrored

NOTHING: list[str] = []


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return UNHURRIED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mirrored(live: Live) -> AsyncIterator[Mirrored]:
    pools = open_pools(live.system.env["DATABASE_URL"], 13)
    await live.meta.options(rates={"conversation_reads": 0})
    yield Mirrored(live, pools.upkeep)
    await pools.dispose()


async def linked(live: Live) -> AccountView:
    """An Instagram account of Facebook login, connected with its Page."""
    page = await live.meta.create_account("messenger", subscribed_fields=[])
    account = await live.meta.create_account("instagram", page_id=page.id)
    body = {
        "platform": "instagram",
        "page_id": account.id,
        "name": account.name,
        "access_token": account.token,
        "facebook_page_id": page.id,
    }
    await live.post("/api/pages", body)
    return account


async def test_after_a_full_sync_the_store_equals_the_truth_message_for_message(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    pages = [await live.page(), await live.page(), await live.page()]
    accounts = [await live.page("instagram", login="instagram"), await linked(live)]
    past: dict[str, Any] = {"conversations": 30, "long_threads": 2, "long_messages": 230}
    past |= {"unicode": 0.3, "deleted": 0.05, "attachments": 0.1, "messages": 8}
    for page in pages:
        await live.meta.create_history(page.id, **past, unsupported=0.05)
    for account in accounts:
        await live.meta.create_history(account.id, **past, unsupported=0.05, stories=0.05)

    runs = await mirrored.sync(*pages, *accounts)

    assert [run["state"] for run in runs] == ["succeeded"] * 5
    for page in (*pages, *accounts):
        assert await mirrored.unlike(page) == NOTHING


async def test_a_thread_that_jumps_to_the_top_while_paging_is_whole(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await live.meta.create_history(page.id, conversations=120, messages=3)
    truth = await live.meta.truth(page.id)
    last, middle = truth.conversations[-1], truth.conversations[60]
    await live.meta.change_account(page.id, reading={"limit_max": 10})
    for nth, thread in enumerate((last, middle)):
        text = f"I am back {nth}"
        await live.meta.arrive(
            page.id,
            Say(account=page.id, person=thread.person_id, text=text, silently=True),
            after=2 + nth,
        )

    (run,) = await mirrored.sync(page)

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING


async def test_webhooks_that_arrive_meanwhile_and_history_meet_in_one_store(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page = await live.page()
    await live.meta.create_history(page.id, conversations=60, messages=4)
    truth = await live.meta.truth(page.id)
    await live.meta.change_account(page.id, reading={"limit_max": 10})
    for nth, thread in enumerate(truth.conversations[::6]):
        says = Say(account=page.id, person=thread.person_id, text=f"meanwhile {nth}")
        stranger = Say(account=page.id, text=f"a new one {nth}")
        answer = InboxReply(account=page.id, person=thread.person_id, text=f"by hand {nth}")
        await live.meta.arrive(page.id, says, stranger, answer, after=1 + nth % 5)

    (run,) = await mirrored.sync(page)
    await live.meta.wait(settled=True)

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING


async def test_a_message_that_was_unsent_stays_so_however_often_it_is_read(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page = await live.page("instagram", login="instagram")
    said = [await live.meta.say(page.id, f"number {nth}") for nth in range(3)]
    await live.meta.wait(settled=True)
    await mirrored.sync(page)
    assert said[1].mid
    await live.meta.unsend(page.id, said[1].mid)
    await live.meta.wait(settled=True)

    await mirrored.sync(page)

    rows = await mirrored.query(
        "select mid, is_deleted, text from message where page_id = :page", page=page.id
    )
    unsent = {row.mid: row for row in rows}[said[1].mid]
    assert (unsent.is_deleted, unsent.text) == (True, None)
    assert await mirrored.unlike(page) == NOTHING


async def test_a_full_sync_again_stores_nothing_anew(mirrored: Mirrored) -> None:
    page = await mirrored.live.page()
    await mirrored.live.meta.create_history(page.id, conversations=30, messages=10)
    (first,) = await mirrored.sync(page)
    versions = "select mid, cast(xmin as text) from message where page_id = :page order by mid"
    before = await mirrored.query(versions, page=page.id)

    (again,) = await mirrored.sync(page)

    assert first["stored"] == first["messages"] > 200
    assert (again["stored"], again["messages"]) == (0, first["messages"])
    assert await mirrored.query(versions, page=page.id) == before
    assert await mirrored.unlike(page) == NOTHING


async def test_incremental_with_nothing_new_costs_one_call_a_page(mirrored: Mirrored) -> None:
    pages = [await mirrored.live.page(), await mirrored.live.page("instagram", login="instagram")]
    for page in pages:
        await mirrored.live.meta.create_history(page.id, conversations=40, messages=5)
    await mirrored.sync(*pages)
    before = await mirrored.serial()

    runs = await mirrored.sync(*pages, mode="incremental")

    assert [(run["state"], run["graph_calls"], run["stored"]) for run in runs] == [
        ("succeeded", 1, 0)
    ] * 2
    assert [len(await mirrored.calls(page, before)) for page in pages] == [1, 1]


async def test_incremental_brings_what_is_new_and_no_more(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await live.meta.create_history(page.id, conversations=200, messages=3)
    await mirrored.sync(page)
    for nth in range(10):
        await live.meta.say(page.id, f"new {nth}", silently=True)

    (run,) = await mirrored.sync(page, mode="incremental")

    assert (run["state"], run["stored"]) == ("succeeded", 10)
    assert run["graph_calls"] <= 2
    assert await mirrored.unlike(page) == NOTHING


async def test_fifty_pages_cost_one_request(mirrored: Mirrored) -> None:
    live = mirrored.live
    for other in (await live.get("/api/pages?page_size=1000"))["pages"]:
        await live.operator.delete(f"/api/pages/{other['page_id']}")
    pages = [await live.page() for _ in range(50)]
    for page in pages:
        await live.meta.say(page.id, "hello")
    await mirrored.sync(*pages)
    batches, calls = len(await live.meta.batches()), await mirrored.serial()

    started = await live.post("/api/conversations/sync-all", {"mode": "incremental"})
    runs = [await mirrored.ended(run_id) for run_id in started["run_ids"]]

    asked = [call for page in pages for call in await mirrored.calls(page, calls)]
    assert {run["state"] for run in runs} == {"succeeded"}
    assert sorted(call.account_id or "" for call in asked) == sorted(page.id for page in pages)
    assert [batch.operations for batch in (await live.meta.batches())[batches:]] == [50]


async def test_comments_of_posts_ads_and_media_with_their_replies_are_mirrored(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    pages = [await live.page(), await live.page("instagram", login="instagram"), await linked(live)]
    for page in pages:
        ads = 2 if page.platform == "messenger" else 0
        past = {"posts": 5, "ads": ads, "comments": 12, "replies": 3, "attachments": 0.2}
        await live.meta.create_history(page.id, **past)

    runs = await mirrored.sync(*pages, kind="comments")

    assert [run["state"] for run in runs] == ["succeeded"] * 3
    for page in pages:
        assert await comment_differences(mirrored.database, live.meta, page) == NOTHING


async def test_a_comment_below_an_old_post_comes_with_the_next_incremental(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    pages = [await live.page(), await live.page("instagram", login="instagram"), await linked(live)]
    late = []
    for page in pages:
        await live.meta.create_history(page.id, posts=4, comments=3, replies=2)
    await mirrored.sync(*pages, kind="comments")
    for page in pages:
        truth = await live.meta.truth(page.id)
        oldest = truth.posts[-1].id
        top = next(one.id for one in truth.comments if one.post_id == oldest and not one.parent_id)
        late.append(await live.meta.comment(page.id, "late", post=oldest, silently=True))
        late.append(await live.meta.comment(page.id, "later", parent=top, silently=True))

    runs = await mirrored.sync(*pages, kind="comments", mode="incremental")

    assert [(run["state"], run["stored"]) for run in runs] == [("succeeded", 2)] * 3
    for page in pages:
        assert await comment_differences(mirrored.database, live.meta, page) == NOTHING


async def test_a_full_run_brings_the_page_s_labels(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await live.meta.create_history(page.id, conversations=2, labels=60)

    await mirrored.sync(page)

    assert await label_differences(mirrored.database, live.meta, page) == NOTHING


async def test_history_fires_no_rule_and_moves_the_watermark(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await live.rule(page, "order", when={"text": {"mode": "contains", "any": ["e", "o"]}})
    await live.meta.create_history(page.id, conversations=20, messages=5, newest_ago=60)
    before = (await live.get(f"/api/pages/{page.id}"))["last_synced_at"]

    (run,) = await mirrored.sync(page)

    decided = await live.get(f"/api/decisions?page_id={page.id}")
    assert (run["state"], decided["decisions"]) == ("succeeded", [])
    assert before is None
    assert (await live.get(f"/api/pages/{page.id}"))["last_synced_at"] is not None
    assert await live.meta.sends(account=page.id) == []


async def test_a_run_can_be_cancelled_and_what_is_stored_stays(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await live.meta.create_history(page.id, conversations=400, messages=2)
    await live.meta.change_account(page.id, reading={"limit_max": 5})
    await live.meta.options(latency="plain")
    run_id = await mirrored.start(page)

    async def begun() -> bool:
        return bool((await mirrored.run(run_id))["messages"])

    await until(begun)
    await live.operator.delete(f"/api/sync-runs/{run_id}")
    run = await mirrored.ended(run_id)
    await live.meta.options(latency="none")

    stored = await mirrored.query("select 1 from message where page_id = :page", page=page.id)
    assert run["state"] == "cancelled"
    assert 0 < len(stored) < 800
    assert (await live.get(f"/api/pages/{page.id}"))["last_synced_at"] is None


async def test_people_who_wrote_are_named_later_by_one_call_each(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    said = [await live.meta.say(page.id, "hello") for _ in range(3)]

    async def named() -> bool:
        rows = await mirrored.query(
            "select participant_name as name from conversation where page_id = :page", page=page.id
        )
        return len(rows) == 3 and all(row.name for row in rows)

    await until(named)

    profiles = [c for c in await live.meta.calls(account=page.id) if c.endpoint == "person"]
    assert sorted(c.person_id or "" for c in profiles) == sorted(one.person or "" for one in said)


async def test_no_token_ever_stood_in_an_address(mirrored: Mirrored) -> None:
    found = [call for call in await mirrored.live.meta.calls() if call.token_in_url]

    assert {call.endpoint for call in found} <= {"debug_token"}
