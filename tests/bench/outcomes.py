"""Outcomes and sends by hand, one line each."""

from collections.abc import Sequence

from bench.driving import Outcome
from pagewire_simulator.ledger import CallRecord


def outcome(
    status: Sequence[int], due: Sequence[float] | None = None, began: float = 0.0
) -> Outcome:
    return Outcome(
        began=began,
        seconds=1.0,
        due=list(due or [0.0] * len(status)),
        latency_ms=[1.0] * len(status),
        late_ms=[0.0] * len(status),
        status=list(status),
        busy=0.0,
    )


def call(person_id: str, started_at: int) -> CallRecord:
    """A send that Graph took, at Unix milliseconds."""
    return CallRecord(
        serial=0,
        started_at=started_at,
        host="facebook",
        method="POST",
        shape="/{id}/messages",
        endpoint="send",
        token_in_url=False,
        person_id=person_id,
    )
