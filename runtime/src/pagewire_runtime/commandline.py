"""The command line of a service: its help, which tells of every setting that it reads."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Collection
from datetime import timedelta

from pydantic.fields import FieldInfo

from pagewire_runtime.settings import ServiceSettings

_READ = (
    "Settings are read from the environment, and from the files of PAGEWIRE_SECRETS_DIR where it is"
    " set: a file a setting, named like it."
)


def command_line(
    module: str, what: str, settings: type[ServiceSettings]
) -> argparse.ArgumentParser:
    """The arguments of `python -m <module>`: none but --help, which says `what` it is.

    A parser ends the process, as ever: with 0 after the help, with 2 for what it does not know.
    """
    told = [_told(field) for field in settings.model_fields.values()]
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=what,
        epilog="\n".join([textwrap.fill(_READ, 80), "", *told]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _told(field: FieldInfo) -> str:
    value = "required" if field.is_required() else _shown(field.get_default())
    return f"  {field.validation_alias} ({value})\n      {field.description}"


def _shown(value: object) -> str:
    """A default as the environment would have it; none of them is a secret."""
    if value is None or (isinstance(value, Collection) and not value):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if isinstance(value, frozenset | tuple):
        return ",".join(sorted(map(str, value)))
    return str(value)
