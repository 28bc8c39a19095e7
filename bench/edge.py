"""The edge: Pagewire's public part with the store stubbed at the RPC, beside bare servers.

Each server runs in a process of its own on one core; the generator has the other one, and shares
it with the stub of the store, whose work is none of the edge's. How busy both sides were is told,
since a generator or a stub that had no time left would be what was measured.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.driving import Closed, Open, Outcome, Target
from bench.figures import Goal, Measure, MeasuringFailed, Suite, percentile, rotated
from bench.generator import Generator, generating
from bench.processes import CLIENT_CORE, SERVER_CORE, child, cpu_seconds, free_port
from bench.traffic import Traffic

CONNECTIONS = 64
RATE = 1_000
"""Webhooks a second of the open loop: what every server bears."""

SECRET = "secret-of-the-benchmarks"
PATH = "/api/webhook"
OURS, UNARY = "pagewire", "one call a webhook"
BARE, RAW = "bare Starlette", "raw protocol"


@dataclass(frozen=True)
class Server:
    pid: int
    port: int


@dataclass
class Rounds:
    """What was measured of one server, a value a round."""

    rate: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    client_busy: list[float] = field(default_factory=list)


async def measured(folder: Path, *, quick: bool) -> Suite:
    rounds, seconds = (2, 0.5) if quick else (5, 2.0)
    traffic = Traffic(
        name="edge",
        pages=("1001", "1002", "1003"),
        people=500,
        messages=2_000,
        sent_ms=int(time.time() * 1000),
    )
    with _servers(folder) as servers, generating(folder, core=CLIENT_CORE) as generator:
        found = {name: Rounds() for name in servers}
        for turn in range(-1, rounds):
            for name in rotated(list(servers), turn):
                into = found[name] if turn >= 0 else Rounds()  # the first round warms up
                await _measure(servers[name], generator, traffic, seconds, into)
    return Suite("edge", _measures(found), _notes(found))


async def _measure(
    server: Server, generator: Generator, traffic: Traffic, seconds: float, into: Rounds
) -> None:
    target = Target(port=server.port, path=PATH, secret=SECRET, connections=CONNECTIONS)
    before = cpu_seconds([server.pid])
    peak = await generator.run(Closed(target=target, traffic=traffic, seconds=seconds))
    cpu = cpu_seconds([server.pid]) - before
    count = int(RATE * seconds)
    paced = await generator.run(Open(target=target, traffic=traffic, rate=RATE, requests=count))
    for outcome in (peak, paced):
        _check(outcome)
    into.rate.append(len(peak.status) / peak.seconds)
    into.cpu_us.append(cpu / len(peak.status) * 1e6)
    into.p50.append(percentile(paced.latency_ms, 0.5))
    into.p99.append(percentile(paced.latency_ms, 0.99))
    into.busy.append(cpu / peak.seconds)
    into.client_busy.append(peak.busy)


def _check(outcome: Outcome) -> None:
    if outcome.failures or not outcome.status:
        raise MeasuringFailed(f"{outcome.failures} of {len(outcome.status)} were not answered 200")


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[str, Server]]:
    with contextlib.ExitStack() as running:

        def start(
            name: str, port: int, *argv: str, core: int = SERVER_CORE, env: Mapping[str, str]
        ) -> Server:
            log = folder / f"{name.replace(' ', '-')}.log"
            process = child(argv, log, core=core, env=env, port=port)
            return Server(running.enter_context(process).pid, port)

        store, ours, unary, bare, raw = (free_port() for _ in range(5))
        webhook = {
            "META_APP_SECRET": SECRET,
            "META_WEBHOOK_VERIFY_TOKEN": "verify-token-of-the-benchmarks",
            "SERVICE_TOKENS": "webhook:token-of-the-benchmarks",
            "STORE_TARGET": f"127.0.0.1:{store}",
            "UNREADY_SECONDS": "0",
        }
        peer = {"PEER_SECRET": SECRET}
        start(
            "stub", store, "-m", "bench.peers.instant_store", str(store), core=CLIENT_CORE, env={}
        )
        yield {
            OURS: start(
                OURS,
                ours,
                *("-m", "pagewire_webhook", "--parts", "public"),
                env=webhook | {"WEBHOOK_LISTEN": f"127.0.0.1:{ours}"},
            ),
            UNARY: start(
                UNARY,
                unary,
                *("-m", "bench.peers.one_call_each"),
                env=webhook | {"WEBHOOK_LISTEN": f"127.0.0.1:{unary}"},
            ),
            BARE: start(BARE, bare, *uvicorn("bench.peers.bare:app", bare), env=peer),
            RAW: start(RAW, raw, "-m", "bench.peers.protocol", str(raw), env=peer),
        }


def uvicorn(app: str, port: int) -> list[str]:
    """The fastest uvicorn that there is, for an app's factory."""
    options = "--factory --loop uvloop --http httptools --no-access-log --log-level error"
    keep = "--timeout-keep-alive 75"
    return ["-m", "uvicorn", app, "--port", str(port), *options.split(), *keep.split()]


def _measures(found: Mapping[str, Rounds]) -> list[Measure]:
    ours, raw = found[OURS], found[RAW]
    beside = (BARE, UNARY)
    return [
        Measure(
            "rate_at_64",
            "webhooks/s",
            ours.rate,
            goal=Goal(0.6, BARE),
            limit=raw.rate,
            peers={BARE: found[BARE].rate},
        ),
        Measure(
            "coalescing",
            "webhooks/s",
            ours.rate,
            goal=Goal(2, UNARY),
            peers={UNARY: found[UNARY].rate},
        ),
        *(
            Measure(
                name,
                unit,
                getattr(ours, name),
                higher=False,
                limit=getattr(raw, name),
                peers={peer: getattr(found[peer], name) for peer in beside},
            )
            for name, unit in (("cpu_us", "µs/webhook"), ("p50", "ms"), ("p99", "ms"))
        ),
    ]


def _notes(found: Mapping[str, Rounds]) -> list[str]:
    shares = "; ".join(
        f"{name}: server {percentile(each.busy, 0.5):.0%},"
        f" generator {percentile(each.client_busy, 0.5):.0%}"
        for name, each in found.items()
    )
    return [
        f"closed loop over {CONNECTIONS} connections; p50 and p99: open loop, {RATE:,} a second",
        f"shares of their cores at the closed loop: {shares}",
    ]
