"""Strangers: how fast a peer that does not sign is answered.

A peer's refusals leave at an even rate once it has used up what may leave at once (the generic
cell rate algorithm: a moment a peer, nothing else), and none waits long. Meanwhile its connection
is busy, which costs us next to nothing: to close it would have it come again, and a connection
costs more than a refusal. Signed requests never come here, so an address that Meta shares with
others loses nothing.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

RATE = 20.0
"""Refusals a second that each peer gets."""
AT_ONCE = 100
LONGEST_WAIT = 2.0
"""Seconds; below what most clients wait for."""
WAITING_MAX = 1_024
"""Refusals that wait, of all peers: each holds a connection."""
PEERS_MAX = 10_000

_NETWORK_BITS = 64
"""What one host of IPv6 usually has to itself."""


class Strangers:
    """Tells of each refusal when it may leave; all times are seconds by one steady clock."""

    def __init__(
        self, *, rate: float = RATE, at_once: int = AT_ONCE, waiting_max: int = WAITING_MAX
    ) -> None:
        self._spacing = 1 / rate
        self._at_once = at_once / rate
        self._waiting_max = waiting_max
        self._waiting = 0
        # When each peer's last refusal would leave at the even rate; the past is as good as none.
        self._until: dict[int | str, float] = {}

    def wait_of(self, peer: str, now: float) -> float | None:
        """How long the refusal has to wait, mostly 0.0; None: too many wait already.

        A wait that is not 0.0 is to be ended by `waited`.
        """
        key = _network(peer)
        until = max(self._until.get(key, now), now) + self._spacing
        until = min(until, now + self._at_once + LONGEST_WAIT)
        wait = max(until - now - self._at_once, 0.0)
        if wait and self._waiting >= self._waiting_max:
            return None
        if len(self._until) >= PEERS_MAX and key not in self._until:
            self._forget(now)
        self._until[key] = until
        self._waiting += wait > 0
        return wait

    def waited(self) -> None:
        """A wait is over."""
        self._waiting -= 1

    def _forget(self, now: float) -> None:
        self._until = {peer: until for peer, until in self._until.items() if until > now}
        if len(self._until) >= PEERS_MAX:
            self._until.clear()


def _network(peer: str) -> int | str:
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return int(address) >> _NETWORK_BITS
    return peer
