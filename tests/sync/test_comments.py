from dataclasses import replace

import pytest

from pagewire.store.v1.run_service_pb2 import ClaimedRun, UnreadableThread
from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncMode
from pagewire_sync.asking import Asking, RunFailed
from pagewire_sync.comments import MEDIA, NESTED, NESTED_ON_INSTAGRAM, NEWEST, POSTS, Comments
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.mirroring import _first
from pagewire_sync.progress import Progress
from pagewire_sync.results import Failed
from pagewire_sync.upserting import Upserting
from tests.support import inbox
from tests.support.feed import FakeComment, FakeFeed, FakePost, post
from tests.support.inbox import INVALID_CURSOR, NOW, PAGE, TOKEN_DEAD, UNKNOWN, FakeMirror

COMMENTS = SyncKind.SYNC_KIND_COMMENTS
INCREMENTAL = SyncMode.SYNC_MODE_INCREMENTAL
REFUSED = Failed(GraphError(Failure.PERMISSION, 403, 200))
FACEBOOK, INSTAGRAM = Platform.PLATFORM_MESSENGER, Platform.PLATFORM_INSTAGRAM
NODE = "104200000000099"
"""The Page of an Instagram account of Facebook login."""


async def no_pause(seconds: float) -> None:
    pass


def claimed(**of: object) -> ClaimedRun:
    return inbox.claimed(kind=COMMENTS, **of)  # type: ignore[arg-type]


def news(**of: object) -> ClaimedRun:
    return claimed(mode=INCREMENTAL, synced=NOW, **of)


async def walked(
    graph: FakeFeed,
    mirror: FakeMirror,
    of: ClaimedRun | None = None,
    platform: Platform.ValueType = FACEBOOK,
) -> Progress:
    progress = Progress.of(of or claimed())
    credentials = inbox.credentials(platform)
    if platform == INSTAGRAM:
        credentials = replace(credentials, node_id=NODE)
    asking = Asking(graph, credentials, progress.tally, no_pause)
    try:
        await Comments(asking, Upserting(mirror, PAGE), progress).run()
    except ExceptionGroup as group:
        raise _first(group) from None
    return progress


def facebook(*feed: FakePost, ads: tuple[FakePost, ...] = ()) -> FakeFeed:
    return FakeFeed({"feed": list(feed), "ads_posts": list(ads)})


def instagram(*media: FakePost) -> FakeFeed:
    return FakeFeed({"media": list(media)})


def parents(mirror: FakeMirror) -> dict[str, str]:
    return {one.comment_id: one.parent_id for one in mirror.comments.values() if one.parent_id}


