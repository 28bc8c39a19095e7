"""Posts: a page of a page's posts, or of an account's media, with the comments nested in them.

One post that Graph cannot show with its comments fails every list that holds it (code 1), as one
thread does in `listing`: the ids are read then, and each post by itself; what still fails is told
apart from a Graph in trouble by asking for its id alone. Fields: Meta's pages on comments of the
Graph API and of Instagram.
"""

from dataclasses import dataclass

from pagewire.type.v1.page_pb2 import Platform
from pagewire_sync.asking import Asking, is_too_much, is_trouble
from pagewire_sync.budget import Product
from pagewire_sync.listing import Head, Listed, TooMuch, head_of, heads_of, of_node, page_of
from pagewire_sync.progress import Progress
from pagewire_sync.results import Failed, Outcome

NESTED = "comments_nested"
"""What the number of comments that come with a post is remembered under."""
REPLIES = 10
FACEBOOK = "id,message,from{id,name},created_time,parent{id},attachment,is_hidden"
INSTAGRAM = "id,text,timestamp,from,username,hidden,parent_id"
WITH_REPLIES = f"{INSTAGRAM},replies.limit({REPLIES}){{{INSTAGRAM}}}"
_STREAM = "filter(stream).order(reverse_chronological)"


@dataclass(frozen=True)
class Posts:
    """Reads the lists of one page's posts."""

    asking: Asking
    progress: Progress
    node: str
    nested_most: int
    """Comments that may come with a post."""

    @property
    def nested(self) -> int:
        """Comments that do."""
        return self.progress.sizes.of(NESTED, self.nested_most)

    async def page(self, edge: str, cursor: str, limit: int) -> Listed:
        """The page behind the cursor. Raises TooMuch, CursorRefused, RunFailed."""
        fields = self._fields()
        outcome = await self._list(edge, cursor, limit, fields)
        if not is_trouble(outcome):
            return _page(outcome, cursor)
        heads = await self._heads(edge, cursor, limit)
        known = any(self._is_hopeless(head) for head in heads_of(heads.items))
        if not known:
            again = await self._list(edge, cursor, limit, fields)
            if not is_trouble(again):  # Graph was in trouble, and no more
                return _page(again, cursor)
        return await self._singly(heads, fields)

    def _fields(self) -> str:
        if self._on_instagram:
            return f"id,comments.limit({self.nested}){{{WITH_REPLIES}}}"
        return f"id,updated_time,comments.{_STREAM}.limit({self.nested}){{{FACEBOOK}}}"

    @property
    def _on_instagram(self) -> bool:
        return self.asking.credentials.platform == Platform.PLATFORM_INSTAGRAM

    async def _list(self, edge: str, cursor: str, limit: int, fields: str) -> Outcome:
        return await self.asking.once(
            self.node,
            edge,
            _params(cursor, limit, fields),
            operation="posts",
            product=Product.PAGE,
            heavy=True,
        )

    async def _heads(self, edge: str, cursor: str, limit: int) -> Listed:
        """Ids alone. Raises TooMuch, CursorRefused, RunFailed."""
        outcome = await self.asking.patiently(
            self.node,
            edge,
            _params(cursor, limit, "id" if self._on_instagram else "id,updated_time"),
            operation="post_ids",
            product=Product.PAGE,
        )
        return _page(outcome, cursor)

    async def _singly(self, heads: Listed, fields: str) -> Listed:
        """The page, each post by a read of its own; those that are not new as their ids alone."""
        page = heads.emptied()
        for item, head in zip(heads.items, map(head_of, heads.items), strict=True):
            if head is None or 0 < head.updated < self.progress.bound:
                page.items.append(item)
            elif self._is_hopeless(head):
                page.unreadable[head] = self.progress.unreadable[head.thread_id].reason
            else:
                await self._single(page, head, fields)
        return page

    async def _single(self, page: Listed, head: Head, fields: str) -> None:
        outcome = await of_node(
            self.asking,
            head.thread_id,
            "",
            {"fields": fields},
            operation="post",
            product=Product.PAGE,
        )
        if isinstance(outcome, Failed):
            if is_too_much(outcome) and self.nested > 1:
                raise TooMuch
            page.unreadable[head] = outcome.reason
        elif head_of(outcome.body) is None:
            page.unreadable[head] = "graph_answer_unreadable"
        else:
            page.items.append(outcome.body)
            page.read_time = min(page.read_time, outcome.read_time)

    def _is_hopeless(self, head: Head) -> bool:
        return self.progress.is_hopeless(head.thread_id, head.updated)


def _params(cursor: str, limit: int, fields: str) -> dict[str, str]:
    params = {"fields": fields, "limit": str(limit)}
    return params | ({"after": cursor} if cursor else {})


def _page(outcome: Outcome, cursor: str) -> Listed:
    if isinstance(outcome, Failed) and is_too_much(outcome):
        raise TooMuch
    return page_of(outcome, cursor)
