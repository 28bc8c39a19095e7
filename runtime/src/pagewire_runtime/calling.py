"""Channels to the other services: identity, deadlines, balance, retries where they are safe."""

from __future__ import annotations

import json
from collections.abc import Iterable

import grpc

from pagewire_runtime.interception import ExchangeCalls, StreamCalls, UnaryCalls
from pagewire_runtime.renewing import RenewingChannel
from pagewire_runtime.tls import Tls

MAX_MESSAGE_BYTES = 5 * 2**20
"""The public body limit of 4 MiB and a mebibyte for what wraps it."""


def channel(
    target: str,
    *,
    token: str | None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    repeatable: Iterable[str] = (),
    tls: Tls | None = None,
) -> grpc.aio.Channel:
    """A channel for the generated stubs, to `host:port`, `dns:///name:port` or `unix:/path`.

    Calls on it raise Refusal, never AioRpcError. The methods named in `repeatable`
    ("/package.Service/Method") are tried up to three times where the answer is UNAVAILABLE, all
    within the call's one timeout. Connecting is lazy. With `tls` it goes on with what its files
    hold once they were replaced, and has to be made where a loop runs.

    Raises SettingsError where those files are not sound.
    """
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.service_config", json.dumps(_service_config(repeatable))),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        # Longer than the servers' floor of 10 s, or they say "too many pings".
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A service that comes back is found within half a second; the default waits up to two
        # minutes. A try is one connect, so that a long outage needs no longer pauses.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    kinds = (UnaryCalls, StreamCalls, ExchangeCalls)
    interceptors: list[grpc.aio.ClientInterceptor] = [kind(token) for kind in kinds]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)

    def connect(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            target, credentials, options=options, interceptors=interceptors
        )

    return RenewingChannel(tls, connect)


def _service_config(repeatable: Iterable[str]) -> dict[str, object]:
    config: dict[str, object] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A budget for retries: ten failures in a row stop them until calls succeed again.
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    names = [_name(method) for method in repeatable]
    if names:
        policy = {
            "maxAttempts": 3,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": names, "retryPolicy": policy}]
    return config


def _name(method: str) -> dict[str, str]:
    service, _, name = method.removeprefix("/").partition("/")
    return {"service": service, "method": name}