class TestOfAFacebookPage:
    async def test_comments_of_posts_and_of_ads_come_with_their_replies(self) -> None:
        graph = facebook(*[post(n, 3, 2) for n in range(4)], ads=(post("ad", 2, 1),))
        mirror = FakeMirror()

        progress = await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()
        assert (progress.run.comments, progress.run.stored) == (40, 40)
        assert [(each.node, each.edge) for each in graph.asked] == [
            (PAGE, "feed"),
            (PAGE, "ads_posts"),
        ]
        assert mirror.comments["r_ad_1_0"].post_id == "p_ad"
        assert parents(mirror)["r_0_2_1"] == "c_0_2"

    async def test_posts_are_walked_by_their_cursors_to_the_first(self) -> None:
        graph, mirror = facebook(*[post(n, 1) for n in range(60)]), FakeMirror()

        await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()
        assert [each.params["limit"] for each in graph.lists()] == [str(POSTS)] * 3 + [str(POSTS)]

    async def test_a_post_with_many_comments_is_finished_by_itself(self) -> None:
        graph, mirror = facebook(post(1, 150, 1), post(2, 1)), FakeMirror()

        await walked(graph, mirror)

        tails = [each for each in graph.asked if each.edge == "comments"]
        assert mirror.comments.keys() == graph.truth()
        assert [each.node for each in tails] == ["p_1", "p_1"]
        assert {each.params["limit"] for each in tails} == {str(NESTED)}
        assert tails[0].params["filter"] == "stream"

    async def test_what_is_hidden_and_what_the_page_wrote_says_so(self) -> None:
        talk = post(1)
        talk.comments = [
            FakeComment("c_hidden", NOW - 60, hidden=True),
            FakeComment("c_own", NOW - 50, own=True),
            FakeComment("c_plain", NOW - 40),
        ]
        mirror = FakeMirror()

        await walked(facebook(talk), mirror)

        said = {one.comment_id: (one.is_hidden, one.is_own) for one in mirror.comments.values()}
        assert said == {
            "c_hidden": (True, False),
            "c_own": (False, True),
            "c_plain": (False, False),
        }

    async def test_an_incremental_run_stores_what_is_below_posts_that_were_written_to(self) -> None:
        fresh, old = post(1, 2, updated=NOW), post(2, 2, updated=NOW - 10_000)
        mirror = FakeMirror()

        progress = await walked(facebook(fresh, old), mirror, news())

        assert mirror.comments.keys() == {"c_1_0", "c_1_1"}
        assert progress.run.comments == 2

    async def test_an_incremental_run_looks_at_the_newest_posts_of_each_kind_alone(self) -> None:
        posts = [post(n, 1) for n in range(250)]
        graph, mirror = facebook(*posts, ads=tuple(post(f"a{n}") for n in range(150))), FakeMirror()

        await walked(graph, mirror, news())

        assert mirror.comments.keys() == {f"c_{n}_0" for n in range(NEWEST)}
        assert [each.edge for each in graph.lists()] == ["feed"] * 4 + ["ads_posts"] * 4

    async def test_of_many_comments_an_incremental_run_reads_back_to_what_is_known(self) -> None:
        busy = post(1, 1_000)
        late = [FakeComment(f"c_late_{n}", NOW + n) for n in range(130)]
        busy.comments += late
        graph, mirror = facebook(busy), FakeMirror()

        await walked(graph, mirror, news())

        assert {one.comment_id for one in late} <= mirror.comments.keys()
        assert len([each for each in graph.asked if each.edge == "comments"]) == 1


class TestOfAnInstagramAccount:
    async def test_comments_come_nested_in_media_with_their_replies(self) -> None:
        graph, mirror = instagram(*[post(n, 4, 3) for n in range(12)]), FakeMirror()

        progress = await walked(graph, mirror, platform=INSTAGRAM)

        assert mirror.comments.keys() == graph.truth()
        assert parents(mirror)["r_3_2_1"] == "c_3_2"
        assert [each.node for each in graph.asked] == [PAGE] * 3  # not the Page that it goes by
        assert progress.run.comments == 12 * (4 + 12)

    async def test_no_query_asks_for_more_than_fifty_comments(self) -> None:
        graph, mirror = instagram(post(1, 180), post(2, 51, 2)), FakeMirror()

        await walked(graph, mirror, platform=INSTAGRAM)

        assert mirror.comments.keys() == graph.truth()
        assert f"comments.limit({NESTED_ON_INSTAGRAM})" in graph.asked[0].params["fields"]
        tails = [each for each in graph.asked if each.edge == "comments"]
        assert {int(each.params["limit"]) for each in tails} == {NESTED_ON_INSTAGRAM}

    async def test_replies_that_did_not_come_nested_are_read_by_their_comment(self) -> None:
        graph, mirror = instagram(post(1, 2, 75), post(2, 60, 12)), FakeMirror()

        await walked(graph, mirror, platform=INSTAGRAM)

        assert mirror.comments.keys() == graph.truth()
        assert parents(mirror)["r_1_0_74"] == "c_1_0"
        assert parents(mirror)["r_2_0_11"] == "c_2_0"  # of a comment that a tail brought

    async def test_what_is_hidden_and_what_the_account_wrote_says_so(self) -> None:
        talk = post(1)
        talk.comments = [FakeComment("c_1", NOW - 60, [FakeComment("r_1", NOW - 50, own=True)])]
        talk.comments[0].hidden = True
        mirror = FakeMirror()

        await walked(instagram(talk), mirror, platform=INSTAGRAM)

        assert mirror.comments["c_1"].is_hidden
        assert not mirror.comments["c_1"].is_own
        assert mirror.comments["r_1"].is_own

    async def test_an_incremental_run_looks_at_the_newest_media_and_the_newest_comments(
        self,
    ) -> None:
        graph, mirror = instagram(post("new", 500), *[post(n, 1) for n in range(150)]), FakeMirror()
        graph.find("p_new").comments.append(FakeComment("c_now", NOW))

        await walked(graph, mirror, news(), INSTAGRAM)

        assert "c_now" in mirror.comments
        assert len(graph.lists()) == NEWEST // MEDIA
        assert len(graph.asked) == len(graph.lists())

    async def test_of_replies_that_come_newest_first_those_that_are_new_are_read(self) -> None:
        busy, quiet = post(1, 1, 300), post(2, 1, 300)
        late = [FakeComment(f"r_late_{n}", NOW + n) for n in range(30)]
        busy.comments[0].replies += late
        graph, mirror = instagram(busy, quiet), FakeMirror()
        graph.newest_reply_first = True

        await walked(graph, mirror, news(), INSTAGRAM)

        tails = [each.node for each in graph.asked if each.edge == "replies"]
        assert {one.comment_id for one in late} <= mirror.comments.keys()
        assert tails == ["c_1_0"]

    async def test_replies_that_come_in_another_order_are_read_to_the_last(self) -> None:
        busy = post(1, 1, 120)
        busy.comments[0].replies.append(FakeComment("r_late", NOW))
        graph, mirror = instagram(busy), FakeMirror()

        await walked(graph, mirror, news(), INSTAGRAM)

        assert "r_late" in mirror.comments

    async def test_a_full_run_reads_all_replies_in_whatever_order_they_come(self) -> None:
        graph, mirror = instagram(post(1, 2, 120)), FakeMirror()
        graph.newest_reply_first = True

        await walked(graph, mirror, platform=INSTAGRAM)

        assert mirror.comments.keys() == graph.truth()


