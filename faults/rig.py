"""The whole system with everything between its parts in a test's hand: `async with Rig(folder)`.

The services run as real processes, kept alive by the launcher's supervisor, on embedded servers,
with the simulator as Meta. Whoever is to be cut off from whom is named when the rig is made; a
proxy stands there then. Nothing outlives the process that made the rig.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from faults import stored, witness
from faults.history import History, Rows, Traces, Usage
from faults.postgres import Commits
from faults.procfs import usage
from faults.proxy import ANY_PORT, Proxy, hold
from faults.servers import Postgres, Server, Stop
from faults.silences import Silences
from faults.wires import LISTENS, WIRES, through
from pagewire_cli.embedded import EmbeddedPostgres, EmbeddedValkey, discard
from pagewire_cli.launcher import MODULES, System, running
from pagewire_cli.supervisor import Process
from pagewire_simulator.client import SimulatorClient

SERVICES = ("store", "rules", "sync", "webhook")
EDGE = "webhook"
"""The service that answers Meta."""

TESTING = {"PAGEWIRE_TESTING": "true"}

QUICK: Mapping[str, str] = {
    "STORE_LANE_LEASE_SECONDS": "2",
    "DISPATCHER_HEARTBEAT_SECONDS": "0.5",
    "GRAPH_TIMEOUT_SECONDS": "2",
    "STORE_RUN_LEASE_SECONDS": "5",
    "STORE_SEND_LEASE_SECONDS": "5",  # a call, the wait for the budget, and what a claim takes
    "STORE_SWEEP_SECONDS": "0.25",
    "STORE_FIRST_LOOK_SECONDS": "1",
    "STORE_SECOND_LOOK_SECONDS": "3",
    "STORE_BETWEEN_LOOKS_SECONDS": "1.5",
    "STORE_AFTER_FAILED_LOOK_SECONDS": "0.5",
    "STORE_LOOK_LEASE_SECONDS": "3",
    "STORE_RETRY_MOST_SECONDS": "2",
    "STORE_REPLAY_LEASE_SECONDS": "3",
    "STORE_PAGE_CHECK_LEASE_SECONDS": "5",
    "STORE_AUTOMATIC_REPLIES_PER_MINUTE": "1000",
}
"""Leases and waits as short as a busy machine of two cores bears, in the same order of lengths.

`{}` in its place gives those that users have.
"""

PATIENCE = 60.0
"""Seconds for what happens by itself, on a machine that has much else to do: ends a hang only."""

HURRIED_STOP = 0.5
"""Seconds for a process at the rig's end: a test of draining ends it before, by `terminate`."""


class NotQuiet(AssertionError):
    """What was under way did not end in time; the message says what is left."""


@dataclass
class Death:
    """One life of a process that ended, and the next: filled when `Rig.death` has seen both."""

    exit_code: int = 0
    """As `subprocess` gives it: -9 where it was killed."""
    seconds: float = 0.0
    """From the end of the one to the readiness of the next."""


