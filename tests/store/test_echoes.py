from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_REFUSED,
    VERDICT_UNCERTAIN,
    ClaimedReply,
)
from pagewire.type.v1.event_pb2 import ID_SPACE_MESSAGING
from pagewire.type.v1.reply_pb2 import ReplyContent
from pagewire.type.v1.rule_pb2 import Action
from pagewire_runtime import metrics
from pagewire_store.settling import META_INBOX_APP_ID
from pagewire_store.transitions import State
from tests.support.desk import (
    PAUSE,
    Desk,
    candidate,
    comment,
    desk,
    echo,
    matched,
    message,
    own_comment,
    says,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

OUR_APP = "77"
PRIVATE = candidate(Action(private_reply=ReplyContent(text="10 euro")))


@pytest.fixture
async def instagram(desk: Desk) -> Desk:
    """The page is an account of Instagram."""
    await desk.rows.query("update page set platform = 'instagram'")
    return desk


async def outbound(desk: Desk) -> list[tuple[str, bool]]:
    """Messages that the page wrote, each with whether a reply of ours made it."""
    stored = await desk.rows.query(
        "select mid, reply_id from message where direction = 'outbound' order by mid"
    )
    return [(row.mid, row.reply_id is not None) for row in stored]


async def state(desk: Desk, reply: ClaimedReply) -> tuple[str, str | None]:
    row = await desk.reply(reply.reply_id)
    return row.state, row.settled_by


async def test_an_echo_before_the_response_settles_the_reply_and_both_are_one_row(
    desk: Desk,
) -> None:
    reply = await desk.answer(message())

    await desk.receive(echo("m_ours", tag=reply.tag, app_id=OUR_APP))
    early = await state(desk, reply)
    late = await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert early == ("sent", "echo")
    assert late == "sent"
    assert await outbound(desk) == [("m_ours", True)]
    assert await desk.paused_for() <= timedelta()


async def test_how_it_is_known_that_a_reply_was_sent_is_counted(desk: Desk) -> None:
    by_answer, by_echo, by_look = known_by("response"), known_by("echo"), known_by("readback")
    first = await desk.answer(message("m_1"))
    await desk.record(first.tag, VERDICT_ACCEPTED, mid="m_first")
    second = await desk.answer(message("m_2"))
    await desk.receive(echo("m_second", tag=second.tag, app_id=OUR_APP))
    third = await desk.answer(message("m_3"))
    await desk.record(third.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()

    await desk.found(third.tag, found_mid="m_third")

    after = [known_by("response"), known_by("echo"), known_by("readback")]
    assert after == [by_answer + 1, by_echo + 1, by_look + 1]


def known_by(via: str) -> float:
    labels = {"state": "sent", "signal": "accepted", "via": via}
    return metrics.registry.get_sample_value("pagewire_replies_total", labels) or 0.0


async def in_doubt(desk: Desk, number: int) -> ClaimedReply:
    """A reply, in a lane of its own, whose sender does not know how its attempt ended."""
    reply = await desk.answer(
        message(f"m_{number}", person=f"20{number}", lane=f"person:20{number}")
    )
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    return reply


def doubts_ended() -> Counter[str]:
    """How many of all, by how."""
    return Counter(
        {
            sample.labels["end"]: int(sample.value)
            for metric in metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "pagewire_uncertain_ends_total"
        }
    )


async def test_how_a_doubt_ended_is_counted_and_no_end_of_what_was_never_in_doubt(
    desk: Desk,
) -> None:
    before = doubts_ended()
    known = await desk.answer(message("m_1"))
    await desk.receive(echo("m_known", tag=known.tag, app_id=OUR_APP))
    told = await in_doubt(desk, 2)
    await desk.receive(echo("m_told", tag=told.tag, person="202", app_id=OUR_APP))
    found = await in_doubt(desk, 3)
    await desk.pass_time(21)
    await desk.look()
    await desk.found(found.tag, found_mid="m_found")
    taken, refused = await in_doubt(desk, 4), await in_doubt(desk, 5)
    await desk.record(taken.tag, VERDICT_ACCEPTED, mid="m_taken")
    await desk.record(refused.tag, VERDICT_REFUSED, reason="refused")
    nowhere = await in_doubt(desk, 6)
    for _ in range(2):
        await desk.pass_time(60)
        await desk.look()
        await desk.found(nowhere.tag, clean=True)
    await in_doubt(desk, 7)
    await desk.pass_time(601)

    await desk.sweep()

    ends = {"echo": 1, "readback": 1, "late_answer": 2, "resend": 1, "parked": 1}
    assert doubts_ended() - before == ends


async def test_an_echo_after_the_response_is_the_same_row(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    await desk.receive(echo("m_ours", tag=reply.tag, app_id=OUR_APP))

    assert await state(desk, reply) == ("sent", "response")
    assert await outbound(desk) == [("m_ours", True)]


async def test_an_echo_that_comes_twice_is_one_row(desk: Desk) -> None:
    reply = await desk.answer(message())

    for _ in range(2):
        await desk.receive(echo("m_ours", tag=reply.tag, app_id=OUR_APP))

    assert await outbound(desk) == [("m_ours", True)]


async def test_an_echo_with_our_tag_is_ours_whatever_app_it_names(desk: Desk) -> None:
    reply = await desk.answer(message())

    await desk.receive(echo("m_ours", tag=reply.tag, app_id=META_INBOX_APP_ID))

    assert await state(desk, reply) == ("sent", "echo")
    assert await desk.paused_for() <= timedelta()


async def test_an_untagged_echo_after_the_response_is_bound_by_its_mid(instagram: Desk) -> None:
    reply = await instagram.answer(message())
    await instagram.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    await instagram.receive(echo("m_ours"))

    assert await outbound(instagram) == [("m_ours", True)]
    assert await instagram.paused_for() <= timedelta()


@pytest.mark.parametrize("before", State)
async def test_an_echo_with_our_tag_turns_every_state_into_sent(desk: Desk, before: State) -> None:
    reply = await desk.answer(message())
    await desk.rows.query("update outbox set state = :state", state=before.value)

    await desk.receive(echo("m_ours", tag=reply.tag, app_id=OUR_APP))

    assert (await state(desk, reply))[0] == "sent"


async def test_an_echo_frees_the_lane_for_the_next_reply(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(candidate(says("one"))), matched(candidate(says("two"))))
    (first,) = await desk.claim_replies()
    await desk.record(first.tag, VERDICT_UNCERTAIN, reason="timeout")

    await desk.receive(echo("m_ours", tag=first.tag, app_id=OUR_APP))

    (second,) = await desk.claim_replies()
    assert (await state(desk, first)) == ("sent", "echo")
    assert second.content.text == "two"


async def test_the_tag_of_another_page_binds_nothing_and_is_nobody_elses_word(
    instagram: Desk,
) -> None:
    reply = await instagram.answer(message())
    await instagram.rows.add_page("1002", platform="instagram")

    await instagram.receive(echo("m_x", tag=reply.tag, page_id="1002"))

    stored = await instagram.rows.one("select reply_id from message where mid = 'm_x'")
    assert await state(instagram, reply) == ("sending", None)
    assert stored.reply_id is None
    paused = "select 1 from conversation where automation_paused_until is not null"
    assert await instagram.rows.query(paused) == []


async def test_a_tag_that_nobody_knows_binds_nothing_and_pauses_nothing(instagram: Desk) -> None:
    await instagram.receive(message(), echo("m_x", tag="pw1.forgotten"))

    assert await outbound(instagram) == [("m_x", False)]
    assert await instagram.paused_for() <= timedelta()


async def test_what_a_person_typed_in_metas_inbox_is_a_row_and_pauses_from_its_own_time(
    desk: Desk,
) -> None:
    await desk.receive(message(), echo("m_x", app_id=META_INBOX_APP_ID, seconds=600))

    left = await desk.paused_for()
    assert await outbound(desk) == [("m_x", False)]
    assert PAUSE - timedelta(seconds=660) < left <= PAUSE - timedelta(seconds=600)


async def test_an_old_echo_does_not_shorten_a_pause(desk: Desk) -> None:
    await desk.receive(message(), echo("m_x", app_id=META_INBOX_APP_ID))

    await desk.receive(echo("m_y", app_id=META_INBOX_APP_ID, seconds=1800))

    assert await desk.paused_for() > timedelta(minutes=59)


async def test_another_apps_echo_is_a_row_and_pauses_nothing(desk: Desk) -> None:
    await desk.receive(message(), echo("m_x", app_id="88"))

    assert await outbound(desk) == [("m_x", False)]
    assert await desk.paused_for() <= timedelta()


async def test_a_nameless_echo_pauses_on_instagram_alone(desk: Desk) -> None:
    await desk.rows.add_page("1002", platform="instagram")

    await desk.receive(echo("m_x"), echo("m_y", page_id="1002"))

    paused = await desk.rows.query(
        "select page_id from conversation where automation_paused_until > now()"
    )
    assert [row.page_id for row in paused] == ["1002"]


async def in_flight(desk: Desk, as_: str) -> ClaimedReply:
    reply = await desk.answer(message())
    if as_ == "uncertain":
        await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    return reply


@pytest.mark.parametrize("as_", ["sending", "uncertain"])
async def test_a_nameless_echo_waits_while_a_reply_is_in_flight(instagram: Desk, as_: str) -> None:
    reply = await in_flight(instagram, as_)

    await instagram.receive(echo("m_x"))

    assert await outbound(instagram) == [("m_x", False)]
    assert await instagram.paused_for() <= timedelta()
    assert (await state(instagram, reply))[0] == as_


@pytest.mark.parametrize("as_", ["sending", "uncertain"])
async def test_a_nameless_echo_that_waited_is_bound_when_its_reply_is_accepted(
    instagram: Desk, as_: str
) -> None:
    reply = await in_flight(instagram, as_)
    await instagram.receive(echo("m_ours"))

    await instagram.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert await outbound(instagram) == [("m_ours", True)]
    assert await instagram.paused_for() <= timedelta()


@pytest.mark.parametrize("as_", ["sending", "uncertain"])
@pytest.mark.parametrize(
    "end",
    [
        {"verdict": VERDICT_ACCEPTED, "mid": "m_ours"},
        {"verdict": VERDICT_REFUSED, "reason": "graph_551"},
    ],
)
async def test_a_nameless_echo_that_waited_for_a_reply_that_it_is_not_of_is_a_persons(
    instagram: Desk, as_: str, end: dict[str, Any]
) -> None:
    reply = await in_flight(instagram, as_)
    await instagram.receive(echo("m_x", seconds=60))

    await instagram.record(reply.tag, **end)

    left = await instagram.paused_for()
    assert PAUSE - timedelta(seconds=90) < left <= PAUSE - timedelta(seconds=60)


async def test_a_nameless_echo_that_a_look_finds_is_ours(instagram: Desk) -> None:
    reply = await in_flight(instagram, "uncertain")
    await instagram.receive(echo("m_ours"))
    await instagram.pass_time(21)
    await instagram.look()

    await instagram.found(reply.tag, found_mid="m_ours")

    assert await outbound(instagram) == [("m_ours", True)]
    assert await instagram.paused_for() <= timedelta()


async def test_a_nameless_echo_that_waited_ten_minutes_is_a_persons(instagram: Desk) -> None:
    await in_flight(instagram, "uncertain")
    await instagram.receive(echo("m_x"))
    await instagram.pass_time(601)

    await instagram.sweep()

    assert await instagram.paused_for() > timedelta(minutes=59)


async def test_a_nameless_echo_of_one_person_does_not_wait_for_anothers_reply(
    instagram: Desk,
) -> None:
    await instagram.answer(message())
    await instagram.receive(echo("m_x", person="2002"))

    assert await instagram.paused_for("2002") > timedelta(minutes=59)


async def test_what_the_inbox_names_itself_does_not_wait(instagram: Desk) -> None:
    await instagram.answer(message())

    await instagram.receive(echo("m_x", app_id=META_INBOX_APP_ID))

    assert await instagram.paused_for() > timedelta(minutes=59)


async def test_a_private_replys_echo_names_the_person_whom_the_reply_did_not_know(
    desk: Desk,
) -> None:
    reply = await desk.answer(comment(), PRIVATE)
    assert (await desk.reply(reply.reply_id)).person_id is None

    await desk.receive(echo("m_ours", tag=reply.tag, person="4001", app_id=OUR_APP))

    row = await desk.reply(reply.reply_id)
    sent = await desk.rows.one("select participant_id, reply_id from message")
    answered = await desk.rows.one("select answered_at from comment")
    assert (row.state, row.person_id) == ("sent", "4001")
    assert tuple(sent) == ("4001", row.reply_id)
    assert answered.answered_at is not None


async def test_a_private_reply_on_instagram_makes_the_commenters_nameless_echo_wait(
    instagram: Desk,
) -> None:
    reply = await instagram.answer(comment(id_space=ID_SPACE_MESSAGING), PRIVATE)

    await instagram.receive(echo("m_ours", person="3001"))
    waiting = await instagram.paused_for("3001")
    await instagram.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours", recipient_id="3001")

    assert waiting <= timedelta()
    assert await outbound(instagram) == [("m_ours", True)]
    assert await instagram.paused_for("3001") <= timedelta()


@pytest.mark.parametrize(
    ("ends", "paused"),
    [
        ({"verdict": VERDICT_REFUSED, "reason": "graph_100"}, True),
        ({"verdict": VERDICT_ACCEPTED, "mid": "m_ours", "recipient_id": "78"}, True),
        ({"verdict": VERDICT_ACCEPTED, "mid": "m_x", "recipient_id": "77"}, False),
    ],
    ids=["refused", "accepted_to_another", "accepted_to_them"],
)
async def test_a_nameless_echo_that_waited_for_a_private_reply_to_nobody_known_is_looked_at_again(
    instagram: Desk, ends: dict[str, Any], paused: bool
) -> None:
    reply = await instagram.answer(comment(person_id="", id_space=0), PRIVATE)
    await instagram.receive(message("m_5", person="77"))
    await instagram.receive(echo("m_x", person="77"))
    waiting = await instagram.paused_for("77")

    await instagram.record(reply.tag, **ends)

    assert waiting <= timedelta()
    assert (await instagram.paused_for("77") > timedelta(minutes=59)) is paused


@pytest.mark.parametrize("as_", ["sending", "uncertain"])
async def test_an_own_comment_with_the_same_text_is_the_reply_in_flight(
    desk: Desk, as_: str
) -> None:
    reply = await desk.answer(comment(), candidate(says("10  euro")))
    if as_ == "uncertain":
        await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")

    await desk.receive(own_comment("c_ours", "c_1", "10 euro"))

    row = await desk.reply(reply.reply_id)
    own = await desk.rows.one("select reply_id from comment where comment_id = 'c_ours'")
    assert (row.state, row.settled_by, row.mid) == ("sent", "webhook", "c_ours")
    assert own.reply_id == row.reply_id


@pytest.mark.parametrize(
    "other",
    [
        own_comment("c_x", "c_1", "something else"),
        own_comment("c_x", "c_9", "10 euro"),
        own_comment("c_x", "c_1", "10 euro", seconds=60),
    ],
)
async def test_an_own_comment_of_other_text_thread_or_time_is_not_the_reply(
    desk: Desk, other: Any
) -> None:
    reply = await desk.answer(comment())

    await desk.receive(other)

    own = await desk.rows.one("select reply_id from comment where comment_id = 'c_x'")
    assert await state(desk, reply) == ("sending", None)
    assert own.reply_id is None


async def test_of_two_own_comments_alike_only_one_is_the_reply(desk: Desk) -> None:
    await desk.answer(comment())

    await desk.receive(own_comment("c_a", "c_1", "10 euro"), own_comment("c_b", "c_1", "10 euro"))

    bound = await desk.rows.query("select 1 from comment where reply_id is not null")
    assert len(bound) == 1


async def test_an_own_comment_after_the_response_is_bound_by_its_id(desk: Desk) -> None:
    reply = await desk.answer(comment())
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="c_ours")
    await desk.rows.query("delete from comment where comment_id = 'c_ours'")

    await desk.receive(own_comment("c_ours", "c_1", "10 euro"))

    own = await desk.rows.one("select reply_id from comment where comment_id = 'c_ours'")
    assert own.reply_id == (await desk.reply(reply.reply_id)).reply_id
