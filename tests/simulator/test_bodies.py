import json
from typing import Any

import pytest

from pagewire_simulator import bodies
from pagewire_simulator.bodies import Event, Shape
from pagewire_simulator.entities import Host, Platform, Post
from pagewire_simulator.world import World

PAGE = "104200000000001"
PERSON = "7100000000000001"
NOW = 1_767_312_000_412


def event(value: dict[str, Any], shape: Shape, object_: str = "page", field: str = "x") -> Event:
    return Event(
        ref="e1",
        account_id=PAGE,
        login=Host.FACEBOOK,
        object=object_,
        field=field,
        shape=shape,
        value=value,
    )


def test_a_messenger_message_looks_as_documented() -> None:
    item = bodies.item(PERSON, PAGE, NOW - 412, bodies.message("m_1", "hi"))

    body = bodies.body([event(item, Shape.MESSAGING)], NOW)

    assert json.dumps(body) == (
        '{"object": "page", "entry": [{"id": "104200000000001", "time": 1767312000412, '
        '"messaging": [{"sender": {"id": "7100000000000001"}, '
        '"recipient": {"id": "104200000000001"}, "timestamp": 1767312000000, '
        '"message": {"mid": "m_1", "text": "hi"}}]}]}'
    )


def test_an_instagram_entry_begins_with_its_time_and_changes_count_seconds() -> None:
    messaging = bodies.entry(event({}, Shape.MESSAGING, "instagram"), NOW)
    change = bodies.body([event({"id": "1"}, Shape.CHANGES, "instagram", "comments")], NOW)
    flat = bodies.entry(event({"id": "1"}, Shape.FLAT, "instagram", "comments"), NOW)

    assert list(messaging) == ["time", "id", "messaging"]
    assert list(change) == ["entry", "object"]
    assert change["entry"][0]["time"] == NOW // 1000
    assert flat == {"id": PAGE, "time": NOW // 1000, "field": "comments", "value": {"id": "1"}}


def test_what_people_rarely_do_is_told_in_metas_words() -> None:
    assert bodies.reaction("m_1", None, None) == {"reaction": {"action": "unreact", "mid": "m_1"}}
    assert bodies.delivery(5, ["m_1"]) == {"delivery": {"mids": ["m_1"], "watermark": 5}}
    assert bodies.edit("m_1", None, 0) == {"message_edit": {"mid": "m_1", "num_edit": 0}}
    assert bodies.deleted("m_1") == {"message": {"mid": "m_1", "is_deleted": True}}
    assert bodies.attachment("ephemeral") == {"type": "ephemeral"}
    assert "sender" not in bodies.item(None, PAGE, 1, bodies.policy_enforcement("block"))
    assert [one["type"] for one in bodies.sticker_twins("https://x.test", 1)] == [
        "image",
        "sticker",
    ]


@pytest.mark.parametrize(
    ("payload", "messenger", "instagram"),
    [
        (bodies.message("m_1", "hi"), "messages", "messages"),
        ({"message": {"mid": "m_1", "is_echo": True}}, "message_echoes", "messages"),
        (bodies.read_until(1), "message_reads", "messaging_seen"),
        (bodies.edit("m_1", "x", 1), "message_edits", "message_edit"),
        (bodies.referral("r"), "messaging_referrals", "messaging_referral"),
        (
            bodies.pass_thread_control(None, "1"),
            "messaging_handovers",
            "messaging_handover",
        ),
    ],
)
def test_a_payload_belongs_to_the_platforms_own_field(
    payload: dict[str, Any], messenger: str, instagram: str
) -> None:
    assert bodies.field_of(Platform.MESSENGER, payload) == messenger
    assert bodies.field_of(Platform.INSTAGRAM, payload) == instagram


def test_a_feed_comment_names_the_app_scoped_author_and_its_parent() -> None:
    world = World(1, "1")
    page = world.create_account(id=PAGE)
    person = world.create_person(page)
    post = world.create_post(page, NOW)
    top = world.create_comment(page, person, post, NOW, "How much?")
    reply = world.create_comment(page, None, post, NOW, "10", parent=top)

    added = bodies.feed_comment("add", top, post, NOW)
    removed = bodies.feed_comment("remove", top, post, NOW)
    own = bodies.feed_comment("add", reply, post, NOW)

    assert added["from"]["id"] == person.commenter_id != person.id
    assert added["parent_id"] == post.id
    assert added["created_time"] == NOW // 1000
    assert "message" not in removed
    assert own["from"]["id"] == PAGE
    assert own["parent_id"] == top.id


def test_an_own_instagram_comment_carries_its_loop_guard() -> None:
    world = World(1, "1")
    account = world.create_account(platform=Platform.INSTAGRAM)
    post = Post(id="18000000000000905", account_id=account.id, created_at=NOW, text="")
    own = world.create_comment(account, None, post, NOW, "hello")

    value = bodies.instagram_comment(account, own)

    assert value["from"]["self_ig_scoped_id"] == account.self_igsid
    assert value["id"] == own.id


@pytest.mark.parametrize(
    "kind", ["page_feed", "page_message", "instagram_message", "instagram_comment"]
)
def test_a_dashboard_test_comes_for_the_account_zero(kind: str) -> None:
    body = bodies.dashboard_test(kind, NOW)

    assert body["entry"][0]["id"] == "0"
    assert body["entry"][0]["time"] == NOW // 1000
