"""What Meta saw: the simulator's ledger, read into a `History`.

The keys and lanes that events must have are worked out here from what was sent, by the words of
Meta's pages and not by the code that is tested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from faults.history import Delivered, End, GraphCall, Happened, History
from pagewire_simulator.client import SimulatorClient
from pagewire_simulator.ledger import CallRecord, DeliveryRecord, EventRecord

PAGE_LANE = "page"


async def history(meta: SimulatorClient) -> History:
    """All that the simulator has kept since it started. Raises what its client does."""
    # First what names the others, so that all that is named is there while more happens.
    deliveries, sends = await asyncio.gather(meta.deliveries(), meta.sends())
    events, calls, summary = await asyncio.gather(meta.events(), meta.calls(), meta.summary())
    order = {call.serial: number for number, call in enumerate(sends, 1)}
    return History(
        seed=summary.seed,
        happened=tuple(happened(event) for event in events),
        delivered=tuple(_delivered(delivery) for delivery in deliveries),
        calls=tuple(_call(call, order.get(call.serial)) for call in calls),
    )


def happened(event: EventRecord) -> Happened:
    """The event, with the key and the lane that its row must have."""
    of = _of_messaging if event.shape in ("messaging", "standby") else _of_change
    kind, key, lane, content, at = of(event, event.value)
    return Happened(
        ref=event.ref,
        page_id=event.account_id,
        key=key,
        lane=lane,
        kind=kind,
        person_id=event.person_id,
        text=content.get("text", content.get("message")),
        tag=content.get("metadata"),
        happened_at=at,
        published_at=event.published_at / 1000,
        is_standby=event.shape == "standby",
        is_subscribed=event.subscribed,
        value=event.value,
    )


Read = tuple[str, str | None, str, Mapping[str, Any], float | None]
"""Kind, key, lane, the part that holds the text, and when it happened."""


def _of_messaging(event: EventRecord, item: Mapping[str, Any]) -> Read:
    sender = item.get("sender", {}).get("id", "")
    parties = {sender, item["recipient"]["id"]} - {"", event.account_id}
    lane = f"person:{parties.pop()}" if len(parties) == 1 else PAGE_LANE
    moment = item.get("timestamp")
    name = next(key for key in item if key not in ("sender", "recipient", "timestamp"))
    content = item[name]
    kind, key = _messaging_key(name, content, sender, moment)
    return kind, key, lane, content, None if moment is None else moment / 1000


def _messaging_key(
    name: str, content: Mapping[str, Any], sender: str, moment: int | None
) -> tuple[str, str | None]:
    mid = content.get("mid")
    match name:
        case "message":
            deleted, echo = content.get("is_deleted"), content.get("is_echo")
            kind = "deleted" if deleted else "echo" if echo else "message"
            return kind, f"{kind}:{mid}"
        case "message_edit":
            return "edit", f"edit:{mid}:{content['num_edit']}"
        case "postback":
            return "postback", f"postback:{mid}" if mid else None
        case "reaction":
            return "reaction", f"reaction:{mid}:{sender}:{content['action']}:{moment}"
        case "read":
            return "read", f"read:{sender}:{content.get('watermark', mid)}"
        case "delivery":
            return "delivery", f"delivery:{sender}:{content['watermark']}"
    return "other", None


def _of_change(event: EventRecord, value: Mapping[str, Any]) -> Read:
    if event.field == "feed" and value.get("item") == "comment":
        comment, parent = value["comment_id"], value.get("parent_id")
        root = comment if parent in (None, value["post_id"]) else parent
        keys = {"add": f"comment:{comment}:add", "remove": f"comment:{comment}:remove"}
        return "comment", keys.get(value["verb"]), f"comment:{root}", value, value["created_time"]
    if event.field in ("comments", "live_comments"):
        comment = value["id"]
        lane = f"comment:{value.get('parent_id', comment)}"
        return "igcomment", f"igcomment:{comment}", lane, value, None
    return "other", None, PAGE_LANE, {}, None


def _delivered(delivery: DeliveryRecord) -> Delivered:
    return Delivered(
        serial=delivery.serial,
        path=delivery.path,
        refs=tuple(delivery.refs),
        attempt=delivery.attempt,
        is_repeat=delivery.repeat,
        started_at=delivery.started_at / 1000,
        ended_at=delivery.ended_at / 1000,
        end=End(delivery.outcome),
        status=delivery.status,
    )


def _call(call: CallRecord, accepted_order: int | None) -> GraphCall:
    return GraphCall(
        serial=call.serial,
        endpoint=call.endpoint,
        page_id=call.account_id,
        person_id=call.person_id,
        comment_id=call.comment_id,
        text=call.text,
        tag=call.metadata,
        created=call.created,
        accepted_order=accepted_order,
        fault=call.fault,
        answer=call.answer,
        status=call.status,
        code=call.code,
        started_at=call.started_at / 1000,
        ended_at=None if call.ended_at is None else call.ended_at / 1000,
    )
