from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from pagewire_runtime.errors import (
    UNREACHED,
    InvalidArgument,
    Kind,
    Refusal,
    Unavailable,
    Unreached,
    refusal_from,
)
from pagewire_runtime.status import CODES, from_rpc_error, to_status

WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)


def over_the_wire(status: Any) -> grpc.aio.AioRpcError:
    """What a client sees of a status."""
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailers, status.details)


def test_every_kind_has_one_code_of_its_own() -> None:
    assert set(CODES) == set(Kind)
    assert len(set(CODES.values())) == len(Kind)


@given(
    kind=st.sampled_from(Kind),
    reason=st.from_regex(r"[A-Z][A-Z0-9_]{0,60}", fullmatch=True),
    message=WORDS,
    metadata=st.dictionaries(WORDS, WORDS, max_size=4),
    retry_after=st.none() | st.integers(0, 600_000).map(lambda ms: ms / 1000),
)
def test_a_refusal_comes_out_as_it_went_in(
    kind: Kind, reason: str, message: str, metadata: dict[str, str], retry_after: float | None
) -> None:
    sent = refusal_from(kind, reason, message, metadata, retry_after)

    got = from_rpc_error(over_the_wire(to_status(sent)))

    assert (got.kind, got.reason, got.message) == (kind, reason, message)
    assert (got.metadata, got.retry_after) == (metadata, retry_after)


def test_the_status_names_our_domain() -> None:
    status: Any = to_status(InvalidArgument("page_size", "is at most 1,000"))

    rich = status_pb2.Status.FromString(status.trailing_metadata[0][1])
    info = error_details_pb2.ErrorInfo()
    assert rich.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("pagewire", "INVALID_ARGUMENT")
    assert dict(info.metadata) == {"field": "page_size"}


def test_a_long_message_is_cut_to_what_trailers_carry() -> None:
    status: Any = to_status(Refusal("x" * 100_000))

    assert len(status.details) == 1024


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Kind.TRANSIENT),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Kind.TRANSIENT),
        (grpc.StatusCode.CANCELLED, Kind.TRANSIENT),
        (grpc.StatusCode.UNKNOWN, Kind.INTERNAL),
        (grpc.StatusCode.DATA_LOSS, Kind.INTERNAL),
        (grpc.StatusCode.ABORTED, Kind.FENCED),
    ],
)
def test_a_status_without_details_has_its_codes_name_for_a_reason(
    code: grpc.StatusCode, kind: Kind
) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "why")

    refusal = from_rpc_error(error)

    assert (refusal.kind, refusal.reason) == (kind, code.name)
    assert refusal.message == (UNREACHED if kind is Kind.TRANSIENT else "why")


def test_what_a_service_says_of_itself_is_not_taken_for_a_lost_connection() -> None:
    lost = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "Socket closed"
    )

    assert isinstance(from_rpc_error(lost), Unreached)
    assert not isinstance(from_rpc_error(over_the_wire(to_status(Unavailable("x")))), Unreached)


def test_the_address_of_a_service_that_is_away_is_not_passed_on() -> None:
    told = "last error: ipv4:10.0.0.7:50051: Failed to connect to remote host"
    none = grpc.aio.Metadata()

    refusal = from_rpc_error(
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, told, told)
    )

    assert "10.0.0.7" not in refusal.message
    assert refusal.__cause__ is None


def test_details_that_contradict_their_status_are_left_alone() -> None:
    status: Any = to_status(InvalidArgument("a", "b"))
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, "other")

    refusal = from_rpc_error(error)

    assert (refusal.kind, refusal.reason) == (Kind.INTERNAL, "INTERNAL")
