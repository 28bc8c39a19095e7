"""Serving: a gRPC server from ready to drained, and the process around it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import ipaddress
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection

from pagewire_runtime.auth import OPEN_METHODS, MethodRoles, ServiceTokens
from pagewire_runtime.calling import MAX_MESSAGE_BYTES
from pagewire_runtime.errors import SettingsError
from pagewire_runtime.interception import DEADLINE_CAP, Guard
from pagewire_runtime.logs import get_logger
from pagewire_runtime.rehearsal import rehearse
from pagewire_runtime.tls import Tls
from pagewire_runtime.watchdog import watching

log = get_logger(__name__)

_M_MMAP_THRESHOLD = -3
"""As in malloc.h of glibc."""
_LARGE_BLOCK_BYTES = 256 * 1024

_REFLECTION = f"/{grpc_reflection.SERVICE_NAME}/ServerReflectionInfo"


class Server:
    """A server that runs: its bound port (0 for a unix socket), and whether it says it serves."""

    def __init__(self, port: int, health_servicer: health.aio.HealthServicer) -> None:
        self.port = port
        self._health = health_servicer

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers from now on."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        await self._health.set("", status.SERVING if serving else status.NOT_SERVING)


@asynccontextmanager
async def serving(
    listen: str,
    register: Callable[[grpc.aio.Server], None],
    *,
    tokens: ServiceTokens,
    method_roles: MethodRoles,
    drain: timedelta = timedelta(seconds=20),
    unready_wait: timedelta = timedelta(),
    reflection: Sequence[str] | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    deadline_cap: timedelta = DEADLINE_CAP,
    deadline_overrides: Mapping[str, timedelta] | None = None,
    max_concurrent_rpcs: int = 512,
    tls: Tls | None = None,
    insecure: bool = False,
) -> AsyncIterator[Server]:
    """Serves on `host:port` or `unix:/path` within the block.

    On leaving it: health says NOT_SERVING, `unready_wait` passes so that balancers notice, streams
    end with UNAVAILABLE, and calls in flight have `drain` to finish. `reflection` names the
    services whose schema is shown, to anybody; `deadline_overrides` are by full method name.
    With `tls` new connections get what its files hold by then. Without it only this machine is
    served, unless it may be `insecure`.

    Raises SettingsError where it can't listen there, or must not without TLS.
    """
    guard = Guard(
        tokens,
        method_roles,
        cap=deadline_cap,
        overrides=deadline_overrides,
        open_methods=OPEN_METHODS | ({_REFLECTION} if reflection else set()),
        certificates=tls is not None,
    )
    server = grpc.aio.server(
        interceptors=[guard],
        options=_options(max_message_bytes),
        maximum_concurrent_rpcs=max_concurrent_rpcs,
    )
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    register(server)
    if reflection:
        grpc_reflection.enable_server_reflection([*reflection, health.SERVICE_NAME], server)
    credentials = _credentials(listen, tls, insecure)
    port = _bind(server, listen, credentials)
    await server.start()
    try:
        log.info("serving", listen=listen, port=port)
        yield Server(port, health_servicer)
    finally:
        log.info("draining", seconds=drain.total_seconds())
        await health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(unready_wait.total_seconds())
        guard.end_streams()
        await server.stop(drain.total_seconds())
        log.info("stopped")


def _credentials(listen: str, tls: Tls | None, insecure: bool) -> grpc.ServerCredentials | None:
    """To be held for as long as the server lives, which asks them for newer certificates."""
    if tls is not None:
        return tls.server_credentials()
    if insecure or _is_local(listen):
        return None
    raise SettingsError(
        f"{listen} can be reached from other machines: set TLS_CERT_FILE, TLS_KEY_FILE and"
        " TLS_CA_FILE, or GRPC_INSECURE=true for development"
    )


def _is_local(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    if listen.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, credentials)
    except (RuntimeError, OSError) as error:
        raise SettingsError(f"can't listen on {listen}: {error}") from error


# How often a connection may ping; the third ping that comes too soon ends it.
_PING_FLOOR = timedelta(seconds=10)
# So that clients look anew who serves, and new replicas get their part; gRPC varies it by a tenth.
# A certificate that was taken back is good for no longer either.
_CONNECTION_AGE = timedelta(minutes=10)
_CONNECTION_GRACE = timedelta(seconds=30)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", 100),
        # A second process on the same port must fail, not take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(_PING_FLOOR)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_age_ms", _milliseconds(_CONNECTION_AGE)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(_CONNECTION_GRACE)),
    ]


def _milliseconds(time: timedelta) -> int:
    return int(time.total_seconds() * 1000)


async def until_signalled() -> None:
    """Returns on the first SIGTERM or SIGINT; later ones are ignored while the process drains."""
    signalled = asyncio.Event()
    _on_stop(signalled.set)
    await signalled.wait()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Runs a process's `main` on uvloop and exits.

    With 0 when it returned, or was told to stop before it waited for that (it is cancelled then); 2
    and a line on stderr a setting for a SettingsError; 1 and the log for what nobody foresaw.
    """
    _leave_no_core()
    _collect_seldom()
    _give_back_large_blocks()
    sys.exit(_exit_code(main))


def _leave_no_core() -> None:
    """A crash writes no image of the memory, where secrets and people's words are.

    To the kernel a limit of one byte means: not into a file, and not into a program's hands either.
    """
    with suppress(ValueError, OSError):  # a lower limit was set before: as well
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def _collect_seldom() -> None:
    """What is imported stays for good, so the collector is spared it.

    And requests that wait in hundreds are no garbage: it looks after 10,000 new objects, not 700.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()  # `starting` has put it off


def _give_back_large_blocks() -> None:
    """Has the C library map what is large, and so give it back as soon as it is freed.

    Left alone glibc takes to keeping blocks of the largest size that it has seen: after eight
    bodies of 4 MiB at once a process was 140 MiB large for good, so it is 43.
    """
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


def _exit_code(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        rehearse(os.environ)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_stoppable(main))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    except Exception:
        log.exception("the process failed")
        return 1
    return 0


async def _stoppable(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    starting = asyncio.ensure_future(main())

    def cancel() -> None:
        _on_stop(lambda: None)
        starting.cancel()

    _on_stop(cancel)
    with watching(asyncio.get_running_loop()):
        await starting


def _on_stop(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, act)
