import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_store import ids

page_ids = st.text(string.ascii_letters + string.digits + "._~-", min_size=1, max_size=128)
numbers = st.integers(1, 2**63 - 1)
named = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(page_ids, numbers)
def test_an_events_id_names_its_page_and_number(page_id: str, number: int) -> None:
    written = ids.event_id(page_id, number)

    assert ids.parse_event_id(written) == (page_id, number)
    assert ids.parse_reply_id(written) is None


@given(page_ids, numbers)
def test_a_replys_id_names_its_page_and_number(page_id: str, number: int) -> None:
    written = ids.reply_id(page_id, number)

    assert ids.parse_reply_id(written) == (page_id, number)
    assert ids.parse_event_id(written) is None


@given(named, named)
def test_a_conversations_id_names_both_sides_and_fits_an_address(page_id: str, other: str) -> None:
    written = ids.conversation_id(page_id, other)

    assert ids.parse_conversation_id(written) == (page_id, other)
    assert set(written) <= set(string.ascii_letters + string.digits + "._~-")


@given(st.text() | st.text("er-c0123456789AZaz_").map("c-{}".format))
def test_whatever_an_id_is_parsed_from_is_its_only_spelling(text: str) -> None:
    event, reply = ids.parse_event_id(text), ids.parse_reply_id(text)
    conversation = ids.parse_conversation_id(text)

    assert event is None or ids.event_id(*event) == text
    assert reply is None or ids.reply_id(*reply) == text
    assert conversation is None or ids.conversation_id(*conversation) == text


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "e-1",
        "e-1-",
        "e--1",
        "e-1-0",
        "e-1-01",
        "e-1-+1",
        "e-1-1\n",
        "e-1-٣",
        "e-1/2-1",
        f"e-1-{2**63}",
        "E-1-1",
        " e-1-1",
    ],
)
def test_a_forged_event_id_names_nothing(forged: str) -> None:
    assert ids.parse_event_id(forged) is None


@pytest.mark.parametrize(
    "forged", ["c-", "c-AAAA", "c-MQAy=", "c-MQA", "c-ADI", "c-MQAyADM", "c-MQAyMB", "c-/w", "MQAy"]
)
def test_a_forged_conversation_id_names_nothing(forged: str) -> None:
    assert ids.parse_conversation_id(forged) is None


def test_rule_ids_are_new_each_time_and_recognised() -> None:
    made = {ids.new_rule_id() for _ in range(100)}

    assert len(made) == 100
    assert all(ids.is_rule_id(each) for each in made)
    assert not ids.is_rule_id("rule-0123456789ABCDEF")


@pytest.mark.parametrize("text", ["0", "-1", "01", "1.0", "x", "", "9" * 30, str(2**63)])
def test_what_is_no_positive_64_bit_number_is_none(text: str) -> None:
    assert ids.parse_number(text) is None
