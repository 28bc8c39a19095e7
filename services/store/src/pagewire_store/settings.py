"""What the store reads from its environment."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pagewire_runtime.settings import CommonSettings, Listen
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


class Settings(CommonSettings):
    """The store's own, beside what each gRPC service reads.

    The lengths of time have defaults that need no change; they stand here so that a test of a
    takeover or of a sweep need not wait for as long as real work takes.
    """

    database_url: Annotated[SecretStr, AfterValidator(_postgresql)] = Field(
        validation_alias="DATABASE_URL", description="PostgreSQL 15 or newer, as libpq reads it."
    )
    database_pool_max: int = Field(
        15,
        ge=6,
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
