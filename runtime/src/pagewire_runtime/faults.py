"""Fault points: named places where a test has a process die, hang or fail, and else nothing.

A rule is `<point>=<action> [once] [nth:<n>] [p=<chance>@<seed>] [if:<key>]`; rules are separated by
`;` or line ends. At a point the process

    kill            is killed, as by SIGKILL
    exit            exits at once with 1, and cleans nothing up
    sleep:<time>    goes on later; what else it does goes on meanwhile
    block:<time>    does nothing at all for so long
    raise:<status>  fails there with a gRPC status (UNAVAILABLE), or in the store with an SQLSTATE
    skew:<time>     has its wall clock ahead by so much from then on, or behind where negative

A time is a number with `s` or `ms`. Of the modifiers all must hold: `if` is of what the point is
about (each says what it names: event keys and ids, pages, lanes), `nth` counts what `if` lets pass,
`p` is drawn from a generator of the rule's own, `once` is for the first time alone.

FAULT gives rules for a process's whole life, FAULT_FILE names a file that is read again whenever it
has changed. What strikes `once`, or at its `nth`, is written into `<FAULT_FILE>.struck` first, so
that the life after does not strike it again; without a file each life has its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeAlias

from pagewire_runtime.clock import WALL
from pagewire_runtime.errors import refusal_from
from pagewire_runtime.logs import get_logger
from pagewire_runtime.status import KINDS

log = get_logger(__name__)

Key: TypeAlias = str | Iterable[str]

_TRANSACTIONS = {
    "store.ingest": "taking deliveries; event keys, pages, lanes",
    "store.claim": "leasing lanes, and prolonging leases; no key",
    "store.decide": "committing decisions; event ids, pages, lanes",
    "store.outbox": "handing out replies; no key",
    "store.settle": "writing down how sends and looks ended; tags of attempts",
}
_MOMENTS = {
    "before_begin": "a connection is had, and nothing is said",
    "stmtN": "the statements before the N-th are with the server (block, not sleep)",
    "begun": "the transaction is open, and holds its locks",
    "before_commit": "the last trip is to be made, COMMIT and mostly all writes with it",
    "commit_sent": "COMMIT is with the server, its answer not read (block, not sleep)",
    "after_commit": "all is committed, and nobody has been told",
}

POINTS = {
    "edge.accepted": "a POST has come, nothing of its body is looked at; no key",
    "edge.verified": "the signature is good, nothing is handed on; event keys, pages, lanes",
    "edge.after_ingest": "the store has it, 200 is not answered; event keys, pages, lanes",
    "dispatcher.claimed": "lanes are leased, none is evaluated; event ids and keys, pages, lanes",
    "dispatcher.evaluated": "rules have answered, nothing is committed; event keys, pages, lanes",
    "dispatcher.committed": "the store has answered; event ids and keys, pages, lanes",
    "rules.evaluate": "events came to be evaluated; event keys, pages, lanes",
    "store.claim.leased": "leases are committed, nothing is read of them; pages, lanes",
    "store.outbox.claimed": "replies are SENDING, committed, not handed out; reply ids, pages",
    "sync.claimed": "replies are handed out, and SENDING; reply ids, pages",
    "sync.before_write": "a send is about to begin its first byte; reply id, page",
    "sync.after_write": "the last byte is out, nothing of the answer read; reply id, page",
    "sync.after_response": "it is known how a send ended, nobody was told; reply id, page",
    "sync.recorded": "the store has that; reply id, page",
    "sync.look.claimed": "an uncertain reply is handed out to be looked for; reply id, page",
    "sync.look.looked": "Graph was asked for it, nothing is recorded; reply id, page",
    "sync.look.recorded": "the store has what the look found; reply id, page",
    "sync.page.after_read": "history was read from Graph, nothing of it is stored; page",
    "sync.page.after_upsert": "the store has it, how far the run is stands nowhere; page",
    "sync.page.before_save": "how far runs are is about to be written down; pages",
} | {
    f"{part}.{moment}": f"{what}: {when}"
    for part, what in _TRANSACTIONS.items()
    for moment, when in _MOMENTS.items()
    # Replies are claimed in one trip, so nothing happens between BEGIN and the last statement.
    if (part, moment) != ("store.outbox", "begun")
}
"""Every point: where it is, then what `if` can name there."""

_UNSLEEPING = (".stmtN", ".commit_sent")
"""Reached in code that can't wait for the loop."""
_NUMBERED = re.compile(r"\.stmt[1-9][0-9]*$")
_TIME = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(ms|s)")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_STATUSES = {code.name: kind for code, kind in KINDS.items()}

