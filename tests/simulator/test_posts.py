"""Reading posts, media and their comments."""

from typing import Any

import httpx
import pytest

from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.entities import Comment
from tests.support.simulator import INSTAGRAM_SECRET, GraphCaller


def codes(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["error"]["code"]


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def oldest_first(comments: list[Comment]) -> list[str]:
    return [one.id for one in sorted(comments, key=lambda one: one.created_at)]


async def walk(caller: GraphCaller, path: str, **query: Any) -> list[str]:
    found: list[str] = []
    after: dict[str, Any] = {}
    while True:
        answer = await caller.call("GET", path, **query, **after)
        found += ids(answer)
        paging = answer.json().get("paging", {})
        if "next" not in paging:
            return found
        after = {"after": paging["cursors"]["after"]}


@pytest.fixture
async def instagram(simulator: SimulatorClient, graph: GraphCaller) -> tuple[GraphCaller, str]:
    account = await simulator.create_account("instagram", login="instagram")
    return GraphCaller(simulator.instagram, account.token, graph.http, INSTAGRAM_SECRET), account.id


async def test_the_feed_has_no_advertisements_and_ads_posts_nothing_else(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=5, ads=2)
    posts = (await simulator.truth(page.id)).posts
    feed, ads = [p.id for p in posts if not p.ad], [p.id for p in posts if p.ad]
    middle = posts[2].created_at // 1000

    late = await graph.call("GET", f"{page.id}/feed", since=middle)
    early = await graph.call("GET", f"{page.id}/feed", until=middle)

    assert await walk(graph, f"{page.id}/feed", limit=2) == feed
    assert await walk(graph, "me/published_posts") == feed
    assert await walk(graph, f"{page.id}/ads_posts") == ads
    assert len(ids(late)) + len(ids(early)) in (len(feed), len(feed) + 1)
    assert codes(await graph.call("GET", f"{page.id}/media")) == (400, 100)


async def test_a_post_was_updated_when_somebody_last_wrote_below_it(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=2, comments=2, replies=1, newest_ago=3_600)
    old, quiet = (await simulator.truth(page.id)).posts

    async def times() -> dict[str, tuple[str, str]]:
        answer = await graph.call("GET", f"{page.id}/feed", fields="id,created_time,updated_time")
        shown = answer.json()["data"]
        return {one["id"]: (one["created_time"], one["updated_time"]) for one in shown}

    before = await times()
    said = await simulator.comment(page.id, "price?", post=old.id, silently=True)
    commented = await times()
    await simulator.comment(page.id, "and mine?", parent=said.comment, ago=-60, silently=True)
    replied = await times()

    assert all(created < updated for created, updated in before.values())
    assert before[old.id][1] < commented[old.id][1] < replied[old.id][1]
    assert {each[old.id][0] for each in (before, commented, replied)} == {before[old.id][0]}
    assert before[quiet.id] == commented[quiet.id] == replied[quiet.id]


async def test_comments_of_a_post_come_by_filter_and_order_with_a_summary(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=1, comments=6, replies=2)
    truth = await simulator.truth(page.id)
    path = f"{truth.posts[0].id}/comments"
    top = oldest_first([one for one in truth.comments if one.parent_id is None])
    popular = truth.comments[-1]
    await simulator.comment(page.id, "me too", parent=popular.parent_id)

    counted = (await graph.call("GET", path, summary=1, filter="stream")).json()["summary"]

    stream = await walk(graph, path, filter="stream", limit=4)
    assert set(stream) >= set(oldest_first(truth.comments))
    assert len(stream) == 6 * 3 + 1
    assert await walk(graph, path, order="chronological", limit=4) == top
    assert await walk(graph, path, order="reverse_chronological") == top[::-1]
    assert (await walk(graph, path))[0] == popular.parent_id  # ranked
    assert counted["total_count"] == 19
    assert codes(await graph.call("GET", path, filter="nonsense")) == (400, 100)


async def test_a_facebook_comment_is_told_with_its_replies_nested(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    top = await simulator.comment(page.id, "price?")
    reply = await simulator.comment(page.id, "yes, price?", parent=top.comment)
    fields = (
        "message,is_hidden,can_reply_privately,comment_count,object,permalink_url,"
        "comments.limit(1){message,parent}"
    )

    shown = (await graph.call("GET", str(top.comment), fields=fields)).json()
    feed = await graph.call(
        "GET", "me/feed", fields="comments.limit(5).filter(stream).summary(true){id}"
    )

    nested = shown["comments"]["data"]
    assert (shown["message"], shown["is_hidden"], shown["comment_count"]) == ("price?", False, 1)
    assert shown["object"] == {"id": top.post}
    assert nested == [
        {"id": reply.comment, "message": "yes, price?", "parent": {"id": top.comment}}
    ]
    assert feed.json()["data"][0]["comments"]["data"] == [
        {"id": top.comment},
        {"id": reply.comment},
    ]
    assert feed.json()["data"][0]["comments"]["summary"]["total_count"] == 2


async def test_what_is_attached_to_a_facebook_comment_is_told_where_it_is_asked_for(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=1, comments=40, attachments=0.5)
    truth = await simulator.truth(page.id)
    path = f"{truth.posts[0].id}/comments"

    asked = await graph.call("GET", path, fields="attachment", limit=100)
    plain = await graph.call("GET", path, limit=100)

    shown = {one["id"]: one["attachment"] for one in asked.json()["data"] if "attachment" in one}
    told = {id: (one["type"], one["url"]) for id, one in shown.items()}
    assert told == {one.id: one.attachment for one in truth.comments if one.attachment}
    assert 0 < len(told) < 40
    assert not any("attachment" in one for one in plain.json()["data"])


async def test_what_is_too_far_in_is_refused_by_its_cursor(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=1, comments=6)
    await simulator.change_account(page.id, reading={"reach": 4})
    path = f"{(await simulator.truth(page.id)).posts[0].id}/comments"

    first = await graph.call("GET", path, limit=4)
    after = first.json()["paging"]["cursors"]["after"]
    second = await graph.call("GET", path, limit=4, after=after)

    assert len(ids(first)) == 4
    assert codes(second) == (400, 100)
    assert "After Cursor" in second.json()["error"]["message"]


async def test_nested_comments_can_be_too_much_data(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, posts=1, comments=1)
    await simulator.change_account(page.id, reading={"weight": 100})

    much = await graph.call(
        "GET", "me/feed", limit=5, fields="comments.limit(5){comments.limit(5)}"
    )
    less = await graph.call(
        "GET", "me/feed", limit=4, fields="comments.limit(5){comments.limit(5)}"
    )

    assert codes(much) == (500, 1)
    assert less.status_code == 200


async def test_media_are_listed_newest_first_with_comments_and_replies_nested(
    simulator: SimulatorClient, instagram: tuple[GraphCaller, str]
) -> None:
    own, account = instagram
    await simulator.create_history(account, posts=3, comments=4, replies=2)
    truth = await simulator.truth(account)
    fields = "id,timestamp,comments_count,comments.limit(2){text,replies{text}}"

    listed = (await own.call("GET", f"{account}/media", fields=fields, limit=2)).json()

    first = listed["data"][0]
    assert [one["id"] for one in listed["data"]] == [post.id for post in truth.posts[:2]]
    assert first["comments_count"] == 12
    assert len(first["comments"]["data"]) == 2
    assert "next" in first["comments"]["paging"]
    assert len(first["comments"]["data"][0]["replies"]["data"]) == 2
    assert await walk(own, f"{account}/media", limit=2) == [post.id for post in truth.posts]


async def test_instagram_comments_are_the_top_level_newest_first_fifty_a_query(
    simulator: SimulatorClient, instagram: tuple[GraphCaller, str]
) -> None:
    own, account = instagram
    await simulator.create_history(account, posts=1, comments=60, replies=1)
    truth = await simulator.truth(account)
    top = oldest_first([one for one in truth.comments if one.parent_id is None])
    path = f"{truth.posts[0].id}/comments"

    first = await own.call("GET", path, limit=100, since=1, fields="text,username,parent_id")
    replies = await own.call("GET", f"{top[0]}/replies", fields="text,parent_id")
    facebooks = await own.call("GET", f"{top[0]}/comments")

    assert len(ids(first)) == 50
    assert first.json()["data"][0].keys() == {"id", "text", "username"}
    assert await walk(own, path, limit=50) == top[::-1]
    assert [one["parent_id"] for one in replies.json()["data"]] == [top[0]]
    assert codes(facebooks) == (400, 100)


async def test_media_of_an_account_linked_to_a_page_are_read_with_the_pages_token(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(require_proof=False)
    linked = await simulator.create_account("instagram", page_id=page.id)
    await simulator.create_history(linked.id, posts=3)

    first = (await graph.call("GET", f"{linked.id}/media", limit=2)).json()
    second = await graph.http.get(first["paging"]["next"])

    assert len(first["data"]) == 2
    assert len(ids(second)) == 1


async def test_a_removed_comment_is_gone_and_a_hidden_one_is_told_as_hidden(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    kept = await simulator.comment(page.id, "price?")
    gone = await simulator.comment(page.id, "spam", post=kept.post, silently=True)
    await graph.call("POST", str(kept.comment), form={"is_hidden": True})
    await simulator.change_comment(page.id, str(gone.comment), silently=True)

    answer = await graph.call("GET", f"{kept.post}/comments", fields="is_hidden")

    assert answer.json()["data"] == [{"id": kept.comment, "is_hidden": True}]
    assert codes(await graph.call("GET", str(gone.comment))) == (400, 100)
