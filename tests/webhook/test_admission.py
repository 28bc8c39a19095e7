"""How much is let in, on a clock and a server that are made up."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_webhook.admission import (
    AT_FIRST,
    LEAST,
    LONGEST_SECONDS,
    MOST,
    TARGET_SECONDS,
    Admission,
    Stay,
)


class Server:
    """Serves one after the other, so many a second, behind an admission."""

    def __init__(self, rate: float, admission: Admission | None = None) -> None:
        self.rate = rate
        self.admission = admission or Admission()
        self.now = 0.0
        self.refused = 0
        self.took: list[float] = []
        self._free_at = 0.0
        self._ends: list[tuple[float, int, Stay]] = []

    def offered(self, rate: float, seconds: float) -> None:
        """So many a second, at even distances."""
        self.refused, self.took = 0, []
        begun = self.now
        for at in range(int(rate * seconds)):
            self._until(begun + at / rate)
            if self.admission.is_full(self.now):
                self.refused += 1
                continue
            stay = self.admission.enter(self.now)
            self._free_at = max(self._free_at, self.now) + 1 / self.rate
            heapq.heappush(self._ends, (self._free_at, id(stay), stay))

    def _until(self, moment: float) -> None:
        while self._ends and self._ends[0][0] <= moment:
            end, _, stay = heapq.heappop(self._ends)
            self.took.append(end - stay.entered)
            self.admission.leave(stay, end, done=True)
        self.now = moment


@pytest.mark.parametrize("rate", [100, 1_000, 5_000])
def test_the_limit_becomes_the_rate_that_is_borne_times_the_target(rate: float) -> None:
    server = Server(rate)

    server.offered(3 * rate, 30)
    server.offered(3 * rate, 30)

    assert server.admission.limit == pytest.approx(rate * TARGET_SECONDS, rel=0.3)
    assert max(server.took) < 1.5 * TARGET_SECONDS
    assert len(server.took) >= 0.99 * rate * 30


@pytest.mark.parametrize("rate", [100, 1_000, 5_000])
def test_below_what_is_borne_nothing_is_refused(rate: float) -> None:
    server = Server(rate)

    server.offered(0.9 * rate, 10)

    assert server.refused == 0


def test_after_an_overload_all_is_let_in_as_soon_as_the_queue_is_served() -> None:
    server = Server(1_000)
    server.offered(3_000, 60)

    server.offered(500, 2)
    server.offered(500, 10)

    assert server.refused == 0
    assert max(server.took) < 0.01


def test_when_the_server_becomes_slow_less_is_let_in_within_seconds() -> None:
    server = Server(2_000)
    server.offered(3_000, 30)

    server.rate = 100
    server.offered(300, 15)
    server.offered(300, 15)

    assert max(server.took) < 2 * TARGET_SECONDS


def test_when_it_becomes_fast_again_more_is_let_in_within_seconds() -> None:
    server = Server(50)
    server.offered(300, 60)

    server.rate = 2_000
    server.offered(1_800, 3)
    server.offered(1_800, 10)

    assert server.refused == 0


@pytest.mark.parametrize("rate", [50, 100, 200])
def test_of_a_sudden_crowd_only_those_are_let_in_that_a_slow_server_answers_in_time(
    rate: float,
) -> None:
    server = Server(rate)
    server.offered(0.8 * rate, 10)  # so that its rate is known

    server.offered(5 * rate, 10)

    assert max(server.took) < 1.5 * LONGEST_SECONDS
    assert len(server.took) >= 0.9 * rate * 10


def test_a_burst_that_is_served_at_once_is_let_in_however_little_was_served_before() -> None:
    server = Server(2_000)
    server.offered(2, 60)

    server.offered(5_000, 0.1)

    assert server.refused == 0


def test_a_few_are_let_in_however_long_the_others_wait() -> None:
    admission = Admission()
    left(admission, 100, took=1.0)
    now = 1.0

    for _ in range(LEAST):
        assert not admission.is_full(now)
        admission.enter(now)
        now += 10

    assert admission.is_full(now)


def left(admission: Admission, count: int, took: float, *, done: bool = True) -> None:
    for stay in [admission.enter(0.0) for _ in range(count)]:
        admission.leave(stay, took, done=done)


def test_a_few_that_take_long_are_no_sign_that_there_are_too_many() -> None:
    admission = Admission()

    left(admission, 3, took=10.0)

    assert admission.limit == AT_FIRST


def test_those_that_waited_together_cut_the_limit_once() -> None:
    admission = Admission()

    left(admission, AT_FIRST, took=2 * TARGET_SECONDS)

    assert admission.limit == AT_FIRST / 2


def test_what_fails_fast_lets_nothing_more_in() -> None:
    admission = Admission()

    left(admission, AT_FIRST, took=0.001, done=False)

    assert admission.limit == AT_FIRST


@given(st.lists(st.tuples(st.integers(1, 600), st.floats(0, 100), st.booleans()), max_size=50))
def test_the_limit_stays_within_its_bounds_and_nothing_is_miscounted(
    ends: list[tuple[int, float, bool]],
) -> None:
    admission, now = Admission(), 0.0

    for count, took, done in ends:
        stays = [admission.enter(now) for _ in range(count)]
        now += took
        for stay in stays:
            admission.leave(stay, now, done=done)

    assert admission.under_way == 0
    assert LEAST <= admission.limit <= MOST
