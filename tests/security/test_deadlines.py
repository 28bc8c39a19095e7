"""Time that is passed on: each service has less than the one that asks it."""

import asyncio
from typing import Any

import pytest

from pagewire_runtime.calling import channel
from pagewire_runtime.errors import Refusal
from tests.runtime.conftest import SYNC_TOKEN, Serve, serve, unary

__all__ = ["serve"]

STEP = 0.1
"""Seconds; gRPC rounds what is left up to the next step of its header."""


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
            await unary(edge)(b"", timeout=4.0)

    at_rules, at_store = given
    assert 0 < at_rules <= 4.0 + STEP
    assert 0 < at_store <= at_rules * 0.9 + STEP


async def test_a_hop_that_hangs_ends_each_before_the_one_that_asked_it(serve: Serve) -> None:
    ended: list[str] = []

    async def hangs(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("store")
        raise AssertionError

    async with serve(hangs) as store:

        async def between(request: bytes, context: Any) -> bytes:
            try:
                return bytes(await store.unary(b"", timeout=60))
            finally:
                ended.append("rules")

        async with serve(between) as rules, channel(rules.target, token=SYNC_TOKEN) as edge:
            with pytest.raises(Refusal):
                await unary(edge)(b"", timeout=2.0)
            ended.append("edge")

    assert sorted(ended[:2]) == ["rules", "store"]
    assert ended[2] == "edge"


async def test_no_call_of_ours_goes_without_a_deadline(serve: Serve) -> None:
    given: list[float | None] = []

    async def tells(request: bytes, context: Any) -> bytes:
        given.append(context.time_remaining())
        return b""

    async with serve(tells) as echo:
        await echo.unary(b"")

    (left,) = given
    assert left is not None
    assert 0 < left <= 5.0 + STEP
