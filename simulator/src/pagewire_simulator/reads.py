"""How Graph shows things: nodes cut to the fields asked for.

Pure. A field without data is absent, never null; ``id`` is always there. Times look like
``2026-01-02T00:00:02+0000``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pagewire_simulator import fields
from pagewire_simulator.entities import Account, Person, Platform
from pagewire_simulator.fields import Field

Json = dict[str, Any]


def iso(at: int) -> str:
    return of_second(at // 1000)


@lru_cache(maxsize=1 << 16)
def of_second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


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


def party(account: Account, person: Person | None) -> Json:
    """Who wrote: the account where ``person`` is None."""
    who = person or account
    if account.platform is Platform.INSTAGRAM:
        return {"username": who.username, "id": who.id}
    return {"name": who.name, "email": f"{who.id}@facebook.com", "id": who.id}


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
