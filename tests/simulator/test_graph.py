import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.faults import FAULTS, Script
from pagewire_simulator.limits import Allowance
from pagewire_simulator.meta import Echoes
from pagewire_simulator.tokens import proof_of
from tests.support.simulator import (
    APP,
    APP_SECRET,
    INSTAGRAM_SECRET,
    GraphCaller,
    Receiver,
)

DAY = 86_400


def codes(answer: httpx.Response) -> tuple[int, int, int | None]:
    error = answer.json()["error"]
    assert error["fbtrace_id"]
    return answer.status_code, error["code"], error.get("error_subcode")


async def person_of(simulator: SimulatorClient, page: AccountView, **more: Any) -> str:
    done = await simulator.say(page.id, "hello", **more)
    assert done.person
    return done.person


async def test_a_reply_within_the_window_lands_in_the_conversation(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)

    answer = await graph.send(person, "hi", message={"text": "hi", "metadata": "tag-1"})

    (send,) = await simulator.sends(metadata="tag-1")
    last = (await simulator.conversation(page.id, person)).messages[-1]
    assert answer.json() == {"recipient_id": person, "message_id": last.mid}
    assert answer.headers["facebook-api-version"] == "v25.0"
    assert (send.created, send.person_id, send.text) == (last.mid, person, "hi")
    assert (send.proof, send.token_in_url, send.answer) == ("ok", False, "normal")


async def test_the_same_request_twice_makes_two_messages_and_shows_as_duplicate(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)

    await graph.send(person, "hi")
    await graph.send(person, "hi")
    await graph.send(person, "another")

    (group,) = await simulator.duplicates()
    assert len(group) == 2
    assert (await simulator.summary()).sends == 3
    assert [send.text for send in await simulator.sends(person=person)] == ["hi", "hi", "another"]


async def test_an_unknown_path_or_someone_elses_object_is_refused(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    other = await simulator.create_account()

    nowhere = await graph.call("GET", "123/nothing")
    foreign = await graph.call("POST", f"{other.id}/messages", form={})

    assert codes(nowhere) == codes(foreign) == (400, 100, 33)


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("facebook/v20.0", "v20.0"),
        ("facebook/v26.0", "v26.0"),
        ("facebook", "v26.0"),
        ("facebook/v2.8", "v20.0"),  # dead: served by the oldest that lives
    ],
)
async def test_any_version_and_none_is_served(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, path: str, version: str
) -> None:
    proof = proof_of(APP_SECRET, page.token)

    answer = await graph.http.get(
        f"{simulator.base_url}/{path}/me",
        params={"fields": "id,name", "appsecret_proof": proof},
        headers={"Authorization": f"Bearer {page.token}"},
    )

    assert answer.json() == {"id": page.id, "name": "Example"}
    assert answer.headers["facebook-api-version"] == version


async def test_a_version_that_is_not_out_yet_is_refused(graph: GraphCaller) -> None:
    answer = await graph.http.get(f"{graph.base}/v99.0/me")

    assert codes(answer) == (400, 2500, None)


@pytest.mark.parametrize(
    ("state", "subcode"),
    [
        ("expired", 463),
        ("password_changed", 460),
        ("app_removed", 458),
        ("role_lost", 492),
        ("checkpointed", 459),
    ],
)
async def test_a_dead_token_is_refused_with_its_reason(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, state: str, subcode: int
) -> None:
    await simulator.change_account(page.id, token_state=state)

    answer = await graph.call("GET", "me")

    assert codes(answer) == (400, 190, subcode)