on = False
"""Whether this process has faults; while it has none a point costs no more than asking."""

failure_of_sqlstate: Callable[[str], Exception] = RuntimeError
"""The driver's exception for an SQLSTATE, which only the store knows and says."""


@dataclass
class Rule:
    """One rule as it was given, and how often it applied."""

    text: str
    point: str
    action: str
    argument: str
    seconds: float = 0.0
    once: bool = False
    nth: int = 0
    chance: float = 1.0
    drawn: random.Random = field(default_factory=random.Random)
    key: str = ""
    met: int = 0
    spent: bool = False
    line: str = ""
    """What is written down when it strikes for its only time."""

    def strikes(self, keys: Collection[str]) -> bool:
        """Whether it strikes this time."""
        if self.spent or (self.key and self.key not in keys):
            return False
        self.met += 1
        if self.nth and self.met != self.nth:
            return False
        return self.chance >= 1 or self.drawn.random() < self.chance

    @property
    def is_single(self) -> bool:
        """Whether it strikes no more than one time."""
        return self.once or self.nth > 0


def parse(text: str) -> list[Rule]:
    """The rules of a text. Raises ValueError for what is none, or names no point."""
    written = (each.strip() for each in re.split(r"[;\n]", text))
    return [_rule(each) for each in written if each]


def _rule(text: str) -> Rule:
    point, equals, rest = text.partition("=")
    words = rest.split()
    if not equals or not words:
        raise ValueError(f"{text!r} is not <point>=<action>")
    point = point.strip()
    if _listed(point) not in POINTS:
        raise ValueError(f"{point!r} is no point")
    action, _, argument = words[0].partition(":")
    rule = Rule(" ".join(text.split()), point, action, argument)
    if not _is_action(rule):
        raise ValueError(f"{words[0]!r} is no action at {point}")
    for word in words[1:]:
        _modify(rule, word)
    return rule


def _is_action(rule: Rule) -> bool:
    match rule.action:
        case "kill" | "exit":
            return not rule.argument
        case "raise":
            return rule.argument in _STATUSES or bool(_SQLSTATE.fullmatch(rule.argument))
        case "sleep" | "block" | "skew":
            found = _TIME.fullmatch(rule.argument)
            unsleeping = _listed(rule.point).endswith(_UNSLEEPING)
            if found is None or (rule.action == "sleep" and unsleeping):
                return False
            rule.seconds = float(found[1]) / (1_000 if found[2] == "ms" else 1)
            return rule.action == "skew" or rule.seconds >= 0
    return False


def _modify(rule: Rule, word: str) -> None:
    name, mark, value = re.match(r"(\w*)([:=]?)(.*)", word).groups()  # type: ignore[union-attr]
    chance, at, seed = value.partition("@")
    if word == "once":
        rule.once = True
    elif name + mark == "if:" and value:
        rule.key = value
    elif name + mark == "nth:" and value.isdecimal() and int(value):
        rule.nth = int(value)
    elif name + mark == "p=" and at and re.fullmatch(r"0?\.[0-9]+|[01]", chance):
        rule.chance, rule.drawn = float(chance), random.Random(seed)  # noqa: S311  # no secret
    else:
        raise ValueError(f"{word!r} is no modifier")


def _listed(point: str) -> str:
    """The point's name in the table, where the statements of a transaction share one."""
    return _NUMBERED.sub(".stmtN", point)


