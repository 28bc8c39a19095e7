import pytest

from pagewire_runtime.settings import SettingsError, load
from pagewire_sync.settings import Settings

NEEDED = {
    "META_APP_ID": "880000000000010",
    "META_APP_SECRET": "first-secret-0123456789,second-secret-0123456789",
    "SERVICE_TOKENS": "sync:0123456789abcdef,operator:fedcba9876543210",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_what_is_needed_is_enough(environment: pytest.MonkeyPatch) -> None:
    settings = load(Settings)

    assert settings.listen == "127.0.0.1:50053"
    assert settings.store_target == "127.0.0.1:50051"
    assert settings.graph_base_url == "https://graph.facebook.com"
    assert settings.graph_instagram_base_url == "https://graph.instagram.com"
    assert settings.graph_api_version == "v25.0"
    assert settings.app_secrets[0].get_secret_value() == "first-secret-0123456789"
    assert "first-secret" not in repr(settings)


def test_a_read_may_take_as_long_as_those_of_busy_pages_do(
    environment: pytest.MonkeyPatch,
) -> None:
    assert load(Settings).read_timeout_seconds > 90


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_is_named_where_it_is_missing(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.delenv(name)

    with pytest.raises(SettingsError, match=name):
        load(Settings)


@pytest.mark.parametrize(
    "address",
    [
        "https://graph.example.org",
        "https://graph.example.org/facebook/",
        "http://127.0.0.1:45003/facebook",
        "http://[::1]:45003",
        "http://localhost:45003",
        "http://simulator:8090/facebook",
    ],
)
def test_graph_may_stand_behind_tls_or_beside_us(
    environment: pytest.MonkeyPatch, address: str
) -> None:
    environment.setenv("GRAPH_BASE_URL", address)

    assert load(Settings).graph_base_url == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "http://graph.facebook.com",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "ftp://graph.example.org",
        "graph.facebook.com",
        "https://",
        "https://user@graph.example.org",
        "https://graph.example.org?a=b",
    ],
)
def test_tokens_are_not_sent_over_the_network_in_the_clear(
    environment: pytest.MonkeyPatch, address: str
) -> None:
    environment.setenv("GRAPH_INSTAGRAM_BASE_URL", address)

    with pytest.raises(SettingsError, match="GRAPH_INSTAGRAM_BASE_URL"):
        load(Settings)


@pytest.mark.parametrize("version", ["25.0", "v25", "latest", "v25.0/me"])
def test_a_version_looks_like_meta_s(environment: pytest.MonkeyPatch, version: str) -> None:
    environment.setenv("GRAPH_API_VERSION", version)

    with pytest.raises(SettingsError, match="GRAPH_API_VERSION"):
        load(Settings)
