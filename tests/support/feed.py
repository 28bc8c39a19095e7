"""Posts with their comments as Graph pages them, in memory: a Page's feed and its advertisements,
or an account's media. Both platforms show comments newest first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pagewire.type.v1.page_pb2 import Platform
from pagewire_sync.batches import Weight
from pagewire_sync.budget import Product
from pagewire_sync.graph import Credentials
from pagewire_sync.reading import Tally
from pagewire_sync.results import Done, Failed, Outcome
from tests.support.inbox import INVALID_CURSOR, MISSING, NOW, PAGE, REDUCE, UNKNOWN, Asked, iso

MOST_ON_INSTAGRAM = 50
"""Comments that Instagram gives at once, whatever is asked for."""


@dataclass
class FakeComment:
    """A comment; `replies` are oldest first."""

    comment_id: str
    at: float
    replies: list["FakeComment"] = field(default_factory=list)
    own: bool = False
    hidden: bool = False


@dataclass
class FakePost:
    """A post or a medium; its comments are oldest first. Graph fails on poison but for its id, and
    of one that is cut short on all comments that do not come nested.
    """

    post_id: str
    comments: list[FakeComment] = field(default_factory=list)
    poison: bool = False
    cut_short: bool = False
    updated: float = NOW

    def flat(self) -> list[tuple[FakeComment, str]]:
        """Comments and replies, oldest first, each with the comment that it answers."""
        found = [(one, "") for one in self.comments]
        found += [(each, one.comment_id) for one in self.comments for each in one.replies]
        return sorted(found, key=lambda pair: pair[0].at)


@dataclass
class FakeFeed:
    """Answers reads of one page's posts, edge by edge."""

    edges: dict[str, list[FakePost]]
    weight: int = 5_000
    newest_reply_first: bool = False
    """On Instagram, whose documents promise no order of replies."""
    asked: list[Asked] = field(default_factory=list)
    failing: dict[int, Failed] = field(default_factory=dict)
    """Calls by number that end otherwise."""

    async def get(
        self,
        credentials: Credentials,
        node: str,
        edge: str,
        params: Mapping[str, str],
        *,
        operation: str,
        product: Product,
        weight: Weight = Weight.LIGHT,
        batched: bool = False,
        attempts: int = 6,
        tally: Tally | None = None,
    ) -> Outcome:
        assert product is Product.PAGE
        number = len(self.asked)
        self.asked.append(Asked(node, edge, dict(params), batched))
        if tally is not None:
            tally.calls += 1
        if number in self.failing:
            return self.failing[number]
        on_instagram = credentials.platform == Platform.PLATFORM_INSTAGRAM
        return _Answering(self, on_instagram, params).answer(node, edge)

    def left_percent(self, page_id: str) -> int:
        return 100

    def posts(self) -> list[FakePost]:
        return [post for posts in self.edges.values() for post in posts]

    def find(self, post_id: str) -> FakePost:
        return next(post for post in self.posts() if post.post_id == post_id)

    def truth(self) -> set[str]:
        """The ids of all comments that can be read."""
        return {
            one.comment_id for post in self.posts() if not post.poison for one, _ in post.flat()
        }

    def lists(self) -> list[Asked]:
        return [each for each in self.asked if each.edge in self.edges]


