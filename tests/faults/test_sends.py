"""Group D of the matrix, for sends: Graph fails, lies, is slow, refuses or is gone."""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import accumulate
from pathlib import Path

import pytest
import pytest_asyncio

from faults import sends
from faults.evidence import Evidence
from faults.history import GraphCall, OutboxRow
from faults.load import Stage, going_on, stage
from faults.rig import QUICK, Rig
from faults.rows.sends import (
    BLOCKED,
    THROTTLED,
    all_throttled,
    overused,
    throttled,
)
from pagewire_simulator.client import AccountView
from pagewire_simulator.limits import Allowance
from pagewire_simulator.meta import Echoes
from pagewire_sync.sender import IN_FLIGHT_OF_A_PAGE
from tests.support.striking import (
    SMALL,
    attempts,
    befall,
    broken,
    evidence_on,
    of_pages,
    replies,
    taken,
)
from tests.support.struck import REST

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

UNSETTLED = ("ready", "sending", "uncertain")
BEFORE_THE_SECOND_LOOK, AFTER_ALL_LOOKS = 2, 5
"""What seeds F52 so that reads lag so long."""
READS = ("conversations", "comment_replies")
ON_ITS_WAY = 2 * float(QUICK["GRAPH_TIMEOUT_SECONDS"])
"""Seconds after which no call comes that went out before."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-sends-") as folder:
        async with Rig(Path(folder), proxies=[("sync", "graph")], env=QUICK) as rig:
            yield rig


def not_taken_once(evidence: Evidence) -> list[OutboxRow]:
    return [reply for reply in evidence.rows.outbox if len(taken(evidence, reply)) != 1]


def looks(evidence: Evidence) -> list[GraphCall]:
    return [call for call in evidence.history.calls if call.endpoint in READS]


def is_struck(call: GraphCall, *names: str) -> bool:
    return call.endpoint in sends.CALLS_THAT_SEND and call.fault in names


async def test_f50_a_send_that_fails_and_was_not_taken_is_looked_for_and_sent_again(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F50", has_echoes=True)

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    assert sends.uncertain_ends(evidence)["resend"] >= 2


async def test_f51_a_send_that_fails_and_was_taken_is_told_back_and_sent_no_more(rig: Rig) -> None:
    evidence = await befall(rig, "F51", has_echoes=True)

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    ends = sends.uncertain_ends(evidence)
    assert ends["echo"] + ends["webhook"] + ends["readback"] >= 2
    assert ends["parked"] == 0


async def test_f51_a_send_that_was_taken_and_is_never_told_back_is_found_by_looking(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F51", draws=2, echo=Echoes(when="never"))

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    assert sends.uncertain_ends(evidence)["readback"] >= 1


async def test_f52_reads_that_lag_less_than_the_second_look_waits_make_no_duplicate(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F52", draws=BEFORE_THE_SECOND_LOOK)

    assert broken(evidence) == []
    assert sends.duplicates(evidence) == []
    assert sends.uncertain_ends(evidence)["readback"] >= 1


async def test_f52_what_no_look_can_find_is_sent_a_second_time_and_no_third_and_is_counted(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F52", draws=AFTER_ALL_LOOKS)

    assert broken(evidence) == []
    twice = sends.duplicates(evidence)
    assert twice
    assert {len(each.calls) for each in twice} == {2}
    assert {each.missing for each in twice} == {""}
    assert not_taken_once(evidence) == [each.reply for each in twice]


async def test_f53_what_never_left_is_sent_later_and_not_looked_for(rig: Rig) -> None:
    evidence = await befall(rig, "F53", head_start=0.3, is_definite=True)

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    assert looks(evidence) == []
    assert Counter(each.reason for each in evidence.rows.attempts)["connect_failed"] > 0


async def test_f54_an_answer_that_cannot_be_read_proves_nothing(rig: Rig) -> None:
    evidence = await befall(rig, "F54", draws=3, has_echoes=True)

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    assert sends.uncertain_ends(evidence)["parked"] == 0


async def test_f57_a_page_without_a_token_is_left_alone_and_goes_on_when_it_has_one(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F57")

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    struck = [call for call in evidence.history.calls if is_struck(call, *BLOCKED)]
    refused_at = min(call.ended_at or 0.0 for call in struck)
    assert len([call for call in struck if call.started_at > refused_at]) <= 3


async def test_f58_a_reply_that_graph_refuses_is_asked_for_once_and_the_next_one_goes(
    rig: Rig,
) -> None:
    evidence = await befall(rig, "F58", is_definite=True)

    assert broken(evidence) == []
    failed = replies(evidence, "failed")
    assert len(failed) >= 3
    assert {len(attempts(evidence, reply)) for reply in failed} == {1}
    assert len(replies(evidence, "sent")) + len(failed) == len(evidence.rows.outbox)


async def test_f59_a_page_whose_calls_hang_takes_no_room_of_another(rig: Rig) -> None:
    evidence = await befall(rig, "F59", has_echoes=True)

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    slow = [call for call in evidence.history.calls if is_struck(call, "slow")]
    (page,) = {call.page_id for call in slow}
    first = min(call.serial for call in slow)
    others = [call for call in evidence.history.accepted if call.page_id != page]
    assert most_at_once(slow) <= IN_FLIGHT_OF_A_PAGE
    assert max(call.serial for call in others) > first


@pytest.mark.parametrize(
    "draws",
    [2, 1, 7, 9, 5],
    ids=["before", "after_long", "never", "twice", "another_tag"],
)
async def test_f62_whenever_an_echo_comes_there_is_one_message_of_one_reply(
    rig: Rig, draws: int
) -> None:
    evidence = await befall(rig, "F62", draws=draws)

    assert broken(evidence) == []
    assert sends.duplicates(evidence) == []
    of_reply = {(row.page_id, row.mid): row.reply_id for row in evidence.rows.messages}
    sent = [row for row in replies(evidence, "sent") if row.kind == "message"]
    assert sent
    assert [row for row in sent if of_reply.get((row.page_id, row.mid or "")) != row.reply_id] == []


async def test_f87_a_name_that_cannot_be_resolved_is_nothing_sent(rig: Rig) -> None:
    evidence = await befall(rig, "F87")

    assert broken(evidence) == []
    assert not_taken_once(evidence) == []
    assert Counter(each.reason for each in evidence.rows.attempts)["connect_failed"] > 0


async def test_f56_a_page_that_called_too_often_stops_and_no_other_does(rig: Rig) -> None:
    on, page = await befalls_a_page(rig, throttled)

    evidence = await once_others_are_sent(rig, on)

    told = [call for call in evidence.history.calls if is_struck(call, "http_429", *THROTTLED)]
    assert {call.page_id for call in told} == {page.id}
    told_at = min(call.ended_at or 0.0 for call in told)
    calls = [call for call in evidence.history.calls if call.page_id == page.id]
    assert [call for call in calls if call.started_at > told_at + ON_ITS_WAY] == []
    assert replies(of_pages(evidence, frozenset({page.id})), "ready")
    goes_on_elsewhere(evidence, on, page)


async def test_f56_a_page_whose_usage_nears_its_limit_stops_before_it_is_refused(rig: Rig) -> None:
    on, page = await befalls_a_page(rig, overused)

    evidence = await once_others_are_sent(rig, on)

    await rig.meta.allow(page.id, Allowance())
    calls = [call for call in evidence.history.calls if call.page_id == page.id]
    assert [call for call in calls if call.code is not None] == []
    assert replies(of_pages(evidence, frozenset({page.id})), "ready")
    goes_on_elsewhere(evidence, on, page)


async def test_f56_code_4_stops_every_page_until_it_is_over(rig: Rig) -> None:
    """The last of this module, as sync starts anew."""
    on, page = await befalls_a_page(rig, all_throttled)

    await rig.quiet(REST)

    evidence = await evidence_on(rig, on, has_echoes=True)
    told = [call for call in evidence.history.calls if is_struck(call, "app_throttled")]
    assert {call.page_id for call in told} == {page.id}
    assert broken(evidence) == []
    assert not_taken_once(evidence) == []


async def befalls_a_page(
    rig: Rig, throttle: Callable[[Rig, random.Random], Awaitable[AccountView]]
) -> tuple[Stage, AccountView]:
    """The stage, and the page of it that was throttled before somebody wrote to each once more."""
    on = await stage(rig, SMALL)
    async with going_on(rig, on, SMALL):
        page = await throttle(rig, random.Random(1))
    for account, person in dict(on.people).items():
        await rig.meta.say(account, "price afterwards", person=person)
    return on, page


async def once_others_are_sent(rig: Rig, on: Stage) -> Evidence:
    """What is known when all is decided, and one page at most has replies that wait."""
    async with asyncio.timeout(REST):
        await rig.meta.wait(settled=True, timeout=REST)
        while True:
            evidence = await evidence_on(rig, on, has_echoes=True)
            waiting = {row.page_id for row in replies(evidence, *UNSETTLED)}
            is_decided = all(event.state != "pending" for event in evidence.rows.events)
            if is_decided and len(waiting) < 2:
                await rig.meta.wait(settled=True)  # the echoes of the last ones too
                return await evidence_on(rig, on, has_echoes=True)
            await asyncio.sleep(0.2)


def goes_on_elsewhere(evidence: Evidence, on: Stage, page: AccountView) -> None:
    others = of_pages(evidence, frozenset(account.id for account in on.pages) - {page.id})
    assert broken(others) == []
    assert replies(others, "sent")
    assert not_taken_once(others) == []


def most_at_once(calls: list[GraphCall]) -> int:
    """How many of them were under way at the same time."""
    moments = sorted(
        [(call.started_at, 1) for call in calls] + [(call.ended_at or 0.0, -1) for call in calls]
    )
    return max(accumulate(change for _, change in moments))
