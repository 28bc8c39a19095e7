"""The command line of each process: what it says of itself, and what it does not know."""

import importlib

import pytest

SERVICES = ("rules", "store", "sync", "webhook")


@pytest.mark.parametrize("service", SERVICES)
def test_the_help_says_what_it_is_and_tells_of_every_setting(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"pagewire_{service}.main").main
    settings = importlib.import_module(f"pagewire_{service}.settings").Settings
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"usage: python -m pagewire_{service}" in shown
    for field in settings.model_fields.values():
        assert f"  {field.validation_alias} (" in shown
        assert field.description
        assert field.description in shown


@pytest.mark.parametrize("process", [*SERVICES, "simulator"])
def test_an_argument_that_it_does_not_know_is_refused(
    process: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"pagewire_{process}.main").main
    with pytest.raises(SystemExit) as ended:
        main(["--reset"])

    assert ended.value.code == 2
    assert "unrecognized arguments: --reset" in capsys.readouterr().err
