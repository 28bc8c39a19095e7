"""Metrics: one registry a process, buckets for milliseconds, and its text for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. A unary call is about 0.1 ms, an ingest a few, the edge's own limit is 2.5 s.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

registry = CollectorRegistry()
ProcessCollector(registry=registry)


def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
    """A counter; the values of its labels must be few and never personal."""
    return Counter(name, what, labels, registry=registry)


def gauge(name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge, likewise."""
    return Gauge(name, what, labels, registry=registry)


def histogram(
    name: str, what: str, labels: Sequence[str] = (), buckets: Sequence[float] = BUCKETS
) -> Histogram:
    """A histogram of seconds, unless it has buckets of its own."""
    return Histogram(name, what, labels, registry=registry, buckets=buckets)


def render() -> bytes:
    """Everything measured, as Prometheus text (CONTENT_TYPE)."""
    return generate_latest(registry)


@contextmanager
def expose(listen: str | None) -> Iterator[int | None]:
    """Serves the text at `host:port` within the block, and yields the port; nothing for None."""
    if listen is None:
        yield None
        return
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), addr=host, registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
