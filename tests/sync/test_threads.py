import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagewire.store.v1.mirror_service_pb2 import MirroredConversation
from pagewire.store.v1.run_service_pb2 import ClaimedRun, UnreadableThread
from pagewire.type.v1.sync_run_pb2 import SyncMode
from pagewire_sync.asking import Asking, RunFailed
from pagewire_sync.mirroring import _first
from pagewire_sync.progress import Progress
from pagewire_sync.shapes import FIRST, NEWS
from pagewire_sync.threads import Threads
from pagewire_sync.upserting import Upserting
from tests.support.inbox import (
    NOW,
    PAGE,
    REDUCE,
    TOKEN_DEAD,
    UNKNOWN,
    FakeInbox,
    FakeMirror,
    FakeThread,
    claimed,
    credentials,
    inbox,
    nested_in,
)

INCREMENTAL = SyncMode.SYNC_MODE_INCREMENTAL


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def walked(graph: FakeInbox, mirror: FakeMirror, of: ClaimedRun | None = None) -> Progress:
    progress = Progress.of(of or claimed())
    asking = Asking(
        graph,
        credentials(),
        progress.tally,
        no_pause,
        lambda: datetime.fromtimestamp(graph.now, UTC),
    )
    try:
        await Threads(asking, Upserting(mirror, PAGE), progress).run()
    except ExceptionGroup as group:
        raise _first(group) from None
    return progress


def truth(graph: FakeInbox) -> set[str]:
    return {mid for thread in graph.threads if not thread.poison for mid, _, _ in thread.messages}


def written(thread: FakeThread, at: float, count: int = 1) -> None:
    for _ in range(count):
        thread.messages.append((f"m_new_{thread.thread_id}_{len(thread.messages)}", at, True))


