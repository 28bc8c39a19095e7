"""Planted bugs: a service as it must not be, so that a test can see the checker notice.

`python -m faults.planted <bug> <module>` runs the service's main with one thing patched; the
services themselves have no switch for it. Each bug says whose it is, which row of the matrix is to
bring it to light, or a narrower form of that row, and which invariants may tell.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

Plant: TypeAlias = Callable[[], None]

FIGURE = "figure"
"""Told by the row's own pass figure, as no invariant forbids it."""


@dataclass(frozen=True)
class Bug:
    """What is wrong, in the first line of what plants it."""

    service: str
    row: str
    told_by: frozenset[str]
    plant: Plant
    needs_two: bool = False
    """Whether it is brought to light where there are two of its service."""


BUGS: dict[str, Bug] = {}


def bug(service: str, row: str, *told_by: str, needs_two: bool = False) -> Callable[[Plant], Plant]:
    """Registers a bug under its function's name."""

    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = Bug(service, row, frozenset(told_by), plant, needs_two)
        return plant

    return register


# The edge and the dispatcher.


@bug("webhook", "F04", "I1")
def ack_before_commit() -> None:
    """200 is answered when a delivery is on its way, not when it is stored."""
    from pagewire.store.v1.ingest_service_pb2 import DeliveryResult
    from pagewire_webhook.ingesting import Ingesting

    store = Ingesting.store
    going: set[asyncio.Task[DeliveryResult]] = set()

    def forget(ended: asyncio.Task[DeliveryResult]) -> None:
        ended.exception()
        going.discard(ended)

    async def at_once(self: Ingesting, *given: Any, **named: Any) -> DeliveryResult:
        task = asyncio.create_task(store(self, *given, **named))
        going.add(task)
        task.add_done_callback(forget)
        return DeliveryResult()

    _replace(Ingesting, "store", at_once)


@bug("webhook", "F04", "I10")
def refusal_is_an_error() -> None:
    """What can't be stored now is answered 500, as if it never could."""
    from pagewire_webhook import receiving

    _replace(receiving, "_UNAVAILABLE", receiving.answer(500))


@bug("webhook", "F17b", FIGURE)
def deaths_are_an_outage() -> None:
    """Rules that die of an event are taken for rules that are away."""
    from pagewire_runtime.errors import Unavailable
    from pagewire_webhook.evaluating import Evaluating

    def never(self: Evaluating, event: Any) -> str:
        raise Unavailable("rules")

    _replace(Evaluating, "_died_of", never)


@bug("webhook", "F17c", "I8")
def whoever_was_there_is_blamed() -> None:
    """Every event that rules had when they died counts as what they died of."""
    from pagewire.type.v1.rule_pb2 import Evaluation
    from pagewire_webhook.evaluating import KILLS_RULES, Evaluating

    async def blamed(self: Evaluating, event: Any) -> Evaluation:
        return Evaluation(error=KILLS_RULES)

    _replace(Evaluating, "alone", blamed)


# The store: taking events, and deciding.


@bug("store", "F06", "I3", "I4", "I11")
def dedupe_in_memory() -> None:
    """Which events are known is kept in this process, and forgotten with it."""
    from pagewire_store import ingest, statements

    see, begin = ingest._see, ingest._begin
    known: set[Any] = set()

    async def remembered(connection: Any, batch: Any) -> Any:
        seen = await see(connection, batch)
        seen.sources = {key: of for key, of in seen.sources.items() if key in known}
        return seen

    async def begun(connection: Any, batch: Any, seen: Any) -> Any:
        taken = await begin(connection, batch, seen)
        seen.sources = {key: of for key, of in seen.sources.items() if key in known}
        known.update(key for waiting in batch for key in waiting.arrivals)
        return taken

    _replace(ingest, "_see", remembered)
    _replace(ingest, "_begin", begun)
    _reword(
        statements.NEW_EVENTS._statement,
        "select d.page_id, d.event_key, d.number,",
        "select d.page_id, d.event_key || case when exists (select from event k"
        " where k.page_id = d.page_id and k.event_key = d.event_key)"
        " then '~' || d.number else '' end, d.number,",
    )


