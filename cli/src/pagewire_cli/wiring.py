"""Where each process listens, and the settings by which they find each other."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pagewire_cli.leash import CannotStart

LISTENERS = {
    "simulator": {"SIMULATOR_LISTEN": "127.0.0.1:9090"},
    "store": {"STORE_LISTEN": "127.0.0.1:50051"},
    "rules": {"RULES_LISTEN": "127.0.0.1:50052"},
    "sync": {"SYNC_LISTEN": "127.0.0.1:50053"},
    "webhook": {"WEBHOOK_LISTEN": "127.0.0.1:8080", "OPERATOR_LISTEN": "127.0.0.1:8081"},
}
ANY_PORT = "127.0.0.1:0"
EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104 - to recognise, not to listen on


@dataclass(frozen=True)
class Place:
    """One process to be: its name, whose module it runs, and the sockets that hold its ports."""

    name: str
    service: str
    held: Mapping[str, socket.socket]

    def listens(self) -> dict[str, str]:
        """Its addresses, each with the port that it has got."""
        return {variable: _address(held) for variable, held in self.held.items()}

    def release(self) -> None:
        for held in self.held.values():
            held.close()


def hold_places(
    counts: Mapping[str, int], given: Mapping[str, str], free_ports: bool
) -> list[Place]:
    """Holds the ports of every process; the first of a service listens where it was told to.

    CannotStart: a port is taken; none is held then.
    """
    places: list[Place] = []
    try:
        for service, count in counts.items():
            for number in range(1, count + 1):
                held: dict[str, socket.socket] = {}
                places.append(Place(_numbered(service, number), service, held))
                for variable, usual in LISTENERS[service].items():
                    listen = given.get(variable, ANY_PORT if free_ports else usual)
                    held[variable] = _hold(variable, listen if number == 1 else ANY_PORT)
    except BaseException:
        for place in places:
            place.release()
        raise
    return places


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _hold(variable: str, listen: str) -> socket.socket:
    """Keeps a port for a process of ours, also while that restarts: bound, never listening.

    On Linux one process may listen where others are merely bound, if all say SO_REUSEADDR, as
    servers do; a port chosen for anybody else is never one that is bound.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not (host and port.isdecimal()):  # to bind no host would mean every address of the machine
        raise CannotStart(f"{variable}: must be host:port, as in 127.0.0.1:8080")
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, int(port)))
    except (OSError, OverflowError) as refused:
        held.close()
        raise CannotStart(
            f"cannot listen on {listen}: {refused}; set {variable} to another address"
        ) from None
    return held


def _address(held: socket.socket) -> str:
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if held.family == socket.AF_INET6 else f"{host}:{port}"


def reachable(listen: str) -> str:
    """The address by which this machine reaches a listener."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in EVERYWHERE else listen


def _target(places: Sequence[Place], service: str) -> str:
    """The gRPC target of all processes of a service."""
    variable = f"{service.upper()}_LISTEN"
    found = [reachable(place.listens()[variable]) for place in places if place.service == service]
    return found[0] if len(found) == 1 else "ipv4:" + ",".join(found)


def wiring(places: Sequence[Place], given: Mapping[str, str]) -> dict[str, str]:
    """The settings by which the processes find each other; what was given stays."""
    first = {place.service: place.listens() for place in reversed(places)}
    wiring = {listener: at for listens in first.values() for listener, at in listens.items()}
    for service in ("store", "rules", "sync"):
        if service in first:
            wiring[f"{service.upper()}_TARGET"] = _target(places, service)
    if "webhook" in first:
        edge = f"http://{reachable(wiring['WEBHOOK_LISTEN'])}"
        wiring |= {"PUBLIC_BASE_URL": edge, "SIMULATOR_WEBHOOK_URL": edge}
    if "simulator" in first:
        graph = f"http://{reachable(wiring['SIMULATOR_LISTEN'])}"
        wiring |= {
            "GRAPH_BASE_URL": f"{graph}/facebook",
            "GRAPH_INSTAGRAM_BASE_URL": f"{graph}/instagram",
        }
    return {
        name: value
        for name, value in wiring.items()
        if name.endswith("_LISTEN") or name not in given
    }


def addresses_of(places: Sequence[Place], settings: Mapping[str, str]) -> dict[str, str]:
    """URLs and gRPC targets by the names that `System.addresses` documents."""
    addresses: dict[str, str] = {}
    for place in places:
        number = place.name.removeprefix(place.service)
        for variable, listen in place.listens().items():
            name = {"WEBHOOK_LISTEN": "public", "OPERATOR_LISTEN": "operator"}.get(
                variable, place.service
            )
            grpc = f"{place.service.upper()}_TARGET" in settings
            address = reachable(listen)
            addresses[name + number] = address if grpc else f"http://{address}"
    for service in ("store", "rules", "sync"):
        if service in addresses:
            addresses[service] = _target(places, service)
    return addresses


def for_the_cli(settings: Mapping[str, str], addresses: Mapping[str, str]) -> dict[str, str]:
    """What a command needs to reach the running system; no secret is among it."""
    names = ("WEBHOOK_LISTEN", "OPERATOR_LISTEN", "STORE_TARGET", "RULES_TARGET", "SYNC_TARGET",
             "PUBLIC_BASE_URL", "GRAPH_BASE_URL", "GRAPH_INSTAGRAM_BASE_URL")  # fmt: skip
    written = {name: settings[name] for name in names if name in settings}
    urls = {"OPERATOR_URL": "operator", "PUBLIC_URL": "public", "SIMULATOR_URL": "simulator"}
    return written | {name: addresses[at] for name, at in urls.items() if at in addresses}
