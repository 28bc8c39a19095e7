"""Sends: Graph fails, lies, is slow, refuses or is gone while replies go out.

A fault is scripted at the simulator for as many calls as it is to meet, and ended then; whether a
failed call took effect all the same is the fault's to say, never the answer's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from faults.gathering import bounds_of
from faults.rig import Rig
from faults.rows import Struck, row
from faults.wires import through
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_simulator.ledger import CallRecord
from pagewire_simulator.limits import Allowance
from pagewire_simulator.meta import Echoes

SENDS = ("send", "private_reply", "comment_reply")
GRAPH = ("sync", "graph")
WITHIN = 90.0
"""Seconds for the load to bring about what a row waits for; a page that was throttled before rests
for a minute."""
LEAST = 3
"""So many sends meet a fault."""
RECENT = 5
"""So many events tell which pages are lively."""
THROTTLED_SECONDS = 2.0
"""For which nobody is written to where the app has called too often."""
BLOCKED_SECONDS = 1.0
"""For which a page is left without a good token."""

REFUSING = ("http_500", "http_502", "http_503", "error", "unavailable")
CREATING = ("created_error", "created_unavailable", "http_500", "http_502", "http_503")
BROKEN = ("half", "truncated", "html", "empty", "lost", "reset")
THROTTLED = {"http_429": None, "messenger_throttled": None, "user_throttled": None, "calls": 613}
ALLOWED, USED, LEFT = 400, 376, 4
"""Ninety-four per cent of a page's calls, and so many later 95, where it is to stop."""
LONG_LAG = 120.0
"""Seconds after which reads show what was sent: later than any look is made."""
BLOCKED = ("token_expired", "token_password_changed", "permission")

WAITING = "select count(*) from outbox where state = 'ready' and state_reason = %s"
SENT_AGAIN = """
    select count(*) from attempt a join outbox o on o.page_id = a.page_id
        and o.reply_id = a.reply_id and o.state = 'sent' and o.uncertain_before
    where a.tag = any(%s)
"""


async def meet(rig: Rig, *scripts: Script, least: int = LEAST) -> list[CallRecord]:
    """Has sends meet the scripts until so many did: these. Raises TimeoutError: too few came."""
    before = (await rig.meta.summary()).calls
    met: list[CallRecord] = []
    await rig.meta.faults(*scripts)
    try:
        async with asyncio.timeout(WITHIN):
            while len(met) < least:
                await asyncio.sleep(0.05)
                came = await rig.meta.calls(after=str(before))
                met = [call for call in came if call.fault]
    except TimeoutError:
        raise TimeoutError(f"{len(met)} of {least} sends met the fault") from None
    finally:
        await rig.meta.faults()
    return met


def on_sends(fault: str, **more: bool | float | str) -> list[Script]:
    """The fault for each way of sending."""
    return [Script(fault=fault, endpoint=endpoint, **more) for endpoint in SENDS]  # type: ignore[arg-type]


def one_by_one(faults: Sequence[str], draw: random.Random, **more: bool) -> list[Script]:
    """Each fault once for each way of sending, one call after the other."""
    drawn = draw.sample(faults, len(faults))
    return [script for fault in drawn for script in on_sends(fault, count=1, **more)]


async def lively(rig: Rig, draw: random.Random) -> AccountView:
    """An account on which something happens now. Raises TimeoutError: nothing happens."""
    before = (await rig.meta.summary()).events
    async with asyncio.timeout(WITHIN):
        while len(events := await rig.meta.events(after=before)) < RECENT:
            await asyncio.sleep(0.05)
    name = draw.choice(sorted({event.account_id for event in events}))
    return next(account for account in await rig.meta.accounts() if account.id == name)


async def until(is_so: Callable[[], Awaitable[bool]], what: str, within: float = WITHIN) -> None:
    """Raises TimeoutError where it does not become so."""
    try:
        async with asyncio.timeout(within):
            while not await is_so():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(f"not within {within:.0f} s: {what}") from None


async def waits_for(rig: Rig, reason: str) -> None:
    """Until a reply waits for this reason."""

    async def is_waiting() -> bool:
        return bool(await rig.postgres.ask(WAITING, (reason,)))

    await until(is_waiting, f"a reply waits as {reason}")


