"""The tests' own test: each planted bug is brought to light by the row that is meant for it, or by
a narrower form of that row.

All but one thing is as in the row's own test; the same row, on the same load, finds nothing wrong
in the services as they are. Five bugs do harm where their row seldom comes by: `SETTINGS` has a
`strike` of their own, which says of what row it is.
"""

import asyncio
import dataclasses
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from faults import sends
from faults.checker import check
from faults.evidence import Evidence
from faults.load import Load, going_on, stage
from faults.planted import BUGS, FIGURE, Bug
from faults.rig import QUICK, SERVICES, NotQuiet, Rig
from faults.rows import Struck, every
from faults.rows import sends as sending
from faults.rows.poison import poisoned
from faults.rows.process import dies
from pagewire_cli.launcher import MODULES
from pagewire_simulator.faults import Script
from pagewire_simulator.meta import Echoes
from tests.support.striking import SMALL, evidence_on, invariants, replies
from tests.support.struck import REST

pytestmark = [
    pytest.mark.rows,
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

ROOT = Path(__file__).parents[2]
PATIENCE = 12.0
"""Seconds after which a reply in doubt is parked."""
ENV = dict(QUICK) | {"STORE_UNCERTAIN_PATIENCE_SECONDS": str(PATIENCE)}
LEAST_BUGS = 12
POISON_SECONDS = 15.0
LOOK_SECONDS = 2.0
LOOKS = 8
"""What is stuck is so after a lease of five seconds and a slack of as much."""
ROUNDS = 3
"""Some bugs do harm by chance only."""
IN_DOUBT = "select count(*) from outbox where state in ('sending', 'uncertain')"


async def a_sender_is_late(rig: Rig, draw: random.Random) -> Struck:
    """F16 of a sender: it says how a send ended when its lease is over, and nobody can look
    meanwhile."""
    await rig.meta.faults(Script(fault="error", endpoint="conversations"))
    rig.fault("sync", f"sync.after_response=sleep:{float(QUICK['STORE_SEND_LEASE_SECONDS']) + 2}s")
    await asyncio.sleep(3)
    rig.fault("sync")
    await asyncio.sleep(PATIENCE + 3)
    await rig.meta.faults()
    return Struck()


async def nobody_can_look(rig: Rig, draw: random.Random) -> Struck:
    """F51 for messages alone: sends are taken and not answered, and all looks fail until none of
    them is in doubt."""
    blind = Script(fault="error", endpoint="conversations")
    await rig.meta.faults(blind, *sending.one_by_one(sending.CREATING, draw, created=True))

    async def have_met() -> bool:
        return sum(call.fault in sending.CREATING for call in await rig.meta.calls()) > 1

    async def are_settled() -> bool:
        return not await rig.postgres.ask(IN_DOUBT)

    await sending.until(have_met, "sends are not answered")
    await sending.until(are_settled, "no reply is in doubt")
    await rig.meta.faults()
    return Struck()


async def a_clock_is_behind(rig: Rig, draw: random.Random) -> Struck:
    """The last of F77, of the store: its clock goes back an hour. Then the dispatcher dies with
    lanes that it has, as in F07, which somebody must take over by the database's clock."""
    rig.fault("store", "store.ingest.before_begin=skew:-3600s once")
    await asyncio.sleep(0.5)
    return await every()["F07"].strike(rig, draw)


async def poison_for_a_while(rig: Rig, draw: random.Random) -> Struck:
    """F17b without its end: an event kills rules for longer than it takes to find out that it
    does."""
    return await poisoned(rig, "rules", "rules.evaluate", POISON_SECONDS)


async def rules_die(rig: Rig, draw: random.Random) -> Struck:
    """F17c without its outage: rules die with events that they have, and of none of them."""
    return await dies(rig, draw, "rules", "rules.evaluate")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a row needs so that its bug can do harm."""

    load: Load = SMALL
    draws: int = 1
    echo: Echoes | None = None
    strike: Callable[[Rig, random.Random], Awaitable[Struck]] | None = None
    """In the row's place."""
    is_definite: bool = False
    has_echoes: bool = False


NEVER = Echoes(when="never")
OF_MESSAGES = dataclasses.replace(SMALL, comments=0.0)
ON_MESSENGER = dataclasses.replace(OF_MESSAGES, instagram=0.0)
CROWDED = dataclasses.replace(SMALL, people=2, answered=1.0, events=40)
SETTINGS = {
    "lapsed_is_unsent": Setting(OF_MESSAGES, echo=NEVER),
    "marked_after_the_send": Setting(OF_MESSAGES, echo=NEVER),
    "what_waits_is_overtaken": Setting(CROWDED),
    "replies_are_committed_apart": Setting(draws=20),
    "echoes_are_not_bound": Setting(ON_MESSENGER, strike=nobody_can_look),
    "blind_resend": Setting(OF_MESSAGES, has_echoes=True),
    "one_clean_look": Setting(OF_MESSAGES),
    "deaths_are_an_outage": Setting(OF_MESSAGES, strike=poison_for_a_while),
    "whoever_was_there_is_blamed": Setting(strike=rules_die),
    "lease_by_own_clock": Setting(strike=a_clock_is_behind),
    "outcome_is_fenced": Setting(
        OF_MESSAGES, echo=NEVER, strike=a_sender_is_late, is_definite=True
    ),
}
CONTROLS = (
    "echoes_are_not_bound",
    "lapsed_is_unsent",
    "lease_by_own_clock",
    "outcome_is_fenced",
    "what_waits_is_overtaken",
)
"""Those whose setting is no other test's: there it shows that nothing is wrong without the bug."""


def never_sent(evidence: Evidence) -> bool:
    """F56: all that Graph wanted later went later."""
    return bool(replies(evidence, "failed"))


def never_told_back(evidence: Evidence) -> bool:
    """F51: a message in doubt is settled by its echo where nobody can look for it."""
    ends = sends.uncertain_ends(evidence)
    return ends.total() > 0 and not ends["echo"]


def never_parked(evidence: Evidence) -> bool:
    """F17: the event that kills rules is parked."""
    return "parked" not in {row.state for row in evidence.rows.events}


FIGURES = {
    "later_is_never": never_sent,
    "echoes_are_not_bound": never_told_back,
    "deaths_are_an_outage": never_parked,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pagewire-planted-") as folder:
        async with Rig(Path(folder), proxies=[("sync", "graph")], env=ENV) as rig:
            yield rig


async def live_as(rig: Rig, service: str, command: list[str]) -> None:
    """The service lives by this command: a new life, where it did not; returns when others see."""
    process = rig.process(service)
    argv = process.spec.argv
    at = argv.index("env", 1) if "env" in argv[1:] else argv.index(sys.executable)
    if argv[at:] == command:
        return
    process.spec = dataclasses.replace(process.spec, argv=[*argv[:at], *command])
    await rig.kill(service)
    await rig.back(service)
    async with asyncio.timeout(60):
        while (await rig.operator.get("/api/pages")).status_code != 200:
            await asyncio.sleep(0.1)


async def only(rig: Rig, name: str = "") -> None:
    """The services are as they are, but for this bug."""
    for service in SERVICES:
        is_bad = bool(name) and BUGS[name].service == service
        await live_as(rig, service, planted(name) if is_bad else list(MODULES[service]))


def planted(name: str) -> list[str]:
    """The command of the bug's service with the bug in it."""
    module = MODULES[BUGS[name].service][-1]
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "faults.planted", name, module]


async def told_by(rig: Rig, name: str, *, at_rest: bool = False) -> set[str]:
    """By what the row finds the bug that is in the rig now; `at_rest`: only when all is over."""
    its, row = SETTINGS.get(name, Setting()), every()[BUGS[name].row]
    on = await stage(rig, its.load)
    if its.echo is not None:
        for page in on.pages:
            await rig.meta.change_account(page.id, echo=its.echo)
    strike = its.strike or row.strike
    struck = Struck()
    async with going_on(rig, on, its.load):
        with suppress(TimeoutError, AssertionError):  # with a bug it may not come by a point
            struck = await strike(rig, random.Random(its.draws))
    await rig.calm()
    if at_rest:
        await rig.quiet(REST)
    found: set[str] = set()
    for _ in range(LOOKS):  # what is wrong stays so: no need to wait until all has come to rest
        is_quiet = await comes_to_rest(rig)
        evidence = await evidence_on(
            rig, on, struck, is_definite=its.is_definite, has_echoes=its.has_echoes
        )
        found = invariants(check(evidence))
        if name in FIGURES and FIGURES[name](evidence):
            found.add(FIGURE)
        if is_quiet or found & BUGS[name].told_by:
            break
    return found


async def comes_to_rest(rig: Rig) -> bool:
    with suppress(NotQuiet):
        await rig.quiet(LOOK_SECONDS)
        return True
    return False


async def test_there_are_enough_bugs_and_each_names_a_row_and_says_what_it_is() -> None:
    rows = every()

    assert len(BUGS) >= LEAST_BUGS
    for bug in BUGS.values():
        assert bug.row in rows
        assert bug.told_by
        assert (bug.plant.__doc__ or "").endswith(".")


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.needs_two])
async def test_a_planted_bug_is_brought_to_light_by_its_row(rig: Rig, name: str) -> None:
    bug: Bug = BUGS[name]
    await only(rig, name)

    found: set[str] = set()
    for _ in range(ROUNDS):
        found |= await told_by(rig, name)
        if found & bug.told_by:
            break

    assert found & bug.told_by, f"{name} is not noticed; found {sorted(found)}"


@pytest.mark.parametrize("name", CONTROLS)
async def test_the_same_row_finds_nothing_where_there_is_no_bug(rig: Rig, name: str) -> None:
    await only(rig)

    found = await told_by(rig, name, at_rest=True)

    assert not found & BUGS[name].told_by
