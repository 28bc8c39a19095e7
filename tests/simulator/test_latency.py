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


def test_plain_batches_take_500_to_800_milliseconds_and_their_operations_nothing_more() -> None:
    latency = Latency("plain", 3)

    batches = [latency.draw_batch(50) for _ in range(100)]

    assert 0.5 <= min(batches) < 0.6
    assert 0.7 < max(batches) <= 0.8
    assert latency.draw("conversations", in_batch=True) == 0
    assert latency.showing(1000) == 0


def test_a_modelled_batch_grows_with_its_operations_and_a_read_with_what_it_shows() -> None:
    latency = Latency("modelled", 1, factor=0.5)

    assert latency.draw_batch(50) == pytest.approx(0.5 * (0.15 + 50 * 0.008))
    assert latency.showing(200) == pytest.approx(0.5 * 0.3)
    assert latency.draw("conversations", in_batch=True) > 0
