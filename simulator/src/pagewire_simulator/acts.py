"""What people do, as the control interface asks for it: the world changes and the app is told.

Each act is a struct of plain fields with a ``do`` that returns what was made. ``account`` is an
account id; ``person`` a PSID or IGSID, created on the spot where it is None or new. ``ago``
(seconds) puts the act into the past. ``repeat`` sends the delivery twice; ``standby`` puts a
messaging event on the standby channel. ``silently``: it happens, and the app never hears of it.
"""

from typing import Any

import msgspec

from pagewire_simulator import bodies
from pagewire_simulator.bodies import INBOX_APP_ID, Shape
from pagewire_simulator.entities import Account, Comment, Host, Person, Platform, Post
from pagewire_simulator.meta import Meta
from pagewire_simulator.plan import Repeat


class Done(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an act made; ``ref`` is its event in the ledger, ``timestamp`` its time (ms)."""

    ref: str | None = None
    person: str | None = None
    mid: str | None = None
    comment: str | None = None
    post: str | None = None
    timestamp: int | None = None


class Act(msgspec.Struct, kw_only=True, tag_field="act"):
    account: str
    person: str | None = None
    ago: float | None = None
    repeat: Repeat | None = None
    silently: bool = False

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        """Raises world.Unknown."""
        raise NotImplementedError

    def _who(self, meta: Meta) -> tuple[Account, Person]:
        account = meta.world.account(self.account)
        found = meta.world.find_person(account, self.person) if self.person else None
        return account, found or meta.world.create_person(account, id=self.person)

    def _when(self, meta: Meta, after: int = 0) -> int:
        """A little before now, but after what the conversation already has."""
        if self.ago is not None:
            return meta.clock() - int(self.ago * 1000)
        return max(after + 1, meta.clock() - meta.chance.lag())


class MessagingAct(Act, kw_only=True):
    standby: bool = False

    def _shape(self) -> Shape:
        return Shape.STANDBY if self.standby else Shape.MESSAGING

    def _moment(self, meta: Meta, account: Account, person: Person) -> int:
        messages = meta.world.conversation(account, person).messages
        return self._when(meta, messages[-1].created_at if messages else 0)

    def _tell(
        self,
        meta: Meta,
        account: Account,
        person: Person,
        at: int,
        payload: dict[str, Any],
        mid: str | None,
        held: bool,
    ) -> Done:
        if self.silently:
            return Done(person=person.id, mid=mid, timestamp=at)
        event = meta.tell(
            account,
            bodies.item(person.id, account.id, at, payload),
            field=bodies.field_of(account.platform, payload),
            shape=self._shape(),
            subject=mid,
            person=person,
            repeat=self.repeat,
            held=held,
        )
        return Done(ref=event.ref, person=person.id, mid=mid, timestamp=at)


class Say(MessagingAct, tag="say", kw_only=True):
    """A person writes: text, attachments (``{type, payload}``), a pressed quick reply, a referral.

    ``reply_to`` is the mid of the message answered.
    """

    text: str | None = None
    attachments: tuple[dict[str, Any], ...] = ()
    quick_reply: str | None = None
    reply_to: str | None = None
    referral: dict[str, Any] | None = None

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = self._moment(meta, account, person)
        made = meta.world.receive(
            account,
            person,
            at,
            text=self.text,
            attachments=self.attachments,
            reply_to=self.reply_to,
        )
        payload = bodies.message(
            made.mid,
            self.text,
            self.attachments,
            quick_reply=self.quick_reply,
            reply_to={"mid": self.reply_to} if self.reply_to else None,
            referral=self.referral,
        )
        return self._tell(meta, account, person, at, payload, made.mid, held)


class StoryReply(MessagingAct, tag="story_reply", kw_only=True):
    """A person answers one of the account's stories (Instagram)."""

    text: str
    story: str | None = None

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = self._moment(meta, account, person)
        story = self.story or meta.world.ids.media()
        told = ("reply_to", story)
        made = meta.world.receive(account, person, at, text=self.text, story=told)
        payload = bodies.story_reply(made.mid, self.text, story, cdn(story))
        return self._tell(meta, account, person, at, payload, made.mid, held)


class StoryMention(MessagingAct, tag="story_mention", kw_only=True):
    """A person names the account in a story (Instagram)."""

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = self._moment(meta, account, person)
        story = meta.world.ids.media()
        shown = bodies.attachment("story_mention", cdn(story))
        told = ("mention", story)
        made = meta.world.receive(account, person, at, attachments=(shown,), story=told)
        payload = bodies.message(made.mid, attachments=[shown])
        return self._tell(meta, account, person, at, payload, made.mid, held)


class Postback(MessagingAct, tag="postback", kw_only=True):
    """A person presses a button; standby events come without its payload."""

    payload: str
    title: str = "Get started"
    referral: dict[str, Any] | None = None

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = self._moment(meta, account, person)
        made = meta.world.receive(account, person, at, text=self.title)
        secret = None if self.standby else self.payload
        payload = bodies.postback(made.mid, self.title, secret, self.referral)
        return self._tell(meta, account, person, at, payload, made.mid, held)


class Happen(MessagingAct, tag="event", kw_only=True):
    """Any other messaging event: ``payload`` is one key, as the builders of ``bodies`` make it.

    Reactions, reads, deliveries, referrals, opt-ins, edits, deletions, handover, unknown kinds.
    ``anonymous`` leaves the sender out.
    """

    payload: dict[str, Any]
    anonymous: bool = False

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = self._when(meta)
        event = meta.tell(
            account,
            bodies.item(None if self.anonymous else person.id, account.id, at, self.payload),
            field=bodies.field_of(account.platform, self.payload),
            shape=self._shape(),
            person=None if self.anonymous else person,
            repeat=self.repeat,
            held=held,
        )
        return Done(ref=event.ref, person=person.id, timestamp=at)


class Unsend(MessagingAct, tag="unsend", kw_only=True):
    """The author of a message takes it back; the app hears of it on Instagram only."""

    mid: str

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        message = meta.world.message(self.mid)
        account = meta.world.account(message.account_id)
        person = meta.world.person(account, message.person_id)
        meta.world.delete_message(message)
        at = self._when(meta)
        if account.platform is Platform.MESSENGER or not message.inbound:
            return Done(person=person.id, mid=self.mid, timestamp=at)
        payload = bodies.deleted(self.mid)
        return self._tell(meta, account, person, at, payload, self.mid, held)


class InboxReply(Act, tag="inbox_reply", kw_only=True):
    """A colleague answers by hand in Meta's inbox: an echo with the inbox's app id."""

    text: str

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account, person = self._who(meta)
        at = meta.clock() if self.ago is None else self._when(meta)
        sent = meta.world.send(account, person, at, app_id=str(INBOX_APP_ID), text=self.text)
        if self.silently:
            return Done(person=person.id, mid=sent.mid, timestamp=at)
        event = meta.echo(account, sent)
        return Done(ref=event.ref, person=person.id, mid=sent.mid, timestamp=at)


class Write(Act, tag="comment", kw_only=True):
    """A person comments on ``post`` (a new one where None), or answers comment ``parent``.

    ``own``: the account itself comments. ``live``: on a live broadcast (Instagram). ``flat``: field
    and value on the entry, as for Instagram login (None: where the account's login is that).
    """

    text: str
    post: str | None = None
    parent: str | None = None
    own: bool = False
    live: bool = False
    flat: bool | None = None

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        world = meta.world
        account = world.account(self.account)
        person = None if self.own else self._who(meta)[1]
        parent = world.comment(self.parent) if self.parent else None
        at = self._when(meta, parent.created_at if parent else 0)
        post = self._post(meta, account, parent, at)
        comment = world.create_comment(account, person, post, at, self.text, parent=parent)
        flat = account.login is Host.INSTAGRAM if self.flat is None else self.flat
        ref = None
        if not self.silently:
            ref = tell_comment(
                meta,
                account,
                "add",
                comment,
                live=self.live,
                flat=flat,
                repeat=self.repeat,
                held=held,
            )
        who = person.id if person else None
        return Done(ref=ref, person=who, comment=comment.id, post=post.id, timestamp=at)

    def _post(self, meta: Meta, account: Account, parent: Comment | None, at: int) -> Post:
        existing = self.post or (parent.post_id if parent else None)
        return meta.world.post(existing) if existing else meta.world.create_post(account, at)


class ChangeComment(Act, tag="change_comment", kw_only=True):
    """A person edits (``text``) or removes a comment; the app hears of it on Facebook only."""

    comment: str
    text: str | None = None

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account = meta.world.account(self.account)
        comment = meta.world.comment(self.comment)
        if self.text is None:
            comment.deleted = True
        else:
            comment.text = self.text
        meta.world.revisions[account.id] += 1
        if self.silently:
            return Done(comment=comment.id, post=comment.post_id)
        verb = "remove" if self.text is None else "edited"
        ref = tell_comment(meta, account, verb, comment, repeat=self.repeat, held=held)
        return Done(ref=ref, comment=comment.id, post=comment.post_id)


class Change(Act, tag="change", kw_only=True):
    """Any other change, as it is: ``field`` and ``value`` (mentions, reactions, insights)."""

    field: str
    value: dict[str, Any]

    def do(self, meta: Meta, *, held: bool = False) -> Done:
        account = meta.world.account(self.account)
        event = meta.tell(
            account,
            self.value,
            field=self.field,
            shape=Shape.CHANGES,
            repeat=self.repeat,
            held=held,
        )
        return Done(ref=event.ref)


AnyAct = (
    Say
    | StoryReply
    | StoryMention
    | Postback
    | Happen
    | Unsend
    | InboxReply
    | Write
    | ChangeComment
    | Change
)


def tell_comment(
    meta: Meta,
    account: Account,
    verb: str,
    comment: Comment,
    *,
    live: bool = False,
    flat: bool = False,
    repeat: Repeat | None = None,
    held: bool = False,
) -> str | None:
    """Tells of a comment and returns the event's ref; Instagram knows new comments only."""
    person = None
    if comment.person_id is not None:
        person = meta.world.find_person(account, comment.person_id)
    if account.platform is Platform.MESSENGER:
        post = meta.world.post(comment.post_id)
        field, shape = "feed", Shape.CHANGES
        value = bodies.feed_comment(verb, comment, post, meta.clock())
    elif verb == "add":
        field = "live_comments" if live else "comments"
        shape = Shape.FLAT if flat else Shape.CHANGES
        value = bodies.instagram_comment(account, comment, "LIVE" if live else "FEED")
    else:
        return None
    event = meta.tell(
        account,
        value,
        field=field,
        shape=shape,
        subject=comment.id,
        person=person,
        repeat=repeat,
        held=held,
    )
    return event.ref


def cdn(asset: str) -> str:
    return f"https://lookaside.example.test/ig_messaging_cdn/?asset_id={asset}&signature=x"
