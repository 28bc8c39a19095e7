"""The sixty example bodies, and the events, keys and counts that are expected of each."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire_webhook.deliveries import delivery_of
from pagewire_webhook.events import Kind, Source, Trigger

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_767_400_000_000

HASH = "#"
"""Stands in an expected key for 32 hex digits."""

P, P2, IG = "104200000000001", "104200000000002", "17841400000000101"
JO, ADA, IG_JO = "7100000000000001", "7100000000000002", "6500000000000201"


class Expected(NamedTuple):
    """An event: its kind, key, lane, trigger, and where not the usual, account and source."""

    kind: str
    key: str
    lane: str
    trigger: str = "none"
    page_id: str = P
    source: str = "live"
    is_own: bool = False


def message(mid: str, person: str = JO, trigger: str = "message", **other: Any) -> Expected:
    return Expected("message", f"message:{mid}", f"person:{person}", trigger, **other)


def instagram_message(mid: str, trigger: str = "message") -> Expected:
    return message(mid, IG_JO, trigger, page_id=IG)


def direct(kind: str, key: str, trigger: str = "none", **other: Any) -> Expected:
    return Expected(kind, key, f"person:{JO}", trigger, **other)


def comment(kind: str, key: str, root: str, trigger: str = "none", **other: Any) -> Expected:
    return Expected(kind, key, f"comment:{root}", trigger, **other)


TEST = Expected("test", f"test:{HASH}", "page", page_id="0")
POST = "900000000000501"
TOP = f"{POST}_800000000000601"
LEGACY = f"{POST}_800000000000603"
REPLY = f"{POST}_800000000000602"

EVENTS: dict[str, list[Expected]] = {
    "messenger_text": [message("m_AAAAtext01")],
    "messenger_text_unicode": [message("m_AAAAuni01")],
    "messenger_attachments_multi": [message("m_AAAAatt01")],
    "messenger_sticker_transition": [message("m_AAAAstk01")],
    "messenger_attachment_fallback_link": [message("m_AAAAfb01"), message("m_AAAAfb02")],
    "messenger_shared_post_and_reel": [message("m_AAAAshr01")],
    "messenger_quick_reply_and_reply": [message("m_AAAAqr01"), message("m_AAAArep01")],
    "messenger_message_ad_referral": [message("m_AAAAad01")],
    "messenger_message_deleted": [direct("message_deleted", "deleted:m_AAAAtext01")],
    "messenger_message_edit": [direct("message_edit", "edit:m_AAAAtext01:1")],
    "messenger_echo": [
        direct("echo", "echo:m_AAAAout07", is_own=True),
        direct("echo", "echo:m_AAAAout08", is_own=True),
    ],
    "messenger_postback": [direct("postback", "postback:m_AAAApb01", "postback")],
    "messenger_postback_legacy_no_mid": [
        direct("postback", f"postback:{JO}:1767312000000:{HASH}", "postback")
    ],
    "messenger_reaction_react_unreact": [
        direct("reaction", f"reaction:m_AAAAout07:{JO}:react:1767312001000", "reaction"),
        direct("reaction", f"reaction:m_AAAAout07:{JO}:unreact:1767312004000"),
    ],
    "messenger_read_watermark": [direct("read", f"read:{JO}:1767312009001")],
    "messenger_delivery_watermark_only": [direct("delivery", f"delivery:{JO}:1767312009001")],
    "messenger_optin_notification_messages": [
        direct("optin", f"optin:{JO}:NMT0000000000000001:STOP NOTIFICATIONS:1767312000000")
    ],
    "messenger_optin_checkbox_user_ref": [
        Expected("optin", "optin:ur-3f2a-0001:checkout-42:none:1767312000000", "page")
    ],
    "messenger_handover_and_policy": [
        direct("pass_thread_control", f"pass_thread_control:{JO}:1767312000001:{HASH}"),
        direct("take_thread_control", f"take_thread_control:{JO}:1767312000002:{HASH}"),
        direct("request_thread_control", f"request_thread_control:{JO}:1767312000003:{HASH}"),
        Expected("app_roles", f"app_roles:none:1767312000004:{HASH}", "page"),
        Expected("policy_enforcement", f"policy_enforcement:none:1767312000005:{HASH}", "page"),
    ],
    "messenger_other_events": [
        direct("account_linking", f"account_linking:{JO}:1767312000001:{HASH}"),
        direct("game_play", f"game_play:{JO}:1767312000002:{HASH}"),
        direct("messaging_feedback", f"messaging_feedback:{JO}:{HASH}"),
        direct("response_feedback", f"response_feedback:m_AAAAout07:{JO}:Good response"),
    ],
    "messenger_standby": [
        message("m_AAAAsb01", source="standby"),
        direct("postback", "postback:m_AAAAsb02", "postback", source="standby"),
    ],
    "messenger_batch_mixed": [
        message("m_AAAAbat01"),
        direct("delivery", f"delivery:{JO}:1767312009001"),
        message("m_AAAAbat02", ADA, page_id=P2),
        Expected(
            "feed_reaction",
            f"feed_reaction:{P}_{POST}:{ADA}:like:add:1767312000000",
            "page",
        ),
        comment(
            "comment",
            f"comment:{POST}_800000000000699:add",
            f"{POST}_800000000000699",
            "comment",
        ),
        message("m_AAAAbat00"),
    ],
    "messenger_duplicate_in_one_post": [message("m_AAAAdup01")],
    "messenger_referral_timestamp_seconds": [
        direct("referral", f"referral:{JO}:1767312000000:{HASH}", "referral")
    ],
    "messenger_numeric_ids": [message("mid.1767312000000:0a1b2c")],
    "page_feed_comment_add": [comment("comment", f"comment:{TOP}:add", TOP, "comment")],
    "page_feed_comment_reply_add": [comment("comment", f"comment:{REPLY}:add", TOP, "comment")],
    "page_feed_comment_edited": [
        comment("comment_edited", f"comment:{TOP}:edited:1767312300000", TOP)
    ],
    "page_feed_comment_remove": [comment("comment_removed", f"comment:{TOP}:remove", TOP)],
    "page_feed_comment_hide": [comment("comment_hidden", "", TOP)],
    "page_feed_comment_legacy_sender_id": [
        comment("comment", f"comment:{LEGACY}:add", LEGACY, "comment")
    ],
    "page_feed_comment_by_page": [
        comment("comment", f"comment:{POST}_800000000000604:add", TOP, is_own=True)
    ],
    "page_dashboard_test_feed": [TEST],
    "instagram_text": [instagram_message("aWdfAAAAtext01")],
    "instagram_ig_post_share": [instagram_message("aWdfAAAApost01")],
    "instagram_ephemeral": [instagram_message("aWdfAAAAeph01")],
    "instagram_story_mention": [instagram_message("aWdfAAAAmen01", "story_mention")],
    "instagram_story_reply": [instagram_message("aWdfAAAArep01", "story_reply")],
    "instagram_unsupported": [
        instagram_message("aWdfAAAAuns01"),
        instagram_message("aWdfAAAAuns02"),
    ],
    "instagram_deleted": [
        Expected("message_deleted", "deleted:aWdfAAAAtext01", f"person:{IG_JO}", page_id=IG)
    ],
    "instagram_echo_self": [
        Expected("echo", "echo:aWdfAAAAout01", f"person:{IG_JO}", page_id=IG, is_own=True),
        Expected("echo", "echo:aWdfAAAAself01", "person:6500000000000299", page_id=IG, is_own=True),
    ],
    "instagram_postback_icebreaker": [
        Expected("postback", "postback:aWdfAAAApb01", f"person:{IG_JO}", "postback", page_id=IG)
    ],
    "instagram_reaction": [
        Expected(
            "reaction",
            f"reaction:aWdfAAAAout01:{IG_JO}:react:1767312000000",
            f"person:{IG_JO}",
            "reaction",
            page_id=IG,
        )
    ],
    "instagram_seen": [
        Expected("read", f"read:{IG_JO}:aWdfAAAAout01", f"person:{IG_JO}", page_id=IG)
    ],
    "instagram_message_edit_zero": [
        Expected("message_edit", "edit:aWdfAAAAtext02:0", "page", page_id=IG)
    ],
    "instagram_comment": [
        comment(
            "comment",
            "igcomment:17900000000000911",
            "17900000000000910",
            "comment",
            page_id=IG,
        )
    ],
    "instagram_comment_flat_ig_login": [
        comment(
            "comment",
            "igcomment:17900000000000912",
            "17900000000000912",
            "comment",
            page_id=IG,
        )
    ],
    "instagram_comment_fb_login_ad": [
        comment(
            "comment",
            "igcomment:17900000000000913",
            "17900000000000913",
            "comment",
            page_id=IG,
        )
    ],
    "instagram_live_comment_own": [
        comment(
            "comment",
            "igcomment:17900000000000914",
            "17900000000000914",
            page_id=IG,
            is_own=True,
        )
    ],
    "instagram_mention": [
        Expected("mention", "mention:18000000000000908:17900000000000915", "page", page_id=IG)
    ],
    "instagram_dashboard_test_messages": [TEST],
    "instagram_dashboard_test_comment": [TEST],
    "whatsapp_text_and_status": [
        Expected(
            "whatsapp_message",
            "wamid:wamid.AAAA01",
            "person:420600000009",
            page_id="220000000000001",
        ),
        Expected(
            "whatsapp_status",
            "wamid:wamid.AAAA00:delivered:1767312001000",
            "person:420600000009",
            page_id="220000000000001",
        ),
    ],
    "malformed_top_level_array": [message("m_AAAAarr01")],
    "malformed_entry_missing": [],
    "malformed_unknown_object": [],
    "malformed_unknown_event_kind": [
        direct("unknown", f"unknown:{HASH}"),
        direct("unknown", f"unknown:{HASH}"),
    ],
    "malformed_no_sender_string_message": [],
    "malformed_wrong_types": [],
    "malformed_mixed_good_bad": [message("m_AAAAbad01"), message("m_AAAAgood01")],
}

UNREADABLE: dict[str, list[tuple[str, str]]] = {
    "malformed_entry_missing": [("entry_missing", "")],
    "malformed_unknown_object": [("unknown_object", "")],
    "malformed_no_sender_string_message": [("id_missing", "entry[0]")],
    "malformed_wrong_types": [
        ("not_object", "entry[0]"),
        ("not_object", "entry[1]"),
        ("not_object", "entry[2]"),
        ("not_array", "entry[4].messaging"),
        ("not_object", "entry[5].messaging[0]"),
        ("not_object", "entry[5].messaging[1]"),
        ("not_object", "entry[5].messaging[2]"),
        ("not_object", "entry[6].changes[0]"),
        ("not_object", "entry[6].changes[1]"),
    ],
    "malformed_mixed_good_bad": [("not_object", "entry[1].messaging[2]")],
}


BODIES = sorted(PAYLOADS.glob("*.json"))


def as_meta_sends(path: Path) -> bytes:
    """Compact, ASCII, slashes escaped."""
    compact = json.dumps(json.loads(path.read_bytes()), separators=(",", ":"))
    return compact.replace("/", "\\/").encode("ascii")


def read(raw: bytes, delivery_id: str = "d") -> Delivery:
    return delivery_of(raw, delivery_id=delivery_id, received_ms=RECEIVED_MS, signed_by="app")


def described(delivery: Delivery) -> list[Expected]:
    """The events as they go over the wire."""
    return [
        Expected(
            Kind(event.kind).word,
            re.sub(r"\b[0-9a-f]{32}\b", HASH, event.key),
            event.lane,
            Trigger(event.trigger).name.lower(),
            event.page_id,
            Source(event.source).name.lower(),
            event.is_own,
        )
        for event in delivery.events
    ]
