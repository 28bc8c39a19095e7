"""Pages of an edge, cut at cursors that are bound to an item and to the limit they were made with.

Pure. Only ``next`` says that there is more; ``cursors.after`` is on every page. ``next`` is a whole
address with the token in it, as Graph makes it. Source: the page on paginated results.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlencode
from zlib import crc32

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.reading import Reading
from pagewire_simulator.refusals import Refused

T = TypeVar("T")
Json = dict[str, Any]

DEFAULT_LIMIT = 25
NOWHERE = "http://elsewhere.invalid"


class Wanted(msgspec.Struct, kw_only=True):
    """Which page: at most ``limit`` items, behind or before a cursor."""

    limit: int = DEFAULT_LIMIT
    after: str | None = None
    before: str | None = None


class Edge(msgspec.Struct, kw_only=True):
    """The edge that is paged. ``params`` stand in the address of its next page too.

    ``nested``: expanded inside a read of something else; its cursors are good for any limit.
    """

    node: str
    name: str
    params: Json = {}
    nested: bool = False

    @property
    def mark(self) -> int:
        return crc32(f"{self.node}/{self.name}".encode())


class Cursor(msgspec.Struct, array_like=True, frozen=True):
    """A place behind (or before) an item, "" being the beginning; ``hop`` counts empty pages.

    ``limit`` 0 is good for any.
    """

    mark: int
    item: str
    limit: int
    hop: int = 0

    def __str__(self) -> str:
        return urlsafe_b64encode(msgspec.json.encode(self)).decode()


class Paging(msgspec.Struct, kw_only=True):
    """What pages of one call have in common.

    ``root`` and ``token`` make addresses; ``signed`` is what is added to them inside a batch, where
    they are no good outside of it. Faults: the page ``circles``, as it leads to itself, ``strays``
    to another host, ``forgets`` all cursors.
    """

    seed: int
    reading: Reading
    root: str
    token: str
    signed: Json = {}
    circles: bool = False
    strays: bool = False
    forgets: bool = False

    def page(
        self,
        edge: Edge,
        items: Sequence[T],
        wanted: Wanted,
        show: Callable[[T], Json],
        ident: Callable[[T], str],
    ) -> Json:
        """One page of the edge; raises Refused (2642) for a cursor that is no good here."""
        if not items:
            return {"data": []}
        here = self._cursor(edge, wanted)
        start = end = 0
        if wanted.before:
            end = index(items, here.item, ident)
            start = max(0, end - wanted.limit)
        else:
            start = index(items, here.item, ident) + 1 if here.item else 0
            end = min(len(items), start + self._count(here, wanted.limit, len(items) - start))
        chosen = items[start:end]
        if not chosen and end == len(items):
            return {"data": []}
        last = ident(chosen[-1]) if chosen else here.item
        first = ident(chosen[0]) if chosen else here.item
        limit = 0 if edge.nested or not self.reading.bound else wanted.limit
        after = Cursor(edge.mark, last, limit, 0 if chosen else here.hop + 1)
        if self.circles and not edge.nested:
            after = here
        return {
            "data": [show(one) for one in chosen],
            "paging": self._told(
                edge,
                wanted,
                before=Cursor(edge.mark, first, limit) if start else None,
                after=after,
                more=end < len(items) or after == here,
            ),
        }

    def _cursor(self, edge: Edge, wanted: Wanted) -> Cursor:
        given = wanted.after or wanted.before
        if not given:
            return Cursor(edge.mark, "", wanted.limit)
        if self.forgets:
            raise Refused(refusals.CURSOR)
        try:
            cursor = msgspec.json.decode(urlsafe_b64decode(given), type=Cursor)
        except (ValueError, msgspec.MsgspecError):
            raise Refused(refusals.CURSOR) from None
        if cursor.mark != edge.mark or cursor.limit not in (0, wanted.limit):
            raise Refused(refusals.CURSOR)
        return cursor

    def _count(self, here: Cursor, limit: int, left: int) -> int:
        """How many of the ``left`` items the page shows; the same for the same cursor."""
        most = min(limit, left, self.reading.limit_max)
        if not (self.reading.short or self.reading.empty) or most < 1:
            return most
        dice = Random(f"{self.seed}/page/{here}")
        if dice.random() < self.reading.empty:
            return 0
        return dice.randint(1, most) if dice.random() < self.reading.short else most

    def _told(
        self, edge: Edge, wanted: Wanted, *, before: Cursor | None, after: Cursor, more: bool
    ) -> Json:
        cursors = {"before": str(before or after), "after": str(after)}
        told: Json = {"cursors": cursors}
        if more:
            told["next"] = self._address(edge, wanted.limit, after=cursors["after"])
        if before:
            told["previous"] = self._address(edge, wanted.limit, before=cursors["before"])
        return told

    def _address(self, edge: Edge, limit: int, **cursor: str) -> str:
        query = {"access_token": self.token} | edge.params | {"limit": limit} | cursor | self.signed
        root = NOWHERE if self.strays else self.root
        return f"{root}/{edge.node}/{edge.name}?{urlencode(query)}"


def index(items: Sequence[T], item: str, ident: Callable[[T], str]) -> int:
    """Where the item is; raises Refused (2642) where it no longer is."""
    for at, one in enumerate(items):
        if ident(one) == item:
            return at
    raise Refused(refusals.CURSOR)
