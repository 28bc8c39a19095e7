"""The simulated Meta of a live load: pages, their people, and what was really sent to them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from bench.driving import Outcome
from bench.traffic import Message, Traffic, person_id
from pagewire_simulator.acts import Say
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.ledger import CallRecord

PEOPLE = 400
"""Of each page: enough that nobody asks for more than 30 replies a minute."""


@dataclass(frozen=True)
class Sends:
    """What Graph took from a load's start on."""

    calls: Sequence[CallRecord]

    def by_person(self) -> Counter[str]:
        return Counter(call.person_id for call in self.calls if call.person_id)


class World:
    """Graph's side of a load; nothing but loads sends in it."""

    def __init__(self, meta: SimulatorClient) -> None:
        self._meta = meta

    async def prepare(self) -> None:
        """No send is refused for its rate."""
        await self._meta.options(rates={"text": 0})

    async def pages(self, count: int, first: int) -> list[AccountView]:
        """New pages, nothing of which is subscribed, with people who may be written to.

        `first` numbers the first of them; the ids of people are those of `traffic.person_id`.
        """
        accounts = [
            await self._meta.create_account(subscribed_fields=[], id=str(100_000 + first + at))
            for at in range(count)
        ]
        for at, account in enumerate(accounts):
            people = [person_id(at, number) for number in range(PEOPLE)]
            await self._meta.acts(
                [Say(account=account.id, person=person, text="hello") for person in people]
            )
        return accounts

    async def sent_so_far(self) -> int:
        return (await self._meta.summary()).sends

    async def sends_since(self, before: int) -> Sends:
        return Sends(await self._meta.sends(after=str(before)))


def acknowledged(traffic: Traffic, outcome: Outcome) -> set[str]:
    """The mids of the messages whose POST was answered 200, at least once."""
    messages = [message.mid for message in traffic.each()]
    bodies = -(-len(messages) // traffic.per_body)
    good = {at % bodies for at, status in enumerate(outcome.status) if status == 200}
    return {mid for at, mid in enumerate(messages) if at // traffic.per_body in good}


def asked(messages: Iterable[Message]) -> Counter[str]:
    """How many answers each person is owed."""
    return Counter(message.person_id for message in messages if message.asks)


def until_sent(traffic: Traffic, outcome: Outcome, stored: Set[str], sends: Sends) -> list[float]:
    """Milliseconds from when each question was due to the Graph request that answers it.

    A person's answers come in the order of the questions, so the nth belongs to the nth that was
    stored; for one that was not it is infinite.
    """
    answers: defaultdict[str, list[int]] = defaultdict(list)
    for call in sends.calls:
        if call.person_id:
            answers[call.person_id].append(call.started_at)
    nth: Counter[str] = Counter()
    found = []
    for message, due in zip(traffic.each(), outcome.due, strict=True):
        if message.asks and message.mid in stored:
            answer = sorted(answers[message.person_id])[nth[message.person_id]]
            nth[message.person_id] += 1
            found.append(answer - (outcome.began + due) * 1000)
        elif message.asks:
            found.append(math.inf)
    return found
