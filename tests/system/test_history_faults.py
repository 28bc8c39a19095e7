"""History under trouble: every healthy page still equals the truth, each page's trouble is its own,
and what it costs is bounded.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_store.database import open_pools
from tests.support.likeness import shown
from tests.support.live import Live, until
from tests.support.mirrored import UNHURRIED, Mirrored

NOTHING: list[str] = []


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return UNHURRIED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(live: Live) -> AsyncIterator[Mirrored]:
    pools = open_pools(live.system.env["DATABASE_URL"], 13)
    yield Mirrored(live, pools.upkeep)
    await pools.dispose()


@pytest_asyncio.fixture(loop_scope="module")
async def mirrored(system: Mirrored) -> AsyncIterator[Mirrored]:
    """With fair weather before and after."""
    await system.live.meta.options(rates={"conversation_reads": 0}, latency="none")
    yield system
    await system.live.meta.faults()
    await system.live.meta.options(latency="none")


async def pages_with_a_past(
    mirrored: Mirrored, count: int = 1, **past: object
) -> list[AccountView]:
    pages = [await mirrored.live.page() for _ in range(count)]
    wanted: dict[str, object] = {"conversations": 40, "messages": 5, "unsupported": 0}
    for page in pages:
        await mirrored.live.meta.create_history(page.id, **(wanted | past))
    return pages


async def mirrored_with_news(mirrored: Mirrored, count: int) -> list[AccountView]:
    """So many pages and no other, mirrored whole; to each somebody has written since."""
    live = mirrored.live
    for other in (await live.get("/api/pages?page_size=1000"))["pages"]:
        await live.operator.delete(f"/api/pages/{other['page_id']}")
    pages = await pages_with_a_past(mirrored, count, conversations=3, messages=2)
    await mirrored.sync(*pages)
    known = [(await live.meta.truth(page.id)).conversations[0] for page in pages]
    news = [
        Say(account=page.id, person=thread.person_id, text="news", silently=True)
        for page, thread in zip(pages, known, strict=True)
    ]
    await live.meta.acts(news)
    return pages


async def wasted(mirrored: Mirrored, page: AccountView) -> int:
    """Calls that brought nothing."""
    return sum(call.answer != "normal" for call in await mirrored.calls(page))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("permission", "permission"),
        ("token_password_changed", "token_dead"),
        ("policy", "suspended"),
    ],
)
async def test_a_page_that_cannot_be_read_stops_no_other(
    mirrored: Mirrored, fault: str, reason: str
) -> None:
    unreadable, *others = await pages_with_a_past(mirrored, 4)
    await mirrored.live.meta.faults(Script(fault=fault, account=unreadable.id))

    failed, *runs = await mirrored.sync(unreadable, *others)

    assert failed["state"] == "failed"
    assert failed["error"] == reason
    assert [run["state"] for run in runs] == ["succeeded"] * 3
    for page in others:
        assert await mirrored.unlike(page) == NOTHING
        assert await wasted(mirrored, page) == 0


async def test_f14_sync_that_is_killed_in_the_middle_goes_on_and_stores_nothing_twice(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page, other = await pages_with_a_past(mirrored, 2, conversations=150)
    await live.meta.change_account(page.id, reading={"limit_max": 5})
    await live.meta.options(latency="plain")
    run_id, other_id = await mirrored.start(page), await mirrored.start(other)

    async def under_way() -> bool:
        return int((await mirrored.run(run_id))["messages"]) > 50

    await until(under_way)
    await live.system.process("sync").kill()
    before = await mirrored.serial()
    await live.meta.options(latency="none")
    run, other_run = await mirrored.ended(run_id), await mirrored.ended(other_id)

    again = await mirrored.calls(page, before)
    assert (run["state"], other_run["state"]) == ("succeeded", "succeeded")
    assert run["messages"] == shown(await live.meta.truth(page.id))
    assert run["stored"] <= run["messages"]
    assert await mirrored.unlike(page) == NOTHING
    assert await mirrored.unlike(other) == NOTHING
    assert len(again) < 150 / 5 + 5, "it went on where it was"


async def test_a_token_that_dies_in_the_middle_costs_no_further_calls_and_marks_the_page(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page, other = await pages_with_a_past(mirrored, 2, conversations=100)
    await live.meta.change_account(page.id, reading={"limit_max": 5})
    dead = Script(fault="token_expired", account=page.id, endpoint="conversations", skip=5)
    await live.meta.faults(dead)

    run, other_run = await mirrored.sync(page, other)

    refused = [call for call in await mirrored.calls(page) if call.code == 190]
    shown = await live.get(f"/api/pages/{page.id}")
    assert (run["state"], run["error"]) == ("failed", "token_dead")
    assert (shown["state"], shown["state_reason"]) == ("blocked", "token_expired")
    assert 1 <= len(refused) <= 3
    assert other_run["state"] == "succeeded"
    assert shown["last_synced_at"] is None


async def test_a_page_with_a_new_token_is_mirrored_whole(mirrored: Mirrored) -> None:
    live = mirrored.live
    (page,) = await pages_with_a_past(mirrored)
    await live.meta.change_account(page.id, token_state="expired")
    (failed,) = await mirrored.sync(page)
    renewed = await live.meta.change_account(page.id, token=f"EAAnew{page.id}")
    body = {
        "platform": "messenger",
        "page_id": page.id,
        "name": "Page",
        "access_token": renewed.token,
    }
    await live.post("/api/pages", body)

    (run,) = await mirrored.sync(page)

    assert (failed["state"], failed["error"]) == ("failed", "token_dead")
    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING


async def test_f55_of_a_batch_with_a_fifth_of_nulls_everything_is_asked_again(
    mirrored: Mirrored,
) -> None:
    pages = await mirrored_with_news(mirrored, 20)
    before = await mirrored.serial()
    await mirrored.live.meta.faults(Script(fault="null", count=len(pages) // 5))

    runs = await mirrored.sync_all(pages)

    calls = [await mirrored.calls(page, before) for page in pages]
    nulls = [call for of_page in calls for call in of_page if call.answer == "null"]
    assert len(nulls) == len(pages) // 5, "the fault has struck"
    assert all(call.batch for call in nulls)
    assert {run["state"] for run in runs} == {"succeeded"}
    assert [await mirrored.unlike(page) for page in pages] == [NOTHING] * 20
    assert sum(map(len, calls)) == len(pages) + len(nulls), "each is asked for once more, alone"
    assert [run["graph_calls"] for run in runs] == [len(of_page) for of_page in calls]


async def test_a_throttled_page_waits_alone_and_is_whole_afterwards(mirrored: Mirrored) -> None:
    page, other = await pages_with_a_past(mirrored, 2)
    throttled = Script(fault="calls_throttled", account=page.id, endpoint="conversations", count=1)
    await mirrored.live.meta.faults(throttled)

    run, other_run = await mirrored.sync(page, other)

    assert (run["state"], other_run["state"]) == ("succeeded", "succeeded")
    assert await mirrored.unlike(page) == NOTHING
    assert await wasted(mirrored, page) == 1
    assert other_run["finished_at"] < run["finished_at"]


@pytest.mark.parametrize(
    "habits",
    [{"refused_above": 3}, {"refused_above": 1}, {"weight": 60}, {"limit_max": 7, "short": 0.3}],
    ids=str,
)
async def test_a_page_that_gives_less_at_once_is_read_in_smaller_pieces(
    mirrored: Mirrored, habits: dict[str, object]
) -> None:
    (page,) = await pages_with_a_past(mirrored, long_threads=1, long_messages=120)
    await mirrored.live.meta.change_account(page.id, reading=habits)

    (first,) = await mirrored.sync(page)
    refused = await wasted(mirrored, page)
    (again,) = await mirrored.sync(page, mode="incremental")

    assert (first["state"], again["state"]) == ("succeeded", "succeeded")
    assert await mirrored.unlike(page) == NOTHING
    assert refused <= 10
    assert await wasted(mirrored, page) <= refused + 2, "what was learnt is remembered"


async def test_a_poisoned_thread_is_marked_and_all_others_are_whole(mirrored: Mirrored) -> None:
    live = mirrored.live
    (page,) = await pages_with_a_past(mirrored)
    poisoned = (await live.meta.truth(page.id)).conversations[11]
    await live.meta.change_thread(poisoned.thread_id, poison=True)

    (run,) = await mirrored.sync(page)

    assert (run["state"], run["unreadable"]) == ("partial", 1)
    assert await mirrored.unlike(page, without={poisoned.thread_id}) == NOTHING
    assert await wasted(mirrored, page) <= 15


async def test_a_thread_that_can_be_read_again_is_read_when_it_has_changed(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    (page,) = await pages_with_a_past(mirrored)
    poisoned = (await live.meta.truth(page.id)).conversations[3]
    await live.meta.change_thread(poisoned.thread_id, poison=True)
    await mirrored.sync(page)
    await live.meta.change_thread(poisoned.thread_id, poison=False)
    await live.meta.acts(
        [Say(account=page.id, person=poisoned.person_id, text="again", silently=True)]
    )

    (run,) = await mirrored.sync(page, mode="incremental")

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING


@pytest.mark.parametrize(
    ("fault", "most"),
    # A GET whose connection breaks is repeated at once by the transport.
    [("http_503", 12), ("unavailable", 12), ("error", 12), ("reset", 24)],
)
async def test_a_burst_of_errors_is_outlived(mirrored: Mirrored, fault: str, most: int) -> None:
    page, other = await pages_with_a_past(mirrored, 2)
    await mirrored.live.meta.faults(Script(fault=fault, account=page.id, lasts=2))

    run, other_run = await mirrored.sync(page, other)

    assert (run["state"], other_run["state"]) == ("succeeded", "succeeded")
    assert await mirrored.unlike(page) == NOTHING
    assert await wasted(mirrored, page) <= most


@pytest.mark.parametrize("fault", ["empty", "object", "short", "http_503", "html", "reset"])
async def test_f55_a_batch_that_comes_to_nothing_is_asked_for_again(
    mirrored: Mirrored, fault: str
) -> None:
    pages = await mirrored_with_news(mirrored, 8)
    before, batches = await mirrored.serial(), len(await mirrored.live.meta.batches())
    await mirrored.live.meta.faults(Script(fault=fault, endpoint="batch", count=2))

    runs = await mirrored.sync_all(pages)

    struck = [each for each in (await mirrored.live.meta.batches())[batches:] if each.fault]
    calls = [await mirrored.calls(page, before) for page in pages]
    assert [each.fault for each in struck] == [fault] * len(struck)
    assert 1 <= len(struck) <= 2, "the fault has struck"
    assert {run["state"] for run in runs} == {"succeeded"}
    assert [await mirrored.unlike(page) for page in pages] == [NOTHING] * 8
    # Each is asked for once more, alone; what Graph did of the batch counts all the same.
    assert sum(map(len, calls)) <= 2 * len(pages)
    assert {call.batch for of_page in calls for call in of_page[-1:]} == {None}


@pytest.mark.parametrize("fault", ["empty", "truncated", "html", "half"])
async def test_answers_that_cannot_be_read_are_asked_for_again(
    mirrored: Mirrored, fault: str
) -> None:
    (page,) = await pages_with_a_past(mirrored, conversations=60)
    await mirrored.live.meta.change_account(page.id, reading={"limit_max": 10})
    await mirrored.live.meta.faults(Script(fault=fault, account=page.id, probability=0.3, count=6))

    (run,) = await mirrored.sync(page)

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING
    assert await wasted(mirrored, page) <= 6


async def test_f60_a_cursor_that_leads_to_itself_ends_the_run_with_its_reason(
    mirrored: Mirrored,
) -> None:
    page, other = await pages_with_a_past(mirrored, 2, conversations=60)
    await mirrored.live.meta.change_account(page.id, reading={"limit_max": 10})
    await mirrored.live.meta.faults(
        Script(fault="circle", account=page.id, endpoint="conversations", skip=2)
    )

    run, other_run = await mirrored.sync(page, other)

    assert (run["state"], run["error"]) == ("failed", "cursor_loop")
    assert other_run["state"] == "succeeded"
    assert len(await mirrored.calls(page)) <= 2 + 4


async def test_f60_a_cursor_that_went_stale_begins_the_walk_anew(mirrored: Mirrored) -> None:
    (page,) = await pages_with_a_past(mirrored, conversations=60)
    await mirrored.live.meta.change_account(page.id, reading={"limit_max": 10})
    await mirrored.live.meta.faults(
        Script(fault="stale_cursor", account=page.id, endpoint="conversations", skip=3, count=1)
    )

    (run,) = await mirrored.sync(page)

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING


async def test_f60_cursors_that_are_never_taken_end_the_run_with_their_reason(
    mirrored: Mirrored,
) -> None:
    page, other = await pages_with_a_past(mirrored, 2, conversations=60)
    await mirrored.live.meta.change_account(page.id, reading={"limit_max": 10})
    await mirrored.live.meta.faults(
        Script(fault="forgetful", account=page.id, endpoint="conversations", skip=2)
    )

    run, other_run = await mirrored.sync(page, other)

    assert (run["state"], run["error"]) == ("failed", "cursor_lost")
    assert other_run["state"] == "succeeded"
    assert len(await mirrored.calls(page)) <= 3 + 1 + 3, "labels, two pages, what is refused"


async def test_f60_an_address_on_another_host_is_never_followed(mirrored: Mirrored) -> None:
    (page,) = await pages_with_a_past(mirrored, conversations=60)
    await mirrored.live.meta.change_account(page.id, reading={"limit_max": 10})
    await mirrored.live.meta.faults(Script(fault="elsewhere", account=page.id))

    (run,) = await mirrored.sync(page)

    assert run["state"] == "succeeded"
    assert await mirrored.unlike(page) == NOTHING
    assert len(await mirrored.calls(page)) <= 60 / 10 + 4


async def test_f61_a_version_of_graph_that_is_gone_raises_an_alarm_and_costs_a_call_a_minute(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page, *others = await pages_with_a_past(mirrored, 3)
    await live.meta.faults(Script(fault="error", code=2635, account=page.id))
    (first,) = await mirrored.sync(page)
    before = await mirrored.serial()

    runs = await mirrored.sync(page, *others)

    asked = [await mirrored.calls(each) for each in (page, *others)]
    logged = live.system.process("sync").log.read_text()
    await live.system.process("sync").restart()  # as with another GRAPH_API_VERSION
    await mirrored.ready()
    await live.meta.faults()
    assert (first["state"], first["error"]) == ("failed", "graph_version_gone")
    assert [(run["state"], run["error"]) for run in runs] == [("failed", "graph_version_gone")] * 3
    assert len(asked[0]) <= 2, "the first, and what was under way then"
    assert asked[1:] == [[], []]
    assert [call.serial for calls in asked for call in calls if call.serial > before] == []
    assert "the version of Graph that is asked for is gone" in logged
    assert {run["state"] for run in await mirrored.sync(page, *others)} == {"succeeded"}


async def test_a_repair_finds_what_no_webhook_brought_and_answers_only_the_fresh(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page = await live.page()
    await mirrored.connected_yesterday(page)
    await live.rule(page, "price")
    known = await live.meta.say(page.id, "hello")
    await live.meta.wait(settled=True)
    await mirrored.sync(page)
    missed = {
        "fresh": await live.meta.say(page.id, "price?", silently=True, ago=4 * 60),
        "late": await live.meta.say(page.id, "price?", silently=True, ago=25 * 60),
    }

    run = await mirrored.repair(page)

    async def answered() -> bool:
        return bool(await live.meta.sends(account=page.id))

    await until(answered)
    (sent,) = await live.meta.sends(account=page.id)
    rows = await mirrored.query(
        "select mid, recovered from message where page_id = :page and direction = 'inbound'",
        page=page.id,
    )
    decided = {
        each["event_id"]: (each["outcome"], each["reason"])
        for each in (await live.get(f"/api/decisions?page_id={page.id}"))["decisions"]
    }
    assert (run["state"], run["recovered"]) == ("succeeded", 2)
    assert {row.mid: row.recovered for row in rows} == {
        known.mid: False,
        missed["fresh"].mid: True,
        missed["late"].mid: True,
    }
    assert sent.person_id == missed["fresh"].person
    assert sorted(decided.values()) == [
        ("answered", "fired"),
        ("declined", "no_rule_matched"),
        ("declined", "recovered_late"),
    ]
    assert await mirrored.unlike(page) == NOTHING


async def test_a_webhook_that_comes_after_the_repair_is_not_answered_again(
    mirrored: Mirrored,
) -> None:
    live = mirrored.live
    page = await live.page()
    await mirrored.connected_yesterday(page)
    await live.rule(page, "price")
    await mirrored.sync(page)
    await live.meta.pause()
    said = await live.meta.say(page.id, "price?", ago=4 * 60)
    run = await mirrored.repair(page)

    await live.meta.resume()
    await live.meta.wait(settled=True)
    await live.decisions(page, 1)

    async def answered() -> bool:
        return bool(await live.meta.sends(account=page.id))

    await until(answered)
    assert run["recovered"] == 1
    assert [send.person_id for send in await live.meta.sends(account=page.id)] == [said.person]
    assert len(await live.decisions(page, 1)) == 1


async def test_f76_a_repair_finds_all_of_a_traffic_that_was_dropped(mirrored: Mirrored) -> None:
    live = mirrored.live
    page = await live.page()
    await mirrored.connected_yesterday(page)
    await mirrored.sync(page)
    people = [await live.meta.create_person(page.id) for _ in range(30)]
    dropped = [
        Say(account=page.id, person=person.id, text=f"{nth}", silently=True, ago=3000 - 60 * nth)
        for nth in range(4)
        for person in people
    ]
    await live.meta.acts(dropped)

    run = await mirrored.repair(page)

    rows = await mirrored.query("select recovered from message where page_id = :page", page=page.id)
    assert (run["state"], run["recovered"]) == ("succeeded", 120)
    assert [row.recovered for row in rows] == [True] * 120
    assert await mirrored.unlike(page) == NOTHING


async def test_no_token_stood_in_an_address_all_the_while(mirrored: Mirrored) -> None:
    found = [call for call in await mirrored.live.meta.calls() if call.token_in_url]

    assert {call.endpoint for call in found} <= {"debug_token"}
