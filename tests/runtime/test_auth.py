import pytest

from pagewire_runtime.auth import Caller, caller, calling_as, parse_service_tokens
from pagewire_runtime.errors import SettingsError

OLD, NEW, OTHER = "old-token-0123456789", "new-token-0123456789", "other:with-a-colon-56789"


def test_each_token_has_its_role_and_the_first_is_the_one_to_send() -> None:
    tokens = parse_service_tokens(f"sync:{NEW}, sync:{OLD} ,reader:{OTHER},")

    assert [tokens.role_of(token) for token in (NEW, OLD, OTHER)] == ["sync", "sync", "reader"]
    assert (tokens.first("sync"), tokens.first("reader")) == (NEW, OTHER)
    assert tokens.first("rules") is None


@pytest.mark.parametrize("shown", ["", "x", OLD[:-1], OLD + "x", OLD.upper(), "\udcff", "é" * 20])
def test_what_is_no_token_has_no_role(shown: str) -> None:
    assert parse_service_tokens(f"sync:{OLD}").role_of(shown) is None


@pytest.mark.parametrize(
    "text",
    [
        "sync:short-canary",
        f"admin:{OLD}",
        f"Sync:{OLD}",
        f":{OLD}",
        OLD,
        f"sync:{OLD},reader:",
        "sync:canary-é-0123456789",
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_never_shown(text: str) -> None:
    with pytest.raises(SettingsError, match="SERVICE_TOKENS") as refused:
        parse_service_tokens(text)

    assert "canary" not in str(refused.value)
    assert OLD not in str(refused.value)


def test_tokens_do_not_show_when_printed() -> None:
    assert OLD not in repr(parse_service_tokens(f"sync:{OLD}"))


def test_a_caller_is_named_within_its_block_only() -> None:
    with calling_as(Caller("operator", "anna")):
        inside = caller()

    assert inside == Caller("operator", "anna")
    assert caller() == Caller("")
