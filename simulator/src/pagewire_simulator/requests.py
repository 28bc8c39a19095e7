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
    """``expires_at`` is Unix milliseconds, 0 for never; ``echo`` replaces the account's habits."""

    token: str | None = None
    token_state: TokenState | None = None
    expires_at: int | None = None
    subscribed_fields: list[str] | None = None
    echo: Echoes | None = None


class NewPerson(msgspec.Struct, kw_only=True):
    account: str
    id: str | None = None
    name: str | None = None
    blocked: bool = False


class NewPost(msgspec.Struct, kw_only=True):
    account: str
    text: str = ""


class Acts(msgspec.Struct, kw_only=True):
    """Several acts at once; ``batch`` merges their events, so many an entry list at most."""

    acts: list[AnyAct]
    batch: int | None = None


class FaultScripts(msgspec.Struct, kw_only=True):
    """``clear``: the scripts set before are dropped first."""

    scripts: list[Script] = []
    clear: bool = True


class Limit(msgspec.Struct, kw_only=True):
    """Calls allowed to an account (None: the whole app); see ``limits.Allowance``."""

    account: str | None = None
    allowance: Allowance


class OptionChange(msgspec.Struct, kw_only=True):
    """What is None stays; ``plan`` and ``rates`` replace only the keys they name."""

    require_proof: bool | None = None
    adopt: bool | None = None
    read_lag: float | None = None
    echo: Echoes | None = None
    latency: str | None = None
    latency_factor: float | None = None
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
