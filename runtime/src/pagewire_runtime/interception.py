"""What every call has done to it, on both sides: one server interceptor, one client interceptor."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeAlias, cast

import grpc
import structlog
from grpc.aio import AioRpcError, ClientCallDetails, Metadata, ServicerContext

from pagewire_runtime import deadline, metrics
from pagewire_runtime.auth import (
    OPEN_METHODS,
    ROLES,
    Caller,
    Forbidden,
    MethodRoles,
    ServiceTokens,
    Unauthenticated,
    actor_from,
    caller,
    set_caller,
)
from pagewire_runtime.errors import InvalidArgument, Refusal, Unavailable
from pagewire_runtime.logs import get_logger
from pagewire_runtime.status import bare_status, from_rpc_error, to_status
from pagewire_runtime.tls import peer_names

REQUEST_ID_KEY = "pagewire-request-id"
ACTOR_KEY = "pagewire-actor"

DEADLINE_CAP = timedelta(seconds=5)
"""The longest that a server works on a call, whatever its client allows."""

Context = ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only

log = get_logger(__name__)

_seconds = metrics.histogram(
    "pagewire_rpc_seconds", "Calls answered, by method and status code.", ["method", "code"]
)
_request_id: ContextVar[str | None] = ContextVar("pagewire_request_id", default=None)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id() -> str:
    """The id of the call in hand, or a new one outside of a call."""
    return _request_id.get() or _new_id()


def _new_id() -> str:
    return os.urandom(16).hex()


class Guard(grpc.aio.ServerInterceptor):
    """Stands before every handler of a server.

    In order: request id and log context, caller and role, deadline, request bytes to message, the
    handler, its refusal to a status, metrics. A method that is not in `method_roles` admits nobody.
    Methods that stream requests and answer once are not served: we have none.
    """

    def __init__(
        self,
        tokens: ServiceTokens,
        method_roles: MethodRoles,
        *,
        cap: timedelta = DEADLINE_CAP,
        overrides: Mapping[str, timedelta] | None = None,
        open_methods: frozenset[str] = OPEN_METHODS,
        certificates: bool = False,
    ) -> None:
        self._tokens = tokens
        self._method_roles = method_roles
        self._cap = cap
        self._overrides = overrides or {}
        self._open = open_methods
        self._certificates = certificates
        self._guarded: dict[str, Handler] = {}
        self._streams: set[asyncio.Timeout] = set()
        self._ending: set[asyncio.Future[Any]] = set()
        self._draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method in self._guarded:
            return self._guarded[method]
        handler = await continuation(handler_call_details)
        if handler is None or method in self._open:
            return handler
        if handler.request_streaming and not handler.response_streaming:
            return None
        self._guarded[method] = self._guard(method, handler)
        return self._guarded[method]

    def end_streams(self) -> None:
        """Ends the streams that are open, and those to come, with UNAVAILABLE: a drain begins.

        A stream has no end of its own, and would hold the drain up for all of its grace.
        """
        self._draining = True
        now = asyncio.get_running_loop().time()
        for limit in self._streams:
            if not limit.expired():  # else it is ending already
                limit.reschedule(now)

    def _guard(self, method: str, handler: Handler) -> Handler:
        # The request stays bytes until its sender is admitted: nothing of a stranger's is parsed.
        make: Callable[..., Handler] = grpc.unary_unary_rpc_method_handler
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler
        elif handler.response_streaming:
            make = grpc.unary_stream_rpc_method_handler
        return make(self._wrapped(method, handler), response_serializer=handler.response_serializer)

    def _wrapped(self, method: str, handler: Handler) -> Callable[[Any, Context], Any]:
        cap = self._overrides.get(method, self._cap).total_seconds()
        admitted = self._method_roles.get(method, frozenset())
        behave: Any = handler.stream_stream or handler.unary_stream or handler.unary_unary
        answer = self._stream if handler.response_streaming else self._unary
        read: Any = _messages if handler.request_streaming else _message

        async def guarded(raw: Any, context: Context) -> Any:
            started, code = time.perf_counter(), grpc.StatusCode.OK
            limit = asyncio.timeout(_allow(context, cap))
            try:
                self._identify(method, admitted, context)
                request = read(handler, raw)
                async with limit:
                    return await answer(behave, request, context, limit)
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                status = self._status(error, out_of_time=limit.expired())
                code = status.code
                await context.abort_with_status(status)
            finally:
                _observe(method, code, time.perf_counter() - started)

        return guarded

    def _identify(self, method: str, admitted: frozenset[str], context: Context) -> None:
        """Binds the call's id and its caller; raises Unauthenticated or Forbidden."""
        metadata = dict(context.invocation_metadata() or ())
        given = metadata.get(REQUEST_ID_KEY)
        known = isinstance(given, str) and _REQUEST_ID.fullmatch(given)
        _request_id.set(identity := str(given) if known else _new_id())
        structlog.contextvars.bind_contextvars(request_id=identity, method=method)
        roles = self._roles(metadata, context)
        role = next((role for role in roles if role in admitted), None)
        if role is None:
            shown = ", ".join(roles)
            raise Forbidden(f"the role {shown} may not call {method}", role=shown, method=method)
        set_caller(Caller(role, actor_from(metadata.get(ACTOR_KEY))))

    def _roles(self, metadata: Mapping[str, str | bytes], context: Context) -> list[str]:
        """Those of the caller: a token has one, a certificate may name several."""
        if self._certificates:
            roles = [name for name in peer_names(context.auth_context()) if name in ROLES]
            if not roles:
                raise Forbidden("the certificate names no role of ours")
            return roles
        scheme, _, bearer = str(metadata.get("authorization", "")).partition(" ")
        role = self._tokens.role_of(bearer) if scheme.lower() == "bearer" else None
        if role is None:
            raise Unauthenticated("send one of SERVICE_TOKENS as a bearer token")
        return [role]

    async def _unary(
        self, behave: Any, request: Any, context: Context, limit: asyncio.Timeout
    ) -> Any:
        if limit.when() is None:
            return await behave(request, context)
        # What is told to end may take its time, as a statement does on a server that hangs; the
        # answer does not wait for that.
        work = asyncio.ensure_future(behave(request, context))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._ending.add(work)
            work.add_done_callback(self._ended)
            work.cancel()
            raise

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._ending.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.warning("failed_after_its_deadline", kind=type(error).__name__)

    async def _stream(
        self, behave: Any, request: Any, context: Context, limit: asyncio.Timeout
    ) -> None:
        if self._draining:
            raise _stopping()
        self._streams.add(limit)
        try:
            async for response in behave(request, context):
                await written(context, response)
        finally:
            self._streams.discard(limit)

    def _status(self, error: Exception, *, out_of_time: bool) -> grpc.Status:
        if out_of_time and isinstance(error, TimeoutError):
            if self._draining:
                return to_status(_stopping())
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            return bare_status(code, "the call took longer than it may")
        if isinstance(error, Refusal):
            log.debug("refused", reason=error.reason)
            return to_status(error)
        log.error("unhandled exception", exc_info=error)
        return bare_status(grpc.StatusCode.INTERNAL, f"internal error, request {request_id()}")


