import hashlib
import hmac
import json
from collections import Counter

from bench.pacing import poisson
from bench.traffic import TRIGGER_WORD, Traffic, request
from bench.world import Sends, acknowledged, asked, until_sent
from tests.bench.outcomes import call, outcome

TRAFFIC = Traffic(
    name="load", pages=("1", "2"), people=3, messages=40, sent_ms=1_767_312_003_000, asking=0.3
)


def test_the_same_values_give_the_same_bytes_in_every_process() -> None:
    again = Traffic(
        name="load", pages=("1", "2"), people=3, messages=40, sent_ms=1_767_312_003_000, asking=0.3
    )

    assert list(TRAFFIC.bodies()) == list(again.bodies())


def test_no_two_messages_of_any_loads_share_an_id() -> None:
    other = Traffic(name="load2", pages=("1",), people=1, messages=40, sent_ms=0)
    mids = [message.mid for traffic in (TRAFFIC, other) for message in traffic.each()]

    assert len(set(mids)) == len(mids)


def test_only_messages_that_ask_have_the_word_that_the_rule_looks_for() -> None:
    for message in TRAFFIC.each():
        assert (TRIGGER_WORD in message.text.split()) is message.asks
        assert (TRIGGER_WORD in message.text) is message.asks


def test_bodies_hold_every_message_once_however_many_are_put_into_one() -> None:
    batched = Traffic(
        name="load", pages=("1",), people=3, messages=40, sent_ms=1_767_312_003_000, per_body=15
    )
    entries = [json.loads(body)["entry"] for body in batched.bodies()]

    assert [len(each) for each in entries] == [15, 15, 10]
    mids = [item["messaging"][0]["message"]["mid"] for each in entries for item in each]
    assert mids == [message.mid for message in batched.each()]


def test_a_request_is_signed_over_exactly_its_body() -> None:
    head, _, body = request(b'{"object":"page"}', "secret", "/api/webhook").partition(b"\r\n\r\n")

    digest = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    assert head.startswith(b"POST /api/webhook HTTP/1.1\r\n")
    assert f"X-Hub-Signature-256: sha256={digest}".encode() in head
    assert b"Content-Length: 17" in head


def test_arrivals_come_in_order_at_the_rate_that_was_asked_for() -> None:
    moments = poisson(100, 2_000, seed=1)

    assert moments == sorted(moments)
    assert 18 < moments[-1] < 22


def test_a_message_is_acknowledged_once_any_of_its_posts_was_answered_200() -> None:
    two_bodies = Traffic(name="a", pages=("1",), people=1, messages=4, sent_ms=0, per_body=2)
    mids = [message.mid for message in two_bodies.each()]

    found = acknowledged(two_bodies, outcome([503, 200, 200, 0]))

    assert found == set(mids)
    assert acknowledged(two_bodies, outcome([503, 200])) == set(mids[2:])


def test_each_person_is_owed_an_answer_a_question() -> None:
    owed = asked(TRAFFIC.each())

    assert owed.total() == sum(message.asks for message in TRAFFIC.each())
    assert owed == Counter(m.person_id for m in TRAFFIC.each() if m.asks)


def test_the_nth_send_to_a_person_answers_that_person_s_nth_question() -> None:
    traffic = Traffic(name="b", pages=("1",), people=1, messages=2, sent_ms=0, asking=1)
    first, second = traffic.each()
    sends = Sends([call(first.person_id, 1_030), call(first.person_id, 1_250)])

    waits = until_sent(
        traffic, outcome([200, 200], due=[0.0, 0.2], began=1.0), {first.mid, second.mid}, sends
    )

    assert [round(wait) for wait in waits] == [30, 50]


def test_a_question_that_was_never_stored_waits_for_ever_and_shifts_no_other() -> None:
    traffic = Traffic(name="b", pages=("1",), people=1, messages=2, sent_ms=0, asking=1)
    _, second = traffic.each()
    sends = Sends([call(second.person_id, 1_250)])

    waits = until_sent(traffic, outcome([503, 200], due=[0.0, 0.2], began=1.0), {second.mid}, sends)

    assert [waits[0], round(waits[1])] == [float("inf"), 50]
