"""The straight-line receiver that most are: verify, write three rows by ORM, call Graph, answer.

Each event is a transaction; blocking work goes to threads. The rule is written into the code.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bench.peers.bare import signed
from bench.traffic import TRIGGER_WORD

POOL = 16
REPLY = "Hi, it is 10 euro"


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "event"
    key: Mapped[str] = mapped_column(primary_key=True)
    page_id: Mapped[str]
    body: Mapped[str]
    received_at: Mapped[datetime]


class Conversation(Base):
    __tablename__ = "conversation"
    page_id: Mapped[str] = mapped_column(primary_key=True)
    person_id: Mapped[str] = mapped_column(primary_key=True)
    snippet: Mapped[str]
    updated_at: Mapped[datetime]


class Message(Base):
    __tablename__ = "message"
    mid: Mapped[str] = mapped_column(primary_key=True)
    page_id: Mapped[str]
    person_id: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[datetime]


class Receiver:
    """`tokens` are the pages'; `graph` is Graph's address with its version."""

    def __init__(
        self, sessions: sessionmaker[Session], graph: str, secret: bytes, tokens: dict[str, str]
    ) -> None:
        self._sessions = sessions
        self._graph = graph
        self._secret = secret
        self._tokens = tokens
        self._http = httpx.Client(trust_env=False, timeout=10)

    async def hook(self, request: Request) -> Response:
        body = await request.body()
        claim = request.headers.get("x-hub-signature-256", "").encode()
        if not signed(body, claim, self._secret):
            return PlainTextResponse("bad signature", 403)
        await run_in_threadpool(self._receive, json.loads(body))
        return PlainTextResponse("ok")

    def _receive(self, webhook: dict[str, Any]) -> None:
        for entry in webhook["entry"]:
            for item in entry["messaging"]:
                if self._is_new(entry["id"], item) and TRIGGER_WORD in item["message"]["text"]:
                    self._answer(entry["id"], item["sender"]["id"])

    def _is_new(self, page_id: str, item: dict[str, Any]) -> bool:
        person_id, message = item["sender"]["id"], item["message"]
        mid, text = message["mid"], message["text"]
        now, at = datetime.now(UTC), datetime.fromtimestamp(item["timestamp"] / 1000, UTC)
        with self._sessions() as session:
            if session.get(Event, mid):
                return False
            session.add(Event(key=mid, page_id=page_id, body=json.dumps(item), received_at=now))
            session.merge(
                Conversation(page_id=page_id, person_id=person_id, snippet=text, updated_at=at)
            )
            session.add(
                Message(mid=mid, page_id=page_id, person_id=person_id, text=text, created_at=at)
            )
            try:
                session.commit()
            except IntegrityError:  # another thread was first: with this message, or this person
                return self._is_new(page_id, item)
        return True

    def _answer(self, page_id: str, person_id: str) -> None:
        token = self._tokens[page_id]
        proof = hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()
        answer = self._http.post(
            f"{self._graph}/{page_id}/messages",
            params={"appsecret_proof": proof},
            headers={"Authorization": f"Bearer {token}"},
            json={
                "recipient": {"id": person_id},
                "messaging_type": "RESPONSE",
                "message": {"text": REPLY},
            },
        )
        answer.raise_for_status()


def app() -> Starlette:
    url = make_url(os.environ["PEER_DATABASE_URL"]).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=POOL, max_overflow=0)
    Base.metadata.create_all(engine)
    receiver = Receiver(
        sessionmaker(engine),
        os.environ["PEER_GRAPH"],
        os.environ["PEER_SECRET"].encode(),
        json.loads(os.environ["PEER_TOKENS"]),
    )
    return Starlette(routes=[Route("/api/webhook", receiver.hook, methods=["POST"])])
