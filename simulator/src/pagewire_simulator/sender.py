"""The webhook sender: takes events, POSTs them signed, and again until they are answered 200.

Each callback (path and secret) has a queue of events; deliveries already composed (retries,
repeats, raw bodies) go first. At most ``plan.connections`` POSTs run at the same time and none are
made, nor any task kept, while there is nothing to say.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine

import aiohttp
import msgspec

from pagewire_simulator import bodies, wire
from pagewire_simulator.bodies import Event, Shape
from pagewire_simulator.entities import Host
from pagewire_simulator.handshake import Endpoint, NotVerified, verify
from pagewire_simulator.ledger import DeliveryRecord, Ledger
from pagewire_simulator.plan import Chance, Plan, Repeat

log = logging.getLogger(__name__)

HANDSHAKE_EVERY = 0.5
PENDING_MAX = 100_000


class Callback(msgspec.Struct, frozen=True):
    """Where the events of one object and login go, and the secret that signs them."""

    object: str
    path: str
    secret: str


class Secrets(msgspec.Struct, frozen=True):
    """``instagram`` signs for accounts connected by Instagram login."""

    app: str
    instagram: str

    def of(self, login: Host) -> str:
        return self.app if login is Host.FACEBOOK else self.instagram


class Delivery(msgspec.Struct, kw_only=True):
    """A POST to be made. ``weight`` is how much it counts in ``Sender.pending``."""

    callback: Callback
    body: bytes
    events: list[Event]
    weight: int
    secret: str | None
    repeat: Repeat | None = None
    is_repeat: bool = False
    attempt: int = 0
    failing_since: float | None = None


class Sender:
    """Call ``configure`` before anything is told; ``pending`` counts what is not yet through.

    ``on_give_up`` hears the account whose messaging events failed for too long.
    """

    def __init__(
        self,
        *,
        secrets: Secrets,
        ledger: Ledger,
        clock: Callable[[], int],
        chance: Chance,
        challenge: Callable[[], str],
        on_give_up: Callable[[str], None],
    ) -> None:
        self.plan = Plan()
        self.pending = 0
        self.endpoint: Endpoint | None = None
        self.verified = False
        self.paused = False
        self._secrets = secrets
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._challenge = challenge
        self._on_give_up = on_give_up
        self._composed: deque[Delivery] = deque()
        self._events: dict[Callback, deque[tuple[Event, Repeat | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._working = 0
        self._http: aiohttp.ClientSession | None = None

    def expect(self, endpoint: Endpoint) -> None:
        """Configures an endpoint that may not be up yet: tries the handshake until it is."""
        self.endpoint, self.verified = endpoint, False
        self._spawn(self._verify_until_done(endpoint))

    async def configure(self, endpoint: Endpoint) -> None:
        """Verifies the endpoint and starts to deliver; raises NotVerified and changes nothing."""
        await verify(self._session(), endpoint, self._challenge)
        self.endpoint, self.verified = endpoint, True
        self._pump()

    async def _verify_until_done(self, endpoint: Endpoint) -> None:
        while self.endpoint is endpoint and not self.verified:
            try:
                await self.configure(endpoint)
            except NotVerified as refused:
                log.debug("%s", refused)
                await asyncio.sleep(HANDSHAKE_EVERY)

    def publish(self, event: Event, repeat: Repeat | None = None, *, held: bool = False) -> None:
        """Queues the event, after the plan's delay; ``held`` waits for the next ``flush``."""
        self.pending += 1
        delay = self._chance.delay(self.plan)
        if held or not delay:
            self._ready(event, repeat, held=held)
        else:
            self._later(delay, lambda: self._ready(event, repeat, held=False))

    def flush(self, batch_max: int | None = None) -> None:
        """Sends what was held: where ``batch_max`` is given, in as few POSTs as that allows."""
        if batch_max:
            for callback, waiting in self._events.items():
                while waiting:
                    self._composed.append(self._compose(callback, waiting, batch_max))
        self._pump()

    def post_raw(self, body: bytes, *, object_: str, login: Host, secret: str | None) -> None:
        """Queues a body as it is, signed with ``secret`` or else as Meta would."""
        self.pending += 1
        callback = self._callback(object_, login)
        raw = Delivery(callback=callback, body=body, events=[], weight=1, secret=secret)
        self._composed.append(raw)
        self._pump()

    @property
    def is_full(self) -> bool:
        return self.pending >= PENDING_MAX

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._pump()

    async def close(self) -> None:
        """Forgets what is queued and ends what is under way; for good."""
        self.verified = False
        for timer in self._timers:
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http:
            await self._http.close()

    def _ready(self, event: Event, repeat: Repeat | None, *, held: bool) -> None:
        callback = self._callback(event.object, event.login)
        self._events.setdefault(callback, deque()).append((event, repeat))
        if held:
            return
        if self.plan.gather:
            self._later(self.plan.gather, self._pump)
        else:
            self._pump()

    def _callback(self, object_: str, login: Host) -> Callback:
        if self.endpoint is None:
            raise RuntimeError("no webhook is configured")
        if login is Host.INSTAGRAM:
            return Callback(object_, self.endpoint.instagram_path, self._secrets.instagram)
        return Callback(object_, self.endpoint.path, self._secrets.app)

    def _pump(self) -> None:
        while (
            self.verified
            and not self.paused
            and self._working < self.plan.connections
            and (self._composed or any(self._events.values()))
        ):
            self._working += 1
            self._spawn(self._work(self._next()))

    def _next(self) -> Delivery:
        if self._composed:
            return self._composed.popleft()
        callback = next(callback for callback, waiting in self._events.items() if waiting)
        waiting = self._events.pop(callback)
        delivery = self._compose(callback, waiting, self.plan.batch_max)
        self._events[callback] = waiting  # to the end: callbacks take turns
        return delivery

    def _compose(
        self, callback: Callback, waiting: deque[tuple[Event, Repeat | None]], batch_max: int
    ) -> Delivery:
        taken = [waiting.popleft() for _ in range(min(len(waiting), batch_max))]
        events = [event for event, _ in taken]
        wished = next((repeat for _, repeat in taken if repeat), None)
        return Delivery(
            callback=callback,
            body=wire.encode(bodies.body(events, self._clock())),
            events=events,
            weight=len(events),
            secret=None,
            repeat=wished or self._chance.repeat(self.plan),
        )

    async def _work(self, delivery: Delivery) -> None:
        try:
            if delivery.repeat is Repeat.CONCURRENT:
                self._again(delivery)
            outcome = await self._post(delivery)
            self._settle(delivery, outcome)
        finally:
            self._working -= 1
            self._pump()

    async def _post(self, delivery: Delivery) -> str:
        assert self.endpoint is not None
        delivery.attempt += 1
        headers = wire.signed(delivery.body, delivery.secret or delivery.callback.secret)
        url = self.endpoint.url + delivery.callback.path
        started, status = self._clock(), None
        try:
            async with self._session().post(
                url,
                data=delivery.body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self.plan.timeout),
            ) as answer:
                await answer.read()
                status = answer.status
                outcome = "ok" if status == 200 else "fail"
        except aiohttp.ClientConnectorError:
            outcome = "fail"
        except (aiohttp.ClientError, TimeoutError):
            outcome = "unknown"
        self._record(delivery, started, outcome, status)
        return outcome

    def _record(self, delivery: Delivery, started: int, outcome: str, status: int | None) -> None:
        self._ledger.delivered(
            DeliveryRecord(
                serial=0,
                path=delivery.callback.path,
                refs=[event.ref for event in delivery.events],
                attempt=delivery.attempt,
                repeat=delivery.is_repeat,
                size=len(delivery.body),
                started_at=started,
                ended_at=self._clock(),
                outcome=outcome,
                status=status,
            )
        )

    def _settle(self, delivery: Delivery, outcome: str) -> None:
        now = self._clock() / 1000
        if outcome == "ok":
            if delivery.repeat is Repeat.SEQUENTIAL:
                self._again(delivery)
            elif delivery.repeat is Repeat.LATER:
                self._later_again(delivery)
            self._done(delivery)
            return
        if delivery.failing_since is None:
            delivery.failing_since = now
        if now - delivery.failing_since >= self._patience(delivery):
            self._give_up(delivery)
        else:
            pause = self.plan.retry_after(delivery.attempt)
            self._later(pause, lambda: self._enqueue(delivery))

    def _patience(self, delivery: Delivery) -> float:
        messaging = (Shape.MESSAGING, Shape.STANDBY)
        if any(event.shape in messaging for event in delivery.events):
            return self.plan.give_up_messaging
        return self.plan.give_up_changes

    def _give_up(self, delivery: Delivery) -> None:
        for event in delivery.events:
            if event.shape in (Shape.MESSAGING, Shape.STANDBY):
                self._on_give_up(event.account_id)
        self._done(delivery)

    def _done(self, delivery: Delivery) -> None:
        self.pending -= delivery.weight
        self._ledger.on_change()

    def _enqueue(self, delivery: Delivery) -> None:
        self._composed.append(delivery)
        self._pump()

    def _copy(self, delivery: Delivery) -> Delivery:
        body = delivery.body
        if delivery.events and self._chance.new_time(self.plan):
            body = wire.encode(bodies.body(delivery.events, self._clock()))
        return Delivery(
            callback=delivery.callback,
            body=body,
            events=delivery.events,
            weight=1,
            secret=delivery.secret,
            is_repeat=True,
        )

    def _again(self, delivery: Delivery) -> None:
        self.pending += 1
        self._composed.appendleft(self._copy(delivery))
        delivery.repeat = None
        self._pump()

    def _later_again(self, delivery: Delivery) -> None:
        self.pending += 1
        delivery.repeat = None
        self._later(self.plan.later_by, lambda: self._enqueue(self._copy(delivery)))

    def _later(self, delay: float, then: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            then()

        timer = asyncio.get_running_loop().call_later(delay, fire)
        self._timers.add(timer)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=5),
                auto_decompress=False,
            )
        return self._http
