"""The webhooks of a load: text messages, spread by chance over the people of several pages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from pagewire_simulator import wire

TRIGGER_WORD = "price"
"""The word that the loads' one rule looks for."""

_WORDS = (
    "hello order shipping refund where when please thanks size color blue red want buy discount",
    "promo code delivery today tomorrow status account help support agent human location open",
    "hours large small medium return exchange gift",
)
_FIRST_PERSON = 7_000_000_000_000_000


class Message(msgspec.Struct, frozen=True):
    """One message: whose, to whom, and whether it asks for an answer."""

    page_id: str
    person_id: str
    mid: str
    text: str
    asks: bool


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """So many messages; the same values give the same messages, in every process.

    `name` is in every mid, so no two loads share one. A share of `asking` (0 to 1) asks the price.
    """

    name: str
    pages: tuple[str, ...]
    people: int
    """Of each page."""
    messages: int
    sent_ms: int
    asking: float = 0.0
    per_body: int = 1

    def each(self) -> Iterator[Message]:
        """The messages, in order."""
        chance, known = random.Random(self.name), " ".join(_WORDS).split()
        for at in range(self.messages):
            page = chance.randrange(len(self.pages))
            asks = chance.random() < self.asking
            words = chance.choices(known, k=chance.randint(4, 24))
            if asks:
                words[chance.randrange(len(words))] = TRIGGER_WORD
            person = person_id(page, chance.randrange(self.people))
            mid = f"{self.mid_prefix}{at:07d}-{chance.randbytes(32).hex()}"
            yield Message(self.pages[page], person, mid, " ".join(words), asks)

    @property
    def mid_prefix(self) -> str:
        return f"m_{self.name}-"

    def bodies(self) -> Iterator[bytes]:
        """The POSTs, each of `per_body` messages."""
        entries = [_entry(message, self.sent_ms) for message in self.each()]
        for at in range(0, len(entries), self.per_body):
            yield wire.encode({"object": "page", "entry": entries[at : at + self.per_body]})


def person_id(page: int, person: int) -> str:
    """The id of a page's nth person."""
    return str(_FIRST_PERSON + page * 1_000_000 + person)


def request(body: bytes, secret: str, path: str) -> bytes:
    """The whole HTTP request that Meta would send."""
    headers = {"Host": "localhost", **wire.signed(body, secret), "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _entry(message: Message, sent_ms: int) -> dict[str, Any]:
    return {
        "id": message.page_id,
        "time": sent_ms,
        "messaging": [
            {
                "sender": {"id": message.person_id},
                "recipient": {"id": message.page_id},
                "timestamp": sent_ms,
                "message": {"mid": message.mid, "text": message.text},
            }
        ],
    }
