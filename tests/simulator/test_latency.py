from statistics import median

import pytest

from pagewire_simulator.latency import Latency


def test_no_latency_is_none() -> None:
    assert Latency("none", 1).draw("send") == 0


def test_plain_sends_take_200_to_300_milliseconds_and_follow_the_seed() -> None:
    drawn = [Latency("plain", 3).draw("send") for _ in range(2)]

    assert drawn[0] == drawn[1]
    assert 0.2 <= drawn[0] <= 0.3


def test_modelled_latency_has_the_published_medians() -> None:
    latency = Latency("modelled", 1, factor=2)

    sends = median(latency.draw("send") for _ in range(4000))
    reads = median(latency.draw("comment") for _ in range(4000))

    assert sends == pytest.approx(0.8, rel=0.05)
    assert reads == pytest.approx(0.44, rel=0.05)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="no latency profile"):
        Latency("nonsense", 1)
