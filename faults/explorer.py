"""The live path in the small: every order in which two workers can act on one lane with two events.

A state holds the lane, its events and replies, and what each worker is about. From each state every
step is taken that could come next: an arrival, a worker's own next step, a lease that ends, Graph
taking a request or not, and the faults: a crash, a pause (its lease ends, then it goes on), an
answer that is lost. Numbers that only grow are told apart by whether they are the newest, so that
there are finitely many states. Where a reply may go is the store's own table; the rules that the
store has in SQL are said here as functions, and a test holds PostgreSQL to them.

What is assumed of Graph: a request that it has not taken when the second look is due it never takes
(`transitions.SECOND_LOOK`); what it took by then, a look shows from then on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pagewire_store import transitions
from pagewire_store.transitions import IN_FLIGHT, UNSETTLED, Signal, State

EVENTS = 2
WORKERS = 2
VERDICTS = (Signal.REFUSED, Signal.NOT_NOW, Signal.TOO_LATE)
"""What an attempt can come to without Graph having taken it; a blocked page's is as not now."""


def may_claim(pending: int, is_leased: bool, is_over: bool) -> bool:
    """Whether a lane is given to who asks: something is in it, and nobody has it."""
    return pending > 0 and (not is_leased or is_over)


def on_commit(
    is_newest: bool, asked: Sequence[int], decided: Sequence[int], pending: Sequence[int]
) -> tuple[str, list[int]]:
    """What becomes of a commit of these events by who claimed the lane, and which it decides.

    `committed`; `repeated`: the first answers are given again; `fenced`: another has claimed the
    lane since; `refused`: these are not the first pending ones.
    """
    fresh = [event for event in asked if event not in decided]
    if not is_newest:
        return "fenced" if fresh else "repeated", []
    if fresh != list(pending[: len(fresh)]):
        return "refused", []
    return "committed" if fresh else "repeated", fresh


def next_to_send(states: Sequence[State]) -> int | None:
    """Which of a lane's replies, by ordinal, is handed out: the first unsettled, where it waits."""
    first = next((at for at, state in enumerate(states) if state in UNSETTLED), None)
    return first if first is not None and states[first] is State.READY else None


def counts_look(clean_looks_then: int, clean_looks: int) -> bool:
    """Whether a look that found nothing counts: no other has since it was handed out."""
    return clean_looks_then == clean_looks


@dataclass(frozen=True)
class Rules:
    """What the store goes by; a test puts a wrong one in and wants it found."""

    events: int = EVENTS
    """How many come; with one there are few states."""
    after: Callable[[State, Signal], State | None] = transitions.after
    clean_look: Callable[[int], Signal] = transitions.clean_look
    may_claim: Callable[[int, bool, bool], bool] = may_claim
    on_commit: Callable[
        [bool, Sequence[int], Sequence[int], Sequence[int]], tuple[str, list[int]]
    ] = on_commit
    next_to_send: Callable[[Sequence[State]], int | None] = next_to_send
    sends_before_claiming: bool = False
    """The claim is committed after the request went out."""
    outcomes_are_fenced: bool = False
    """An outcome counts only from who still has the lease."""
    counts_look: Callable[[int, int], bool] = counts_look
    reads_show_in_time: bool = True
    """What is assumed of Graph; without it nobody can know."""


class Reply(NamedTuple):
    """A row of the outbox, and Graph's side of it."""

    state: State
    is_over: bool = False
    """The sender's lease."""
    is_early: bool = False
    """The second look is not due yet: Graph may still take it, and reads may lag."""
    clean_looks: int = 0
    look: str = ""
    """Who looks has a lease that is `running` or `over`; empty where nobody looks."""
    at_graph: bool = False
    """A request is under way of which nobody knows whether it will be taken."""
    taken: int = 0
    """How often Graph took it."""


class Worker(NamedTuple):
    """What one process does now: `idle`, `deciding`, `sending` or `looking`."""

    doing: str = "idle"
    is_newest: bool = True
    """Nobody claimed the same after it."""
    is_late: bool = False
    """Its lease is over, which its own clock tells."""
    events: tuple[int, ...] = ()
    reply: int = 0
    stage: str = "claimed"
    """`claimed`; then how the attempt ended, or what the look came to."""
    clean_looks: int = 0
    """How many there had been when this one was handed out."""


