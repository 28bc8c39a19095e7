import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagewire.store.v1.conversation_service_pb2 import (
    ListCommentsRequest,
    ListConversationsRequest,
)
from pagewire.type.v1.event_pb2 import MessageRef
from pagewire_runtime.errors import InvalidArgument
from pagewire_store.page_tokens import PageTokens, page_size

OURS = PageTokens([b"k" * 32])


def asked(token: str, **fields: object) -> ListConversationsRequest:
    return ListConversationsRequest(page_id="1", page_token=token, **fields)  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=256) | st.integers(-(2**63), 2**63), max_size=3))
@example([2**62, "\U0001f600" * 480])
def test_a_token_leads_back_to_its_position(position: list[str | int]) -> None:
    token = OURS.write(asked(""), position)

    assert OURS.read(asked(token)) == position


def test_a_list_begins_without_a_token() -> None:
    assert OURS.read(asked("")) is None


def test_a_token_outlives_another_page_size() -> None:
    token = OURS.write(asked("", page_size=10), ["here"])

    assert OURS.read(asked(token, page_size=700)) == ["here"]


def test_a_token_is_refused_with_another_filter() -> None:
    token = OURS.write(asked(""), ["here"])

    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(asked(token, include_archived=True))
    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(ListConversationsRequest(page_id="2", page_token=token))


def test_a_token_of_another_method_is_refused() -> None:
    token = OURS.write(asked(""), ["here"])

    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(ListCommentsRequest(page_id="1", page_token=token))


def test_a_token_of_another_key_is_refused() -> None:
    token = PageTokens([b"o" * 32]).write(asked(""), ["here"])

    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(asked(token))


def test_a_token_of_the_key_before_is_taken() -> None:
    token = OURS.write(asked(""), ["here"])

    assert PageTokens([b"n" * 32, b"k" * 32]).read(asked(token)) == ["here"]


@given(st.data())
def test_a_token_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    token = OURS.write(asked(""), ["2026-01-01T00:00:00Z", "person"])
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AZaz09-_=+/ .é").filter(lambda new: new != token[at]))

    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(asked(token[:at] + other + token[at + 1 :]))


@given(st.data())
def test_a_token_that_is_longer_or_shorter_is_refused(data: st.DataObject) -> None:
    token = OURS.write(asked(""), ["2026-01-01T00:00:00Z", "person"])
    at = data.draw(st.integers(0, len(token)))
    more = data.draw(st.text("AZaz09-_= \n", max_size=4))
    cut = data.draw(st.integers(0 if more else 1, 4))
    changed = token[:at] + more + token[at + cut :]

    if changed not in ("", token):
        with pytest.raises(InvalidArgument, match="page_token"):
            OURS.read(asked(changed))


@given(st.text(min_size=1))
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        OURS.read(asked(text))


@pytest.mark.parametrize(("wanted", "given"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_the_size_of_a_page_is_50_unless_said_and_at_most_1000(wanted: int, given: int) -> None:
    assert page_size(asked("", page_size=wanted)) == given


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="page_size"):
        page_size(asked("", page_size=-1))


def listed(*mids: str) -> list[MessageRef]:
    return [MessageRef(mid=mid) for mid in mids]


def position_of(row: MessageRef) -> list[str | int]:
    return [row.mid]


def test_the_last_part_of_a_list_has_no_token() -> None:
    part, more = OURS.part(asked(""), listed("a", "b"), 2, position_of)

    assert (part, more) == (listed("a", "b"), "")


def test_an_empty_list_has_no_token() -> None:
    assert OURS.part(asked(""), listed(), 2, position_of) == ([], "")


def test_a_part_goes_on_behind_its_last_row() -> None:
    part, more = OURS.part(asked(""), listed("a", "b", "c"), 2, position_of)

    assert part == listed("a", "b")
    assert OURS.read(asked(more)) == ["b"]


def test_a_part_holds_no_more_than_an_answer_carries() -> None:
    large = listed(*(letter * 2**20 for letter in "abcdef"))

    part, more = OURS.part(asked(""), large, 6, lambda row: [row.mid[0]])

    assert [row.mid[0] for row in part] == ["a", "b", "c"]
    assert OURS.read(asked(more)) == ["c"]


def test_a_row_that_is_larger_than_an_answer_still_goes() -> None:
    large = listed("a" * 5 * 2**20, "b")

    part, more = OURS.part(asked(""), large, 6, lambda row: [row.mid[0]])

    assert [row.mid[0] for row in part] == ["a"]
    assert OURS.read(asked(more)) == ["a"]
