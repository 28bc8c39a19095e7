"""The ids that callers see: each names its page, and a forged one names nothing.

They hold only the characters A-Z a-z 0-9 . _ ~ -, so that they stand in an address as they are.
Each has one spelling: what is read is written again and compared, so nothing has two ids.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string

_NUMBERED = re.compile(r"([er])-([A-Za-z0-9._~-]{1,128})-([1-9][0-9]{0,18})")
_RULE = re.compile(r"rule-[a-z0-9]{16}")
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,2048}")
_BIGINT_MAX = 2**63 - 1
_ALPHABET = string.ascii_lowercase + string.digits


def event_id(page_id: str, number: int) -> str:
    """The id of the page's event of this number: `e-<page_id>-<number>`."""
    return f"e-{page_id}-{number}"


def parse_event_id(text: str) -> tuple[str, int] | None:
    """The page and the number that an event's id names; None for what is no such id."""
    return _numbered("e", text)


def reply_id(page_id: str, number: int) -> str:
    """The id of the page's reply of this number: `r-<page_id>-<number>`."""
    return f"r-{page_id}-{number}"


def parse_reply_id(text: str) -> tuple[str, int] | None:
    """The page and the number that a reply's id names; None for what is no such id."""
    return _numbered("r", text)


def conversation_id(page_id: str, participant_id: str) -> str:
    """The id of what this person and this page write to each other."""
    named = f"{page_id}\0{participant_id}".encode()
    return "c-" + base64.urlsafe_b64encode(named).decode().rstrip("=")


def parse_conversation_id(text: str) -> tuple[str, str] | None:
    """The page and the participant that a conversation's id names; None for what is no such id."""
    encoded = text.removeprefix("c-")
    if encoded == text or not _BASE64URL.fullmatch(encoded):
        return None
    try:
        named = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    page_id, _, participant_id = named.partition("\0")
    if not page_id or not participant_id or "\0" in participant_id:
        return None
    return (page_id, participant_id) if conversation_id(page_id, participant_id) == text else None


def new_rule_id() -> str:
    """A rule's id: 16 characters that nobody guesses."""
    return "rule-" + _drawn()


def is_rule_id(text: str) -> bool:
    """Whether a rule could have this id."""
    return _RULE.fullmatch(text) is not None


def new_run_id() -> str:
    """A run's id, made likewise."""
    return "run-" + _drawn()


def parse_number(text: str) -> int | None:
    """A row's number as a positive 64-bit integer; None for what is no such number."""
    if not _NUMBER.fullmatch(text) or int(text) > _BIGINT_MAX:
        return None
    return int(text)


def _numbered(letter: str, text: str) -> tuple[str, int] | None:
    match = _NUMBERED.fullmatch(text)
    if match is None or match[1] != letter:
        return None
    number = parse_number(match[3])
    return None if number is None else (match[2], number)


def _drawn() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))
