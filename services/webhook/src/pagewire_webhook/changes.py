"""Items of `changes`: the Page's feed, and comments and mentions on both platforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pagewire_webhook import dashboard, keys, messaging, whatsapp
from pagewire_webhook.attachments import media_of
from pagewire_webhook.entries import PAGE_LANE, Author, Entry, event, kept
from pagewire_webhook.events import (
    Comment,
    Event,
    FeedReaction,
    Kind,
    Mention,
    Source,
    Space,
    Trigger,
)
from pagewire_webhook.fields import (
    Clip,
    clamped,
    identifier,
    mapping,
    moment,
    optional_id,
)
from pagewire_webhook.unreadable import Unread

# Fields of the messaging webhooks, which the dashboard and Instagram also send as changes.
_MESSAGING_PREFIXES = ("message", "messaging", "standby", "response_feedback")

_REMOVALS = ("remove", "delete")


def events_of(change: Any, entry: Entry) -> Iterator[Event]:
    """A change's events; the field decides, not the object. Raises Unread.

    A field that is not known makes an event of kind UNKNOWN.
    """
    if type(change) is not dict:
        raise Unread("not_object")
    field, value = change.get("field"), change.get("value")
    if type(field) is not str or type(value) is not dict:
        raise Unread("not_object")
    if dashboard.is_test_of_change(entry.page_id, value):
        yield kept(entry, Kind.TEST, change)
    elif field in _READERS:
        yield _READERS[field](entry, change, value)
    elif "messaging_product" in value:
        yield from whatsapp.events_of(change, value, entry)
    elif field.startswith(_MESSAGING_PREFIXES):
        source = Source.STANDBY if field == "standby" else Source.LIVE
        yield from messaging.events_of(value, entry, source)
    else:
        yield kept(entry, Kind.UNKNOWN, change)


def _feed(entry: Entry, change: dict[str, Any], value: dict[str, Any]) -> Event:
    item, verb = value.get("item"), value.get("verb")
    if item == "comment" and type(verb) is str and verb in _COMMENT_READERS:
        return _COMMENT_READERS[verb](entry, value, verb)
    if item == "reaction" and (value.get("comment_id") or value.get("post_id")):
        return _feed_reaction(entry, value)
    return kept(
        entry,
        Kind.FEED_OTHER,
        change,
        said=moment(value.get("created_time")),
        author=_feed_author(entry, value, Clip()),
    )


def _feed_author(entry: Entry, value: dict[str, Any], clip: Clip) -> Author:
    """Meta leaves `from` out where the app may not see who it was; versions to 2.9 had none."""
    said = mapping(value.get("from"))
    found = said.get("id", value.get("sender_id"))
    person = "" if found is None else identifier(found)
    if person == entry.page_id:
        return Author(is_own=True)
    name = clip.text(said.get("name", value.get("sender_name")))
    return Author(person, Space.COMMENTER if person else Space.NONE, name)


def _comment_event(
    entry: Entry,
    value: dict[str, Any],
    kind: Kind,
    key: str,
    *,
    said: Any,
    clip: Clip,
    detail: Comment,
    trigger: Trigger = Trigger.NONE,
) -> Event:
    return event(
        entry,
        kind,
        key,
        detail,
        said=moment(said),
        clip=clip,
        author=_feed_author(entry, value, clip),
        lane=_comment_lane(detail),
        trigger=trigger,
    )


def _comment_lane(detail: Comment) -> str:
    return f"comment:{detail.parent_id or detail.comment_id}"


def _feed_comment(
    entry: Entry,
    value: dict[str, Any],
    clip: Clip,
    *,
    hidden: bool = False,
    edit_time: int | None = None,
) -> Comment:
    comment_id = identifier(value.get("comment_id"))
    post_id = optional_id(value.get("post_id"))
    parent_id = optional_id(value.get("parent_id"))
    # A comment at the top has the post for a parent; a post's id begins with the page's.
    if parent_id == post_id or parent_id.startswith(f"{entry.page_id}_"):
        parent_id = ""
    said = value.get("message")
    return Comment(
        comment_id=comment_id,
        post_id=post_id,
        parent_id=parent_id,
        text=clip.text(said) if type(said) is str else None,
        attachments=media_of(value, clip),
        hidden=hidden,
        edit_time=edit_time,
    )


def _comment_added(entry: Entry, value: dict[str, Any], _: str) -> Event:
    clip = Clip()
    detail = _feed_comment(entry, value, clip)
    return _comment_event(
        entry,
        value,
        Kind.COMMENT,
        keys.key("comment", detail.comment_id, "add"),
        said=value.get("created_time"),
        clip=clip,
        detail=detail,
        trigger=Trigger.COMMENT,
    )


def _comment_removed(entry: Entry, value: dict[str, Any], _: str) -> Event:
    clip = Clip()
    detail = _feed_comment(entry, value, clip)
    key = keys.key("comment", detail.comment_id, "remove")
    said = value.get("created_time")
    return _comment_event(
        entry, value, Kind.COMMENT_REMOVED, key, said=said, clip=clip, detail=detail
    )


def _comment_edited(entry: Entry, value: dict[str, Any], _: str) -> Event:
    clip = Clip()
    edited = moment(value.get("edited_time"))
    edit_time = None if edited is None else clamped(edited, entry.received)
    detail = _feed_comment(entry, value, clip, edit_time=edit_time)
    message = value.get("message")
    version: str | int
    if edited is not None:
        version = edited
    else:
        version = keys.digest(message if type(message) is str else keys.canonical(message))
    key = keys.key("comment", detail.comment_id, "edited", version)
    said = value.get("created_time") if edited is None else edited
    return _comment_event(
        entry, value, Kind.COMMENT_EDITED, key, said=said, clip=clip, detail=detail
    )


def _comment_hidden(entry: Entry, value: dict[str, Any], verb: str) -> Event:
    """A state that repeats its fields: no key, ordered by entry.time, by receipt without one."""
    clip = Clip()
    detail = _feed_comment(entry, value, clip, hidden=verb == "hide")
    said = value.get("created_time")
    dated = entry
    if entry.sent is None:
        dated = Entry(entry.page_id, entry.received, sent=entry.received)
    return _comment_event(
        dated, value, Kind.COMMENT_HIDDEN, "", said=said, clip=clip, detail=detail
    )


# The enum of the documentation and what is sent in practice differ: `edit` and `edited`.
_COMMENT_READERS: dict[str, Callable[[Entry, dict[str, Any], str], Event]] = {
    "add": _comment_added,
    "remove": _comment_removed,
    "delete": _comment_removed,
    "edit": _comment_edited,
    "edited": _comment_edited,
    "update": _comment_edited,
    "hide": _comment_hidden,
    "unhide": _comment_hidden,
}


def _feed_reaction(entry: Entry, value: dict[str, Any]) -> Event:
    clip = Clip()
    author = _feed_author(entry, value, clip)
    target = identifier(value.get("comment_id") or value.get("post_id"))
    said = moment(value.get("created_time"))
    verb = value.get("verb")
    name = clip.text(value.get("reaction_type"))
    key = keys.key(
        "feed_reaction",
        target,
        entry.page_id if author.is_own else author.person_id or keys.NONE,
        keys.part(value.get("reaction_type")),
        keys.part(verb),
        keys.time_part(said),
    )
    return event(
        entry,
        Kind.FEED_REACTION,
        key,
        FeedReaction(target, name, removed=verb in _REMOVALS),
        said=said,
        clip=clip,
        author=author,
        lane=PAGE_LANE,
    )


def _instagram_comment(entry: Entry, change: dict[str, Any], value: dict[str, Any]) -> Event:
    """Its id stands in `id`, or in `comment_id` where the account came by Facebook login."""
    clip = Clip()
    comment_id = identifier(value.get("id") or value.get("comment_id"))
    media = mapping(value.get("media"))
    said = value.get("text")
    live = change["field"] == "live_comments" or media.get("media_product_type") == "LIVE"
    detail = Comment(
        comment_id=comment_id,
        post_id=optional_id(media.get("id")),
        parent_id=optional_id(value.get("parent_id")),
        text=clip.text(said) if type(said) is str else None,
        is_live=live,
        ad_id=optional_id(media.get("ad_id")),
    )
    return event(
        entry,
        Kind.COMMENT,
        keys.key("igcomment", comment_id),
        detail,
        said=moment(value.get("created_time")),
        clip=clip,
        author=_instagram_author(entry, value, clip),
        lane=_comment_lane(detail),
        trigger=Trigger.COMMENT,
    )


def _instagram_author(entry: Entry, value: dict[str, Any], clip: Clip) -> Author:
    """`self_ig_scoped_id` marks the account's own comments."""
    said = mapping(value.get("from"))
    found = said.get("id")
    person = "" if found is None else identifier(found)
    if person == entry.page_id or said.get("self_ig_scoped_id") is not None:
        return Author(is_own=True)
    space = Space.MESSAGING if person else Space.NONE
    return Author(person, space, clip.text(said.get("username")))


def _mention(entry: Entry, change: dict[str, Any], value: dict[str, Any]) -> Event:
    """Instagram's names a media, Facebook's a post; either may come with a comment, or without."""
    media_id = optional_id(value.get("media_id") or value.get("post_id"))
    comment_id = optional_id(value.get("comment_id"))
    if not media_id and not comment_id:
        raise Unread("id_missing")
    if value.get("verb", "add") == "add":
        key = keys.key("mention", media_id or keys.NONE, comment_id or keys.NONE)
    else:
        key = keys.of_item("mention", change)
    clip = Clip()
    return event(
        entry,
        Kind.MENTION,
        key,
        Mention(media_id, comment_id),
        said=moment(value.get("created_time")),
        clip=clip,
        author=_feed_author(entry, value, clip),
        lane=PAGE_LANE,
    )


_READERS: dict[str, Callable[[Entry, dict[str, Any], dict[str, Any]], Event]] = {
    "feed": _feed,
    "mention": _mention,
    "mentions": _mention,
    "comments": _instagram_comment,
    "live_comments": _instagram_comment,
}
