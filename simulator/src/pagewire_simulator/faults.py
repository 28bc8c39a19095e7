"""What can go wrong with a Graph call, by script: which calls, which fault, how often (S18, S24).

A fault says two things apart: whether the call takes effect all the same, and what the caller is
told. That is the heart of the matter: an error does not prove that nothing was sent.
"""

from enum import StrEnum
from random import Random
from typing import Any

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.refusals import Refusal

BATCH = "batch"
"""The endpoint of a batch as a whole, beside those of its operations."""


class Answer(StrEnum):
    """What the caller gets to see."""

    NORMAL = "normal"
    CUT = "cut"
    HALF = "half"
    ERROR = "error"
    EMPTY = "empty"
    HTML = "html"
    TRUNCATED = "truncated"
    BARE = "bare"
    NULL = "null"
    OBJECT = "object"
    CIRCLE = "circle"
    ELSEWHERE = "elsewhere"
    FORGETFUL = "forgetful"
    SHORT = "short"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """``created``: the call takes effect. Waits ``late`` seconds before that, ``seconds`` after it.

    ``cut`` closes the connection without a byte, ``half`` in the middle of the body, ``truncated``
    ends the JSON early inside a whole HTTP answer, ``bare`` is a status without a body, ``null`` an
    operation of a batch of which nothing is told, ``object`` an empty one where a list is expected,
    ``circle`` a page whose cursor leads to itself, ``elsewhere`` one whose next address is on
    another host, ``forgetful`` one that takes no cursor, ``short`` a batch's list that lacks its
    last operation.
    """

    answer: Answer
    created: bool
    refusal: Refusal = refusals.UNKNOWN_ERROR
    status: int = 200
    seconds: float = 0
    late: float = 0


def refused(refusal: Refusal) -> Fault:
    return Fault(answer=Answer.ERROR, created=False, refusal=refusal)


FAULTS: dict[str, Fault] = {
    "lost": Fault(answer=Answer.CUT, created=True),
    "reset": Fault(answer=Answer.CUT, created=False),
    "half": Fault(answer=Answer.HALF, created=True),
    "created_error": Fault(answer=Answer.ERROR, created=True),
    "created_unavailable": Fault(
        answer=Answer.ERROR, created=True, refusal=refusals.SERVICE_UNAVAILABLE
    ),
    "error": refused(refusals.UNKNOWN_ERROR),
    "unavailable": refused(refusals.SERVICE_UNAVAILABLE),
    "slow": Fault(answer=Answer.NORMAL, created=True, seconds=30),
    "empty": Fault(answer=Answer.EMPTY, created=True),
    "html": Fault(answer=Answer.HTML, created=True),
    "truncated": Fault(answer=Answer.TRUNCATED, created=True),
    "http_500": Fault(answer=Answer.BARE, created=False, status=500),
    "http_502": Fault(answer=Answer.BARE, created=False, status=502),
    "http_503": Fault(answer=Answer.BARE, created=False, status=503),
    "http_429": Fault(answer=Answer.BARE, created=False, status=429),
    "app_throttled": refused(refusals.APP_THROTTLED),
    "user_throttled": refused(refusals.USER_THROTTLED),
    "page_throttled": refused(refusals.PAGE_THROTTLED),
    "messenger_throttled": refused(refusals.MESSENGER_THROTTLED),
    "instagram_throttled": refused(refusals.INSTAGRAM_THROTTLED),
    "calls_throttled": refused(refusals.CALLS_THROTTLED),
    "token_expired": refused(refusals.TOKEN_EXPIRED),
    "token_password_changed": refused(refusals.TOKEN_PASSWORD_CHANGED),
    "permission": refused(refusals.PERMISSION),
    "policy": refused(refusals.BLOCKED_BY_POLICY),
    "person_unavailable": refused(refusals.PERSON_UNAVAILABLE),
    "terms": refused(refusals.TERMS),
}


