"""store, rules and sync as real processes, in the clear or with mutual TLS."""

import base64
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from pagewire_cli.embedded import EmbeddedPostgres
from pagewire_cli.supervisor import Spec, Supervisor, grpc_serving
from pagewire_cli.wiring import hold_places
from pagewire_runtime.auth import ROLES
from pagewire_runtime.tls import Tls
from tests.support.authority import Authority
from tests.support.servers import FORGETFUL

NAMES = ("store", "rules", "sync")
TOKENS = {role: f"{role}-token-of-the-tests" for role in sorted(ROLES)}


@dataclass(frozen=True)
class Services:
    """`targets` by service; `tls` has each one's own certificate, where they have any."""

    postgres: EmbeddedPostgres
    supervisor: Supervisor
    targets: Mapping[str, str]
    tls: Mapping[str, Tls]

    def pid(self, name: str) -> int:
        return self.supervisor.processes[name].pid

    def memory(self, name: str) -> int:
        """What a process has in memory, in bytes."""
        pages = Path(f"/proc/{self.pid(name)}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def lives(self, name: str) -> int:
        """How often it was started."""
        return 1 + len(self.supervisor.processes[name].exit_codes)

    def log(self, name: str) -> str:
        return self.supervisor.processes[name].log.read_text()

    def raw(self, name: str, *options: tuple[str, int | str]) -> grpc.aio.Channel:
        """A channel in the clear without anything of ours."""
        direct = ("grpc.enable_http_proxy", 0)
        return grpc.aio.insecure_channel(self.targets[name], options=[direct, *options])


@asynccontextmanager
async def services(
    folder: Path, authority: Authority | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Services]:
    """All three, ready. `folder` is one through which the server's user can pass."""
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", **FORGETFUL))
        places = hold_places(dict.fromkeys(NAMES, 1), {}, free_ports=True)
        for place in places:
            stack.callback(place.release)
        ports = {
            place.name: next(iter(place.listens().values())).rpartition(":")[2] for place in places
        }
        host = "127.0.0.1" if authority is None else "localhost"
        targets = {name: f"{host}:{port}" for name, port in ports.items()}
        tls = {name: authority.issue("localhost", name) for name in NAMES} if authority else {}
        shared = {**postgres.settings, **_settings(targets, ports), **(env or {})}
        specs = [
            Spec(
                name=name,
                argv=(sys.executable, "-m", f"pagewire_{name}"),
                env=shared | _files(tls.get(name)),
                ready=grpc_serving(f"127.0.0.1:{ports[name]}", name, tls.get(name)),
                after=frozenset() if name == "store" else frozenset({"store"}),
            )
            for name in NAMES
        ]
        supervisor = Supervisor(specs, folder / "logs")
        try:
            await supervisor.start()
            yield Services(postgres, supervisor, targets, tls)
        finally:
            await supervisor.stop()


def _settings(targets: Mapping[str, str], ports: Mapping[str, str]) -> dict[str, str]:
    key = base64.urlsafe_b64encode(b"1" * 32).decode()
    return {
        "PATH": os.defpath,
        "TOKEN_ENCRYPTION_KEYS": f"k1:{key}",
        "SERVICE_TOKENS": ",".join(f"{role}:{token}" for role, token in TOKENS.items()),
        "UNREADY_SECONDS": "0",
        "META_APP_ID": "1",
        "META_APP_SECRET": "app-secret-of-the-tests",
        "GRAPH_BASE_URL": "http://127.0.0.1:9",  # nobody
        "GRAPH_INSTAGRAM_BASE_URL": "http://127.0.0.1:9",
        "STORE_TARGET": targets["store"],
    } | {f"{name.upper()}_LISTEN": f"127.0.0.1:{port}" for name, port in ports.items()}


def _files(tls: Tls | None) -> dict[str, str]:
    if tls is None:
        return {}
    return {
        "TLS_CERT_FILE": str(tls.cert_file),
        "TLS_KEY_FILE": str(tls.key_file),
        "TLS_CA_FILE": str(tls.ca_file),
    }