IDLE = Worker()


class World(NamedTuple):
    """One state of all."""

    arrived: int = 0
    decisions: tuple[int, ...] = ()
    """The events in the order in which they were decided."""
    is_leased: bool = False
    is_over: bool = False
    replies: tuple[Reply, ...] = ()
    workers: tuple[Worker, ...] = (IDLE,) * WORKERS
    broken: str = ""
    """What went wrong in the step that led here."""

    @property
    def pending(self) -> list[int]:
        return [event for event in range(self.arrived) if event not in self.decisions]

    def reply(self, at: int, **changes: Any) -> World:
        changed = self.replies[at]._replace(**changes)
        if changed.state not in UNSETTLED:  # what no longer matters of it shall make no states
            changed = Reply(changed.state, at_graph=changed.at_graph, taken=changed.taken)
        return self._replace(replies=_with(self.replies, at, changed))

    def worker(self, at: int, worker: Worker = IDLE) -> World:
        return self._replace(workers=_with(self.workers, at, worker))

    def is_settled(self, events: int) -> bool:
        """Whether all is done, and nothing is left in anyone's hands."""
        return (
            len(self.decisions) == events
            and all(reply.state not in UNSETTLED for reply in self.replies)
            and not self.is_leased
        )


class Step(NamedTuple):
    """What happens, whether that is a fault, and what is then."""

    name: str
    is_fault: bool
    to: World


def _with(items: tuple, at: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], item, *items[at + 1 :])


def broken(world: World) -> str:
    """Which invariant does not hold in this state, and how; empty where all do."""
    if world.broken:
        return world.broken
    if len(set(world.decisions)) < len(world.decisions):
        return "I3: an event was decided twice"
    if list(world.decisions) != sorted(world.decisions):
        return "I6: events were decided out of order"
    if sum(reply.state in IN_FLIGHT for reply in world.replies) > 1:
        return "I6: two replies of the lane are under way"
    for reply in world.replies:
        if reply.taken > 1:
            return "I4: Graph took a reply twice"
        if reply.taken and reply.state in (State.FAILED, State.EXPIRED):
            return "I4: what Graph took is said not to have been sent"
        if reply.state is State.SENT and not reply.taken:
            return "I4: SENT, and Graph never took it"
    return ""


def steps(world: World, rules: Rules) -> Iterator[Step]:
    """All that can come next."""
    yield from _surroundings(world, rules)
    for at, worker in enumerate(world.workers):
        if worker.doing == "idle":
            yield from _claims(world, at, rules)
        else:
            yield Step("crash", True, world.worker(at))
            yield from _WORK[worker.doing](world, at, worker, rules)


def _surroundings(world: World, rules: Rules) -> Iterator[Step]:
    """Arrivals, time, Graph and its echoes, and the sweep."""
    if world.arrived < rules.events:
        yield Step("arrives", False, world._replace(arrived=world.arrived + 1))
    if world.is_leased and not world.is_over:
        yield Step("lane lease ends", False, world._replace(is_over=True))
    for at, reply in enumerate(world.replies):
        if reply.at_graph:
            yield Step("Graph takes it", False, _take(world.reply(at, at_graph=False), at))
            yield Step("Graph drops it", False, world.reply(at, at_graph=False))
        if reply.taken:
            yield Step("echo", True, _accept(world, at, rules))  # nobody may count on it
        if reply.state is State.SENDING and not reply.is_over:
            yield Step("send lease ends", False, _end_lease(world, at))
        if reply.state is State.SENDING and reply.is_over:
            yield Step("sweep", False, _signal(world, at, Signal.LAPSED, rules))
        if reply.state is State.UNCERTAIN:
            yield from _while_uncertain(world, at, reply, rules)
        if reply.state is State.READY:
            for signal in (Signal.OUT_OF_TIME, Signal.DISCONNECTED):
                yield Step(signal, False, _signal(world, at, signal, rules))


def _end_lease(world: World, row: int) -> World:
    workers = tuple(
        worker._replace(is_late=True)
        if worker.doing == "sending" and worker.reply == row and worker.stage == "claimed"
        else worker
        for worker in world.workers
    )
    return world.reply(row, is_over=True)._replace(workers=workers)


