"""Folding: the form in which texts are compared, and the way back to what was written."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Combining marks that people leave out when they type: accents of Latin, Greek and Cyrillic, Hebrew
# points, Arabic vowel signs. Marks of other scripts (Indic vowels, Thai tones) carry the meaning.
_ACCENTS = (
    (0x0300, 0x036F),
    (0x0591, 0x05C7),
    (0x064B, 0x0655),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
)
# Characters that show nothing: soft hyphen, zero-width and direction marks, variation selectors.
_UNSEEN = (
    (0x00AD, 0x00AD),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x2064),
    (0x2066, 0x2069),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
)
_DROPPED = frozenset(point for low, high in _ACCENTS + _UNSEEN for point in range(low, high + 1))


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text and, for each of its characters, the place of the one that it came from.

    `places` has one more entry than `text`: the length of what was folded.
    """

    text: str
    places: tuple[int, ...]


def fold(text: str) -> Folded:
    """Fold by NFKC, case and accents; runs of white space become one space, none at either end."""
    pieces: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        piece = _folded(char)
        if piece == " " and (not pieces or pieces[-1] == " "):
            continue
        for each in piece:
            pieces.append(each)
            places.append(place)
    if pieces and pieces[-1] == " ":
        pieces.pop()
        places.pop()
    return Folded("".join(pieces), (*places, len(text)))


@lru_cache(maxsize=8192)
def _folded(char: str) -> str:
    if char.isspace():
        return " "
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    kept = "".join(each for each in decomposed if ord(each) not in _DROPPED)
    return " " if kept and kept.isspace() else kept
