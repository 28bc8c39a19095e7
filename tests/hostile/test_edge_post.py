"""What strangers and Meta may post: each case is answered, kept as far as it is Meta's, and harms
nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from pagewire.type.v1.event_pb2 import Attachment, Event, MessageDetail
from pagewire_simulator.faults import Script
from pagewire_webhook.fields import TEXT_MAX_BYTES
from tests.hostile import cases
from tests.hostile import edge as edges
from tests.hostile.cases import Case
from tests.hostile.edge import Edge, Request, Row, Scene, signed
from tests.hostile.posts import ADDRESSES, BEYOND_DOUBLES, CONTROLS, JOINERS, REQUESTS
from tests.support.live import until
from tests.support.rawhttp import Answer

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

edge = edges.edge

POSTS = cases.of("edge POST")
UNKNOWN_PAGE = "104200000000591"
LEFT_PAGE = "104200000000592"
DELIVERIES = "pagewire_webhook_deliveries_total"

Prepared = tuple[Scene, Sequence[Request]]


@pytest.mark.parametrize("case", POSTS, ids=[case.name for case in POSTS])
async def test_a_post_is_answered_as_it_deserves_and_harms_nothing(edge: Edge, case: Case) -> None:
    scene, requests = await prepared(edge, case)
    async with edge.unharmed():
        counted = await edge.counted(DELIVERIES, outcome="forbidden", key="none")
        answers = [await edge.post(asked) for asked in requests]

        assert [answer.status for answer in answers] == [case.status] * len(requests)
        if case.status == 200:
            await assert_stored(edge, case, requests)
        else:
            await assert_forbidden(edge, requests, answers, counted)
        if case.name in AFTERWARDS:
            await AFTERWARDS[case.name](edge, scene)


async def assert_stored(edge: Edge, case: Case, requests: Sequence[Request]) -> None:
    """Each body is there byte for byte, with what was read of it and why the rest was not."""
    events = case.events if isinstance(case.events, list) else [case.events] * len(requests)
    for asked, count in zip(requests, events, strict=True):
        (delivery,) = await edge.deliveries(asked.body)
        assert bytes(delivery["body"]) == asked.body
        assert (delivery["outcome"], delivery["events"]) == (case.outcome, count)
        assert await edge.reasons(delivery) == list(case.unreadable)


async def assert_forbidden(
    edge: Edge, requests: Sequence[Request], answers: Sequence[Answer], counted: float
) -> None:
    """Nothing is stored, all is counted, and the answer is that to any other failure."""
    plain = await edge.post(Request(b"{}", []))
    for asked, answer in zip(requests, answers, strict=True):
        assert _without_time(answer) == _without_time(plain)
        assert answer.body == b""
        assert await edge.deliveries(asked.body) == []
    now = await edge.counted(DELIVERIES, outcome="forbidden", key="none")
    assert now == counted + len(requests) + 1


def _without_time(answer: Answer) -> Answer:
    return answer._replace(headers={**answer.headers, "date": ""})


# What has to be there before


async def prepared(edge: Edge, case: Case) -> Prepared:
    if case.name in PREPARE:
        return await PREPARE[case.name](edge)
    scene = edge.scene(case.name)
    return scene, REQUESTS[case.name](scene)


async def unknown_page(edge: Edge) -> Prepared:
    scene = edge.scene("env_unknown_page", UNKNOWN_PAGE)
    return scene, REQUESTS[scene.name](scene)


async def page_disconnected(edge: Edge) -> Prepared:
    await edge.connect(LEFT_PAGE)
    await edge.live.operator.delete(f"/api/pages/{LEFT_PAGE}")
    scene = edge.scene("env_page_disconnected", LEFT_PAGE)
    return scene, REQUESTS[scene.name](scene)


async def echo_own(edge: Edge) -> Prepared:
    scene = edge.scene("env_echo_own")
    reply = await edge.send_reply(scene)
    app_id = int(edge.system.env["META_APP_ID"])
    echo = scene.echo(reply["mid"], text="price", metadata=reply["tag"], app_id=app_id)
    return scene, [signed(scene.body(echo))]


async def echo_forged(edge: Edge) -> Prepared:
    scene = edge.scene("env_echo_forged_metadata")
    reply = await edge.send_reply(edge.scene("other", edge.other_page))
    forged = scene.echo(scene.mid(), metadata=reply["tag"])
    return scene, [signed(scene.body(forged))]


async def echo_before_response(edge: Edge) -> Prepared:
    scene = edge.scene("env_echo_before_send_response")
    await edge.live.meta.faults(Script(fault="slow", seconds=2, person=scene.person))
    sending = asyncio.create_task(edge.send_reply(scene))
    (send,) = await until(lambda: edge.live.meta.sends(person=scene.person))
    assert not sending.done()
    (reply,) = await edge.replies_to(scene.person)
    edge.sending = sending
    echo = scene.echo(send.created or "", metadata=reply["tag"])
    return scene, [signed(scene.body(echo))]


PREPARE: dict[str, Callable[[Edge], Awaitable[Prepared]]] = {
    "env_unknown_page": unknown_page,
    "env_page_disconnected": page_disconnected,
    "env_echo_own": echo_own,
    "env_echo_forged_metadata": echo_forged,
    "env_echo_before_send_response": echo_before_response,
}


# What a case says beyond its answer and what was stored of its body


async def text_reads(edge: Edge, scene: Scene) -> None:
    assert (await edge.message(scene.mid()))["text"] == "å / å"


async def counted_as_previous(edge: Edge, scene: Scene) -> None:
    stored = await edge.event(f"message:{scene.mid()}")
    (delivery,) = await edge.rows(
        "select signed_by from delivery where delivery_id = %s", stored["delivery_id"]
    )
    assert delivery["signed_by"] == "app-previous"
    assert await edge.counted(DELIVERIES, outcome="parsed", key="app-previous") == 1


async def address_is_not_logged(edge: Edge, _: Scene) -> None:
    assert "173.252.88.1" not in edge.logged()


async def only_its_page(edge: Edge, scene: Scene) -> None:
    key = f"message:{scene.mid()}"
    found = await edge.rows("select page_id from event where event_key = %s", key)
    assert [row["page_id"] for row in found] == [scene.page]


async def last_mid_counts(edge: Edge, scene: Scene) -> None:
    assert (await edge.message(scene.mid(2)))["text"] == "hello"
    assert await edge.rows("select 1 from message where mid = %s", scene.mid(1)) == []


async def times_are_clamped(edge: Edge, scene: Scene) -> None:
    told = [detail(await edge.event(f"message:{scene.mid(number)}")) for number in range(3)]
    assert [event.clock_suspect for event in told] == [True, False, True]
    assert told[0].event_time.ToSeconds() > 1_000_000_000
    assert told[1].event_time.ToSeconds() == scene.now // 1000
    assert told[2].event_time.ToMilliseconds() <= scene.now + 2 * 86_400_000


async def mended_text(edge: Edge, scene: Scene) -> None:
    assert (await edge.message(scene.mid()))["text"] == "a\ufffdb"


async def text_is_cut(edge: Edge, scene: Scene) -> None:
    assert (await edge.message(scene.mid()))["text"] == "x" * TEXT_MAX_BYTES
    assert detail(await edge.event(f"message:{scene.mid()}")).truncated


async def unknown_object_is_counted(edge: Edge, _: Scene) -> None:
    assert await edge.counted("pagewire_webhook_unreadable_total", reason="unknown_object") == 1


async def standby_is_declined(edge: Edge, scene: Scene) -> None:
    key = f"message:{scene.mid('standby')}"
    assert await edge.decision(key) == ("declined", "standby")
    assert await edge.replies_to(scene.person) == []


async def same_event_model(edge: Edge, scene: Scene) -> None:
    event = detail(await edge.event(f"message:{scene.mid()}"))
    assert (event.lane, event.message.text) == (f"person:{scene.person}", "hello")


async def thousand_messages(edge: Edge, scene: Scene) -> None:
    found = await edge.rows("select mid from message where participant_id = %s", scene.person)
    assert len({row["mid"] for row in found}) == 1_000


async def answered_once(edge: Edge, scene: Scene) -> None:
    assert await edge.decision(f"message:{scene.mid()}") == ("answered", "fired")
    found = await edge.rows("select 1 from event where person_id = %s", scene.person)
    assert len(found) == 1
    assert len(await edge.replies_to(scene.person)) == 1


async def known_the_second_time(edge: Edge, scene: Scene) -> None:
    found = await edge.rows(
        "select mid from message where participant_id = %s order by mid", scene.person
    )
    assert [row["mid"] for row in found] == [scene.mid(1), scene.mid("neighbour")]


async def two_messages(edge: Edge, scene: Scene) -> None:
    found = await edge.rows("select mid from message where participant_id = %s", scene.person)
    assert len(found) == 2


async def exact_digits(edge: Edge, scene: Scene) -> None:
    stored = await edge.event(f"message:{scene.mid()}")
    assert stored["person_id"] == str(BEYOND_DOUBLES)


async def nobody_is_answered(edge: Edge, scene: Scene) -> None:
    for who in (scene.page, scene.person):
        event = detail(await edge.event(f"message:{scene.mid(who)}"))
        assert (event.is_own, event.trigger) == (True, 0)
        assert await edge.replies_to(who) == []


async def read_in_without_rules(edge: Edge, scene: Scene) -> None:
    key = f"message:{scene.mid()}"
    kept = await edge.event(key, scene.page)
    await edge.connect(scene.page)

    assert kept["state"] == "unknown_page"
    assert await edge.decision(key, scene.page) == ("declined", "page_unknown")
    assert (await edge.message(scene.mid(), scene.page))["text"] == "price"
    assert await edge.replies_to(scene.person) == []


async def kept_and_nothing_more(edge: Edge, scene: Scene) -> None:
    kept = await edge.event(f"message:{scene.mid('after')}", scene.page)
    assert kept["state"] == "unknown_page"
    assert await edge.rows("select 1 from conversation where page_id = %s", scene.page) == []
    assert await edge.rows("select 1 from outbox where page_id = %s", scene.page) == []


async def echo_is_bound(edge: Edge, scene: Scene) -> None:
    (reply,) = await edge.replies_to(scene.person)
    (shown,) = await outbound(edge, scene)
    assert (shown["mid"], shown["reply_id"]) == (reply["mid"], reply["reply_id"])
    key = f"echo:{reply['mid']}"
    decided = "select 1 from decision join event using (page_id, event_id) where event_key = %s"
    assert (await edge.event(key))["state"] == "done"
    assert await edge.rows(decided, key) == []


async def echo_is_anothers(edge: Edge, scene: Scene) -> None:
    (shown,) = await outbound(edge, scene)
    assert (shown["mid"], shown["reply_id"]) == (scene.mid(), None)
    assert await edge.replies_to(scene.person) == []


async def one_row_before_the_answer_and_after(edge: Edge, scene: Scene) -> None:
    assert edge.sending is not None
    reply = await edge.sending
    (before,) = await outbound(edge, scene)
    (early,) = await edge.live.meta.sends(person=scene.person)
    await until(lambda: answered(edge, scene))
    (after,) = await outbound(edge, scene)

    assert early.ended_at is None
    assert (reply["settled_by"], reply["mid"]) == ("echo", early.created)
    assert before["reply_id"] == after["reply_id"] == reply["reply_id"]


async def answered(edge: Edge, scene: Scene) -> bool:
    """Whether Graph has answered the send."""
    (send,) = await edge.live.meta.sends(person=scene.person)
    return send.ended_at is not None


async def outbound(edge: Edge, scene: Scene) -> list[Row]:
    return await edge.rows(
        "select * from message where participant_id = %s and direction = 'outbound'", scene.person
    )


async def joiners_are_decided(edge: Edge, scene: Scene) -> None:
    assert await edge.decision(f"message:{scene.mid()}") == ("declined", "no_rule_matched")
    assert (await edge.message(scene.mid()))["text"] == JOINERS


async def controls_are_kept_and_not_logged(edge: Edge, scene: Scene) -> None:
    await edge.decision(f"message:{scene.mid()}")
    assert (await edge.message(scene.mid()))["text"] == CONTROLS
    logged = edge.logged()
    assert "gnp.exe" not in logged
    assert "forged" not in logged
    assert logged.isascii()


async def addresses_are_texts(edge: Edge, scene: Scene) -> None:
    assert [each.url for each in await attachments(edge, scene)] == list(ADDRESSES)


async def fifty_are_kept(edge: Edge, scene: Scene) -> None:
    assert len(await attachments(edge, scene)) == 50
    assert detail(await edge.event(f"message:{scene.mid()}")).truncated


async def attachments(edge: Edge, scene: Scene) -> Sequence[Attachment]:
    stored = (await edge.message(scene.mid()))["attachments"]
    return MessageDetail.FromString(bytes(stored)).attachments


async def reaction_is_kept(edge: Edge, scene: Scene) -> None:
    (row,) = await edge.rows("select * from reaction where person_id = %s", scene.person)
    assert (row["target_id"], row["removed"]) == (scene.mid("unseen"), False)


async def stays_deleted(edge: Edge, scene: Scene) -> None:
    assert await edge.decision(f"message:{scene.mid()}") == ("declined", "message_removed")
    assert (await edge.message(scene.mid()))["is_deleted"]
    assert await edge.replies_to(scene.person) == []


async def highest_edit_wins(edge: Edge, scene: Scene) -> None:
    row = await edge.message(scene.mid())
    assert (row["text"], row["edit_number"]) == ("edit 2", 2)


async def watermark_stays(edge: Edge, scene: Scene) -> None:
    (row,) = await edge.rows(
        "select read_watermark from conversation where participant_id = %s", scene.person
    )
    assert round(row["read_watermark"].timestamp() * 1000) == scene.now


async def expired_and_unsent(edge: Edge, scene: Scene) -> None:
    assert await edge.decision(f"message:{scene.mid()}") == ("expired", "window_closed")
    assert await edge.replies_to(scene.person) == []


async def plain_message(edge: Edge, scene: Scene) -> None:
    row = await edge.message(scene.mid())
    assert (row["direction"], row["text"]) == ("inbound", "hello")


async def tables_stand(edge: Edge, _: Scene) -> None:
    assert await edge.rows("select 1 from message limit 1")


def detail(event: Row) -> Event:
    return Event.FromString(bytes(event["detail"]))


AFTERWARDS: dict[str, Callable[[Edge, Scene], Awaitable[None]]] = {
    "sig_raw_with_escapes": text_reads,
    "sig_previous_secret_in_rotation": counted_as_previous,
    "spoof_forwarded_for": address_is_not_logged,
    "spoof_internal_headers": only_its_page,
    "json_top_level_array": plain_message,
    "json_duplicate_mid_key": last_mid_counts,
    "json_negative_timestamp": times_are_clamped,
    "json_nul_escape": mended_text,
    "json_lone_surrogate": mended_text,
    "json_utf8_bom": plain_message,
    "json_string_4mb_in_text": text_is_cut,
    "env_unknown_object": unknown_object_is_counted,
    "env_both_messaging_and_standby": standby_is_declined,
    "env_changes_style_messages": same_event_model,
    "env_1000_events": thousand_messages,
    "env_1001_events_one_poison": thousand_messages,
    "env_same_event_twice_in_one_body": answered_once,
    "env_redelivery_other_entry_time": known_the_second_time,
    "env_mid_case_variants": two_messages,
    "env_mid_same_other_account": two_messages,
    "env_ids_numeric": exact_digits,
    "env_sender_equals_recipient": nobody_is_answered,
    "env_unknown_page": read_in_without_rules,
    "env_page_disconnected": kept_and_nothing_more,
    "env_echo_own": echo_is_bound,
    "env_echo_foreign_app": echo_is_anothers,
    "env_echo_forged_metadata": echo_is_anothers,
    "env_echo_before_send_response": one_row_before_the_answer_and_after,
    "env_text_only_whitespace": joiners_are_decided,
    "env_text_rtl_and_control": controls_are_kept_and_not_logged,
    "env_attachment_ssrf_urls": addresses_are_texts,
    "env_attachment_500": fifty_are_kept,
    "env_reaction_to_unknown_mid": reaction_is_kept,
    "env_unsend_before_message": stays_deleted,
    "env_edit_out_of_order": highest_edit_wins,
    "env_read_watermark_backwards": watermark_stays,
    "env_36h_late": expired_and_unsent,
    "env_prototype_style_keys": plain_message,
    "env_sql_in_ids": tables_stand,
}


async def test_while_wide_objects_are_read_others_are_served(edge: Edge) -> None:
    scene = edge.scene("wide")
    members = ",".join(f'"k{number}":{number}' for number in range(200_000))
    wide = [signed(f'{{"{scene.person}":0,{members}}}'.encode()) for _ in range(4)]

    reading = [asyncio.create_task(edge.post(each)) for each in wide]
    honest = await edge.post(signed(scene.body(scene.message())))

    assert honest.status == 200
    assert {(await each).status for each in reading} <= {200, 503}  # by how fast the machine is


async def test_the_catalogue_names_what_is_made_here() -> None:
    made = REQUESTS.keys() | PREPARE.keys()

    assert {case.name for case in POSTS} == made
    assert AFTERWARDS.keys() <= made