def _while_uncertain(world: World, at: int, reply: Reply, rules: Rules) -> Iterator[Step]:
    if reply.is_early and not reply.at_graph:
        yield Step("second look is due", False, world.reply(at, is_early=False))
    if reply.look == "running":
        yield Step("look lease ends", False, world.reply(at, look="over"))
    if not reply.is_early:
        yield Step("given up", False, _signal(world, at, Signal.GIVEN_UP, rules))


def _claims(world: World, at: int, rules: Rules) -> Iterator[Step]:
    """What an idle worker can take up."""
    if rules.may_claim(len(world.pending), world.is_leased, world.is_over):
        claimed = _outdate(world, "deciding")._replace(is_leased=True, is_over=False)
        worker = Worker("deciding", events=tuple(world.pending))
        yield Step("claims the lane", False, claimed.worker(at, worker))
    states = [reply.state for reply in world.replies]
    if (row := rules.next_to_send(states)) is not None:
        worker = Worker("sending", reply=row)
        if rules.sends_before_claiming:
            yield from _write(world, at, worker)
        else:
            claimed = _outdate(world, "sending", row)
            claimed = claimed.reply(row, is_over=False, is_early=True, clean_looks=0)
            claimed = _signal(claimed, row, Signal.CLAIMED, rules)
            yield Step("claims a reply", False, claimed.worker(at, worker))
    for row, reply in enumerate(world.replies):
        due = not reply.is_early or not reply.clean_looks
        if reply.state is State.UNCERTAIN and due and reply.look != "running":
            worker = Worker("looking", reply=row, clean_looks=reply.clean_looks)
            yield Step("claims a look", False, world.reply(row, look="running").worker(at, worker))


def _outdate(world: World, doing: str, row: int = 0) -> World:
    """Who had claimed the same before is no longer the newest; of a reply, who looks neither."""
    kinds = {"deciding": ("deciding",), "sending": ("sending", "looking")}[doing]
    workers = tuple(
        worker._replace(is_newest=False)
        if worker.doing in kinds and worker.reply == row
        else worker
        for worker in world.workers
    )
    return world._replace(workers=workers)


def _decide(world: World, at: int, worker: Worker, rules: Rules) -> Iterator[Step]:
    answer, fresh = rules.on_commit(worker.is_newest, worker.events, world.decisions, world.pending)
    after = world
    if fresh:
        waiting = tuple(Reply(State.READY) for _ in fresh)
        after = world._replace(
            decisions=(*world.decisions, *fresh), replies=(*world.replies, *waiting)
        )
        if not worker.is_newest:
            after = after._replace(broken="I6: a lane was decided by who no longer has it")
    if answer in ("committed", "repeated") and worker.is_newest:
        after = after._replace(is_leased=False, is_over=False)
    yield Step(f"commit is {answer}", False, after.worker(at))
    yield Step(f"commit is {answer}, its answer lost", True, after)


def _send(world: World, at: int, worker: Worker, rules: Rules) -> Iterator[Step]:
    if worker.stage != "claimed":
        yield from _record(world, at, worker, rules)
    elif worker.is_late:
        late = worker._replace(stage=Signal.NOT_NOW, is_late=False)
        yield Step("is too late", False, world.worker(at, late))
    else:
        yield from _write(world, at, worker)


def _write(world: World, at: int, worker: Worker) -> Iterator[Step]:
    """The request goes out: Graph takes it or not, now or later, and the answer comes or not."""
    row = worker.reply
    taken = _take(world, row)
    lost = worker._replace(stage=Signal.UNKNOWN)
    yield Step("is taken", False, taken.worker(at, worker._replace(stage=Signal.ACCEPTED)))
    yield Step("is taken, the answer lost", True, taken.worker(at, lost))
    yield Step("hangs", True, world.reply(row, at_graph=True).worker(at, lost))
    for verdict in VERDICTS:
        yield Step(verdict, False, world.worker(at, worker._replace(stage=verdict)))


def _take(world: World, row: int) -> World:
    reply = world.replies[row]
    taken = world.reply(row, taken=min(reply.taken + 1, 2))
    if any(later.taken for later in world.replies[row + 1 :]) and not reply.taken:
        return taken._replace(broken="I6: replies reached Graph out of order")
    return taken


