"""The one place where refusals become gRPC status, and status becomes refusals again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from pagewire_runtime.errors import UNREACHED, Kind, Refusal, Unreached, refusal_from

DOMAIN = "pagewire"

CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.MISSING: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.STATE: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.FENCED: grpc.StatusCode.ABORTED,
    Kind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.TRANSIENT: grpc.StatusCode.UNAVAILABLE,
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}

# Codes that gRPC itself answers with and we never choose; any other is INTERNAL.
KINDS = {code: kind for kind, code in CODES.items()} | {
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.TRANSIENT,
    grpc.StatusCode.CANCELLED: Kind.TRANSIENT,
    grpc.StatusCode.OUT_OF_RANGE: Kind.INVALID,
}

# A status travels in trailers, which share the 16 KiB of a call's metadata.
_MESSAGE_MAX = 1024


def to_status(refusal: Refusal) -> grpc.Status:
    """The rich status: code, message, ErrorInfo, and RetryInfo where `retry_after` is set."""
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason, domain=DOMAIN, metadata=refusal.metadata
    )
    packed = [_packed(info)]
    if refusal.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=refusal.retry_after))
        packed.append(_packed(retry))
    return bare_status(CODES[refusal.kind], refusal.message, packed)


def bare_status(
    code: grpc.StatusCode, message: str, details: Sequence[any_pb2.Any] = ()
) -> grpc.Status:
    """A status for what no refusal stands behind."""
    number: int = code.value[0]
    rich = status_pb2.Status(code=number, message=message[:_MESSAGE_MAX], details=details)
    return cast("grpc.Status", rpc_status.to_status(rich))


def from_rpc_error(error: grpc.aio.AioRpcError) -> Refusal:
    """The refusal that a call met; one without ErrorInfo has its code's name for a reason.

    It may go on to our own caller, so what gRPC itself says of a connection stays out of it: the
    address of the other side stands there.
    """
    reason, metadata, retry_after = error.code().name, {}, None
    told = False
    for detail in _details(error):
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata, told = info.reason, dict(info.metadata), True
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    if error.code() is grpc.StatusCode.UNAVAILABLE and not told:
        return Unreached()
    kind = KINDS.get(error.code(), Kind.INTERNAL)
    message = error.details() or ""
    if kind is Kind.TRANSIENT and not told:
        message = UNREACHED
    return refusal_from(kind, reason, message, metadata, retry_after)


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _details(error: grpc.aio.AioRpcError) -> Sequence[any_pb2.Any]:
    try:
        rich = rpc_status.from_call(error)
    except ValueError:  # a peer whose details and code disagree: take the code's word
        return ()
    return rich.details if rich is not None else ()
