import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from pagewire.store.v1.outbox_service_pb2 import (
    VERDICT_ACCEPTED,
    VERDICT_EXPIRED,
    VERDICT_PAGE_BLOCKED,
    VERDICT_REFUSED,
    VERDICT_RETRY,
    VERDICT_UNCERTAIN,
    AttemptOutcome,
    ClaimReadBacksRequest,
    ClaimRepliesRequest,
    EnqueueReplyRequest,
    GetLastHidingRequest,
    GetReplyRequest,
    ReadBackResult,
    RecordOutcomesRequest,
    RecordReadBacksRequest,
)
from pagewire.store.v1.outbox_service_pb2_grpc import (
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from pagewire.type.v1.page_pb2 import PLATFORM_MESSENGER
from pagewire.type.v1.reply_pb2 import (
    MEDIA_TYPE_IMAGE,
    REPLY_KIND_COMMENT_REPLY,
    REPLY_KIND_HIDE_COMMENT,
    REPLY_KIND_MESSAGE,
    REPLY_KIND_PRIVATE_REPLY,
    REPLY_ORIGIN_PERSON,
    REPLY_ORIGIN_RULE,
    REPLY_STATE_READY,
    REPLY_STATE_SENT,
    REPLY_STATE_UNSPECIFIED,
    TAG_HUMAN_AGENT,
    Media,
    ReplyContent,
)
from pagewire.type.v1.rule_pb2 import Action, HideAction, LabelAction
from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.errors import InvalidArgument, Kind, Refusal
from pagewire_store import ids, outbox, pages
from pagewire_store.database import in_transaction
from pagewire_store.enqueuing import ClientKeyReused, CommentUnknown, PageDisconnected
from pagewire_store.outbox_servicer import OutboxServicer
from pagewire_store.pages import PageUnknown
from pagewire_store.parked import retry_reply
from pagewire_store.reads import ConversationUnknown
from pagewire_store.waking import Waking
from tests.support.desk import (
    LEASE,
    PAGE,
    PAUSE,
    PERSON,
    Desk,
    ago,
    candidate,
    comment,
    decided,
    desk,
    matched,
    message,
    says,
)
from tests.support.servers import migrated_template, module_database_url, postgres_server
from tests.support.stored import channel_to

if TYPE_CHECKING:
    from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceAsyncStub

__all__ = ["desk", "migrated_template", "module_database_url", "postgres_server"]

HELLO = ReplyContent(text="hello from a person")


def typed(client_key: str = "k1", person: str = PERSON, **fields: Any) -> EnqueueReplyRequest:
    """A person's message."""
    values: dict[str, Any] = {
        "kind": REPLY_KIND_MESSAGE,
        "conversation_id": ids.conversation_id(PAGE, person),
        "content": HELLO,
    }
    return EnqueueReplyRequest(client_key=client_key, **(values | fields))


def below(comment_id: str = "c_1", client_key: str = "k1", **fields: Any) -> EnqueueReplyRequest:
    """A person's comment below a comment."""
    values: dict[str, Any] = {"kind": REPLY_KIND_COMMENT_REPLY, "content": HELLO}
    return EnqueueReplyRequest(client_key=client_key, comment_id=comment_id, **(values | fields))


# Claiming


async def test_a_claim_is_committed_as_sending_with_a_fresh_tag_and_its_attempt(
    desk: Desk,
) -> None:
    reply = await desk.answer(message())

    row = await desk.reply(reply.reply_id)
    attempt = await desk.rows.one("select * from attempt")
    assert re.fullmatch(r"pw1\.[A-Za-z0-9_-]{22}", reply.tag)
    assert (row.state, row.tag, row.attempt, row.lease_owner) == ("sending", reply.tag, 1, "s")
    assert (attempt.tag, attempt.number, attempt.reply_id) == (reply.tag, 1, row.reply_id)


async def test_a_claim_tells_all_that_sending_needs(desk: Desk) -> None:
    await desk.rows.query("update page set facebook_page_id = '5001', token_version = 4")

    reply = await desk.answer(message(), candidate(says("10 euro")))

    assert (reply.platform, reply.node_id, reply.token_version) == (PLATFORM_MESSENGER, "5001", 4)
    assert (reply.kind, reply.person_id, reply.origin) == (
        *(REPLY_KIND_MESSAGE, PERSON),
        REPLY_ORIGIN_RULE,
    )
    assert reply.content.text == "10 euro"
    assert reply.HasField("last_inbound_time")
    assert reply.HasField("expire_time")
    assert not reply.after_uncertain


async def test_a_private_reply_is_handed_out_with_the_comments_time(desk: Desk) -> None:
    written = comment()

    reply = await desk.answer(written, candidate(Action(private_reply=HELLO)))

    assert (reply.kind, reply.comment_id) == (REPLY_KIND_PRIVATE_REPLY, "c_1")
    assert reply.comment_time == written.event_time


async def test_only_the_lowest_unsettled_reply_of_a_lane_is_handed_out(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2", person="2002"), message("m_3"))
    lanes = await desk.claim_lanes()
    await desk.commit(*(decided(lane, *[matched()] * 2) for lane in lanes))

    claimed = await desk.claim_replies()

    assert sorted(reply.person_id for reply in claimed) == ["2001", "2002"]
    assert await desk.claim_replies() == []


@pytest.mark.parametrize("verdict", [VERDICT_ACCEPTED, VERDICT_REFUSED, VERDICT_EXPIRED])
async def test_a_settled_reply_whatever_its_end_lets_the_next_go(desk: Desk, verdict: Any) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(candidate(says("one"))), matched(candidate(says("two"))))
    (first,) = await desk.claim_replies()

    await desk.record(first.tag, verdict, mid="m_ours", reason="graph_551")

    (second,) = await desk.claim_replies()
    assert (first.content.text, second.content.text) == ("one", "two")


async def test_an_uncertain_reply_holds_back_the_next_of_its_lane_alone(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(), matched())
    (first,) = await desk.claim_replies()
    await desk.record(first.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.receive(message("m_3", person="2002"))
    await desk.decide(matched())

    claimed = await desk.claim_replies()

    assert [reply.person_id for reply in claimed] == ["2002"]


@pytest.mark.parametrize("page", ["state = 'blocked'", "connected = false"])
async def test_replies_of_a_page_that_cannot_send_are_left_out(desk: Desk, page: str) -> None:
    await desk.receive(message())
    await desk.decide(matched())
    await desk.rows.query(f"update page set {page}")

    assert await desk.claim_replies() == []


async def test_a_long_queue_of_one_page_holds_up_no_other(desk: Desk) -> None:
    await desk.rows.add_page("1002")
    await desk.receive(*(message(f"m_{n}", person=f"{n}") for n in range(20)))
    await desk.receive(message("m_x", person="x", page_id="1002"))
    lanes = await desk.claim_lanes()
    await desk.commit(*(decided(lane, matched()) for lane in lanes))
    await desk.rows.query("update page set state = 'blocked' where page_id = :page", page=PAGE)

    claimed = await desk.claim_replies(at_most=1)

    assert [reply.page_id for reply in claimed] == ["1002"]


async def test_claims_at_once_hand_out_each_reply_once(desk: Desk) -> None:
    await desk.receive(*(message(f"m_{n}", person=f"{n}") for n in range(20)))
    lanes = await desk.claim_lanes()
    await desk.commit(*(decided(lane, matched()) for lane in lanes))

    batches = await asyncio.gather(*(desk.claim_replies(at_most=5) for _ in range(4)))

    claimed = [reply.reply_id for batch in batches for reply in batch]
    rest = await desk.claim_replies(at_most=20)
    assert len(claimed) == len(set(claimed))
    assert len(claimed) + len(rest) == 20


async def test_the_database_itself_allows_one_reply_of_a_lane_in_flight(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(), matched())

    with pytest.raises(Exception, match="outbox_one_in_flight"):
        await desk.rows.query("update outbox set state = 'sending'")


# Outcomes


async def test_an_acceptance_shows_the_reply_in_its_conversation(desk: Desk) -> None:
    reply = await desk.answer(message(), candidate(says("10 euro")))
    went_out = ago(0)

    state = await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours", send_time=went_out)

    row = await desk.reply(reply.reply_id)
    sent = await desk.rows.one("select * from message where mid = 'm_ours'")
    conversation = await desk.rows.one("select * from conversation")
    assert state == "sent"
    assert (row.mid, row.settled_by, row.lease_until) == ("m_ours", "response", None)
    assert (sent.direction, sent.text, sent.reply_id) == ("outbound", "10 euro", row.reply_id)
    assert sent.participant_id == PERSON
    assert (conversation.snippet, conversation.unread_count) == ("10 euro", 0)
    assert conversation.last_outbound_at == sent.created_at


async def test_an_acceptance_fills_in_a_message_of_which_history_knew_the_time_alone(
    desk: Desk,
) -> None:
    reply = await desk.answer(message(), candidate(says("10 euro")))
    await desk.rows.add(
        "message",
        page_id=PAGE,
        mid="m_ours",
        participant_id=PERSON,
        direction=None,
        kind="message",
        created_at=ago(0).ToDatetime(UTC),
    )

    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours", send_time=ago(0))

    sent = await desk.rows.one("select * from message where mid = 'm_ours'")
    number = (await desk.reply(reply.reply_id)).reply_id
    assert (sent.direction, sent.text, sent.reply_id) == ("outbound", "10 euro", number)


async def test_a_medium_that_was_sent_shows_as_an_attachment(desk: Desk) -> None:
    image = ReplyContent(media=Media(type=MEDIA_TYPE_IMAGE, url="https://example.org/a.png"))
    reply = await desk.answer(message(), candidate(Action(reply=image)))

    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    sent = await desk.rows.one("select text, attachments from message where mid = 'm_ours'")
    assert sent.text is None
    assert b"https://example.org/a.png" in sent.attachments


async def test_a_comment_reply_that_was_accepted_is_a_comment_and_answers_its_parent(
    desk: Desk,
) -> None:
    reply = await desk.answer(comment(), candidate(says("10 euro")))

    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="c_ours")

    own = await desk.rows.one("select * from comment where comment_id = 'c_ours'")
    parent = await desk.rows.one("select answered_at from comment where comment_id = 'c_1'")
    assert (own.is_own, own.parent_id, own.root_id, own.post_id) == (True, "c_1", "c_1", "p_1")
    assert own.text == "10 euro"
    assert parent.answered_at is not None


async def test_a_private_reply_that_was_accepted_is_in_the_conversation_that_graph_named(
    desk: Desk,
) -> None:
    reply = await desk.answer(comment(), candidate(Action(private_reply=HELLO)))

    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours", recipient_id="4001")

    sent = await desk.rows.one("select participant_id from message where mid = 'm_ours'")
    parent = await desk.rows.one("select answered_at from comment")
    conversation = await desk.rows.one("select participant_id, snippet from conversation")
    assert sent.participant_id == "4001"
    assert tuple(conversation) == ("4001", HELLO.text)
    assert (await desk.reply(reply.reply_id)).person_id == "4001"
    assert parent.answered_at is not None


async def test_hiding_that_was_accepted_hides_the_comment(desk: Desk) -> None:
    hide = candidate(Action(hide_comment=HideAction(hidden=True)))
    reply = await desk.answer(comment(), hide)

    await desk.record(reply.tag, VERDICT_ACCEPTED, send_time=ago(0))

    assert (await desk.rows.one("select is_hidden from comment")).is_hidden


async def test_hiding_does_not_overrule_what_was_done_after_it(desk: Desk) -> None:
    reply = await desk.answer(comment(), candidate(Action(hide_comment=HideAction(hidden=True))))
    await desk.rows.query("update comment set hidden_at = now() + interval '1 second'")

    await desk.record(reply.tag, VERDICT_ACCEPTED, send_time=ago(0))

    assert not (await desk.rows.one("select is_hidden from comment")).is_hidden


async def test_labels_are_put_on_and_taken_from_the_person(desk: Desk) -> None:
    add = candidate(Action(add_label=LabelAction(name="lead")))
    remove = candidate(Action(remove_label=LabelAction(name="lead")))
    added = await desk.answer(message("m_1"), add)
    await desk.record(added.tag, VERDICT_ACCEPTED)
    labels = await desk.rows.query("select person_id, name from person_label")

    removed = await desk.answer(message("m_2"), remove)
    await desk.record(removed.tag, VERDICT_ACCEPTED)

    assert [tuple(row) for row in labels] == [(PERSON, "lead")]
    assert await desk.rows.query("select * from person_label") == []


async def test_an_outcome_recorded_again_changes_nothing(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")
    before = await desk.reply(reply.reply_id)

    state = await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert state == "sent"
    assert await desk.reply(reply.reply_id) == before


async def test_a_tag_that_is_not_known_has_no_state(desk: Desk) -> None:
    assert await desk.record("pw1.nobody", VERDICT_ACCEPTED) == "unspecified"


async def test_an_outcome_without_a_verdict_is_refused(desk: Desk) -> None:
    reply = await desk.answer(message())

    with pytest.raises(InvalidArgument):
        await desk.record(reply.tag, 0)  # type: ignore[arg-type]


async def test_a_refusal_is_kept_with_its_codes_and_without_free_words(desk: Desk) -> None:
    reply = await desk.answer(message())

    state = await desk.record(
        reply.tag, VERDICT_REFUSED, reason="to 2001: no", http_status=400, code=551, subcode=1545041
    )

    attempt = await desk.rows.one("select * from attempt")
    assert state == "failed"
    assert (await desk.reply(reply.reply_id)).state_reason == "unknown"
    assert (attempt.verdict, attempt.http_status, attempt.code, attempt.subcode) == (
        *("refused", 400),
        *(551, 1545041),
    )


async def test_a_late_acceptance_of_a_failed_reply_is_the_truth(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_REFUSED, reason="graph_2")

    state = await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    assert state == "sent"
    assert (await desk.rows.one("select verdict from attempt")).verdict == "accepted"


async def test_a_late_refusal_after_an_acceptance_is_nothing(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_ACCEPTED, mid="m_ours")

    state = await desk.record(reply.tag, VERDICT_REFUSED, reason="graph_551")

    assert state == "sent"
    assert (await desk.rows.one("select verdict from attempt")).verdict == "accepted"


async def test_a_late_refusal_of_a_reply_that_is_ready_again_is_only_recorded(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_RETRY, reason="connect_failed")

    state = await desk.record(reply.tag, VERDICT_REFUSED, reason="graph_551")

    assert state == "ready"
    assert (await desk.rows.one("select verdict from attempt")).verdict == "refused"


async def test_a_retry_waits_as_long_as_graph_said(desk: Desk) -> None:
    reply = await desk.answer(message())

    await desk.record(
        reply.tag, VERDICT_RETRY, reason="rate_limited", retry_after=Duration(seconds=30)
    )

    assert await desk.claim_replies() == []
    await desk.pass_time(31)
    (again,) = await desk.claim_replies()
    assert (again.attempt, again.after_uncertain) == (2, False)
    assert again.tag != reply.tag


async def test_a_retry_without_a_word_from_graph_backs_off(desk: Desk) -> None:
    reply = await desk.answer(message())

    await desk.record(reply.tag, VERDICT_RETRY, reason="connect_failed")

    row = await desk.rows.one("select not_before - now() as pause from outbox")
    assert timedelta(seconds=0.5) < row.pause <= timedelta(seconds=2)


async def test_a_blocked_page_keeps_its_reply_ready_and_is_not_asked_again(desk: Desk) -> None:
    reply = await desk.answer(message())

    state = await desk.record(reply.tag, VERDICT_PAGE_BLOCKED, reason="token_expired")

    page = await desk.rows.one("select state, state_reason, blocked_at from page")
    assert state == "ready"
    assert (page.state, page.state_reason) == ("blocked", "token_expired")
    assert page.blocked_at is not None
    assert await desk.claim_replies() == []
    await desk.rows.query("update page set state = 'healthy'")
    assert [again.reply_id for again in await desk.claim_replies()] == [reply.reply_id]


async def test_a_page_with_a_new_token_is_not_blocked_by_an_attempt_with_the_old_one(
    desk: Desk,
) -> None:
    reply = await desk.answer(message())
    await desk.rows.query("update page set token_version = token_version + 1")

    await desk.record(reply.tag, VERDICT_PAGE_BLOCKED, reason="token_expired")

    assert (await desk.rows.one("select state from page")).state == "healthy"


async def test_an_older_attempts_acceptance_ends_the_reply_that_is_sent_again(desk: Desk) -> None:
    first = await desk.answer(message())
    await desk.record(first.tag, VERDICT_UNCERTAIN, reason="timeout")
    await twice_clean(desk, first.tag)
    await desk.pass_time(2)
    (second,) = await desk.claim_replies()

    state = await desk.record(first.tag, VERDICT_ACCEPTED, mid="m_first")
    later = await desk.record(second.tag, VERDICT_ACCEPTED, mid="m_second")

    row = await desk.reply(first.reply_id)
    shown = await desk.rows.query("select reply_id from message where direction = 'outbound'")
    assert (state, later, row.mid) == ("sent", "sent", "m_first")
    assert [message.reply_id for message in shown] == [row.reply_id] * 2


async def test_a_mid_that_another_reply_has_by_a_wrong_guess_does_not_stop_an_acceptance(
    desk: Desk,
) -> None:
    first = await desk.answer(message("m_1"))
    await desk.record(first.tag, VERDICT_ACCEPTED, mid="m_same")
    second = await desk.answer(message("m_2"))

    state = await desk.record(second.tag, VERDICT_ACCEPTED, mid="m_same")

    assert state == "sent"
    assert (await desk.reply(second.reply_id)).mid is None


# Looking


async def twice_clean(desk: Desk, tag: str) -> None:
    """Two looks in their time that find nothing."""
    for _ in range(2):
        await desk.pass_time(60)
        assert len(await desk.look()) == 1
        await desk.found(tag, clean=True)


async def test_an_uncertain_reply_is_looked_for_twenty_seconds_after_its_attempt(
    desk: Desk,
) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    assert await desk.look() == []
    await desk.pass_time(21)

    (look,) = await desk.look()

    assert (look.reply.tag, look.clean_looks) == (reply.tag, 0)
    assert look.HasField("attempt_time")
    assert await desk.look() == []


async def test_a_look_that_was_not_answered_is_handed_out_again_after_its_lease(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()

    await desk.pass_time(31)

    assert len(await desk.look()) == 1


async def test_a_look_knows_the_ids_that_other_replies_have(desk: Desk) -> None:
    first = await desk.answer(message("m_1"))
    await desk.record(first.tag, VERDICT_ACCEPTED, mid="m_ours")
    second = await desk.answer(message("m_2"))
    await desk.record(second.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)

    (look,) = await desk.look()

    assert look.bound_mids == ["m_ours"]
    assert look.known_mid == "m_ours"


async def test_two_clean_looks_make_it_ready_and_it_is_known_to_have_been_uncertain(
    desk: Desk,
) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()
    first = await desk.found(reply.tag, clean=True)
    assert await desk.look() == []
    await desk.pass_time(41)
    await desk.look()

    second = await desk.found(reply.tag, clean=True)

    await desk.pass_time(2)
    (again,) = await desk.claim_replies()
    assert (first, second) == ("uncertain", "ready")
    assert again.after_uncertain


async def test_one_clean_look_reported_twice_counts_once(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()
    await desk.found(reply.tag, clean=True)

    state = await desk.found(reply.tag, clean=True)

    assert state == "uncertain"
    assert (await desk.reply(reply.reply_id)).clean_looks == 1


async def test_a_look_that_failed_is_not_clean_and_is_made_again(desk: Desk) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()

    state = await desk.found(reply.tag, error="rate_limited")

    row = await desk.reply(reply.reply_id)
    assert (state, row.clean_looks) == ("uncertain", 0)
    await desk.pass_time(11)
    assert len(await desk.look()) == 1


@pytest.mark.parametrize("result", ["found_mid", "ambiguous_mid"])
async def test_what_a_look_finds_was_sent(desk: Desk, result: str) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)
    await desk.look()

    state = await desk.found(reply.tag, **{result: "m_found"})

    row = await desk.reply(reply.reply_id)
    assert (state, row.mid, row.settled_by) == ("sent", "m_found", "readback")


async def test_a_look_without_a_result_is_refused(desk: Desk) -> None:
    reply = await desk.answer(message())

    with pytest.raises(InvalidArgument):
        await desk.found(reply.tag)


@pytest.mark.parametrize(
    "rule",
    [
        candidate(Action(private_reply=HELLO)),
        candidate(Action(hide_comment=HideAction(hidden=True))),
    ],
)
async def test_what_cannot_be_found_by_looking_is_not_looked_for(desk: Desk, rule: Any) -> None:
    reply = await desk.answer(comment(), rule)
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(60)

    assert await desk.look() == []


# What a person puts in


async def test_a_persons_message_is_put_in_and_pauses_automation(desk: Desk) -> None:
    await desk.receive(message())
    await desk.decide(matched())

    reply = await desk.enqueue(typed(tag=TAG_HUMAN_AGENT))

    row = await desk.reply(reply.reply_id)
    assert (reply.state, reply.origin) == (REPLY_STATE_READY, REPLY_ORIGIN_PERSON)
    assert (row.ordinal, row.message_tag) == (2, "HUMAN_AGENT")
    assert row.expires_at - row.created_at >= timedelta(hours=24) - timedelta(seconds=1)
    assert PAUSE - timedelta(minutes=1) < await desk.paused_for() <= PAUSE
    await desk.receive(message("m_2"))
    (decision,) = await desk.decide(matched())
    assert decision.reason == "person_active"


async def test_a_persons_message_leaves_a_longer_pause_alone(desk: Desk) -> None:
    await desk.receive(message())
    await desk.rows.query(
        "update conversation set automation_paused_until = now() + interval '1 day'"
    )

    await desk.enqueue(typed())

    assert await desk.paused_for() > timedelta(hours=23)


async def test_a_persons_message_touches_neither_epoch_nor_lease(desk: Desk) -> None:
    await desk.receive(message())
    (lane,) = await desk.claim_lanes()

    await desk.enqueue(typed())

    response = await desk.commit(decided(lane, matched()))
    assert response.results[0].decisions[0].reason == "person_active"


async def test_a_persons_message_makes_the_lane_where_there_is_none(desk: Desk) -> None:
    await desk.rows.query(
        "insert into conversation (page_id, participant_id, updated_at) values (:page, :id, now())",
        page=PAGE,
        id=PERSON,
    )

    reply = await desk.enqueue(typed())

    lane = await desk.rows.one("select epoch, lease_until, pending, last_ordinal from lane")
    assert tuple(lane) == (0, None, 0, 1)
    assert [one.reply_id for one in await desk.claim_replies()] == [reply.reply_id]


async def test_the_same_key_and_content_is_the_same_reply(desk: Desk) -> None:
    await desk.receive(message())

    replies = await asyncio.gather(*(desk.enqueue(typed()) for _ in range(4)))

    assert len({reply.reply_id for reply in replies}) == 1
    assert (await desk.rows.one("select count(*) as n from outbox")).n == 1


async def test_the_same_key_and_content_is_the_same_reply_though_the_page_is_disconnected(
    desk: Desk,
) -> None:
    await desk.receive(message())
    first = await desk.enqueue(typed())
    await desk.rows.query("update page set connected = false")

    assert (await desk.enqueue(typed())).reply_id == first.reply_id


@pytest.mark.parametrize(
    "other",
    [
        typed(content=ReplyContent(text="something else")),
        typed(tag=TAG_HUMAN_AGENT),
        typed(person="2002"),
    ],
)
async def test_the_same_key_with_other_content_is_refused(
    desk: Desk, other: EnqueueReplyRequest
) -> None:
    await desk.receive(message("m_1"), message("m_2", person="2002"))
    await desk.enqueue(typed())

    with pytest.raises(ClientKeyReused):
        await desk.enqueue(other)

    assert (await desk.rows.one("select count(*) as n from outbox")).n == 1


async def test_one_key_for_two_conversations_at_once_is_refused_to_one(desk: Desk) -> None:
    await desk.receive(*(message(f"m_{n}", person=f"{n}") for n in range(4)))

    results = await asyncio.gather(
        *(desk.enqueue(typed(person=f"{n}")) for n in range(4)), return_exceptions=True
    )

    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(one) for one in refused] == [ClientKeyReused] * 3
    paused = await desk.rows.query(
        "select 1 from conversation where automation_paused_until is not null"
    )
    assert len(paused) == 1


async def test_a_comment_is_answered_and_hidden_by_hand_in_its_lane(desk: Desk) -> None:
    await desk.receive(comment())

    reply = await desk.enqueue(below())
    hiding = await desk.enqueue(
        EnqueueReplyRequest(
            kind=REPLY_KIND_HIDE_COMMENT, comment_id="c_1", hidden=True, client_key="k2"
        )
    )

    stored = await desk.rows.query("select lane, kind, hidden from outbox order by ordinal")
    assert [tuple(row) for row in stored] == [
        ("comment:c_1", "comment_reply", None),
        ("comment:c_1", "hide_comment", True),
    ]
    assert (reply.page_id, hiding.comment_id) == (PAGE, "c_1")


def hide(client_key: str, *, hidden: bool) -> EnqueueReplyRequest:
    """A person hides a comment, or shows it again."""
    return EnqueueReplyRequest(
        kind=REPLY_KIND_HIDE_COMMENT, comment_id="c_1", hidden=hidden, client_key=client_key
    )


async def audited(desk: Desk) -> list[tuple[str, ...]]:
    found = await desk.rows.query(
        "select role, actor, action, subject, detail from audit order by audit_id"
    )
    return [tuple(row) for row in found]


async def test_who_said_or_hid_what_is_in_the_audit_and_no_word_of_it(desk: Desk) -> None:
    await desk.receive(message(), comment())
    requests = (
        *(typed("k1"), below("c_1", "k2")),
        *(hide("k3", hidden=True), hide("k4", hidden=False)),
    )

    with calling_as(Caller("sync", "anna@example.com")):
        replies = [(await desk.enqueue(request)).reply_id for request in requests]

    anna = ("sync", "anna@example.com")
    assert await audited(desk) == [
        (*anna, "reply.send", replies[0], ""),
        (*anna, "reply.comment", replies[1], ""),
        (*anna, "reply.hide", replies[2], "hidden"),
        (*anna, "reply.hide", replies[3], "shown"),
    ]


async def test_a_reply_asked_for_again_is_in_the_audit_once(desk: Desk) -> None:
    await desk.receive(message())

    for actor in ("anna", "ben"):
        with calling_as(Caller("sync", actor)):
            await desk.enqueue(typed())

    assert [actor for _, actor, *_ in await audited(desk)] == ["anna"]


async def test_a_reply_that_was_refused_is_not_in_the_audit(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2", person="2002"))
    await desk.enqueue(typed())

    with pytest.raises(ClientKeyReused):
        await desk.enqueue(typed(person="2002"))

    assert len(await audited(desk)) == 1


async def test_a_rules_reply_is_not_in_the_audit(desk: Desk) -> None:
    await desk.answer(message(), candidate(says()))

    assert await audited(desk) == []


async def test_the_last_hiding_of_a_comment_is_found_whoever_asked_for_it(
    desk: Desk, service: "OutboxServiceAsyncStub"
) -> None:
    def asked(hidden: bool, comment_id: str = "c_1") -> EnqueueReplyRequest:
        key = f"{comment_id}-{hidden}"
        return EnqueueReplyRequest(
            kind=REPLY_KIND_HIDE_COMMENT, comment_id=comment_id, hidden=hidden, client_key=key
        )

    await desk.receive(comment(), comment("c_2"))
    last = GetLastHidingRequest(comment_id="c_1")

    none = await service.GetLastHiding(last)
    await desk.enqueue(asked(hidden=True))
    shown = await desk.enqueue(asked(hidden=False))
    await desk.enqueue(below())
    await desk.enqueue(asked(hidden=True, comment_id="c_2"))
    found = await service.GetLastHiding(last)

    assert not none.HasField("reply")
    assert (found.reply, found.hidden) == (shown, False)
    with pytest.raises(Refusal) as refused:
        await service.GetLastHiding(GetLastHidingRequest(comment_id="c_9"))
    assert refused.value.reason == "COMMENT_UNKNOWN"


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (typed(conversation_id="nonsense"), ConversationUnknown),
        (typed(person="9999"), ConversationUnknown),
        (typed(conversation_id=ids.conversation_id("77", PERSON)), PageUnknown),
        (below("c_9"), CommentUnknown),
        (below(page_id="77"), PageUnknown),
        (typed(client_key=""), InvalidArgument),
        (typed(client_key="k" * 201), InvalidArgument),
        (typed(content=ReplyContent()), InvalidArgument),
        (below(content=ReplyContent(media=Media(url="https://x"))), InvalidArgument),
        (typed(kind=REPLY_KIND_PRIVATE_REPLY), InvalidArgument),
        (typed(kind=REPLY_KIND_HIDE_COMMENT), InvalidArgument),
    ],
)
async def test_what_cannot_be_put_in_is_refused(
    desk: Desk, request_: EnqueueReplyRequest, refusal: type[Refusal]
) -> None:
    await desk.receive(message(), comment())

    with pytest.raises(refusal):
        await desk.enqueue(request_)

    assert await desk.rows.query("select * from outbox") == []


async def test_nothing_is_put_in_for_a_page_that_is_disconnected(desk: Desk) -> None:
    await desk.receive(message())
    await desk.rows.query("update page set connected = false")

    with pytest.raises(PageDisconnected) as refused:
        await desk.enqueue(typed())

    assert refused.value.kind is Kind.STATE


# The page's and the person's hand


async def test_disconnecting_fails_what_waits_and_leaves_what_is_under_way(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"), message("m_3", person="2002"))
    lanes = await desk.claim_lanes()
    rule = candidate(once_per_person=True)
    await desk.commit(*(decided(lane, matched(rule), matched()) for lane in lanes))
    (one,) = await desk.claim_replies(at_most=1)

    await in_transaction(
        desk.pools.general, lambda connection: outbox.fail_unsent(connection, PAGE)
    )

    stored = await desk.rows.query("select state, state_reason from outbox order by state")
    assert [tuple(row) for row in stored] == [
        ("failed", "page_disconnected"),
        ("failed", "page_disconnected"),
        ("sending", ""),
    ]
    assert await desk.record(one.tag, VERDICT_ACCEPTED, mid="m_ours") == "sent"


async def test_disconnecting_fails_so_much_of_a_long_queue_and_the_sweep_the_rest(
    desk: Desk,
) -> None:
    await desk.receive(message("m_1"))
    await desk.decide(matched())
    await desk.rows.query(
        """
        insert into outbox (page_id, reply_id, lane, ordinal, kind, origin, person_id, state,
            expires_at, content)
        select page_id, 100000 + n, 'person:x' || n, 1, kind, 'person', 'x' || n, 'ready',
            expires_at, content
        from outbox, generate_series(1, :more) n
        """,
        more=2 * outbox.CHUNK,
    )

    async def disconnect(connection: Any) -> None:
        await pages.disconnect(connection, PAGE)
        await outbox.fail_unsent(connection, PAGE)

    await in_transaction(desk.pools.general, disconnect)
    failed = await desk.rows.query("select from outbox where state = 'failed'")
    claimed = await desk.claim_replies()
    swept = await desk.sweep()

    left = await desk.rows.query("select from outbox where state_reason <> 'page_disconnected'")
    assert (len(failed), claimed) == (outbox.CHUNK, [])
    assert (swept, left) == (outbox.CHUNK + 1, [])


async def test_a_parked_reply_that_is_retried_goes_behind_its_lane(desk: Desk) -> None:
    await desk.receive(message("m_1"), message("m_2"))
    await desk.decide(matched(candidate(says("one"))), matched(candidate(says("two"))))
    (first,) = await desk.claim_replies()
    await desk.record(first.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(601)
    await desk.sweep()
    row = await desk.reply(first.reply_id)
    assert row.state == "parked"

    done = await in_transaction(
        desk.pools.general, lambda connection: retry_reply(connection, PAGE, row.reply_id)
    )

    (second,) = await desk.claim_replies()
    await desk.record(second.tag, VERDICT_ACCEPTED, mid="m_two")
    (again,) = await desk.claim_replies()
    assert done
    assert (second.content.text, again.content.text) == ("two", "one")
    assert again.after_uncertain


async def test_a_reply_that_does_not_exist_is_not_retried(desk: Desk) -> None:
    assert not await in_transaction(
        desk.pools.general, lambda connection: retry_reply(connection, PAGE, 10**9)
    )


# Over the wire


@pytest.fixture
async def waking() -> Waking:
    return Waking("")


@pytest.fixture
async def looks() -> Waking:
    return Waking("")


@pytest.fixture
async def service(
    desk: Desk, waking: Waking, looks: Waking
) -> "AsyncIterator[OutboxServiceAsyncStub]":
    servicer = OutboxServicer(desk.pools.live, waking, looks, lease=LEASE, person_pause=PAUSE)
    async with channel_to(
        lambda server: add_OutboxServiceServicer_to_server(servicer, server), "sync"
    ) as channel:
        yield OutboxServiceStub(channel)


async def test_a_reply_goes_from_a_person_to_sent_over_the_wire(
    desk: Desk, service: "OutboxServiceAsyncStub"
) -> None:
    await desk.receive(message())

    put_in = await service.EnqueueReply(typed())
    claimed = await service.ClaimReplies(ClaimRepliesRequest(owner="s", max_replies=5))
    outcome = AttemptOutcome(tag=claimed.replies[0].tag, verdict=VERDICT_ACCEPTED, mid="m_ours")
    recorded = await service.RecordOutcomes(RecordOutcomesRequest(outcomes=[outcome]))
    got = await service.GetReply(GetReplyRequest(reply_id=put_in.reply.reply_id))

    assert claimed.lease.ToTimedelta() == LEASE
    assert claimed.replies[0].reply_id == put_in.reply.reply_id
    assert list(recorded.states) == [REPLY_STATE_SENT]
    assert (got.reply.state, got.reply.mid) == (REPLY_STATE_SENT, "m_ours")
    assert got.reply.conversation_id == ids.conversation_id(PAGE, PERSON)
    assert got.reply.HasField("sending_time")
    assert got.reply.HasField("sent_time")


async def test_a_waiting_claim_is_woken_by_what_is_put_in(
    desk: Desk, service: "OutboxServiceAsyncStub", waking: Waking
) -> None:
    await desk.receive(message())
    wait = Duration(seconds=1)
    waiting = asyncio.ensure_future(
        service.ClaimReplies(ClaimRepliesRequest(owner="s", max_replies=5, wait=wait))
    )
    while not waking._waiters:
        await asyncio.sleep(0)

    await service.EnqueueReply(typed())

    claimed = await waiting
    assert len(claimed.replies) == 1


async def test_a_settled_reply_wakes_who_waits_for_the_next(
    desk: Desk, service: "OutboxServiceAsyncStub", waking: Waking
) -> None:
    reply = await desk.answer(message())
    await desk.receive(message("m_2"))
    await desk.decide(matched())
    before = waking.count
    outcome = AttemptOutcome(tag=reply.tag, verdict=VERDICT_REFUSED, reason="graph_551")

    await service.RecordOutcomes(RecordOutcomesRequest(outcomes=[outcome]))

    assert waking.count == before + 1


async def test_a_settled_reply_that_nothing_follows_wakes_nobody(
    desk: Desk, service: "OutboxServiceAsyncStub", waking: Waking
) -> None:
    reply = await desk.answer(message())
    before = waking.count
    outcome = AttemptOutcome(tag=reply.tag, verdict=VERDICT_ACCEPTED, mid="m_ours")

    await service.RecordOutcomes(RecordOutcomesRequest(outcomes=[outcome]))

    assert waking.count == before


async def test_what_is_put_in_while_its_lane_is_being_settled_is_woken_for_again(
    desk: Desk, service: "OutboxServiceAsyncStub", waking: Waking
) -> None:
    reply = await desk.answer(message())
    outcome = AttemptOutcome(tag=reply.tag, verdict=VERDICT_ACCEPTED, mid="m_ours")
    async with desk.pools.general.begin() as connection:  # so that settling has to wait
        await connection.execute(text("select 1 from outbox for update"))
        before = waking.count
        recording = asyncio.ensure_future(
            service.RecordOutcomes(RecordOutcomesRequest(outcomes=[outcome]))
        )
        while not await desk.rows.query("select 1 from pg_locks where not granted"):
            await asyncio.sleep(0.01)
        waking.wake()  # as for what is put in now
    await recording

    assert waking.count == before + 2


async def test_looks_go_over_the_wire(desk: Desk, service: "OutboxServiceAsyncStub") -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    await desk.pass_time(21)

    looks = await service.ClaimReadBacks(ClaimReadBacksRequest(owner="s", max_replies=5))
    result = ReadBackResult(tag=reply.tag, found_mid="m_found")
    unknown = ReadBackResult(tag="pw1.nobody", clean=True)
    recorded = await service.RecordReadBacks(RecordReadBacksRequest(results=[result, unknown]))

    assert [look.reply.tag for look in looks.read_backs] == [reply.tag]
    assert list(recorded.states) == [REPLY_STATE_SENT, REPLY_STATE_UNSPECIFIED]


async def test_who_waits_to_look_is_woken_once_there_is_something_to_look_for(
    desk: Desk, service: "OutboxServiceAsyncStub", waking: Waking, looks: Waking
) -> None:
    reply = await desk.answer(message())
    await desk.record(reply.tag, VERDICT_UNCERTAIN, reason="timeout")
    request = ClaimReadBacksRequest(owner="s", max_replies=5, wait=Duration(seconds=4))
    waiting = asyncio.ensure_future(service.ClaimReadBacks(request))
    while not looks._waiters:
        await asyncio.sleep(0)

    waking.wake()
    await desk.pass_time(21)
    looks.wake()

    assert [look.reply.tag for look in (await waiting).read_backs] == [reply.tag]


async def test_a_wait_to_look_ends_with_its_store(
    service: "OutboxServiceAsyncStub", looks: Waking
) -> None:
    request = ClaimReadBacksRequest(owner="s", max_replies=5, wait=Duration(seconds=4))
    waiting = asyncio.ensure_future(service.ClaimReadBacks(request))
    while not looks._waiters:
        await asyncio.sleep(0)

    looks.close()

    with pytest.raises(Refusal) as refused:
        await waiting
    assert refused.value.kind is Kind.TRANSIENT


@pytest.mark.parametrize("reply_id", ["r-1001-999999999", "nonsense", "e-1001-1"])
async def test_a_reply_that_is_not_known_is_not_found(
    service: "OutboxServiceAsyncStub", reply_id: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.GetReply(GetReplyRequest(reply_id=reply_id))

    assert (refused.value.kind, refused.value.reason) == (Kind.MISSING, "REPLY_UNKNOWN")


@pytest.mark.parametrize("bad", [{"owner": ""}, {"owner": "o" * 201}, {"max_replies": 0}])
async def test_a_claim_that_says_nothing_is_refused(
    service: "OutboxServiceAsyncStub", bad: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"owner": "s", "max_replies": 1} | bad

    with pytest.raises(Refusal) as refused:
        await service.ClaimReplies(ClaimRepliesRequest(**asked))

    assert refused.value.kind is Kind.INVALID
