from collections import Counter

import pytest

from bench.figures import MeasuringFailed
from bench.receivers import check, check_sends
from bench.traffic import Traffic
from bench.world import Sends
from tests.bench.outcomes import call

TRAFFIC = Traffic(name="c", pages=("1",), people=2, messages=6, sent_ms=0, asking=1)
MIDS = {message.mid for message in TRAFFIC.each()}
ANSWERS = [call(message.person_id, 0) for message in TRAFFIC.each()]


def test_a_load_that_is_stored_and_answered_once_passes() -> None:
    check(TRAFFIC, MIDS, MIDS, Sends(ANSWERS))


def test_a_message_that_was_acknowledged_and_is_not_stored_is_lost() -> None:
    one = next(iter(MIDS))

    with pytest.raises(MeasuringFailed, match="1 messages were answered 200 and lost"):
        check(TRAFFIC, MIDS, MIDS - {one}, Sends(ANSWERS))


def test_a_question_without_an_answer_fails_the_load() -> None:
    with pytest.raises(MeasuringFailed, match="1 answers were never sent"):
        check(TRAFFIC, MIDS, MIDS, Sends(ANSWERS[1:]))


def test_a_second_answer_to_the_same_question_fails_the_load() -> None:
    with pytest.raises(MeasuringFailed, match="1 answers were sent twice"):
        check(TRAFFIC, MIDS, MIDS, Sends([*ANSWERS, ANSWERS[0]]))


def test_nothing_may_be_sent_where_nothing_is_owed() -> None:
    with pytest.raises(MeasuringFailed, match="sent twice"):
        check_sends("repeats", Counter(), Sends(ANSWERS[:1]))
