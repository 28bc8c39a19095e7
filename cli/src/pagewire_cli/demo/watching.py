"""Watching the system decide: each decision joined to what the person did and what Graph was asked.

A decision names its replies, a reply names what Graph made of it, and the simulator's ledger knows
to whom that went: so an answer finds its act. What was declined finds one of its page, kind and
reason.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from pagewire_cli.demo.meta import Meta
from pagewire_cli.demo.operator import Operator
from pagewire_cli.demo.story import Act, Json

ANSWERS = ("send", "private_reply", "comment_reply", "comment_update")
"""The Graph calls that a person notices; labels are for the page's own people."""


@dataclass
class Played:
    """An act that took place: who is who, and what came of it as far as is known."""

    act: Act
    account: str
    person: str
    done: Json = field(default_factory=dict)
    decision: Json | None = None
    calls: list[Json] = field(default_factory=list)
    """Graph calls made in answer, in order."""
    received: int | None = None
    """When Meta first began to tell of it, Unix milliseconds."""

    @property
    def milliseconds(self) -> int | None:
        """From the first byte of the webhook to the first request to Graph, by Meta's clock."""
        if not self.calls or self.received is None:
            return None
        return int(self.calls[0]["started_at"]) - self.received


@dataclass
class Ended:
    """A decision of which every reply has ended."""

    decision: Json
    replies: list[Json]


class Watch:
    """Collects what was played and what was decided; `tell` hears of each act as it ends."""

    def __init__(self, operator: Operator, meta: Meta, tell: Callable[[Played], None]) -> None:
        self.played: list[Played] = []
        self.decisions: list[Json] = []
        self.replies: list[Json] = []
        self._operator = operator
        self._meta = meta
        self._tell = tell
        self._unmatched: list[Ended] = []
        self._changed = asyncio.Condition()
        self._matching = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            async for decision in self._operator.decisions():
                self.decisions.append(decision)
                group.create_task(self._end(decision))

    async def add(self, *played: Played) -> None:
        """These have taken place."""
        self.played += played
        await self._match()

    async def all_ended(self, seconds: float) -> bool:
        """Whether everything that was played has its decision within so many seconds.

        Raises what kept us from watching.
        """
        ended = asyncio.create_task(self._ended())
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait({ended, self._watching}, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return False
        finally:
            ended.cancel()
        if self._watching.done():
            await self._watching
        return True

    async def _ended(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: all(one.decision for one in self.played))

    async def _end(self, decision: Json) -> None:
        ids = decision["reply_ids"]
        replies = await asyncio.gather(*(self._operator.settled_reply(one) for one in ids))
        self.replies += replies
        self._unmatched.append(Ended(decision, replies))
        await self._match()

    async def _match(self) -> None:
        """Joins what can be joined; what many ask for at once is done once."""
        async with self._matching:
            if self._unmatched:
                await self._join()
        async with self._changed:
            self._changed.notify_all()

    async def _join(self) -> None:
        calls = [call for call in await self._meta.records("calls") if call["endpoint"] in ANSWERS]
        told = first_told(await self._meta.records("deliveries"))
        for ended in list(self._unmatched):
            found = whose(ended, calls, self.played)
            if found is None:
                continue
            self._unmatched.remove(ended)
            found.decision = ended.decision
            found.calls = calls_of(ended, calls)
            found.received = told.get(found.done.get("ref", ""))
            self._tell(found)


def first_told(deliveries: list[Json]) -> dict[str, int]:
    """When the first POST with each event began, by the event's ref in the ledger."""
    told: dict[str, int] = {}
    for delivery in deliveries:
        for ref in delivery["refs"]:
            told[ref] = min(delivery["started_at"], told.get(ref, delivery["started_at"]))
    return told


def calls_of(ended: Ended, calls: list[Json]) -> list[Json]:
    """The Graph calls that made the decision's replies."""
    return [call for call in calls if any(_made(call, reply) for reply in ended.replies)]


def _made(call: Json, reply: Json) -> bool:
    if reply["kind"] == "hide_comment":
        hidden: bool = call["endpoint"] == "comment_update"
        return hidden and call["comment_id"] == reply["comment_id"]
    return reply["mid"] is not None and call["created"] == reply["mid"]


def whose(ended: Ended, calls: list[Json], played: list[Played]) -> Played | None:
    """The act that was decided; None where it is not known, or not known yet."""
    waiting = [
        one
        for one in played
        if one.decision is None
        and one.account == ended.decision["page_id"]
        and one.act.kind == ended.decision["kind"]
    ]
    if ended.decision["outcome"] != "answered":
        wanted = (one for one in waiting if one.act.reason == ended.decision["reason"])
        return next(wanted, None)
    answers = calls_of(ended, calls)
    concerned = [one for one in waiting if any(_concerns(call, one) for call in answers)]
    texts = {call["text"] for call in answers}
    exact = (one for one in concerned if {text for _, text in one.act.answers} == texts)
    return next(exact, next(iter(concerned), None))


def _concerns(call: Json, played: Played) -> bool:
    if played.act.kind == "comment":
        return bool(call["comment_id"] == played.done.get("comment"))
    return bool(call["person_id"] == played.person)
