"""Natural keys."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_webhook import keys

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=15,
)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(held) for key, held in reversed(value.items())}
    if isinstance(value, list):
        return [reversed_keys(each) for each in value]
    return value


@given(json_values)
def test_the_hash_of_an_item_does_not_depend_on_the_order_of_its_keys(value: Any) -> None:
    assert keys.of_item("unknown", value) == keys.of_item("unknown", reversed_keys(value))


@given(json_values, json_values)
def test_items_that_differ_have_canonical_texts_that_differ(one: Any, other: Any) -> None:
    if repr(one) != repr(other) and one != other:
        assert keys.canonical(one) != keys.canonical(other)


def test_a_hash_is_the_first_32_hex_digits_of_sha_256() -> None:
    assert keys.digest("") == "e3b0c44298fc1c149afbf4c8996fb924"
    assert keys.of_item("unknown", {}) == "unknown:44136fa355b3678a1146ad16f7e8649e"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (None, "none"),
        ("", "none"),
        ("STOP NOTIFICATIONS", "STOP NOTIFICATIONS"),
        ("x" * 128, "x" * 128),
    ],
)
def test_a_short_plain_text_stands_in_a_key_as_it_is(value: str | None, part: str) -> None:
    assert keys.part(value) == part


@pytest.mark.parametrize("value", ["x" * 129, "žluť", "a\nb", "\x00", 17, {"a": 1}, "\x7f"])
def test_any_other_stands_in_a_key_as_its_hash(value: Any) -> None:
    assert re.fullmatch("[0-9a-f]{32}", keys.part(value))


def test_a_missing_time_is_none_and_never_the_time_of_receipt() -> None:
    assert keys.key("referral", "7", keys.time_part(None)) == "referral:7:none"
    assert keys.key("referral", "7", keys.time_part(1767312000000)) == "referral:7:1767312000000"


def test_a_key_of_the_longest_ids_is_hashed_to_fit_the_stores_index() -> None:
    fits = keys.key("read", "9" * 512, "m" * 182)
    over = [keys.key("reaction", "m" * 512, "9" * 512, action) for action in ("react", "unreact")]

    assert len(fits) == keys.MAX_BYTES
    assert all(re.fullmatch("reaction:[0-9a-f]{32}", key) for key in over)
    assert len(set(over)) == 2
