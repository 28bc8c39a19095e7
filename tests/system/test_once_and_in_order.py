"""Two of each service at once, and a sender that repeats and reorders: still once, in order."""

import asyncio
import json
import random
import time
from collections import defaultdict

import pytest

from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView
from tests.support.live import Live, until

PEOPLE = 24
MESSAGES = 5


@pytest.fixture(scope="module")
def replicas() -> dict[str, int]:
    return {"store": 2, "rules": 2, "sync": 2, "webhook": 2}


def body(page: AccountView, *messages: tuple[str, str, str], at: int | None = None) -> bytes:
    """A webhook of (person, mid, text)."""
    now = int(time.time() * 1000) if at is None else at
    items = [
        {
            "sender": {"id": person},
            "recipient": {"id": page.id},
            "timestamp": now + nth,
            "message": {"mid": mid, "text": text},
        }
        for nth, (person, mid, text) in enumerate(messages)
    ]
    entry = {"id": page.id, "time": now + 500, "messaging": items}
    return json.dumps({"object": "page", "entry": [entry]}).encode()


async def test_under_repeats_and_reordering_each_message_is_answered_once(live: Live) -> None:
    pages = [await live.page() for _ in range(2)]
    for page in pages:
        await live.rule(page, "n", when={"text": {"mode": "contains", "any": ["n"]}})
        await live.meta.options(plan={"repeat": 0.4, "reorder": 0.2, "later_by": 0.3})
    people = {
        page.id: [await live.meta.create_person(page.id) for _ in range(PEOPLE // 2)]
        for page in pages
    }
    acts = [
        Say(account=page.id, person=person.id, text=f"n {person.id} {nth}")
        for nth in range(MESSAGES)
        for page in pages
        for person in people[page.id]
    ]

    await live.meta.acts(acts)
    for page in pages:
        decisions = await live.decisions(page, MESSAGES * PEOPLE // 2)
        assert [decision["outcome"] for decision in decisions] == ["answered"] * len(decisions)
        assert len({decision["event_id"] for decision in decisions}) == len(decisions)

    async def sent() -> bool:
        return len(await live.meta.sends()) >= len(acts)

    await until(sent)
    await live.meta.wait(settled=True)
    await live.meta.options(plan={"repeat": 0, "reorder": 0})
    assert len(await live.meta.sends()) == len(acts)
    assert await live.meta.overlaps() == []


async def test_replies_of_a_conversation_are_sent_in_the_order_of_arrival(live: Live) -> None:
    page = await live.page()
    for nth in range(8):
        await live.rule(page, f"word{nth}")
    await live.meta.options(adopt=True)  # it learns of these people when they are answered
    people = [f"71000000000000{nth:02}" for nth in range(10)]
    order = list(range(8))
    random.Random(7).shuffle(order)

    for nth in order:
        bodies = [
            body(page, (person, f"m_order_{person}_{nth}", f"word{nth}")) for person in people
        ]
        answers = await asyncio.gather(*(live.deliver(each) for each in bodies))
        assert {answer.status_code for answer in answers} == {200}
    await live.decisions(page, 8 * len(people))

    async def sent() -> bool:
        return len(await live.meta.sends(account=page.id)) >= 8 * len(people)

    await until(sent)
    texts = defaultdict(list)
    for send in await live.meta.sends(account=page.id):
        texts[send.person_id].append(send.text)
    assert texts == {person: [f"about word{nth}" for nth in order] for person in people}


async def test_what_was_written_earlier_and_comes_later_is_decided_later_and_shown_earlier(
    live: Live,
) -> None:
    page = await live.page()
    for word in ("newer", "older"):
        await live.rule(page, word)
    person = (await live.meta.say(page.id, "hello")).person or ""
    await live.decisions(page, 1)
    now = int(time.time() * 1000)

    await live.deliver(body(page, (person, "m_newer", "newer"), at=now))
    decided_first = (await live.decisions(page, 2))[1]
    await live.deliver(body(page, (person, "m_older", "older"), at=now - 60_000))
    decisions = await live.decisions(page, 3)

    async def both_sent() -> list[str | None]:
        sent = [send.text for send in await live.meta.sends(account=page.id)]
        return sent if len(sent) >= 2 else []

    assert [each["outcome"] for each in decisions[1:]] == ["answered", "answered"]
    assert decisions[1]["event_id"] == decided_first["event_id"]
    assert await until(both_sent) == ["about newer", "about older"]
    shown = await live.messages(page, person)
    assert next(m["mid"] for m in shown if m["direction"] == "inbound") == "m_older"
    assert [m["mid"] for m in shown if m["mid"] in ("m_newer", "m_older")] == ["m_older", "m_newer"]


async def test_the_same_message_in_one_body_in_two_and_in_parallel_is_one(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")
    person = (await live.meta.say(page.id, "hello")).person or ""
    await live.decisions(page, 1)
    message = (person, "m_once", "price")

    twice = await live.deliver(body(page, message, message))
    later = await asyncio.gather(*(live.deliver(body(page, message, at=at)) for at in range(1, 20)))
    other = await live.deliver(body(page, (person, "m_other", "hello"), message))

    assert {answer.status_code for answer in (twice, *later, other)} == {200}
    decisions = await live.decisions(page, 3)
    assert len(decisions) == 3
    assert [d["outcome"] for d in decisions].count("answered") == 1

    async def sent() -> bool:
        return len(await live.meta.sends(account=page.id)) >= 1

    await until(sent)
    await live.meta.wait(settled=True)
    assert len(await live.meta.sends(account=page.id)) == 1
    shown = await live.messages(page, person)
    assert [m["text"] for m in shown if m["mid"] == "m_once"] == ["price"]
