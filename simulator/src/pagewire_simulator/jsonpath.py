"""The part of JSONPath that references in a batch use: keys, wildcards, positions, slices."""

import re
from collections.abc import Iterable
from typing import Any

STEP = re.compile(
    r"\.\.(?P<deep>\w+)|\.(?P<key>\w+|\*)|\[(?P<at>-?\d+)\]|\[(?P<all>\*)\]"
    r"|\[(?P<slice>-?\d*:-?\d*(?::\d*)?)\]|\['(?P<quoted>[^']*)'\]"
)


def find(path: str, value: Any) -> list[Any]:
    """All that the path leads to; raises ValueError where it can't be read."""
    found, at = [value], 1
    if not path.startswith("$"):
        raise ValueError(path)
    while at < len(path):
        step = STEP.match(path, at)
        if step is None:
            raise ValueError(path)
        found = [below for one in found for below in taken(step, one)]
        at = step.end()
    return found


def taken(step: re.Match[str], value: Any) -> Iterable[Any]:
    if deep := step["deep"]:
        return descended(deep, value)
    if step["all"] or step["key"] == "*":
        if isinstance(value, dict):
            return value.values()
        return value if isinstance(value, list) else ()
    if (key := step["key"] or step["quoted"]) is not None:
        return [value[key]] if isinstance(value, dict) and key in value else ()
    if not isinstance(value, list):
        return ()
    if step["slice"]:
        bounds = [int(bound) if bound else None for bound in step["slice"].split(":")]
        return value[slice(*bounds)]
    at = int(step["at"])
    return value[at : at + 1 or None]


def descended(key: str, value: Any) -> Iterable[Any]:
    """The key wherever it stands below."""
    below = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and key in value:
        yield value[key]
    if isinstance(value, dict | list):
        for one in below:
            yield from descended(key, one)
