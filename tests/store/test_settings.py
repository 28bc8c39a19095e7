import base64
from datetime import timedelta

import pytest

from pagewire_runtime.settings import SettingsError, load
from pagewire_store.settings import Settings
from pagewire_store.transitions import WAITS, Waits

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
NEEDED = {
    "DATABASE_URL": "postgresql://pagewire:hunter2hunter2@db.example.org:5432/pagewire",
    "TOKEN_ENCRYPTION_KEYS": f"k1:{KEY}",
    "SERVICE_TOKENS": "webhook:0123456789abcdef,operator:fedcba9876543210",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_what_is_needed_is_enough(environment: pytest.MonkeyPatch) -> None:
    settings = load(Settings)

    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]
    assert settings.listen == "127.0.0.1:50051"
    assert settings.database_pool_max == 17
    assert settings.archive_after_days == 30
    assert settings.redis_url is None
    assert list(settings.token_keys.by_id) == ["k1"]
    assert settings.lane_lease == timedelta(seconds=8)
    assert settings.send_lease == timedelta(seconds=15)
    assert settings.delivery_retention == timedelta(days=7)
    assert settings.quarantine_retention == settings.attempt_retention == timedelta(days=30)


def test_settings_show_no_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REDIS_URL", "redis://:rediscanary12345@cache")

    shown = repr(load(Settings)) + str(load(Settings))

    for secret in ("hunter2", KEY, "kkkk", "0123456789abcdef", "rediscanary"):
        assert secret not in shown


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_setting_that_is_missing_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)

    with pytest.raises(SettingsError, match=f"{name}: set it"):
        load(Settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://canary@db/pagewire"),
        ("DATABASE_URL", "canary"),
        ("DATABASE_URL", "postgresql+psycopg://canary@db/pagewire"),
        ("DATABASE_URL", "://canary"),
        ("DATABASE_POOL_MAX", "3"),
        ("DATABASE_POOL_MAX", "canary"),
        ("REDIS_URL", "http://canary"),
        ("TOKEN_ENCRYPTION_KEYS", "k1:canary"),
        ("TOKEN_ENCRYPTION_KEYS", ","),
        ("SERVICE_TOKENS", "webhook:canary"),
        ("STORE_LISTEN", "canary"),
        ("ARCHIVE_AFTER_DAYS", "0"),
        ("STORE_AUTOMATIC_REPLIES_PER_MINUTE", "1001"),
        ("STORE_LANE_LEASE_SECONDS", "0"),
        ("STORE_SEND_LEASE_SECONDS", "-1"),
        ("STORE_SWEEP_SECONDS", "canary"),
        ("STORE_SWEEP_SECONDS", "nan"),
        ("STORE_SWEEP_SECONDS", "inf"),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_not_shown(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(SettingsError, match=f"^{name}") as refused:
        load(Settings)

    assert "canary" not in str(refused.value)


def test_lengths_of_time_are_seconds_and_may_be_fractions(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STORE_LANE_LEASE_SECONDS", "0.25")

    assert load(Settings).lane_lease == timedelta(milliseconds=250)


def test_how_long_a_reply_of_unknown_end_waits_is_settings(
    environment: pytest.MonkeyPatch,
) -> None:
    assert load(Settings).waits == WAITS

    environment.setenv("STORE_FIRST_LOOK_SECONDS", "1")
    environment.setenv("STORE_SECOND_LOOK_SECONDS", "2")
    environment.setenv("STORE_BETWEEN_LOOKS_SECONDS", "3")
    environment.setenv("STORE_AFTER_FAILED_LOOK_SECONDS", "4")
    environment.setenv("STORE_UNCERTAIN_PATIENCE_SECONDS", "5")
    environment.setenv("STORE_RETRY_MOST_SECONDS", "6")

    assert load(Settings).waits == Waits(
        first_look=timedelta(seconds=1),
        second_look=timedelta(seconds=2),
        between_looks=timedelta(seconds=3),
        after_failed_look=timedelta(seconds=4),
        patience=timedelta(seconds=5),
        backoff_most=6,
    )


def test_the_url_may_name_the_scheme_as_hosters_do(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://u@h/d")

    assert load(Settings).database_url.get_secret_value() == "postgres://u@h/d"