class TestTrouble:
    @pytest.mark.parametrize("platform", [FACEBOOK, INSTAGRAM])
    async def test_a_post_that_cannot_be_read_is_marked_and_passed(
        self, platform: Platform.ValueType
    ) -> None:
        posts = [post(n, 3) for n in range(40)]
        posts[7].poison = True
        graph = instagram(*posts) if platform == INSTAGRAM else facebook(*posts)
        mirror = FakeMirror()

        progress = await walked(graph, mirror, platform=platform)

        assert mirror.comments.keys() == graph.truth()
        assert progress.run.unreadable == 1
        assert progress.unreadable["p_7"].reason == "graph_1"
        assert len(graph.asked) < 45

    async def test_while_it_has_not_changed_it_is_not_tried_again(self) -> None:
        bad = post(7, 3, poison=True)
        known = UnreadableThread(thread_id="p_7", reason="graph_1")
        known.update_time.seconds = int(bad.updated)
        graph = facebook(post(1, 1), bad, post(2, 1))

        progress = await walked(graph, FakeMirror(), news(unreadable=[known]))

        assert not [each for each in graph.asked if each.node == "p_7"]
        assert progress.run.unreadable == 1
        assert not progress.has_marks

    async def test_a_medium_whose_changes_nobody_tells_is_tried_again_by_full_runs_alone(
        self,
    ) -> None:
        known = UnreadableThread(thread_id="p_7", reason="graph_1")
        tried = []

        for of in (news(unreadable=[known]), claimed(unreadable=[known])):
            graph = instagram(post(1, 1), post(7, 3, poison=True))
            await walked(graph, FakeMirror(), of, INSTAGRAM)
            tried.append(any(each.node == "p_7" for each in graph.asked))

        assert tried == [False, True]

    async def test_once_it_can_be_read_again_its_mark_goes(self) -> None:
        known = UnreadableThread(thread_id="p_7", reason="graph_1")
        graph, mirror = facebook(post(7, 3)), FakeMirror()

        progress = await walked(graph, mirror, claimed(unreadable=[known]))

        assert progress.unreadable == {}
        assert [each.readable_again for each in progress.report().unreadable] == [True]

    async def test_a_tail_that_cannot_be_read_leaves_its_mark_whatever_else_could(self) -> None:
        talk = post(1, 60, cut_short=True)
        talk.comments[59].replies = [FakeComment(f"r_{n}", NOW + n) for n in range(30)]
        known = UnreadableThread(thread_id="p_1", reason="graph_1")
        graph, mirror = instagram(talk, post(2, 1)), FakeMirror()

        progress = await walked(graph, mirror, claimed(unreadable=[known]), INSTAGRAM)

        assert mirror.comments.keys() == graph.truth() - {f"c_1_{n}" for n in range(10)}
        assert list(progress.unreadable) == ["p_1"]
        assert progress.run.unreadable == 1

    async def test_trouble_that_passes_marks_nothing(self) -> None:
        graph, mirror = facebook(*[post(n, 2) for n in range(30)]), FakeMirror()
        graph.failing = dict.fromkeys(range(6), UNKNOWN)

        progress = await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()
        assert progress.run.unreadable == 0

    async def test_trouble_without_an_end_ends_the_run(self) -> None:
        graph = facebook(post(1, 1))
        graph.failing = dict.fromkeys(range(999), UNKNOWN)

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "graph_unavailable"

    async def test_a_dead_token_ends_the_run_at_once(self) -> None:
        graph = facebook(*[post(n, 1) for n in range(60)])
        graph.failing = dict.fromkeys(range(1, 99), TOKEN_DEAD)

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "token_dead"
        assert len(graph.asked) == 2

    async def test_a_page_whose_advertisements_may_not_be_read_goes_without_them(self) -> None:
        graph, mirror = facebook(post(1, 3), ads=(post("ad", 2),)), FakeMirror()
        graph.failing = {1: REFUSED}

        progress = await walked(graph, mirror)

        assert mirror.comments.keys() == {"c_1_0", "c_1_1", "c_1_2"}
        assert [each.edge for each in graph.asked] == ["feed", "ads_posts"]
        assert progress.run.unreadable == 0

    async def test_a_page_whose_feed_may_not_be_read_ends_the_run(self) -> None:
        graph = facebook(post(1, 3), ads=(post("ad", 2),))
        graph.failing = {0: REFUSED}

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "permission"

    async def test_what_is_too_much_is_halved_and_remembered(self) -> None:
        graph, mirror = facebook(*[post(n, 3) for n in range(30)]), FakeMirror()
        graph.weight = 600

        progress = await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()
        assert progress.sizes.learnt() == {"feed": 6, "ads_posts": 6}

    async def test_where_one_post_is_too_much_fewer_comments_come_with_it(self) -> None:
        graph, mirror = facebook(post(1, 230), post(2, 1)), FakeMirror()
        graph.weight = 30

        progress = await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()
        assert progress.sizes.learnt()["comments_nested"] == 25

    async def test_a_cursor_that_is_refused_leads_one_step_back(self) -> None:
        graph, mirror = facebook(*[post(n, 1) for n in range(60)]), FakeMirror()
        graph.failing = {2: INVALID_CURSOR}

        await walked(graph, mirror)

        assert mirror.comments.keys() == graph.truth()

    async def test_who_takes_a_run_over_goes_on_with_posts_and_tails(self) -> None:
        graph, mirror = facebook(*[post(n, 120) for n in range(40)]), FakeMirror()
        graph.failing = dict.fromkeys(range(5, 99), TOKEN_DEAD)
        dying = Progress.of(claimed())
        asking = Asking(graph, inbox.credentials(), dying.tally, no_pause)
        with pytest.raises(ExceptionGroup):
            await Comments(asking, Upserting(mirror, PAGE), dying).run()
        graph.failing = {}
        before = len(graph.asked)

        await walked(graph, mirror, claimed(checkpoint=dying.checkpoint))

        assert mirror.comments.keys() == graph.truth()
        taken = graph.asked[before:]
        assert not [each for each in taken if each.edge == "feed" and "after" not in each.params]
        assert len(taken) < 45
