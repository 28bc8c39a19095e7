"""What no rule may answer ends with its reason, and is kept."""

import json
import time

from tests.support.live import Live, until


async def test_a_standby_message_is_kept_and_declined_until_it_comes_live(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")
    now = int(time.time() * 1000)
    item = {
        "sender": {"id": "7100000000000042"},
        "recipient": {"id": page.id},
        "timestamp": now,
        "message": {"mid": "m_standby", "text": "price"},
    }

    def body(channel: str) -> bytes:
        entry = {"id": page.id, "time": now, channel: [item]}
        return json.dumps({"object": "page", "entry": [entry]}).encode()

    await live.deliver(body("standby"))
    [standby] = await live.decisions(page, 1)
    await live.meta.options(adopt=True)
    await live.deliver(body("messaging"))

    async def answered() -> bool:
        decisions = await live.decisions(page, 1)
        return [d["outcome"] for d in decisions] == ["answered"]

    await until(answered)
    await live.deliver(body("standby"))
    await live.meta.options(adopt=False)
    assert (standby["outcome"], standby["reason"]) == ("declined", "standby")
    assert [d["outcome"] for d in await live.decisions(page, 1)] == ["answered"]
    assert len([m for m in await live.messages(page, "7100000000000042") if m["mid"]]) >= 1


async def test_what_came_before_its_page_was_connected_is_read_in_without_rules(
    live: Live,
) -> None:
    account = await live.meta.create_account("messenger", name="Early")
    rule = {
        "name": "early",
        "events": ["message"],
        "when": {"text": {"any": ["early"]}},
        "then": [{"reply": {"text": "late"}}],
    }
    made = await live.post("/api/rules", rule)
    said = await live.meta.say(account.id, "early")
    await live.meta.wait(settled=True)

    body = {"platform": "messenger", "page_id": account.id, "name": "Early"}
    await live.post("/api/pages", body | {"access_token": account.token})
    [decision] = await live.decisions(account, 1)
    await live.operator.delete(f"/api/rules/{made['rule_id']}")

    assert (decision["outcome"], decision["reason"]) == ("declined", "page_unknown")
    shown = await live.messages(account, said.person or "")
    assert [message["text"] for message in shown] == ["early"]
    assert await live.meta.sends(account=account.id) == []


async def test_two_of_our_own_pages_never_answer_each_other(live: Live) -> None:
    one, two = await live.page(), await live.page()
    await live.rule(one, "ping")
    now = int(time.time() * 1000)
    item = {
        "sender": {"id": two.id},
        "recipient": {"id": one.id},
        "timestamp": now,
        "message": {"mid": "m_ping", "text": "ping"},
    }
    entry = {"id": one.id, "time": now, "messaging": [item]}

    await live.deliver(json.dumps({"object": "page", "entry": [entry]}).encode())
    [decision] = await live.decisions(one, 1)

    assert (decision["outcome"], decision["reason"]) == ("declined", "own_page")


async def test_a_message_of_yesterday_is_kept_and_expired(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")

    await live.meta.say(page.id, "price", ago=36 * 3600)
    [decision] = await live.decisions(page, 1)

    assert decision["outcome"] == "expired"
    assert decision["reason"] == "window_closed"
    assert await live.meta.sends(account=page.id) == []


async def test_a_person_is_answered_at_most_as_often_as_a_rule_allows(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price", limits={"once_per_person": True})

    first = await live.meta.say(page.id, "price")
    await live.decisions(page, 1)
    await live.meta.say(page.id, "price", person=first.person)
    await live.decisions(page, 2)
    await live.meta.say(page.id, "price")
    decisions = await live.decisions(page, 3)

    assert [(d["outcome"], d["reason"]) for d in decisions] == [
        ("answered", "fired"),
        ("declined", "once_per_person"),
        ("answered", "fired"),
    ]


async def test_thirty_answers_a_minute_is_the_most_that_a_conversation_gets(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "n", when={"text": {}})
    person = (await live.meta.create_person(page.id)).id

    for nth in range(32):
        await live.meta.say(page.id, f"n{nth}", person=person)
    decisions = await live.decisions(page, 32)

    reasons = [decision["reason"] for decision in decisions]
    assert reasons.count("fired") == 30
    assert reasons.count("rate_capped") == 2


async def test_a_disconnected_page_is_declined_and_its_waiting_replies_fail(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")
    said = await live.meta.say(page.id, "hello")
    await live.decisions(page, 1)

    await live.operator.delete(f"/api/pages/{page.id}")
    await live.meta.say(page.id, "price", person=said.person)
    await live.meta.wait(settled=True)

    gone = await live.operator.get(f"/api/pages/{page.id}")
    assert gone.status_code == 404
    assert await live.meta.sends(account=page.id) == []