@bug("store", "F07", "I7")
def nobody_takes_over() -> None:
    """A lane whose dispatcher died stays that one's for ever."""
    from pagewire_store import claiming

    _reword(claiming._LEASE, "(lease_until is null or lease_until <= now())", "lease_until is null")


@bug("store", "F16", "I6", needs_two=True)
def epochs_are_not_asked() -> None:
    """Who decides a lane need not hold it any more: a commit counts under whatever epoch."""
    from pagewire_store import committing

    hold = committing._hold

    def unfenced(lanes: Any, locked: Any, decided: Any) -> Any:
        asked = {lane.key: lane.asked.ref.epoch for lane in lanes}
        as_asked = [row._replace(epoch=asked[row.page_id, row.lane]) for row in locked]
        return hold(lanes, as_asked, decided)

    _replace(committing, "_hold", unfenced)


@bug("store", "F38", "I6", needs_two=True)
def lanes_are_not_locked() -> None:
    """Lanes are locked neither to take events nor to decide them."""
    from pagewire_store import committing, statements

    _reword(statements.LOCK_LANES._statement, "for update of l skip locked", "")
    _reword(committing._LOCK._statement, "for update of l", "")


@bug("store", "F77", "I7")
def lease_by_own_clock() -> None:
    """Whether a lane's lease is over is told by this process's clock."""
    from pagewire_runtime.clock import WALL
    from pagewire_store import claiming
    from pagewire_store.trips import Said, Statement

    class ByOwnClock(Statement):
        def said(self, *values: bytes) -> Said:
            now = f"to_timestamp({WALL.seconds()})"
            sql = usual.sql.decode().replace("lease_until <= now()", f"lease_until <= {now}")
            return Statement(sql, self.types).said(*values)

    usual = claiming._LEASE
    assert b"lease_until <= now()" in usual.sql  # else it plants nothing
    _replace(claiming, "_LEASE", ByOwnClock(usual.sql.decode(), usual.types))


@bug("store", "F10", "I3")
def replies_are_committed_apart() -> None:
    """A decision is committed before its replies are."""
    from pagewire_store import committing
    from pagewire_store.trips import BEGIN, COMMIT, ended, trip

    async def in_two(connection: Any, *said: Any) -> Any:
        replies = [each for each in said if each.statement is committing._ENQUEUE._statement]
        answers = await ended(connection, *(each for each in said if each not in replies))
        if replies:
            await asyncio.sleep(0.2)
            await trip(connection, BEGIN, *replies, COMMIT)
        return answers

    _replace(committing, "ended", in_two)


@bug("store", "F72", "I3")
def window_is_not_looked_at() -> None:
    """An event is answered however old it is."""
    from datetime import timedelta

    from pagewire_store import deciding

    _replace(deciding, "window", lambda event: timedelta(days=10_000))


# The store: the outbox.


@bug("store", "F12", "I5")
def lapsed_is_unsent() -> None:
    """A reply whose sender died counts as not sent."""
    from pagewire_store.transitions import Signal, State

    _retable({(State.SENDING, Signal.LAPSED): State.READY})


@bug("store", "F11", "I7")
def nobody_sweeps() -> None:
    """A reply whose sender died stays that one's for ever."""
    from pagewire_store.transitions import Signal, State

    _retable({(State.SENDING, Signal.LAPSED): None})


@bug("store", "F12", "I5")
def marked_after_the_send() -> None:
    """That a reply is being sent is not written down before its first byte is out."""
    from pagewire_store import outbox

    claim = outbox.claim

    async def unmarked(connection: Any, *given: Any, **named: Any) -> Any:
        claimed = await claim(connection, *given, **named)
        await connection.execute(
            b"update outbox set state = 'ready', lease_owner = null, lease_until = null,"
            b" not_before = now() + interval '2 s' where tag = any(%s) and state = 'sending'",
            ([reply.tag for reply in claimed],),
        )
        return claimed

    _replace(outbox, "claim", unmarked)


