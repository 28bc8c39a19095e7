"""Whether Meta signed a body."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_webhook.signature import Secret, secrets_of, signer

KEY = "example-app-secret"
ONE = secrets_of([KEY])
NOW = 1_767_312_010.5

BODY_A = b'{"object":"page","entry":[]}'
BODY_B = (
    b'{"object":"page","entry":[{"id":"1","time":1,"messaging":[{"sender":{"id":"2"},'
    b'"recipient":{"id":"1"},"timestamp":1,"message":{"mid":"m_1",'
    b'"text":"\\u00e4 \\ud83d\\ude00 a\\/b"}}]}]}'
)
BODY_C = BODY_B.replace(b"\\u00e4", "ä".encode())
BODY_C = BODY_C.replace(b"\\ud83d\\ude00", "😀".encode()).replace(b"\\/", b"/")

# The published examples of this key; B and C are one document in two spellings.
KNOWN = {
    BODY_A: "ad8be1d70c23fcbf13161e2bdec3804c9dc74496ff7ef30b79d9ac1c3a791649",
    BODY_B: "22a2fb0212aaabfa9c38feafc5ff17e108f28ec9a2f7cf20a44efb07ea723374",
    BODY_C: "f71b9ba69b32c68f1f0a65837ab13ef242a45069f07cf156cfc13e9271703eec",
}


def sign(raw: bytes, key: str = KEY) -> bytes:
    return b"sha256=" + hmac.new(key.encode(), raw, hashlib.sha256).hexdigest().encode()


@pytest.mark.parametrize(("raw", "digest"), KNOWN.items(), ids=["A", "B", "C"])
def test_the_known_answers_are_taken(raw: bytes, digest: str) -> None:
    assert signer(raw, [b"sha256=" + digest.encode()], ONE, NOW) == "app"


def test_another_spelling_of_the_same_document_is_refused() -> None:
    assert signer(BODY_C, [sign(BODY_B)], ONE, NOW) is None


def test_the_secret_that_matched_is_named() -> None:
    secrets = secrets_of(["new-secret-of-the-app", "old-secret-of-the-app"], ["instagram-secret-x"])

    assert signer(BODY_A, [sign(BODY_A, "new-secret-of-the-app")], secrets, NOW) == "app"
    assert signer(BODY_A, [sign(BODY_A, "old-secret-of-the-app")], secrets, NOW) == "app-previous"
    assert signer(BODY_A, [sign(BODY_A, "instagram-secret-x")], secrets, NOW) == "instagram"
    assert signer(BODY_A, [sign(BODY_A, "a-secret-taken-out")], secrets, NOW) is None


def test_upper_case_hex_is_the_same_digest() -> None:
    upper = b"sha256=" + sign(BODY_A).removeprefix(b"sha256=").upper()

    assert signer(BODY_A, [upper], ONE, NOW) == "app"


RIGHT = sign(BODY_A)
WRONG = b"sha256=" + b"0" * 64


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="empty"),
        pytest.param([b"sha256="], id="no digits"),
        pytest.param([RIGHT[:-1]], id="63 digits"),
        pytest.param([RIGHT + b"0"], id="65 digits"),
        pytest.param([RIGHT + b"\n"], id="a line end"),
        pytest.param([b" " + RIGHT], id="a space before"),
        pytest.param([RIGHT[:20] + b" " + RIGHT[20:]], id="a space inside"),
        pytest.param([b"sha256=" + b"\xe9" * 64], id="not ASCII"),
        pytest.param([b"SHA256=" + RIGHT[7:]], id="prefix in capitals"),
        pytest.param([RIGHT[7:]], id="no prefix"),
        pytest.param([b"sha1=" + b"0" * 40], id="SHA-1"),
        pytest.param([RIGHT, WRONG], id="two, the right one first"),
        pytest.param([WRONG, RIGHT], id="two, the right one last"),
        pytest.param([RIGHT, RIGHT], id="the right one twice"),
        pytest.param([RIGHT + b", " + WRONG], id="two in one"),
    ],
)
def test_all_but_one_well_formed_header_is_refused(headers: list[bytes]) -> None:
    assert signer(BODY_A, headers, ONE, NOW) is None


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=80))
def test_what_was_signed_verifies(raw: bytes, key: bytes) -> None:
    claim = b"sha256=" + hmac.digest(key, raw, "sha256").hex().encode()

    assert signer(raw, [claim], [Secret("app", key)], NOW) == "app"


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_changed_byte_of_the_body_fails(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))

    assert signer(bytes(changed), [sign(raw)], ONE, NOW) is None


@given(st.data())
def test_any_changed_byte_of_the_header_fails(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(RIGHT) - 1))
    changed = bytearray(RIGHT)
    changed[at] ^= data.draw(st.integers(1, 255))

    verdict = signer(BODY_A, [bytes(changed)], ONE, NOW)

    is_another_case = changed.startswith(b"sha256=") and bytes(changed).lower() == RIGHT
    assert verdict == ("app" if is_another_case else None)


@given(st.lists(st.binary(max_size=100), max_size=3))
def test_no_header_makes_it_raise(headers: list[bytes]) -> None:
    assert signer(BODY_A, headers, ONE, NOW) in (None, "app")


def test_a_secret_does_not_show_its_key() -> None:
    assert KEY not in repr(ONE)
