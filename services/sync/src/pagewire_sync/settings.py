"""What the sync service reads from its environment."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from pagewire_runtime.settings import CommonSettings, Listen, Secrets
from pagewire_sync.recovering import GRACE


def _address(value: str) -> str:
    parts = urlsplit(value)
    host = parts.hostname or ""
    # A name without a dot is this machine's or its network's own: the stand-in for Meta there.
    inside = host in ("127.0.0.1", "::1") or "." not in host
    plain = not (parts.query or parts.fragment or parts.username)
    if (
        not host
        or not plain
        or not (parts.scheme == "https" or (parts.scheme == "http" and inside))
    ):
        raise ValueError(
            "must be an https address; http only to this machine or a name without dot"
        )
    return value.rstrip("/")


GraphAddress = Annotated[str, AfterValidator(_address)]


class Settings(CommonSettings):
    """Read once, in `main`."""

    listen: Listen = Field(
        "127.0.0.1:50053",
        validation_alias="SYNC_LISTEN",
        description="Where the gRPC server listens.",
    )
    store_target: str = Field(
        "127.0.0.1:50051", validation_alias="STORE_TARGET", description="Where the store is."
    )
    app_id: str = Field(
        validation_alias="META_APP_ID", description="The app's id, as the dashboard shows it."
    )
    app_secrets: Secrets = Field(
        validation_alias="META_APP_SECRET",
        description="The app's secrets; the first signs appsecret_proof.",
    )
    instagram_app_secrets: Secrets | None = Field(
        None,
        validation_alias="META_INSTAGRAM_APP_SECRET",
        description="The secrets of the app's Instagram login; the first signs its proofs.",
    )
    graph_base_url: GraphAddress = Field(
        "https://graph.facebook.com",
        validation_alias="GRAPH_BASE_URL",
        description="Where Graph is for pages connected by Facebook login.",
    )
    graph_instagram_base_url: GraphAddress = Field(
        "https://graph.instagram.com",
        validation_alias="GRAPH_INSTAGRAM_BASE_URL",
        description="Where Graph is for accounts connected by Instagram login.",
    )
    graph_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=60,
        validation_alias="GRAPH_TIMEOUT_SECONDS",
        description="How long one call may take; less than STORE_SEND_LEASE_SECONDS.",
    )
    read_timeout_seconds: float = Field(
        100.0,
        gt=0,
        le=300,
        validation_alias="SYNC_READ_TIMEOUT_SECONDS",
        description="How long one read of history may take: those of busy pages take up to 90 s.",
    )
    repair_grace_seconds: float = Field(
        GRACE.total_seconds(),
        gt=0,
        le=3600,
        validation_alias="SYNC_REPAIR_GRACE_SECONDS",
        description="How young a message is that a webhook may bring yet, so that a repair leaves"
        " it; no more than STORE_REPAIR_GRACE_SECONDS.",
    )
    conversation_calls_per_second: float = Field(
        2.0,
        gt=0,
        validation_alias="SYNC_CONVERSATION_CALLS_PER_SECOND",
        description="Reads of conversations and messages a page; Meta allows 2.",
    )
    heavy_batch: int = Field(
        8,
        ge=1,
        le=50,
        validation_alias="SYNC_HEAVY_BATCH",
        description="Reads with much in them a batch, which is as slow as its slowest.",
    )
    instagram_batches: bool = Field(
        False,
        validation_alias="SYNC_INSTAGRAM_BATCHES",
        description="Whether graph.instagram.com is sent batches too; Meta's documents tell not.",
    )
    graph_api_version: str = Field(
        "v25.0",
        validation_alias="GRAPH_API_VERSION",
        description="The version of Graph that is asked for.",
        pattern=r"^v\d+\.\d+$",
    )

    @property
    def repair_grace(self) -> timedelta:
        return timedelta(seconds=self.repair_grace_seconds)
