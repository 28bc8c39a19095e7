"""Naming: people who wrote and whose names no webhook told are looked up later, at leisure.

Never on a reply's way, one call a person, one after the other within a page, pages beside each
other. Who has no profile for us (Meta's pages on the User Profile API: no consent, blocked, an
account without one) is nameless, and asked for again by the store's own time. Fields: the same
pages, one for Messenger and one for Instagram.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from pagewire.store.v1 import mirror_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Platform
from pagewire_runtime import metrics
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.logs import get_logger, ref
from pagewire_sync.budget import Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.reading import Reads
from pagewire_sync.results import Done, Outcome

log = get_logger(__name__)

PEOPLE = 50
"""In a round, over all pages."""
PAUSE_SECONDS = 10.0
IDLE_SECONDS = 30.0
ATTEMPTS = 2
NAME_LENGTH = 200
CONSENT_CODE = 230
"""Of a person who has not let the page see a profile, though it looks like the page's."""

FIELDS = {
    Platform.PLATFORM_MESSENGER: "first_name,last_name",
    Platform.PLATFORM_INSTAGRAM: "name,username",
}

OF_THE_PERSON = frozenset({Failure.RECIPIENT, Failure.GONE, Failure.PARAMETER})
PASSING = frozenset({Failure.TRANSIENT, Failure.SHRINK})

_named = metrics.counter(
    "pagewire_profiles",
    "People whose names were asked for: named, nameless (for a day), or put off.",
    ["end"],
)


class Store(Protocol):
    """What is asked of the store; the generated stub is one."""

    def ListNameless(
        self, request: pb.ListNamelessRequest, /
    ) -> Awaitable[pb.ListNamelessResponse]: ...

    def RecordNames(
        self, request: pb.RecordNamesRequest, /
    ) -> Awaitable[pb.RecordNamesResponse]: ...


@dataclass(frozen=True)
class Naming:
    """Looks names up until it is cancelled."""

    store: Store
    credentials: CredentialCache
    reads: Reads

    async def run(self) -> None:
        """A round, a pause, and again."""
        while True:
            found = 0
            try:
                found = await self.round()
            except Refusal as refusal:
                log.warning("names were put off", reason=refusal.reason)
            await asyncio.sleep(PAUSE_SECONDS if found else IDLE_SECONDS)

    async def round(self) -> int:
        """Ask for some people, and write down what was learnt; returns for how many.

        Raises Refusal where the store is away: who was not written down is asked for again.
        """
        listed = await self.store.ListNameless(pb.ListNamelessRequest(max_people=PEOPLE))
        people = sorted(listed.people, key=lambda person: person.page_id)
        pages = [list(group) for _, group in groupby(people, lambda person: person.page_id)]
        learnt = await asyncio.gather(*map(self._of_page, pages))
        names = [name for of_page in learnt for name in of_page]
        for end, count in (
            ("named", sum(bool(name.name) for name in names)),
            ("nameless", sum(not name.name for name in names)),
            ("put_off", len(people) - len(names)),
        ):
            _named.labels(end).inc(count)
        if names:
            await self.store.RecordNames(pb.RecordNamesRequest(names=names))
        return len(people)

    async def _of_page(self, people: Sequence[pb.NamelessPerson]) -> list[pb.PersonName]:
        """What is known now of people of one page. Who is left out is put off."""
        page_id = people[0].page_id
        try:
            credentials = await self.credentials.newest(page_id)
        except Refusal as refusal:
            if refusal.kind is not Kind.MISSING:
                log.warning("names were put off", reason=refusal.reason, page=ref(page_id))
            return []
        return [name async for name in self._names(credentials, people)]

    async def _names(
        self, credentials: Credentials, people: Sequence[pb.NamelessPerson]
    ) -> AsyncIterator[pb.PersonName]:
        for at, person in enumerate(people):
            outcome = await self._ask(credentials, person.participant_id)
            if isinstance(outcome, Done):
                yield _named_so(person, name_of(outcome.body))
            elif is_of_the_person(outcome.error):
                yield _named_so(person, "")
            elif outcome.error.failure is Failure.PERMISSION:
                # The page may see no profile at all: nobody else of it need be asked for.
                for other in people[at:]:
                    yield _named_so(other, "")
                return
            elif outcome.error.failure not in PASSING:
                return

    async def _ask(self, credentials: Credentials, person_id: str) -> Outcome:
        return await self.reads.get(
            credentials,
            person_id,
            "",
            {"fields": FIELDS[credentials.platform]},
            operation="profile",
            product=Product.PAGE,
            batched=True,
            attempts=ATTEMPTS,
        )


def is_of_the_person(error: GraphError) -> bool:
    """Whether Graph refuses this person's profile, and perhaps not the next one's."""
    return error.failure in OF_THE_PERSON or error.code == CONSENT_CODE


def name_of(profile: dict[str, Any]) -> str:
    """What a person is called: first and last name, or the name, or the user name; empty where
    Graph has none to tell.
    """
    parts = [profile.get("first_name"), profile.get("last_name")]
    told = (_plain(*parts), _plain(profile.get("name")), _plain(profile.get("username")))
    return next(filter(None, told), "")


def _plain(*parts: object) -> str:
    words = " ".join(part for part in parts if isinstance(part, str))
    shown = "".join(each if each.isprintable() else " " for each in words)
    return " ".join(shown.split())[:NAME_LENGTH]


def _named_so(person: pb.NamelessPerson, name: str) -> pb.PersonName:
    return pb.PersonName(page_id=person.page_id, participant_id=person.participant_id, name=name)
