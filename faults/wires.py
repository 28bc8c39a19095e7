"""Which setting of whom leads to whom: where a proxy can go in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import make_url

LISTENS = {
    "edge": "WEBHOOK_LISTEN",
    "store": "STORE_LISTEN",
    "rules": "RULES_LISTEN",
    "sync": "SYNC_LISTEN",
    "graph": "SIMULATOR_LISTEN",
}
"""Where each of those listens that take connections on a port."""

WIRES = {
    ("sender", "edge"): "simulator",
    ("webhook", "store"): "webhook",
    ("webhook", "rules"): "webhook",
    ("webhook", "sync"): "webhook",
    ("rules", "store"): "rules",
    ("sync", "store"): "sync",
    ("sync", "graph"): "sync",
    ("store", "postgres"): "store",
    ("store", "valkey"): "store",
}
"""From whom to whom, and the service whose settings say the way. The sender is Meta's."""


def through(
    wire: tuple[str, str], addresses: Sequence[str], env: Mapping[str, str]
) -> dict[str, str]:
    """The settings by which the caller goes to these addresses; `env` has the usual ones."""
    callee, first = wire[1], addresses[0]
    match callee:
        case "edge":
            return {"SIMULATOR_WEBHOOK_URL": f"http://{first}"}
        case "graph":
            base = f"http://{first}"
            return {
                "GRAPH_BASE_URL": f"{base}/facebook",
                "GRAPH_INSTAGRAM_BASE_URL": f"{base}/instagram",
            }
        case "postgres":
            names = ("DATABASE_URL", "DATABASE_OWNER_URL")
            return {name: _database(env[name], first) for name in names}
        case "valkey":
            return {"REDIS_URL": f"redis://{first}"}
    target = first if len(addresses) == 1 else "ipv4:" + ",".join(addresses)
    return {f"{callee.upper()}_TARGET": target}


def _database(url: str, address: str) -> str:
    """The same database and user at another address, in the clear so that a proxy understands."""
    host, _, port = address.rpartition(":")
    plain = {"sslmode": "disable", "gssencmode": "disable"}
    return (
        make_url(url)
        .set(host=host, port=int(port), query=plain)
        .render_as_string(hide_password=False)
    )
