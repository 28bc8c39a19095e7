"""Templates: texts with names in braces, filled in once and never read as anything else."""

import re
from collections.abc import Mapping

NAMES = ("first_name", "name")
"""What a text can name: the person's first name, and the whole of it."""

NAME_LENGTH = 100
"""Longer names are cut: nobody's name, and a reply must stay below Meta's limit."""

_BRACED = re.compile(r"( ?)\{([^{}]*)\}( ?)")
_PLACEHOLDER = re.compile(r"(?P<name>[a-z_]+)(?:\|(?P<fallback>[^{}|]{0,100}))?")


class TemplateInvalid(ValueError):
    """A text has braces that name nothing."""


def check(template: str) -> None:
    """Raise TemplateInvalid, with what to write instead, unless all braces name something."""
    for _, inside, _ in _BRACED.findall(template):
        placeholder = _PLACEHOLDER.fullmatch(inside)
        if placeholder is None or placeholder["name"] not in NAMES:
            known = ", ".join(f"{{{name}}}" for name in NAMES)
            raise TemplateInvalid(
                f"braces may only hold {known}, or a fallback as in {{first_name|there}}"
            )
    rest = _BRACED.sub("", template)
    if "{" in rest or "}" in rest:
        raise TemplateInvalid("a brace has no partner")


def render(template: str, person_name: str) -> str:
    """Fill in the person's name; an unknown one gives its fallback, or is left out with a space."""
    names = _names(person_name)
    return _BRACED.sub(lambda braced: _filled(braced, names), template).strip()


def _filled(braced: re.Match[str], names: Mapping[str, str]) -> str:
    before, inside, after = braced.groups()
    placeholder = _PLACEHOLDER.fullmatch(inside)
    if placeholder is None:  # refused when the rule was saved
        return braced[0]
    value = names.get(placeholder["name"], "") or placeholder["fallback"] or ""
    return f"{before}{value}{after}" if value else after or ""


def _names(person_name: str) -> dict[str, str]:
    whole = " ".join("".join(char if char.isprintable() else " " for char in person_name).split())
    whole = whole[:NAME_LENGTH]
    return {"name": whole, "first_name": whole.split(" ", 1)[0]}
