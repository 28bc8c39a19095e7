import asyncio
from dataclasses import dataclass, field

import pytest

from pagewire.store.v1 import mirror_service_pb2 as pb
from pagewire.type.v1.page_pb2 import Login, PageState, Platform
from pagewire_runtime.errors import Refusal, Unavailable
from pagewire_sync.budget import Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.naming import IDLE_SECONDS, PAUSE_SECONDS, PEOPLE, Naming, name_of
from tests.support.fakegraph import Asked, FakeGraph, Reading, Said, error, reading
from tests.support.outbox import FakePages
from tests.support.virtual import in_virtual_time

PAGE, OTHER, ACCOUNT, LINKED = "104", "105", "178", "179"
ANNA = Said({"id": "1", "first_name": "Anna", "last_name": "Berg"})
Names = dict[tuple[str, str], str]


@dataclass
class FakeMirror:
    """The people whose names are asked for, a round at a time; who was recorded is handed out no
    more.
    """

    nameless: list[tuple[str, str]] = field(default_factory=list)
    names: Names = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    troubles: list[Refusal] = field(default_factory=list)

    async def ListNameless(self, request: pb.ListNamelessRequest) -> pb.ListNamelessResponse:
        self.asked.append(asyncio.get_running_loop().time())
        if self.troubles:
            raise self.troubles.pop()
        handed, self.nameless = (
            self.nameless[: request.max_people],
            self.nameless[request.max_people :],
        )
        people = [pb.NamelessPerson(page_id=page, participant_id=person) for page, person in handed]
        return pb.ListNamelessResponse(people=people)

    async def RecordNames(self, request: pb.RecordNamesRequest) -> pb.RecordNamesResponse:
        self.names |= {(each.page_id, each.participant_id): each.name for each in request.names}
        return pb.RecordNamesResponse()


@dataclass
class Wired:
    """Naming, with what it speaks to."""

    naming: Naming
    mirror: FakeMirror
    pages: FakePages
    upon: Reading

    @property
    def asked(self) -> list[Asked]:
        return self.upon.graph.asked


def wired(graph: FakeGraph, *nameless: tuple[str, str]) -> Wired:
    pages, mirror, upon = FakePages(), FakeMirror(list(nameless)), reading(graph)
    healthy = PageState.PAGE_STATE_HEALTHY
    for page in (PAGE, OTHER):
        pages.connect(page, f"EAA{page}", state=healthy)
    instagram = Platform.PLATFORM_INSTAGRAM
    by_instagram = Login.LOGIN_INSTAGRAM
    pages.connect(ACCOUNT, "IGAA", platform=instagram, login=by_instagram, state=healthy)
    pages.connect(LINKED, "EAAlinked", platform=instagram, facebook_page_id="9", state=healthy)
    return Wired(Naming(mirror, CredentialCache(pages), upon.reads), mirror, pages, upon)


@in_virtual_time
async def test_who_wrote_is_named_by_one_call() -> None:
    on = wired(FakeGraph(lambda _: ANNA), (PAGE, "1"))

    await on.naming.round()

    assert on.mirror.names == {(PAGE, "1"): "Anna Berg"}
    (asked,) = on.asked
    assert (asked.node, asked.edge, dict(asked.params)) == (
        "1",
        "",
        {"fields": "first_name,last_name"},
    )


@pytest.mark.parametrize("page", [ACCOUNT, LINKED])
@in_virtual_time
async def test_people_of_instagram_are_asked_for_by_instagram_s_fields(page: str) -> None:
    on = wired(FakeGraph(lambda _: Said({"username": "anna.b"})), (page, "1"))

    await on.naming.round()

    assert on.mirror.names == {(page, "1"): "anna.b"}
    assert dict(on.asked[0].params) == {"fields": "name,username"}


@in_virtual_time
async def test_people_of_several_pages_go_in_one_request() -> None:
    on = wired(FakeGraph(lambda _: ANNA), (PAGE, "1"), (OTHER, "2"))

    await on.naming.round()

    assert len(on.upon.graph.requests) == 1
    assert set(on.mirror.names) == {(PAGE, "1"), (OTHER, "2")}


@in_virtual_time
async def test_a_page_s_people_are_asked_for_one_after_the_other() -> None:
    on = wired(FakeGraph(lambda _: ANNA), *((PAGE, f"{number}") for number in range(30)))

    await on.naming.round()

    times = [asked.at for asked in on.asked]
    assert on.upon.graph.most_at_once == 1
    assert len(times) == len(set(times)) == 30


REFUSED_PERSON = [
    error(551, error_subcode=1545041),
    error(100, error_subcode=2018218),
    error(100, error_subcode=33),
    error(230),
    error(803),
]


