"""What the control interface takes: one struct a request body, keys left out keep defaults."""

from typing import Any

import msgspec

from pagewire_simulator.acts import AnyAct
from pagewire_simulator.entities import Host, Platform, TokenState
from pagewire_simulator.faults import Script
from pagewire_simulator.limits import Allowance
from pagewire_simulator.meta import Echoes


class Reset(msgspec.Struct, kw_only=True):
    seed: int = 1


class NewAccount(msgspec.Struct, kw_only=True):
    """``subscribed_fields`` None: all webhook fields are subscribed already; []: none is."""

    platform: Platform = Platform.MESSENGER
    login: Host = Host.FACEBOOK
    id: str | None = None
    name: str | None = None
    page_id: str | None = None
    token: str | None = None
    subscribed_fields: list[str] | None = None


class AccountChange(msgspec.Struct, kw_only=True):
    """``issued_at`` and ``expires_at`` are Unix milliseconds, the latter 0 for never.

    ``echo`` replaces the account's habits, ``reading`` the keys that it names (see ``Reading``).
    """

    token: str | None = None
    token_state: TokenState | None = None
    issued_at: int | None = None
    expires_at: int | None = None
    subscribed_fields: list[str] | None = None
    echo: Echoes | None = None
    reading: dict[str, Any] | None = None


class NewUser(msgspec.Struct, kw_only=True):
    """Someone with tasks on Pages, whose token lives for so many seconds."""

    pages: list[str]
    expires_in: float = 3600


class NewPerson(msgspec.Struct, kw_only=True):
    account: str
    id: str | None = None
    name: str | None = None
    blocked: bool = False


class NewPost(msgspec.Struct, kw_only=True):
    account: str
    text: str = ""
    ad: bool = False


class ThreadChange(msgspec.Struct, kw_only=True):
    """``poison``: Graph fails on whatever shows more of the conversation than its id and time."""

    poison: bool | None = None
    folder: str | None = None


class Acts(msgspec.Struct, kw_only=True):
    """Several acts at once; ``batch`` merges their events, so many an entry list at most."""

    acts: list[AnyAct]
    batch: int | None = None


class Arriving(msgspec.Struct, kw_only=True):
    """Acts that are done once ``after`` calls of the account to ``endpoint`` were answered."""

    account: str
    acts: list[AnyAct]
    endpoint: str = "conversations"
    after: int = 1


class FaultScripts(msgspec.Struct, kw_only=True):
    """``clear``: the scripts set before are dropped first."""

    scripts: list[Script] = []
    clear: bool = True


class Limit(msgspec.Struct, kw_only=True):
    """Calls allowed to an account (None: the whole app); see ``limits.Allowance``."""

    account: str | None = None
    allowance: Allowance


class OptionChange(msgspec.Struct, kw_only=True):
    """What is None stays; ``plan``, ``rates``, ``reading`` and ``batch`` replace only the keys that
    they name.

    ``reading`` is that of all accounts which have none of their own.
    """

    require_proof: bool | None = None
    adopt: bool | None = None
    rendered: bool | None = None
    read_lag: float | None = None
    echo: Echoes | None = None
    latency: str | None = None
    latency_factor: float | None = None
    reading: dict[str, Any] | None = None
    batch: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    rates: dict[str, Any] | None = None


class Webhook(msgspec.Struct, kw_only=True):
    """The app's endpoint; ``url`` is its base. ``verify`` False tries until it answers."""

    url: str
    verify_token: str | None = None
    path: str = "/api/webhook"
    instagram_path: str = "/api/webhooks/instagram"
    verify: bool = True


class DashboardTest(msgspec.Struct, kw_only=True):
    """``kind``: page_feed, page_message, instagram_message or instagram_comment."""

    kind: str
