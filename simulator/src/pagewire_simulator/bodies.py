"""The shapes of Meta's webhooks: payloads, the items that carry them, entries, whole bodies.

A payload function returns one key (``{"message": {...}}``); ``item`` frames it with sender,
recipient and time; ``Event`` says for which account and field; ``entry`` and ``body`` wrap events.
Ids are decimal strings, times of messaging events milliseconds, of changes seconds.
Source: the webhook reference of Messenger, Instagram and Page feed.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from pagewire_simulator.entities import Account, Comment, Host, Message, Person, Platform, Post

INBOX_APP_ID = 263902037430900
ENTRIES_MAX = 1000

Json = dict[str, Any]


class Shape(StrEnum):
    """Which key of the entry holds the event; ``flat`` puts field and value on the entry."""

    MESSAGING = "messaging"
    STANDBY = "standby"
    CHANGES = "changes"
    FLAT = "flat"


class Event(msgspec.Struct, kw_only=True, frozen=True):
    """One thing to tell the app. ``ref`` names it in the ledger, ``subject`` is its mid or id."""

    ref: str
    account_id: str
    login: Host
    object: str
    field: str
    shape: Shape
    value: Json
    subject: str | None = None
    person_id: str | None = None


def item(sender: str | None, recipient: str, timestamp: int | None, payload: Json) -> Json:
    """A messaging element; ``sender`` and ``timestamp`` None are left out, as some events do."""
    framed: Json = {} if sender is None else {"sender": {"id": sender}}
    framed["recipient"] = {"id": recipient}
    if timestamp is not None:
        framed["timestamp"] = timestamp
    return framed | payload


def message(
    mid: str,
    text: str | None = None,
    attachments: Sequence[Json] = (),
    *,
    quick_reply: str | None = None,
    reply_to: Json | None = None,
    referral: Json | None = None,
) -> Json:
    """A message; ``quick_reply`` is the pressed button's payload, ``text`` then its title."""
    content: Json = {"mid": mid}
    if text is not None:
        content["text"] = text
    if quick_reply is not None:
        content["quick_reply"] = {"payload": quick_reply}
    if reply_to:
        content["reply_to"] = reply_to
    if attachments:
        content["attachments"] = list(attachments)
    if referral:
        content["referral"] = referral
    return {"message": content}


def attachment(kind: str, url: str | None = None, **payload: Any) -> Json:
    """An attachment; without url and payload it has none (``ephemeral``, ``like_heart``)."""
    if url is not None:
        payload = {"url": url, **payload}
    return {"type": kind, "payload": payload} if payload else {"type": kind}


def sticker_twins(url: str, sticker_id: int) -> list[Json]:
    """One sticker, sent as image and sticker side by side during the transition of 2026."""
    return [attachment(kind, url, sticker_id=sticker_id) for kind in ("image", "sticker")]


def location(latitude: float, longitude: float, title: str) -> Json:
    place = attachment("location", coordinates={"lat": latitude, "long": longitude})
    return {"title": title} | place


def story_mention(mid: str, url: str) -> Json:
    return message(mid, attachments=[attachment("story_mention", url)])


def story_reply(mid: str, text: str, story_id: str, url: str) -> Json:
    return message(mid, text, reply_to={"story": {"id": story_id, "url": url}})


def unsupported(mid: str) -> Json:
    return {"message": {"mid": mid, "is_unsupported": True}}


def deleted(mid: str) -> Json:
    """The person took the message back: its own mid again."""
    return {"message": {"mid": mid, "is_deleted": True}}


def edit(mid: str, text: str | None, number: int) -> Json:
    """Instagram also sends number 0 without text (and without sender) for new messages."""
    content: Json = {"mid": mid}
    if text is not None:
        content["text"] = text
    return {"message_edit": content | {"num_edit": number}}


def echo(sent: Message, *, with_metadata: bool, with_app_id: bool, is_self: bool = False) -> Json:
    """An own message told back; Instagram's carries neither app id nor metadata by default."""
    content: Json = {"mid": sent.mid}
    if sent.text is not None:
        content["text"] = sent.text
    if sent.attachments:
        content["attachments"] = list(sent.attachments)
    content["is_echo"] = True
    if is_self:
        content["is_self"] = True
    if with_app_id and sent.app_id is not None:
        content["app_id"] = int(sent.app_id)
    if with_metadata and sent.metadata is not None:
        content["metadata"] = sent.metadata
    return {"message": content}


def postback(
    mid: str | None, title: str, payload: str | None, referral: Json | None = None
) -> Json:
    """A pressed button. Without mid as before v11; without payload as on standby."""
    content: Json = {} if mid is None else {"mid": mid}
    content["title"] = title
    if payload is not None:
        content["payload"] = payload
    if referral:
        content["referral"] = referral
    return {"postback": content}


