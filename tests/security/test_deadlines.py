"""Time that is passed on: each service has less than the one that asks it."""

import asyncio
import time
from typing import Any

import pytest

from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary

__all__ = ["serve"]


async def test_each_hop_has_a_tenth_less_than_the_one_before(serve: Serve) -> None:
    given: list[float] = []

    async def last(request: bytes, context: Any) -> bytes:
        given.append(context.time_remaining())
        return b""

    async with serve(last) as store:

        async def between(request: bytes, context: Any) -> bytes:
            given.append(context.time_remaining())
            return bytes(await store.unary(b"", timeout=60))

        async with serve(between) as rules, channel(rules.target, token=SYNC_TOKEN) as edge:
            await unary(edge)(b"", timeout=2.0)

    at_rules, at_store = given
    assert at_rules <= 2.0
    assert 1.5 < at_store <= 1.8


async def test_a_hop_that_hangs_ends_each_before_the_one_that_asked_it(serve: Serve) -> None:
    ended: dict[str, float] = {}

    async def hangs(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended["store"] = time.monotonic()
        raise AssertionError

    async with serve(hangs) as store:

        async def between(request: bytes, context: Any) -> bytes:
            try:
                return bytes(await store.unary(b"", timeout=60))
            finally:
                ended["rules"] = time.monotonic()

        async with serve(between) as rules, channel(rules.target, token=SYNC_TOKEN) as edge:
            began = time.monotonic()
            with pytest.raises(Refusal):
                await unary(edge)(b"", timeout=1.0)
            ended["edge"] = time.monotonic()

    assert ended["rules"] <= ended["edge"]
    assert ended["rules"] - began < 1.0
    assert ended["store"] - began < 1.0


async def test_no_call_of_ours_goes_without_a_deadline(serve: Serve) -> None:
    given: list[float | None] = []

    async def tells(request: bytes, context: Any) -> bytes:
        given.append(context.time_remaining())
        return b""

    async with serve(tells) as echo:
        await echo.unary(b"")

    (left,) = given
    assert left is not None
    assert left <= 5.0
