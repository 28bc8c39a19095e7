"""How much more a service is asked because it could not answer."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from pagewire.store.v1.outbox_service_pb2 import GetReplyRequest
from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceStub
from pagewire_rules.main import REPEATABLE as RULES_REPEAT
from pagewire_runtime import metrics
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Kind, Refusal, Unavailable
from pagewire_store.main import storing
from pagewire_store.settings import Settings
from pagewire_sync.main import REPEATABLE as SYNC_REPEATS
from pagewire_webhook.operator.app import REPEATABLE as OPERATOR_REPEATS
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary
from tests.support.stored import KEYS, SERVICE_TOKENS

if TYPE_CHECKING:
    from pagewire.store.v1.outbox_service_pb2_grpc import OutboxServiceAsyncStub

__all__ = ["serve"]

UNARY = "/test.Echo/Unary"
CALLS = 100


async def test_a_store_that_answers_nobody_is_asked_at_most_a_fifth_more_often(
    serve: Serve,
) -> None:
    asked = 0

    async def down(request: bytes, context: Any) -> bytes:
        nonlocal asked
        asked += 1
        raise Unavailable("PostgreSQL")

    async with (
        serve(down) as echo,
        channel(echo.target, token=SYNC_TOKEN, repeatable=[UNARY]) as client,
    ):
        call = unary(client)
        for _ in range(CALLS):
            with pytest.raises(Refusal):
                await call(b"", timeout=30)

    assert CALLS <= asked <= 1.2 * CALLS


async def test_a_store_without_its_database_is_asked_at_most_a_fifth_more_often() -> None:
    values: dict[str, Any] = {
        "database_url": "postgresql://nobody@/none?host=/nonexistent",
        "token_keys": KEYS,
        "service_tokens": SERVICE_TOKENS,
        "listen": "127.0.0.1:0",
    }
    before = asked_of_the_store()
    async with (
        storing(Settings(**values)) as server,
        channel(
            f"127.0.0.1:{server.port}", token=SERVICE_TOKENS.first("sync"), repeatable=SYNC_REPEATS
        ) as client,
    ):
        store: OutboxServiceAsyncStub = OutboxServiceStub(client)
        for _ in range(CALLS):
            with pytest.raises(Refusal) as refused:
                await store.GetReply(GetReplyRequest(reply_id="r-1-1"), timeout=30)
            assert refused.value.kind is Kind.TRANSIENT

    assert CALLS <= asked_of_the_store() - before <= 1.2 * CALLS


def asked_of_the_store() -> float:
    """How often it answered that it cannot."""
    method = "/pagewire.store.v1.OutboxService/GetReply"
    labels = {"method": method, "code": "UNAVAILABLE"}
    return metrics.registry.get_sample_value("pagewire_rpc_seconds_count", labels) or 0.0


async def test_a_store_that_is_back_is_asked_again_when_it_fails_once(serve: Serve) -> None:
    answers = Counter[str]()

    async def seldom(request: bytes, context: Any) -> bytes:
        answers["asked"] += 1
        if answers["asked"] % 20 == 0:
            raise Unavailable("PostgreSQL")
        return b"fine"

    async with (
        serve(seldom) as echo,
        channel(echo.target, token=SYNC_TOKEN, repeatable=[UNARY]) as client,
    ):
        call = unary(client)
        got = [await call(b"", timeout=30) for _ in range(CALLS)]

    assert got == [b"fine"] * CALLS


def services(methods: Iterable[str]) -> set[str]:
    return {method.rpartition("/")[0] for method in methods}


def test_of_two_services_behind_each_other_only_one_repeats() -> None:
    """What rules or sync ask the store again is not asked of rules or sync again by the edge."""
    behind_rules = services(RULES_REPEAT)
    through_rules = {each for each in OPERATOR_REPEATS if each.startswith("/pagewire.rules.")}
    through_sync = {each for each in OPERATOR_REPEATS if each.startswith("/pagewire.sync.")}

    assert behind_rules == {"/pagewire.store.v1.RuleBookService"}
    assert services(SYNC_REPEATS) == {"/pagewire.store.v1.OutboxService"}
    assert through_rules == set()
    assert through_sync == set()
