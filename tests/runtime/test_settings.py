from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from pagewire_runtime.settings import (
    CommonSettings,
    Listen,
    Secret,
    Secrets,
    ServiceSettings,
    SettingsError,
    load,
)

TOKENS = "sync:sync-token-0123456789"
LONG = "canary-secret-0123456789"


class Example(ServiceSettings):
    verify_token: Secret = Field(validation_alias="EXAMPLE_TOKEN", description="What Meta shows.")
    secrets: Secrets = Field(validation_alias="EXAMPLE_SECRETS", description="Of the app.")
    listen: Listen = Field("127.0.0.1:1", validation_alias="EXAMPLE_LISTEN", description="Where.")
    days: int = Field(30, validation_alias="EXAMPLE_DAYS", description="How long.", ge=1)
    drain: timedelta = Field(timedelta(seconds=20), validation_alias="EXAMPLE_DRAIN")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("EXAMPLE_TOKEN", LONG)
    monkeypatch.setenv("EXAMPLE_SECRETS", f"{LONG}, {LONG}-2,")
    return monkeypatch


def test_settings_come_from_the_environment_by_their_exact_names(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("EXAMPLE_DAYS", "7")
    environment.setenv("example_listen", "0.0.0.0:9")

    settings = load(Example)

    assert settings.verify_token.get_secret_value() == LONG
    assert [secret.get_secret_value() for secret in settings.secrets] == [LONG, f"{LONG}-2"]
    assert (settings.days, settings.listen) == (7, "127.0.0.1:1")


def test_an_empty_variable_counts_as_unset(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EXAMPLE_DAYS", "")

    assert load(Example).days == 30


def test_every_wrong_setting_is_named_at_once_and_no_value_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXAMPLE_SECRETS", f"{LONG},canary-short")
    monkeypatch.setenv("EXAMPLE_LISTEN", "canary-host")
    monkeypatch.setenv("EXAMPLE_DAYS", "canary-days")
    monkeypatch.setenv("EXAMPLE_DRAIN", "canary-drain")

    with pytest.raises(SettingsError) as refused:
        load(Example)

    lines = str(refused.value).splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names == [
        "EXAMPLE_TOKEN",
        "EXAMPLE_SECRETS",
        "EXAMPLE_LISTEN",
        "EXAMPLE_DAYS",
        "EXAMPLE_DRAIN",
    ]
    assert lines[0] == "EXAMPLE_TOKEN: set it. What Meta shows."
    assert lines[1] == "EXAMPLE_SECRETS: must be at least 16 bytes long"
    assert "canary" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:50051", "unix:/run/store.sock"])
def test_an_address_is_host_and_port_or_a_socket(
    environment: pytest.MonkeyPatch, listen: str
) -> None:
    environment.setenv("EXAMPLE_LISTEN", listen)

    assert load(Example).listen == listen


@pytest.mark.parametrize("listen", ["50051", ":50051", "host", "host:", "host:http", "host:65536"])
def test_anything_else_is_no_address(environment: pytest.MonkeyPatch, listen: str) -> None:
    environment.setenv("EXAMPLE_LISTEN", listen)

    with pytest.raises(SettingsError, match="EXAMPLE_LISTEN: must be host:port"):
        load(Example)


def test_a_secret_may_stand_in_a_file_of_its_name_and_the_variable_wins(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("EXAMPLE_TOKEN")
    environment.setenv("PAGEWIRE_SECRETS_DIR", str(tmp_path))
    (tmp_path / "EXAMPLE_TOKEN").write_text("from-a-file-0123456789\n")
    (tmp_path / "EXAMPLE_SECRETS").write_text("from-a-file-0123456789")

    settings = load(Example)

    assert settings.verify_token.get_secret_value() == "from-a-file-0123456789"
    assert settings.secrets[0].get_secret_value() == LONG


def test_a_secrets_folder_that_is_none_is_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PAGEWIRE_SECRETS_DIR", "/nowhere/at/all")

    with pytest.raises(SettingsError, match="PAGEWIRE_SECRETS_DIR"):
        load(Example)


def test_settings_are_frozen_and_hide_their_secrets(environment: pytest.MonkeyPatch) -> None:
    settings = load(Example)

    with pytest.raises(ValidationError):
        settings.days = 8
    assert LONG not in repr(settings)


def test_the_common_settings_hold_tokens_and_their_wrongs_are_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", TOKENS)
    settings = load(CommonSettings)
    monkeypatch.setenv("SERVICE_TOKENS", "sync:short")

    with pytest.raises(SettingsError) as refused:
        load(CommonSettings)

    assert settings.service_tokens.role_of("sync-token-0123456789") == "sync"
    assert (settings.log_level, settings.grpc_reflection, settings.tls) == ("INFO", False, None)
    assert str(refused.value) == "SERVICE_TOKENS: the token of entry 1 is shorter than 16 bytes"


def test_a_process_without_a_token_of_its_own_role_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", f"{TOKENS},sync:second-token-0123456789")
    settings = load(CommonSettings)

    with pytest.raises(SettingsError, match="SERVICE_TOKENS: set one of the role rules"):
        settings.own_token("rules")

    assert settings.own_token("sync") == "sync-token-0123456789"


def test_a_certificate_stands_in_for_the_token_of_the_own_role(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", TOKENS)
    for name in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"):
        monkeypatch.setenv(name, "some.pem")

    assert load(CommonSettings).own_token("rules") is None


def test_mutual_tls_needs_all_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", TOKENS)
    monkeypatch.setenv("TLS_CERT_FILE", "cert.pem")

    with pytest.raises(SettingsError, match="set all or none"):
        load(CommonSettings)
