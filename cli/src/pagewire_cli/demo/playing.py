"""The play: a system is started, pages connected, rules made, a day of webhooks gone through."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pagewire_cli.demo import story
from pagewire_cli.demo.meta import Meta
from pagewire_cli.demo.operator import Operator
from pagewire_cli.demo.proof import Evidence
from pagewire_cli.demo.show import Show
from pagewire_cli.demo.story import Act, Json, Shop
from pagewire_cli.demo.watching import Played, Watch
from pagewire_cli.launcher import System, running

HEALTHY_WITHIN = 15.0
ENDED_WITHIN = 12.0  # more than a lane's lease: what a dead dispatcher held is taken over
SETTLED_WITHIN = 10.0
SETTINGS = {"UNREADY_SECONDS": "0"}  # no balancer needs time to notice that we stop


class DidNotHappen(Exception):
    """Something without which the play can't go on; the text says what."""


@dataclass
class Play:
    """The people and pages of the story, in one running system."""

    system: System
    operator: Operator
    meta: Meta
    show: Show
    watch: Watch
    accounts: dict[str, str] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    while_down: list[Played] = field(default_factory=list)
    pasts: dict[str, Json] = field(default_factory=dict)
    runs: list[Json] = field(default_factory=list)
    mirrored_in: float = 0.0  # seconds
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - a play

    async def prepare(self) -> None:
        """Pages, and rules for them."""
        for shop in story.SHOPS:
            with self.show.step(f"Connecting {shop.name} ({shop.platform}, {shop.login} login)"):
                await self._connect(shop)
        rules = story.rules(self.accounts)
        with self.show.step(f"Making {len(rules)} rules by the HTTP API"):
            for rule in rules:
                await self.operator.make_rule(rule)
        await self._mirror()
        # From here on Meta behaves as it does on a bad day.
        await self.meta.habits(
            echo={"when": "twice", "delay": 0.05},
            plan={"reorder": 0.3, "reorder_by": 0.15, "later_by": 0.7},
        )

    async def _mirror(self) -> None:
        """What was written before we came; Graph takes its time from now on, as Meta's does."""
        await self.meta.habits(latency="plain")
        began = time.monotonic()
        with self.show.runs(2 * len(story.SHOPS)) as tell:
            self.runs = await self.operator.sync_all(tell)
        self.mirrored_in = time.monotonic() - began
        names = {self.accounts[shop.handle]: shop.name for shop in story.SHOPS}
        for run in self.runs:
            self.show.run(names[run["page_id"]], run)

    async def _connect(self, shop: Shop) -> None:
        linked = self.accounts[story.BAKERY.handle] if shop.linked else None
        page = await self.meta.open_page(shop, linked)
        self.accounts[shop.handle] = page["id"]
        past = story.PASTS[shop.handle]
        self.pasts[page["id"]] = await self.meta.remember(page["id"], past)
        await self.operator.connect(
            {
                "page_id": page["id"],
                "platform": shop.platform,
                "login": shop.login,
                "name": shop.name,
                "access_token": page["token"],
            }
            | ({"facebook_page_id": linked} if linked else {})
        )
        await self._healthy(page["id"], shop)

    async def _healthy(self, page_id: str, shop: Shop) -> None:
        """Waits until the page was subscribed and checked."""
        deadline = time.monotonic() + HEALTHY_WITHIN
        while (page := await self.operator.page(page_id))["state"] != "healthy":
            if time.monotonic() > deadline:
                why = f"{page['state']} ({page['state_reason']})"
                raise DidNotHappen(f"{shop.name} did not become healthy: it is {why}")
            await asyncio.sleep(0.05)

    async def one_by_one(self, acts: Sequence[Act]) -> None:
        """People come along, not all at once."""
        for act in acts:
            account, person = await self._whom(act)
            done = await self.meta.act(act, account, person)
            await self.watch.add(Played(act, account, person, done))
            await asyncio.sleep(self.chance.uniform(0.03, 0.15))

    async def together(self, acts: Sequence[Act], batch: int) -> list[Played]:
        """People come all at once, several of them in one webhook."""
        whom = [(act, *await self._whom(act)) for act in acts]
        done = await self.meta.act_together(whom, batch)
        played = [Played(*who, one) for who, one in zip(whom, done, strict=True)]
        await self.watch.add(*played)
        return played

    async def _whom(self, act: Act) -> tuple[str, str]:
        account = self.accounts[act.shop.handle]
        if act.person not in self.people:
            self.people[act.person] = await self.meta.meet(account, act.person)
        return account, self.people[act.person]

    async def quiet(self) -> bool:
        """Whether everything played has ended, and every webhook been taken, in time."""
        return await self.watch.all_ended(ENDED_WITHIN) and await self.meta.settled(SETTLED_WITHIN)

    async def through(self) -> None:
        """The scenes, one after the other; the first in which something is missing is the last."""
        for scene in (self._questions, self._in_public, self._limits, self._crowd, self._noise):
            await scene()
            if not await self.quiet():
                return
        await self._death()
        await self.quiet()

    async def _questions(self) -> None:
        self.show.scene("Nine people write; some of their webhooks come twice, or late")
        self.show.head()
        await self.one_by_one(story.QUESTIONS)

    async def _in_public(self) -> None:
        self.show.scene("Below posts, in answer to stories, and at a button")
        await self.one_by_one(story.IN_PUBLIC)

    async def _limits(self) -> None:
        self.show.scene("Once per person; and a colleague types an answer in Meta's own inbox")
        bakery = self.accounts[story.BAKERY.handle]
        await self.meta.colleague_answers(bakery, self.people["Dora"], story.COLLEAGUE)
        for person in ("Ana", "Gus"):
            await self.meta.reads(bakery, self.people[person], _now())
        await self.meta.settled(SETTLED_WITHIN)
        await self.one_by_one(story.LIMITS)

    async def _crowd(self) -> None:
        self.show.scene(f"{len(story.CROWD)} people at once, five to a webhook, half of them twice")
        await self.meta.habits(plan={"repeat": 0.5})
        await self.together(story.CROWD, batch=5)

    async def _noise(self) -> None:
        self.show.scene("A storm of echoes, an unknown page, half a body: nothing to be answered")
        await self.meta.habits(plan={"repeat": 0})
        bakery = self.accounts[story.BAKERY.handle]
        storm = story.echo_storm(bakery, self.people["Ana"], _now())
        for body in (storm, storm, story.message_of_unknown_page(_now()), story.UNREADABLE):
            await self.meta.deliver(body)

    async def _death(self) -> None:
        self.show.scene("The edge is killed; Meta's webhooks fail, and come again")
        edge = self.system.process("webhook")
        await edge.kill()
        self.while_down = await self.together(story.WHILE_DOWN, batch=1)
        await edge.ready()

    async def evidence(self) -> Evidence:
        """Everything that is known now."""
        page_ids = self.accounts.values()
        messages = {page: await self.operator.stored_messages(page) for page in page_ids}
        comments = {page: await self.operator.stored_comments(page) for page in page_ids}
        bakery = self.accounts[story.BAKERY.handle]
        insults = [one for one in self.watch.played if one.act.rule == "insult"]
        orders = {one.person for one in self.watch.played if one.act.rule == "order"}
        return Evidence(
            played=self.watch.played,
            while_down=self.while_down,
            decisions=self.watch.decisions,
            events=await self.meta.records("events"),
            deliveries=await self.meta.records("deliveries"),
            calls=await self.meta.records("calls"),
            pasts=self.pasts,
            runs=self.runs,
            mirrored_in=self.mirrored_in,
            truths=[await self.meta.truth(page) for page in page_ids],
            messages=messages,
            comments=comments,
            echoes=story.storm_mids(),
            status=await self.operator.status(),
            hidden=all([await self.meta.is_hidden(one.done["comment"]) for one in insults]),
            labelled=orders == set(await self.meta.labelled(bakery, story.LABEL)),
        )


async def perform(folder: Path, show: Show) -> Evidence:
    """The whole play on a system of its own, which has ended when this returns.

    Raises DidNotHappen, and what the system's parts raise where they do not answer.
    """
    async with AsyncExitStack() as stack:
        with show.step("Starting PostgreSQL, Valkey, the four services and a simulated Meta"):
            system = await stack.enter_async_context(running(folder, env=SETTINGS))
        operator = await stack.enter_async_context(Operator(system))
        meta = await stack.enter_async_context(Meta(system.addresses["simulator"]))
        watch = Watch(operator, meta, show.row)
        play = Play(system, operator, meta, show, watch)
        async with watch:
            await play.prepare()
            with show.live():
                await play.through()
            evidence = await play.evidence()
        show.say()
        with show.step("Stopping everything"):
            await stack.aclose()
    return evidence


def _now() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000
