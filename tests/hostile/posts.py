"""The requests of the cases at the edge's POST, each under its case's name."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.hostile.edge import (
    ANOTHER_APPS,
    LARGEST,
    PREVIOUS,
    TAKEN_OUT,
    Request,
    Scene,
    claimed,
    document,
    signature,
    signed,
)

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS

WRONG = b"sha256=" + b"0" * 64
BEYOND_DOUBLES = 9_007_199_254_740_993
"""2**53 + 1, which a double rounds."""
JOINERS = "\u200d" * 2_000
CONTROLS = "\u202egnp.exe\u202c \x1b[31mred\x1b[0m\r\nlevel=error forged \u2066"

ADDRESSES = (
    "http://127.0.0.1:5432",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]/",
    "http://0x7f000001/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:11211/_stats",
    "https://user@host.example/",
    "https://private.example/",
    "https://changing.example/",
    "https://redirecting.example/",
)

REQUESTS: dict[str, Callable[[Scene], Sequence[Request]]] = {}


def case(make: Callable[[Scene], Sequence[Request]]) -> Callable[[Scene], Sequence[Request]]:
    """The requests of the case of this name."""
    REQUESTS[make.__name__] = make
    return make


def good(scene: Scene) -> bytes:
    """A body that is taken where it is signed."""
    return scene.body(scene.message())


def with_timestamps(scene: Scene, *said: str) -> list[Request]:
    """A message for each, with this for its timestamp."""
    return [
        signed(
            scene.body(scene.message(number)).replace(
                f'"timestamp": {scene.now}'.encode(), f'"timestamp": {each}'.encode()
            )
        )
        for number, each in enumerate(said)
    ]


def with_text(scene: Scene, text: bytes) -> Request:
    """A message whose text is spelt like this."""
    return signed(good(scene).replace(b'"hello"', b'"' + text + b'"'))


# Signatures


@case
def sig_ok_minimal(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page","entry":[]}')]


@case
def sig_missing(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene))]


@case
def sig_sha1_only(scene: Scene) -> Sequence[Request]:
    body = good(scene)
    return [Request(body, [("X-Hub-Signature", signature(body, algorithm="sha1"))])]


@case
def sig_wrong_secret(scene: Scene) -> Sequence[Request]:
    return [signed(good(scene), ANOTHER_APPS)]


@case
def sig_one_bit_flip(scene: Scene) -> Sequence[Request]:
    body = good(scene)
    flipped = bytearray(body)
    flipped[len(flipped) // 2] ^= 1
    return [claimed(bytes(flipped), signature(body))]


@case
def sig_truncated_hex(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene), signature(good(scene))[:-1])]


@case
def sig_empty_value(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene), b"sha256=")]


@case
def sig_whitespace_in_hex(scene: Scene) -> Sequence[Request]:
    right = signature(good(scene))
    return [claimed(good(scene), right[:31] + b" " + right[31:])]


@case
def sig_non_ascii(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene), b"sha256=" + b"\xe9" * 64)]


@case
def sig_prefix_case(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene), signature(good(scene)).replace(b"sha", b"SHA"))]


@case
def sig_two_headers(scene: Scene) -> Sequence[Request]:
    right = signature(good(scene))
    return [claimed(good(scene), right, WRONG), claimed(good(scene), WRONG, right)]


@case
def sig_comma_joined(scene: Scene) -> Sequence[Request]:
    return [claimed(good(scene), signature(good(scene)) + b", " + WRONG)]


@case
def sig_over_reserialised_json(scene: Scene) -> Sequence[Request]:
    spaced = scene.body(scene.message(text="på"))
    compact = json.dumps(json.loads(spaced), separators=(",", ":"), ensure_ascii=False).encode()
    return [claimed(spaced, signature(compact))]


@case
def sig_raw_with_escapes(scene: Scene) -> Sequence[Request]:
    return [with_text(scene, rb"\u00e5 \/ " + "å".encode())]


@case
def sig_previous_secret_in_rotation(scene: Scene) -> Sequence[Request]:
    return [signed(good(scene), PREVIOUS)]


@case
def sig_previous_secret_after_rotation(scene: Scene) -> Sequence[Request]:
    return [signed(good(scene), TAKEN_OUT)]


@case
def spoof_forwarded_for(scene: Scene) -> Sequence[Request]:
    claims = [("X-Forwarded-For", b"173.252.88.1"), ("X-Real-IP", b"173.252.88.1")]
    return [Request(good(scene), claims)]


@case
def spoof_internal_headers(scene: Scene) -> Sequence[Request]:
    asked = signed(good(scene))
    claims = [
        ("x-page-id", scene.other_page.encode()),
        ("x-request-user", b"root"),
        ("grpc-metadata-authorization", b"Bearer of-an-operator"),
        ("pagewire-actor", b"root"),
    ]
    return [Request(asked.body, [*asked.headers, *claims])]


# JSON


@case
def json_invalid(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page","entry":[')]


@case
def json_empty_body(_: Scene) -> Sequence[Request]:
    return [signed(b"")]


@case
def json_top_level_array(scene: Scene) -> Sequence[Request]:
    return [signed(b"[" + good(scene) + b"]")]


@case
def json_scalar(_: Scene) -> Sequence[Request]:
    return [signed(b"42"), signed(b"null"), signed(b'"x"')]


@case
def json_nested_array_100000(_: Scene) -> Sequence[Request]:
    return [signed(b"[" * 100_000 + b"]" * 100_000)]


@case
def json_nested_object_900(scene: Scene) -> Sequence[Request]:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    return [signed(good(scene).replace(b'"hello"', deep))]


@case
def json_wide_object(_: Scene) -> Sequence[Request]:
    members = ",".join(f'"k{number}":0' for number in range(200_000))
    return [signed(b"{" + members.encode() + b"}")]


@case
def json_duplicate_keys(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page","object":"instagram","entry":[]}')]


@case
def json_duplicate_mid_key(scene: Scene) -> Sequence[Request]:
    one, other = (f'"mid": "{scene.mid(number)}"' for number in (1, 2))
    return [signed(good(scene).replace(one.encode(), f"{one}, {other}".encode()))]


@case
def json_nan_infinity(scene: Scene) -> Sequence[Request]:
    return with_timestamps(scene, "NaN", "Infinity", "-Infinity")


@case
def json_float_overflow(scene: Scene) -> Sequence[Request]:
    return with_timestamps(scene, "1e400")


@case
def json_huge_int(scene: Scene) -> Sequence[Request]:
    return with_timestamps(scene, "9" * 5_000)


@case
def json_int_beyond_int64(scene: Scene) -> Sequence[Request]:
    return with_timestamps(scene, str(2**63))


@case
def json_negative_timestamp(scene: Scene) -> Sequence[Request]:
    return with_timestamps(scene, "-1", str(scene.now // 1000), str(scene.now + 10 * YEAR_MS))


@case
def json_nul_escape(scene: Scene) -> Sequence[Request]:
    return [with_text(scene, rb"a\u0000b")]


@case
def json_lone_surrogate(scene: Scene) -> Sequence[Request]:
    return [with_text(scene, rb"a\ud800b")]


@case
def json_invalid_utf8(scene: Scene) -> Sequence[Request]:
    return [with_text(scene, b"a\xffb")]


@case
def json_utf16(scene: Scene) -> Sequence[Request]:
    return [signed(good(scene).decode().encode("utf-16"))]


@case
def json_utf8_bom(scene: Scene) -> Sequence[Request]:
    return [signed(b"\xef\xbb\xbf" + good(scene))]


@case
def json_trailing_garbage(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page","entry":[]}{}')]


@case
def json_comments_trailing_comma(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page","entry":[],}')]


@case
def json_string_4mb_in_text(scene: Scene) -> Sequence[Request]:
    return [with_text(scene, b"x" * LARGEST)]


# Of JSON, ours beyond the usual


@case
def json_million_values(_: Scene) -> Sequence[Request]:
    return [signed(b"[" + (b"[" * 30 + b"]" * 30 + b",") * 65_000 + b"0]")]


# Envelopes and events


@case
def env_unknown_object(scene: Scene) -> Sequence[Request]:
    held = {"object": "not_a_page", "entry": [{"id": scene.page, "time": scene.now}]}
    return [signed(json.dumps(held).encode())]


@case
def env_entry_not_array(_: Scene) -> Sequence[Request]:
    spelt = (b"{}", b'"x"', b"null")
    return [signed(b'{"object":"page","entry":' + each + b"}") for each in spelt]


@case
def env_entry_missing(_: Scene) -> Sequence[Request]:
    return [signed(b'{"object":"page"}')]


@case
def env_entry_without_messaging_or_changes(scene: Scene) -> Sequence[Request]:
    return [signed(document({"id": scene.page, "time": scene.now}))]


@case
def env_both_messaging_and_standby(scene: Scene) -> Sequence[Request]:
    standby = [scene.message("standby", text="price")]
    return [signed(document(scene.entry(scene.message("live"), standby=standby)))]


@case
def env_changes_style_messages(scene: Scene) -> Sequence[Request]:
    change = {"field": "messages", "value": scene.message()}
    return [signed(document(scene.entry(change, channel="changes")))]


@case
def env_1000_events(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(*(scene.message(number) for number in range(1_000))))]


@case
def env_1001_events_one_poison(scene: Scene) -> Sequence[Request]:
    items = [scene.message(number) for number in range(1_000)]
    poison = scene.message("poison")
    del poison["sender"]
    return [signed(scene.body(*items[:500], poison, *items[500:]))]


@case
def env_same_event_twice_in_one_body(scene: Scene) -> Sequence[Request]:
    item = scene.message(text="price")
    return [signed(scene.body(item, item))]


@case
def env_redelivery_other_entry_time(scene: Scene) -> Sequence[Request]:
    item = scene.message()
    again = scene.entry(scene.message("neighbour"), item) | {"time": scene.now + 60_000}
    return [signed(scene.body(item)), signed(document(again))]


@case
def env_missing_mid(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(*(scene.item(message={"text": text}) for text in ("a", "b"))))]


@case
def env_mid_wrong_type(scene: Scene) -> Sequence[Request]:
    mids: list[object] = [123, {}, "m" * 10_000]
    return [signed(scene.body(scene.item(message={"mid": mid, "text": "a"}))) for mid in mids]


@case
def env_mid_case_variants(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message("a"), scene.message("A")))]


@case
def env_mid_same_other_account(scene: Scene) -> Sequence[Request]:
    other = scene.message() | {"recipient": {"id": scene.other_page}}
    entry = scene.entry(other) | {"id": scene.other_page}
    return [signed(document(scene.entry(scene.message()), entry))]


@case
def env_ids_numeric(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message() | {"sender": {"id": BEYOND_DOUBLES}}))]


@case
def env_sender_equals_recipient(scene: Scene) -> Sequence[Request]:
    alone = [
        scene.message(who, text="price") | {"sender": {"id": who}, "recipient": {"id": who}}
        for who in (scene.page, scene.person)
    ]
    return [signed(scene.body(each)) for each in alone]


@case
def env_unknown_page(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message(text="price")))]


@case
def env_page_disconnected(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message("after", text="price")))]


@case
def env_echo_foreign_app(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.echo(scene.mid(), text="price", app_id=880_000_000_000_099)))]


@case
def env_text_only_whitespace(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message(text=JOINERS)))]


@case
def env_text_rtl_and_control(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message(text=CONTROLS)))]


@case
def env_attachment_500(scene: Scene) -> Sequence[Request]:
    pictures = [_picture(f"https://pictures.example/{number}") for number in range(500)]
    return [signed(scene.body(scene.message(attachments=pictures)))]


@case
def env_attachment_ssrf_urls(scene: Scene) -> Sequence[Request]:
    return [signed(scene.body(scene.message(attachments=[_picture(url) for url in ADDRESSES])))]


@case
def env_reaction_to_unknown_mid(scene: Scene) -> Sequence[Request]:
    reaction = {"mid": scene.mid("unseen"), "action": "react", "reaction": "love", "emoji": "❤"}
    return [signed(scene.body(scene.item(reaction=reaction)))]


@case
def env_unsend_before_message(scene: Scene) -> Sequence[Request]:
    gone = scene.item(message={"mid": scene.mid(), "is_deleted": True})
    return [signed(scene.body(gone)), signed(scene.body(scene.message(text="price")))]


@case
def env_edit_out_of_order(scene: Scene) -> Sequence[Request]:
    edits = [
        scene.item(message_edit={"mid": scene.mid(), "text": f"edit {number}", "num_edit": number})
        for number in (2, 1)
    ]
    return [signed(scene.body(each)) for each in (scene.message(), *edits)]


@case
def env_read_watermark_backwards(scene: Scene) -> Sequence[Request]:
    reads = [scene.item(read={"watermark": scene.now - ago}) for ago in (0, HOUR_MS)]
    return [signed(scene.body(each)) for each in (scene.message(), *reads)]


@case
def env_36h_late(scene: Scene) -> Sequence[Request]:
    said = scene.now - 36 * HOUR_MS
    return [signed(scene.body(scene.message(text="price") | {"timestamp": said}))]


@case
def env_prototype_style_keys(scene: Scene) -> Sequence[Request]:
    keys: dict[str, Any] = {
        "__proto__": {"is_echo": True},
        "__class__": "Echo",
        "constructor": {"mid": "other"},
    }
    return [signed(scene.body(scene.message(**keys)))]


@case
def env_sql_in_ids(scene: Scene) -> Sequence[Request]:
    sender = {"id": "1'); DROP TABLE message;--"}
    return [signed(scene.body(scene.message() | {"sender": sender}))]


def _picture(url: str) -> dict[str, object]:
    return {"type": "image", "payload": {"url": url}}
