"""The simulator's settings, read once from the environment."""

from collections.abc import Mapping

import msgspec

from pagewire_simulator.handshake import Endpoint
from pagewire_simulator.meta import App
from pagewire_simulator.sender import Secrets

VARIABLES = {
    "META_APP_ID": "The app's id; required.",
    "META_APP_SECRET": "Its secrets, comma-separated, of which the first signs; required.",
    "META_INSTAGRAM_APP_SECRET": "Those of its Instagram login; META_APP_SECRET's unless set.",
    "META_WEBHOOK_VERIFY_TOKEN": "What the handshake shows; required.",
    "SIMULATOR_LISTEN": "Where Graph and the control interface are; 127.0.0.1:9090 unless set.",
    "SIMULATOR_SEED": "What its chances are drawn from; 1 unless set.",
    "SIMULATOR_WEBHOOK_URL": "The base of the app's public listener; set by control where unset.",
    "SIMULATOR_ADOPT": "true takes any page, person and comment as given; false unless set.",
}
"""All that `read` reads."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``webhook_url`` is the base of the app's public listener; None: set later by control."""

    listen: str
    seed: int
    app: App
    verify_token: str
    webhook_url: str | None
    adopt: bool

    @property
    def endpoint(self) -> Endpoint | None:
        if self.webhook_url is None:
            return None
        return Endpoint(url=self.webhook_url, verify_token=self.verify_token)


class SettingMissing(Exception):
    """A variable that the simulator can't do without is unset."""


def read(environment: Mapping[str, str]) -> Settings:
    """SIMULATOR_LISTEN, _SEED, _WEBHOOK_URL and _ADOPT, and the app's META_* variables.

    SIMULATOR_ADOPT=true takes any page, person and comment as given (``adopting``). Of several
    secrets the first signs. Raises SettingMissing.
    """
    app_secret = first(environment, "META_APP_SECRET")
    instagram = environment.get("META_INSTAGRAM_APP_SECRET", "").split(",")[0].strip()
    url = environment.get("SIMULATOR_WEBHOOK_URL", "").rstrip("/")
    return Settings(
        listen=environment.get("SIMULATOR_LISTEN") or "127.0.0.1:9090",
        seed=int(environment.get("SIMULATOR_SEED") or 1),
        app=App(
            id=first(environment, "META_APP_ID"),
            secrets=Secrets(app=app_secret, instagram=instagram or app_secret),
        ),
        verify_token=first(environment, "META_WEBHOOK_VERIFY_TOKEN"),
        webhook_url=url or None,
        adopt=environment.get("SIMULATOR_ADOPT", "").lower() in ("true", "1", "yes"),
    )


def first(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").split(",")[0].strip()
    if not value:
        raise SettingMissing(f"{name} is unset")
    return value
