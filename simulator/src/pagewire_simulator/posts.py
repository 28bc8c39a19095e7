"""Posts, media and their comments as Graph shows them, and the edges between them.

Facebook: ``filter`` stream is every level by time, toplevel (the default) the first one, ranked
unless ``order`` says otherwise; who comments below a post updates it. Instagram: fifty comments a
query, the first level, newest first.
Source: the references of comments on both platforms and of a Page's feed.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec

from pagewire_simulator import fields, refusals
from pagewire_simulator.entities import Account, Comment, Platform, Post
from pagewire_simulator.fields import Field
from pagewire_simulator.paging import DEFAULT_LIMIT, Edge, Paging, Wanted
from pagewire_simulator.reads import cut, iso
from pagewire_simulator.refusals import Refused, parameter
from pagewire_simulator.world import World

Json = dict[str, Any]

INSTAGRAM_MOST = 50
ID = attrgetter("id")
CREATED_AT = attrgetter("created_at")
FACEBOOK_POST = fields.parse("id,message,created_time")
FACEBOOK_COMMENT = fields.parse("id,message,created_time,from")
INSTAGRAM_MEDIA = fields.parse("id")
INSTAGRAM_COMMENT = fields.parse("id,text,timestamp")


class Posts(msgspec.Struct, kw_only=True):
    """One call's view of an account's posts. What the account wrote shows where it is not younger
    than ``until``.
    """

    world: World
    account: Account
    paging: Paging
    until: int
    shown: int = 0

    @property
    def on_instagram(self) -> bool:
        return self.account.platform is Platform.INSTAGRAM

    def weigh(self, limit: int, asked: Sequence[Field]) -> None:
        """Raises Refused where limit times the limits nested in it is too much."""
        most = self.paging.reading.weight
        if most is not None and limit * nested_limit(asked) > most:
            raise Refused(refusals.TOO_MUCH)

    def page(
        self, edge: str, params: Mapping[str, Any], wanted: Wanted, asked: list[Field]
    ) -> Json:
        """The feed, without advertisements; ads_posts, which are nothing else; media."""
        self.weigh(wanted.limit, asked)
        since, until = moment(params.get("since")), moment(params.get("until"))
        found = [
            post
            for post in self.world.posts_of(self.account)
            if post.ad is (edge == "ads_posts")
            and (since is None or post.created_at >= since)
            and (until is None or post.created_at <= until)
        ]
        told = {name: params[name] for name in ("fields", "since", "until") if name in params}
        whole = Edge(node=self.account.id, name=edge, params=told)
        return self.paging.page(whole, found, wanted, lambda post: self.post(post, asked), ID)

    def post(self, one: Post, asked: Sequence[Field]) -> Json:
        if self.on_instagram:
            return cut(self._medium(one), asked or INSTAGRAM_MEDIA)
        known = {
            "id": one.id,
            "message": one.text or None,
            "created_time": iso(one.created_at),
            "updated_time": lambda _: iso(self._updated_at(one)),
            "permalink_url": f"https://www.example.test/{one.id}",
            "from": {"id": self.account.id, "name": self.account.name},
            "is_published": not one.ad,
            "promotable_id": one.id,
            "comments": lambda field: self._nested(one, None, field),
        }
        return cut(known, asked or FACEBOOK_POST)

    def _updated_at(self, one: Post) -> int:
        """When it was written, or something below it."""
        return max([one.created_at, *(each.created_at for each in self._under(one))])

    def _medium(self, one: Post) -> Json:
        return {
            "id": one.id,
            "caption": one.text or None,
            "media_type": "IMAGE",
            "media_product_type": "AD" if one.ad else "FEED",
            "timestamp": iso(one.created_at),
            "permalink": f"https://www.example.test/p/{one.id}/",
            "username": self.account.username,
            "comments_count": lambda _: sum(1 for _ in self._under(one)),
            "comments": lambda field: self._nested(one, None, field),
        }

    def _nested(self, post: Post, parent: Comment | None, field: Field) -> Json:
        wanted = Wanted(
            limit=max(1, field.limit(DEFAULT_LIMIT)),
            after=field.modifiers.get("after"),
            before=field.modifiers.get("before"),
        )
        asked = field.inner
        return self.comments(post, parent, field.name, field.modifiers, wanted, asked, nested=True)

    def comments(
        self,
        post: Post,
        parent: Comment | None,
        edge: str,
        params: Mapping[str, Any],
        wanted: Wanted,
        asked: Sequence[Field],
        *,
        nested: bool = False,
    ) -> Json:
        """The comments on a post, or the replies to a comment (``parent``)."""
        if self.on_instagram:
            wanted.limit = min(wanted.limit, INSTAGRAM_MOST)
            found = self._replies(parent) if parent else self._top(post)[::-1]
        else:
            found = self._chosen(post, parent, params)
        told = {name: params[name] for name in ("filter", "order", "summary") if name in params}
        told["fields"] = fields.spelled(asked or self._default)
        node = parent.id if parent else post.id
        whole = Edge(node=node, name=edge, params=told, nested=nested)
        page = self.paging.page(whole, found, wanted, lambda one: self.comment(one, asked), ID)
        self._check_reach(found, page)
        if str(params.get("summary", "")).lower() in ("1", "true", "total_count"):
            page["summary"] = {
                "order": params.get("order", "ranked"),
                "total_count": len(list(self._under(post))) if parent is None else len(found),
                "can_comment": True,
            }
        return page

    def _check_reach(self, found: Sequence[Comment], page: Json) -> None:
        """Raises Refused where the page lies further in than cursors lead."""
        reach = self.paging.reading.reach
        if reach is not None and page["data"]:
            last = page["data"][-1]["id"]
            if any(one.id == last for one in found[reach:]):
                raise Refused(refusals.CURSOR_TOO_FAR)

    def _chosen(
        self, post: Post, parent: Comment | None, params: Mapping[str, Any]
    ) -> list[Comment]:
        """Facebook's comments by ``filter``, ``order`` and ``since``."""
        which, order = params.get("filter", "toplevel"), params.get("order")
        if which not in ("toplevel", "stream"):
            raise Refused(parameter("Param filter must be one of {toplevel, stream}"))
        if parent:
            found = self._replies(parent)
        elif which == "stream":
            found = sorted(self._under(post), key=CREATED_AT)
        else:
            found = self._top(post)
            if order is None:  # ranked: those with most replies first
                found.sort(key=lambda one: (-len(self._replies(one)), -one.created_at))
        if order == "reverse_chronological":
            found.reverse()
        since = moment(params.get("since"))
        return [one for one in found if since is None or one.created_at >= since]

    def _top(self, post: Post) -> list[Comment]:
        return self._visible(self.world.top_comments(post))

    def _replies(self, parent: Comment) -> list[Comment]:
        return self._visible(self.world.replies(parent))

    def _visible(self, found: Sequence[Comment]) -> list[Comment]:
        return [one for one in found if one.person_id is not None or one.created_at <= self.until]

    def _under(self, post: Post) -> Sequence[Comment]:
        top = self._top(post)
        return [*top, *(reply for one in top for reply in self._replies(one))]

    @property
    def _default(self) -> list[Field]:
        return INSTAGRAM_COMMENT if self.on_instagram else FACEBOOK_COMMENT

    def comment(self, one: Comment, asked: Sequence[Field]) -> Json:
        self.shown += 1
        known = self._instagram_comment(one) if self.on_instagram else self._facebook_comment(one)
        return cut(known, asked or self._default)

    def _instagram_comment(self, one: Comment) -> Json:
        post = self.world.post(one.post_id)
        return {
            "id": one.id,
            "text": one.text,
            "timestamp": iso(one.created_at),
            "from": {"id": one.from_id, "username": one.from_name},
            "username": one.from_name,
            "hidden": one.hidden,
            "like_count": 0,
            "parent_id": one.parent_id,
            "media": {"id": one.post_id},
            "user": {"id": self.account.id} if one.person_id is None else None,
            "replies": None if one.parent_id else lambda field: self._nested(post, one, field),
        }

    @staticmethod
    def _attachment(one: Comment) -> Json | None:
        if one.attachment is None:
            return None
        kind, url = one.attachment
        image = {"height": 720, "src": f"{url}/image.jpg", "width": 1280}
        return {"media": {"image": image}, "target": {"url": url}, "type": kind, "url": url}

    def _facebook_comment(self, one: Comment) -> Json:
        post, on_top = self.world.post(one.post_id), one.parent_id is None
        return {
            "id": one.id,
            "message": one.text,
            "created_time": iso(one.created_at),
            "from": {"id": one.from_id, "name": one.from_name},
            "is_hidden": one.hidden,
            "is_private": False,
            "attachment": self._attachment(one),
            "parent": None if on_top else {"id": one.parent_id},
            "object": {"id": one.post_id},
            "comment_count": lambda _: len(self._replies(one)),
            "like_count": 0,
            "user_likes": False,
            "can_hide": one.person_id is not None,
            "can_remove": True,
            "can_comment": on_top,
            "can_reply_privately": one.person_id is not None and one.private_reply_mid is None,
            "permalink_url": f"https://www.example.test/{one.post_id}?comment_id={one.id}",
            "comments": lambda field: self._nested(post, one, field),
        }


def nested_limit(asked: Sequence[Field]) -> int:
    """How many items an item has at most, by the limits of the edges expanded in it."""
    edges = [field for field in asked if field.name in ("comments", "replies")]
    return max((one.limit(DEFAULT_LIMIT) * nested_limit(one.inner) for one in edges), default=1)


def moment(given: Any) -> int | None:
    """``since`` and ``until``: seconds of Unix time, or a date; milliseconds. Raises Refused."""
    if given in (None, ""):
        return None
    text = str(given)
    try:
        return (
            int(text) * 1000
            if text.isdigit()
            else int(datetime.fromisoformat(text).timestamp() * 1000)
        )
    except ValueError:
        raise Refused(parameter("Param since and until must be times")) from None
