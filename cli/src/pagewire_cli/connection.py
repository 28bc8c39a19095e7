"""The way to a running Pagewire: from the environment, or from the files that `make up` writes."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from pagewire_cli import secretfile
from pagewire_cli.exits import Failure, Misused, Unreachable
from pagewire_runtime.auth import parse_service_tokens
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal, SettingsError
from pagewire_runtime.tls import Tls

T = TypeVar("T")

ROLE = "operator"
TARGETS = {"store": "STORE_TARGET", "rules": "RULES_TARGET", "sync": "SYNC_TARGET"}
_TLS_FILES = ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")


@dataclass(frozen=True)
class Connection:
    """Where the services are and how this command shows who it is.

    `operator_url` is the webhook service's operator listener, where it is known.
    """

    targets: Mapping[str, str]
    token: str | None
    tls: Tls | None
    operator_url: str | None
    searched: str

    def target(self, service: str) -> str:
        """Raises Unreachable where nothing says where the service is."""
        if service not in self.targets:
            raise Unreachable(
                f"no running Pagewire is known: {self.searched}; start one with `make up`,"
                f" or set {TARGETS[service]} and SERVICE_TOKENS"
            )
        return self.targets[service]

    def channel(self, service: str) -> grpc.aio.Channel:
        """Raises Unreachable as `target` does, and where there is no token to show."""
        target = self.target(service)
        if self.token is None and self.tls is None:
            raise Unreachable(
                f"no token of the role {ROLE} is known: set SERVICE_TOKENS to those of the"
                f" Pagewire at {target}"
            )
        return channel(target, token=self.token, tls=self.tls)


def find(environ: Mapping[str, str], start: Path) -> Connection:
    """What the environment says; where it is silent, what a `make up` wrote.

    Its files are looked for in PAGEWIRE_DATA_DIR or else in `.pagewire` of `start`, of the folders
    above it, and of the checkout. Raises Misused: a setting is wrong.
    """
    folder = _data_folder(environ, start)
    written = secretfile.read(secretfile.addresses_path(folder)) if folder else {}
    kept = secretfile.read(secretfile.path(folder)) if folder else {}
    known = kept | written | {name: value for name, value in environ.items() if value}
    tls = _tls(known)
    return Connection(
        targets={name: known[at] for name, at in TARGETS.items() if at in known},
        token=None if tls else _token(known.get("SERVICE_TOKENS", "")),
        tls=tls,
        operator_url=_operator_url(known),
        searched=f"none runs on {folder}" if folder else "there is no .pagewire here or above",
    )


def _data_folder(environ: Mapping[str, str], start: Path) -> Path | None:
    if environ.get("PAGEWIRE_DATA_DIR"):
        return secretfile.data_folder(environ)
    above = [folder / ".pagewire" for folder in (start, *start.parents)]
    found = [folder for folder in (*above, secretfile.data_folder(environ)) if folder.is_dir()]
    running = (folder for folder in found if secretfile.addresses_path(folder).exists())
    return next(running, found[0] if found else None)


def _tls(known: Mapping[str, str]) -> Tls | None:
    given = [known[name] for name in _TLS_FILES if name in known]
    if not given:
        return None
    if len(given) < len(_TLS_FILES):
        raise Misused(f"{', '.join(_TLS_FILES)}: set all or none")
    for file in given:
        if not Path(file).is_file():
            raise Misused(f"{file}: there is no such file; one of {', '.join(_TLS_FILES)} names it")
    return Tls(*map(Path, given))


def _token(text: str) -> str | None:
    try:
        return parse_service_tokens(text).first(ROLE)
    except SettingsError as wrong:
        raise Misused(str(wrong)) from None


def _operator_url(known: Mapping[str, str]) -> str | None:
    if "OPERATOR_URL" in known:
        return known["OPERATOR_URL"]
    return f"http://{known['OPERATOR_LISTEN']}" if "OPERATOR_LISTEN" in known else None


def person() -> str:
    """Who sits here, for the audit: the system's user name and the machine's."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        user = "unknown"
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()[:128]


def ask(service: str, work: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
    """Does the work on a channel to the service. Raises Failure where it is refused."""
    connection = find(os.environ, Path.cwd())

    async def asking() -> T:
        async with connection.channel(service) as opened:
            try:
                return await work(opened)
            except Refusal as refusal:
                raise failure_of(refusal, service, connection.target(service)) from None

    return asyncio.run(asking())


def failure_of(refusal: Refusal, service: str, target: str) -> Failure:
    """What a person is told of a refusal."""
    if refusal.kind is Kind.TRANSIENT:
        why = refusal.message if "what" in refusal.metadata else "no answer"
        return Unreachable(
            f"the {service} service at {target} can't do it now ({why}): does it run?"
            " `pagewire status` tells more"
        )
    if refusal.kind is Kind.UNAUTHENTICATED:
        return Failure(
            f"the {service} service at {target} does not know our token:"
            " SERVICE_TOKENS must be those that it was started with"
        )
    return Failure(f"{refusal.message} ({refusal.reason})")
