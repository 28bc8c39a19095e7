"""A message that the page sent is one row, whichever comes first: Graph's answer or its echo."""

import pytest

from pagewire_simulator.client import AccountView
from pagewire_simulator.meta import Echoes
from tests.support.live import Live, until

WAYS = {
    "before the answer": Echoes(when="before"),
    "after the answer": Echoes(when="after"),
    "twice": Echoes(when="twice"),
    "never": Echoes(when="never"),
    "without the tag": Echoes(when="after", metadata=False),
    "before, without the tag": Echoes(when="before", metadata=False),
    "with the tag": Echoes(when="after", metadata=True),
    "with a tag of nobody": Echoes(when="after", tag="pw1.AAAAAAAAAAAAAAAAAAAAAA"),
}


async def outbound(live: Live, page: AccountView, person: str) -> list[dict[str, object]]:
    shown = await live.messages(page, person)
    return [each for each in shown if each["direction"] == "outbound"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("platform", "login"), [("messenger", "facebook"), ("instagram", "instagram")]
)
async def test_a_reply_and_its_echo_are_one_row(
    live: Live, platform: str, login: str, way: str
) -> None:
    page = await live.page(platform, login)
    await live.rule(page, "price")
    await live.meta.change_account(page.id, echo=WAYS[way])

    said = await live.meta.say(page.id, "price")
    person = said.person or ""

    async def settled() -> bool:
        rows = await outbound(live, page, person)
        return bool(rows) and all(row["reply_state"] == "sent" and row["mid"] for row in rows)

    await until(settled)
    await live.meta.wait(settled=True)
    rows = await outbound(live, page, person)
    [send] = await live.meta.sends(account=page.id)
    assert [(row["text"], row["mid"]) for row in rows] == [("about price", send.created)]


@pytest.mark.parametrize(
    ("platform", "login"), [("messenger", "facebook"), ("instagram", "instagram")]
)
async def test_what_a_person_types_in_metas_inbox_is_a_row_and_pauses_rules_there(
    live: Live, platform: str, login: str
) -> None:
    page = await live.page(platform, login)
    await live.rule(page, "price")
    said = await live.meta.say(page.id, "hello")
    person = said.person or ""
    await live.decisions(page, 1)

    await live.meta.inbox_reply(page.id, person, "price is on the way")

    async def typed() -> bool:
        return len(await outbound(live, page, person)) == 1

    await until(typed)
    await live.meta.say(page.id, "price", person=person)
    paused = (await live.decisions(page, 2))[-1]
    other = await live.meta.say(page.id, "price")
    answered = (await live.decisions(page, 3))[-1]

    assert (paused["outcome"], paused["reason"]) == ("declined", "person_active")
    assert other.person != person
    assert answered["outcome"] == "answered"
    [row] = await outbound(live, page, person)
    assert row["reply_state"] is None


async def test_an_echo_of_another_app_is_a_row_and_pauses_nothing(live: Live) -> None:
    page = await live.page()
    await live.rule(page, "price")
    said = await live.meta.say(page.id, "hello")
    await live.decisions(page, 1)
    person = said.person or ""
    message = {
        "mid": "m_of_another_app",
        "text": "from elsewhere",
        "is_echo": True,
        "app_id": 880000000000099,
    }

    await live.meta.event(page.id, {"message": message}, person=person)
    await live.meta.say(page.id, "price", person=person)
    decision = (await live.decisions(page, 2))[-1]

    assert decision["outcome"] == "answered"
