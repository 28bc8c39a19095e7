"""Strict JSON: bytes to values."""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_webhook.reading import MAX_DEPTH, MAX_KEYS, MAX_VALUES, read
from pagewire_webhook.unreadable import Unread


def reason(raw: bytes) -> str:
    with pytest.raises(Unread) as unread:
        read(raw)
    return unread.value.reason


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" \n", id="white space"),
        pytest.param(b'{"object":"page","entry":[', id="cut"),
        pytest.param(b'{"object":"page"}{}', id="two documents"),
        pytest.param(b'{"a":[],}', id="a trailing comma"),
        pytest.param(b'{"a":1 /* so */}', id="a comment"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b'{"timestamp":NaN}', id="NaN"),
        pytest.param(b'{"timestamp":Infinity}', id="Infinity"),
        pytest.param(b'{"timestamp":-Infinity}', id="-Infinity"),
        pytest.param(b'{"a":"\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param('{"a":1}'.encode("utf-16-le"), id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf\xef\xbb\xbf{"a":1}', id="two marks"),
        pytest.param(b'{"a":"\x01"}', id="a bare control character"),
        pytest.param(b'{"a":"\\ud800", "b":"\\u00"}', id="half an escape beside a surrogate"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b"\x1f\x8b\x08\x00", id="gzip"),
    ],
)
def test_what_is_no_json_by_the_standard_is_refused(raw: bytes) -> None:
    assert reason(raw) == "json_invalid"


def test_a_byte_order_mark_in_front_is_skipped() -> None:
    assert read(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_a_lone_surrogate_becomes_a_replacement_and_pairs_stay() -> None:
    raw = b'{"a":"x\\ud800y","b":"\\ud83d\\ude00 \\\\ud800","\\udfff":["\\ude00\\ud83d"]}'

    value = read(raw)

    assert value == {"a": "x\ufffdy", "b": "😀 \\ud800", "\ufffd": ["\ufffd\ufffd"]}
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def test_integers_keep_every_digit() -> None:
    assert read(b"[9007199254740993, 9223372036854775808, 123456789012345678901234567890]") == [
        9007199254740993,
        9223372036854775808,
        123456789012345678901234567890,
    ]


@pytest.mark.parametrize("number", [b"1e400", b"9" * 5_000, b"-" + b"9" * 5_000])
def test_a_number_beyond_all_types_is_infinite_and_costs_only_itself(number: bytes) -> None:
    value = read(b'{"good":[1,2.5],"bad":' + number + b"}")

    assert value["good"] == [1, 2.5]
    assert math.isinf(value["bad"])


def test_of_repeated_keys_the_last_counts() -> None:
    assert read(b'{"object":"page","object":"instagram"}') == {"object": "instagram"}
    assert read(b'{"object":"\\ud800","object":"instagram"}') == {"object": "instagram"}


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_deepest_that_is_read_is_32_levels(opening: bytes, closing: bytes) -> None:
    read(nested(MAX_DEPTH, opening, closing))

    assert reason(nested(MAX_DEPTH + 1, opening, closing)) == "json_too_deep"
    assert reason(nested(900, opening, closing)) == "json_too_deep"


def test_depth_is_counted_on_the_patient_way_too() -> None:
    assert reason(b'["\\ud800",' + nested(MAX_DEPTH) + b"]") == "json_too_deep"


def test_hostile_nesting_is_refused_at_once() -> None:
    started = time.thread_time()

    assert reason(b"[" * 100_000 + b"]" * 100_000) == "json_too_deep"
    assert reason(b'["\\ud800",' + b"[" * 100_000 + b"]" * 100_001) == "json_too_deep"

    assert time.thread_time() - started < 2  # the limit is 50 ms of an idle machine


def test_brackets_within_texts_are_no_depth() -> None:
    assert read(json.dumps({"a": "[{" * 5_000}).encode()) == {"a": "[{" * 5_000}


def test_an_object_may_have_a_thousand_keys_and_no_more() -> None:
    def wide(keys: int) -> bytes:
        return json.dumps({"entry": [{str(key): 0 for key in range(keys)}]}).encode()

    read(wide(MAX_KEYS))

    assert reason(wide(MAX_KEYS + 1)) == "keys_too_many"
    assert reason(wide(200_000)) == "keys_too_many"


@pytest.mark.parametrize(
    "many",
    [
        pytest.param(lambda count: b"[" + b"0," * (count - 2) + b"0]", id="in one array"),
        pytest.param(lambda count: b"[" + b"[]," * (count // 2 - 1) + b"0]", id="arrays"),
        pytest.param(lambda count: b"[" + b"{}," * (count // 2 - 1) + b"0]", id="objects"),
        pytest.param(
            lambda count: b'["\\ud800",' + b"0," * (count - 3) + b"0]", id="on the patient way"
        ),
    ],
)
def test_a_body_may_have_a_quarter_of_a_million_values_and_no_more(
    many: Callable[[int], bytes],
) -> None:
    read(many(MAX_VALUES))

    assert reason(many(MAX_VALUES + 4)) == "values_too_many"


def test_a_long_text_is_one_value() -> None:
    assert read(json.dumps("a text " * 500_000).encode()) == "a text " * 500_000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_json_can_say_is_read_as_it_is(value: Any) -> None:
    if any(map(math.isinf, floats_of(value))):
        return

    assert read(json.dumps(value).encode()) == value


def floats_of(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    children = value.values() if isinstance(value, dict) else value
    return (
        [n for each in children for n in floats_of(each)] if isinstance(value, dict | list) else []
    )


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise_anything_but_unread(raw: bytes) -> None:
    with suppress(Unread):
        read(raw)


@given(st.text(alphabet='{}[]",:\\ud8009eE.+-NaInfity \n\x00\xef', max_size=200))
def test_no_text_of_json_like_pieces_makes_it_raise_anything_but_unread(text: str) -> None:
    with suppress(Unread):
        json.dumps(read(text.encode()), ensure_ascii=False).encode("utf-8")
