"""Meta as one thing: the world, what it tells the app, and the ledger of both.

``Meta`` ties the pure parts to a clock and the sender. The Graph half and the control interface
both act through it, so that whatever happens is told and recorded in one place.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from pagewire_simulator import bodies
from pagewire_simulator.arrivals import Arrivals
from pagewire_simulator.bodies import Event, Shape
from pagewire_simulator.entities import Account, Message, Person, Platform
from pagewire_simulator.faults import Fault, Faults
from pagewire_simulator.latency import Latency
from pagewire_simulator.ledger import EventRecord, Ledger
from pagewire_simulator.limits import Rates, SendLimits, Usage
from pagewire_simulator.plan import Chance, Repeat
from pagewire_simulator.reading import Reading
from pagewire_simulator.rendered import Rendered
from pagewire_simulator.sender import Secrets, Sender
from pagewire_simulator.waiting import Signal
from pagewire_simulator.weather import Sky
from pagewire_simulator.world import World

ECHO_PATIENCE = 10.0


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


class App(msgspec.Struct, frozen=True, kw_only=True):
    """The developer's app as Meta knows it."""

    id: str
    secrets: Secrets


class Echoes(msgspec.Struct, frozen=True, kw_only=True):
    """When and how own messages are told back.

    ``when``: after (``delay`` seconds after the message was made, however long its answer takes),
    before (the answer waits until it was taken), never, or twice. ``metadata`` None: as the
    platform does (Messenger yes, Instagram no); ``tag`` replaces the metadata by another text.
    ``late``: the share of those told after that come ``late_by`` seconds later still.
    """

    when: str = "after"
    delay: float = 0.05
    metadata: bool | None = None
    tag: str | None = None
    late: float = 0
    late_by: float = 5


class BatchHabits(msgspec.Struct, kw_only=True, frozen=True):
    """What batches may do.

    After ``seconds`` operations that have not ended are told as ``null``, or, this share of them,
    as ``aborted`` (960); and this share of them is carried out all the same (``written``). ``most``
    operations at once; ``instagram``: also on the host of Instagram login, of which Meta's pages
    say nothing.
    """

    seconds: float = 30
    aborted: float = 0.3
    written: float = 0.5
    most: int = 50
    instagram: bool = False


class Options(msgspec.Struct, kw_only=True):
    """Switches of the whole simulator; ``echoes`` holds those of single accounts.

    ``read_lag``: seconds until a sent message shows in reads. ``adopt``: see ``adopting``.
    ``readings`` are those of single accounts. ``rendered``: see there.
    """

    require_proof: bool = True
    adopt: bool = False
    rendered: bool = False
    read_lag: float = 0
    echo: Echoes = Echoes()
    echoes: dict[str, Echoes] = {}
    reading: Reading = Reading()
    readings: dict[str, Reading] = {}
    batch: BatchHabits = BatchHabits()

    def reading_of(self, account: Account) -> Reading:
        return self.readings.get(account.id, self.reading)