class TestAFullRun:
    async def test_everything_of_a_page_that_fits_one_answer_costs_one_call(self) -> None:
        graph, mirror = inbox(*[3] * 40), FakeMirror()

        progress = await walked(graph, mirror)

        assert graph.calls == 1
        assert mirror.messages.keys() == truth(graph)
        assert (
            len(mirror.conversations) == progress.run.conversations == progress.run.expected == 40
        )
        assert progress.run.messages == progress.run.stored == 120

    async def test_a_list_is_walked_by_its_cursors_and_looked_at_once_more(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls == 3 + 1
        assert [each.params["limit"] for each in graph.lists()] == [
            *[str(FIRST.threads)] * 3,
            str(NEWS.threads),
        ]
        assert progress.run.conversations == 300

    async def test_what_did_not_come_nested_is_read_by_the_thread_itself(self) -> None:
        graph, mirror = inbox(1_400, *[5] * 10), FakeMirror()

        await walked(graph, mirror)

        tails = [each for each in graph.asked if each.edge == "messages"]
        assert mirror.messages.keys() == truth(graph)
        assert [each.node for each in tails] == ["t_0000"] * 3
        assert {each.params["limit"] for each in tails} == {"500"}

    async def test_many_middling_threads_are_listed_again_in_a_better_shape(self) -> None:
        graph, mirror = inbox(*[90] * 20), FakeMirror()

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls == 2
        assert "messages.limit(100)" in graph.lists()[1].params["fields"]

    async def test_short_threads_are_listed_many_at_a_time(self) -> None:
        graph, mirror = inbox(*[2] * 900), FakeMirror()

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls <= 1 + 2 + 1

    async def test_what_is_too_much_is_halved_and_remembered(self) -> None:
        graph, mirror = inbox(*[20] * 100, weight=700), FakeMirror()

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert progress.sizes.learnt()["conversations"] == 31
        assert graph.calls == 2 + 4 + 1

    async def test_a_page_that_takes_one_thread_a_call_is_read_all_the_same(self) -> None:
        graph, mirror = inbox(*[2] * 6), FakeMirror()
        graph.weight = 20

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)

    async def test_the_next_page_is_asked_for_before_the_last_is_stored(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()
        known: list[int] = []
        mirror.before = lambda number: known.append(graph.calls)

        await walked(graph, mirror)

        assert known == [2, 3, 4]  # and so is the look at the top


class TestAListThatMoves:
    async def test_a_thread_that_jumps_to_the_top_is_not_missed(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()
        graph.before = lambda number: written(graph.threads[299], NOW + 5) if number == 1 else None

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)

    async def test_a_long_thread_that_jumps_before_it_was_read_is_read_to_its_first_message(
        self,
    ) -> None:
        graph, mirror = inbox(*[20] * 299, 700), FakeMirror()
        graph.before = lambda number: written(graph.threads[299], NOW + 5) if number == 1 else None

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)

    async def test_where_the_item_under_the_cursor_jumps_one_step_back_leads_on(self) -> None:
        graph, mirror = inbox(*[20] * 500), FakeMirror()
        graph.before = lambda number: written(graph.threads[249], NOW + 5) if number == 2 else None

        await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls <= 4 + 1 + 2

    async def test_where_the_item_under_the_cursor_is_deleted_one_step_back_leads_on(self) -> None:
        graph, mirror = inbox(*[20] * 500), FakeMirror()

        def delete(number: int) -> None:
            if number == 2:
                graph.threads.pop(249)

        graph.before = delete

        await walked(graph, mirror)

        assert truth(graph) <= mirror.messages.keys()
        assert graph.calls <= 4 + 1 + 2

    async def test_a_list_that_leads_in_a_circle_ends_the_run_within_three_more_calls(self) -> None:
        graph = inbox(*[20] * 300, circles=True)

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "cursor_loop"
        assert graph.calls <= 4

    @settings(max_examples=60, deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
        weight=st.sampled_from([100, 300, 2_500]),
        writes=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 59)), max_size=12),
    )
    async def test_whatever_is_written_meanwhile_the_end_is_the_truth(
        self, lengths: list[int], weight: int, writes: list[tuple[int, int]]
    ) -> None:
        graph, mirror = inbox(*lengths, weight=weight), FakeMirror()

        def meanwhile(number: int) -> None:
            graph.now += 1
            for at, which in writes:
                if at == number:
                    written(graph.threads[which % len(lengths)], graph.now)

        graph.before = meanwhile

        progress = await walked(graph, mirror)
        graph.before = lambda number: None
        later = claimed(mode=INCREMENTAL, synced=NOW - 60)
        await walked(graph, mirror, later)

        assert mirror.messages.keys() == truth(graph)
        assert progress.run.conversations == len(lengths)


class TestNews:
    async def test_where_nothing_is_new_one_call_that_goes_with_those_of_others_is_enough(
        self,
    ) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()

        progress = await walked(graph, mirror, claimed(mode=INCREMENTAL, synced=NOW))

        assert graph.calls == 1
        assert graph.asked[0].batched
        assert mirror.requests == []
        assert progress.run.stored == 0

    async def test_of_a_known_thread_only_what_is_newer_is_read(self) -> None:
        graph, mirror = inbox(400, *[20] * 60), FakeMirror()
        await walked(graph, mirror)
        before = graph.calls
        written(graph.threads[0], NOW + 600, 3)

        await walked(graph, mirror, claimed(mode=INCREMENTAL, synced=NOW))

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls == before + 1

    async def test_more_news_of_a_thread_than_come_nested_are_read_back_to_what_is_known(
        self,
    ) -> None:
        graph, mirror = inbox(900, *[20] * 60), FakeMirror()
        await walked(graph, mirror)
        before = graph.calls
        written(graph.threads[0], NOW + 600, 40)

        await walked(graph, mirror, claimed(mode=INCREMENTAL, synced=NOW))

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls == before + 2

    async def test_a_thread_that_is_new_here_is_read_to_its_first_message(self) -> None:
        graph, mirror = inbox(*[20] * 60), FakeMirror()
        graph.threads[7].messages = [(f"m_old_{n}", NOW - 10**6 + n, True) for n in range(100)] + [
            ("m_now", NOW + 60, True)
        ]

        await walked(graph, mirror, claimed(mode=INCREMENTAL, synced=NOW))

        assert {mid for mid, _, _ in graph.threads[7].messages} <= mirror.messages.keys()

    async def test_after_a_long_time_the_list_is_read_in_large_steps(self) -> None:
        graph, mirror = inbox(*[2] * 200), FakeMirror()

        await walked(graph, mirror, claimed(mode=INCREMENTAL, synced=NOW - 10**6))

        assert mirror.messages.keys() == truth(graph)
        assert graph.calls == 1 + 2 + 1


