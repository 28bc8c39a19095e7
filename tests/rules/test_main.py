import pytest

from pagewire_rules.main import serve
from pagewire_rules.settings import Settings
from pagewire_runtime.settings import SettingsError, load


async def test_rules_does_not_start_without_a_token_to_ask_the_store_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", "webhook:webhook-token-0123456789")
    monkeypatch.setenv("RULES_LISTEN", "127.0.0.1:0")

    with pytest.raises(SettingsError, match="SERVICE_TOKENS: set one of the role rules"):
        await serve(load(Settings))
