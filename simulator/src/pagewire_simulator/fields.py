"""The ``fields`` parameter: ``id,messages.limit(5){id,from}`` as a tree."""

import re
from collections.abc import Iterable

import msgspec

from pagewire_simulator.refusals import Refusal, Refused

TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[,{}]|\.[a-z_]+\([^()]*\))")


class Field(msgspec.Struct):
    """A field, its modifiers (``{"limit": "5"}``) and what was asked for inside it."""

    name: str
    modifiers: dict[str, str] = {}
    inner: list["Field"] = []

    def limit(self, default: int) -> int:
        value = self.modifiers.get("limit", "")
        return int(value) if value.isdigit() else default

    def __str__(self) -> str:
        modifiers = "".join(f".{name}({value})" for name, value in self.modifiers.items())
        inner = f"{{{spelled(self.inner)}}}" if self.inner else ""
        return f"{self.name}{modifiers}{inner}"


def spelled(fields: Iterable[Field]) -> str:
    """The fields as the parameter that asks for them."""
    return ",".join(map(str, fields))


def parse(text: str) -> list[Field]:
    """Raises Refused (2500) where the text can't be read."""
    tokens = tokenize(text)
    fields = parse_list(tokens)
    if tokens:
        raise syntax_error(text)
    return fields


def tokenize(text: str) -> list[str]:
    """The tokens, last first."""
    tokens, at, text = [], 0, text.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise syntax_error(text)
        tokens.append(match.group(1))
        at = match.end()
    return tokens[::-1]


def parse_list(tokens: list[str]) -> list[Field]:
    fields = []
    while tokens and tokens[-1] != "}":
        field = Field(tokens.pop())
        if not field.name.isidentifier():
            raise syntax_error(field.name)
        while tokens and tokens[-1].startswith("."):
            name, _, value = tokens.pop()[1:-1].partition("(")
            field.modifiers[name] = value
        if tokens and tokens[-1] == "{":
            tokens.pop()
            field.inner = parse_list(tokens)
            if not tokens or tokens.pop() != "}":
                raise syntax_error(field.name)
        fields.append(field)
        if tokens and tokens[-1] == ",":
            tokens.pop()
        elif tokens and tokens[-1] != "}":
            raise syntax_error(tokens[-1])
    return fields


def syntax_error(at: str) -> Refused:
    return Refused(Refusal(message=f"Syntax error in the fields at: {at[:60]}", code=2500))
