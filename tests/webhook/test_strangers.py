"""How fast a peer that does not sign is answered."""

from hypothesis import given
from hypothesis import strategies as st

from pagewire_webhook.strangers import LONGEST_WAIT, PEERS_MAX, Strangers

PEER = "203.0.113.9"


def waits(strangers: Strangers, count: int, peer: str = PEER, now: float = 0.0) -> list[float]:
    """Of refusals at one moment, those that are one too many left out."""
    found = (strangers.wait_of(peer, now) for _ in range(count))
    return [wait for wait in found if wait is not None]


def test_what_a_peer_may_have_at_once_it_has_at_once() -> None:
    assert waits(Strangers(rate=10, at_once=5), 5) == [0.0] * 5


def test_then_its_refusals_leave_at_the_rate_and_none_waits_for_long() -> None:
    found = waits(Strangers(rate=8, at_once=5), 1_000)

    assert found[5:8] == [0.125, 0.25, 0.375]
    assert found == sorted(found)
    assert found[-1] == LONGEST_WAIT


def test_another_peer_waits_for_nothing() -> None:
    strangers = Strangers(rate=10, at_once=5)
    waits(strangers, 1_000)

    assert waits(strangers, 5, peer="203.0.113.10") == [0.0] * 5


def test_one_host_of_ipv6_is_one_peer_whatever_addresses_it_takes() -> None:
    strangers = Strangers(rate=10, at_once=5)
    waits(strangers, 1_000, peer="2001:db8::1")

    assert waits(strangers, 1, peer="2001:db8::ffff:1") == [LONGEST_WAIT]
    assert waits(strangers, 1, peer="2001:db8:0:1::1") == [0.0]


def test_a_peer_that_keeps_still_has_its_due_again() -> None:
    strangers = Strangers(rate=10, at_once=5)
    waits(strangers, 1_000)

    assert waits(strangers, 5, now=10.0) == [0.0] * 5


def test_no_more_than_so_many_wait_whoever_they_are() -> None:
    strangers = Strangers(rate=10, at_once=1, waiting_max=3)

    found = [wait for peer in range(10) for wait in waits(strangers, 2, peer=str(peer))]
    strangers.waited()
    later = waits(strangers, 1, peer="0")

    assert sum(wait > 0 for wait in found) == 3
    assert sum(wait > 0 for wait in later) == 1


def test_peers_are_forgotten_before_there_are_too_many() -> None:
    strangers = Strangers()

    for number in range(2 * PEERS_MAX + 5):
        assert strangers.wait_of(f"peer-{number}", 0.0) == 0.0

    assert len(strangers._until) <= PEERS_MAX


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.2)), max_size=300))
def test_no_peer_is_answered_faster_than_the_rate_unless_it_waited_longest(
    asked: list[tuple[str, float]],
) -> None:
    strangers, now = Strangers(rate=10, at_once=5), 0.0
    left: dict[str, list[float]] = {"a": [], "b": []}

    for peer, later in asked:
        now += later
        wait = strangers.wait_of(peer, now)
        assert wait is not None
        if wait < LONGEST_WAIT:
            left[peer].append(now + wait)
        if wait:
            strangers.waited()

    for moments in left.values():
        assert moments == sorted(moments)
        for first, sixth in zip(moments, moments[6:], strict=False):
            assert sixth - first >= 0.1 - 1e-6
