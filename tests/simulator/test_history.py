"""Reading conversations and messages: what is told, and how it is cut into pages."""

from typing import Any

import httpx
import pytest

from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.entities import Platform
from pagewire_simulator.faults import Script
from pagewire_simulator.history import History, Past
from pagewire_simulator.truth import Truth
from pagewire_simulator.world import World
from tests.support.simulator import APP_SECRET, INSTAGRAM_SECRET, GraphCaller

NOW = 1_767_312_000_000
DETAILS = "id,message,from,created_time"
FIELDS = f"id,updated_time,messages.limit(5){{{DETAILS}}}"


@pytest.fixture
async def unlimited(simulator: SimulatorClient) -> None:
    await simulator.options(rates={"conversation_reads": 0})


def codes(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["error"]["code"]


def of(caller: GraphCaller, account: AccountView) -> GraphCaller:
    """A caller with another account's token."""
    on_facebook = account.login == "facebook"
    base = caller.base if on_facebook else caller.base.replace("facebook", "instagram")
    secret = APP_SECRET if on_facebook else INSTAGRAM_SECRET
    return GraphCaller(base, account.token, caller.http, secret)


async def walk(
    caller: GraphCaller, path: str, begin: str = "", **query: Any
) -> list[list[dict[str, Any]]]:
    """The pages of an edge, by cursor, until there is no next one."""
    pages: list[list[dict[str, Any]]] = []
    after: dict[str, Any] = {"after": begin} if begin else {}
    while True:
        answer = await caller.call("GET", path, **query, **after)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        pages.append(body["data"])
        paging = body.get("paging", {})
        if "next" not in paging:
            return pages
        after = {"after": paging["cursors"]["after"]}


async def read_all(caller: GraphCaller, **query: Any) -> dict[str, list[str]]:
    """Every conversation with the ids of its messages, newest first."""
    found: dict[str, list[str]] = {}
    for page in await walk(caller, "me/conversations", fields=FIELDS, limit=7, **query):
        for thread in page:
            mids = [message["id"] for message in thread["messages"]["data"]]
            paging = thread["messages"]["paging"]
            if "next" in paging:
                rest = await walk(
                    caller,
                    f"{thread['id']}/messages",
                    begin=paging["cursors"]["after"],
                    fields=DETAILS,
                    limit=50,
                )
                mids += [message["id"] for tail in rest for message in tail]
            found[thread["id"]] = mids
    return found


def listed(truth: Truth) -> dict[str, list[str]]:
    return {
        thread.thread_id: [m.mid for m in thread.messages if m.shown != "gone"][::-1]
        for thread in truth.conversations
    }


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("habits", [{}, {"short": 0.5, "empty": 0.3}])
async def test_every_message_of_a_past_is_read_page_by_page(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, habits: dict[str, Any]
) -> None:
    made = await simulator.create_history(
        page.id, conversations=30, messages=8, long_threads=2, long_messages=40, deleted=0.1
    )
    await simulator.change_account(page.id, reading=habits)

    found = await read_all(graph)

    truth = await simulator.truth(page.id)
    assert (made.conversations, made.messages) == (30, 2 * 40 + 28 * 8)
    assert found == listed(truth)
    assert list(found) == [thread.thread_id for thread in truth.conversations]
    assert any(m.shown == "gone" for thread in truth.conversations for m in thread.messages)


@pytest.mark.usefixtures("unlimited")
async def test_of_an_instagram_thread_only_the_newest_twenty_messages_are_told_whole(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", page_id=page.id)
    await simulator.create_history(
        account.id, conversations=1, messages=27, deleted=0.1, unsupported=0
    )

    found = await read_all(graph, platform="instagram")

    (thread,) = (await simulator.truth(account.id)).conversations
    by_mid = {message.mid: message for message in thread.messages}
    (mids,) = found.values()
    pages = await walk(graph, f"{thread.thread_id}/messages", fields=DETAILS, limit=10)
    shown = {one["id"]: one for page_ in pages for one in page_}
    old = await graph.call("GET", mids[20], fields="message")
    young = await graph.call("GET", mids[19], fields="message")
    assert [by_mid[mid].shown for mid in mids] == ["whole"] * 20 + ["bare"] * (len(mids) - 20)
    assert [set(shown[mid]) for mid in mids] == [
        {"id", "created_time", "message", "from"} if at < 20 else {"id", "created_time"}
        for at in range(len(mids))
    ]
    assert codes(old) == (400, 9000001)
    assert young.json()["id"] == mids[19]


@pytest.mark.usefixtures("unlimited")
async def test_the_rule_of_twenty_can_be_set_for_messenger_too(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=1, messages=5, deleted=0)
    await simulator.change_account(page.id, reading={"withheld_on": ["messenger"], "details": 2})

    ((thread,),) = await walk(graph, "me/conversations", fields=FIELDS)

    told = ["message" in message for message in thread["messages"]["data"]]
    assert told == [True, True, False, False, False]


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("deleted", ["omitted", "bare"])
async def test_an_unsent_message_is_left_out_or_bare_and_refused_alone(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, deleted: str
) -> None:
    await simulator.options(reading={"deleted": deleted})
    said = await simulator.say(page.id, "hello")
    gone = await simulator.say(page.id, "never mind", person=said.person)
    await simulator.unsend(page.id, str(gone.mid))

    ((thread,),) = await walk(graph, "me/conversations", fields=FIELDS)
    alone = await graph.call("GET", str(gone.mid), fields="message")

    listed_now = [message["id"] for message in thread["messages"]["data"]]
    assert listed_now == ([said.mid] if deleted == "omitted" else [gone.mid, said.mid])
    assert codes(alone) == (400, 9000001)
    shown = (await simulator.truth(page.id)).conversations[0].messages[-1].shown
    assert shown == ("gone" if deleted == "omitted" else "bare")


@pytest.mark.usefixtures("unlimited")
async def test_a_thread_is_told_with_all_its_fields_and_with_those_alone_that_are_asked(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    linked = await simulator.create_account("instagram", page_id=page.id)
    said = await simulator.say(page.id, "hello")
    await simulator.say(page.id, "are you there", person=said.person)
    direct = await simulator.say(linked.id, "hi")
    fields = (
        "id,updated_time,unread_count,message_count,snippet,link,participants,senders,folder,"
        "can_reply,is_owner,is_subscribed,scoped_thread_key,name"
    )

    ((thread,),) = await walk(graph, "me/conversations", fields=fields, since=1, until=2)
    ((on_instagram,),) = await walk(
        graph, "me/conversations", platform="INSTAGRAM", fields=f"{fields},messages"
    )
    ((plain,),) = await walk(graph, "me/conversations")
    alone = await graph.call("GET", thread["id"], fields="snippet")

    assert (thread["unread_count"], thread["message_count"]) == (2, 2)
    assert thread["snippet"] == "are you there"
    assert thread["link"].startswith(f"/{page.id}/inbox/")
    assert [one["id"] for one in thread["participants"]["data"]] == [said.person, page.id]
    assert thread["participants"]["data"][1]["email"] == f"{page.id}@facebook.com"
    assert thread["can_reply"] is True
    assert "link" not in on_instagram
    assert [set(one) for one in on_instagram["participants"]["data"]] == [{"id", "username"}] * 2
    assert on_instagram["messages"]["data"][0].keys() == {"id", "created_time"}
    assert on_instagram["messages"]["data"][0]["id"] == direct.mid
    assert plain.keys() == {"id", "updated_time"}
    assert alone.json() == {"id": thread["id"], "snippet": "are you there"}


@pytest.mark.usefixtures("unlimited")
async def test_a_folder_is_listed_alone(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=2, messages=1, deleted=0)
    first, second = (await simulator.truth(page.id)).conversations
    await simulator.change_thread(second.thread_id, folder="other")

    ((inbox,),) = await walk(graph, "me/conversations", folder="inbox")
    ((other,),) = await walk(graph, "me/conversations", folder="other")

    assert (inbox["id"], other["id"]) == (first.thread_id, second.thread_id)


@pytest.mark.usefixtures("unlimited")
async def test_a_message_is_told_with_what_it_holds(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    image = {"type": "image", "payload": {"url": "https://cdn.example.test/1.jpg"}}
    share = {"type": "share", "payload": {"url": "https://www.example.test/post"}}
    first = await simulator.say(page.id, None, attachments=[image, image, share])
    second = await simulator.say(page.id, "and", person=first.person, reply_to=first.mid)
    fields = "message,attachments,shares,reply_to,tags,to,is_unsupported"

    shown = (await graph.call("GET", str(first.mid), fields=fields)).json()
    again = (await graph.call("GET", str(first.mid), fields=fields)).json()
    reply = (await graph.call("GET", str(second.mid), fields=fields)).json()
    after = shown["attachments"]["paging"]["cursors"]["after"]
    edge = await graph.call("GET", f"{first.mid}/attachments")
    further = await graph.call("GET", f"{first.mid}/attachments", after=after)

    picture = shown["attachments"]["data"][0]
    assert picture.keys() == {"id", "mime_type", "name", "size", "image_data"}
    assert picture["image_data"]["url"] != again["attachments"]["data"][0]["image_data"]["url"]
    assert picture["image_data"]["url"].startswith("https://cdn.example.test/1.jpg?oh=")
    assert "access_token=" in shown["attachments"]["paging"]["next"]
    assert [one["id"] for one in edge.json()["data"]] == [
        one["id"] for one in shown["attachments"]["data"]
    ]
    assert further.json() == {"data": []}
    assert shown["shares"]["data"][0]["link"] == "https://www.example.test/post"
    assert reply["reply_to"]["mid"] == first.mid
    assert reply["to"]["data"][0]["id"] == page.id
    assert "is_unsupported" not in reply


@pytest.mark.usefixtures("unlimited")
async def test_stories_and_unsupported_messages_are_told_as_such(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")
    own = of(graph, account)
    answered = await simulator.story_reply(account.id, "nice", story="17900000000000001")
    named = await simulator.story_mention(account.id, person=answered.person)
    await simulator.create_history(account.id, conversations=1, messages=1, unsupported=1)
    unsupported = (await simulator.truth(account.id)).conversations[-1].messages[0].mid

    async def shown(mid: str | None) -> dict[str, Any]:
        answer = await own.call("GET", str(mid), fields="message,story,is_unsupported,attachments")
        found: dict[str, Any] = answer.json()
        return found

    assert (await shown(answered.mid))["story"]["reply_to"]["id"] == "17900000000000001"
    assert "link" in (await shown(named.mid))["story"]["mention"]
    assert await shown(unsupported) == {
        "id": unsupported,
        "message": "",
        "is_unsupported": True,
    }


@pytest.mark.usefixtures("unlimited")
async def test_the_next_page_is_a_whole_address_with_the_token_in_it_and_it_works(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(require_proof=False)
    await simulator.create_history(page.id, conversations=3, messages=3)

    first = (await graph.call("GET", "me/conversations", limit=2, fields=FIELDS)).json()
    address = first["paging"]["next"]
    second = (await graph.http.get(address)).json()
    back = (await graph.http.get(second["paging"]["previous"])).json()

    assert address.startswith(f"{graph.base}/v25.0/{page.id}/conversations?access_token=")
    assert "next" not in second["paging"]
    assert second["paging"]["cursors"]["after"]
    assert len(second["data"]) == 1
    assert [one["id"] for one in back["data"]] == [one["id"] for one in first["data"]]
    assert "messages" in second["data"][0]


@pytest.mark.usefixtures("unlimited")
async def test_a_cursor_is_good_for_its_edge_its_limit_and_as_long_as_its_item_is_there(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=5, messages=1, deleted=0)
    first = (await graph.call("GET", "me/conversations", limit=2)).json()
    after = first["paging"]["cursors"]["after"]

    good = await graph.call("GET", "me/conversations", limit=2, after=after)
    other_limit = await graph.call("GET", "me/conversations", limit=1, after=after)
    other_edge = await graph.call("GET", f"{first['data'][0]['id']}/messages", after=after)
    nonsense = await graph.call("GET", "me/conversations", limit=2, after="b25l")
    await simulator.options(reading={"bound": False})
    unbound = await graph.call("GET", "me/conversations", limit=2)
    free = await graph.call(
        "GET", "me/conversations", limit=1, after=unbound.json()["paging"]["cursors"]["after"]
    )
    await simulator.delete_thread(first["data"][1]["id"])
    stale = await graph.call("GET", "me/conversations", limit=2, after=after)

    assert len(good.json()["data"]) == 2
    assert len(free.json()["data"]) == 1
    assert [codes(one) for one in (other_limit, other_edge, nonsense, stale)] == [(400, 2642)] * 4


@pytest.mark.usefixtures("unlimited")
async def test_a_page_can_lead_to_itself(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=4, messages=1, deleted=0)
    await simulator.faults(Script(fault="circle", endpoint="conversations", count=2))

    first = (await graph.call("GET", "me/conversations", limit=2)).json()
    after = first["paging"]["cursors"]["after"]
    second = (await graph.call("GET", "me/conversations", limit=2, after=after)).json()

    assert second["data"] == first["data"]
    assert second["paging"]["cursors"]["after"] == after
    assert "next" in second["paging"]


@pytest.mark.usefixtures("unlimited")
async def test_too_much_data_is_refused_by_limit_times_nested_limit_until_it_is_less(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=30, messages=1)
    await simulator.change_account(page.id, reading={"weight": 100})

    async def ask(limit: int, nested: int) -> httpx.Response:
        fields = f"messages.limit({nested}){{message}}"
        return await graph.call("GET", "me/conversations", limit=limit, fields=fields)

    refused = [await ask(20, 6), await ask(20, 6), await ask(10, 11)]
    taken = [await ask(20, 5), await ask(10, 10)]
    await simulator.change_account(page.id, reading={"refused_above": 1})

    assert [codes(answer) for answer in refused] == [(500, 1)] * 3
    assert "reduce the amount of data" in refused[0].json()["error"]["message"]
    assert [answer.status_code for answer in taken] == [200, 200]
    assert codes(await ask(2, 1)) == (500, 1)
    assert (await ask(1, 1)).status_code == 200


@pytest.mark.usefixtures("unlimited")
async def test_a_poison_thread_spoils_each_page_that_shows_more_of_it_than_its_id(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=3, messages=2)
    poison = (await simulator.truth(page.id)).conversations[1].thread_id
    await simulator.change_thread(poison, poison=True)

    expanded = await graph.call("GET", "me/conversations", fields=FIELDS)
    ids = await graph.call("GET", "me/conversations", fields="id,updated_time")
    first = await graph.call("GET", "me/conversations", fields=FIELDS, limit=1)
    alone = await graph.call("GET", f"{poison}/messages")

    assert codes(expanded) == codes(alone) == (500, 1)
    assert "reduce" not in expanded.json()["error"]["message"]
    assert poison in {thread["id"] for thread in ids.json()["data"]}
    assert first.status_code == 200


async def test_a_page_of_high_volume_lists_nothing_and_reads_single_threads(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=1, messages=2)
    await simulator.change_account(page.id, reading={"high_volume": True})
    (thread,) = (await simulator.truth(page.id)).conversations

    listing = await graph.call("GET", "me/conversations")
    single = await graph.call("GET", thread.thread_id, fields="messages{message}")

    assert codes(listing) == (500, 2)
    assert len(single.json()["messages"]["data"]) == 2


async def test_all_reads_of_conversations_and_messages_draw_on_one_allowance(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(rates={"conversation_reads": 0.001, "conversation_burst": 3})
    await simulator.create_history(page.id, conversations=1, messages=1, deleted=0)
    (thread,) = (await simulator.truth(page.id)).conversations
    other = await simulator.create_account()

    paths = ["me/conversations", thread.thread_id, f"{thread.thread_id}/messages"]
    taken = [await graph.call("GET", path) for path in paths]
    refused = [await graph.call("GET", path) for path in [*paths, thread.messages[0].mid]]

    assert [answer.status_code for answer in taken] == [200] * 3
    assert [codes(answer) for answer in refused] == [(400, 613)] * 4
    assert (await graph.call("GET", "me")).status_code == 200
    assert (await of(graph, other).call("GET", "me/conversations")).status_code == 200


@pytest.mark.usefixtures("unlimited")
async def test_messages_arrive_while_the_list_is_paged_and_the_app_need_not_hear_of_them(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=6, messages=1, deleted=0)
    last = (await simulator.truth(page.id)).conversations[-1]
    late = Say(account=page.id, person=last.person_id, text="late", silently=True)
    await simulator.arrive(page.id, late, after=2)

    pages = await walk(graph, "me/conversations", limit=2)
    ((top, *_), *_) = await walk(graph, "me/conversations", limit=2)

    seen = [thread["id"] for page_ in pages for thread in page_]
    assert last.thread_id not in seen  # it had jumped to the top meanwhile
    assert len(seen) == 5
    assert top["id"] == last.thread_id
    assert (await simulator.summary()).events == 0


def past(seed: int, **asked: Any) -> World:
    world = World(seed, "1")
    account = world.create_account(id="1042", platform=asked.pop("platform", Platform.MESSENGER))
    Past(world, account, History(account=account.id, **asked), NOW).make()
    return world


def test_a_past_follows_the_seed_and_nothing_else() -> None:
    figures = {"conversations": 5, "messages": 9, "posts": 2, "comments": 3}
    busy = World(7, "1")
    other = busy.create_account()
    busy.receive(other, busy.create_person(other), NOW, text="hi")
    account = busy.create_account(id="1042")
    Past(busy, account, History(account=account.id, **figures), NOW).make()

    mids = [mid for mid in busy.messages if busy.messages[mid].account_id == "1042"]
    assert list(past(7, **figures).messages) == mids
    assert list(past(8, **figures).messages) != mids


def test_a_past_holds_what_was_asked_for() -> None:
    world = past(
        1,
        platform=Platform.INSTAGRAM,
        conversations=50,
        messages=20,
        attachments=0.2,
        unsupported=0.1,
        stories=0.2,
        posts=3,
        ads=2,
        comments=4,
        replies=2,
        labels=3,
    )

    account = world.accounts["1042"]
    messages = list(world.messages.values())
    assert len(messages) == 1000
    assert len(world.posts_of(account)) == 5
    assert sum(post.ad for post in world.posts.values()) == 2
    assert len(world.comments) == 5 * 4 * 3
    assert len(world.labels) == 3
    assert 100 < sum(bool(message.attachments) for message in messages) < 300
    assert 50 < sum(message.unsupported for message in messages) < 200
    assert 100 < sum(message.story is not None for message in messages) < 300
    assert any(not (message.text or "").isascii() for message in messages)
    assert all(message.created_at < NOW for message in messages)
    for thread in world.newest_first(account):
        times = [message.created_at for message in thread.messages]
        assert times == sorted(times)
