"""The running simulator: one Meta at a time, and the two faces that act on it."""

from typing import Any

from pagewire_simulator.calls import Receive, Scope, Send
from pagewire_simulator.control import control
from pagewire_simulator.graph import Graph
from pagewire_simulator.handshake import Endpoint
from pagewire_simulator.meta import App, Meta


class Simulator:
    """An ASGI application: ``/facebook`` and ``/instagram`` are Graph, ``/_control`` is ours.

    ``endpoint`` is the app's webhook where it is known from the start; it may come up later.
    """

    def __init__(
        self, app: App, *, seed: int, verify_token: str, endpoint: Endpoint | None
    ) -> None:
        self.meta = Meta(app, seed)
        self.verify_token = verify_token
        self._endpoint = endpoint
        self._graph = Graph(lambda: self.meta)
        self._control = control(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: Any = scope.get("path", "")
        if path.startswith(("/facebook/", "/instagram/")):
            await self._graph(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    def start(self) -> None:
        """Begins to call the webhook, once there is a running loop."""
        if self._endpoint is not None:
            self.meta.sender.expect(self._endpoint)

    async def reset(self, seed: int) -> None:
        """Forgets everything but the webhook, the plan of delivery and the latency profile."""
        old, self.meta = self.meta, self.meta.reborn(seed)
        await old.close()
        endpoint = self.meta.sender.endpoint
        if endpoint is not None and not self.meta.sender.verified:
            self.meta.sender.expect(endpoint)

    async def close(self) -> None:
        await self.meta.close()
