"""Answers to reads kept as bytes, for loads that shall wait for nothing but the wire.

An answer is good until its account changes. Off unless it is asked for: what is kept meets no
fault, limit or latency, and is counted but not recorded call by call.
"""

from collections.abc import Hashable, Mapping

from pagewire_simulator.calls import Call
from pagewire_simulator.replies import Reply

PROOF = ("appsecret_proof", "appsecret_time")


class Rendered:
    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[str, int, Reply]] = {}

    def find(self, call: Call, revisions: Mapping[str, int]) -> tuple[str, Reply] | None:
        """The account's id and the answer, if there is one and it still holds."""
        kept = self._kept.get(key(call))
        if kept is None or revisions[kept[0]] != kept[1]:
            return None
        return kept[0], kept[2]

    def keep(self, call: Call, account: str, revision: int, reply: Reply) -> None:
        self._kept[key(call)] = account, revision, reply


def key(call: Call) -> Hashable:
    """All that the answer depends on but the proof, which differs from call to call."""
    asked = tuple((name, value) for name, value in call.query.items() if name not in PROOF)
    return call.root, call.node, call.edge, asked, call.shown.token, bool(call.batch)