FAULTS_OF_READS: dict[str, Fault] = {
    "null": Fault(answer=Answer.NULL, created=False),
    "null_created": Fault(answer=Answer.NULL, created=True),
    "aborted": refused(refusals.ABORTED),
    "object": Fault(answer=Answer.OBJECT, created=True),
    "circle": Fault(answer=Answer.CIRCLE, created=True),
    "elsewhere": Fault(answer=Answer.ELSEWHERE, created=True),
    "forgetful": Fault(answer=Answer.FORGETFUL, created=True),
    "short": Fault(answer=Answer.SHORT, created=True),
    "too_much": refused(refusals.TOO_MUCH),
    "stale_cursor": refused(refusals.CURSOR),
}
"""What only reads and batches meet; the rest may meet any call."""
ALL = FAULTS | FAULTS_OF_READS


class UnknownFault(ValueError):
    """No fault has this name."""


class Script(msgspec.Struct, kw_only=True):
    """Which calls meet the fault.

    ``fault`` is a name of ``ALL``; the optional fields below it change that fault. ``account``,
    ``endpoint`` and ``person`` None match every one; ``skip`` matching calls pass first, then
    ``count`` meet it (None: all), each with ``probability``. ``lasts`` seconds ends it by time.
    """

    fault: str
    created: bool | None = None
    seconds: float | None = None
    late: float | None = None
    code: int | None = None
    subcode: int | None = None
    status: int | None = None
    account: str | None = None
    endpoint: str | None = None
    person: str | None = None
    count: int | None = None
    skip: int = 0
    probability: float = 1.0
    lasts: float | None = None

    def compose(self) -> Fault:
        try:
            fault = ALL[self.fault]
        except KeyError:
            raise UnknownFault(f"no fault is called {self.fault!r}: {', '.join(ALL)}") from None
        changes: dict[str, Any] = {}
        if self.created is not None:
            changes["created"] = self.created
        if self.seconds is not None:
            changes["seconds"] = self.seconds
        if self.late is not None:
            changes["late"] = self.late
        if self.code is not None:
            message = f"(#{self.code}) Scripted error"
            status = self.status or 400
            changes["refusal"] = Refusal(
                message=message, code=self.code, subcode=self.subcode, status=status
            )
        elif self.status is not None:
            changes["status"] = self.status
            changes["refusal"] = msgspec.structs.replace(fault.refusal, status=self.status)
        return msgspec.structs.replace(fault, **changes)

    def matches(self, account: str, endpoint: str, person: str | None) -> bool:
        """What is about no account, as a batch as a whole, is meant where ``endpoint`` says so."""
        if not account:
            return self.endpoint == endpoint
        return (
            self.account in (None, account)
            and self.endpoint in (None, endpoint)
            and self.person in (None, person)
        )


class Active(msgspec.Struct):
    script: Script
    fault: Fault
    until: int | None
    skip: int
    left: int | None


class Faults:
    """The scripts in force, oldest first; the first that strikes wins."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed}/faults")
        self._active: list[Active] = []

    def add(self, script: Script, now: int) -> None:
        """Raises UnknownFault."""
        until = None if script.lasts is None else now + int(script.lasts * 1000)
        self._active.append(Active(script, script.compose(), until, script.skip, script.count))

    def clear(self) -> None:
        self._active.clear()

    def strike(
        self, account: str, endpoint: str, person: str | None, now: int, *, in_batch: bool = False
    ) -> tuple[str, Fault] | None:
        """The fault that this call meets, with its name; counts it."""
        if not self._active:
            return None
        self._active = [a for a in self._active if a.left != 0 and (not a.until or now < a.until)]
        for active in self._active:
            if not active.script.matches(account, endpoint, person):
                continue
            if active.fault.answer is Answer.NULL and not in_batch:
                continue
            if active.skip:
                active.skip -= 1
                continue
            if self._random.random() >= active.script.probability:
                continue
            if active.left is not None:
                active.left -= 1
            return active.script.fault, active.fault
        return None
