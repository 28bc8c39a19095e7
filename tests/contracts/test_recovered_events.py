"""What a repair makes of a message that it read is the event that its webhook would have made."""

import json
from typing import Any

import pytest

from pagewire.type.v1.event_pb2 import Event, Source
from pagewire_sync.recovering import events_of
from pagewire_sync.shown import Refused, thread_of
from pagewire_webhook.normaliser import normalise
from pagewire_webhook.wire import write_event

PAGE = "104200000000001"
JO = "7100000000000001"
AT = 1_767_312_002_000
ISO = "2026-01-02T00:00:02+0000"


def by_webhook(message: dict[str, Any]) -> Event:
    item = {"sender": {"id": JO}, "recipient": {"id": PAGE}, "timestamp": AT, "message": message}
    body = {"object": "page", "entry": [{"id": PAGE, "time": AT, "messaging": [item]}]}
    (event,) = normalise(json.dumps(body).encode(), AT + 500).events
    written = Event()
    write_event(event, written)
    return written


def by_graph(message: dict[str, Any]) -> Event:
    shown = {"created_time": ISO, "from": {"id": JO}} | message
    people = {"data": [{"id": JO}, {"id": PAGE}]}
    item = {"id": "t_1", "participants": people, "messages": {"data": [shown]}}
    thread = thread_of(item, {PAGE}, Refused())
    ((event, _),) = events_of(PAGE, thread, 0, 2 * AT)
    return event


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"mid": "m_1", "text": "hello"}, {"id": "m_1", "message": "hello"}),
    (
        {"mid": "aWdf:1=", "text": "e\u0301 \U0001f44d \u0000"},
        {"id": "aWdf:1=", "message": "e\u0301 \U0001f44d \u0000"},
    ),
    ({"mid": f"m_{'x' * 500}", "text": ""}, {"id": f"m_{'x' * 500}"}),
    ({"mid": "m_3", "is_unsupported": True}, {"id": "m_3", "is_unsupported": True}),
    (
        {"mid": "m_4", "text": "nice", "reply_to": {"story": {"id": "17", "url": "u"}}},
        {"id": "m_4", "message": "nice", "story": {"reply_to": {"id": "17", "link": "u"}}},
    ),
]


@pytest.mark.parametrize(("webhook", "graph"), CASES)
def test_the_recovered_event_is_the_webhooks_save_for_its_source(
    webhook: dict[str, Any], graph: dict[str, Any]
) -> None:
    live, recovered = by_webhook(webhook), by_graph(graph)

    assert recovered.source == Source.SOURCE_RECOVERED
    live.source = Source.SOURCE_RECOVERED
    live.ClearField("sent_time")  # entry.time, which only a delivery has
    assert recovered == live


def test_a_story_mention_is_one_by_either_way() -> None:
    told = {"type": "story_mention", "payload": {"url": "u"}}
    live = by_webhook({"mid": "m_5", "attachments": [told]})
    recovered = by_graph({"id": "m_5", "story": {"mention": {"id": "17", "link": "u"}}})

    for field in ("key", "lane", "kind", "trigger", "person_id", "id_space"):
        assert getattr(recovered, field) == getattr(live, field)
