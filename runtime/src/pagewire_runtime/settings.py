"""Settings: read once from the environment, checked as a whole, then frozen."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from pagewire_runtime.auth import SECRET_MIN_BYTES, ServiceTokens, parse_service_tokens
from pagewire_runtime.errors import SettingsError
from pagewire_runtime.tls import Tls

__all__ = [
    "CommaList",
    "CommonSettings",
    "Listen",
    "Secret",
    "Secrets",
    "ServiceSettings",
    "SettingsError",
    "load",
]


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < SECRET_MIN_BYTES:
        raise ValueError(f"must be at least {SECRET_MIN_BYTES} bytes long")
    return secret


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(entry.strip() for entry in value.split(",") if entry.strip())


def _some(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not secrets:
        raise ValueError("must hold at least one secret")
    return secrets


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value.startswith("unix:") or (host and port.isdecimal() and int(port) < 65_536):
        return value
    raise ValueError("must be host:port or unix:/path")


def _tokens(value: object) -> object:
    return parse_service_tokens(value) if isinstance(value, str) else value


Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
"""A secret of at least 16 bytes."""

Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split), AfterValidator(_some)]
"""Such secrets, comma-separated, at least one."""

Listen = Annotated[str, AfterValidator(_address)]
"""host:port, or unix:/path."""

CommaList = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Words, comma-separated."""


class ServiceSettings(BaseSettings):
    """What a process reads from its environment, and from the files of PAGEWIRE_SECRETS_DIR.

    Each field names its variable: `Field(validation_alias="STORE_LISTEN", description=…)`. A
    variable that is empty counts as unset; one that is set wins over the file of its name.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        case_sensitive=True,
        enable_decoding=False,
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )


class CommonSettings(ServiceSettings):
    """What each of the gRPC services reads beside its own."""

    service_tokens: Annotated[ServiceTokens, BeforeValidator(_tokens)] = Field(
        validation_alias="SERVICE_TOKENS",
        description="Who may call: role:token, comma-separated.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="LOG_LEVEL", description="The least level that is logged."
    )
    metrics_listen: Listen | None = Field(
        None, validation_alias="METRICS_LISTEN", description="Where Prometheus finds the metrics."
    )
    grpc_reflection: bool = Field(
        False, validation_alias="GRPC_REFLECTION", description="Whether the schema is shown."
    )
    unready_seconds: float = Field(
        3.0,
        ge=0,
        le=60,
        validation_alias="UNREADY_SECONDS",
        description="How long balancers have to notice that this process stops.",
    )
    tls_cert_file: Path | None = Field(
        None, validation_alias="TLS_CERT_FILE", description="This service's certificate, PEM."
    )
    tls_key_file: Path | None = Field(
        None, validation_alias="TLS_KEY_FILE", description="The certificate's key, PEM."
    )
    tls_ca_file: Path | None = Field(
        None, validation_alias="TLS_CA_FILE", description="Who signs the services' certificates."
    )

    grpc_insecure: bool = Field(
        False,
        validation_alias="GRPC_INSECURE",
        description="Whether other machines are served without TLS: for development.",
    )
    environment: Literal["development", "production"] = Field(
        "development",
        validation_alias="PAGEWIRE_ENVIRONMENT",
        description="production refuses what is for development and tests.",
    )

    @model_validator(mode="after")
    def _secure_in_production(self) -> Self:
        if self.grpc_insecure and self.environment == "production":
            raise ValueError("GRPC_INSECURE: is for development, PAGEWIRE_ENVIRONMENT=production")
        return self

    @model_validator(mode="after")
    def _all_of_tls_or_none(self) -> Self:
        given = [self.tls_cert_file, self.tls_key_file, self.tls_ca_file]
        if any(given) and not all(given):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE, TLS_CA_FILE: set all or none")
        return self

    @property
    def unready_wait(self) -> timedelta:
        """How long balancers have to notice that this process stops."""
        return timedelta(seconds=self.unready_seconds)

    def own_token(self, role: str) -> str | None:
        """What this process shows of itself, as `role`, to the services that it calls.

        None with mutual TLS alone, where its certificate names it. Raises SettingsError where
        there is neither: it would start, and be refused by all of them.
        """
        token = self.service_tokens.first(role)
        if token is None and self.tls is None:
            raise SettingsError(
                f"SERVICE_TOKENS: set one of the role {role}, which this process calls others with"
            )
        return token

    @property
    def tls(self) -> Tls | None:
        """Mutual TLS where its files are given."""
        if self.tls_cert_file and self.tls_key_file and self.tls_ca_file:
            return Tls(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        return None


S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S]) -> S:
    """The settings as the environment gives them.

    Raises one SettingsError with a line for each setting that is wrong: its name and what to do,
    never its value.
    """
    secrets_dir = os.environ.get("PAGEWIRE_SECRETS_DIR") or None
    if secrets_dir is not None and not Path(secrets_dir).is_dir():
        raise SettingsError("PAGEWIRE_SECRETS_DIR: is not a folder")
    try:
        return cls(_secrets_dir=secrets_dir)  # type: ignore[call-arg]  # pydantic-settings takes it
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        lines = dict.fromkeys(_line(cls, each) for each in wrong)
        raise SettingsError("\n".join(lines)) from None


def _line(cls: type[ServiceSettings], error: ErrorDetails) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""  # none: it is about several, and says so
    if error["type"] == "missing":
        return f"{name}: set it. {_descriptions(cls).get(name, '')}".rstrip()
    cause = error.get("ctx", {}).get("error")
    why = str(cause) if isinstance(cause, ValueError) else error["msg"]
    return why if why.startswith(f"{name}: ") or not name else f"{name}: {why}"


def _descriptions(cls: type[ServiceSettings]) -> dict[str, str]:
    return {
        str(field.validation_alias): field.description or "" for field in cls.model_fields.values()
    }