@dataclass
class _Answering:
    feed: FakeFeed
    on_instagram: bool
    params: Mapping[str, str]

    def answer(self, node: str, edge: str) -> Outcome:
        fields = self.params.get("fields", "")
        if edge in self.feed.edges:
            return self._list(self.feed.edges[edge], edge, fields)
        post = next((one for one in self.feed.posts() if one.post_id == node), None)
        if post is not None and not edge:
            shows_all = "comments" in fields
            return UNKNOWN if post.poison and shows_all else _done(self._post(post, fields))
        if post is not None and post.cut_short:
            return UNKNOWN
        if post is not None:
            page = self._comments(post, int(self.params["limit"]), self.params.get("after"), fields)
            return INVALID_CURSOR if page is None else _done(page)
        parent = next(
            (o for p in self.feed.posts() for o in p.comments if o.comment_id == node), None
        )
        if parent is None or edge != "replies":
            return MISSING
        page = self._replies(parent, int(self.params["limit"]), self.params.get("after"))
        return INVALID_CURSOR if page is None else _done(page)

    def _list(self, posts: Sequence[FakePost], edge: str, fields: str) -> Outcome:
        limit, nested = int(self.params["limit"]), _limit(fields, "comments")
        if limit * nested > self.feed.weight:
            return REDUCE
        names = [f"{post.post_id}/{limit}" for post in posts]
        after = self.params.get("after")
        if after is not None and after not in names:
            return INVALID_CURSOR
        start = names.index(after) + 1 if after else 0
        chosen = posts[start : start + limit]
        if nested and any(post.poison for post in chosen):
            return UNKNOWN
        shown = [self._post(post, fields) for post in chosen]
        more = start + limit < len(posts)
        return _done(_paged(shown, names[start + len(chosen) - 1] if chosen else "", more))

    def _post(self, post: FakePost, fields: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": post.post_id}
        if "updated_time" in fields:
            shown["updated_time"] = iso(post.updated)
        if nested := _limit(fields, "comments"):
            page = self._comments(post, nested, None, fields)
            if page and page["data"]:  # an edge without items is absent
                shown["comments"] = page
        return shown

    def _comments(self, post: FakePost, limit: int, after: str | None, fields: str) -> Any:
        if self.on_instagram:
            limit = min(limit, MOST_ON_INSTAGRAM)
            replies = _limit(fields, "replies")
            listed = [self._instagram(one, "", replies) for one in post.comments[::-1]]
        else:
            listed = [_facebook(one, parent, post) for one, parent in post.flat()[::-1]]
        return _cut(listed, limit, after)

    def _replies(self, parent: FakeComment, limit: int, after: str | None) -> Any:
        replies = parent.replies[::-1] if self.feed.newest_reply_first else parent.replies
        listed = [self._instagram(one, parent.comment_id, 0) for one in replies]
        return _cut(listed, min(limit, MOST_ON_INSTAGRAM), after)

    def _instagram(self, one: FakeComment, parent_id: str, replies: int) -> dict[str, Any]:
        shown = {
            "id": one.comment_id,
            "text": f"text of {one.comment_id}",
            "timestamp": iso(one.at),
            "from": {"id": PAGE if one.own else "71", "username": "u"},
            "username": "u",
            "hidden": one.hidden,
        }
        if parent_id:
            shown["parent_id"] = parent_id
        if replies and one.replies:
            shown["replies"] = self._replies(one, replies, None)
        return shown


def _facebook(one: FakeComment, parent_id: str, post: FakePost) -> dict[str, Any]:
    return {
        "id": one.comment_id,
        "message": f"text of {one.comment_id}",
        "created_time": iso(one.at),
        "from": {"id": PAGE if one.own else "71", "name": "N"},
        "is_hidden": one.hidden,
        **({"parent": {"id": parent_id}} if parent_id else {}),
    }


def _cut(listed: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any] | None:
    names = [each["id"] for each in listed]
    if after is not None and after not in names:
        return None
    start = names.index(after) + 1 if after else 0
    chosen = listed[start : start + limit]
    return _paged(chosen, chosen[-1]["id"] if chosen else "", start + limit < len(listed))


def _paged(shown: list[dict[str, Any]], end: str, more: bool) -> dict[str, Any]:
    page: dict[str, Any] = {"data": shown}
    if shown:
        page["paging"] = {"cursors": {"before": "x", "after": end}}
        if more:
            page["paging"]["next"] = "https://graph.example/next?access_token=secret"
    return page


def _limit(fields: str, edge: str) -> int:
    found = re.search(rf"\b{edge}(?:\.\w+\(\w+\))*?\.limit\((\d+)\)", fields)
    return int(found[1]) if found else 0


def _done(body: dict[str, Any]) -> Done:
    return Done(body, datetime.fromtimestamp(NOW, UTC))


def post(number: int | str, comments: int = 0, replies: int = 0, **fields: Any) -> FakePost:
    """A post with so many comments, a minute between them, and so many replies to each."""
    made = FakePost(f"p_{number}", **fields)
    for place in range(comments):
        at = NOW - 100_000 + place * 60
        one = FakeComment(f"c_{number}_{place}", at)
        one.replies = [FakeComment(f"r_{number}_{place}_{n}", at + 1 + n) for n in range(replies)]
        made.comments.append(one)
    return made
