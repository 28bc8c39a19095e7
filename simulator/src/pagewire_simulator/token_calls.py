"""Tokens and setup: exchange, refresh and inspection of tokens, and the pages of a user.

These calls are not about a node of an account. Source: the pages on long-lived tokens, the
reference of Instagram's refresh, and the reference of debug_token.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pagewire_simulator import fields, reads, refusals, tokens
from pagewire_simulator.calls import Call
from pagewire_simulator.entities import Account, Host, Platform, Token, TokenKind, User
from pagewire_simulator.meta import Meta
from pagewire_simulator.paging import DEFAULT_LIMIT, Edge, Paging, Wanted
from pagewire_simulator.refusals import Refused, parameter, unsupported

Json = dict[str, Any]

LIFETIME = 5_183_944
"""Seconds that a long-lived token lives: 60 days."""
REFRESHED_AFTER = 86_400_000
TASKS = ["ANALYZE", "ADVERTISE", "MESSAGING", "MODERATE", "CREATE_CONTENT", "MANAGE"]


class TokenCall(msgspec.Struct, frozen=True):
    """``name`` is what fault scripts and the ledger call it."""

    name: str
    run: Callable[[Meta, Call], Json]


def find(meta: Meta, call: Call) -> TokenCall | None:
    """The call, if it is one of these."""
    path = f"{call.node}/{call.edge}" if call.edge else call.node
    if call.method == "GET" and (found := BY_PATH.get((call.host, path))):
        return found
    token = meta.world.tokens.get(call.shown.token or "")
    if call.method != "GET" or token is None or token.kind is not TokenKind.USER:
        return None
    if call.node in ("me", token.node) and call.edge in ("", "accounts"):
        return ACCOUNTS if call.edge else ME
    return None if call.edge else PAGE


def debug_token(meta: Meta, call: Call) -> Json:
    """Asked with the app's own token, or with one of its accounts'."""
    if call.shown.token != app_token(meta):
        tokens.identify(meta.world, call.shown, call.host, meta.clock())
    input_token = str(call.query.get("input_token", ""))
    if not input_token:
        raise Refused(parameter("The parameter input_token is required"))
    if input_token == app_token(meta):
        shown = {"app_id": meta.app.id, "type": "APP", "is_valid": True, "expires_at": 0}
        return {"data": shown | {"application": "Pagewire", "scopes": []}}
    return tokens.debug(meta.world, meta.app.id, input_token, meta.clock())


def exchange(meta: Meta, call: Call) -> Json:
    """A short-lived user token for a long-lived one, or the app's own token."""
    params = call.params
    known = params.get("client_id") == meta.app.id
    if not known or params.get("client_secret") != meta.app.secrets.app:
        raise Refused(refusals.SECRET_WRONG)
    match params.get("grant_type"):
        case "client_credentials":
            return {"access_token": app_token(meta), "token_type": "bearer"}
        case "fb_exchange_token":
            old = str(params.get("fb_exchange_token", ""))
            return lengthened(meta, living(meta, old, Host.FACEBOOK))
    raise Refused(parameter("Param grant_type must be one of the known types"))


def exchange_instagram(meta: Meta, call: Call) -> Json:
    if call.params.get("grant_type") != "ig_exchange_token":
        raise Refused(parameter("Param grant_type must be ig_exchange_token"))
    if call.params.get("client_secret") != meta.app.secrets.instagram:
        raise Refused(refusals.SECRET_WRONG)
    return lengthened(meta, living(meta, call.shown.token or "", Host.INSTAGRAM))


def refresh_instagram(meta: Meta, call: Call) -> Json:
    """Sixty days more for a token that is a day old and still good."""
    if call.params.get("grant_type") != "ig_refresh_token":
        raise Refused(parameter("Param grant_type must be ig_refresh_token"))
    token = living(meta, call.shown.token or "", Host.INSTAGRAM)
    if meta.clock() - token.issued_at < REFRESHED_AFTER:
        raise Refused(parameter("The access token is less than 24 hours old"))
    return lengthened(meta, token)


def living(meta: Meta, value: str, host: Host) -> Token:
    shown = tokens.Credentials(value, in_url=False, proof=None, proof_time=None)
    return tokens.identify(meta.world, shown, host, meta.clock())


def lengthened(meta: Meta, token: Token) -> Json:
    made = meta.world.renew(token, meta.clock(), LIFETIME * 1000)
    return {"access_token": made.value, "token_type": "bearer", "expires_in": LIFETIME}


def read_user(meta: Meta, call: Call) -> Json:
    user = user_of(meta, call)
    asked = fields.parse(str(call.params.get("fields", "")) or "id,name")
    return reads.cut({"id": user.id, "name": user.name}, asked)


def list_accounts(meta: Meta, call: Call) -> Json:
    """The user's Pages with their tokens; too many at once are refused as conversations are."""
    user, world = user_of(meta, call), meta.world
    limit = str(call.params.get("limit", ""))
    wanted = Wanted(
        limit=max(1, int(limit)) if limit.isdigit() else DEFAULT_LIMIT,
        after=call.params.get("after") or None,
        before=call.params.get("before") or None,
    )
    reading = meta.options.reading
    if reading.refused_above is not None and wanted.limit > reading.refused_above:
        raise Refused(refusals.TOO_MUCH)
    pages = [world.account(node) for node in user.pages]
    paging = Paging(seed=meta.seed, reading=reading, root=call.root, token=call.shown.token or "")
    edge = Edge(node=user.id, name="accounts")
    return paging.page(
        edge, pages, wanted, lambda page: shown_page(meta, page, call), lambda page: page.id
    )


def read_page(meta: Meta, call: Call) -> Json:
    """A user's token reads its Pages themselves; all else wants the Page's own token."""
    if call.node not in user_of(meta, call).pages:
        raise Refused(unsupported(call.node))
    return shown_page(meta, meta.world.account(call.node), call)


def shown_page(meta: Meta, page: Account, call: Call) -> Json:
    token = meta.world.token_of(page)
    linked = [a for a in meta.world.accounts_of(page.id) if a.platform is Platform.INSTAGRAM]
    known = {
        "id": page.id,
        "name": page.name,
        "category": "Shopping & Retail",
        "access_token": token.value if token else None,
        "tasks": TASKS,
        "instagram_business_account": {"id": linked[0].id} if linked else None,
    }
    default = "id,name,category,access_token,tasks"
    return reads.cut(known, fields.parse(str(call.params.get("fields", "")) or default))


def user_of(meta: Meta, call: Call) -> User:
    """Raises Refused for a token or a proof that is not good."""
    now = meta.clock()
    token = tokens.identify(meta.world, call.shown, call.host, now)
    proof = tokens.judge_proof(meta.app.secrets.of(token.host), call.shown, now)
    tokens.check_proof(proof, required=meta.options.require_proof)
    return meta.world.users[token.node]


def app_token(meta: Meta) -> str:
    return f"{meta.app.id}|{meta.app.secrets.app}"


ME = TokenCall("user", read_user)
ACCOUNTS = TokenCall("accounts", list_accounts)
PAGE = TokenCall("page", read_page)
BY_PATH = {
    (Host.FACEBOOK, "debug_token"): TokenCall("debug_token", debug_token),
    (Host.INSTAGRAM, "debug_token"): TokenCall("debug_token", debug_token),
    (Host.FACEBOOK, "oauth/access_token"): TokenCall("token_exchange", exchange),
    (Host.INSTAGRAM, "access_token"): TokenCall("token_exchange", exchange_instagram),
    (Host.INSTAGRAM, "refresh_access_token"): TokenCall("token_refresh", refresh_instagram),
}
