"""A trigger of each kind is answered once, with its decision and its reasons on record."""

from typing import Any

import pytest

from pagewire_simulator.faults import Script
from pagewire_simulator.ledger import CallRecord
from pagewire_simulator.meta import Echoes
from tests.support.live import Live, until


def fired(decision: dict[str, Any]) -> list[str]:
    return [rule["rule_id"] for rule in decision["rules"] if rule["fired"]]


async def sends_of(live: Live, account: str, count: int) -> list[CallRecord]:
    """The page's accepted sends once there are so many; then no more come."""

    async def enough() -> list[CallRecord]:
        sends = await live.meta.sends(account=account)
        return sends if len(sends) >= count else []

    sends = await until(enough)
    await live.meta.wait(settled=True)
    assert await live.meta.sends(account=account) == sends
    return sends


@pytest.mark.parametrize(
    ("platform", "login"),
    [("messenger", "facebook"), ("instagram", "facebook"), ("instagram", "instagram")],
)
async def test_a_direct_message_is_answered_once_on_each_product(
    live: Live, platform: str, login: str
) -> None:
    page = await live.page(platform, login)
    rule = await live.rule(page, "price")

    said = await live.meta.say(page.id, "What is the PRICE?")
    [decision] = await live.decisions(page, 1)
    [send] = await sends_of(live, page.id, 1)

    assert (decision["kind"], decision["outcome"]) == ("message", "answered")
    assert decision["reason"] == "fired"
    assert fired(decision) == [rule["rule_id"]]
    assert (send.person_id, send.text) == (said.person, "about price")
    assert not send.token_in_url
    assert send.proof == "ok"


