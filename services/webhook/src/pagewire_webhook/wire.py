"""Normalised values to the contract's messages: each field written once, here.

Messages are filled in place: one that is made apart and handed to its parent is copied, which
costs more than all its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pagewire.store.v1.ingest_service_pb2 import Delivery, IngestRequest
from pagewire.type.v1 import event_pb2 as pb
from pagewire_webhook import events
from pagewire_webhook.normaliser import Normalised

_LENGTH_DELIMITED = 2
_DELIVERIES_TAG = IngestRequest.DELIVERIES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


def write_delivery(normalised: Normalised, received_ms: int, into: Delivery) -> None:
    """Writes what a body said, and when it was received, into its delivery."""
    _time(received_ms, into.receive_time)
    for event in normalised.events:
        write_event(event, into.events.add())
    for item in normalised.unreadable:
        into.unreadable.add(reason=item.reason, page_id=item.page_id, path=item.path)


def framed(delivery: Delivery) -> bytes:
    """The delivery as an element of `IngestRequest.deliveries`, in the encoding of the wire.

    Such elements one behind another are the request (protobuf's "Message Structure" and "Repeated
    Elements"), so a delivery is encoded once, never copied into a request, and its size is known.
    """
    encoded = delivery.SerializeToString()
    return b"%c%b%b" % (_DELIVERIES_TAG, _varint(len(encoded)), encoded)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, each but the last with its high bit set."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def write_event(event: events.Event, into: pb.Event) -> None:
    """Writes the event; the numbers of kinds, triggers, sources and spaces are the contract's."""
    into.page_id = event.page_id
    into.kind = event.kind  # type: ignore[assignment]  # enums of the same numbers
    into.trigger = event.trigger  # type: ignore[assignment]
    into.source = event.source  # type: ignore[assignment]
    into.key = event.key
    into.lane = event.lane
    into.person_id = event.person_id
    into.id_space = event.id_space  # type: ignore[assignment]
    into.person_name = event.person_name
    _time(event.event_time, into.event_time)
    into.clock_suspect = event.clock_suspect
    if event.sent_time is not None:
        _time(event.sent_time, into.sent_time)
    into.is_own = event.is_own
    into.truncated = event.truncated
    _DETAILS[type(event.detail)](event.detail, into)


def _time(moment_ms: int, into: Timestamp) -> None:
    into.seconds, rest = divmod(moment_ms, 1_000)
    into.nanos = rest * 1_000_000


# Of most messages none is set, and to write an empty value costs three times as much as to look.
_SELDOM_IN_A_MESSAGE = (
    *("quick_reply_payload", "reply_to_mid", "story_id", "story_url", "is_unsupported"),
    *("app_id", "metadata", "is_self"),
)


def _message(value: events.Message, event: pb.Event) -> None:
    into = event.message
    into.mid = value.mid
    into.text = value.text
    for attachment in value.attachments:
        _attachment(attachment, into.attachments.add())
    if value.referral is not None:
        _write_referral(value.referral, into.referral)
    for name in _SELDOM_IN_A_MESSAGE:
        said = getattr(value, name)
        if said:
            setattr(into, name, said)


def _attachment(value: events.Attachment, into: pb.Attachment) -> None:
    into.type = value.type
    into.url = value.url
    into.title = value.title
    into.payload = value.payload


def _deletion(value: events.Deletion, event: pb.Event) -> None:
    event.message_deleted.mid = value.mid


def _edit(value: events.Edit, event: pb.Event) -> None:
    into = event.message_edit
    into.mid = value.mid
    if value.text is not None:
        into.text = value.text
    into.number = value.number


def _postback(value: events.Postback, event: pb.Event) -> None:
    into = event.postback
    into.mid = value.mid
    into.title = value.title
    into.payload = value.payload
    if value.referral is not None:
        _write_referral(value.referral, into.referral)


def _reaction(value: events.Reaction, event: pb.Event) -> None:
    into = event.reaction
    into.mid = value.mid
    into.removed = value.removed
    into.reaction = value.reaction
    into.emoji = value.emoji


def _read(value: events.Read, event: pb.Event) -> None:
    into = event.read
    if value.watermark is not None:
        _time(value.watermark, into.watermark)
    into.mid = value.mid


def _receipt(value: events.Receipt, event: pb.Event) -> None:
    into = event.delivery
    if value.watermark is not None:
        _time(value.watermark, into.watermark)
    into.mids.extend(value.mids)
    into.SetInParent()


def _referral(value: events.Referral, event: pb.Event) -> None:
    _write_referral(value, event.referral)


def _write_referral(value: events.Referral, into: pb.ReferralDetail) -> None:
    into.ref = value.ref
    into.source = value.source
    into.type = value.type
    into.ad_id = value.ad_id
    into.payload = value.payload


def _optin(value: events.Optin, event: pb.Event) -> None:
    into = event.optin
    into.type = value.type
    into.ref = value.ref
    into.payload = value.payload
    into.status = value.status
    into.user_ref = value.user_ref


def _comment(value: events.Comment, event: pb.Event) -> None:
    into = event.comment
    into.comment_id = value.comment_id
    into.post_id = value.post_id
    into.parent_id = value.parent_id
    if value.text is not None:
        into.text = value.text
    for attachment in value.attachments:
        _attachment(attachment, into.attachments.add())
    into.hidden = value.hidden
    if value.edit_time is not None:
        _time(value.edit_time, into.edit_time)
    into.is_live = value.is_live
    into.ad_id = value.ad_id


def _feed_reaction(value: events.FeedReaction, event: pb.Event) -> None:
    into = event.feed_reaction
    into.target_id = value.target_id
    into.reaction = value.reaction
    into.removed = value.removed


def _mention(value: events.Mention, event: pb.Event) -> None:
    event.mention.media_id = value.media_id
    event.mention.comment_id = value.comment_id


def _other(value: events.Other, event: pb.Event) -> None:
    event.other.json = value.json


_DETAILS: dict[type, Callable[[Any, pb.Event], None]] = {
    events.Message: _message,
    events.Deletion: _deletion,
    events.Edit: _edit,
    events.Postback: _postback,
    events.Reaction: _reaction,
    events.Read: _read,
    events.Receipt: _receipt,
    events.Referral: _referral,
    events.Optin: _optin,
    events.Comment: _comment,
    events.FeedReaction: _feed_reaction,
    events.Mention: _mention,
    events.Other: _other,
}
