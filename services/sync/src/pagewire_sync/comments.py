"""Comments: below posts and ad posts of a Page, and below Instagram media, with their replies.

Meta's pages on comments know no account-wide list, and none by time on Instagram: a run walks the
posts, newest first, with comments nested. A full run walks all of them. An incremental one looks at
the newest 100 of each kind, and at those among them that were written to since (Facebook tells when
that was, Instagram does not); what is written below older ones webhooks bring, and the next full
run.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import msgspec

from pagewire.store.v1.mirror_service_pb2 import MirroredComment
from pagewire.type.v1.page_pb2 import Platform
from pagewire_runtime import faults
from pagewire_runtime.logs import get_logger
from pagewire_sync import posts
from pagewire_sync.asking import Asking, RunFailed, goes_without
from pagewire_sync.budget import Product
from pagewire_sync.listing import CursorRefused, Listed, TooMuch
from pagewire_sync.posts import Posts
from pagewire_sync.progress import Progress
from pagewire_sync.results import Done
from pagewire_sync.shown import Post, Refused, Unshown, add_comments, edge_of, post_of
from pagewire_sync.tails import Store, Tail, Tails
from pagewire_sync.trail import Trail, TrailLost
from pagewire_sync.upserting import Rows, Upserting, count_refused

log = get_logger(__name__)

ADS = "ads_posts"
"""Meta's page on this edge asks for permissions, and for a task of who made the token, that nothing
else here needs."""
NEWEST = 100
"""Posts of each kind that an incremental run looks at."""
POSTS, NESTED = 25, 100
"""Facebook's posts a call with comments each; replies stand among them."""
MEDIA, NESTED_ON_INSTAGRAM = 5, 50
"""Instagram's, where Meta gives no more comments at once, and replies are nested once more."""


class Checkpoint(msgspec.Struct):
    """How far a run is, for who takes it over."""

    edge: int = 0
    cursor: str = ""
    posts: int = 0
    """How many a page holds, which the cursor was made with; 0 before the first."""
    looked_at: int = 0
    """Posts of the edge that are behind it."""
    tails: list[Tail] = []


def read_checkpoint(content: bytes) -> Checkpoint:
    """What a worker before wrote down, or the beginning."""
    try:
        return msgspec.json.decode(content, type=Checkpoint) if content else Checkpoint()
    except msgspec.MsgspecError:
        return Checkpoint()


