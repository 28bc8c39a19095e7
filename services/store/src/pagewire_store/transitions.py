"""Where a reply may go from where it stands: the one table that every change of the outbox follows.

`TABLE` says it whole; what is not in it does not happen. Signals hold for the reply's latest
attempt; of an older one only an acceptance means anything, the rest is written down with the
attempt and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

FIRST_LOOK = timedelta(seconds=20)
SECOND_LOOK = timedelta(seconds=60)
BETWEEN_LOOKS = timedelta(seconds=30)
AFTER_FAILED_LOOK = timedelta(seconds=10)
CLEAN_LOOKS = 2
PATIENCE = timedelta(minutes=10)
BACKOFF_LEAST = 1.0
BACKOFF_MOST = 300.0


@dataclass(frozen=True)
class Waits:
    """How long a reply waits: for each look after an attempt of unknown end, to be given up then,
    and at most for its next attempt.
    """

    first_look: timedelta = FIRST_LOOK
    second_look: timedelta = SECOND_LOOK
    between_looks: timedelta = BETWEEN_LOOKS
    after_failed_look: timedelta = AFTER_FAILED_LOOK
    patience: timedelta = PATIENCE
    backoff_most: float = BACKOFF_MOST


WAITS = Waits()


class State(StrEnum):
    """Where a reply stands."""

    READY = "ready"
    SENDING = "sending"
    UNCERTAIN = "uncertain"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    PARKED = "parked"


class Signal(StrEnum):
    """What can befall a reply."""

    CLAIMED = "claimed"
    ACCEPTED = "accepted"
    """Graph took it: by its answer, an echo, a look or a webhook."""
    REFUSED = "refused"
    NOT_NOW = "retry"
    """Nothing left our socket, or Graph said later."""
    UNKNOWN = "uncertain"
    UNKNOWN_HARMLESS = "uncertain_harmless"
    """Nobody knows, of what may be asked twice: hiding and labels."""
    TOO_LATE = "expired"
    """The sender found its time over before a byte was written."""
    BLOCKED = "page_blocked"
    LAPSED = "lease_lapsed"
    """The sender's lease ended without a word of it."""
    LAPSED_HARMLESS = "lease_lapsed_harmless"
    CLEAN_LOOK = "clean_look"
    LAST_CLEAN_LOOK = "last_clean_look"
    FAILED_LOOK = "failed_look"
    NO_ECHO = "no_echo"
    """A private reply stayed without an echo; asking again answers "already replied"."""
    GIVEN_UP = "given_up"
    """Ten minutes of not knowing."""
    OUT_OF_TIME = "out_of_time"
    """Its time passed while it waited."""
    DISCONNECTED = "page_disconnected"
    RETRIED = "retried"
    """A person put a parked one back."""
    DROPPED = "dropped"
    """A person let a parked one go."""


IN_FLIGHT = frozenset({State.SENDING, State.UNCERTAIN})
UNSETTLED = IN_FLIGHT | {State.READY}
RELEASES_MARKS = frozenset({State.FAILED, State.EXPIRED})
HARMLESS_KINDS = frozenset({"hide_comment", "add_label", "remove_label"})

# How the latest attempt ended, and where that takes a reply that is in flight.
_VERDICTS = {
    Signal.REFUSED: State.FAILED,
    Signal.NOT_NOW: State.READY,
    Signal.UNKNOWN: State.UNCERTAIN,
    Signal.UNKNOWN_HARMLESS: State.READY,
    Signal.TOO_LATE: State.EXPIRED,
    Signal.BLOCKED: State.READY,
}

VERDICTS = frozenset({Signal.ACCEPTED, *_VERDICTS})
ATTEMPT_ENDS = VERDICTS | {Signal.LAPSED, Signal.LAPSED_HARMLESS}
LOOKS = frozenset({Signal.CLEAN_LOOK, Signal.LAST_CLEAN_LOOK, Signal.FAILED_LOOK})

TABLE: Mapping[tuple[State, Signal], State] = MappingProxyType(
    {(state, Signal.ACCEPTED): State.SENT for state in State}
    | {(state, verdict): to for state in IN_FLIGHT for verdict, to in _VERDICTS.items()}
    # A late word that is no acceptance is only written down.
    | {
        (state, verdict): state
        for state in State
        if state not in IN_FLIGHT
        for verdict in _VERDICTS
    }
    | {
        (State.READY, Signal.CLAIMED): State.SENDING,
        (State.READY, Signal.OUT_OF_TIME): State.EXPIRED,
        (State.READY, Signal.DISCONNECTED): State.FAILED,
        (State.SENDING, Signal.LAPSED): State.UNCERTAIN,
        (State.SENDING, Signal.LAPSED_HARMLESS): State.READY,
        (State.UNCERTAIN, Signal.CLEAN_LOOK): State.UNCERTAIN,
        (State.UNCERTAIN, Signal.LAST_CLEAN_LOOK): State.READY,
        (State.UNCERTAIN, Signal.FAILED_LOOK): State.UNCERTAIN,
        (State.UNCERTAIN, Signal.NO_ECHO): State.READY,
        (State.UNCERTAIN, Signal.GIVEN_UP): State.PARKED,
        (State.PARKED, Signal.RETRIED): State.READY,
        (State.PARKED, Signal.DROPPED): State.FAILED,
    }
)

_HARMLESS = {Signal.UNKNOWN: Signal.UNKNOWN_HARMLESS, Signal.LAPSED: Signal.LAPSED_HARMLESS}


def after(state: State, signal: Signal) -> State | None:
    """Where a reply stands after a signal; None where the signal means nothing in that state."""
    return TABLE.get((state, signal))


def of_kind(signal: Signal, kind: str) -> Signal:
    """The signal as it holds for this kind: what may be asked twice is never uncertain."""
    return _HARMLESS.get(signal, signal) if kind in HARMLESS_KINDS else signal


def clean_look(looks_before: int) -> Signal:
    """The signal of one more look that found nothing, after so many."""
    return Signal.LAST_CLEAN_LOOK if looks_before + 1 >= CLEAN_LOOKS else Signal.CLEAN_LOOK


def next_look(
    signal: Signal, started_at: datetime, now: datetime, waits: Waits = WAITS
) -> datetime:
    """When to look for a reply that is uncertain after `signal`."""
    if signal is Signal.CLEAN_LOOK:
        return max(started_at + waits.second_look, now + waits.between_looks)
    if signal is Signal.FAILED_LOOK:
        return now + waits.after_failed_look
    return started_at + waits.first_look


def backoff(attempt: int, chance: float, most: float = BACKOFF_MOST) -> timedelta:
    """The pause before the attempt after this one (from 1): full jitter; `chance` is in [0, 1)."""
    most = max(BACKOFF_LEAST, min(most, 2.0 ** min(attempt, 16)))
    return timedelta(seconds=BACKOFF_LEAST + chance * (most - BACKOFF_LEAST))
