"""A bare Starlette app: verifies, decodes, answers, and keeps nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Party(msgspec.Struct):
    id: str


class Message(msgspec.Struct):
    mid: str
    text: str | None = None
    attachments: list[Any] | None = None


class Messaging(msgspec.Struct):
    sender: Party
    recipient: Party
    timestamp: int
    message: Message | None = None


class Entry(msgspec.Struct):
    id: str
    time: int
    messaging: list[Messaging] = []
    changes: list[Any] = []


class Webhook(msgspec.Struct):
    object: str
    entry: list[Entry]


decode = msgspec.json.Decoder(Webhook).decode


def signed(body: bytes, claim: bytes, secret: bytes) -> bool:
    """Whether the header's claim is the body's signature."""
    digest = hmac.digest(secret, body, hashlib.sha256).hex()
    return hmac.compare_digest(b"sha256=" + digest.encode(), claim)


def app() -> Starlette:
    secret = os.environ["PEER_SECRET"].encode()

    async def hook(request: Request) -> Response:
        body = await request.body()
        if not signed(body, request.headers.get("x-hub-signature-256", "").encode(), secret):
            return Response(status_code=403)
        decode(body)
        return Response(b"ok")

    return Starlette(routes=[Route("/api/webhook", hook, methods=["POST"])])
