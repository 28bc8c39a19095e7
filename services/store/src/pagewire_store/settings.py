"""What the store reads from its environment."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pagewire_runtime.settings import CommonSettings, Listen
from pagewire_store import gaps, transitions
from pagewire_store.tokens import TokenKeys, parse_token_keys


def _postgresql(value: SecretStr) -> SecretStr:
    try:
        name = make_url(value.get_secret_value()).drivername
    except ArgumentError:
        name = ""
    if name not in {"postgresql", "postgres"}:
        raise ValueError("must be a URL of the form postgresql://user:password@host:port/database")
    return value


def _redis(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return timedelta(seconds=float(value))
    except (ValueError, OverflowError):
        raise ValueError("must be a number of seconds") from None


def _keys(value: object) -> object:
    return parse_token_keys(value) if isinstance(value, str) else value


Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta())]
"""A length of time, given in seconds; fractions are fine."""

SecondsOrNever = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta())]
"""The same; 0 where it is never to be."""


class Settings(CommonSettings):
    """The store's own, beside what each gRPC service reads.

    The lengths of time have defaults that need no change; they stand here so that a test of a
    takeover or of a sweep need not wait for as long as real work takes.
    """

    database_url: Annotated[SecretStr, AfterValidator(_postgresql)] = Field(
        validation_alias="DATABASE_URL", description="PostgreSQL 15 or newer, as libpq reads it."
    )
    database_owner_url: Annotated[SecretStr, AfterValidator(_postgresql)] | None = Field(
        None,
        validation_alias="DATABASE_OWNER_URL",
        description="Who owns the schema and migrates it; where unset, the user of DATABASE_URL.",
    )
    database_pool_max: int = Field(
        17,
        ge=8,
        le=1000,
        validation_alias="DATABASE_POOL_MAX",
        description="Connections in all, shared out among the pools.",
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] | None = Field(
        None, validation_alias="REDIS_URL", description="The cache; in-process only where unset."
    )
    token_keys: Annotated[TokenKeys, BeforeValidator(_keys)] = Field(
        validation_alias="TOKEN_ENCRYPTION_KEYS",
        description="kid:base64url-32-bytes, comma-separated; the first encrypts, all decrypt.",
    )
    listen: Listen = Field(
        "127.0.0.1:50051", validation_alias="STORE_LISTEN", description="Where callers find it."
    )
    archive_after_days: int = Field(
        30,
        ge=1,
        validation_alias="ARCHIVE_AFTER_DAYS",
        description="How old an answered message is when it is archived.",
    )
    drain: Seconds = Field(
        timedelta(seconds=8),
        validation_alias="STORE_DRAIN_SECONDS",
        description="For calls in flight to end; the whole system stops within 15 s.",
    )
    lane_lease: Seconds = Field(
        timedelta(seconds=8),
        validation_alias="STORE_LANE_LEASE_SECONDS",
        description="How long a dispatcher owns a lane; four of its heartbeats.",
    )
    send_lease: Seconds = Field(
        timedelta(seconds=15),
        validation_alias="STORE_SEND_LEASE_SECONDS",
        description="How long a send may take before nobody knows how it ended.",
    )
    first_look: Seconds = Field(
        transitions.FIRST_LOOK,
        validation_alias="STORE_FIRST_LOOK_SECONDS",
        description="After a send of unknown end began: when it is looked for in Graph.",
    )
    second_look: Seconds = Field(
        transitions.SECOND_LOOK,
        validation_alias="STORE_SECOND_LOOK_SECONDS",
        description="After it began: the earliest for the second look.",
    )
    between_looks: Seconds = Field(
        transitions.BETWEEN_LOOKS,
        validation_alias="STORE_BETWEEN_LOOKS_SECONDS",
        description="From one look to the next, at least.",
    )
    after_failed_look: Seconds = Field(
        transitions.AFTER_FAILED_LOOK,
        validation_alias="STORE_AFTER_FAILED_LOOK_SECONDS",
        description="From a look that Graph did not answer to the next.",
    )
    look_lease: Seconds = Field(
        timedelta(seconds=15),
        validation_alias="STORE_LOOK_LEASE_SECONDS",
        description="How long a look may take before another one is asked to look.",
    )
    uncertain_patience: Seconds = Field(
        transitions.PATIENCE,
        validation_alias="STORE_UNCERTAIN_PATIENCE_SECONDS",
        description="How long a reply may stay uncertain before it is parked for a person.",
    )
    retry_most: Seconds = Field(
        timedelta(seconds=transitions.BACKOFF_MOST),
        validation_alias="STORE_RETRY_MOST_SECONDS",
        description="The longest pause before a reply that Graph did not take is sent again.",
    )
    page_check_lease: Seconds = Field(
        timedelta(seconds=60),
        validation_alias="STORE_PAGE_CHECK_LEASE_SECONDS",
        description="How long a check of a page may take: a few calls to Graph.",
    )
    replay_lease: Seconds = Field(
        timedelta(seconds=30),
        validation_alias="STORE_REPLAY_LEASE_SECONDS",
        description="How long reading a body of the quarantine again may take.",
    )
    run_lease: Seconds = Field(
        timedelta(seconds=8),
        validation_alias="STORE_RUN_LEASE_SECONDS",
        description="How long a run of history belongs to a worker that says nothing of it; four"
        " of its renewals.",
    )
    sync_interval: SecondsOrNever = Field(
        timedelta(minutes=15),
        validation_alias="STORE_SYNC_INTERVAL_SECONDS",
        description="From a page's last run of a kind to its next incremental one; 0: none.",
    )
    repair_interval: Seconds = Field(
        timedelta(hours=1),
        validation_alias="STORE_REPAIR_INTERVAL_SECONDS",
        description="From one repair of what webhooks missed to the next of the same page.",
    )
    repair_grace: Seconds = Field(
        timedelta(minutes=2),
        validation_alias="STORE_REPAIR_GRACE_SECONDS",
        description="How long a webhook may still come by itself: Meta sends again what failed.",
    )
    outage: Seconds = Field(
        gaps.OUTAGE,
        validation_alias="STORE_OUTAGE_SECONDS",
        description="Without a report of any edge: what came meanwhile is looked for in Graph.",
    )
    recovered_fresh: Seconds = Field(
        timedelta(minutes=10),
        validation_alias="STORE_RECOVERED_FRESH_SECONDS",
        description="How long rules may answer what no webhook brought, from when it was written.",
    )
    person_pause: Seconds = Field(
        timedelta(minutes=60),
        validation_alias="STORE_PERSON_PAUSE_SECONDS",
        description="How long no rule answers after a person did.",
    )
    automatic_replies_per_minute: int = Field(
        30,
        ge=1,
        le=1000,
        validation_alias="STORE_AUTOMATIC_REPLIES_PER_MINUTE",
        description="The most that rules answer in one conversation: a guard against loops.",
    )
    automatic_replies_per_minute_of_page: int | None = Field(
        None,
        ge=1,
        le=100_000,
        validation_alias="STORE_AUTOMATIC_REPLIES_PER_MINUTE_OF_PAGE",
        description="The most events of one page that rules answer; unset: as many as there are.",
    )
    history_chunk_rows: int = Field(
        500,
        ge=1,
        le=20_000,
        validation_alias="STORE_HISTORY_CHUNK_ROWS",
        description="Rows of history that one transaction stores: it holds them for so long.",
    )
    history_large_chunk_rows: int = Field(
        2_500,
        ge=1,
        le=20_000,
        validation_alias="STORE_HISTORY_LARGE_CHUNK_ROWS",
        description="The same of calls with 5,000 rows or more, which go by COPY.",
    )
    sweep_interval: Seconds = Field(
        timedelta(seconds=1),
        validation_alias="STORE_SWEEP_SECONDS",
        description="Between two looks for replies that are late: a lost send is known so soon.",
    )
    upkeep_interval: Seconds = Field(
        timedelta(minutes=10),
        validation_alias="STORE_UPKEEP_SECONDS",
        description="Between two rounds of purging what is old and of sealing tokens anew.",
    )
    delivery_retention: Seconds = Field(
        timedelta(days=7),
        validation_alias="STORE_DELIVERY_RETENTION_SECONDS",
        description="How long raw bodies are kept: Meta redelivers for 36 hours.",
    )
    quarantine_retention: Seconds = Field(
        timedelta(days=30),
        validation_alias="STORE_QUARANTINE_RETENTION_SECONDS",
        description="How long unreadable bodies are kept, for a reader that can.",
    )
    attempt_retention: Seconds = Field(
        timedelta(days=30),
        validation_alias="STORE_ATTEMPT_RETENTION_SECONDS",
        description="How long each attempt to send is kept.",
    )
    run_retention: Seconds = Field(
        timedelta(days=30),
        validation_alias="STORE_RUN_RETENTION_SECONDS",
        description="How long runs of history are kept after their end.",
    )

    @model_validator(mode="after")
    def _logins_differ(self) -> Self:
        if self.database_owner_url is not None and self.works_as is None:
            raise ValueError("DATABASE_OWNER_URL: must name another user than DATABASE_URL does")
        return self

    @property
    def waits(self) -> transitions.Waits:
        """How long a reply of unknown end waits, and one that is sent again."""
        return transitions.Waits(
            first_look=self.first_look,
            second_look=self.second_look,
            between_looks=self.between_looks,
            after_failed_look=self.after_failed_look,
            patience=self.uncertain_patience,
            backoff_most=self.retry_most.total_seconds(),
        )

    @property
    def works_as(self) -> str | None:
        """The user of DATABASE_URL, where another one owns the schema."""
        if self.database_owner_url is None:
            return None
        user = make_url(self.database_url.get_secret_value()).username
        owner = make_url(self.database_owner_url.get_secret_value()).username
        return user if user != owner else None

    @property
    def migrates_as(self) -> str:
        """The URL of the login that brings the schema up to date."""
        return (self.database_owner_url or self.database_url).get_secret_value()
