import pytest

from pagewire_simulator.fields import parse
from pagewire_simulator.refusals import Refused


def test_nested_fields_keep_their_modifiers() -> None:
    thread, messages = parse("id,messages.limit(5).after(x=){id, from{id}}")

    assert thread.name == "id"
    assert messages.modifiers == {"limit": "5", "after": "x="}
    assert messages.limit(25) == 5
    assert [inner.name for inner in messages.inner] == ["id", "from"]
    assert messages.inner[1].inner[0].name == "id"


@pytest.mark.parametrize("text", ["id{", "id}", "id,{x}", "a b", "id.limit(5", "!"])
def test_what_cant_be_read_is_a_syntax_error(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)

    assert refused.value.refusal.code == 2500
