"""The whole system on one machine: `python -m pagewire_cli.launcher up`, or `running` in a program.

up      starts it and keeps it up until SIGTERM or Ctrl-C
clean   removes the data folder: databases, generated secrets, logs
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pagewire_cli import secretfile
from pagewire_cli.embedded import (
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedValkey,
    discard,
    lock_folder,
)
from pagewire_cli.leash import CannotStart
from pagewire_cli.supervisor import Probe, Process, Spec, Supervisor, grpc_serving, http_answers
from pagewire_cli.wiring import Place, addresses_of, for_the_cli, hold_places, reachable, wiring
from pagewire_runtime.tls import Tls

# Shares of the 15 s after which who waits for us kills us: the services, then each of two servers.
SERVICES_STOP_WITHIN = 9.0
SERVER_STOPS_WITHIN = 2.5  # a checkpoint's time; beyond it the next start replays the log

# In the order of need: each may come after those before it, and they stop in the reverse order.
MODULES: Mapping[str, Sequence[str]] = {
    name: (sys.executable, "-m", f"pagewire_{name}")
    for name in ("simulator", "store", "rules", "sync", "webhook")
}
AFTER = {"rules": {"store"}, "sync": {"store"}, "webhook": {"store"}}

URL_OF = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL"}  # the one given, none is embedded

# What a process has of this one's environment; its settings come from the launch alone.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV")
# Nobody has to notice that a process of this machine stops, so none waits for that.
NO_BALANCER = {"UNREADY_SECONDS": "0"}
# Whoever stays up is tried out by hand: the simulator takes any page, person and comment as given.
TRIED_BY_HAND = {"SIMULATOR_ADOPT": "true"}
# Who alone may log in to the database and read page tokens.
STORE_ONLY = ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_POOL_MAX", "TOKEN_ENCRYPTION_KEYS")


@dataclass(frozen=True)
class System:
    """A running system.

    `addresses` has the URLs of `public`, `operator` and `simulator` and the gRPC targets of
    `store`, `rules` and `sync`; the second process of a service is called `store-2` and so on, its
    listeners `operator-2`. `env` has every setting and secret that the launch decided.
    """

    folder: Path
    addresses: Mapping[str, str]
    env: Mapping[str, str]
    servers: Mapping[str, EmbeddedServer]  # `postgres` and `valkey`, where they are embedded
    supervisor: Supervisor

    def process(self, name: str) -> Process:
        return self.supervisor.processes[name]


@asynccontextmanager
async def running(
    folder: Path,
    *,
    free_ports: bool = True,
    simulator: bool = True,
    env: Mapping[str, str] | None = None,
    replicas: Mapping[str, int] | None = None,
    services: Mapping[str, Sequence[str]] = MODULES,
) -> AsyncIterator[System]:
    """The system, up within the block: the services that `services` names, with these commands.

    Settings come from `env` alone; where it has no DATABASE_URL or REDIS_URL there are embedded
    servers, where it has no GRAPH_BASE_URL there is the simulator (unless told otherwise), and
    where it has no secret a generated one. `replicas` asks for more than one process of a service;
    `services` may name such a one by itself (`store-2`), with a command of its own.

    Raises CannotStart: the folder or a port is taken, or something did not become ready. Call it
    in the main thread, to which the embedded servers are tied.
    """
    given = {name: value for name, value in (env or {}).items() if value}
    with_simulator = simulator and "GRAPH_BASE_URL" not in given
    counts = {
        service: (replicas or {}).get(service, 1)
        for service in MODULES
        if service in services and (service != "simulator" or with_simulator)
    }
    folder = _data_folder(folder)
    async with AsyncExitStack() as on_exit:
        on_exit.callback(os.close, lock_folder(folder))
        places = hold_places(counts, given, free_ports)
        for place in places:
            on_exit.callback(place.release)
        servers = _servers(folder, given)
        for server in servers.values():
            on_exit.push_async_callback(asyncio.to_thread, server.close, within=SERVER_STOPS_WITHIN)
            server.spawn()
            await asyncio.to_thread(server.wait_ready)
        settings = NO_BALANCER | given | secretfile.complete(given, folder) | wiring(places, given)
        for server in servers.values():
            settings |= server.settings
        supervisor = Supervisor(_specs(places, settings, services), folder / "logs")
        on_exit.push_async_callback(supervisor.stop, SERVICES_STOP_WITHIN)
        await supervisor.start()
        addresses = addresses_of(places, settings)
        written = secretfile.addresses_path(folder)
        on_exit.callback(written.unlink, missing_ok=True)
        secretfile.write(written, for_the_cli(settings, addresses))
        yield System(folder, addresses, settings, servers, supervisor)


def _data_folder(folder: Path) -> Path:
    """Private: nobody else lists it; as root the servers' own user may pass through to its own."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder.resolve()


