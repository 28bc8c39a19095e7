"""What the webhook service reads from its environment."""

from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.settings import CommaList, CommonSettings, Listen, Secret, Secrets
from pagewire_webhook.reporting import REPORT_SECONDS

PARTS = frozenset({"public", "operator", "dispatcher"})


def _parts(value: frozenset[str]) -> frozenset[str]:
    if not value or value - PARTS:
        raise ValueError(f"must name some of {', '.join(sorted(PARTS))}")
    return value


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return frozenset(part.strip() for part in value.split(",") if part.strip())


Parts = Annotated[frozenset[str], BeforeValidator(_split), AfterValidator(_parts)]


class Settings(CommonSettings):
    """Read once, in `main`. What only one part needs is asked for where that part runs."""

    parts: Parts = Field(
        PARTS,
        validation_alias="WEBHOOK_PARTS",
        description="Which parts run: public, operator, dispatcher; --parts says the same.",
    )
    webhook_listen: Listen = Field(
        "127.0.0.1:8080", validation_alias="WEBHOOK_LISTEN", description="Where Meta posts to."
    )
    operator_listen: Listen = Field(
        "127.0.0.1:8081",
        validation_alias="OPERATOR_LISTEN",
        description="Where the operator's HTTP API, metrics and console are.",
    )
    store_target: str = Field(
        "127.0.0.1:50051", validation_alias="STORE_TARGET", description="Where the store is."
    )
    rules_target: str = Field(
        "127.0.0.1:50052", validation_alias="RULES_TARGET", description="Where rules are."
    )
    sync_target: str = Field(
        "127.0.0.1:50053", validation_alias="SYNC_TARGET", description="Where sync is."
    )
    app_secrets: Secrets | None = Field(
        None,
        validation_alias="META_APP_SECRET",
        description="The app's secrets, comma-separated; each verifies webhooks.",
    )
    instagram_app_secrets: Secrets | None = Field(
        None,
        validation_alias="META_INSTAGRAM_APP_SECRET",
        description="The secrets of the app's Instagram login; each verifies webhooks.",
    )
    previous_secrets_until: AwareDatetime | None = Field(
        None,
        validation_alias="META_PREVIOUS_SECRETS_UNTIL",
        description="When all secrets but the first of each list stop to verify, in RFC 3339;"
        " never unless said.",
    )
    verify_token: Secret | None = Field(
        None,
        validation_alias="META_WEBHOOK_VERIFY_TOKEN",
        description="What Meta's dashboard sends with the handshake.",
    )
    api_keys: Secrets | None = Field(
        None,
        validation_alias="API_KEYS",
        description="Who may use the operator's HTTP API, comma-separated.",
    )
    forwarded_allow_ips: CommaList = Field(
        (),
        validation_alias="FORWARDED_ALLOW_IPS",
        description="Proxies in front of the public listener whose X-Forwarded-For is believed.",
    )
    heartbeat_seconds: float = Field(
        2.0,
        gt=0,
        le=10,
        validation_alias="DISPATCHER_HEARTBEAT_SECONDS",
        description="How often the leases of lanes are prolonged: a quarter of the store's lease.",
    )
    report_seconds: float = Field(
        REPORT_SECONDS,
        gt=0,
        le=60,
        validation_alias="WEBHOOK_REPORT_SECONDS",
        description="How often the edge tells the store that it is there: a sixth of"
        " STORE_OUTAGE_SECONDS.",
    )
    connections_max: int = Field(
        4_096,
        ge=1,
        validation_alias="WEBHOOK_CONNECTIONS_MAX",
        description="Connections to the public listener, as far as there are descriptors for them.",
    )
    receipt_seconds: float = Field(
        10.0,
        ge=1,
        le=60,
        validation_alias="WEBHOOK_RECEIPT_SECONDS",
        description="How long a request to the public listener may take to come whole.",
    )
    public_base_url: str | None = Field(
        None,
        validation_alias="PUBLIC_BASE_URL",
        description="How the world reaches the public listener.",
    )

    def checked(self) -> Self:
        """These settings, if they hold all that their parts need.

        Raises SettingsError, a line for each that is missing.
        """
        needs: dict[str, dict[str, object]] = {
            "public": {
                "META_APP_SECRET": self.app_secrets,
                "META_WEBHOOK_VERIFY_TOKEN": self.verify_token,
                "SERVICE_TOKENS, a token of the role webhook": self._identity("webhook"),
            },
            "operator": {
                "API_KEYS": self.api_keys,
                "SERVICE_TOKENS, a token of the role operator": self._identity("operator"),
            },
            "dispatcher": {
                "SERVICE_TOKENS, a token of the role webhook": self._identity("webhook"),
            },
        }
        missing = [
            f"{name}: set it, the part {part} needs it"
            for part, names in needs.items()
            if part in self.parts
            for name, value in names.items()
            if value is None
        ]
        if missing:
            raise SettingsError("\n".join(missing))
        return self

    def _identity(self, role: str) -> str | None:
        """What a part shows of itself in this role; with mutual TLS its certificate names it."""
        return "certificate" if self.tls else self.service_tokens.first(role)
