"""The control interface: JSON over HTTP under ``/_control/``, from loopback only.

Bodies are the structs of ``requests`` and ``acts`` named at each handler. Answers are JSON objects.
Errors are ``{"error": text}``: 400 for a body that can't be read or an unknown fault, 403 from
elsewhere than loopback, 404 for an unknown account, person, post or comment, 409 for a webhook that
doesn't answer the handshake, 503 while too much is undelivered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pagewire_simulator import bodies, wire
from pagewire_simulator.acts import Act, AnyAct
from pagewire_simulator.arrivals import Arrival
from pagewire_simulator.entities import Account, Host
from pagewire_simulator.faults import UnknownFault
from pagewire_simulator.handshake import Endpoint, NotVerified
from pagewire_simulator.history import History, Past
from pagewire_simulator.latency import Latency
from pagewire_simulator.limits import Rates, SendLimits
from pagewire_simulator.meta import BatchHabits, Meta
from pagewire_simulator.plan import Plan
from pagewire_simulator.requests import (
    AccountChange,
    Acts,
    Arriving,
    DashboardTest,
    FaultScripts,
    Limit,
    NewAccount,
    NewPerson,
    NewPost,
    NewUser,
    OptionChange,
    Reset,
    ThreadChange,
    Webhook,
)
from pagewire_simulator.truth import truth
from pagewire_simulator.weather import Sky, Weather
from pagewire_simulator.world import Unknown

if TYPE_CHECKING:
    from pagewire_simulator.simulator import Simulator

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Any]]

WAIT_MAX = 120.0
BATCH_MAX = bodies.ENTRIES_MAX


class Overloaded(Exception):
    """Too much is undelivered to take more."""


def control(simulator: Simulator) -> Starlette:
    """The application; ``simulator.meta`` is asked for at each request."""
    handlers = Control(simulator)
    act = {cls.__struct_config__.tag: cls for cls in AnyAct.__args__}
    routes = [
        route("POST", "/reset", handlers.reset),
        route("POST", "/accounts", handlers.create_account),
        route("GET", "/accounts", handlers.list_accounts),
        route("PATCH", "/accounts/{account}", handlers.change_account),
        route("POST", "/users", handlers.create_user),
        route("POST", "/people", handlers.create_person),
        route("PATCH", "/people/{account}/{person}", handlers.change_person),
        route("POST", "/posts", handlers.create_post),
        route("POST", "/history", handlers.create_history),
        route("PATCH", "/threads/{thread}", handlers.change_thread),
        route("DELETE", "/threads/{thread}", handlers.delete_thread),
        route("POST", "/acts", handlers.acts),
        *(route("POST", f"/{name}", handlers.one(cls)) for name, cls in act.items()),
        route("POST", "/arrivals", handlers.arrive),
        route("POST", "/deliver", handlers.deliver),
        route("POST", "/dashboard_test", handlers.dashboard_test),
        route("POST", "/faults", handlers.faults),
        route("POST", "/weather", handlers.weather),
        route("POST", "/limits", handlers.limits),
        route("POST", "/options", handlers.options),
        route("POST", "/webhook", handlers.webhook),
        route("POST", "/webhook/pause", handlers.pause),
        route("POST", "/webhook/resume", handlers.resume),
        route("GET", "/ledger", handlers.ledger),
        route("GET", "/wait", handlers.wait),
        route("GET", "/conversations/{account}/{person}", handlers.conversation),
        route("GET", "/comments/{comment}", handlers.comment),
        route("GET", "/labels/{account}", handlers.labels),
        route("GET", "/truth", handlers.truth),
        route("GET", "/healthz", handlers.health),
    ]
    return Starlette(routes=routes)


def route(method: str, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        if not from_loopback(request):
            return answer({"error": "control is for loopback only"}, 403)
        try:
            return answer(await handler(request))
        except (msgspec.ValidationError, msgspec.DecodeError, UnknownFault, ValueError) as error:
            return answer({"error": str(error)}, 400)
        except Unknown as error:
            return answer({"error": f"unknown {error}"}, 404)
        except NotVerified as error:
            return answer({"error": str(error)}, 409)
        except Overloaded:
            return answer({"error": "too much is undelivered"}, 503)

    return Route(f"/_control{path}", endpoint, methods=[method])


def answer(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def from_loopback(request: Request) -> bool:
    """A unix socket has no client address; only this machine reaches it."""
    return request.client is None or ip_address(request.client.host).is_loopback


class Control:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    @property
    def _meta(self) -> Meta:
        return self._simulator.meta

    async def _read(self, request: Request, kind: type[T]) -> T:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)

    async def reset(self, request: Request) -> Any:
        """``Reset``: a new, empty world under the seed; the webhook stays configured."""
        await self._simulator.reset((await self._read(request, Reset)).seed)
        return {"seed": self._meta.seed}

    # What there is

    async def create_account(self, request: Request) -> Any:
        """``NewAccount`` → the account with its token."""
        wanted = await self._read(request, NewAccount)
        fields = wanted.subscribed_fields
        account = self._meta.world.create_account(
            platform=wanted.platform,
            login=wanted.login,
            id=wanted.id,
            name=wanted.name,
            page_id=wanted.page_id,
            subscribed_fields=None if fields is None else frozenset(fields),
        )
        if wanted.token:
            self._meta.world.give_token(account, wanted.token)
        return self._shown(account)

    async def list_accounts(self, request: Request) -> Any:
        """→ ``{accounts}``."""
        return {"accounts": [self._shown(one) for one in self._meta.world.accounts.values()]}

    async def change_account(self, request: Request) -> Any:
        """``AccountChange`` → the account."""
        meta, change = self._meta, await self._read(request, AccountChange)
        account = meta.world.account(request.path_params["account"])
        if change.token:
            meta.world.give_token(account, change.token)
        token = meta.world.token_of(account)
        if token and change.token_state is not None:
            token.state = change.token_state
        if token and change.expires_at is not None:
            token.expires_at = change.expires_at
        if token and change.issued_at is not None:
            token.issued_at = change.issued_at
        if change.subscribed_fields is not None:
            meta.world.subscribe(account.node, frozenset(change.subscribed_fields))
        if change.echo is not None:
            meta.options.echoes[account.id] = change.echo
        if change.reading is not None:
            reading = meta.options.reading_of(account).changed(change.reading)
            meta.options.readings[account.id] = reading
        return self._shown(account)

    def _shown(self, account: Account) -> dict[str, Any]:
        world = self._meta.world
        token, fields = world.token_of(account), world.subscription(account.node)
        return {
            "id": account.id,
            "platform": account.platform,
            "login": account.login,
            "name": account.name,
            "node": account.node,
            "token": token.value if token else None,
            "token_state": token.state if token else None,
            "subscribed_fields": None if fields is None else sorted(fields),
        }

    async def create_user(self, request: Request) -> Any:
        """``NewUser`` → its token."""
        wanted, world = await self._read(request, NewUser), self._meta.world
        pages = tuple(world.account(page).id for page in wanted.pages)
        expires_at = self._meta.clock() + int(wanted.expires_in * 1000)
        return world.create_user(pages, expires_at)

    async def create_person(self, request: Request) -> Any:
        """``NewPerson`` → the person."""
        wanted = await self._read(request, NewPerson)
        account = self._meta.world.account(wanted.account)
        return self._meta.world.create_person(
            account, id=wanted.id, name=wanted.name, blocked=wanted.blocked
        )

    async def change_person(self, request: Request) -> Any:
        """``{blocked}`` → the person."""
        account = self._meta.world.account(request.path_params["account"])
        person = self._meta.world.person(account, request.path_params["person"])
        person.blocked = (await self._read(request, dict[str, bool])).get("blocked", person.blocked)
        return person

    async def create_post(self, request: Request) -> Any:
        """``NewPost`` → the post."""
        wanted = await self._read(request, NewPost)
        account = self._meta.world.account(wanted.account)
        return self._meta.world.create_post(account, self._meta.clock(), wanted.text, ad=wanted.ad)

    async def create_history(self, request: Request) -> Any:
        """``History`` → how much was made of it (``Made``). The app hears of none of it."""
        wanted, meta = await self._read(request, History), self._meta
        return Past(meta.world, meta.world.account(wanted.account), wanted, meta.clock()).make()

    async def change_thread(self, request: Request) -> Any:
        """``ThreadChange`` → the conversation."""
        thread = self._meta.world.thread(request.path_params["thread"])
        change = await self._read(request, ThreadChange)
        thread.poison = thread.poison if change.poison is None else change.poison
        thread.folder = change.folder or thread.folder
        self._meta.world.revisions[thread.account_id] += 1
        return thread

    async def delete_thread(self, request: Request) -> Any:
        """The business deletes the conversation in its inbox."""
        self._meta.world.delete_thread(self._meta.world.thread(request.path_params["thread"]))
        return {}

    async def conversation(self, request: Request) -> Any:
        """→ ``{thread_id, messages}``, oldest first."""
        world = self._meta.world
        account = world.account(request.path_params["account"])
        return world.conversation(account, world.person(account, request.path_params["person"]))

    async def comment(self, request: Request) -> Any:
        """→ ``{comment, replies}``, also of a deleted one."""
        world = self._meta.world
        comment = world.comments.get(request.path_params["comment"])
        if comment is None:
            raise Unknown("comment")
        return {"comment": comment, "replies": world.replies(comment)}

    async def labels(self, request: Request) -> Any:
        """→ ``{labels}`` with the people who carry them."""
        account = self._meta.world.account(request.path_params["account"])
        labels = self._meta.world.labels.values()
        return {"labels": [one for one in labels if one.account_id == account.id]}

    # What happens

    def one(self, kind: type[Act]) -> Handler:
        """A handler for one kind of act (see ``acts``) → ``Done``."""

        async def handle(request: Request) -> Any:
            self._check_room()
            return (await self._read(request, kind)).do(self._meta)

        return handle

    async def acts(self, request: Request) -> Any:
        """``Acts`` → ``{done}``, in the order of the acts."""
        wanted = await self._read(request, Acts)
        self._check_room()
        held = wanted.batch is not None
        done = [act.do(self._meta, held=held) for act in wanted.acts]
        if wanted.batch is not None:
            self._meta.sender.flush(max(1, min(wanted.batch, BATCH_MAX)))
        return {"done": done}

    async def arrive(self, request: Request) -> Any:
        """``Arriving``: acts that are done once so many calls have been answered."""
        meta, wanted = self._meta, await self._read(request, Arriving)
        account = meta.world.account(wanted.account)

        def act() -> None:
            for one in wanted.acts:
                one.do(meta)

        meta.arrivals.add(Arrival(account.id, wanted.endpoint, wanted.after, act))
        return {}

    async def deliver(self, request: Request) -> Any:
        """The request's body, byte for byte, signed: ``?object=page|instagram``, ``login=``.

        ``secret=`` signs with another secret.
        """
        query = request.query_params
        self._deliver(
            await request.body(),
            object_=query.get("object", "page"),
            login=Host(query.get("login", "facebook")),
            secret=query.get("secret"),
        )
        return {}

    async def dashboard_test(self, request: Request) -> Any:
        """``DashboardTest``."""
        kind = (await self._read(request, DashboardTest)).kind
        try:
            body = bodies.dashboard_test(kind, self._meta.clock())
        except KeyError:
            raise ValueError(f"no dashboard test is called {kind!r}") from None
        encoded = wire.encode(body)
        self._deliver(encoded, object_=body["object"], login=Host.FACEBOOK, secret=None)
        return {}

    def _deliver(self, body: bytes, *, object_: str, login: Host, secret: str | None) -> None:
        if self._meta.sender.endpoint is None:
            raise NotVerified("no webhook is configured")
        self._check_room()
        self._meta.sender.post_raw(body, object_=object_, login=login, secret=secret)

    def _check_room(self) -> None:
        if self._meta.sender.is_full:
            raise Overloaded

    # How it goes wrong, and how long it takes

    async def faults(self, request: Request) -> Any:
        """``FaultScripts``."""
        wanted = await self._read(request, FaultScripts)
        if wanted.clear:
            self._meta.faults.clear()
        for script in wanted.scripts:
            self._meta.faults.add(script, self._meta.clock())
        return {}

    async def weather(self, request: Request) -> Any:
        """``Weather``, or ``null`` for none."""
        meta, wanted = self._meta, msgspec.json.decode(await request.body(), type=Weather | None)
        meta.sky = Sky(wanted, meta.seed, meta.clock()) if wanted else None
        return {}

    async def limits(self, request: Request) -> Any:
        """``Limit``."""
        wanted = await self._read(request, Limit)
        self._meta.usage.allow(wanted.account, wanted.allowance)
        return {}

    async def options(self, request: Request) -> Any:
        """``OptionChange``."""
        meta, wanted = self._meta, await self._read(request, OptionChange)
        if wanted.require_proof is not None:
            meta.options.require_proof = wanted.require_proof
        if wanted.adopt is not None:
            meta.options.adopt = wanted.adopt
        if wanted.rendered is not None:
            meta.options.rendered = wanted.rendered
        if wanted.read_lag is not None:
            meta.options.read_lag = wanted.read_lag
        if wanted.echo is not None:
            meta.options.echo = wanted.echo
        if wanted.latency is not None or wanted.latency_factor is not None:
            profile = wanted.latency or meta.latency.profile
            meta.latency = Latency(profile, meta.seed, wanted.latency_factor or 1.0)
        if wanted.reading is not None:
            meta.options.reading = meta.options.reading.changed(wanted.reading)
        if wanted.batch is not None:
            meta.options.batch = merged(meta.options.batch, wanted.batch)
        if wanted.plan is not None:
            meta.sender.plan = merged(meta.sender.plan, wanted.plan)
        if wanted.rates is not None:
            meta.limits = SendLimits(merged(meta.limits.rates, wanted.rates))
        return {}

    async def webhook(self, request: Request) -> Any:
        """``Webhook``: runs the handshake; 409 and no change unless it is answered exactly."""
        wanted = await self._read(request, Webhook)
        endpoint = Endpoint(
            url=wanted.url.rstrip("/"),
            verify_token=wanted.verify_token or self._simulator.verify_token,
            path=wanted.path,
            instagram_path=wanted.instagram_path,
        )
        if wanted.verify:
            await self._meta.sender.configure(endpoint)
        else:
            self._meta.sender.expect(endpoint)
        return {"verified": self._meta.sender.verified}

    async def pause(self, request: Request) -> Any:
        """Holds deliveries back; events go on happening."""
        self._meta.sender.pause()
        return {}

    async def resume(self, request: Request) -> Any:
        self._meta.sender.resume()
        return {}

    # What was

    async def ledger(self, request: Request) -> Any:
        """``?kind=summary`` (default) or a list → ``{records}``.

        Lists: ``sends``, ``calls``, ``batches``, ``deliveries``, ``events``, ``untold``,
        ``duplicates``, ``overlaps``. The first two take ``account``, ``person``, ``metadata`` and
        ``comment``; each takes ``after``, how many of the oldest to leave out.
        """
        query, ledger = request.query_params, self._meta.ledger
        kind = query.get("kind", "summary")
        if kind == "summary":
            return self._summary()
        wanted = {k: query[k] for k in ("account", "person", "metadata", "comment") if k in query}
        lists: dict[str, Callable[[], list[Any]]] = {
            "sends": lambda: ledger.accepted(**wanted),
            "calls": lambda: ledger.received(**wanted),
            "batches": lambda: ledger.batches,
            "deliveries": lambda: ledger.deliveries,
            "events": lambda: list(ledger.events.values()),
            "untold": ledger.untold,
            "duplicates": ledger.duplicates,
            "overlaps": lambda: list(ledger.overlaps()),
        }
        if kind not in lists:
            raise ValueError(f"no list is called {kind!r}: summary, {', '.join(lists)}")
        return {"records": lists[kind]()[int(query.get("after", 0)) :]}

    def _summary(self) -> dict[str, Any]:
        meta, ledger = self._meta, self._meta.ledger
        return {
            "seed": meta.seed,
            "events": len(ledger.events),
            "untold": len(ledger.untold()),
            "deliveries": len(ledger.deliveries),
            "undelivered": meta.undelivered,
            "calls": len(ledger.calls) + ledger.rendered.total(),
            "batches": len(ledger.batches),
            "sends": len(ledger.sends),
            "duplicates": len(ledger.duplicates()),
            "overlaps": sum(1 for _ in ledger.overlaps()),
            "tokens_in_urls": ledger.tokens_in_urls(),
            "input_tokens": ledger.input_tokens(),
            "webhook_verified": meta.sender.verified,
        }

    async def truth(self, request: Request) -> Any:
        """``?account=`` → ``Truth``: all there is of the account, and its calls."""
        meta = self._meta
        account = meta.world.account(request.query_params.get("account", ""))
        totals = meta.ledger.totals(account.id)
        return truth(meta.world, account, meta.options.reading_of(account), totals)

    async def wait(self, request: Request) -> Any:
        """``?sends=N``: until so many sends were accepted; ``settled=1``: until all is delivered.

        Both together wait for both; → ``{sends, undelivered, reached}`` after ``timeout`` seconds
        at most (10, at most 120).
        """
        query, meta = request.query_params, self._meta
        sends = int(query.get("sends", 0))
        settled = query.get("settled", "0") in ("1", "true")

        def reached() -> bool:
            return len(meta.ledger.sends) >= sends and not (settled and meta.undelivered)

        timeout = min(float(query.get("timeout", 10)), WAIT_MAX)
        came = await meta.changed.until(reached, timeout)
        sent = len(meta.ledger.sends)
        return {"sends": sent, "undelivered": meta.undelivered, "reached": came}

    async def health(self, request: Request) -> Any:
        return {"status": "ok", "webhook_verified": self._meta.sender.verified}


Settings = TypeVar("Settings", Plan, Rates, BatchHabits)


def merged(current: Settings, changes: dict[str, Any]) -> Settings:
    """The struct with the named keys changed; raises ValidationError for a wrong one."""
    kind = type(current)
    unknown = changes.keys() - set(kind.__struct_fields__)
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return msgspec.convert(msgspec.to_builtins(current) | changes, kind)