async def written(context: Context, response: Any) -> None:
    """Writes it whole, also where the stream is told to end meanwhile: gRPC takes no status while a
    message is on its way, and the call would then never end.
    """
    writing = asyncio.ensure_future(context.write(response))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing], timeout=WRITTEN_WITHIN)
        writing.cancel()
        raise


def _stopping() -> Refusal:
    return Unavailable("a server that is stopping")


def _allow(context: Context, cap: float) -> float | None:
    """Sets the deadline that later calls inherit; returns the cap where it is what counts.

    Where the client's own deadline comes first, gRPC cancels the handler: no timer of ours.
    """
    # None, whatever the stubs say, where the client set no deadline.
    left = cast("float | None", context.time_remaining())
    if left is not None and left <= cap:
        deadline.allow(left)
        return None
    deadline.allow(cap)
    return cap


def _message(handler: Handler, raw: bytes) -> Any:
    if handler.request_deserializer is None:
        return raw
    try:
        return handler.request_deserializer(raw)
    except Exception:
        raise InvalidArgument("request", "is not a message of this method") from None


async def _messages(handler: Handler, raws: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    async for raw in raws:
        yield _message(handler, raw)


def _observe(method: str, code: grpc.StatusCode, seconds: float) -> None:
    _seconds.labels(method, code.name).observe(seconds)


WRITTEN_WITHIN = 1.0
"""Seconds for a message of a stream that is told to end; its reader may take none any more."""

CALL_TIMEOUT = timedelta(seconds=5)
"""How long a unary call may take that neither its caller nor an incoming call limits."""


class _Outgoing:
    """What a call takes along: bearer token, request id, actor, and no more time than is left."""

    def __init__(self, token: str | None) -> None:
        self._bearer = None if token is None else f"Bearer {token}"

    def prepared(self, details: ClientCallDetails, default: float | None) -> ClientCallDetails:
        metadata = Metadata(*(details.metadata or ()), (REQUEST_ID_KEY, request_id()))
        if self._bearer is not None:
            metadata.add("authorization", self._bearer)
        if (actor := actor_from(caller().actor)) is not None:
            metadata.add(ACTOR_KEY, actor)
        return ClientCallDetails(
            details.method,
            deadline.share(default if details.timeout is None else details.timeout),
            metadata,
            details.credentials,
            details.wait_for_ready,
        )


class UnaryCalls(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    """Prepares each unary call, and raises a Refusal where it fails."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> Any:
        prepared = self.prepared(client_call_details, CALL_TIMEOUT.total_seconds())
        try:
            return await (await continuation(prepared, request))
        except AioRpcError as error:
            raise from_rpc_error(error) from None


class StreamCalls(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    """The same for calls whose answer is a stream; grpc.aio wants a class for each shape."""

    async def intercept_unary_stream(
        self,
        continuation: Callable[[ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> AsyncIterator[Any]:
        return _refusing(await continuation(self.prepared(client_call_details, None), request))


class ExchangeCalls(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    """The same for calls of which both sides are streams."""

    async def intercept_stream_stream(
        self,
        continuation: Callable[[ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: ClientCallDetails,
        request_iterator: Any,
    ) -> AsyncIterator[Any]:
        prepared = self.prepared(client_call_details, None)
        return _refusing(await continuation(prepared, request_iterator))


async def _refusing(call: AsyncIterable[Any]) -> AsyncIterator[Any]:
    try:
        async for response in call:
            yield response
    except AioRpcError as error:
        raise from_rpc_error(error) from None
