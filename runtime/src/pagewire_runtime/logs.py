"""Logs: one JSON object a line on stderr, whatever goes in, with nothing secret or personal."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pagewire_runtime.tracebacks import formatted, told, without_rows

REDACTED = "[redacted]"

# Keys whose values are never logged, whatever they hold.
_PERSONAL = {
    *("body", "message", "message_text", "raw", "snippet", "text", "title"),
    *("first_name", "last_name", "name", "participant_name", "username"),
    *("participant", "participant_id", "psid", "recipient_id", "sender_id"),
}
_SECRET_KEY = re.compile(
    r"token|secret|password|authorization|api_?key|signature|proof|cookie|dsn", re.IGNORECASE
)
_SECRET_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), rf"\1 {REDACTED}"),
    (
        re.compile(
            r"(?i)(\b(?:access_token|input_token|appsecret_proof|client_secret|verify_token"
            r"|hub\.verify_token|x-hub-signature(?:-256)?)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;}]+"
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?i)\bsha(?:1|256)=[0-9a-f]{20,}"), REDACTED),
    (re.compile(r"\b(?:EAA|IGA|IGQ)[A-Za-z0-9_-]{17,}"), REDACTED),  # how Meta's tokens begin
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE), rf"\1{REDACTED}@"),
)
_TEXT_MAX = 16_384
_DEPTH_MAX = 6

_REF_KEY = os.urandom(32)


def ref(value: str) -> str:
    """Stands for an id in the log: the same within this process, and tells nothing outside it."""
    data = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, key=_REF_KEY, digest_size=8).hexdigest()


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; events are short constant phrases, values go in as keywords."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(logger_name=name))


def configure(service: str, level: str = "INFO") -> None:
    """Sends structlog and the standard library's loggers to stderr, a JSON object a line."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _naming(service),
    ]
    exceptions = structlog.processors.ExceptionRenderer(lambda info: formatted(info[1]))
    last: list[Processor] = [exceptions, _rendered]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,
    )
    handler = _LinesHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    logging.captureWarnings(True)
    # These log addresses with their queries, where a verify token stands.
    for chatty in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Lines:
    """What structlog writes through: each of its levels is the same line on stderr."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = error = critical = exception = log = msg


class _LinesHandler(logging.Handler):
    """What the standard library's loggers write through."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(self.format(record))


def _write(line: str) -> None:
    # A log that can't be written (a full disk, a closed pipe) must not fail what it tells of.
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _naming(service: str) -> Processor:
    def name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        if "logger_name" in event:  # structlog keeps "logger" for an argument of its own
            event["logger"] = event.pop("logger_name")
        return event

    return name


def render(event: Mapping[str, Any]) -> str:
    """The event as one line of JSON, without what is secret or personal.

    ASCII only: line ends, escape sequences and bidirectional marks come out as \\uXXXX.
    """
    return json.dumps(_safe("", event, _DEPTH_MAX), ensure_ascii=True, allow_nan=False)


def _rendered(_: WrappedLogger, __: str, event: EventDict) -> str:
    return render(event)


def _safe(key: str, value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if key in _PERSONAL or _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return _scrubbed(value)
    if depth and isinstance(value, Mapping):
        return {str(inner): _safe(str(inner), held, depth - 1) for inner, held in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_safe("", held, depth - 1) for held in cast("Iterable[object]", value)]
    return _scrubbed(_described(value))


def _described(value: object) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({told(value)!r})"
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _scrubbed(text: str) -> str:
    text = without_rows(text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…")
    for pattern, instead in _SECRET_TEXT:
        text = pattern.sub(instead, text)
    return text