def _record(world: World, at: int, worker: Worker, rules: Rules) -> Iterator[Step]:
    signal, row = Signal(worker.stage), worker.reply
    counts = worker.is_newest or signal is Signal.ACCEPTED
    reply = world.replies[row]
    if rules.outcomes_are_fenced:
        counts = worker.is_newest and reply.state is State.SENDING
    if signal is Signal.ACCEPTED:
        after = _accept(world, row, rules) if counts else _forgotten(world, row)
    else:
        after = _signal(world, row, signal, rules) if counts else world
    yield Step("records", False, after.worker(at))
    yield Step("records, the answer lost", True, after)


def _look(world: World, at: int, worker: Worker, rules: Rules) -> Iterator[Step]:
    reply = world.replies[worker.reply]
    if worker.stage == "claimed":
        yield Step("fails to look", True, world.worker(at, worker._replace(stage="failed")))
        if reply.taken:
            yield Step("finds it", False, world.worker(at, worker._replace(stage="found")))
        if not reply.taken or reply.is_early or not rules.reads_show_in_time:
            yield Step("finds nothing", False, world.worker(at, worker._replace(stage="clean")))
        return
    after = _found(world, worker, rules)
    yield Step("writes the look down", False, after.worker(at))
    yield Step("writes the look down, the answer lost", True, after)


def _found(world: World, worker: Worker, rules: Rules) -> World:
    row, reply = worker.reply, world.replies[worker.reply]
    if worker.stage == "found":
        return _accept(world, row, rules)
    if not worker.is_newest or not reply.look or reply.state is not State.UNCERTAIN:
        return world
    if worker.stage == "failed":
        return _signal(world.reply(row, look=""), row, Signal.FAILED_LOOK, rules)
    if not rules.counts_look(worker.clean_looks, reply.clean_looks):
        return world
    clean = rules.clean_look(reply.clean_looks)
    looks = min(reply.clean_looks + 1, transitions.CLEAN_LOOKS)
    seen = world.reply(row, look="", clean_looks=looks)
    return _signal(seen, row, clean, rules)


def _accept(world: World, row: int, rules: Rules) -> World:
    """The store hears that Graph took it."""
    return _forgotten(_signal(world, row, Signal.ACCEPTED, rules), row)


def _forgotten(world: World, row: int) -> World:
    if world.replies[row].state is State.SENT:
        return world
    return world._replace(broken="I4: what is known to be taken is not SENT")


def _signal(world: World, row: int, signal: Signal, rules: Rules) -> World:
    """The reply's state by the table."""
    reply = world.replies[row]
    to = rules.after(reply.state, signal)
    if to is None or to is reply.state:
        return world
    if reply.state is State.SENT:
        return world._replace(broken="I4: what is known to be taken is no longer SENT")
    return world.reply(row, state=to, look="")


_WORK = {"deciding": _decide, "sending": _send, "looking": _look}


@dataclass
class Explored:
    """How many states there are, and the first that breaks an invariant, with the way to it."""

    states: int = 0
    violation: str = ""
    way: list[str] = field(default_factory=list)


def explore(rules: Rules = Rules()) -> Explored:
    """Visits every state that can be reached; stops at the first that is wrong.

    Last comes I7: from each state all can be brought to an end without a further fault.
    """
    start = World()
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    before: dict[World, list[World]] = {}
    waiting = deque([start])
    while waiting:
        world = waiting.popleft()
        if why := broken(world):
            return Explored(len(came_from), why, _way(came_from, world))
        for step in steps(world, rules):
            to = step.to._replace(workers=tuple(sorted(step.to.workers)))  # they are alike
            if not step.is_fault:
                before.setdefault(to, []).append(world)
            if to not in came_from:
                came_from[to] = world, step.name
                waiting.append(to)
    ends = _lead_to([world for world in came_from if world.is_settled(rules.events)], before)
    stuck = next((world for world in came_from if world not in ends), None)
    if stuck is not None:
        why = "I7: nothing brings this to an end"
        return Explored(len(came_from), why, _way(came_from, stuck))
    return Explored(len(came_from))


def _lead_to(ends: Sequence[World], before: dict[World, list[World]]) -> set[World]:
    found, waiting = set(ends), deque(ends)
    while waiting:
        for world in before.get(waiting.popleft(), ()):
            if world not in found:
                found.add(world)
                waiting.append(world)
    return found


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names: list[str] = []
    while (step := came_from[world]) is not None:
        world, name = step
        names.append(name)
    return names[::-1]
