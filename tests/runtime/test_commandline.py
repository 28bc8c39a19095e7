from datetime import timedelta

import pytest
from pydantic import Field, SecretStr

from pagewire_runtime.commandline import command_line
from pagewire_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    password: SecretStr = Field(validation_alias="TEST_PASSWORD", description="Opens it.")
    listen: str = Field("127.0.0.1:1", validation_alias="TEST_LISTEN", description="Where it is.")
    drain: timedelta = Field(
        timedelta(minutes=1), validation_alias="TEST_DRAIN", description="How long it drains."
    )
    reflection: bool = Field(False, validation_alias="TEST_REFLECTION", description="Shows it.")
    parts: frozenset[str] = Field(
        frozenset({"b", "a"}), validation_alias="TEST_PARTS", description="What runs."
    )
    proxies: tuple[str, ...] = Field((), validation_alias="TEST_PROXIES", description="Who asks.")
    cache: SecretStr | None = Field(None, validation_alias="TEST_CACHE", description="Is faster.")


def test_the_help_has_each_setting_with_its_default_and_what_it_means() -> None:
    shown = command_line("pagewire_test", "Is for the tests.", Settings).format_help()

    assert "usage: python -m pagewire_test [-h]\n\nIs for the tests.\n" in shown
    assert shown.endswith(
        "  TEST_PASSWORD (required)\n      Opens it.\n"
        "  TEST_LISTEN (127.0.0.1:1)\n      Where it is.\n"
        "  TEST_DRAIN (60)\n      How long it drains.\n"
        "  TEST_REFLECTION (false)\n      Shows it.\n"
        "  TEST_PARTS (a,b)\n      What runs.\n"
        "  TEST_PROXIES (unset)\n      Who asks.\n"
        "  TEST_CACHE (unset)\n      Is faster.\n"
    )


def test_the_help_shows_no_value_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", "canary")
    monkeypatch.setenv("TEST_LISTEN", "canary")

    assert "canary" not in command_line("pagewire_test", "", Settings).format_help()


@pytest.mark.parametrize("unknown", [["--verbose"], ["store"], ["--hel"]])
def test_what_is_not_known_ends_the_process_with_2(unknown: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line("pagewire_test", "", Settings).parse_args(unknown)

    assert ended.value.code == 2
