"""When an edge could not answer is noted, and no other time."""

import pytest

from faults.evidence import Bounds
from faults.silences import NOTICED_WITHIN, Silences, Span
from pagewire_simulator.plan import Plan


class Edge:
    """A process as the supervisor keeps it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_codes: list[int] = []
        self.is_ready = True

    def die(self) -> None:
        self.exit_codes.append(-9)
        self.is_ready = False

    def live(self) -> None:
        self.pid += 1
        self.is_ready = True


class Wire:
    is_calm = True


@pytest.fixture
def edge() -> Edge:
    return Edge(1)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def silences(edge: Edge, wire: Wire) -> Silences:
    """All was well until second 100, and surely until 98."""
    silences = Silences([edge, Edge(100)], [wire])
    for now in (98, 99, 100):
        silences.look(now)
    return silences


def noted(silences: Silences) -> list[Span]:
    """The spans, each from the last look at which all was surely well."""
    return [(begun + NOTICED_WITHIN, ended) for begun, ended in silences.spans]


def test_where_all_is_well_nothing_is_noted(silences: Silences) -> None:
    for now in range(101, 110):
        silences.look(now)

    assert noted(silences) == []


def test_a_death_is_noted_until_the_next_life_is_ready(silences: Silences, edge: Edge) -> None:
    silences.look(101)
    edge.die()
    silences.look(102)
    silences.look(103)
    edge.live()
    silences.look(104)
    silences.look(105)

    assert noted(silences) == [(99, 104)]


def test_a_death_between_two_looks_is_noted(silences: Silences, edge: Edge) -> None:
    edge.die()
    edge.live()
    silences.look(101)

    silences.look(102)
    silences.look(103)

    assert noted(silences) == [(98, 102)]


def test_who_is_told_to_end_is_noted_before_it_is_dead(silences: Silences, edge: Edge) -> None:
    silences.ending(edge.pid)
    silences.look(101)
    silences.look(102)
    edge.die()
    edge.live()
    silences.look(103)
    silences.look(104)
    silences.look(105)

    assert noted(silences) == [(98, 104)]


def test_who_cannot_be_reached_is_noted(silences: Silences, wire: Wire) -> None:
    wire.is_calm = False
    silences.look(101)
    wire.is_calm = True
    silences.look(102)
    silences.look(103)

    assert noted(silences) == [(98, 102)]


def test_who_has_nothing_to_answer_with_is_noted(silences: Silences) -> None:
    with silences.unable():
        silences.look(101)
    silences.look(102)
    silences.look(103)

    assert noted(silences) == [(98, 102)]


def test_who_cannot_answer_between_two_looks_is_noted(silences: Silences) -> None:
    with silences.unable():
        pass

    silences.look(101)
    silences.look(102)

    assert noted(silences) == [(98, 101)]


def test_two_deaths_far_from_each_other_are_two(silences: Silences, edge: Edge) -> None:
    for now in range(101, 130):
        if now in (110, 120):
            edge.die()
        silences.look(now)
        if now in (110, 120):
            edge.live()

    assert noted(silences) == [(107, 111), (117, 121)]


def test_the_checker_knows_how_long_meta_waits_for_an_answer() -> None:
    assert Bounds().sender_waits == Plan().timeout
