"""Seeded traffic: people who write and comment on a few pages, some of which rules answer.

The same load under the same seed says the same to the same people in the same order; what it meets
(who is killed meanwhile, and what Meta therefore sends again) is not the load's. The simulator
signs, repeats and reorders what happens here, and delivers until it is answered 200.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from faults.rig import Rig
from pagewire_simulator.acts import AnyAct, Done, Say, Write
from pagewire_simulator.client import AccountView
from pagewire_simulator.meta import Echoes

HEALTHY_WITHIN = 60.0
ROUNDS = 10**6
"""No load goes on for so many rounds."""
TICK = 0.02
"""Acts that are due within so many seconds go to the simulator in one call."""

RULES: dict[str, dict[str, Any]] = {
    "price": {"events": ["message"], "then": [{"reply": {"text": "It is ten."}}]},
    "size": {"events": ["message", "comment"], "then": [{"reply": {"text": "It is large."}}]},
    "order": {
        "events": ["comment"],
        "then": [
            {"private_reply": {"text": "Here is how."}},
            {"comment_reply": {"text": "We wrote to you."}},
        ],
    },
}
"""What rules do on the pages of a load, by the word that each fires on."""
OF_MESSAGES = ("price", "size")
OF_COMMENTS = ("size", "order")


@dataclass(frozen=True)
class Load:
    """How much of what. Shares are 0–1; `rate` is in events a second, by fixed times."""

    seed: int = 1
    pages: int = 3
    people: int = 60
    events: int = 200
    rate: float = 50.0
    answered: float = 0.5
    """Of the events: that a rule answers."""
    comments: float = 0.15
    instagram: float = 0.34
    """Of the pages."""
    duplicates: float = 0.3
    reordered: float = 0.1
    late_echoes: float = 0.05
    late_by: float = 2.0
    retries: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Meta's pauses before each further attempt, the last one for ever."""


@dataclass(frozen=True)
class Stage:
    """Where a load plays: made once, for as many loads of that shape as one likes."""

    pages: tuple[AccountView, ...]
    people: tuple[tuple[str, str], ...]
    """Page and person."""
    posts: dict[str, str]
    """By page."""

    @property
    def instagram(self) -> frozenset[str]:
        """Which pages are Instagram accounts."""
        return frozenset(page.id for page in self.pages if page.platform == "instagram")


@dataclass(frozen=True)
class Said:
    """One thing that a person did; `ref` is its name in the history."""

    ref: str
    page_id: str
    person_id: str
    text: str
    mid: str | None
    comment_id: str | None
    is_answered: bool
    """Whether a rule is to answer it."""


@dataclass(frozen=True)
class Played:
    """What was said, in that order, and when it began and ended by the loop's clock."""

    said: tuple[Said, ...]
    begun: float
    ended: float


async def stage(rig: Rig, load: Load) -> Stage:
    """Connects pages, makes the rules and the people, and gives Meta the load's habits."""
    await rig.meta.options(
        plan={
            "repeat": load.duplicates,
            "reorder": load.reordered,
            "later_by": 0.5,
            "retries": load.retries,
        },
        echo=Echoes(late=load.late_echoes, late_by=load.late_by),
    )
    of_instagram = round(load.pages * load.instagram)
    platforms = ["instagram" if n < of_instagram else "messenger" for n in range(load.pages)]
    pages = [await connect(rig, platform) for platform in platforms]
    for word, rule in RULES.items():
        await make_rule(rig, word, [page.id for page in pages], **rule)
    people = [
        (page.id, (await rig.meta.create_person(page.id)).id)
        for number in range(load.people)
        for page in (pages[number % len(pages)],)
    ]
    posts = {page.id: (await rig.meta.create_post(page.id)).id for page in pages}
    return Stage(tuple(pages), tuple(people), posts)


async def connect(rig: Rig, platform: str = "messenger") -> AccountView:
    """A new account, connected and subscribed. Raises TimeoutError where it does not get well."""
    account = await rig.meta.create_account(platform, subscribed_fields=[])
    body = {
        "platform": platform,
        "page_id": account.id,
        "name": account.name,
        "access_token": account.token,
    }
    (await rig.operator.post("/api/pages", json=body)).raise_for_status()
    async with asyncio.timeout(HEALTHY_WITHIN):
        while (await rig.operator.get(f"/api/pages/{account.id}")).json()["state"] != "healthy":
            await asyncio.sleep(0.05)
    return account


async def make_rule(rig: Rig, word: str, pages: list[str], **fields: Any) -> dict[str, Any]:
    """A rule of these pages that fires on a word; as the operator's API shows it."""
    body = {"name": word, "page_ids": pages, "when": {"text": {"any": [word]}}} | fields
    made: dict[str, Any] = (
        (await rig.operator.post("/api/rules", json=body)).raise_for_status().json()
    )
    return made


async def play(rig: Rig, on: Stage, load: Load) -> Played:
    """Says it all at its times, whatever becomes of it; returns when the last is said."""
    clock = asyncio.get_running_loop().time
    script, said = _script(on, load), []
    begun = clock()
    for first in range(0, len(script), step := max(1, int(load.rate * TICK))):
        await asyncio.sleep(begun + first / load.rate - clock())
        acts = script[first : first + step]
        done = await rig.meta.acts([act for act, _ in acts])
        said += [_said(*act, one) for act, one in zip(acts, done, strict=True)]
    return Played(tuple(said), begun, clock())


@asynccontextmanager
async def going_on(rig: Rig, on: Stage, load: Load) -> AsyncIterator[None]:
    """Rounds of the load within the block, each with a seed of its own: one whole one at least."""
    over = asyncio.Event()

    async def rounds() -> None:
        number = 0
        while not (over.is_set() and number):
            number += 1
            await play(rig, on, replace(load, seed=load.seed * ROUNDS + number))

    playing = asyncio.create_task(rounds())
    try:
        yield
        over.set()
        await playing
    finally:
        playing.cancel()


def _script(on: Stage, load: Load) -> list[tuple[AnyAct, bool]]:
    """What will be said, and whether a rule answers it."""
    chance = random.Random(f"{load.seed}/load")
    script: list[tuple[AnyAct, bool]] = []
    for number in range(load.events):
        page, person = chance.choice(on.people)
        is_comment = chance.random() < load.comments
        is_answered = chance.random() < load.answered
        words = OF_COMMENTS if is_comment else OF_MESSAGES
        text = f"{chance.choice(words) if is_answered else 'hello'} {load.seed}.{number}"
        act: AnyAct = (
            Write(account=page, person=person, text=text, post=on.posts[page])
            if is_comment
            else Say(account=page, person=person, text=text)
        )
        script.append((act, is_answered))
    return script


def _said(act: AnyAct, is_answered: bool, done: Done) -> Said:
    assert isinstance(act, Say | Write)
    return Said(
        ref=done.ref or "",
        page_id=act.account,
        person_id=done.person or "",
        text=act.text or "",
        mid=done.mid,
        comment_id=done.comment,
        is_answered=is_answered,
    )
