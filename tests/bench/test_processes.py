from hypothesis import given
from hypothesis import strategies as st

from bench.processes import TICK, percent_of_core


@given(st.integers(0, 100), st.integers(1, 60))
def test_a_whole_per_cent_of_a_core_is_whole_whatever_the_time(percent: int, seconds: int) -> None:
    ticks, rest = divmod(percent * TICK * seconds, 100)

    assert rest or percent_of_core(ticks, seconds) == percent