class TestTrouble:
    async def test_a_thread_that_cannot_be_read_is_marked_and_passed(self) -> None:
        graph, mirror = inbox(*[5] * 200), FakeMirror()
        graph.threads[60].poison = True

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert progress.run.unreadable == 1
        assert list(progress.unreadable) == ["t_0060"]
        assert progress.unreadable["t_0060"].reason == "graph_1"
        assert graph.calls < 60

    async def test_one_behind_the_first_page_costs_no_more_than_its_page(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()
        graph.threads[200].poison = True

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert progress.run.unreadable == 1
        assert graph.calls < 3 + 1 + 125 + 10

    @pytest.mark.parametrize(
        ("poison", "jumps", "at", "around"),
        # A piece of the first page that fails is read singly; of another page all is, since a
        # cursor is good for its own page size.
        [(60, 100, 4, 2 + 13 + 1 + 11 + 2 + 1), (200, 240, 3, 3 + 125 + 2)],
    )
    async def test_one_that_jumps_while_others_are_read_around_is_not_looked_for_to_the_end(
        self, poison: int, jumps: int, at: int, around: int
    ) -> None:
        graph, mirror = inbox(*[20] * 600), FakeMirror()
        graph.threads[poison].poison = True
        graph.before = lambda number: (
            written(graph.threads[jumps], NOW + 5) if number == at else None
        )

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert list(progress.unreadable) == [graph.threads[poison].thread_id]
        assert graph.calls <= 5 + 1 + around

    async def test_while_it_has_not_changed_it_is_not_tried_again(self) -> None:
        graph, mirror = inbox(*[5] * 60), FakeMirror()
        bad = graph.threads[3]
        bad.poison = True
        known = UnreadableThread(thread_id=bad.thread_id, reason="graph_1")
        known.update_time.seconds = int(bad.updated)

        progress = await walked(
            graph, mirror, claimed(mode=INCREMENTAL, synced=NOW, unreadable=[known])
        )

        assert graph.calls == 1
        assert graph.asked[0].batched
        assert progress.run.unreadable == 0

    @pytest.mark.parametrize("jumps", [False, True])
    async def test_where_it_is_none_of_the_news_they_are_listed_at_once(self, jumps: bool) -> None:
        graph, mirror = inbox(*[5] * 60), FakeMirror()
        bad = graph.threads[3]
        known = UnreadableThread(thread_id=bad.thread_id, reason="graph_1")
        known.update_time.seconds = int(bad.updated)
        await walked(graph, mirror)
        before, bad.poison = graph.calls, True
        for at in (1, 8, 20, 40):
            written(graph.threads[at], NOW + at, 2)
        graph.before = lambda number: (
            written(graph.threads[5], NOW + 90) if jumps and number == before + 1 else None
        )

        progress = await walked(
            graph, mirror, claimed(mode=INCREMENTAL, synced=NOW, unreadable=[known])
        )

        assert mirror.messages.keys() >= truth(graph)
        asked = [each.edge or each.node for each in graph.asked[before:]]
        assert asked == ["conversations"] * 2 + ["t_0001"] * jumps
        assert list(progress.unreadable) == [bad.thread_id]
        assert progress.run.unreadable == 0

    async def test_one_that_was_written_to_lately_keeps_its_mark_while_it_is_not_read(self) -> None:
        graph, mirror = inbox(*[5] * 60), FakeMirror()
        bad = graph.threads[0]
        bad.poison = True
        known = UnreadableThread(thread_id=bad.thread_id, reason="graph_1")
        known.update_time.seconds = int(bad.updated)

        progress = await walked(
            graph, mirror, claimed(mode=INCREMENTAL, synced=bad.updated + 60, unreadable=[known])
        )

        assert graph.calls == 1
        assert list(progress.unreadable) == [bad.thread_id]
        assert not progress.has_marks
        assert progress.run.unreadable == 1

    async def test_one_in_which_graph_names_nobody_keeps_its_mark(self) -> None:
        graph, mirror = inbox(*[5] * 6), FakeMirror()
        graph.threads[3] = FakeThread("t_0003", [("m_sent", NOW - 3_000, False)], alone=True)
        known = UnreadableThread(thread_id="t_0003", reason="graph_1")

        progress = await walked(graph, mirror, claimed(unreadable=[known]))

        assert "m_sent" not in mirror.messages
        assert list(progress.unreadable) == ["t_0003"]
        assert not progress.has_marks

    async def test_a_full_run_tries_it_again(self) -> None:
        graph, mirror = inbox(*[5] * 60), FakeMirror()
        bad = graph.threads[3]
        bad.poison = True
        known = UnreadableThread(thread_id=bad.thread_id, reason="graph_1")
        known.update_time.seconds = int(bad.updated)

        progress = await walked(graph, mirror, claimed(unreadable=[known]))

        assert [each for each in graph.asked if each.node == bad.thread_id]
        assert progress.run.unreadable == 1

    async def test_what_was_expected_stands_until_the_walk_knows_better(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()
        of, told = claimed(), []
        of.run.expected = 290
        progress = Progress.of(of)
        mirror.before = lambda number: told.append(progress.run.expected)
        asking = Asking(graph, credentials(), progress.tally, no_pause)

        await Threads(asking, Upserting(mirror, PAGE), progress).run()

        assert told[0] == 290
        assert progress.run.expected == 300

    async def test_once_it_can_be_read_again_its_mark_goes(self) -> None:
        graph, mirror = inbox(*[5] * 60), FakeMirror()
        known = UnreadableThread(thread_id="t_0003", reason="graph_1")

        progress = await walked(graph, mirror, claimed(unreadable=[known]))

        assert progress.unreadable == {}
        assert [each.readable_again for each in progress.report().unreadable] == [True]

    async def test_once_it_can_be_read_again_it_is_read_from_its_first_message(self) -> None:
        graph, mirror = inbox(60, *[5] * 3), FakeMirror()
        webhooks = graph.threads[0]
        written(webhooks, NOW)
        mirror.conversations[webhooks.person] = MirroredConversation()  # by a webhook since
        known = UnreadableThread(thread_id=webhooks.thread_id, reason="graph_1")
        known.update_time.seconds = int(NOW) - 60

        progress = await walked(
            graph, mirror, claimed(mode=INCREMENTAL, synced=NOW, unreadable=[known])
        )

        assert {mid for mid, _, _ in webhooks.messages} <= mirror.messages.keys()
        assert progress.unreadable == {}

    @pytest.mark.parametrize(
        ("weight", "sizes", "asked", "marked"),
        [
            (25, {}, [25], []),
            (20, {"conversations": 1}, [20], []),
            (8, {"conversations": 1}, [20, 10, 5], []),
            (0, {}, [25, 12, 6, 3, 1], ["t_0000"]),
        ],
    )
    async def test_one_that_is_too_much_by_itself_is_asked_for_in_halves_before_it_is_marked(
        self, weight: int, sizes: dict[str, int], asked: list[int], marked: list[str]
    ) -> None:
        graph, mirror = inbox(*[5] * 60, weight=weight), FakeMirror()
        again = graph.threads[0]
        known = UnreadableThread(thread_id=again.thread_id, reason="graph_1")
        known.update_time.seconds = int(again.updated)
        written(again, NOW)

        progress = await walked(
            graph,
            mirror,
            claimed(mode=INCREMENTAL, synced=NOW, unreadable=[known], page_sizes=sizes),
        )

        nodes = [each for each in graph.asked if each.node == again.thread_id and not each.edge]
        assert [nested_in(each.params["fields"]) for each in nodes] == asked
        assert list(progress.unreadable) == marked
        assert progress.run.unreadable == len(marked)
        assert ("m_new_t_0000_5" in mirror.messages) == (not marked)

    async def test_a_thread_whose_messages_make_no_sense_is_marked_too(self) -> None:
        graph, mirror = inbox(*[5] * 3), FakeMirror()
        graph.malformed = "t_0001"

        progress = await walked(graph, mirror)

        assert [each.thread_id for each in progress.report().unreadable] == ["t_0001"]
        assert progress.run.unreadable == 1
        assert len(mirror.messages) == 10

    async def test_a_tail_that_cannot_be_read_is_marked_and_the_others_are_read(self) -> None:
        graph, mirror = inbox(600, 600, *[2] * 10), FakeMirror()
        whole = truth(graph)

        def spoil(number: int) -> None:
            graph.threads[1].poison = number >= 1

        graph.before = spoil

        progress = await walked(graph, mirror)

        assert {f"m_0_{n}" for n in range(1, 601)} <= mirror.messages.keys() < whole
        assert list(progress.unreadable) == ["t_0001"]

    async def test_a_dead_token_ends_the_run_at_once(self) -> None:
        graph = inbox(*[20] * 300)
        graph.failing = dict.fromkeys(range(1, 99), TOKEN_DEAD)

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "token_dead"
        assert graph.calls == 2

    async def test_minutes_of_trouble_are_borne(self) -> None:
        graph, mirror = inbox(*[20] * 300), FakeMirror()
        graph.failing = dict.fromkeys(range(1, 8), UNKNOWN)

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert progress.run.unreadable == 0

    async def test_trouble_without_an_end_ends_the_run(self) -> None:
        graph = inbox(*[20] * 300)
        graph.failing = dict.fromkeys(range(1, 999), UNKNOWN)

        with pytest.raises(RunFailed) as failed:
            await walked(graph, FakeMirror())

        assert failed.value.reason == "graph_unavailable"

    async def test_a_tail_that_is_too_much_is_asked_for_in_halves(self) -> None:
        graph, mirror = inbox(1_200, 2, 2), FakeMirror()
        graph.failing = {1: REDUCE}

        progress = await walked(graph, mirror)

        assert mirror.messages.keys() == truth(graph)
        assert progress.sizes.learnt()["messages"] == 250


class TestTakingOver:
    @pytest.mark.parametrize("dies_at", range(1, 7))
    async def test_another_worker_goes_on_without_storing_again(self, dies_at: int) -> None:
        graph, mirror = inbox(1_300, *[20] * 300), FakeMirror()
        dying = Progress.of(claimed())

        class Died(Exception):
            pass

        def die(number: int) -> None:
            if number == dies_at:
                raise Died

        graph.before = die
        asking = Asking(graph, credentials(), dying.tally, no_pause)
        with pytest.raises(ExceptionGroup):
            await Threads(asking, Upserting(mirror, PAGE), dying).run()
        calls, graph.before = graph.calls, lambda number: None
        mirror.repeated = 0

        await walked(graph, mirror, claimed(checkpoint=dying.checkpoint))

        assert mirror.messages.keys() == truth(graph)
        assert calls + graph.calls - calls <= 3 + 3 + 1 + 1 + 4
        assert mirror.repeated <= FIRST.weight + 500 + NEWS.weight

    async def test_a_checkpoint_that_cannot_be_read_means_the_beginning(self) -> None:
        graph, mirror = inbox(*[20] * 200), FakeMirror()

        await walked(graph, mirror, claimed(checkpoint=b"\x00 of another version"))

        assert mirror.messages.keys() == truth(graph)
