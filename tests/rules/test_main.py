import pytest

from pagewire_rules.main import main, serve
from pagewire_rules.settings import Settings
from pagewire_runtime.settings import SettingsError, load


async def test_rules_does_not_start_without_a_token_to_ask_the_store_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", "webhook:webhook-token-0123456789")
    monkeypatch.setenv("RULES_LISTEN", "127.0.0.1:0")

    with pytest.raises(SettingsError, match="SERVICE_TOKENS: set one of the role rules"):
        await serve(load(Settings))


def test_the_help_says_what_it_is_and_tells_of_every_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "usage: python -m pagewire_rules" in shown
    for field in Settings.model_fields.values():
        assert str(field.validation_alias) in shown
        assert str(field.description) in shown


def test_an_argument_that_it_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--reset"])

    assert ended.value.code == 2
    assert "unrecognized arguments: --reset" in capsys.readouterr().err