@asynccontextmanager
async def echoing(rig: Rig, echoes: Echoes) -> AsyncIterator[None]:
    """All accounts have these habits of telling back; afterwards the usual ones."""
    accounts = await rig.meta.accounts()
    for account in accounts:
        await rig.meta.change_account(account.id, echo=echoes)
    try:
        yield
    finally:
        for account in accounts:
            await rig.meta.change_account(account.id, echo=Echoes())


@row("F50", weight="graph")
async def sends_fail(rig: Rig, draw: random.Random) -> Struck:
    """Sends are answered by 500, 502, 503, code 1 or 2, and were not taken."""
    await meet(rig, *one_by_one(REFUSING, draw, created=False), least=len(REFUSING))
    return Struck()


@row("F51", weight="graph")
async def sends_fail_and_are_taken(rig: Rig, draw: random.Random) -> Struck:
    """Sends are answered by 500, 502, 503, code 1 or 2, and were taken all the same."""
    await meet(rig, *one_by_one(CREATING, draw, created=True), least=len(CREATING))
    return Struck()


@row("F52", weight="graph")
async def reads_lag(rig: Rig, draw: random.Random) -> Struck:
    """Answers to sends are lost, nothing is told back, and reads show them late, or too late.

    Either at three quarters of what the second look waits for, or when no look is made any more:
    then what Graph took is sent again, once.
    """
    second_look = bounds_of(rig.system.env).second_look
    lag = draw.choice([0.75 * second_look, LONG_LAG])
    await rig.meta.options(read_lag=lag)
    try:
        async with echoing(rig, Echoes(when="never")):
            met = await meet(rig, Script(fault="lost", endpoint="send"))
            if lag == LONG_LAG:
                await sent_again(rig, met, within=WITHIN + 2 * second_look)
            else:
                await asyncio.sleep(2 * lag)  # the looks of it are made, the last one sees it
    finally:
        await rig.meta.options(read_lag=0)
    return Struck()


async def sent_again(rig: Rig, met: Sequence[CallRecord], within: float) -> None:
    """Until one of the messages that these calls sent was sent again."""
    tags = [call.metadata for call in met if call.metadata]

    async def is_sent() -> bool:
        return bool(await rig.postgres.ask(SENT_AGAIN, (tags,)))

    await until(is_sent, "what was lost is sent again", within)


@row("F53", weight="graph", proxies=frozenset({GRAPH}))
async def graph_refuses_connections(rig: Rig, draw: random.Random) -> Struck:
    """Nobody listens where Graph is."""
    graph = rig.proxy(*GRAPH)
    graph.refuse()
    try:
        await waits_for(rig, "connect_failed")
    finally:
        await graph.accept()
    return Struck()


@row("F54", weight="graph")
async def answers_are_broken(rig: Rig, draw: random.Random) -> Struck:
    """Answers to sends end in the middle, or are empty, no JSON, or none at all."""
    await meet(rig, *one_by_one(BROKEN, draw), least=len(BROKEN))
    return Struck()


@row("F56", weight="graph")
async def too_many_calls(rig: Rig, draw: random.Random) -> Struck:
    """A page has called too often, by 429, a code or its usage, and no other; or the app has."""
    throttle = draw.choice([throttled, overused, all_throttled])
    page = await throttle(rig, draw)
    await rig.meta.allow(page.id, Allowance())
    return Struck()


async def throttled(rig: Rig, draw: random.Random) -> AccountView:
    """A page's sends are refused by 429 or a code; the page."""
    page = await lively(rig, draw)
    fault = draw.choice(sorted(THROTTLED))
    code = THROTTLED[fault]
    more = {"account": page.id} | ({"code": code} if code else {})
    await meet(rig, *on_sends("http_429" if code else fault, **more), least=1)
    return page


async def overused(rig: Rig, draw: random.Random) -> AccountView:
    """The usage that Graph's headers tell of a page passes 95 per cent, and stays so; the page."""
    page = await lively(rig, draw)
    before = str(len(await rig.meta.calls(account=page.id)))
    now = int(time.time() * 1000)
    await rig.meta.allow(page.id, Allowance(calls=ALLOWED, used=USED, since=now))

    async def is_over() -> bool:
        came = await rig.meta.calls(account=page.id, after=before)
        return sum(call.ended_at is not None for call in came) >= LEFT

    await until(is_over, f"the page has called {LEFT} times")
    return page