def _servers(folder: Path, given: Mapping[str, str]) -> dict[str, EmbeddedServer]:
    embedded: dict[str, EmbeddedServer] = {
        "postgres": EmbeddedPostgres(folder / "postgres"),
        "valkey": EmbeddedValkey(folder / "valkey"),
    }
    return {name: server for name, server in embedded.items() if URL_OF[name] not in given}


def _specs(
    places: Sequence[Place], settings: Mapping[str, str], services: Mapping[str, Sequence[str]]
) -> list[Spec]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    specs: list[Spec] = []
    for place in places:
        env = inherited | dict(settings) | place.listens()
        if place.service != "store":
            env = {name: value for name, value in env.items() if name not in STORE_ONLY}
        needs = AFTER.get(place.service, set())
        specs.append(
            Spec(
                name=place.name,
                argv=services.get(place.name, services[place.service]),
                env=env,
                ready=_probe(place, settings),
                after=frozenset(other.name for other in places if other.service in needs),
            )
        )
    return specs


def _probe(place: Place, settings: Mapping[str, str]) -> Probe:
    at = {variable: reachable(listen) for variable, listen in place.listens().items()}
    if place.service == "webhook":
        return http_answers(f"http://{at['WEBHOOK_LISTEN']}/healthz")
    if place.service == "simulator":
        return http_answers(f"http://{at['SIMULATOR_LISTEN']}/", well=False)
    return grpc_serving(at[f"{place.service.upper()}_LISTEN"], place.service, _tls(settings))


def _tls(settings: Mapping[str, str]) -> Tls | None:
    files = [settings.get(f"TLS_{part}_FILE") for part in ("CERT", "KEY", "CA")]
    if not all(files):
        return None
    return Tls(*(Path(file) for file in files if file))


async def up(environ: Mapping[str, str]) -> int:
    """Keeps the system up until told to stop; the exit code says whether all ended by itself."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    systems: list[System] = []
    life = asyncio.create_task(_live(environ, systems))
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({life, waiting}, return_when="FIRST_COMPLETED")
    waiting.cancel()
    if not life.done():
        _say("Stopping.")
        life.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await life
    killed = [name for system in systems for name in system.supervisor.had_to_be_killed()]
    if killed:
        print(f"Did not end in time and had to be killed: {', '.join(killed)}", file=sys.stderr)
    return 1 if killed else 0


async def _live(environ: Mapping[str, str], systems: list[System]) -> None:
    folder = secretfile.data_folder(environ)
    _say(f"Starting Pagewire on {folder} …")
    async with running(folder, free_ports=False, env=TRIED_BY_HAND | dict(environ)) as system:
        systems.append(system)
        _say(greeting(system, environ))
        await asyncio.Event().wait()


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # nobody listens any more: the system goes on, or ends, and says no more
        with open(os.devnull, "w") as nowhere:  # or what is left to say makes it exit with 120
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def greeting(system: System, environ: Mapping[str, str]) -> str:
    """What a person needs to know of a system that has just come up; no secret is in it."""
    at = system.addresses
    secrets = secretfile.path(system.folder)
    lines = {
        "public edge": f"{at['public']}/api/webhook",
        "operator API": f"{at['operator']}/api/openapi.json",
        "metrics": f"{at['operator']}/metrics",
        "gRPC store": at["store"],
        "gRPC rules": at["rules"],
        "gRPC sync": at["sync"],
        "Graph": at.get("simulator", system.env.get("GRAPH_BASE_URL", "Meta's")),
        "logs": str(system.folder / "logs"),
    }
    if "simulator" in at:
        lines["Graph"] = f"{lines['Graph']} (the simulator; set GRAPH_BASE_URL for Meta's)"
    if secrets.exists() and not environ.get("API_KEYS"):
        lines["API key"] = f"grep ^API_KEYS= {secrets} (the pagewire command finds it by itself)"
    body = "\n".join(f"  {name:<13} {value}" for name, value in lines.items())
    return f"Pagewire is up; Ctrl-C ends it.\n{body}"


def clean(environ: Mapping[str, str]) -> None:
    """Removes the data folder. FolderInUse: a system runs there."""
    folder = secretfile.data_folder(environ)
    if not folder.exists():
        return
    lock = lock_folder(folder)
    try:
        for name in URL_OF:
            discard(folder / name)
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pagewire_cli.launcher", description=__doc__)
    parser.add_argument("command", choices=("up", "clean"))
    try:
        if parser.parse_args().command == "clean":
            clean(os.environ)
            return 0
        return asyncio.run(up(os.environ))
    except (CannotStart, OSError) as failure:
        print(f"pagewire: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
