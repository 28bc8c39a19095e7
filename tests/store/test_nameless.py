"""Names of people who wrote: handed out to be asked for, and written down."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from pagewire.store.v1.mirror_service_pb2 import (
    ListNamelessRequest,
    PersonName,
    RecordNamesRequest,
)
from pagewire_runtime.errors import Kind, Refusal
from pagewire_store import nameless
from pagewire_store.ingest import Ingestor
from tests.support.deliveries import (
    OTHER_PAGE,
    PAGE,
    PERSON,
    Database,
    database,
    delivery,
    echo,
    ingestor,
    message,
    pools,
)
from tests.support.mirror import history, service, shown, thread
from tests.support.servers import database_url, migrated_template, postgres_server

if TYPE_CHECKING:
    from pagewire.store.v1.mirror_service_pb2_grpc import MirrorServiceAsyncStub

__all__ = [
    "database",
    "database_url",
    "ingestor",
    "migrated_template",
    "pools",
    "postgres_server",
    "service",
]


async def asked(service: "MirrorServiceAsyncStub", at_most: int = 10) -> list[str]:
    answer = await service.ListNameless(ListNamelessRequest(max_people=at_most))
    return [one.participant_id for one in answer.people]


async def record(service: "MirrorServiceAsyncStub", *names: PersonName) -> None:
    await service.RecordNames(RecordNamesRequest(names=names))


def name(participant_id: str = PERSON, name: str = "Ada", page_id: str = PAGE) -> PersonName:
    return PersonName(page_id=page_id, participant_id=participant_id, name=name)


async def written(ingestor: Ingestor, *people: str) -> None:
    for number, person in enumerate(people):
        await ingestor.ingest([delivery(message(f"m_{person}", number, person=person))])


async def test_who_wrote_first_is_asked_for_first_and_each_but_once(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor
) -> None:
    await written(ingestor, "2003", "2001", "2002")

    assert await asked(service, 2) == ["2003", "2001"]
    assert await asked(service) == ["2002"]
    assert await asked(service) == []


async def test_a_person_is_handed_to_one_caller(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor
) -> None:
    await written(ingestor, "2001")

    answers = await asyncio.gather(*(asked(service) for _ in range(5)))

    assert sorted(answers) == [[], [], [], [], ["2001"]]


async def test_who_is_still_nameless_after_an_hour_is_asked_for_again_behind_new_ones(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await written(ingestor, "2001")
    await asked(service)
    await database.rows("update conversation set name_asked_at = now() - interval '61 minutes'")
    await written(ingestor, "2002")

    assert await asked(service) == ["2002", "2001"]


async def test_nobody_is_asked_for_who_has_not_written(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor
) -> None:
    await ingestor.ingest([delivery(echo("m_1"))])

    assert await asked(service) == []


async def test_nobody_is_asked_for_whom_imported_history_alone_knows(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor
) -> None:
    people = ["2001", "2002"]
    await service.UpsertHistory(
        history(
            conversations=[thread(person) for person in people],
            messages=[shown(f"m_{person}", participant_id=person) for person in people],
        )
    )

    before = await asked(service)
    await ingestor.ingest([delivery(message("m_new", 60, person="2002"))])

    assert (before, await asked(service)) == ([], ["2002"])


@pytest.mark.parametrize("column", ["connected = false", "state = 'blocked'"])
async def test_nobody_is_asked_for_whose_page_cannot_be_asked(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database, column: str
) -> None:
    await database.connect_page(OTHER_PAGE)
    await written(ingestor, "2001")
    await ingestor.ingest([delivery(message("m_2", person="2002", page_id=OTHER_PAGE))])
    await database.rows(f"update page set {column} where page_id = %s", PAGE)

    assert await asked(service) == ["2002"]


async def test_a_name_is_written_down_and_asked_for_no_more(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await written(ingestor, "2001", "2002")

    await record(service, name("2002", "Bea"), name("2001", "Ada"), name("2999", "Nobody"))

    names = "select participant_name from conversation order by participant_id"
    assert await database.values(names) == ["Ada", "Bea"]
    assert await asked(service) == []


async def test_who_has_no_name_to_tell_is_asked_for_again_a_day_later(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await written(ingestor, "2001")
    past = "update conversation set name_asked_at = name_asked_at - interval '{}'"

    await record(service, name(name=""))
    await database.rows(past.format("23 hours"))
    same_day = await asked(service)
    await database.rows(past.format("61 minutes"))
    next_day = await asked(service)

    assert (same_day, next_day) == ([], ["2001"])


async def test_a_name_that_is_known_outlives_one_that_is_not_told(
    service: "MirrorServiceAsyncStub", ingestor: Ingestor, database: Database
) -> None:
    await written(ingestor, "2001")

    await record(service, name(name="Ada"))
    await record(service, name(name=""))

    assert await database.values("select participant_name from conversation") == ["Ada"]


async def test_asking_for_nobody_is_refused(service: "MirrorServiceAsyncStub") -> None:
    with pytest.raises(Refusal) as refused:
        await asked(service, 0)

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, "max_people")


async def test_too_many_names_are_refused(
    service: "MirrorServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameless, "MOST", 1)

    with pytest.raises(Refusal) as refused:
        await record(service, name("2001"), name("2002"))

    assert (refused.value.kind, refused.value.metadata["field"]) == (Kind.INVALID, "names")


async def test_recording_no_names_is_answered(service: "MirrorServiceAsyncStub") -> None:
    await record(service)
