"""Matching: whether a text condition holds, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pagewire_rules.folding import Folded, fold


class Mode(Enum):
    """How a phrase is compared with a text; both are folded."""

    WORD = "word"
    CONTAINS = "contains"
    EXACT = "exact"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"


@dataclass(frozen=True, slots=True)
class Found:
    """A phrase's place in the text as it was written: first character, one past the last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What a text condition says: whether it holds, why not, and where."""

    holds: bool
    reason: str = ""
    found: Found | None = None


@dataclass(frozen=True, slots=True)
class TextCondition:
    """One of `any` (or `any` is empty) and none of `none`; phrases are folded already."""

    mode: Mode
    any: tuple[str, ...]
    none: tuple[str, ...]

    def match(self, texts: Sequence[Folded]) -> TextMatch:
        """Compare with what the event says: its text first, then a button's payload, if any.

        A phrase may stand in any of them. The place is told for the first, which is the text.
        """
        if any(self._find(text, phrase) for text in texts for phrase in self.none):
            return TextMatch(False, "text_excluded")
        if not self.any:
            return TextMatch(True)
        if not texts:
            return TextMatch(False, "text_absent")
        for nth, text in enumerate(texts):
            for phrase in self.any:
                if found := self._find(text, phrase):
                    return TextMatch(True, found=found if nth == 0 else None)
        return TextMatch(False, "text_no_match")

    def _find(self, text: Folded, phrase: str) -> Found | None:
        at = FINDERS[self.mode](text.text, phrase)
        if at < 0:
            return None
        return Found(text.places[at], text.places[at + len(phrase) - 1] + 1)


def text_condition(mode: Mode, any_of: Sequence[str], none_of: Sequence[str]) -> TextCondition:
    """A condition over phrases as people wrote them."""
    return TextCondition(mode, _phrases(any_of), _phrases(none_of))


def _phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fold(phrase).text for phrase in phrases))


def _word(text: str, phrase: str) -> int:
    at = text.find(phrase)
    while at >= 0:
        if _boundary(text, at) and _boundary(text, at + len(phrase)):
            return at
        at = text.find(phrase, at + 1)
    return -1


def _boundary(text: str, at: int) -> bool:
    """Whether a word may begin or end before the character at `at`."""
    if at == 0 or at == len(text):
        return True
    before, after = text[at - 1], text[at]
    return not (_joins(before) and _joins(after))


def _joins(char: str) -> bool:
    """Whether the character is part of a word that spaces set apart.

    Scripts that write no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) have
    a boundary everywhere, or no phrase would ever be found in them.
    """
    if not (char.isalnum() or char == "_"):
        return False
    point = ord(char)
    return not any(low <= point <= high for low, high in _UNSPACED)


_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)

FINDERS: dict[Mode, Callable[[str, str], int]] = {
    Mode.WORD: _word,
    Mode.CONTAINS: lambda text, phrase: text.find(phrase),
    Mode.EXACT: lambda text, phrase: 0 if text == phrase else -1,
    Mode.STARTS_WITH: lambda text, phrase: 0 if text.startswith(phrase) else -1,
    Mode.ENDS_WITH: lambda text, phrase: len(text) - len(phrase) if text.endswith(phrase) else -1,
}
"""Where a folded phrase stands in a folded text by each mode; -1 where it does not."""
