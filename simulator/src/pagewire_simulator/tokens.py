"""Who calls: access tokens, their states, and the proof of the app secret.

Pure. Source: the pages on access tokens and securing requests.
"""

import hashlib
import hmac
from typing import Any

import msgspec

from pagewire_simulator import refusals
from pagewire_simulator.entities import Host, Token, TokenKind, TokenState
from pagewire_simulator.refusals import Refused
from pagewire_simulator.world import World

PROOF_SECONDS = 300
SCOPES = ["pages_messaging", "pages_manage_metadata", "pages_manage_engagement"]
STATES = {
    TokenState.EXPIRED: refusals.TOKEN_EXPIRED,
    TokenState.PASSWORD_CHANGED: refusals.TOKEN_PASSWORD_CHANGED,
    TokenState.APP_REMOVED: refusals.TOKEN_APP_REMOVED,
    TokenState.ROLE_LOST: refusals.TOKEN_ROLE_LOST,
    TokenState.CHECKPOINTED: refusals.TOKEN_CHECKPOINTED,
}


class Credentials(msgspec.Struct, frozen=True):
    """What the caller showed; ``in_url`` where the token stood in the address."""

    token: str | None
    in_url: bool
    proof: str | None
    proof_time: str | None


def credentials(query: dict[str, Any], form: dict[str, Any], authorization: str) -> Credentials:
    scheme, _, bearer = authorization.partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else None
    in_url = "access_token" in query
    params = form | query
    proof, proof_time = params.get("appsecret_proof"), params.get("appsecret_time")
    return Credentials(
        token=token or params.get("access_token"),
        in_url=in_url,
        proof=None if proof is None else str(proof),
        proof_time=None if proof_time is None else str(proof_time),
    )


def identify(world: World, shown: Credentials, host: Host, now: int) -> Token:
    """The caller's token; raises Refused (104, or 190 with the subcode of its state)."""
    if not shown.token:
        raise Refused(refusals.TOKEN_MISSING)
    token = world.tokens.get(shown.token)
    if token is None or token.host is not host:
        raise Refused(refusals.TOKEN_UNREADABLE)
    if refusal := dead(token, now):
        raise Refused(refusal)
    return token


def dead(token: Token, now: int) -> refusals.Refusal | None:
    """Why the token is refused, if it is."""
    if token.expires_at and now >= token.expires_at:
        return refusals.TOKEN_EXPIRED
    return STATES.get(token.state)


def proof_of(secret: str, token: str, at: str | None = None) -> str:
    """The proof: HMAC-SHA256 of the token, or of ``token|unix_time`` in the timestamped form."""
    message = token if at is None else f"{token}|{at}"
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()


def judge_proof(secret: str, shown: Credentials, now: int) -> str:
    """``ok``, ``missing`` or ``wrong``; the timestamped form is good for five minutes."""
    if shown.proof is None:
        return "missing"
    expected = proof_of(secret, shown.token or "", shown.proof_time)
    if not hmac.compare_digest(expected, shown.proof):
        return "wrong"
    if shown.proof_time is not None:
        fresh = shown.proof_time.isdigit()
        fresh = fresh and abs(now / 1000 - int(shown.proof_time)) <= PROOF_SECONDS
        return "ok" if fresh else "wrong"
    return "ok"


def check_proof(proof: str, *, required: bool) -> None:
    if proof == "wrong":
        raise Refused(refusals.PROOF_WRONG)
    if proof == "missing" and required:
        raise Refused(refusals.PROOF_MISSING)


def debug(world: World, app_id: str, input_token: str, now: int) -> dict[str, Any]:
    """What ``/debug_token`` says of a token; raises Refused for one that can't be read."""
    token = world.tokens.get(input_token)
    if token is None:
        raise Refused(refusals.TOKEN_UNREADABLE)
    refusal = dead(token, now)
    is_user = token.host is Host.INSTAGRAM or token.kind is TokenKind.USER
    data: dict[str, Any] = {
        "app_id": app_id,
        "type": "USER" if is_user else "PAGE",
        "application": "Pagewire",
        "is_valid": refusal is None,
        "issued_at": token.issued_at // 1000,
        "expires_at": token.expires_at // 1000,
        "data_access_expires_at": 0,
        "user_id" if is_user else "profile_id": token.node,
        "scopes": SCOPES,
        "granular_scopes": [{"scope": scope} for scope in SCOPES],
    }
    if refusal:
        data["error"] = {
            "code": refusal.code,
            "message": refusal.message,
            "subcode": refusal.subcode,
        }
    return {"data": data}