@pytest.mark.parametrize("said", REFUSED_PERSON, ids=str)
@in_virtual_time
async def test_who_has_no_profile_for_us_is_nameless_and_the_next_is_asked_for(said: Said) -> None:
    graph = FakeGraph(lambda asked: said if asked.node == "1" else ANNA)
    on = wired(graph, (PAGE, "1"), (PAGE, "2"))

    await on.naming.round()

    assert on.mirror.names == {(PAGE, "1"): "", (PAGE, "2"): "Anna Berg"}


@pytest.mark.parametrize("code", [10, 200, 3])
@in_virtual_time
async def test_a_page_that_may_see_no_profile_is_asked_about_one_person_alone(code: int) -> None:
    on = wired(
        FakeGraph(lambda asked: ANNA if asked.node == "9" else error(code)),
        *((PAGE, f"{number}") for number in range(5)),
        (OTHER, "9"),
    )

    await on.naming.round()

    assert on.upon.graph.calls() == {"0": 1, "9": 1}
    assert on.mirror.names == {(PAGE, f"{n}"): "" for n in range(5)} | {(OTHER, "9"): "Anna Berg"}
    stopped = on.upon.budget.stopped(PAGE, Product.SEND, asyncio.get_running_loop().time())
    assert stopped == 0, "its replies wait for nothing"


@pytest.mark.parametrize("said", [error(190, error_subcode=460), error(368), error(104)], ids=str)
@in_virtual_time
async def test_a_page_in_trouble_is_put_off_and_no_other(said: Said) -> None:
    on = wired(
        FakeGraph(lambda asked: ANNA if asked.node == "9" else said),
        (PAGE, "1"),
        (PAGE, "2"),
        (OTHER, "9"),
    )

    await on.naming.round()

    assert on.mirror.names == {(OTHER, "9"): "Anna Berg"}
    assert on.upon.graph.calls() == {"1": 1, "9": 1}


@in_virtual_time
async def test_who_could_not_be_asked_for_now_is_put_off() -> None:
    on = wired(
        FakeGraph(lambda asked: ANNA if asked.node == "2" else error(2, 500)),
        (PAGE, "1"),
        (PAGE, "2"),
    )

    await on.naming.round()

    assert on.mirror.names == {(PAGE, "2"): "Anna Berg"}
    assert on.upon.graph.calls()["1"] == 2


@in_virtual_time
async def test_a_page_that_was_disconnected_meanwhile_holds_up_no_other() -> None:
    on = wired(FakeGraph(lambda _: ANNA), (PAGE, "1"), (OTHER, "2"))
    on.pages.disconnect([PAGE])

    await on.naming.round()

    assert on.mirror.names == {(OTHER, "2"): "Anna Berg"}


@in_virtual_time
async def test_a_store_that_is_away_ends_no_naming() -> None:
    on = wired(FakeGraph(lambda _: ANNA), (PAGE, "1"))
    on.mirror.troubles = [Unavailable("the store")]

    await _for_seconds(on, IDLE_SECONDS + 5)

    assert on.mirror.names == {(PAGE, "1"): "Anna Berg"}


@in_virtual_time
async def test_between_rounds_is_a_pause_and_a_longer_one_where_nobody_waits() -> None:
    people = [(PAGE, f"{number}") for number in range(PEOPLE + 1)]
    on = wired(FakeGraph(lambda _: ANNA, latency=0.0), *people)

    await _for_seconds(on, 2 * PAUSE_SECONDS + IDLE_SECONDS + 25)

    pauses = [b - a for a, b in zip(on.mirror.asked, on.mirror.asked[1:], strict=False)]
    assert pauses[0] >= PAUSE_SECONDS
    assert pauses[2] == IDLE_SECONDS
    assert len(on.mirror.names) == PEOPLE + 1


async def _for_seconds(on: Wired, seconds: float) -> None:
    task = asyncio.create_task(on.naming.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ({"first_name": "Anna", "last_name": "Berg"}, "Anna Berg"),
        ({"first_name": "Anna"}, "Anna"),
        ({"last_name": "Berg"}, "Berg"),
        ({"name": "Anna B", "username": "anna.b"}, "Anna B"),
        ({"name": "", "username": "anna.b"}, "anna.b"),
        ({"name": None, "username": "anna.b"}, "anna.b"),
        ({"first_name": " An\x00na\n", "last_name": "\u202eBerg"}, "An na Berg"),
        ({"first_name": "a" * 300}, "a" * 200),
        ({"first_name": 7}, ""),
        ({"id": "1"}, ""),
    ],
)
def test_a_person_is_called_by_what_graph_tells(profile: dict[str, object], name: str) -> None:
    assert name_of(profile) == name
