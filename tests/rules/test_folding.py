import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_rules.folding import fold


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("Price", "price"),
        ("  how \t much\n ", "how much"),
        ("ŽLUŤOUČKÝ kůň", "zlutoucky kun"),
        ("Straße", "strasse"),
        ("ﬁne ①", "fine 1"),
        ("cafe\u0301", "cafe"),
        ("pri\u200bce\ufeff", "price"),
        ("❤\ufe0f", "❤"),
        ("ＰＲＩＣＥ", "price"),
        ("İstanbul", "istanbul"),
        ("", ""),
        ("\u200d" * 3, ""),
    ],
)
def test_case_accents_width_and_white_space_are_folded(written: str, folded: str) -> None:
    assert fold(written).text == folded


def test_marks_that_carry_meaning_are_kept() -> None:
    assert fold("की").text != fold("क").text
    assert fold("ที่").text != fold("ท").text


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    once = fold(text).text

    assert fold(once).text == once


@given(st.text())
def test_composed_and_decomposed_forms_fold_alike(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)

    assert fold(unicodedata.normalize("NFD", text)).text == fold(composed).text


@given(st.text())
def test_each_folded_character_knows_where_it_came_from(text: str) -> None:
    folded = fold(text)

    assert len(folded.places) == len(folded.text) + 1
    assert list(folded.places) == sorted(folded.places)
    assert folded.places[-1] == len(text)
    for char, place in zip(folded.text, folded.places, strict=False):
        assert char in fold(f"x{text[place]}x").text
