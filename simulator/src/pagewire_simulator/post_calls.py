"""Reading posts, media and comments. Source: as in ``posts``."""

from pagewire_simulator.entities import Platform
from pagewire_simulator.meta import Meta
from pagewire_simulator.posts import Posts
from pagewire_simulator.refusals import Refused, unsupported
from pagewire_simulator.targets import Outcome, Request


def list_posts(meta: Meta, request: Request) -> Outcome:
    """``feed``, ``published_posts`` and ``ads_posts`` of a Page, ``media`` of Instagram."""
    on_instagram = request.account.platform is Platform.INSTAGRAM
    if on_instagram is not (request.edge == "media"):
        raise Refused(unsupported(request.node))
    posts = posts_of(meta, request)
    answer = posts.page(request.edge, request.params, request.wanted, request.fields)
    return Outcome(answer=answer, items=posts.shown)


def read_post(meta: Meta, request: Request) -> Outcome:
    posts = posts_of(meta, request)
    posts.weigh(1, request.fields)
    return Outcome(answer=posts.post(request.post, request.fields), items=posts.shown)


def list_comments(meta: Meta, request: Request) -> Outcome:
    """On a post or a medium, or, where the node is a comment, its replies."""
    posts, comment = posts_of(meta, request), request.target.comment
    post = meta.world.post(comment.post_id) if comment else request.post
    posts.weigh(request.wanted.limit, request.fields)
    answer = posts.comments(
        post, comment, request.edge, request.params, request.wanted, request.fields
    )
    return Outcome(answer=answer, items=posts.shown)


def read_comment(meta: Meta, request: Request) -> Outcome:
    posts = posts_of(meta, request)
    return Outcome(answer=posts.comment(request.comment, request.fields), items=posts.shown)


def posts_of(meta: Meta, request: Request) -> Posts:
    return Posts(
        world=meta.world,
        account=request.account,
        paging=request.paging,
        until=request.now - int(meta.options.read_lag * 1000),
    )
