"""How Graph shows things: nodes cut to the fields asked for, edges cut to pages.

Pure. A field without data is absent, never null; ``id`` is always there. Times look like
``2026-01-02T00:00:02+0000``.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pagewire_simulator import fields
from pagewire_simulator.entities import (
    Account,
    Comment,
    Conversation,
    Message,
    Person,
    Platform,
)
from pagewire_simulator.fields import Field
from pagewire_simulator.refusals import Refusal, Refused
from pagewire_simulator.world import World

T = TypeVar("T")
Json = dict[str, Any]
Show = Callable[[Field], Any]

DEFAULT_LIMIT = 25


def iso(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def cut(known: dict[str, Any], wanted: Sequence[Field]) -> Json:
    """The wanted fields out of the known ones; a callable is given the field to show it."""
    shown: Json = {}
    for field in wanted:
        value = known.get(field.name)
        if callable(value):
            value = value(field)
        if value is not None:
            shown[field.name] = value
    return shown | {"id": known["id"]}


def page(items: Sequence[T], show: Callable[[T], Json], *, limit: int, after: str | None) -> Json:
    """One page of an edge. Only ``next`` says that there is more; ``cursors.after`` leads there."""
    start = position(after) if after else 0
    chosen = items[start : start + limit]
    if not chosen:
        return {"data": []}
    end = start + len(chosen)
    paging: Json = {"cursors": {"before": cursor(start), "after": cursor(end)}}
    if end < len(items):
        paging["next"] = f"?limit={limit}&after={cursor(end)}"
    return {"data": [show(one) for one in chosen], "paging": paging}


def cursor(index: int) -> str:
    return urlsafe_b64encode(f"at:{index}".encode()).decode()


def position(cursor_: str) -> int:
    try:
        return int(urlsafe_b64decode(cursor_).decode().removeprefix("at:"))
    except ValueError:
        raise Refused(Refusal(message="Invalid cursors values", code=2642)) from None


def party(account: Account, person: Person | None) -> Json:
    """Who wrote: the account where ``person`` is None."""
    who = person or account
    if account.platform is Platform.INSTAGRAM:
        return {"username": who.username, "id": who.id}
    return {"name": who.name, "email": f"{who.id}@facebook.com", "id": who.id}


def message(world: World, account: Account, one: Message, wanted: Sequence[Field]) -> Json:
    person = world.find_person(account, one.person_id)
    sender, receiver = (person, None) if one.inbound else (None, person)
    attachments = [{"type": a.get("type"), "payload": a.get("payload")} for a in one.attachments]
    known = {
        "id": one.mid,
        "created_time": iso(one.created_at),
        "message": one.text or "",
        "from": party(account, sender),
        "to": {"data": [party(account, receiver)]},
        "attachments": {"data": attachments} if attachments else None,
    }
    return cut(known, wanted or fields.parse("id,created_time"))


def thread(
    world: World, account: Account, one: Conversation, wanted: Sequence[Field], *, until: int
) -> Json:
    """A conversation with its messages up to ``until``, newest first."""
    visible = [m for m in one.messages if m.inbound or m.created_at <= until][::-1]
    person = world.find_person(account, one.person_id)
    last = visible[0] if visible else None

    def messages(field: Field) -> Json:
        return page(
            visible,
            lambda m: message(world, account, m, field.inner),
            limit=field.limit(DEFAULT_LIMIT),
            after=field.modifiers.get("after"),
        )

    known = {
        "id": one.thread_id,
        "updated_time": iso(last.created_at) if last else None,
        "message_count": len(visible),
        "snippet": last.text if last else None,
        "participants": {"data": [party(account, person), party(account, None)]},
        "messages": messages,
    }
    return cut(known, wanted or fields.parse("id,updated_time"))


def comment(account: Account, one: Comment, wanted: Sequence[Field]) -> Json:
    if account.platform is Platform.INSTAGRAM:
        known: Json = {
            "id": one.id,
            "text": one.text,
            "timestamp": iso(one.created_at),
            "from": {"id": one.from_id, "username": one.from_name},
            "username": one.from_name,
            "hidden": one.hidden,
            "parent_id": one.parent_id,
            "media": {"id": one.post_id},
        }
        return cut(known, wanted or fields.parse("id,text,timestamp"))
    known = {
        "id": one.id,
        "message": one.text,
        "created_time": iso(one.created_at),
        "from": {"id": one.from_id, "name": one.from_name},
        "is_hidden": one.hidden,
        "parent": {"id": one.parent_id} if one.parent_id else None,
        "can_reply_privately": one.person_id is not None and one.private_reply_mid is None,
    }
    return cut(known, wanted or fields.parse("id,message,created_time,from"))


def account(one: Account, wanted: Sequence[Field]) -> Json:
    known = {"id": one.id, "name": one.name, "username": one.username, "user_id": one.id}
    return cut(known, wanted or fields.parse("id,name"))


def person(one: Person, wanted: Sequence[Field]) -> Json:
    first, _, last = one.name.partition(" ")
    known = {
        "id": one.id,
        "name": one.name,
        "first_name": first,
        "last_name": last or None,
        "username": one.username,
    }
    return cut(known, wanted or fields.parse("id,first_name,last_name"))