@dataclass
class Comments:
    """The comments of one page, in one run."""

    asking: Asking
    store: Upserting
    progress: Progress

    def __post_init__(self) -> None:
        credentials = self.asking.credentials
        self.on_instagram = credentials.platform == Platform.PLATFORM_INSTAGRAM
        # Media belong to the account itself, also where its conversations go by its Page.
        node = credentials.page_id if self.on_instagram else credentials.node_id
        self._posts_most = MEDIA if self.on_instagram else POSTS
        self.nested_most = NESTED_ON_INSTAGRAM if self.on_instagram else NESTED
        self._posts = Posts(self.asking, self.progress, node, self.nested_most)
        self._edges = ("media",) if self.on_instagram else ("feed", ADS)
        self._own = frozenset({credentials.page_id, credentials.node_id})
        self._refused = Refused()
        self._at = read_checkpoint(self.progress.checkpoint)
        self._tails = Tails(self.asking, self.progress, OlderComments(self), self._save)

    async def run(self) -> None:
        """Read them all, or what is new. Raises RunFailed."""
        async with asyncio.TaskGroup() as self._tasks:
            for tail in self._at.tails:
                self._tails.begin(tail, self._tasks)
            while self._at.edge < len(self._edges):
                await self._walk_if_allowed(self._edges[self._at.edge])
                self._at = Checkpoint(self._at.edge + 1)
                self._save()
        if self._refused:
            log.warning("Graph showed what is no post or comment", **self._refused)
            count_refused("comments", self._refused)

    async def _walk_if_allowed(self, edge: str) -> None:
        """Many pages have no advertisements, and none is left without its comments for them."""
        try:
            await self._walk(edge)
        except RunFailed as failed:
            if edge != ADS or failed.reason != "permission":
                raise
            goes_without(self.asking.credentials, ADS, failed.reason)

    async def _walk(self, edge: str) -> None:
        trail = Trail(["", *filter(None, [self._at.cursor])])
        self._size = self._at.posts or self.progress.sizes.of(edge, self._posts_most)
        ahead: asyncio.Task[Listed] | None = None
        try:
            while True:
                page = await self._answer(edge, trail, ahead)
                ahead = None
                if page is None:
                    continue
                self.progress.sizes.well(edge, self._posts_most)
                self._at.looked_at += len(page.items) + len(page.unreadable)
                ends = self._ends(page)
                if not ends:
                    trail.goes_on(page.after, [head.thread_id for head in page.heads])
                    ahead = asyncio.create_task(self._posts.page(edge, trail.here, self._size))
                await faults.reach("sync.page.after_read", self.progress.page_id)
                await self._take(page)
                if ends:
                    return
                self._at.cursor, self._at.posts = trail.here, self._size
                self._save()
                await self._tails.room()
        except TrailLost as lost:
            raise RunFailed(lost.reason) from None
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _answer(
        self, edge: str, trail: Trail, ahead: "asyncio.Task[Listed] | None"
    ) -> Listed | None:
        """The page to be read now; None where another is to be asked for in its place."""
        try:
            return await (ahead or self._posts.page(edge, trail.here, self._size))
        except TooMuch:
            self._shrink(edge)
            trail.restart()
        except CursorRefused:
            trail.refused()
        return None

    def _shrink(self, edge: str) -> None:
        """Half of it from now on: of the posts, then of their comments. Raises RunFailed."""
        if self._size > 1:
            self._size = self.progress.sizes.shrink(edge, self._size)
        elif self._posts.nested > 1:
            self.progress.sizes.shrink(posts.NESTED, self._posts.nested)
        else:
            raise RunFailed("graph_too_much")

    def _ends(self, page: Listed) -> bool:
        return not page.after or (self.progress.bound > 0 and self._at.looked_at >= NEWEST)

    async def _take(self, page: Listed) -> None:
        for head, reason in page.unreadable.items():
            self.progress.pass_by(head.thread_id, reason, head.updated)
        shown = list(self._shown(page))
        await self._keep(page.read_time, shown)
        for post in shown:
            begun = len(self._tails.waiting)
            if post.after and not _reaches(post, self.progress.bound):
                self._begin(post, post.post_id, "comments", "", post.after)
            self._begin_replies(post)
            if len(self._tails.waiting) == begun:
                self.progress.readable(post.post_id)

    def _begin_replies(self, post: Post) -> None:
        for parent_id, after in post.replies_after.items():
            replies = [each for each in post.comments if each.parent_id == parent_id]
            if not _replies_reach(replies, self.progress.bound):
                self._begin(post, parent_id, "replies", parent_id, after)

    def _begin(self, post: Post, node: str, edge: str, whose: str, after: str) -> None:
        since = self.progress.bound
        tail = Tail(post.post_id, node, edge, whose, post.updated, since, after, after)
        self._tails.begin(tail, self._tasks)

    def _save(self) -> None:
        self._at.tails = self._tails.waiting
        self.progress.reached(msgspec.json.encode(self._at))

    def _shown(self, page: Listed) -> Iterator[Post]:
        for item in page.items:
            try:
                post = post_of(item, self._own, self._refused)
            except Unshown as why:
                self._refused[why.reason] += 1
                continue
            if not 0 < post.updated < self.progress.bound:
                yield post

    async def _keep(self, read_time: datetime, shown: list[Post]) -> None:
        rows = Rows(read_time)
        for post in shown:
            rows.comments += post.comments
        stored = await self.store.put(rows)
        await faults.reach("sync.page.after_upsert", self.progress.page_id)
        self.progress.add(comments=len(rows.comments), stored=stored.new)

    def older(self, tail: Tail, read: Done) -> Post:
        """A page of a post's older comments, or of a comment's replies. Raises Unshown."""
        post = Post(tail.of, tail.updated)
        add_comments(post, edge_of(read.body), self._own, self._refused, parent_id=tail.whose)
        return post

    async def keep_older(self, read: Done, post: Post) -> None:
        """Store them, and begin the replies that did not come with them."""
        whole = Post(post.post_id, post.updated, post.comments, "", dict(post.replies_after))
        await self._keep(read.read_time, [whole])
        self._begin_replies(whole)


@dataclass(frozen=True)
class OlderComments:
    """Comments and replies that did not come nested in the list of posts."""

    comments: Comments
    product: Product = Product.PAGE
    operation: str = "comments"

    def most(self, tail: Tail) -> int:
        """How many a page holds at the most."""
        return self.comments.nested_most

    def params(self, tail: Tail) -> dict[str, str]:
        """What is asked for."""
        if not self.comments.on_instagram:
            return {"fields": posts.FACEBOOK, "filter": "stream", "order": "reverse_chronological"}
        if tail.edge == "replies":
            return {"fields": posts.INSTAGRAM}
        return {"fields": posts.WITH_REPLIES}

    def shown(self, tail: Tail, read: Done) -> tuple[list[str], str, Store]:
        """A page of them; none that are older are wanted where the page reaches back enough."""
        post = self.comments.older(tail, read)
        after = post.after
        if tail.edge == "replies":
            after = post.replies_after.pop(tail.whose, "")
            if _replies_reach(post.comments, tail.since):
                after = ""
        elif _reaches(post, tail.since):
            after = ""
        ids = [each.comment_id for each in post.comments]
        return ids, after, partial(self.comments.keep_older, read, post)


def _reaches(post: Post, since: float) -> bool:
    """Whether the post's comments, newest first, reach back to then. Replies nested in them say
    nothing: they are older or younger than what they answer.
    """
    tops = [each.create_time.seconds for each in post.comments if not each.parent_id]
    return bool(since and tops) and min(tops) < since


def _replies_reach(replies: Sequence[MirroredComment], since: float) -> bool:
    """Whether one comment's replies reach back to then. No page of Meta's tells their order: they
    do where they are seen to come newest first; in any other the new ones may stand last.
    """
    times = [each.create_time.seconds for each in replies]
    if not since or len(times) < 2 or times != sorted(times, reverse=True):
        return False
    return times[0] > times[-1] and times[-1] < since
