import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_rules.folding import fold
from pagewire_rules.matching import Found, Mode, TextMatch, text_condition


def match(mode: Mode, phrase: str, text: str) -> TextMatch:
    return text_condition(mode, [phrase], []).match([fold(text)])


@pytest.mark.parametrize(
    ("mode", "phrase", "text", "holds"),
    [
        (Mode.WORD, "price", "What is the PRICE?", True),
        (Mode.WORD, "price", "priceless", False),
        (Mode.WORD, "price", "priceless, but what price", True),
        (Mode.WORD, "how much", "How   much is it", True),
        (Mode.WORD, "how, much", "how, much", True),
        (Mode.WORD, "c++", "do you teach C++?", True),
        (Mode.WORD, "😀", "hi😀there", True),
        (Mode.WORD, "価格", "この価格はいくら", True),
        (Mode.WORD, "ราคา", "สินค้าราคาเท่าไหร่", True),
        (Mode.WORD, "cena", "ČENA", True),
        (Mode.CONTAINS, "rice", "prices", True),
        (Mode.CONTAINS, "rise", "prices", False),
        (Mode.EXACT, "stop", "  STOP ", True),
        (Mode.EXACT, "stop", "stop it", False),
        (Mode.STARTS_WITH, "order", "Order 66", True),
        (Mode.STARTS_WITH, "order", "my order", False),
        (Mode.ENDS_WITH, "please", "a menu, PLEASE", True),
        (Mode.ENDS_WITH, "please", "please do", False),
    ],
)
def test_a_mode_compares_as_its_name_says(mode: Mode, phrase: str, text: str, holds: bool) -> None:
    assert match(mode, phrase, text).holds is holds


def test_one_phrase_of_several_is_enough() -> None:
    condition = text_condition(Mode.WORD, ["price", "cost"], [])

    assert condition.match([fold("the cost?")]).holds


def test_a_phrase_that_must_not_stand_wins_over_one_that_does() -> None:
    condition = text_condition(Mode.WORD, ["price"], ["discount"])

    result = condition.match([fold("price without discount")])

    assert result == TextMatch(False, "text_excluded")


def test_without_phrases_any_text_and_none_at_all_will_do() -> None:
    condition = text_condition(Mode.WORD, [], [])

    assert condition.match([]).holds
    assert condition.match([fold("anything")]).holds


def test_an_event_without_text_is_told_from_one_with_another_text() -> None:
    condition = text_condition(Mode.WORD, ["price"], [])

    assert condition.match([]).reason == "text_absent"
    assert condition.match([fold("hello")]).reason == "text_no_match"


def test_a_buttons_payload_is_compared_too_but_has_no_place_in_the_text() -> None:
    condition = text_condition(Mode.EXACT, ["GET_STARTED"], [])

    assert condition.match([fold("Begin"), fold("GET_STARTED")]) == TextMatch(True)


def test_the_place_is_told_in_the_text_as_it_was_written() -> None:
    written = "  Co to  stojí: CENA?"

    result = match(Mode.WORD, "cena", written)

    assert result.found == Found(16, 20)
    assert written[16:20] == "CENA"


@given(st.text(min_size=1), st.text(), st.text())
def test_a_phrase_that_stands_in_a_text_is_found_there(
    phrase: str, before: str, after: str
) -> None:
    if not fold(phrase).text:
        return
    written = f"{before} {phrase} {after}"

    result = match(Mode.WORD, phrase, written)

    assert result.holds
    assert result.found is not None
    assert fold(phrase).text in fold(written[result.found.start : result.found.end]).text


@given(st.sampled_from(list(Mode)), st.text(), st.text())
def test_any_phrase_meets_any_text_without_an_error(mode: Mode, phrase: str, text: str) -> None:
    result = match(mode, phrase, text)

    assert result.holds == (result.reason == "")