def reaction(mid: str, name: str | None, emoji: str | None) -> Json:
    """A reaction to the message ``mid``; None takes it back."""
    if name is None:
        return {"reaction": {"action": "unreact", "mid": mid}}
    return {"reaction": {"reaction": name, "emoji": emoji, "action": "react", "mid": mid}}


def read_until(watermark: int) -> Json:
    """Messenger: everything sent up to the watermark (ms) was read."""
    return {"read": {"watermark": watermark}}


def read_message(mid: str) -> Json:
    """Instagram: this message was read."""
    return {"read": {"mid": mid}}


def delivery(watermark: int, mids: Sequence[str] = ()) -> Json:
    content: Json = {"mids": list(mids)} if mids else {}
    return {"delivery": content | {"watermark": watermark}}


def referral(ref: str | None, source: str = "SHORTLINK", ad_id: str | None = None) -> Json:
    content: Json = {"source": source, "type": "OPEN_THREAD"}
    if ref is not None:
        content["ref"] = ref
    if ad_id is not None:
        content["ad_id"] = ad_id
    return {"referral": content}


def optin(token: str, payload: str, *, stopped: bool | None = None) -> Json:
    """Marketing messages; ``stopped`` True or False only when that changed."""
    content: Json = {
        "type": "notification_messages",
        "payload": payload,
        "notification_messages_token": token,
        "user_token_status": "NOT_REFRESHED",
    }
    if stopped is not None:
        status = "STOP NOTIFICATIONS" if stopped else "RESUME NOTIFICATIONS"
        content["notification_messages_status"] = status
    return {"optin": content}


def optin_checkbox(ref: str, user_ref: str) -> Json:
    """The checkbox plugin; its item has no sender."""
    return {"optin": {"ref": ref, "user_ref": user_ref}}


def account_linking(status: str, code: str | None = None) -> Json:
    content = {"status": status}
    return {"account_linking": content | ({"authorization_code": code} if code else {})}


def game_play(game_id: str, player_id: str) -> Json:
    return {"game_play": {"game_id": game_id, "player_id": player_id, "context_type": "SOLO"}}


def response_feedback(mid: str, good: bool) -> Json:
    feedback = "Good response" if good else "Bad response"
    return {"response_feedback": {"feedback": feedback, "mid": mid}}


def pass_thread_control(previous: str | None, new: str, metadata: str = "") -> Json:
    owners = {"previous_owner_app_id": previous, "new_owner_app_id": new, "metadata": metadata}
    return {"pass_thread_control": owners}


def take_thread_control(previous: str | None, new: str, metadata: str = "") -> Json:
    owners = {"previous_owner_app_id": previous, "new_owner_app_id": new, "metadata": metadata}
    return {"take_thread_control": owners}


def request_thread_control(app_id: int, metadata: str = "") -> Json:
    return {"request_thread_control": {"requested_owner_app_id": app_id, "metadata": metadata}}


def app_roles(app_id: str, *roles: str) -> Json:
    """No sender."""
    return {"app_roles": {app_id: list(roles)}}


def policy_enforcement(action: str, reason: str | None = None) -> Json:
    """No sender; ``action`` is warning, block or unblock."""
    return {"policy_enforcement": {"action": action} | ({"reason": reason} if reason else {})}


FIELDS = {
    "message": "messages",
    "message_edit": "message_edits",
    "postback": "messaging_postbacks",
    "reaction": "message_reactions",
    "read": "message_reads",
    "delivery": "message_deliveries",
    "referral": "messaging_referrals",
    "optin": "messaging_optins",
    "account_linking": "messaging_account_linking",
    "game_play": "messaging_game_plays",
    "response_feedback": "response_feedback",
    "pass_thread_control": "messaging_handovers",
    "take_thread_control": "messaging_handovers",
    "request_thread_control": "messaging_handovers",
    "app_roles": "messaging_handovers",
    "policy_enforcement": "messaging_policy_enforcement",
}
INSTAGRAM_FIELDS = FIELDS | {
    "message_edit": "message_edit",
    "read": "messaging_seen",
    "referral": "messaging_referral",
    "pass_thread_control": "messaging_handover",
    "take_thread_control": "messaging_handover",
    "request_thread_control": "messaging_handover",
}


def field_of(platform: Platform, payload: Json) -> str:
    """The webhook field that this payload belongs to, on this platform."""
    kind = next(iter(payload))
    if kind == "message" and payload["message"].get("is_echo") and platform is Platform.MESSENGER:
        return "message_echoes"
    fields = FIELDS if platform is Platform.MESSENGER else INSTAGRAM_FIELDS
    return fields.get(kind, "messages")


