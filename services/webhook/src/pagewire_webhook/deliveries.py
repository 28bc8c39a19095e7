"""A delivery: any signed body, read and made ready for the store."""

from __future__ import annotations

import random

from pagewire.store.v1.ingest_service_pb2 import Delivery
from pagewire_runtime.logs import get_logger
from pagewire_webhook.normaliser import Normalised, normalise
from pagewire_webhook.unreadable import Unreadable
from pagewire_webhook.wire import write_delivery

log = get_logger(__name__)

MAX_BYTES = 15 * 2**20
"""A call may hold 16 MiB; events repeat what the body says, so they may outgrow it."""

# So much larger than its body no delivery is.
_MAX_GROWTH = 100


def delivery_of(
    raw: bytes, *, delivery_id: str, received_ms: int, signed_by: str, replay_of: str = ""
) -> Delivery:
    """The delivery of a body; whole in quarantine where it can't be read. Never raises.

    A mistake of ours in reading costs the reading, never the body: `reader_failed`. Events larger
    together than one call can hold: `too_large`.
    """
    delivery = Delivery(delivery_id=delivery_id, body=raw, signed_by=signed_by, replay_of=replay_of)
    try:
        normalised = normalise(raw, received_ms)
    except Exception as mistake:
        # Without its text, which may quote the body.
        log.error("the reader failed", error=type(mistake).__name__)
        normalised = Normalised((), (Unreadable("reader_failed"),))
    write_delivery(normalised, received_ms, delivery)
    if len(raw) > MAX_BYTES // _MAX_GROWTH and delivery.ByteSize() > MAX_BYTES:
        return without_events(delivery, "too_large")
    return delivery


def without_events(delivery: Delivery, reason: str) -> Delivery:
    """The delivery as one whose body can't be read as a whole: its raw bytes, and the reason."""
    kept = Delivery(
        delivery_id=delivery.delivery_id,
        receive_time=delivery.receive_time,
        body=delivery.body,
        signed_by=delivery.signed_by,
        replay_of=delivery.replay_of,
    )
    kept.unreadable.add(reason=reason)
    return kept


def new_delivery_id(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562 section 5.7): ordered by time, which keeps its index small."""
    # It is unique, not secret, and the system's generator costs as much as a signature.
    chance = random.getrandbits(74)
    return (
        f"{now_ms >> 16:08x}-{now_ms & 0xFFFF:04x}-7{chance >> 62:03x}"
        f"-{0x8000 | chance >> 48 & 0x3FFF:04x}-{chance & 0xFFFF_FFFF_FFFF:012x}"
    )