@bug("store", "F53", "I6")
def what_waits_is_overtaken() -> None:
    """A reply that is to be sent later lets the next one of its lane go before it."""
    from pagewire_store import outbox

    unsettled = "e.state in ('ready', 'sending', 'uncertain')"
    is_due = "(e.not_before is null or e.not_before <= now())"
    _reword(outbox._CLAIM, unsettled, f"{unsettled} and {is_due}")


@bug("store", "F52", "I5")
def one_clean_look() -> None:
    """A reply goes again when the first look has not found it."""
    from pagewire_store import settling
    from pagewire_store.transitions import Signal

    _replace(settling, "clean_look", lambda looks_before: Signal.LAST_CLEAN_LOOK)


@bug("store", "F51", FIGURE)
def echoes_are_not_bound() -> None:
    """What is told back is never joined to the reply that it is of."""
    from pagewire_store import echoes

    async def unbound(connection: Any, events: Any, *, first: Any = (), **rest: Any) -> Any:
        return echoes.Bound(list(first), freed=False)

    _replace(echoes, "bind", unbound)


@bug("store", "F16", "I4")
def outcome_is_fenced() -> None:
    """An acceptance counts only while the lease of who sent it runs."""
    from pagewire_store import settling
    from pagewire_store.transitions import Signal, State

    apply = settling._apply

    def fenced(row: Any, reply: Any, ending: Any, waits: Any, *, bound: bool) -> bool:
        by_answer = ending.signal is Signal.ACCEPTED and ending.via == "response"
        if by_answer and row.state != State.SENDING:
            return False
        return apply(row, reply, ending, waits, bound=bound)

    _replace(settling, "_apply", fenced)


# Sync.


@bug("sync", "F51", "I4", "I5")
def blind_resend() -> None:
    """A send of which nobody knows how it ended is sent again at once."""
    from pagewire.store.v1.outbox_service_pb2 import Verdict
    from pagewire_sync import outcomes

    def again(reply: Any, reason: str) -> outcomes.Ending:
        return outcomes.Ending(Verdict.VERDICT_RETRY, reason)

    _replace(outcomes, "unknown", again)


@bug("sync", "F56", FIGURE)
def later_is_never() -> None:
    """A reply that Graph wants later is given up."""
    from pagewire.store.v1.outbox_service_pb2 import Verdict
    from pagewire_sync import outcomes
    from pagewire_sync.failures import Failure

    _replace(
        outcomes, "_VERDICTS", outcomes._VERDICTS | {Failure.THROTTLED: Verdict.VERDICT_REFUSED}
    )


# Last, for a log keeps what was once written into it.


@bug("webhook", "F08", "I13")
def log_names_people() -> None:
    """The log says whose events are decided."""
    from pagewire_webhook import dispatcher

    to_evaluate = dispatcher._to_evaluate

    def told(lane: Any) -> Any:
        dispatcher.log.warning("deciding", lane=lane.ref.lane)
        return to_evaluate(lane)

    _replace(dispatcher, "_to_evaluate", told)


def _replace(owner: Any, name: str, by: Any) -> None:
    """Raises AttributeError where there is no such thing any more, so that each bug is one."""
    getattr(owner, name)
    setattr(owner, name, by)


def _reword(statement: Any, words: str, by: str) -> None:
    """Says a statement otherwise. Raises LookupError where it does not say that."""
    said = statement.sql.decode()
    if words not in said:
        raise LookupError(f"the statement does not say {words!r}")
    statement.sql = said.replace(words, by).encode()


def _retable(changes: dict[Any, Any]) -> None:
    """Gives the outbox's table other ends, or none. Raises LookupError where it has no such row."""
    from pagewire_store import transitions

    if not changes.keys() <= transitions.TABLE.keys():
        raise LookupError(f"the table does not have all of {list(changes)}")
    table = {key: to for key, to in (dict(transitions.TABLE) | changes).items() if to is not None}
    _replace(transitions, "TABLE", MappingProxyType(table))


def main() -> None:
    name, module = sys.argv[1:]
    import pagewire_runtime  # noqa: F401  # first: it quiets gRPC's core, which reads that on import

    BUGS[name].plant()
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
