import asyncio
import json

import pytest

from pagewire_simulator import acts, bodies
from pagewire_simulator.client import AccountView, ControlError, SimulatorClient
from pagewire_simulator.plan import Repeat
from tests.support.simulator import (
    APP_SECRET,
    INSTAGRAM_SECRET,
    Receiver,
    running_simulator,
    verified,
)

QUICK = {"retries": [0.01, 0.02], "later_by": 0.02}


async def test_a_message_is_delivered_signed_and_recorded(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)

    done = await simulator.say(page.id, "kůň / 🐎")
    await simulator.wait(settled=True)

    (path, headers, body), (event,) = receiver.posts[0], await simulator.events()
    assert path == "/api/webhook"
    assert headers["user-agent"] == "facebookexternalua"
    assert verified(headers, body, APP_SECRET)
    assert b"k\\u016f\\u0148 \\/ \\ud83d\\udc0e" in body
    entry = json.loads(body)["entry"][0]
    item = entry["messaging"][0]
    assert item["message"]["mid"] == done.mid
    assert item["sender"]["id"] == done.person
    assert entry["time"] - item["timestamp"] >= 100
    assert event.ref == done.ref
    assert event.told == 1


async def test_instagram_login_has_its_own_path_and_secret(
    simulator: SimulatorClient, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    account = await simulator.create_account("instagram", login="instagram")

    await simulator.say(account.id, "hi")
    await simulator.comment(account.id, "price?")
    await simulator.wait(settled=True)

    assert {path for path, _, _ in receiver.posts} == {"/api/webhooks/instagram"}
    assert all(verified(headers, body, INSTAGRAM_SECRET) for _, headers, body in receiver.posts)
    assert {body["object"] for body in receiver.bodies} == {"instagram"}


async def test_a_webhook_that_changes_the_challenge_is_not_activated(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    receiver.challenge_prefix = b'"'

    with pytest.raises(ControlError) as refused:
        await simulator.webhook(receiver.url)
    await simulator.say(page.id, "hi")

    assert refused.value.status == 409
    assert receiver.posts == []
    assert not (await simulator.summary()).webhook_verified


async def test_a_webhook_with_the_wrong_token_is_not_activated(
    simulator: SimulatorClient, receiver: Receiver
) -> None:
    with pytest.raises(ControlError) as refused:
        await simulator.webhook(receiver.url, verify_token="another-token")

    assert refused.value.status == 409


async def test_a_webhook_that_comes_up_late_gets_what_was_said_before(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    receiver.challenge_prefix = b"not yet "
    await simulator.webhook(receiver.url, verify=False)
    await simulator.say(page.id, "early")
    receiver.challenge_prefix = b""

    waited = await simulator.wait(settled=True, timeout=60)

    assert waited.reached
    assert [item["message"]["text"] for item in receiver.items] == ["early"]


async def test_a_reset_goes_on_trying_a_webhook_that_is_not_up(
    simulator: SimulatorClient, receiver: Receiver
) -> None:
    receiver.challenge_prefix = b"not yet "
    await simulator.webhook(receiver.url, verify=False)
    await simulator.reset(2)
    page = await simulator.create_account()
    await simulator.say(page.id, "early")
    receiver.challenge_prefix = b""

    assert (await simulator.wait(settled=True, timeout=60)).reached
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("status", [503, 404, 204, 302])
async def test_anything_but_200_is_sent_again_with_the_same_bytes(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver, status: int
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan=QUICK)
    receiver.statuses = [status] * 4

    await simulator.say(page.id, "hi")
    await simulator.wait(settled=True)

    deliveries = await simulator.deliveries()
    assert len({body for _, _, body in receiver.posts}) == 1
    assert [one.outcome for one in deliveries] == ["fail"] * 4 + ["ok"]
    assert [one.attempt for one in deliveries] == [1, 2, 3, 4, 5]
    assert deliveries[0].status == status


async def test_no_answer_in_time_is_unknown_and_sent_again(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan=QUICK | {"timeout": 2})
    release = asyncio.Event()

    async def hang_once(body: bytes) -> int:
        if len(receiver.posts) == 1:
            await release.wait()
        return 200

    receiver.respond = hang_once
    await simulator.say(page.id, "hi")
    waited = await simulator.wait(settled=True)
    release.set()

    assert waited.reached
    assert [one.outcome for one in await simulator.deliveries()] == ["unknown", "ok"]


async def test_an_hour_of_failure_ends_the_subscription(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan=QUICK | {"give_up_messaging": 0})
    receiver.statuses = [503]

    await simulator.say(page.id, "hi")
    await simulator.wait(settled=True)
    await simulator.say(page.id, "again")

    (account,) = await simulator.accounts()
    assert account.subscribed_fields == []
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("mode", list(Repeat))
async def test_a_repeat_brings_the_same_event_twice(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver, mode: Repeat
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan=QUICK)

    done = await simulator.say(page.id, "hi", repeat=mode)
    await simulator.wait(settled=True)

    assert [item["message"]["mid"] for item in receiver.items] == [done.mid, done.mid]
    assert [one.repeat for one in await simulator.deliveries()].count(True) == 1


async def test_repeats_by_chance_follow_the_seed(receiver: Receiver) -> None:
    async def repeats(seed: int) -> list[bool]:
        async with running_simulator(seed) as simulator:
            await simulator.webhook(receiver.url)
            plan = QUICK | {"repeat": 0.3, "repeat_modes": ["concurrent"], "connections": 1}
            await simulator.options(plan=plan)
            page = await simulator.create_account()
            for number in range(20):
                await simulator.say(page.id, str(number))
            await simulator.wait(settled=True)
            return [one.repeat for one in await simulator.deliveries()]

    first, again, other = await repeats(5), await repeats(5), await repeats(6)

    assert first == again != other
    assert 0 < first.count(True) < 20


async def test_a_batch_merges_accounts_into_one_post_but_not_objects(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    other = await simulator.create_account()
    instagram = await simulator.create_account("instagram", page_id=page.id)
    said = [
        acts.Say(account=account, text=str(number))
        for number, account in enumerate([page.id, other.id, instagram.id, page.id])
    ]

    done = await simulator.acts(said, batch=1000)
    await simulator.wait(settled=True)

    assert [len(body["entry"]) for body in receiver.bodies] == [3, 1]
    assert [entry["id"] for entry in receiver.bodies[0]["entry"]] == [page.id, other.id, page.id]
    assert len({one.ref for one in done}) == 4


async def test_a_backlog_is_merged_when_the_plan_says_so(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan={"batch_max": 10, "connections": 1})
    await simulator.pause()

    for number in range(25):
        await simulator.say(page.id, str(number))
    assert receiver.posts == []
    await simulator.resume()
    await simulator.wait(settled=True)

    assert [len(body["entry"]) for body in receiver.bodies] == [10, 10, 5]
    assert [item["message"]["text"] for item in receiver.items] == [str(n) for n in range(25)]


async def test_a_held_back_event_is_overtaken(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan={"reorder": 1, "reorder_by": 3})
    await simulator.say(page.id, "first")
    await simulator.options(plan={"reorder": 0})
    await simulator.say(page.id, "second")

    await simulator.wait(settled=True)

    assert [item["message"]["text"] for item in receiver.items] == ["second", "first"]


async def test_only_subscribed_fields_are_told(
    simulator: SimulatorClient, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    page = await simulator.create_account(subscribed_fields=["messages"])

    done = await simulator.say(page.id, "told")
    await simulator.postback(page.id, "SECRET", person=done.person)
    await simulator.say(page.id, "not told", standby=True)
    await simulator.wait(settled=True)

    assert [item["message"]["text"] for item in receiver.items] == ["told"]
    assert [event.subscribed for event in await simulator.events()] == [True, False, False]
    assert await simulator.untold() == []


async def test_standby_hides_the_payload_of_a_postback(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)

    await simulator.postback(page.id, "BUY", title="Buy", standby=True)
    await simulator.wait(settled=True)

    entry = receiver.bodies[0]["entry"][0]
    assert "messaging" not in entry
    assert entry["standby"][0]["postback"].keys() == {"mid", "title"}


async def test_any_other_event_and_raw_bytes_are_delivered_as_given(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan={"connections": 1})

    await simulator.event(page.id, bodies.reaction("m_1", "love", "\u2764"))
    await simulator.event(page.id, bodies.app_roles("1", "primary_receiver"), anonymous=True)
    await simulator.change(page.id, "mention", bodies.page_mention("1_2", "hello", 1))
    await simulator.deliver(b'{"object":"page",', secret="another-secret")
    await simulator.dashboard_test("instagram_message")
    await simulator.wait(settled=True)

    raw = next(post for post in receiver.posts if post[2] == b'{"object":"page",')
    others = [json.loads(post[2]) for post in receiver.posts if post is not raw]
    items = [one["entry"][0]["messaging"][0] for one in others if "messaging" in one["entry"][0]]
    assert verified(raw[1], raw[2], "another-secret")
    assert {"reaction", "sender", "recipient", "timestamp"} in [set(item) for item in items]
    assert {"app_roles", "recipient", "timestamp"} in [set(item) for item in items]
    assert {one["entry"][0]["id"] for one in others} == {page.id, "0"}


async def test_the_same_seed_makes_the_same_world(receiver: Receiver) -> None:
    async def story(client: SimulatorClient) -> list[str | None]:
        page = await client.create_account()
        done = await client.say(page.id, "hi")
        comment = await client.comment(page.id, "price?", person=done.person)
        return [page.id, page.token, done.person, done.mid, comment.comment, comment.post]

    async with running_simulator(7) as simulator:
        first = await story(simulator)
        await simulator.reset(8)
        other = await story(simulator)
        await simulator.reset(7)
        again = await story(simulator)

    assert first == again
    assert not set(first) & set(other)


async def test_a_reset_keeps_the_webhook_and_forgets_the_rest(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.say(page.id, "before")
    await simulator.wait(settled=True)

    await simulator.reset(2)
    fresh = await simulator.create_account()
    await simulator.say(fresh.id, "after")
    await simulator.wait(settled=True)

    summary = await simulator.summary()
    assert [item["message"]["text"] for item in receiver.items] == ["before", "after"]
    assert (summary.seed, summary.events, summary.deliveries) == (2, 1, 1)
