"""A small load on pages of its own while one fault befalls the system, and what comes of it."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from faults.checker import check
from faults.evidence import Evidence
from faults.gathering import Held, evidence_of
from faults.load import Load, Stage, going_on, stage
from faults.rig import Rig
from faults.rows import Least, Struck, every

SMALL = Load(pages=2, people=12, events=5, rate=25, instagram=0.5, late_by=0.5)
"""One round of a load that goes on for as long as a fault lasts."""
REST = 120.0
"""Seconds for a busy machine to come to rest; a fault's own waits are shorter."""

BUSY_SLOWEST = 60.0
"""Seconds for an answer to Meta."""
BUSY_SLACK = 60.0
"""Seconds for whatever else is to happen in time."""


@dataclass
class Trial:
    """One fault upon a system; `on` is where its load plays."""

    rig: Rig
    on: Stage
    load: Load
    draw: random.Random
    struck: list[Struck] = field(default_factory=list)

    def load_going_on(self) -> AbstractAsyncContextManager[None]:
        """Rounds of the load within the block, and one whole round at least."""
        return going_on(self.rig, self.on, self.load)

    async def befalls(self, row: str) -> Struck:
        """The row of the matrix strikes while the load goes on."""
        async with self.load_going_on():
            struck = await every()[row].strike(self.rig, self.draw)
        self.struck.append(struck)
        return struck

    async def rest(self, before: Held | None = None) -> Evidence:
        """Ends what faults there are, waits until nothing is left to do: what is known then."""
        await self.rig.calm()
        await self.rig.quiet(REST)
        whole = await evidence_of(self.rig, self.on, self.struck, before=before)
        return of_pages({page.id for page in self.on.pages}, at_leisure(whole))

    async def kept_promises(self, before: Held | None = None) -> Evidence:
        """The same, with every invariant asserted."""
        evidence = await self.rest(before)
        wrong = [str(violation) for violation in check(evidence)]
        assert not wrong, wrong
        assert evidence.rows.decisions
        return evidence


def at_leisure(evidence: Evidence) -> Evidence:
    """The same where nothing has to be quick: that is measured where nothing else runs."""
    bounds = replace(evidence.bounds, slowest=BUSY_SLOWEST, slack=BUSY_SLACK)
    return replace(evidence, bounds=bounds, catchups=(), besides={})


async def trial(rig: Rig, load: Load = SMALL, *, seed: str = "") -> Trial:
    """A trial on pages of its own."""
    return Trial(rig, await stage(rig, load), load, Least(seed))


def of_pages(pages: set[str], evidence: Evidence) -> Evidence:
    """What of it concerns these pages: trials before left theirs on the same system."""
    history, rows = evidence.history, evidence.rows

    def ours(each: Sequence, page: Callable = lambda one: one.page_id) -> tuple:  # type: ignore[type-arg]
        return tuple(one for one in each if page(one) in pages)

    happened = ours(history.happened)
    refs = {event.ref for event in happened}
    delivered = (
        replace(post, refs=tuple(ref for ref in post.refs if ref in refs))
        for post in history.delivered
    )
    return replace(
        evidence,
        canaries={
            what: canary for what, canary in evidence.canaries.items() if canary not in rows.pages
        },
        history=replace(
            history,
            happened=happened,
            delivered=tuple(post for post in delivered if post.refs),
            calls=ours(history.calls),
        ),
        rows=replace(
            rows,
            events=ours(rows.events),
            decisions=ours(rows.decisions),
            fired=ours(rows.fired),
            outbox=ours(rows.outbox),
            attempts=ours(rows.attempts),
            lanes=ours(rows.lanes),
            messages=ours(rows.messages),
            comments=ours(rows.comments),
            marks=ours(rows.marks),
            leases=ours(rows.leases),
            doubts=ours(rows.doubts),
        ),
    )
