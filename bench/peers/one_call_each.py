"""Pagewire's own public part, but with one Ingest call a webhook: what coalescing is worth."""

from __future__ import annotations

import asyncio

from pagewire.store.v1.ingest_service_pb2 import Delivery, DeliveryResult, DeliveryState
from pagewire_runtime import logs
from pagewire_runtime.calling import channel
from pagewire_runtime.serving import run, until_signalled
from pagewire_runtime.settings import load
from pagewire_webhook.ingesting import ANSWER_SECONDS, Ingest, Ingesting, NotStored, ingest_over
from pagewire_webhook.listening import listening
from pagewire_webhook.main import MESSAGE_BYTES
from pagewire_webhook.public import PublicConfig, public_app
from pagewire_webhook.settings import Settings
from pagewire_webhook.signature import secrets_of
from pagewire_webhook.wire import framed


class OneCallEach(Ingesting):
    """Calls the store for each delivery by itself."""

    def __init__(self, ingest: Ingest) -> None:
        super().__init__(ingest)
        self._call_alone = ingest

    async def store(self, delivery: Delivery, *, deadline: float | None = None) -> DeliveryResult:
        now = asyncio.get_running_loop().time()
        left = ANSWER_SECONDS if deadline is None else deadline - now
        response = await self._call_alone(framed(delivery), timeout=left)
        result = response.results[0]
        if result.state != DeliveryState.DELIVERY_STATE_STORED:
            raise NotStored(result.reason)
        return result


async def serve() -> None:
    settings = load(Settings)
    logs.configure("webhook", settings.log_level)
    secrets = [each.get_secret_value() for each in settings.app_secrets or ()]
    assert settings.verify_token is not None
    config = PublicConfig(secrets_of(secrets), settings.verify_token.get_secret_value().encode())
    token = settings.service_tokens.first("webhook")
    async with channel(
        settings.store_target, token=token, max_message_bytes=MESSAGE_BYTES
    ) as store:
        app = public_app(config, OneCallEach(ingest_over(store)))
        async with listening(app, settings.webhook_listen, taker=app.taker):
            await until_signalled()


if __name__ == "__main__":
    run(serve)