class _Armed:
    """The rules of this process: those it was started with, and those of its file as it is now."""

    def __init__(self, text: str, file: Path | None) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._started_with = self._read(text, "start")
        self._of_file: list[Rule] = []

    def struck(self, point: str, key: Key) -> list[Rule]:
        """The rules that strike at this point now; those that do so only once are written down."""
        self._look()
        rules = [rule for rule in (*self._started_with, *self._of_file) if rule.point == point]
        if not rules:
            return []
        keys = {key} if isinstance(key, str) else set(key)
        found = [rule for rule in rules if rule.strikes(keys)]
        for rule in found:
            if rule.is_single:
                rule.spent = True
                self._write_down(rule)
        return found

    def _look(self) -> None:
        """Reads the file again where it is another than before; none there means no rules."""
        if self._file is None:
            return
        try:
            state = self._file.stat()
        except FileNotFoundError:
            self._stamp, self._of_file = None, []
            return
        stamp = (state.st_mtime_ns, state.st_ino, state.st_size)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._of_file = self._read(self._file.read_text(), str(state.st_mtime_ns))
        except ValueError as error:
            self._of_file = []
            log.error("FAULT_FILE can't be read, and counts as empty", reason=str(error))

    def _read(self, text: str, since: str) -> list[Rule]:
        """The rules of a text; `since` tells one that was struck from the same one given anew."""
        rules = parse(text)
        struck = self._written_down() if any(rule.is_single for rule in rules) else set()
        for rule in rules:
            rule.line = f"{since} {rule.text}"
            rule.spent = rule.line in struck
        return rules

    def _write_down(self, rule: Rule) -> None:
        if self._file is not None:
            with _struck_file(self._file).open("a") as struck:
                struck.write(f"{rule.line}\n")

    def _written_down(self) -> set[str]:
        try:
            return set(_struck_file(self._file).read_text().splitlines()) if self._file else set()
        except FileNotFoundError:
            return set()


def _struck_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.struck")


_armed = _Armed("", None)


def arm(text: str = "", file: Path | None = None) -> None:
    """Arms this process. Raises ValueError for a text that is no list of rules."""
    global _armed, on
    _armed = _Armed(text, file)
    on = bool(text.strip()) or file is not None


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arms this process within the block, for a test that calls its code."""
    arm(text)
    try:
        yield
    finally:
        arm()


async def reach(point: str, key: Key = ()) -> None:
    """Says that a point of POINTS is reached; `key` is what the work at hand is about."""
    if not on:
        return
    for rule in _struck(point, key):
        if rule.action == "sleep":
            await asyncio.sleep(rule.seconds)
        else:
            _act(rule)


def reached(point: str, key: Key = ()) -> None:
    """The same in code that can't wait for the loop."""
    if on:
        for rule in _struck(point, key):
            _act(rule)


class _Event(Protocol):
    """An event of a page, as the contract has it."""

    @property
    def key(self) -> str: ...
    @property
    def page_id(self) -> str: ...
    @property
    def lane(self) -> str: ...


def named(events: Iterable[_Event]) -> Iterator[str]:
    """What `if` can name where events are worked on: their keys, pages and lanes."""
    for event in events:
        yield from (event.key, event.page_id, event.lane)


@dataclass
class _Walk:
    """Work that goes through points which are named after it, and its statements so far."""

    part: str
    keys: frozenset[str]
    statements: int = 0


_walk: ContextVar[_Walk | None] = ContextVar("pagewire_walk", default=None)


@contextmanager
def walk(part: str, key: Key) -> Iterator[None]:
    """Names what is done within the block, for the moments that `step`, `stepped` tell of."""
    if not on:
        yield
        return
    token = _walk.set(_Walk(part, frozenset([key] if isinstance(key, str) else key)))
    try:
        yield
    finally:
        _walk.reset(token)


async def step(moment: str) -> None:
    """Reaches the point `<part>.<moment>` of the work at hand; none where no part is named."""
    if on and (at := _walk.get()) is not None:
        await reach(f"{at.part}.{moment}", at.keys)


def stepped(moment: str) -> None:
    """The same in code that can't wait for the loop."""
    if on and (at := _walk.get()) is not None:
        reached(f"{at.part}.{moment}", at.keys)


def stating() -> None:
    """Reaches `<part>.stmt<N>`: the next statement of the work at hand is about to be said."""
    if on and (at := _walk.get()) is not None:
        at.statements += 1
        reached(f"{at.part}.stmt{at.statements}", at.keys)


def _struck(point: str, key: Key) -> list[Rule]:
    if _listed(point) not in POINTS:
        raise LookupError(f"{point} is no point of the table")
    found = _armed.struck(point, key)
    for rule in found:  # without its key, which may be a person's
        log.warning("a fault struck", point=point, action=rule.action, argument=rule.argument)
    return found


def _act(rule: Rule) -> None:
    match rule.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(1)
        case "block":
            time.sleep(rule.seconds)  # the event loop with it: that is the fault
        case "skew":
            WALL.skew = timedelta(seconds=rule.seconds)
        case "raise":
            raise _failure(rule.argument)


def _failure(name: str) -> Exception:
    kind = _STATUSES.get(name)
    if kind is None:
        return failure_of_sqlstate(name)
    return refusal_from(kind, name, "a fault struck")