class Meta:
    def __init__(self, app: App, seed: int, clock: Callable[[], int] = milliseconds) -> None:
        self.app = app
        self.seed = seed
        self.clock = clock
        self.options = Options()
        self.world = World(seed, app.id)
        self.ledger = Ledger()
        self.faults = Faults(seed)
        self.sky: Sky | None = None
        self.rendered = Rendered()
        self.latency = Latency("none", seed)
        self.limits = SendLimits(Rates())
        self.usage = Usage()
        self.chance = Chance(seed)
        self.arrivals = Arrivals()
        self.changed = Signal()
        self.ledger.on_change = self.changed.notify
        self.sender = Sender(
            secrets=app.secrets,
            ledger=self.ledger,
            clock=clock,
            chance=self.chance,
            challenge=self.world.noise.challenge,
            on_give_up=self._unsubscribe,
        )
        self._echoing: set[asyncio.TimerHandle] = set()

    @property
    def undelivered(self) -> int:
        """Events, echoes to come included, that are not through yet."""
        return self.sender.pending + len(self._echoing)

    def reborn(self, seed: int) -> "Meta":
        """A new world under the seed; webhook, plan of delivery and latency profile stay."""
        fresh = Meta(self.app, seed, self.clock)
        fresh.sender.endpoint = self.sender.endpoint
        fresh.sender.verified = self.sender.verified
        fresh.sender.plan = self.sender.plan
        fresh.options.adopt = self.options.adopt
        fresh.latency = Latency(self.latency.profile, seed, self.latency.factor)
        return fresh

    async def close(self) -> None:
        for timer in self._echoing:
            timer.cancel()
        self._echoing.clear()
        await self.sender.close()

    def strike(
        self, account: str, endpoint: str, person: str | None, *, in_batch: bool
    ) -> tuple[str, Fault] | None:
        """What a call meets, with its name: the fault of a script, or else the weather."""
        now = self.clock()
        scripted = self.faults.strike(account, endpoint, person, now, in_batch=in_batch)
        return scripted or (self.sky.strike(now) if self.sky else None)

    def tell(
        self,
        account: Account,
        value: dict[str, Any],
        *,
        field: str,
        shape: Shape = Shape.MESSAGING,
        subject: str | None = None,
        person: Person | None = None,
        repeat: Repeat | None = None,
        held: bool = False,
    ) -> Event:
        """Publishes an event to the app, unless it did not subscribe the field; records it."""
        event = Event(
            ref=f"e{len(self.ledger.events) + 1}",
            account_id=account.id,
            login=account.login,
            object=account.object,
            field=field,
            shape=shape,
            value=value,
            subject=subject,
            person_id=person.id if person else None,
        )
        wanted = "standby" if shape is Shape.STANDBY else field
        flows = self.sender.endpoint is not None and self.world.wants(account, wanted)
        self.ledger.publish(
            EventRecord(
                ref=event.ref,
                account_id=account.id,
                person_id=event.person_id,
                field=field,
                shape=shape,
                subject=subject,
                value=value,
                published_at=self.clock(),
                subscribed=flows,
            )
        )
        if flows:
            self.sender.publish(event, repeat, held=held)
        return event

    def echoes_of(self, account: Account) -> Echoes:
        return self.options.echoes.get(account.id, self.options.echo)

    def echo(self, account: Account, sent: Message) -> Event:
        """Tells the app of a message that the account sent, by API or by hand."""
        how = self.echoes_of(account)
        on_messenger = account.platform is Platform.MESSENGER
        told = sent if how.tag is None else msgspec.structs.replace(sent, metadata=how.tag)
        payload = bodies.echo(
            told,
            with_metadata=on_messenger if how.metadata is None else how.metadata,
            with_app_id=on_messenger,
        )
        return self.tell(
            account,
            bodies.item(account.id, sent.person_id, sent.created_at, payload),
            field=bodies.field_of(account.platform, payload),
            subject=sent.mid,
            person=self.world.find_person(account, sent.person_id),
        )

    async def echo_sent(self, account: Account, sent: Message) -> None:
        """Echoes a message sent by API; returns when its answer may go out."""
        how = self.echoes_of(account)
        if how.when == "before":
            record = self.ledger.events[self.echo(account, sent).ref]
            if record.subscribed:
                await self.changed.until(lambda: record.told > 0, ECHO_PATIENCE)
        self.echo_later(account, sent)

    def echo_later(self, account: Account, sent: Message) -> None:
        """Echoes it after its time, as often as the account's habits say."""
        how = self.echoes_of(account)
        for _ in range({"after": 1, "twice": 2}.get(how.when, 0)):
            late = how.late_by if self.chance.is_late(how.late) else 0
            self._echo_later(account, sent, how.delay + late)

    def _echo_later(self, account: Account, sent: Message, delay: float) -> None:
        def fire() -> None:
            self._echoing.discard(timer)
            self.echo(account, sent)

        timer = asyncio.get_running_loop().call_later(delay, fire)
        self._echoing.add(timer)

    def _unsubscribe(self, account_id: str) -> None:
        """Webhooks failed for too long: Meta removes the app from the account."""
        self.world.subscribe(self.world.account(account_id).node, frozenset())
