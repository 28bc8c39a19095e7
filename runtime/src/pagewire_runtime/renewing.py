"""A channel that goes on with new certificates once its files were replaced.

gRPC's Python takes a client's certificate for the whole life of a channel, so a new one needs a new
channel. It takes over once a connection of it stands; calls under way end on the old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from pagewire_runtime.tls import Files, Tls

LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""
CONNECT_WITHIN = 5.0
"""Seconds that a new channel has for its first connection, before it is tried anew."""
RETIRE_AFTER = 11 * 60.0
"""Seconds before the old channel is closed: longer than servers let a connection live, so that they
have ended the streams on it, and no call is cut off from this side."""

Connect = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]


class _Call:
    """A method to call, on whichever channel is in use."""

    def __init__(self, make: Callable[[grpc.aio.Channel], Any], channel: grpc.aio.Channel) -> None:
        self._make = make
        self.bind(channel)

    def bind(self, channel: grpc.aio.Channel) -> None:
        self._bound = self._make(channel)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._bound(*args, **named)


async def _retire(channel: grpc.aio.Channel) -> None:
    try:
        await asyncio.sleep(RETIRE_AFTER)
    finally:
        await channel.close()


class RenewingChannel(grpc.aio.Channel):
    """To be made where a loop runs; `connect` makes a channel with the credentials given."""

    def __init__(self, tls: Tls, connect: Connect) -> None:
        """Raises SettingsError where the files are not sound."""
        self._connect = connect
        self._files = Files(tls)
        self._calls: list[_Call] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._channel = self._made()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        due = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            due = self._files.renewed() is not None or due
            if due:
                due = not await self._replaced()

    async def _replaced(self) -> bool:
        fresh = self._made()
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await fresh.channel_ready()
        except TimeoutError:  # the other side may have to learn of a new authority first
            await fresh.close()
            return False
        except BaseException:
            await fresh.close()
            raise
        old, self._channel = self._channel, fresh
        for call in self._calls:
            call.bind(fresh)
        self._retiring.add(retiring := asyncio.create_task(_retire(old)))
        retiring.add_done_callback(self._retiring.discard)
        return True

    def _made(self) -> grpc.aio.Channel:
        return self._connect(self._files.current.channel_credentials())

    def _call(self, make: Callable[[grpc.aio.Channel], Any]) -> Any:
        call = _Call(make, self._channel)
        self._calls.append(call)
        return call

    def unary_unary(self, *args: Any, **named: Any) -> Any:
        return self._call(lambda channel: channel.unary_unary(*args, **named))

    def unary_stream(self, *args: Any, **named: Any) -> Any:
        return self._call(lambda channel: channel.unary_stream(*args, **named))

    def stream_unary(self, *args: Any, **named: Any) -> Any:
        return self._call(lambda channel: channel.stream_unary(*args, **named))

    def stream_stream(self, *args: Any, **named: Any) -> Any:
        return self._call(lambda channel: channel.stream_stream(*args, **named))

    async def __aenter__(self) -> RenewingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        ending = [self._keeping, *self._retiring]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()
