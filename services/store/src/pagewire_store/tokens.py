"""Page tokens at rest: sealed with AES-256-GCM, bound to their page, re-sealed when keys change.

A sealed token is the length of the key id in one byte, the key id, a nonce of 12 bytes, and the
ciphertext with its tag. The page id is the associated data: a row moved to another page opens no
more.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire_runtime.auth import Caller, calling_as
from pagewire_runtime.errors import Kind, Refusal, SettingsError
from pagewire_runtime.logs import get_logger
from pagewire_store.audit import record
from pagewire_store.database import in_transaction

log = get_logger(__name__)

_OURSELVES = Caller(role="store", actor="upkeep")

_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class TokenUnreadable(Refusal):
    """A stored token that none of our keys opens."""

    kind = Kind.STATE
    reason = "TOKEN_UNREADABLE"


@dataclass(frozen=True)
class TokenKeys:
    """Keys by id, in the order they were configured: the first seals, all of them open."""

    by_id: Mapping[str, bytes] = field(repr=False)

    def seal(self, page_id: str, token: str) -> bytes:
        """The token as it is stored for this page."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = AESGCM(self.by_id[self.sealing])
        sealed = cipher.encrypt(nonce, token.encode(), page_id.encode())
        return self.prefix + nonce + sealed

    def open(self, page_id: str, sealed: bytes) -> str:
        """The token that was sealed for this page.

        Raises TokenUnreadable: its key is not configured any more, or it is another page's.
        """
        key_id, nonce, ciphertext = _parts(sealed)
        key = self.by_id.get(key_id)
        if key is None:
            raise TokenUnreadable(
                f"the token of page {page_id} was sealed with the key {key_id}: put that key back"
                " into TOKEN_ENCRYPTION_KEYS, or connect the page again",
                page_id=page_id,
                key_id=key_id,
            )
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, page_id.encode()).decode()
        except InvalidTag:
            raise TokenUnreadable(
                f"the stored token of page {page_id} is not what was sealed for it:"
                " connect the page again",
                page_id=page_id,
                key_id=key_id,
            ) from None

    @property
    def sealing(self) -> str:
        """The id of the key that seals."""
        return next(iter(self.by_id))

    @property
    def prefix(self) -> bytes:
        """What a token begins with that the first key has sealed."""
        key_id = self.sealing.encode()
        return bytes([len(key_id)]) + key_id

    def derived(self, purpose: bytes) -> list[bytes]:
        """A key for another purpose from each of the keys, in their order."""
        return [hmac.digest(key, purpose, "sha256") for key in self.by_id.values()]


def parse_token_keys(value: str) -> TokenKeys:
    """Reads `kid:base64url-32-bytes`, comma-separated.

    Raises SettingsError, which names the entry's position, never its value.
    """
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if not entries:
        raise SettingsError("TOKEN_ENCRYPTION_KEYS: must hold at least one key")
    keys: dict[str, bytes] = {}
    for at, entry in enumerate(entries, start=1):
        key_id, key = _key(at, entry)
        if key_id in keys:
            raise SettingsError(f"TOKEN_ENCRYPTION_KEYS: entry {at} repeats the id of another key")
        keys[key_id] = key
    return TokenKeys(keys)


def _key(at: int, entry: str) -> tuple[str, bytes]:
    key_id, _, encoded = entry.partition(":")
    if not _KEY_ID.fullmatch(key_id):
        raise SettingsError(
            f"TOKEN_ENCRYPTION_KEYS: entry {at} does not begin with a key id"
            " (letters, digits, _ . -) and a colon"
        )
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise SettingsError(
            f"TOKEN_ENCRYPTION_KEYS: the key of entry {at} is not {_KEY_BYTES} bytes in base64url"
        )
    return key_id, key


def _parts(sealed: bytes) -> tuple[str, bytes, bytes]:
    start = 1 + sealed[0]
    end = start + _NONCE_BYTES
    return sealed[1:start].decode(), sealed[start:end], sealed[end:]


_STALE = text("""
    select page_id, token from page
    where page_id > :after and substring(token from 1 for length(:prefix)) <> :prefix
    order by page_id limit :at_most
    for update skip locked
""")

_RESEALED = text("""
    update page set token = fresh.token
    from unnest(cast(:page_ids as text[]), cast(:tokens as bytea[])) as fresh (page_id, token)
    where page.page_id = fresh.page_id
""")


async def reseal(engine: AsyncEngine, keys: TokenKeys, chunk: int = 100) -> int:
    """Seals with the first key what an older key had sealed, `chunk` rows a transaction.

    Returns how many; the audit has a row of each transaction, with the number and the key's id.
    Tokens that no key opens stay as they are, and the log says so. The version of a token counts
    its changes, not those of its seal.
    """
    after, resealed = "", 0
    while True:
        step = partial(_reseal, keys=keys, after=after, at_most=chunk)
        last, done = await in_transaction(engine, step)
        resealed += done
        if last is None:
            return resealed
        after = last


async def _reseal(
    connection: AsyncConnection, keys: TokenKeys, after: str, at_most: int
) -> tuple[str | None, int]:
    """The last page id that was looked at (None at the end), and how many were sealed anew."""
    found = await connection.execute(
        _STALE, {"after": after, "prefix": keys.prefix, "at_most": at_most}
    )
    rows = found.all()
    fresh: dict[str, bytes] = {}
    for page_id, sealed in rows:
        try:
            fresh[page_id] = keys.seal(page_id, keys.open(page_id, sealed))
        except TokenUnreadable as refusal:
            log.error("a page's token cannot be opened", **refusal.metadata)
    if fresh:
        await connection.execute(
            _RESEALED, {"page_ids": list(fresh), "tokens": list(fresh.values())}
        )
        with calling_as(_OURSELVES):
            await record(connection, "tokens.reseal", keys.sealing, f"{len(fresh)} tokens")
    return (rows[-1].page_id if len(rows) == at_most else None), len(fresh)
