"""Conversations and messages as Graph shows them, with what it keeps back.

Of an Instagram thread details are told of the newest 20 messages only; a deleted message is left
out of lists and refused alone. Source: the pages on conversations, and recorded answers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pagewire_simulator import fields, refusals
from pagewire_simulator.entities import Account, Conversation, Message, Person, Platform
from pagewire_simulator.fields import Field
from pagewire_simulator.ids import Ids
from pagewire_simulator.paging import DEFAULT_LIMIT, Edge, Paging, Wanted
from pagewire_simulator.reads import cut, iso, party
from pagewire_simulator.refusals import Refused
from pagewire_simulator.world import World

Json = dict[str, Any]

DAY = 86_400_000
MESSAGE_FIELDS = fields.parse("id,created_time")
THREAD_FIELDS = fields.parse("id,updated_time")
BARE = {"id", "updated_time"}
MIME_TYPES = {"image": "image/jpeg", "video": "video/mp4", "audio": "audio/mpeg"}


class Threads(msgspec.Struct, kw_only=True):
    """One call's view of an account's conversations.

    What the account sent shows where it is not younger than ``until``. ``noise`` signs addresses of
    attachments anew at each read.
    """

    world: World
    account: Account
    paging: Paging
    now: int
    until: int
    noise: Ids
    shown: int = 0

    @property
    def _on_instagram(self) -> bool:
        return self.account.platform is Platform.INSTAGRAM

    def page(self, threads: Sequence[Conversation], wanted: Wanted, asked: Sequence[Field]) -> Json:
        """A page of the account's conversations; raises Refused for too much at once."""
        reading = self.paging.reading
        if reading.high_volume:
            raise Refused(refusals.HIGH_VOLUME)
        if reading.refused_above is not None and wanted.limit > reading.refused_above:
            raise Refused(refusals.TOO_MUCH)
        self.weigh(min(wanted.limit, max(1, len(threads))), asked)
        params = {"platform": self.account.platform, "fields": fields.spelled(asked)}
        edge = Edge(node=self.account.node, name="conversations", params=params)
        return self.paging.page(
            edge,
            threads,
            wanted,
            lambda thread: self.thread(thread, asked),
            lambda thread: thread.thread_id,
        )

    def weigh(self, limit: int, asked: Sequence[Field]) -> None:
        """Raises Refused where limit times nested limit is too much."""
        most = self.paging.reading.weight
        nested = [field.limit(DEFAULT_LIMIT) for field in asked if field.name == "messages"]
        if most is not None and limit * max(nested, default=1) > most:
            raise Refused(refusals.TOO_MUCH)

    def thread(self, one: Conversation, asked: Sequence[Field]) -> Json:
        """The conversation; raises Refused (1) where it can't be read."""
        asked = asked or THREAD_FIELDS
        if one.poison and not {field.name for field in asked} <= BARE:
            raise Refused(refusals.UNKNOWN_ERROR)
        return cut(self._known(one), asked)

    def _known(self, one: Conversation) -> Json:
        person = self.world.find_person(self.account, one.person_id)
        both = [party(self.account, person), party(self.account, None)]
        window = one.last_inbound is not None and self.now - one.last_inbound <= DAY
        return {
            "id": one.thread_id,
            "updated_time": iso(one.updated_at),
            "message_count": lambda _: len(self.visible(one)),
            "unread_count": one.unread,
            "snippet": lambda _: snippet(self.visible(one)),
            "link": None if self._on_instagram else self._link(person),
            "participants": {"data": both},
            "senders": {"data": both[:1]},
            "former_participants": {"data": []},
            "can_reply": window,
            "folder": one.folder,
            "is_owner": True,
            "is_subscribed": True,
            "name": None if self._on_instagram or person is None else person.name,
            "scoped_thread_key": one.thread_id,
            "wallpaper": None,
            "linked_group": None,
            "messages": lambda field: self.nested_messages(one, field),
        }

    def _link(self, person: Person | None) -> str | None:
        return f"/{self.account.node}/inbox/{person.commenter_id}/" if person else None

    def visible(self, one: Conversation) -> Sequence[Message]:
        """The messages that are listed, newest first."""
        newest_first = one.messages[::-1]
        if newest_first and newest_first[0].created_at > self.until:
            newest_first = [m for m in newest_first if m.inbound or m.created_at <= self.until]
        return self.paging.reading.listed(newest_first)

    def nested_messages(self, one: Conversation, field: Field) -> Json:
        wanted = Wanted(
            limit=max(1, field.limit(DEFAULT_LIMIT)),
            after=field.modifiers.get("after"),
            before=field.modifiers.get("before"),
        )
        return self.messages(one, wanted, field.inner, nested=True)

    def messages(
        self, one: Conversation, wanted: Wanted, asked: Sequence[Field], *, nested: bool = False
    ) -> Json:
        """A page of a conversation's messages, newest first."""
        if one.poison:
            raise Refused(refusals.UNKNOWN_ERROR)
        asked = asked or MESSAGE_FIELDS
        params = {"pretty": 0, "fields": fields.spelled(asked)}
        edge = Edge(node=one.thread_id, name="messages", params=params, nested=nested)
        visible = self.visible(one)
        told = {message.mid for message in self._detailed(visible) if not message.deleted}

        def show(message: Message) -> Json:
            return self.message(message, asked if message.mid in told else bare(asked))

        return self.paging.page(edge, visible, wanted, show, lambda message: message.mid)

    def is_told(self, thread: Conversation, message: Message) -> bool:
        """Whether Graph tells more of it than its id and time."""
        return not message.deleted and message in self._detailed(self.visible(thread))

    def _detailed(self, visible: Sequence[Message]) -> Sequence[Message]:
        return self.paging.reading.detailed(self.account.platform, visible)

    def message(self, one: Message, asked: Sequence[Field]) -> Json:
        self.shown += 1
        known: Json = {"id": one.mid}
        for field in asked or MESSAGE_FIELDS:
            show = SHOWN.get(field.name)
            if show and (value := show(self, one)) is not None:
                known[field.name] = value
        return known

    def author(self, one: Message, *, inbound: bool) -> Json:
        person = self.world.find_person(self.account, one.person_id)
        return party(self.account, person if inbound else None)

    def attachments(self, one: Message, wanted: Wanted, *, nested: bool = True) -> Json:
        edge = Edge(node=one.mid, name="attachments", params={"pretty": 0}, nested=nested)
        numbered = list(enumerate(one.attachments))
        page = self.paging.page(
            edge,
            numbered,
            wanted,
            lambda pair: self._attachment(one, *pair),
            lambda pair: str(pair[0]),
        )
        cursors = page.get("paging", {}).get("cursors")
        if cursors and self.paging.reading.attachments_next:
            query = f"access_token={self.paging.token}&limit={wanted.limit}"
            further = f"{self.paging.root}/{one.mid}/attachments?{query}&after={cursors['after']}"
            page["paging"].setdefault("next", further)
        return page

    def _attachment(self, one: Message, at: int, given: Json) -> Json:
        """The address is another one at each read, as those of Meta's network are."""
        kind = str(given.get("type"))
        number = str(650_000_000_000_000 + one.created_at * 10 + at)
        url = f"{address(given) or cdn(number)}?oh={self.noise.signature()}"
        if kind in ("image", "video"):
            data = {"width": 1280, "height": 720, "url": url, "preview_url": url}
            shown: Json = {f"{kind}_data": data}
        else:
            shown = {"file_url": url}
        if self._on_instagram:
            return shown
        mime = MIME_TYPES.get(kind, "application/octet-stream")
        return {"id": number, "mime_type": mime, "name": f"{kind}-{number}", "size": 54_542} | shown


