import pytest

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.settings import load
from pagewire_webhook.settings import PARTS, Settings

TOKENS = "webhook:webhook-token-0123456789,operator:operator-token-0123456789"
WHOLE = {
    "SERVICE_TOKENS": TOKENS,
    "META_APP_SECRET": "app-secret-0123456789,app-secret-before-0123",
    "META_WEBHOOK_VERIFY_TOKEN": "verify-token-0123456789",
    "API_KEYS": "api-key-0123456789",
}


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_all_parts_run_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **WHOLE)

    settings = load(Settings).checked()

    assert settings.parts == PARTS
    assert settings.webhook_listen == "127.0.0.1:8080"
    assert settings.operator_listen == "127.0.0.1:8081"
    assert settings.app_secrets is not None
    assert len(settings.app_secrets) == 2


def test_some_parts_are_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **WHOLE, WEBHOOK_PARTS="public, dispatcher")

    assert load(Settings).parts == {"public", "dispatcher"}


@pytest.mark.parametrize("parts", [",", "public,console"])
def test_an_unknown_part_is_refused(monkeypatch: pytest.MonkeyPatch, parts: str) -> None:
    given(monkeypatch, **WHOLE, WEBHOOK_PARTS=parts)

    with pytest.raises(SettingsError, match=r"WEBHOOK_PARTS: .*dispatcher, operator, public"):
        load(Settings)


WEBHOOK_TOKEN = "SERVICE_TOKENS, a token of the role webhook"
OPERATOR_TOKEN = "SERVICE_TOKENS, a token of the role operator"


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ("public", {"META_APP_SECRET", "META_WEBHOOK_VERIFY_TOKEN", WEBHOOK_TOKEN}),
        ("operator", {"API_KEYS", OPERATOR_TOKEN}),
        ("dispatcher", {WEBHOOK_TOKEN}),
    ],
)
def test_each_part_demands_its_own_secrets_and_no_other(
    monkeypatch: pytest.MonkeyPatch, parts: str, missing: set[str]
) -> None:
    given(monkeypatch, WEBHOOK_PARTS=parts, SERVICE_TOKENS="sync:sync-token-0123456789")

    with pytest.raises(SettingsError) as refused:
        load(Settings).checked()

    lines = str(refused.value).splitlines()
    assert {line.partition(":")[0] for line in lines} == missing
    assert all(line.endswith(f"the part {parts} needs it") for line in lines)


def test_with_mutual_tls_no_token_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"TLS_{part}_FILE": "/nowhere.pem" for part in ("CERT", "KEY", "CA")}
    given(monkeypatch, WEBHOOK_PARTS="dispatcher", SERVICE_TOKENS="sync:" + "x" * 16, **files)

    assert load(Settings).checked().parts == {"dispatcher"}


@pytest.mark.parametrize("name", ["META_APP_SECRET", "META_WEBHOOK_VERIFY_TOKEN", "API_KEYS"])
def test_a_short_secret_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given(monkeypatch, **{**WHOLE, name: "short"})

    with pytest.raises(SettingsError, match=f"{name}: must be at least 16 bytes") as refused:
        load(Settings)

    assert "short" not in str(refused.value)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **WHOLE)

    shown = repr(load(Settings))

    assert "0123456789" not in shown
