"""Gathering the evidence of a system that was struck, from its rig, once it has come to rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from faults.checker import grown
from faults.evidence import Bounds, Evidence
from faults.history import History, Usage
from faults.load import RULES, Stage
from faults.past import past_of
from faults.procfs import usage
from faults.rig import QUICK, Rig
from faults.rows import Struck

META = "simulator"
"""The process whose size is no promise of ours."""
TEXTS = 200
"""So many of the texts are looked for in logs; each is as good as another."""
SECRETS = (
    "META_APP_SECRET",
    "META_WEBHOOK_VERIFY_TOKEN",
    "TOKEN_ENCRYPTION_KEYS",
    "API_KEYS",
    "SERVICE_TOKENS",
)
SHORTEST_CANARY = 6
"""Characters; what is shorter stands somewhere by chance."""
WARM_SECONDS = 15.0
"""Of its life, after which a process has filled its pools and caches."""
WATCHING_SECONDS = 1.0

Held = Mapping[str, tuple[int, Usage]]
"""What processes hold, by name, each with its pid."""


def held(rig: Rig) -> Held:
    """What our processes hold now; taken before a fault, for `evidence_of`."""
    return {
        name: (rig.process(name).pid, usage) for name, usage in rig.usage().items() if name != META
    }


@asynccontextmanager
async def watched(rig: Rig, warm: float = WARM_SECONDS) -> AsyncIterator[Held]:
    """Yields what each life of a process held when it was warm; it is filled within the block.

    Of lives that begin then too: of most processes of a run none other goes on to its end.
    """
    held_then: dict[str, tuple[int, Usage]] = {}
    since: dict[int, float] = {}
    clock = asyncio.get_running_loop().time

    async def watch() -> None:
        while True:
            for name, process in rig.system.supervisor.processes.items():
                begun = since.setdefault(process.pid, clock())
                is_new = held_then.get(name, (0,))[0] != process.pid
                if name != META and is_new and clock() - begun >= warm:
                    with suppress(OSError):  # it is dead
                        held_then[name] = process.pid, usage(process.pid)
            await asyncio.sleep(WATCHING_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield held_then
    finally:
        watching.cancel()


async def given_back(rig: Rig, before: Held, within: float = 60.0) -> None:
    """Waits until nobody holds more than then, or so long: idle connections are kept a while."""
    until = asyncio.get_running_loop().time() + within
    while asyncio.get_running_loop().time() < until:
        pairs = _same_lives(before, held(rig))
        if not any(any(grown(name, *pair, Bounds().growth)) for name, pair in pairs.items()):
            return
        await asyncio.sleep(1)


def _same_lives(before: Held, now: Held) -> dict[str, tuple[Usage, Usage]]:
    return {
        name: (usage, now[name][1])
        for name, (pid, usage) in before.items()
        if name in now and now[name][0] == pid
    }


async def evidence_of(
    rig: Rig,
    on: Stage,
    struck: Sequence[Struck] = (),
    *,
    env: Mapping[str, str] = QUICK,
    before: Held | None = None,
    **fields: Any,
) -> Evidence:
    """All that is known, for `checker.check`. Call `rig.calm` and `rig.quiet` before.

    `struck` is what the faults say is to be allowed for, `env` the settings that the rig was made
    with, `before` what was held then (`held`, `watched`): only what lives is compared. `fields`
    are further ones of `Evidence`.
    """
    if before:
        await given_back(rig, before)
    lives = _same_lives(before, held(rig)) if before else {}
    history, rows, traces = await rig.history(), await rig.rows(), await rig.traces()
    usual = bounds_of(env)
    evidence = Evidence(
        history,
        rows,
        traces,
        canaries=canaries(rig, on, history),
        bounds=replace(usual, slowest=max([usual.slowest, *(each.slowest for each in struck)])),
        poisoned=frozenset(lane for each in struck for lane in each.poisoned),
        blocked=frozenset(page for each in struck for page in each.blocked),
        instagram=on.instagram,
        catchups=[catchup for each in struck for catchup in each.catchups],
        silences=tuple(rig.silences.spans),
        usage=lives,
        past=await past_of(rig),
    )
    return replace(evidence, **fields)


def bounds_of(env: Mapping[str, str]) -> Bounds:
    """The lengths that these settings make."""
    usual = Bounds()
    return Bounds(
        uncertain=float(env.get("STORE_UNCERTAIN_PATIENCE_SECONDS", usual.uncertain)),
        second_look=float(env.get("STORE_SECOND_LOOK_SECONDS", usual.second_look)),
        between_looks=float(env.get("STORE_BETWEEN_LOOKS_SECONDS", usual.between_looks)),
    )


def canaries(rig: Rig, on: Stage, history: History) -> dict[str, str]:
    """What must be in no log and no metric, by what it is: secrets, texts, people and names."""
    found = {f"the token of page {number}": page.token for number, page in enumerate(on.pages)}
    for name in SECRETS:
        for number, part in enumerate(rig.system.env.get(name, "").split(",")):
            found[f"{name}, {number}"] = part.partition(":")[2] or part
    people = {person for _, person in on.people}
    texts: set[str] = set()
    for event in history.happened:
        author = event.value.get("from", {})
        people |= {author[part] for part in ("id", "name", "username") if part in author}
        texts |= {event.text} if event.text else set()
    people -= {page.id for page in on.pages} | {page.name for page in on.pages}
    found |= {f"person {number}": each for number, each in enumerate(sorted(people))}
    said = [action for rule in RULES.values() for action in rule["then"]]
    texts |= {content["text"] for action in said for content in action.values()}
    found |= {f"text {number}": each for number, each in enumerate(sorted(texts)[:TEXTS])}
    return {what: canary for what, canary in found.items() if len(canary) >= SHORTEST_CANARY}