def address(attachment: Json) -> str | None:
    payload = attachment.get("payload")
    return payload.get("url") if isinstance(payload, dict) else None


def bare(asked: Sequence[Field]) -> Sequence[Field]:
    return [field for field in asked if field.name in ("id", "created_time")] or MESSAGE_FIELDS


def cdn(number: str) -> str:
    return f"https://scontent.example.test/v/{number}"


def snippet(visible: Sequence[Message]) -> str | None:
    return visible[0].text if visible else None


def story(one: Message) -> Json | None:
    if one.story is None:
        return None
    what, story_id = one.story
    return {what: {"id": story_id, "link": cdn(story_id)}}


def shares(one: Message) -> Json | None:
    """Posts and templates that were shared; Messenger shows their link."""
    shared = [given for given in one.attachments if given.get("type") in ("share", "fallback")]
    links = [{"link": url, "id": one.mid} for url in map(address, shared) if url]
    return {"data": links} if links else None


SHOWN: dict[str, Callable[[Threads, Message], Any]] = {
    "id": lambda view, one: one.mid,
    "created_time": lambda view, one: iso(one.created_at),
    "message": lambda view, one: "" if one.unsupported else one.text or "",
    "from": lambda view, one: view.author(one, inbound=one.inbound),
    "to": lambda view, one: {"data": [view.author(one, inbound=not one.inbound)]},
    "attachments": lambda view, one: (
        view.attachments(one, Wanted()) if one.attachments and not one.unsupported else None
    ),
    "shares": lambda view, one: shares(one),
    "story": lambda view, one: story(one),
    "reply_to": lambda view, one: (
        {"mid": one.reply_to, "is_self_reply": False} if one.reply_to else None
    ),
    "is_unsupported": lambda view, one: True if one.unsupported else None,
    "tags": lambda view, one: (
        {"data": [{"name": "inbox"}]} if view.account.platform is Platform.MESSENGER else None
    ),
}
