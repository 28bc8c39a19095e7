"""Attachments: any shape of Meta's to one, twins of a sticker folded, never fetched."""

from __future__ import annotations

from typing import Any

from pagewire_webhook.events import Attachment
from pagewire_webhook.fields import Clip, mapping

MAX_ATTACHMENTS = 50

_BESIDE_A_COMMENT = ("photo", "photos", "video", "link")


def attachments_of(value: Any, clip: Clip) -> tuple[Attachment, ...]:
    """A message's attachments, at most 50 of them.

    The list of types is open; what has none, or is no object, is of type "unknown". An image that
    repeats a sticker of the same message (until August 2026 Meta sends both) is left out.
    """
    if type(value) is not list or not value:
        return ()
    stickers = {_sticker_id(each) for each in value if mapping(each).get("type") == "sticker"}
    stickers.discard(None)
    items = [each for each in value if not stickers or not _is_twin(each, stickers)]
    return _bounded([_attachment(each, clip) for each in items[: MAX_ATTACHMENTS + 1]], clip)


def media_of(value: dict[str, Any], clip: Clip) -> tuple[Attachment, ...]:
    """The photos, video and link of a feed comment, which stand as addresses beside its text."""
    found: list[Attachment] = []
    for name in _BESIDE_A_COMMENT:
        held = value.get(name)
        if held is not None:
            addresses = held if type(held) is list else [held]
            urls = map(clip.text, addresses[: MAX_ATTACHMENTS + 1])
            found += [Attachment(name.removesuffix("s"), url) for url in urls if url]
    return _bounded(found, clip)


def _bounded(found: list[Attachment], clip: Clip) -> tuple[Attachment, ...]:
    clip.cut |= len(found) > MAX_ATTACHMENTS
    return tuple(found[:MAX_ATTACHMENTS])


def _attachment(value: Any, clip: Clip) -> Attachment:
    if type(value) is not dict:
        return Attachment("unknown", payload=clip.json(value))
    payload = value.get("payload")
    held = mapping(payload)
    return Attachment(
        type=clip.text(value.get("type")) or "unknown",
        # Old fallbacks have address and title beside the type, the address at times in capitals.
        url=clip.text(held.get("url") or value.get("url") or value.get("URL")),
        title=clip.text(value.get("title") or held.get("title")),
        payload="" if payload is None else clip.json(payload),
    )


def _is_twin(value: Any, stickers: set[str | int | None]) -> bool:
    return mapping(value).get("type") == "image" and _sticker_id(value) in stickers


def _sticker_id(value: Any) -> str | int | None:
    found = mapping(mapping(value).get("payload")).get("sticker_id")
    return found if isinstance(found, str | int) else None
