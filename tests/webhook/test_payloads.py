"""Each of the sixty bodies gives the events, keys and counts that are expected of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pagewire_webhook.normaliser import normalise
from tests.support.bodies import (
    BODIES,
    EVENTS,
    JO,
    PAYLOADS,
    RECEIVED_MS,
    UNREADABLE,
    as_meta_sends,
    described,
    read,
)


def test_there_are_sixty_bodies_and_each_has_its_expectation() -> None:
    names = {path.stem for path in BODIES}

    assert len(names) == 60
    assert names == set(EVENTS)
    assert set(UNREADABLE) <= names


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.name)
def test_a_body_gives_the_events_that_are_expected_of_it(path: Path) -> None:
    delivery = read(as_meta_sends(path))

    assert described(delivery) == EVENTS[path.stem]
    unreadable = [(item.reason, item.path) for item in delivery.unreadable]
    assert unreadable == UNREADABLE.get(path.stem, [])


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.name)
def test_a_redelivery_with_another_time_of_sending_has_the_same_keys(path: Path) -> None:
    again = json.loads(path.read_bytes())
    for body in again if isinstance(again, list) else [again]:
        for entry in body.get("entry", []):
            if isinstance(entry, dict) and "time" in entry:
                entry["time"] = 1767399999
    sent = json.dumps(again, sort_keys=True, indent=3).encode()

    first, second = read(as_meta_sends(path)), read(sent)

    assert {(e.page_id, e.key) for e in first.events} == {(e.page_id, e.key) for e in second.events}


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.name)
def test_a_body_cut_in_the_middle_is_kept_whole_and_gives_nothing(path: Path) -> None:
    cut = as_meta_sends(path)[:-1]

    delivery = read(cut)

    assert delivery.body == cut
    assert not delivery.events
    assert [item.reason for item in delivery.unreadable] == ["json_invalid"]


def test_the_details_of_the_bodies_are_read() -> None:
    def first(name: str) -> Any:
        return normalise((PAYLOADS / f"{name}.json").read_bytes(), RECEIVED_MS).events[0]

    multi = first("messenger_attachments_multi").detail
    types = [attachment.type for attachment in multi.attachments]
    assert types == ["image", "video", "audio", "file", "location"]
    assert multi.attachments[4].title == "Pinned spot"
    assert json.loads(multi.attachments[4].payload)["coordinates"]["lat"] == 50.08804
    twins = first("messenger_sticker_transition").detail.attachments
    assert [attachment.type for attachment in twins] == ["sticker"]
    assert "🐎 costs 5 € / piece" in first("messenger_text_unicode").detail.text
    assert first("messenger_quick_reply_and_reply").detail.quick_reply_payload == "COLOUR_BLUE"
    assert first("messenger_message_ad_referral").detail.referral.ad_id == "120200000000000301"
    assert first("messenger_echo").detail.metadata == "local-id:4711"
    assert first("messenger_echo").detail.app_id == "880000000000010"
    assert first("messenger_numeric_ids").person_id == JO
    assert first("instagram_story_reply").detail.story_id == "17900000000000903"
    assert first("instagram_message_edit_zero").detail.text is None
    assert first("instagram_comment_fb_login_ad").detail.ad_id == "120200000000000302"
    assert first("instagram_live_comment_own").detail.is_live
    assert first("page_feed_comment_hide").detail.hidden
    assert first("page_feed_comment_hide").sent_time == 1767312700000
    assert first("page_feed_comment_legacy_sender_id").person_name == "Jo Example"
    assert first("page_feed_comment_legacy_sender_id").detail.attachments[0].type == "photo"
    assert first("page_feed_comment_by_page").person_id == ""
    assert first("messenger_delivery_watermark_only").clock_suspect
    assert first("messenger_delivery_watermark_only").event_time == RECEIVED_MS
    assert not first("messenger_referral_timestamp_seconds").clock_suspect