async def test_a_token_dies_at_its_time(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.change_account(page.id, expires_at=1)

    assert codes(await graph.call("GET", "me")) == (400, 190, 463)


async def test_a_token_works_on_its_own_host_only(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    graph.base = simulator.instagram

    assert codes(await graph.call("GET", "me")) == (400, 190, None)


async def test_a_token_in_the_url_works_and_is_noted(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    proof = proof_of(APP_SECRET, page.token)
    query = {"access_token": page.token, "appsecret_proof": proof}
    form = {"access_token": page.token, "page_label_name": "lead", "appsecret_proof": proof}

    by_query = await graph.http.get(f"{graph.base}/v25.0/me", params=query)
    by_form = await graph.http.post(f"{graph.base}/v25.0/me/custom_labels", data=form)
    await graph.call("GET", "me")

    assert by_query.status_code == by_form.status_code == 200
    assert [call.token_in_url for call in await simulator.calls()] == [True, False, False]
    assert (await simulator.summary()).tokens_in_urls == 1


@pytest.mark.parametrize(
    ("proof", "verdict", "message"),
    [
        (None, "missing", "API calls from the server require an appsecret_proof argument"),
        ("00", "wrong", "Invalid appsecret_proof provided in the API argument"),
    ],
)
async def test_a_call_without_the_right_proof_is_refused(
    simulator: SimulatorClient,
    page: AccountView,
    graph: GraphCaller,
    proof: str | None,
    verdict: str,
    message: str,
) -> None:
    answer = await graph.http.get(
        f"{graph.base}/v25.0/me",
        params={"appsecret_proof": proof} if proof else {},
        headers={"Authorization": f"Bearer {page.token}"},
    )

    assert codes(answer) == (400, 100, None)
    assert answer.json()["error"]["message"] == message
    assert (await simulator.calls())[0].proof == verdict


async def test_the_proof_can_be_made_optional(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(require_proof=False)

    answer = await graph.http.get(
        f"{graph.base}/v25.0/me", headers={"Authorization": f"Bearer {page.token}"}
    )

    assert answer.status_code == 200


@pytest.mark.parametrize(("age", "status"), [(0, 200), (270, 200), (301, 400)])
async def test_a_timestamped_proof_is_good_for_five_minutes(
    page: AccountView, graph: GraphCaller, age: int, status: int
) -> None:
    at = str(int(time.time()) - age)
    query = {"appsecret_proof": proof_of(APP_SECRET, page.token, at), "appsecret_time": at}

    answer = await graph.http.get(
        f"{graph.base}/v25.0/me",
        params=query,
        headers={"Authorization": f"Bearer {page.token}"},
    )

    assert answer.status_code == status


async def test_debug_token_tells_a_tokens_state_and_counts_no_token_in_the_url(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    async def debug() -> dict[str, Any]:
        answer = await graph.http.get(
            f"{graph.base}/v25.0/debug_token",
            params={"input_token": page.token},
            headers={"Authorization": f"Bearer {APP.id}|{APP_SECRET}"},
        )
        data: dict[str, Any] = answer.json()["data"]
        return data

    valid = await debug()
    await simulator.change_account(page.id, token_state="expired")
    expired = await debug()

    assert (valid["is_valid"], valid["app_id"], valid["expires_at"]) == (True, APP.id, 0)
    assert expired["is_valid"] is False
    assert expired["error"]["subcode"] == 463
    summary = await simulator.summary()
    assert (summary.tokens_in_urls, summary.input_tokens) == (0, 2)


async def test_outside_the_window_only_human_agent_is_taken_and_only_for_a_week(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    day_old = await person_of(simulator, page, ago=DAY + 60)
    week_old = await person_of(simulator, page, ago=7 * DAY + 60)
    human = {"messaging_type": "MESSAGE_TAG", "tag": "HUMAN_AGENT"}

    late = await graph.send(day_old, "hi")
    tagged = await graph.send(day_old, "hi", **human)
    too_late = await graph.send(week_old, "hi", **human)
    retired = await graph.send(day_old, "hi", **(human | {"tag": "ACCOUNT_UPDATE"}))

    assert codes(late) == codes(too_late) == (400, 10, 2018278)
    assert tagged.status_code == 200
    assert codes(retired) == (400, 100, None)


async def test_the_window_closes_on_instagrams_host_in_its_own_words(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")
    person = await person_of(simulator, account, ago=DAY + 60)
    own = GraphCaller(simulator.instagram, account.token, graph.http, INSTAGRAM_SECRET)

    answer = await own.send(person, "hi")

    assert codes(answer) == (403, 10, 2534022)
    assert answer.json()["error"]["type"] == "IGApiException"


async def test_a_button_opens_the_window_and_a_reaction_does_not(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    pressed = await simulator.postback(page.id, "START")
    reacted = await simulator.event(page.id, {"reaction": {"action": "unreact", "mid": "m_1"}})

    assert (await graph.send(str(pressed.person), "hi")).status_code == 200
    assert codes(await graph.send(str(reacted.person), "hi"))[1:] == (10, 2018278)


async def test_an_unknown_or_unavailable_person_is_refused(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    instagram = await simulator.create_account("instagram", login="instagram")
    own = GraphCaller(simulator.instagram, instagram.token, graph.http, INSTAGRAM_SECRET)
    person = await person_of(simulator, page)
    await simulator.block(page.id, person)

    assert codes(await graph.send("7999", "hi")) == (400, 100, 2018001)
    assert codes(await own.send("6999", "hi")) == (400, 100, 2534014)
    assert codes(await graph.send(person, "hi")) == (400, 551, 1545041)
    assert (await simulator.summary()).sends == 0


@pytest.mark.parametrize(
    ("form", "subcode"),
    [
        ({"message": {"text": "x" * 2000}}, None),
        ({"message": {"text": ""}}, 2018034),
        ({"message": {"text": "x", "metadata": "x" * 1000}}, None),
        ({"message": {"text": "x", "quick_replies": [{}] * 14}}, None),
        ({"message": {"text": "x", "metadata": 7}}, None),
        ({"message": {"text": ["x"]}}, None),
        ({"recipient": "7"}, None),
        ({"sender_action": "typing_on"}, 2018014),
        ({"messaging_type": "MESSAGE_TAG"}, None),
        ({"messaging_type": None}, None),
    ],
)
async def test_a_malformed_message_is_refused(
    simulator: SimulatorClient,
    page: AccountView,
    graph: GraphCaller,
    form: dict[str, Any],
    subcode: int | None,
) -> None:
    person = await person_of(simulator, page)

    assert codes(await graph.send(person, "hi", **form)) == (400, 100, subcode)


async def test_instagram_counts_bytes_and_messenger_characters(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    instagram = await simulator.create_account("instagram", login="instagram")
    own = GraphCaller(simulator.instagram, instagram.token, graph.http, INSTAGRAM_SECRET)
    reader, person = await person_of(simulator, page), await person_of(simulator, instagram)

    assert (await graph.send(reader, "ě" * 1999)).status_code == 200
    assert (await own.send(person, "ě" * 500)).status_code == 200
    assert codes(await own.send(person, "ě" * 501))[1] == 100


async def test_a_form_with_json_strings_and_an_attachment_is_taken(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)
    message = '{"attachment":{"type":"image","payload":{"url":"https://x.example.test/1.png"}}}'

    answer = await graph.http.post(
        f"{graph.base}/v25.0/{page.id}/messages",
        data={
            "recipient": f'{{"id":"{person}"}}',
            "message": message,
            "messaging_type": "RESPONSE",
            "appsecret_proof": proof_of(APP_SECRET, page.token),
        },
        headers={"Authorization": f"Bearer {page.token}"},
    )

    last = (await simulator.conversation(page.id, person)).messages[-1]
    assert answer.json()["message_id"] == last.mid
    assert last.attachments[0]["type"] == "image"


async def test_a_pages_token_speaks_for_its_instagram_account(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    linked = await simulator.create_account("instagram", page_id=page.id)
    person = await person_of(simulator, linked)

    answer = await graph.send(person, "hi")

    (send,) = await simulator.sends()
    assert linked.token == page.token
    assert answer.status_code == 200
    assert send.account_id == linked.id


async def test_a_private_reply_reaches_the_commenters_conversation_once(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    comment = await simulator.comment(page.id, "price?")
    recipient = {"comment_id": comment.comment}

    first = await graph.send("", "10", recipient=recipient)
    second = await graph.send("", "10", recipient=recipient)

    person = str(comment.person)
    (send,) = await simulator.sends()
    conversation = await simulator.conversation(page.id, person)
    assert first.json()["recipient_id"] == person
    assert codes(second) == (400, 100, 2534025)
    assert [message.text for message in conversation.messages] == ["10"]
    assert (send.endpoint, send.comment_id) == ("private_reply", comment.comment)
    assert codes(await graph.send(person, "more"))[1:] == (10, 2018278)


async def test_a_private_reply_is_refused_after_a_week_and_to_oneself(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    old = await simulator.comment(page.id, "price?", ago=7 * DAY + 60)
    own = await simulator.comment(page.id, "we are open", own=True)

    for comment in (old.comment, own.comment, "1_2"):
        answer = await graph.send("", "10", recipient={"comment_id": comment})
        assert codes(answer)[1] == 100

    assert (await simulator.summary()).sends == 0


async def test_a_comment_is_answered_hidden_and_deleted_on_facebook(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(plan={"connections": 1})
    comment = await simulator.comment(page.id, "price?")

    reply = await graph.call("POST", f"{comment.comment}/comments", form={"message": "10"})
    found = await graph.call("GET", f"{comment.comment}/comments", fields="id,message,from")
    hidden = await graph.call("POST", str(comment.comment), form={"is_hidden": True})
    await graph.call("POST", str(comment.comment), form={"is_hidden": True})
    deleted = await graph.call("DELETE", reply.json()["id"])
    await simulator.wait(settled=True)

    after = await simulator.comment_now(str(comment.comment))
    changes = [body["entry"][0]["changes"][0]["value"] for body in receiver.bodies]
    author = {"id": page.id, "name": "Example"}
    assert found.json()["data"] == [{**reply.json(), "message": "10", "from": author}]
    assert hidden.json() == deleted.json() == {"success": True}
    assert after.comment.hidden
    assert after.replies == []
    assert [value["verb"] for value in changes] == ["add", "add", "hide", "remove"]
    assert changes[1]["from"]["id"] == page.id
    assert [send.endpoint for send in await simulator.sends()] == ["comment_reply"]


async def test_a_reply_to_an_instagram_reply_lands_under_the_top_comment(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")
    own = GraphCaller(simulator.instagram, account.token, graph.http, INSTAGRAM_SECRET)
    top = await simulator.comment(account.id, "price?")
    below = await simulator.comment(account.id, "yes, price?", parent=top.comment)

    reply = await own.call("POST", f"{below.comment}/replies", form={"message": "10"})
    found = await own.call("GET", f"{top.comment}/replies", fields="id,text")
    wrong_edge = await own.call("POST", f"{top.comment}/comments", form={"message": "10"})
    await own.call("POST", str(top.comment), form={"hide": "true"})
    under_hidden = await own.call("POST", f"{top.comment}/replies", form={"message": "10"})

    assert found.json()["data"][-1] == {"id": reply.json()["id"], "text": "10"}
    assert codes(wrong_edge)[1:] == (100, 33)
    assert codes(under_hidden)[1] == 100


async def test_labels_are_made_assigned_and_removed(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)

    label = (await graph.call("POST", "me/custom_labels", form={"page_label_name": "lead"})).json()
    await graph.call("POST", f"{label['id']}/label", form={"user": person})
    assigned = await graph.call("GET", f"{person}/custom_labels", fields="page_label_name")
    (kept,) = await simulator.labels(page.id)
    await graph.call("DELETE", f"{label['id']}/label", user=person)

    listed = await graph.call("GET", "me/custom_labels")
    assert assigned.json()["data"] == listed.json()["data"]
    assert listed.json()["data"] == [{"id": label["id"], "page_label_name": "lead"}]
    assert kept.people == {person}
    assert (await simulator.labels(page.id))[0].people == set()


async def test_a_subscription_is_set_read_back_and_ended(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    page = await simulator.create_account(subscribed_fields=[])
    caller = GraphCaller(graph.base, page.token, graph.http, APP_SECRET)
    path = f"{page.id}/subscribed_apps"

    before = await caller.call("GET", path)
    wrong = await caller.call("POST", path, form={"subscribed_fields": "messages,messaging_seen"})
    await caller.call("POST", path, form={"subscribed_fields": "messages,feed"})
    after = await caller.call("GET", path)
    await caller.call("DELETE", path)

    (app,) = after.json()["data"]
    assert before.json() == {"data": []}
    assert codes(wrong)[1] == 100
    assert (app["id"], app["subscribed_fields"]) == (APP.id, ["feed", "messages"])
    assert (await caller.call("GET", path)).json() == {"data": []}


async def test_the_conversation_with_a_person_is_read_back_newest_first(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)
    await person_of(simulator, page)
    sent = (await graph.send(person, "hi")).json()

    answer = await graph.call(
        "GET",
        f"{page.id}/conversations",
        user_id=person,
        fields="messages.limit(1){id,message,from,created_time}",
    )

    (thread,) = answer.json()["data"]
    (message,) = thread["messages"]["data"]
    assert message["id"] == sent["message_id"]
    assert message["message"] == "hi"
    assert message["from"]["id"] == page.id
    assert message["created_time"].endswith("+0000")
    assert "next" in thread["messages"]["paging"]


async def test_a_read_can_lag_behind_a_send(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(read_lag=60)
    person = await person_of(simulator, page)
    await graph.send(person, "hi")

    answer = await graph.call("GET", "me/conversations", user_id=person, fields="messages{message}")

    (thread,) = answer.json()["data"]
    assert [message["message"] for message in thread["messages"]["data"]] == ["hello"]


async def test_the_ledger_tells_whose_conversation_was_read(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)

    await graph.call("GET", "me/conversations", user_id=person)
    await graph.call("GET", "me/conversations")

    reads = [call for call in await simulator.calls() if call.endpoint == "conversations"]
    assert [call.person_id for call in reads] == [person, None]


async def test_conversations_are_read_twice_a_second_at_most(
    page: AccountView, graph: GraphCaller
) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()

    answers = await asyncio.gather(
        *(graph.call("GET", "me/conversations", user_id="1") for _ in range(20))
    )

    refused = [codes(answer) for answer in answers if answer.status_code != 200]
    assert set(refused) == {(400, 613, None)}
    assert 2 <= 20 - len(refused) <= 2 * (1 + clock() - begun)


async def test_sends_are_limited_per_account_and_not_across(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(rates={"text": 2})
    other = await simulator.create_account()
    caller = GraphCaller(graph.base, other.token, graph.http, APP_SECRET)
    mine, theirs = await person_of(simulator, page), await person_of(simulator, other)

    clock = asyncio.get_running_loop().time
    begun = clock()

    answers = await asyncio.gather(*(graph.send(mine, str(n)) for n in range(20)))

    statuses = [answer.status_code for answer in answers]
    assert 2 <= statuses.count(200) <= 2 * (1 + clock() - begun)
    assert statuses.count(200) + statuses.count(400) == 20
    assert (await caller.send(theirs, "hi")).status_code == 200


@pytest.mark.parametrize(
    ("platform", "throttled"),
    [("messenger", (400, 613, None)), ("instagram", (400, 613, 2534040))],
)
@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        ("text", {"text", "image"}),
        ("media", {"audio", "video"}),
        ("per_thread", {"image", "audio", "video"}),  # the text before has used it up
    ],
)
async def test_a_send_over_its_limit_is_refused_in_the_words_of_its_platform(
    simulator: SimulatorClient,
    graph: GraphCaller,
    platform: str,
    throttled: tuple[int, int, int | None],
    limit: str,
    refused: set[str],
) -> None:
    on_messenger = platform == "messenger"
    login = "facebook" if on_messenger else "instagram"
    account = await simulator.create_account(platform, login=login)
    base, secret = getattr(simulator, login), APP_SECRET if on_messenger else INSTAGRAM_SECRET
    caller = GraphCaller(base, account.token, graph.http, secret)
    person, other = [await person_of(simulator, account) for _ in range(2)]
    await simulator.options(rates={limit: 0.001})  # so that nothing is gained while it runs
    media = {"url": "https://media.example.test/1"}

    answers = {"text": await caller.send(person, "hi")}
    for kind in ("image", "audio", "video"):
        message = {"attachment": {"type": kind, "payload": media}}
        answers[kind] = await caller.send(person, "", message=message)

    over = {kind: codes(answer) for kind, answer in answers.items() if answer.status_code != 200}
    assert over == dict.fromkeys(refused, throttled)
    in_another_thread = (await caller.send(other, "hi")).status_code
    assert in_another_thread == (400 if limit == "text" else 200)


async def test_usage_is_told_in_headers_and_a_used_up_allowance_blocks_that_account_alone(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    other = await simulator.create_account()
    caller = GraphCaller(graph.base, other.token, graph.http, APP_SECRET)
    quiet = await graph.call("GET", "me")
    await simulator.allow(page.id, Allowance(calls=4, block_ms=90_000))

    answers = [await graph.call("GET", "me") for _ in range(5)]

    assert "x-business-use-case-usage" not in quiet.headers
    usage = [answer.headers["x-business-use-case-usage"] for answer in answers]
    assert f'{{"{page.id}":[{{"type":"messenger","call_count":25,' in usage[0]
    assert '"estimated_time_to_regain_access":2' in usage[4]
    assert codes(answers[4]) == (400, 80006, None)
    assert (await caller.call("GET", "me")).status_code == 200


@pytest.mark.parametrize(
    ("allowance", "percents"),
    [
        ({"time_ms": 100}, {"call_count": 0, "total_cputime": 0, "total_time": 20}),
        ({"cpu_ms": 40}, {"call_count": 0, "total_cputime": 50, "total_time": 0}),
    ],
)
async def test_the_time_that_calls_take_uses_up_an_allowance_as_their_number_does(
    simulator: SimulatorClient,
    page: AccountView,
    graph: GraphCaller,
    allowance: dict[str, int],
    percents: dict[str, int],
) -> None:
    await simulator.allow(page.id, Allowance(**allowance))

    answers = [await graph.call("GET", "me") for _ in range(11)]

    told = [answer.headers["x-business-use-case-usage"] for answer in answers]
    (second,) = msgspec.json.decode(told[1])[page.id]
    assert percents.items() <= second.items()
    assert codes(answers[-1]) == (400, 80006, None)
    assert '"estimated_time_to_regain_access":0' not in told[-1]


async def test_an_app_that_is_over_stops_every_account(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    other = await simulator.create_account()
    caller = GraphCaller(graph.base, other.token, graph.http, APP_SECRET)
    await simulator.allow(None, Allowance(calls=1))

    first = await graph.call("GET", "me")
    second = await caller.call("GET", "me")

    assert first.headers["x-app-usage"].startswith('{"call_count":100')
    assert codes(second) == (403, 4, None)
    assert second.json()["error"]["is_transient"] is True
    assert second.headers["x-app-usage"]


@pytest.mark.parametrize(
    ("fault", "created"),
    [("lost", True), ("reset", False), ("half", True)],
)
async def test_a_cut_connection_tells_nothing_about_the_message(
    simulator: SimulatorClient,
    page: AccountView,
    graph: GraphCaller,
    fault: str,
    created: bool,
) -> None:
    person = await person_of(simulator, page)
    await simulator.faults(Script(fault=fault, endpoint="send", count=1))

    with pytest.raises(httpx.TransportError):
        await graph.send(person, "hi")
    after = await graph.send(person, "next")

    texts = [send.text for send in await simulator.sends()]
    (call,) = [call for call in await simulator.calls() if call.fault]
    assert texts == (["hi", "next"] if created else ["next"])
    assert (call.status, call.created is not None) == (None, created)
    assert after.status_code == 200


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"lost", "reset", "half", "slow"}))
async def test_each_fault_answers_as_it_says_and_creates_or_not(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, fault: str
) -> None:
    person = await person_of(simulator, page)
    await simulator.faults(Script(fault=fault, account=page.id, count=1))

    answer = await graph.send(person, "hi")

    expected = FAULTS[fault]
    assert len(await simulator.sends()) == int(expected.created)
    match expected.answer:
        case "error":
            refusal = expected.refusal
            assert codes(answer) == (refusal.status, refusal.code, refusal.subcode)
        case "bare":
            assert (answer.status_code, answer.content) == (expected.status, b"")
        case "empty":
            assert (answer.status_code, answer.content) == (200, b"")
        case _:
            assert answer.status_code == 200
            with pytest.raises(ValueError, match=r".+"):
                answer.json()


async def test_a_slow_call_creates_at_once_or_late(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)
    await simulator.faults(
        Script(fault="slow", seconds=3, count=1), Script(fault="slow", seconds=0, late=3)
    )
    graph.http.timeout = httpx.Timeout(30, read=0.5)

    with pytest.raises(httpx.ReadTimeout):
        await graph.send(person, "early")
    with pytest.raises(httpx.ReadTimeout):
        await graph.send(person, "late")
    at_timeout = [send.text for send in await simulator.sends()]
    await simulator.wait(sends=2)

    assert at_timeout == ["early"]
    assert [send.text for send in await simulator.sends()] == ["early", "late"]


async def test_a_script_skips_counts_and_can_name_any_code(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = await person_of(simulator, page)
    await simulator.faults(
        Script(fault="error", code=368, subcode=7, status=403, skip=1, count=2, endpoint="send")
    )

    answers = [await graph.send(person, str(number)) for number in range(4)]

    assert [answer.status_code for answer in answers] == [200, 403, 403, 200]
    assert codes(answers[1]) == (403, 368, 7)


async def test_an_unknown_fault_is_named_and_refused(simulator: SimulatorClient) -> None:
    with pytest.raises(Exception, match="no fault is called 'nonsense'"):
        await simulator.faults(Script(fault="nonsense"))


@pytest.mark.parametrize("when", ["after", "before", "twice", "never"])
async def test_the_echo_comes_when_it_is_told_to(
    simulator: SimulatorClient,
    page: AccountView,
    graph: GraphCaller,
    receiver: Receiver,
    when: str,
) -> None:
    await simulator.webhook(receiver.url)
    person = await person_of(simulator, page)
    await simulator.wait(settled=True)
    await simulator.change_account(page.id, echo=Echoes(when=when, delay=2))
    receiver.posts.clear()

    message = {"text": "hi", "metadata": "tag-1"}
    answer = await graph.send(person, "hi", message=message)
    at_once = len(receiver.posts)
    await simulator.wait(settled=True)

    echo = message | {"mid": answer.json()["message_id"], "is_echo": True, "app_id": int(APP.id)}
    assert at_once == (1 if when == "before" else 0)
    assert [item["message"] for item in receiver.items] == [echo] * {
        "after": 1,
        "before": 1,
        "twice": 2,
        "never": 0,
    }[when]
    assert all(item["recipient"]["id"] == person for item in receiver.items)


async def test_late_echoes_come_later_than_the_others(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    person = await person_of(simulator, page)
    await simulator.wait(settled=True)
    receiver.posts.clear()
    await simulator.options(echo=Echoes(delay=0, late=1, late_by=3))

    await graph.send(person, "late")
    await simulator.options(echo=Echoes(delay=0))
    await graph.send(person, "prompt")
    await simulator.wait(settled=True)

    assert [item["message"]["text"] for item in receiver.items] == ["prompt", "late"]


async def test_the_echo_does_not_wait_for_a_slow_answer(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    person = await person_of(simulator, page)
    await simulator.faults(Script(fault="slow", seconds=3, endpoint="send"))
    graph.http.timeout = httpx.Timeout(30, read=0.5)

    with pytest.raises(httpx.ReadTimeout):
        await graph.send(person, "hi")
    await simulator.wait(sends=1, settled=True)

    (call,) = await simulator.sends()
    assert receiver.items[-1]["message"]["mid"] == call.created
    assert call.answer == "none"


async def test_the_echo_of_a_lost_answer_still_comes(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    person = await person_of(simulator, page)
    await simulator.faults(Script(fault="lost", endpoint="send"))

    with pytest.raises(httpx.TransportError):
        await graph.send(person, "hi", message={"text": "hi", "metadata": "tag-1"})
    await simulator.wait(settled=True)

    echoes = [item["message"] for item in receiver.items if "is_echo" in item["message"]]
    assert [echo["metadata"] for echo in echoes] == ["tag-1"]


async def test_instagrams_echo_carries_neither_metadata_nor_app_unless_told_to(
    simulator: SimulatorClient, graph: GraphCaller, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    await simulator.options(echo=Echoes(delay=0))
    account = await simulator.create_account("instagram", login="instagram")
    own = GraphCaller(simulator.instagram, account.token, graph.http, INSTAGRAM_SECRET)
    person = await person_of(simulator, account)

    await own.send(person, "1", message={"text": "1", "metadata": "tag-1"})
    await simulator.wait(settled=True)
    await simulator.options(echo=Echoes(delay=0, metadata=True, tag="wrong"))
    await own.send(person, "2", message={"text": "2", "metadata": "tag-2"})
    await simulator.wait(settled=True)

    first, second = [item["message"] for item in receiver.items if "is_echo" in item["message"]]
    assert first.keys() == {"mid", "text", "is_echo"}
    assert second["metadata"] == "wrong"


async def test_an_answer_typed_in_the_inbox_is_echoed_with_the_inboxs_app(
    simulator: SimulatorClient, page: AccountView, receiver: Receiver
) -> None:
    await simulator.webhook(receiver.url)
    person = await person_of(simulator, page)
    await simulator.wait(settled=True)

    done = await simulator.inbox_reply(page.id, person, "I can help")
    await simulator.wait(settled=True)

    echo = receiver.items[-1]["message"]
    assert echo["mid"] == done.mid
    assert echo["app_id"] == 263902037430900
    assert (await simulator.summary()).sends == 0


async def test_overlapping_sends_to_one_person_are_seen(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person, other = await person_of(simulator, page), await person_of(simulator, page)
    await simulator.faults(Script(fault="slow", seconds=1))

    await asyncio.gather(graph.send(person, "1"), graph.send(other, "1"))
    apart = (await simulator.summary()).overlaps
    await asyncio.gather(graph.send(person, "2"), graph.send(person, "3"))

    assert apart == 0
    assert (await simulator.summary()).overlaps == 1
