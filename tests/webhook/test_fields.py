"""Single fields: what their patterns say, and nothing else."""

import re
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagewire_webhook.fields import (
    DAY_MS,
    EARLIEST_MS,
    TEXT_MAX_BYTES,
    Clip,
    clamped,
    identifier,
    moment,
    optional_id,
    optional_moment,
    word_id,
)
from pagewire_webhook.keys import canonical
from pagewire_webhook.unreadable import Unread

NOW = 1_767_312_010_000
ID_CHARACTERS = set(string.ascii_letters + string.digits + "_.:=+/$-")
REASONS = {"id_missing", "id_malformed", "timestamp_malformed", "timestamp_out_of_range"}

near_ids = st.text(st.sampled_from([*ID_CHARACTERS, " ", "\n", "é", "٣", "\0", "'"]), max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | near_ids,
    lambda children: (
        st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=3), children)
    ),
    max_leaves=3,
)


def is_id(text: str) -> bool:
    """As the contract states it, without a regular expression."""
    return 0 < len(text) <= 512 and set(text) <= ID_CHARACTERS


def refusal(read: Any, value: Any) -> str:
    """Why it is refused; empty where it is not."""
    try:
        read(value)
    except Unread as why:
        return why.reason
    return ""


@given(near_ids | st.text())
@example("a" * 512)
@example("a" * 513)
@example("a\n")
def test_an_id_is_what_its_pattern_says(text: str) -> None:
    expected = "" if is_id(text) else "id_malformed" if text else "id_missing"

    assert refusal(identifier, text) == refusal(word_id, text) == expected
    assert optional_id(text) == (text if is_id(text) else "")


@given(st.integers())
@example(2**53 + 1)
@example(10**30 - 1)
@example(10**30)
@example(-1)
def test_a_number_is_an_id_with_its_digits_where_it_is_no_larger_than_any(number: int) -> None:
    if 0 <= number < 10**30:
        assert identifier(number) == str(number)
    else:
        assert refusal(identifier, number) == "id_malformed"
    assert refusal(word_id, number) == "id_malformed"


@given(anything)
def test_no_value_makes_a_field_raise_anything_but_unread(value: Any) -> None:
    for read in (identifier, word_id, moment):
        assert refusal(read, value) in {"", *REASONS}
    optional_id(value)
    Clip().text(value)
    said = optional_moment(value, NOW)
    assert said is None or EARLIEST_MS <= said <= NOW + DAY_MS


@given(st.integers(-(2**70), 2**70))
def test_a_time_beyond_64_bits_is_none(number: int) -> None:
    is_time = -(2**63) <= number < 2**63

    assert refusal(moment, number) == ("" if is_time else "timestamp_out_of_range")
    if -(10**40) < number < 10**40:
        assert refusal(moment, str(number)) == refusal(moment, number)


@given(st.integers(), st.integers(EARLIEST_MS, 2**45))
def test_a_clamped_time_is_no_older_than_facebook_and_at_most_a_day_ahead(
    said: int, received: int
) -> None:
    time = clamped(said, received)

    assert EARLIEST_MS <= time <= received + DAY_MS
    assert time == said or not EARLIEST_MS <= said <= received + DAY_MS


@given(st.text(), st.integers(0, 3))
def test_a_text_is_kept_but_for_nul_and_cut_to_whole_characters(text: str, times: int) -> None:
    long = text * (1 + times * TEXT_MAX_BYTES // max(1, len(text)))
    clip = Clip()

    kept = clip.text(long)

    plain = long.replace("\0", "\ufffd")
    assert plain.startswith(kept)
    assert len(kept.encode()) <= TEXT_MAX_BYTES
    assert clip.cut == (kept != plain)
    assert not clip.cut or len(kept.encode()) > TEXT_MAX_BYTES - 4


@pytest.mark.parametrize(
    "said", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00Z"]
)
def test_a_time_at_the_end_of_the_calendar_is_one(said: str) -> None:
    assert isinstance(moment(said), int)


@given(anything)
def test_a_document_is_one_json_text_or_left_out(value: Any) -> None:
    clip = Clip()

    document = clip.json(value)

    assert document == canonical(value) or (clip.cut and document == "")
    assert re.search(r"[\x00-\x1f]", document) is None