async def all_throttled(rig: Rig, draw: random.Random) -> AccountView:
    """Code 4: the app has called too often, as one page is told; that page.

    Raises AssertionError where any page is written to while it lasts. Whoever can't wait so long
    starts sync anew, which forgets of it.
    """
    page = await lively(rig, draw)
    await meet(rig, *on_sends("app_throttled", account=page.id), least=1)
    await asyncio.sleep(THROTTLED_SECONDS)  # what was on its way arrives
    before = str((await rig.meta.summary()).calls)
    await asyncio.sleep(THROTTLED_SECONDS)
    called = {call.endpoint for call in await rig.meta.calls(after=before)}
    assert not called & {*SENDS}, "the app is over its limit, and sends"
    await restart(rig, {})
    return page


@row("F57", weight="graph")
async def a_page_loses_its_token(rig: Rig, draw: random.Random) -> Struck:
    """A page's token is revoked, or lacks a permission; then the page is connected again."""
    page = await lively(rig, draw)

    async def is_blocked() -> bool:
        answer = await rig.operator.get(f"/api/pages/{page.id}")
        return bool(answer.json()["state"] == "blocked")

    await rig.meta.faults(*on_sends(draw.choice(BLOCKED), account=page.id))
    try:
        await until(is_blocked, "the page is blocked")
        await asyncio.sleep(BLOCKED_SECONDS)
    finally:
        await rig.meta.faults()
    body = {"platform": page.platform, "page_id": page.id, "name": page.name}
    again = await rig.operator.post("/api/pages", json=body | {"access_token": page.token})
    again.raise_for_status()
    return Struck()


@row("F58", weight="graph")
async def people_cannot_be_written_to(rig: Rig, draw: random.Random) -> Struck:
    """Graph refuses for good: the person is away, or the time for an answer is over."""
    code, subcode = draw.choice([(551, 1545041), (10, 2018278)])
    await meet(rig, Script(fault="person_unavailable", endpoint="send", code=code, subcode=subcode))
    return Struck()


@row("F59", weight="graph")
async def a_page_is_slow(rig: Rig, draw: random.Random) -> Struck:
    """The sends of one page are taken, and answered after 30 seconds."""
    page = await lively(rig, draw)
    slow = on_sends("slow", account=page.id)
    since = str((await rig.meta.summary()).calls)

    async def goes_on_elsewhere() -> bool:
        calls = await rig.meta.calls(after=since)
        begun = [call.serial for call in calls if call.fault]
        others = [call.serial for call in calls if call.account_id != page.id and call.created]
        return len(begun) > 1 and max(others, default=0) > begun[0]

    await rig.meta.faults(*slow)
    try:
        await until(goes_on_elsewhere, "two sends are slow, and another page's goes")
    finally:
        await rig.meta.faults()
    return Struck()


@row("F62", weight="graph")
async def echoes_come_otherwise(rig: Rig, draw: random.Random) -> Struck:
    """Echoes come before the answer, long after it, never, twice or with a tag of nobody's."""
    otherwise = [
        Echoes(when="before"),
        Echoes(delay=1.5 * bounds_of(rig.system.env).second_look),
        Echoes(when="never"),
        Echoes(when="twice"),
        Echoes(metadata=True, tag="pw1.AAAAAAAAAAAAAAAAAAAAAA"),
    ]
    async with echoing(rig, draw.choice(otherwise)):
        await meet(rig, *on_sends("lost", probability=0.5), least=2)
    return Struck()


@row("F87", weight="graph", proxies=frozenset({GRAPH}))
async def graph_has_no_address(rig: Rig, draw: random.Random) -> Struck:
    """The name of Graph's host can't be resolved; then it is set right."""
    usual = through(GRAPH, [rig.proxy(*GRAPH).address], {})
    await restart(rig, dict.fromkeys(usual, "http://graph-is-nowhere:9"))
    try:
        await waits_for(rig, "connect_failed")
    finally:
        await restart(rig, usual)
    return Struck()


async def restart(rig: Rig, settings: dict[str, str]) -> None:
    """Sync ends as it should, and begins again with these settings."""
    rig.give("sync", **settings)
    rig.terminate("sync")
    await rig.back("sync", WITHIN)