def feed_comment(verb: str, comment: Comment, post: Post, at: int) -> Json:
    """A Page's feed: ``verb`` is add, edited, hide, unhide or remove; ``at`` its time (ms)."""
    value: Json = {
        "from": {"id": comment.from_id, "name": comment.from_name},
        "post": {"status_type": "mobile_status_update", "is_published": True, "id": post.id},
        "message": comment.text,
        "post_id": post.id,
        "comment_id": comment.id,
        "created_time": comment.created_at // 1000,
        "item": "comment",
        "parent_id": comment.parent_id or post.id,
        "verb": verb,
    }
    if verb == "edited":
        value["edited_time"] = at // 1000
    elif verb in ("hide", "unhide"):
        value["is_hidden"] = verb == "hide"
    elif verb == "remove":
        del value["message"], value["post"]
        value |= {"created_time": at // 1000, "recipient_id": comment.account_id}
    return value


def feed_reaction(person: Person, post: Post, name: str, at: int, *, verb: str = "add") -> Json:
    return {
        "from": {"id": person.commenter_id, "name": person.name},
        "item": "reaction",
        "reaction_type": name,
        "verb": verb,
        "post_id": post.id,
        "parent_id": post.id,
        "created_time": at // 1000,
    }


def page_mention(post_id: str, text: str, at: int) -> Json:
    """Someone named the Page in a post of theirs; the author is usually missing."""
    return {
        "item": "post",
        "verb": "add",
        "post_id": post_id,
        "message": text,
        "created_time": at // 1000,
    }


def instagram_comment(account: Account, comment: Comment, product: str = "FEED") -> Json:
    """A comment on a post, or live; the account's own carry ``self_ig_scoped_id``."""
    author: Json = {"id": comment.from_id, "username": comment.from_name}
    if comment.person_id is None:
        author["self_ig_scoped_id"] = account.self_igsid
    value: Json = {
        "from": author,
        "media": {"id": comment.post_id, "media_product_type": product},
        "id": comment.id,
    }
    if comment.parent_id:
        value["parent_id"] = comment.parent_id
    return value | {"text": comment.text}


def instagram_mention(media_id: str, comment_id: str | None = None) -> Json:
    return {"media_id": media_id} | ({"comment_id": comment_id} if comment_id else {})


def story_insights(media_id: str) -> Json:
    """Numbers only; those below 5 become -1."""
    numbers = {"exits": 44, "impressions": 444, "reach": 44, "replies": -1}
    return {"media_id": media_id} | numbers


def entry(event: Event, at: int) -> Json:
    """The entry of one event, sent at ``at`` (ms): ms for messaging, seconds for changes."""
    if event.shape in (Shape.MESSAGING, Shape.STANDBY):
        if event.object == "instagram":
            return {"time": at, "id": event.account_id, str(event.shape): [event.value]}
        return {"id": event.account_id, "time": at, str(event.shape): [event.value]}
    framed: Json = {"id": event.account_id, "time": at // 1000}
    if event.shape is Shape.FLAT:
        return framed | {"field": event.field, "value": event.value}
    return framed | {"changes": [{"value": event.value, "field": event.field}]}


def body(events: Iterable[Event], at: int) -> Json:
    """One POST for events of the same object, an entry each."""
    told = list(events)
    entries = [entry(event, at) for event in told]
    if all(event.shape is Shape.CHANGES for event in told):
        return {"entry": entries, "object": told[0].object}
    return {"object": told[0].object, "entry": entries}


def dashboard_test(kind: str, at: int) -> Json:
    """What the dashboard's Test button sends: known placeholders, entry id "0".

    ``kind`` is page_feed, page_message, instagram_message or instagram_comment; raises KeyError.
    """
    seconds = at // 1000
    tests: dict[str, tuple[str, str, Json]] = {
        "page_feed": (
            "page",
            "feed",
            {
                "item": "status",
                "post_id": "44444444_444444444",
                "verb": "add",
                "published": 1,
                "created_time": seconds,
                "message": "Example post content.",
                "from": {"name": "Test Page", "id": "1067280970047460"},
            },
        ),
        "page_message": ("page", "messages", placeholder_message()),
        "instagram_message": ("instagram", "messages", placeholder_message()),
        "instagram_comment": (
            "instagram",
            "comments",
            {
                "from": {"id": "232323232", "username": "test"},
                "media": {"id": "123123123", "media_product_type": "FEED"},
                "id": "17865799348089039",
                "parent_id": "1231231234",
                "text": "This is an example.",
            },
        ),
    }
    object_, field, value = tests[kind]
    change = {"field": field, "value": value}
    return {"entry": [{"id": "0", "time": seconds, "changes": [change]}], "object": object_}


def placeholder_message() -> Json:
    return item("12334", "23245", None, {"timestamp": "1527459824"}) | {
        "message": {"mid": "random_mid", "text": "random_text"}
    }