async def test_each_stage_of_an_answer_has_its_time(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")

    await live.meta.say(page.id, "price")
    await sends_of(live, page.id, 1)

    async def sent() -> dict[str, Any] | None:
        [decision] = await live.decisions(page, 1)
        return decision if decision["sent_at"] else None

    decision = await until(sent)
    assert decision is not None
    times = [decision[f"{stage}_at"] for stage in ("received", "stored", "decided", "sent")]
    assert times == sorted(times)


async def test_a_postback_is_answered_by_its_payload(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "GET_STARTED", events=["postback"])

    await live.meta.postback(page.id, "GET_STARTED")
    [decision] = await live.decisions(page, 1)
    [send] = await sends_of(live, page.id, 1)

    assert (decision["kind"], decision["outcome"]) == ("postback", "answered")
    assert send.text == "about GET_STARTED"


async def test_a_story_reply_is_answered_only_by_a_rule_that_names_it(live: Live) -> None:
    page = await live.page("instagram", "instagram")
    messages = await live.rule(page, "want", priority=9)
    stories = await live.rule(page, "want", events=["story_reply"])

    await live.meta.story_reply(page.id, "I want this")
    [decision] = await live.decisions(page, 1)
    await sends_of(live, page.id, 1)

    assert decision["kind"] == "story_reply"
    assert fired(decision) == [stories["rule_id"]]
    reasons = {rule["rule_id"]: rule["reason"] for rule in decision["rules"]}
    assert reasons[messages["rule_id"]] == "event_kind"


async def test_a_story_mention_is_answered_by_a_catch_all_that_names_it(live: Live) -> None:
    page = await live.page("instagram", "facebook")
    await live.rule(page, "thanks", events=["story_mention"], when={"text": {}})

    await live.meta.story_mention(page.id)
    [decision] = await live.decisions(page, 1)
    [send] = await sends_of(live, page.id, 1)

    assert (decision["kind"], decision["outcome"]) == ("story_mention", "answered")
    assert send.text == "about thanks"


@pytest.mark.parametrize(
    ("platform", "login"),
    [("messenger", "facebook"), ("instagram", "facebook"), ("instagram", "instagram")],
)
async def test_a_comment_is_answered_in_public_and_in_private_and_hidden(
    live: Live, platform: str, login: str
) -> None:
    page = await live.page(platform, login)
    actions: list[dict[str, Any]] = [
        {"private_reply": {"text": "in private"}},
        {"comment_reply": {"text": "below"}},
        {"hide_comment": {"hidden": True}},
    ]
    await live.rule(page, "price", events=["comment"], then=actions)

    made = await live.meta.comment(page.id, "price?")
    [decision] = await live.decisions(page, 1)
    sends = await sends_of(live, page.id, 2)

    assert (decision["kind"], decision["outcome"]) == ("comment", "answered")
    assert [(send.endpoint, send.text) for send in sends] == [
        ("private_reply", "in private"),
        ("comment_reply", "below"),
    ]
    assert made.comment is not None

    async def hidden() -> bool:
        return (await live.meta.comment_now(made.comment or "")).comment.hidden

    await until(hidden)
    listed = await live.get(f"/api/comments?page_id={page.id}")
    mine = {each["comment_id"]: each for each in listed["comments"]}[made.comment]
    assert mine["answered_at"] is not None


async def test_a_label_is_put_on_the_person(live: Live) -> None:
    page = await live.page()
    actions: list[dict[str, Any]] = [{"reply": {"text": "hi"}}, {"add_label": {"name": "lead"}}]
    await live.rule(page, "price", then=actions)

    said = await live.meta.say(page.id, "price")

    async def labelled() -> bool:
        labels = await live.meta.labels(page.id)
        return any(label.name == "lead" and said.person in label.people for label in labels)

    await until(labelled)

    async def shown() -> bool:
        listed = await live.get(f"/api/conversations?page_id={page.id}")
        return [each["labels"] for each in listed["conversations"]] == [["lead"]]

    await until(shown)


async def test_a_rule_is_in_force_for_the_next_event_and_out_of_force_once_deleted(
    live: Live,
) -> None:
    page = await live.page()
    for nth in range(5):
        rule = await live.rule(page, f"word{nth}")
        await live.meta.say(page.id, f"word{nth}")
        decisions = await live.decisions(page, 2 * nth + 1)
        assert decisions[-1]["outcome"] == "answered"
        await live.operator.delete(f"/api/rules/{rule['rule_id']}")
        await live.meta.say(page.id, f"word{nth}")
        decisions = await live.decisions(page, 2 * nth + 2)
        assert (decisions[-1]["outcome"], decisions[-1]["reason"]) == (
            "declined",
            "no_rule_matched",
        )


async def test_a_reply_by_hand_is_sent_once_and_pauses_rules_there(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")
    said = await live.meta.say(page.id, "hello")
    await live.decisions(page, 1)
    conversation = await live.conversation_id(page, said.person or "")
    body = {"conversation_id": conversation, "text": "a person here", "client_key": "k-1"}

    first = await live.post("/api/replies", body)
    again = await live.post("/api/replies", body)
    other = await live.operator.post("/api/replies", json=body | {"text": "other"})
    [send] = await sends_of(live, page.id, 1)
    await live.meta.say(page.id, "price", person=said.person)
    decision = (await live.decisions(page, 2))[-1]

    assert first["reply_id"] == again["reply_id"]
    assert other.status_code == 409
    assert send.text == "a person here"
    assert (decision["outcome"], decision["reason"]) == ("declined", "person_active")


async def test_what_was_decided_is_still_sent_after_its_rule_was_deleted(live: Live) -> None:
    page = await live.page()
    rule = await live.rule(page, "price")
    await live.meta.change_account(page.id, echo=Echoes(when="never"))  # or it ends the wait
    await live.meta.faults(Script(fault="slow", account=page.id, seconds=6, count=1))

    first = await live.meta.say(page.id, "price one")
    await live.meta.say(page.id, "price two", person=first.person)
    decided = await live.decisions(page, 2)
    before = len(await live.meta.sends(account=page.id))
    await live.operator.delete(f"/api/rules/{rule['rule_id']}")
    sends = await sends_of(live, page.id, 2)
    await live.meta.faults()

    assert [decision["outcome"] for decision in decided] == ["answered", "answered"]
    assert before < 2  # the second waited for its turn while the rule was deleted
    assert [send.text for send in sends] == ["about price"] * 2
