import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_simulator import wire

BODY_A = b'{"object":"page","entry":[]}'
BODY_B = (
    b'{"object":"page","entry":[{"id":"1","time":1,"messaging":[{"sender":{"id":"2"},'
    b'"recipient":{"id":"1"},"timestamp":1,"message":{"mid":"m_1",'
    b'"text":"\\u00e4 \\ud83d\\ude00 a\\/b"}}]}]}'
)
BODY_C = json.dumps(json.loads(BODY_B), separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("body", "sha1", "sha256"),
    [
        (
            BODY_A,
            "7001c311d9bcd66bd5ce5900188f158c06f64702",
            "ad8be1d70c23fcbf13161e2bdec3804c9dc74496ff7ef30b79d9ac1c3a791649",
        ),
        (
            BODY_B,
            "bd3b2d66a1b8d42e95c9f64878c1802d7f74185d",
            "22a2fb0212aaabfa9c38feafc5ff17e108f28ec9a2f7cf20a44efb07ea723374",
        ),
        (
            BODY_C,
            "5f841a38fe84c696174d5b8107a7c70c4bb21a45",
            "f71b9ba69b32c68f1f0a65837ab13ef242a45069f07cf156cfc13e9271703eec",
        ),
    ],
)
def test_the_signatures_are_those_of_the_known_answers(body: bytes, sha1: str, sha256: str) -> None:
    headers = wire.signed(body, "example-app-secret")

    assert headers["X-Hub-Signature"] == f"sha1={sha1}"
    assert headers["X-Hub-Signature-256"] == f"sha256={sha256}"


def test_a_body_is_encoded_byte_for_byte_as_meta_does() -> None:
    encoded = wire.encode(json.loads(BODY_B))

    assert encoded == BODY_B
    assert len(encoded) == 178


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53)))
def test_any_text_survives_the_escapes_and_stays_ascii(content: dict[str, str | int]) -> None:
    encoded = wire.encode(content)

    assert json.loads(encoded) == content
    assert encoded.isascii()
    assert encoded.count(b"/") == encoded.count(b"\\/")
