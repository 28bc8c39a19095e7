"""F76: what Meta never sent again is found in Graph, by the system itself and by nobody's asking.

The edge's own reports tell of it, which stayed away. All waits are shortened, in their usual order.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pagewire_cli.embedded import EmbeddedServer
from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView
from pagewire_store.database import open_pools
from tests.support.live import Live, until
from tests.support.mirrored import UNHURRIED, Mirrored

NOTHING: list[str] = []
SERVICES = ("webhook", "sync", "rules", "store")
"""In the order in which they end."""
PEOPLE = 40
TOO_LONG = "select now() - max(seen_at) > interval '3 seconds' from reception"
"""For which no edge was heard of: STORE_OUTAGE_SECONDS."""


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return UNHURRIED | {
        "WEBHOOK_REPORT_SECONDS": "0.5",
        "STORE_OUTAGE_SECONDS": "3",
        "STORE_REPAIR_GRACE_SECONDS": "1",
        "SYNC_REPAIR_GRACE_SECONDS": "1",
        "STORE_REPAIR_INTERVAL_SECONDS": "2",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mirrored(live: Live) -> AsyncIterator[Mirrored]:
    pools = open_pools(live.system.env["DATABASE_URL"], 13)
    await live.meta.options(rates={"conversation_reads": 0}, plan={"retries": [0.2, 0.5, 1]})
    yield Mirrored(live, pools.upkeep)
    await pools.dispose()


async def a_page_with_a_past(mirrored: Mirrored) -> AccountView:
    """Mirrored as it is, and with a rule."""
    page = await mirrored.live.page()
    await mirrored.live.rule(page, "price")
    await mirrored.live.meta.create_history(page.id, conversations=30, messages=4, unsupported=0)
    await mirrored.sync(page)
    return page


async def ask(mirrored: Mirrored, page: AccountView, *, silently: bool = False) -> dict[str, str]:
    """Many people ask for a price, each once: the ids of what they wrote, and theirs.

    `silently`: Meta tells nobody, now or later.
    """
    meta = mirrored.live.meta
    people = [(await meta.create_person(page.id)).id for _ in range(PEOPLE)]
    says = [
        Say(account=page.id, person=person, text="price?", silently=silently) for person in people
    ]
    done = await meta.acts(says)
    return {str(each.mid): str(each.person) for each in done}


async def are_found_by_itself(mirrored: Mirrored, page: AccountView, lost: dict[str, str]) -> None:
    """By itself, what was lost is stored, marked and answered."""
    await all_are_answered(mirrored, page, lost)
    recovered = await mirrored.query(
        "select mid from message where page_id = :page and recovered", page=page.id
    )
    runs = await mirrored.query(
        "select distinct origin from sync_run where page_id = :page and mode <> 'full'",
        page=page.id,
    )
    (gap,) = await mirrored.query(
        "select gap_cause from mirror where page_id = :page and kind = 'conversations'",
        page=page.id,
    )
    assert lost.keys() <= {row.mid for row in recovered}
    assert [run.origin for run in runs] == ["repair"]
    assert gap.gap_cause == "outage"


async def all_are_answered(mirrored: Mirrored, page: AccountView, asked: dict[str, str]) -> None:
    """And the store comes to equal the truth, message for message."""
    meta = mirrored.live.meta

    async def is_whole() -> bool:
        return await mirrored.unlike(page) == NOTHING

    async def is_sent() -> bool:
        return {*asked.values()} <= {send.person_id for send in await meta.sends(account=page.id)}

    await until(is_sent)
    await until(is_whole)


async def nobody_was_answered_twice(mirrored: Mirrored, page: AccountView) -> None:
    """One event and one reply for each that was asked, whichever way it came."""
    asked = await mirrored.query(
        "select event_key from event where page_id = :page and trigger > 0", page=page.id
    )
    sends = [send.person_id for send in await mirrored.live.meta.sends(account=page.id)]
    assert len(sends) == len({*sends}) == len(asked) == len({row.event_key for row in asked})


async def test_f76_what_came_while_all_was_down_is_found_in_graph_by_itself(
    mirrored: Mirrored,
) -> None:
    live, page = mirrored.live, await a_page_with_a_past(mirrored)
    database = live.system.servers["postgres"]
    for name in SERVICES:
        await live.system.process(name).stop()
    await stop(database)

    lost, late = await ask(mirrored, page, silently=True), await ask(mirrored, page)
    await start(database)
    await mirrored.database.dispose()

    async def was_too_long() -> bool:
        return bool((await mirrored.query(TOO_LONG))[0][0])

    await until(was_too_long)
    for name in reversed(SERVICES):
        await live.system.process(name).start()
    await are_found_by_itself(mirrored, page, lost)
    await live.meta.wait(settled=True)
    await all_are_answered(mirrored, page, lost | late)
    await nobody_was_answered_twice(mirrored, page)


async def stop(server: EmbeddedServer) -> None:
    """As in a crash."""
    await asyncio.to_thread(server.stop, immediate=True)


async def start(server: EmbeddedServer) -> None:
    server.spawn()
    await asyncio.to_thread(server.wait_ready)
