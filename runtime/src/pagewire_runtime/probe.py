"""Asks a running process whether it is healthy, as a container's health check does.

    python -m pagewire_runtime.probe 127.0.0.1:50051 store
    python -m pagewire_runtime.probe http://127.0.0.1:8080/healthz

Ends with 0 where grpc.health.v1 says SERVING, or HTTP says 200; else with 1 and the reason. With
mutual TLS it shows the process's own certificate, and expects the name given after the target.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagewire_runtime.tls import Tls

SECONDS = 2.0


class Unhealthy(Exception):
    """Why the process does not count as healthy."""


class Absent(Unhealthy):
    """Nobody listens at the address."""


def probe_http(url: str) -> None:
    """Raises Unhealthy unless the address answers 200; Absent where nobody listens there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except ConnectionRefusedError as error:
        raise Absent(f"{url} does not answer: nobody listens") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"{url} does not answer: {type(error).__name__}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Unhealthy(f"{url} answers {status}")


def probe_grpc(target: str, name: str, tls: Tls | None) -> None:
    """Raises Unhealthy unless the server says SERVING; `name` is whom its certificate names."""
    with _channel(target, name, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            raise Unhealthy(f"{target} does not answer: {error.code().name}") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise Unhealthy(f"{target} is {status}")


def _channel(target: str, name: str, tls: Tls | None) -> grpc.Channel:
    direct = ("grpc.enable_http_proxy", 0)
    if tls is None:
        return grpc.insecure_channel(target, (direct,))
    # The probe asks over loopback, the certificate names the service.
    named = ("grpc.ssl_target_name_override", name)
    return grpc.secure_channel(target, tls.channel_credentials(), (direct, named))


def _tls_of_the_environment() -> Tls | None:
    # Not the whole of the service's settings: a probe needs none of its secrets.
    files = [os.environ.get(f"TLS_{part}_FILE") for part in ("CERT", "KEY", "CA")]
    cert, key, authority = (Path(file) if file else None for file in files)
    return Tls(cert, key, authority) if cert and key and authority else None


def main(target: str, name: str = "") -> None:
    """Ends the process with 1 and the reason where the target is not healthy."""
    try:
        if target.startswith("http://"):
            probe_http(target)
        else:
            probe_grpc(target, name, _tls_of_the_environment())
    except Unhealthy as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main(*sys.argv[1:])
