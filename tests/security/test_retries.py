"""How much more a service is asked because it could not answer."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from pagewire_rules.main import REPEATABLE as RULES_REPEAT
from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal, Unavailable
from pagewire_sync.main import REPEATABLE as SYNC_REPEATS
from pagewire_webhook.operator.app import REPEATABLE as OPERATOR_REPEATS
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary

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