class Rig:
    """A running system; all of it is there within the block.

    `proxies` names pairs of `wires.WIRES`. `env` is every process's, `env_of` a service's own, as
    FAULT from the first start on (later `fault` is for that) or PAGEWIRE_CLOCK_SKEW_SECONDS.
    `commands` replaces a service's command line. `postgres` are settings of the server.

    Processes are named as by the launcher: `store`, `rules`, `sync`, `webhook`, `simulator`, and
    the second of a service `store-2`.
    """

    system: System
    meta: SimulatorClient
    operator: httpx.AsyncClient
    """The operator's HTTP API, with its key."""
    edge: httpx.AsyncClient
    """The public listener, past any proxy."""
    postgres: Postgres
    valkey: Server
    silences: Silences
    """When an edge could not answer, as it was seen."""

    def __init__(
        self,
        folder: Path,
        *,
        proxies: Iterable[tuple[str, str]] = (),
        replicas: Mapping[str, int] | None = None,
        env: Mapping[str, str] = QUICK,
        env_of: Mapping[str, Mapping[str, str]] | None = None,
        commands: Mapping[str, Sequence[str]] | None = None,
        postgres: Mapping[str, str] | None = None,
        seed: int = 1,
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.commits = Commits()
        """Of the store's connections, where `("store", "postgres")` is proxied."""
        self._wanted = list(proxies)
        self._replicas = dict(replicas or {})
        self._env = TESTING | {"SIMULATOR_SEED": str(seed)} | dict(env)
        self._env_of = {service: dict(own) for service, own in (env_of or {}).items()}
        self._commands = dict(MODULES) | dict(commands or {})
        self._settings = dict(postgres or {})
        self._proxies: dict[tuple[str, str], Proxy] = {}
        self._ended: dict[str, tuple[float, int]] = {}
        self._given: dict[str, dict[str, str]] = {}
        self._metrics: dict[str, str] = {}
        self._paused: set[str] = set()
        self._copies = 0
        self._on_exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._on_exit.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.calm()
            processes = self.system.supervisor.processes.values()
            await asyncio.gather(*(process.stop(HURRIED_STOP) for process in processes))
        finally:
            await self._on_exit.aclose()

    # What befalls its parts.

    def proxy(self, caller: str, callee: str) -> Proxy:
        """The proxy between these two; KeyError where the rig was made without.

        Of several processes `callee` names one, as in `proxy("webhook", "store-2")`.
        """
        return self._proxies[caller, callee]

    def process(self, name: str) -> Process:
        return self.system.process(name)

    async def kill(self, name: str) -> None:
        """Kills the process as a crash would; the supervisor starts the next one. See `back`."""
        self._note_end(name)
        await self.process(name).kill()

    def terminate(self, name: str) -> None:
        """Has the process drain and end; the supervisor starts the next one. See `back`."""
        self._note_end(name)
        self.process(name).send(signal.SIGTERM)

    async def back(self, name: str, within: float = PATIENCE) -> float:
        """Waits until a life after the one that was ended is ready: the seconds since then.

        Raises TimeoutError; NotReady where it ends again before it is ready.
        """
        since, pid = self._ended[name]
        await self._next_life(name, pid, within)
        return time.monotonic() - since

    @asynccontextmanager
    async def death(self, name: str, within: float = PATIENCE) -> AsyncIterator[Death]:
        """Waits at the block's end for the process to die by itself, and for the next to be ready.

        Raises TimeoutError: it did not die, or is not back. What is yielded is filled then.
        """
        process, death = self.process(name), Death()
        lives, pid = len(process.exit_codes), process.pid
        yield death
        async with asyncio.timeout(within):
            while len(process.exit_codes) == lives:
                await asyncio.sleep(0.01)
        ended = time.monotonic()
        death.exit_code = process.exit_codes[lives]
        await self._next_life(name, pid, within)
        death.seconds = time.monotonic() - ended

    def fault(self, service: str, rules: str = "") -> None:
        """Arms the fault points of a service's processes, now and in their next lives.

        The rules are those of `pagewire_runtime.faults`; none disarms them. One that strikes `once`
        does so once in all lives, until the same rules are given again.
        """
        file = self._fault_file(service)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(rules)
        unfinished.replace(file)

    def pause(self, name: str) -> None:
        """Freezes the process: its connections stay open, and nothing answers."""
        self.process(name).send(signal.SIGSTOP)
        if _service(name) == EDGE and name not in self._paused:
            self.silences.begin()
        self._paused.add(name)

    def resume(self, name: str) -> None:
        self.process(name).send(signal.SIGCONT)
        if _service(name) == EDGE and name in self._paused:
            self.silences.end()
        self._paused.discard(name)

    def unable(self, service: str) -> AbstractContextManager[None]:
        """Within the block the service lives, and may have nothing to answer its callers with."""
        return self.silences.unable() if service == EDGE else nullcontext()

    async def replicate(self) -> Postgres:
        """A synchronous replica of PostgreSQL: see `fail_over`."""
        self._copies += 1
        base = self.folder.resolve() / f"postgres-{self._copies + 1}"
        self._on_exit.callback(discard, base)
        replica = await self.postgres.replicate(base, **self._settings)
        self._on_exit.push_async_callback(replica.close)
        return replica

    async def fail_over(self, replica: Postgres, how: Stop) -> None:
        """PostgreSQL is lost for good, and the replica is promoted and found in its place.

        Where `("store", "postgres")` is proxied, which leads there from now on.
        """
        await self.postgres.stop(how)
        await replica.ask("select pg_promote()")
        self.proxy("store", "postgres").target = _place_of(replica)
        self.postgres = replica

    def give(self, name: str, **env: str | None) -> None:
        """Settings that the process has from its next life on; None takes one away again."""
        own = self._own_env(name)
        own.update({key: value for key, value in env.items() if value is not None})
        for key in [key for key, value in env.items() if value is None]:
            own.pop(key, None)
        process = self.process(name)
        process.spec = dataclasses.replace(process.spec, argv=self._argv(_service(name), own))

    async def calm(self) -> None:
        """Ends all faults that the rig knows of; a server that was stopped stays so."""
        self.commits.clear()
        for service in SERVICES:
            self.fault(service)
        for proxy in self._proxies.values():
            await proxy.clear()
        for server in (self.postgres, self.valkey):
            server.resume()
        for name in self.system.supervisor.processes:
            self.resume(name)

    # What is there afterwards.

    async def quiet(self, within: float = PATIENCE) -> float:
        """Waits until all is delivered, decided and settled: the seconds that took.

        Parked, failed and expired replies are settled. Raises NotQuiet with what is left.
        """
        begun = time.monotonic()
        while True:
            left = await self._left()
            if not any(left.values()):
                return time.monotonic() - begun
            if time.monotonic() - begun > within:
                raise NotQuiet(f"after {within} s there are still {left}")
            await asyncio.sleep(0.2)

    async def history(self) -> History:
        """What Meta saw so far."""
        return await witness.history(self.meta)

    async def rows(self) -> Rows:
        """What the store has now, read past its proxy."""
        return await stored.rows(self.postgres.url)

    def usage(self) -> dict[str, Usage]:
        """What each process holds."""
        processes = self.system.supervisor.processes
        return {name: usage(process.pid) for name, process in processes.items()}

    async def traces(self) -> Traces:
        """What was written down so far, in logs and metrics."""
        logs = sorted((self.system.folder / "logs").iterdir())
        return Traces(tuple(logs), {name: await self.metrics(name) for name in self._metrics})

    async def metrics(self, name: str) -> str:
        """The Prometheus text of a process."""
        answer = await self.edge.get(self._metrics[name], headers={"Connection": "close"})
        return answer.raise_for_status().text

    def processes(self, service: str) -> list[str]:
        """The names of the service's processes."""
        return [service, *(f"{service}-{n}" for n in range(2, self._replicas.get(service, 1) + 1))]

    # How it is put together.

    async def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # As root the servers' own user passes through to its own folders.
        self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        await self._start_servers()
        listens = {callee: self._hold() for callee in LISTENS}
        for wire in self._wanted:
            await self._put_between(wire, listens)
        self._lay_fault_files()
        self._expose_metrics()
        system = running(
            self.folder,
            env=self._env | {LISTENS[callee]: address for callee, address in listens.items()},
            replicas=self._replicas,
            services={
                name: self._argv(service, self._own_env(name))
                for service in MODULES
                for name in self.processes(service)
            },
        )
        self.system = await self._on_exit.enter_async_context(system)
        self._watch_edges()
        await stored.put_witness(self.postgres.url)
        for (_, callee), proxy in self._proxies.items():
            proxy.target = proxy.target or self.system.addresses[callee]
        await self._open_clients()

    def _watch_edges(self) -> None:
        edges = [self.process(name) for name in self.processes(EDGE)]
        wires = [proxy for (caller, _), proxy in self._proxies.items() if caller == "sender"]
        self.silences = Silences(edges, wires)
        watching = asyncio.create_task(self.silences.watch())
        self._on_exit.callback(watching.cancel)

    async def _start_servers(self) -> None:
        folder = self.folder.resolve()
        self.postgres = Postgres(EmbeddedPostgres(folder / "postgres", **self._settings))
        self.valkey = Server(EmbeddedValkey(folder / "valkey"))
        for server in (self.postgres, self.valkey):
            self._on_exit.callback(discard, server.embedded.base)
            self._on_exit.push_async_callback(server.close)
            await server.start()
            self._env |= server.embedded.settings

    def _hold(self) -> str:
        """A free port that stays ours, so that a proxy knows its target before that is up."""
        held = hold(ANY_PORT)
        self._on_exit.callback(held.close)
        return "{}:{}".format(*held.getsockname()[:2])

    async def _put_between(self, wire: tuple[str, str], listens: Mapping[str, str]) -> None:
        caller, callee = wire
        targets = {
            "postgres": _place_of(self.postgres),
            "valkey": f"unix:{self.valkey.embedded.sockets}/valkey.sock",
            **listens,
        }
        watch = self.commits.watch if callee == "postgres" else None
        addresses = []
        for number in range(1, self._replicas.get(callee, 1) + 1):
            # Where a further process listens is known when it runs.
            proxy = Proxy(targets[callee] if number == 1 else "", watch=watch, seed=self.seed)
            await self._on_exit.enter_async_context(proxy)
            self._proxies[caller, callee if number == 1 else f"{callee}-{number}"] = proxy
            addresses.append(proxy.address)
        own = self._env_of.setdefault(WIRES[wire], {})
        own.update(through(wire, addresses, self._env))

    def _lay_fault_files(self) -> None:
        self._fault_file("").mkdir(exist_ok=True)
        for service in SERVICES:
            own = self._env_of.setdefault(service, {})
            own.setdefault("FAULT_FILE", str(self._fault_file(service)))

    def _fault_file(self, service: str) -> Path:
        return self.folder.resolve() / "faults" / service

    def _expose_metrics(self) -> None:
        for service in ("store", "rules", "sync"):
            for name in self.processes(service):
                address = self._hold()
                self._own_env(name)["METRICS_LISTEN"] = address
                self._metrics[name] = f"http://{address}/metrics"

    async def _open_clients(self) -> None:
        at, enter = self.system.addresses, self._on_exit.enter_async_context
        for name in self.processes("webhook"):
            operator = name.replace("webhook", "operator")
            self._metrics[name] = f"{at[operator]}/metrics"
        key = self.system.env["API_KEYS"].split(",")[0]
        headers = {"Authorization": f"Bearer {key}"}
        self.meta = await enter(SimulatorClient(at["simulator"]))
        self.operator = await enter(httpx.AsyncClient(base_url=at["operator"], headers=headers))
        self.edge = await enter(httpx.AsyncClient(base_url=at["public"]))

    def _argv(self, service: str, own: Mapping[str, str]) -> list[str]:
        """The service's command line with settings of its own."""
        return [
            "env",
            *(f"{name}={value}" for name, value in own.items()),
            *self._commands[service],
        ]

    def _own_env(self, name: str) -> dict[str, str]:
        usual = self._env_of.get(_service(name), {})
        return self._given.setdefault(name, dict(usual))

    def _note_end(self, name: str) -> None:
        self._ended[name] = time.monotonic(), self.process(name).pid
        if _service(name) == EDGE:
            self.silences.ending(self.process(name).pid)

    async def _next_life(self, name: str, pid: int, within: float) -> None:
        """Returns when a process other than `pid` is ready."""
        process = self.process(name)
        async with asyncio.timeout(within):
            while process.pid == pid:
                await asyncio.sleep(0.01)
            await process.ready(within)

    async def _left(self) -> dict[str, int]:
        before = await self.meta.wait(settled=True, timeout=0)
        pending, unsettled = await stored.unfinished(self.postgres.url)
        after = await self.meta.wait(settled=True, timeout=0)
        return {
            "events to deliver": before.undelivered + after.undelivered,
            "events to decide": pending,
            "replies to settle": unsettled,
        }


def _place_of(postgres: Postgres) -> str:
    return f"unix:{postgres.embedded.sockets}/.s.PGSQL.5432"


def _service(name: str) -> str:
    """The service that a process is of."""
    return name.partition("-")[0]
