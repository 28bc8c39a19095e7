"""A body's events, whatever it holds."""

import copy
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.type.v1 import event_pb2
from pagewire_webhook.deliveries import delivery_of
from pagewire_webhook.events import Event, Kind, Other, Source, Space, Trigger
from pagewire_webhook.fields import DAY_MS, EARLIEST_MS, TEXT_MAX_BYTES
from pagewire_webhook.normaliser import MAX_ENTRIES, MAX_ITEMS, Normalised, normalise
from pagewire_webhook.wire import write_event

PAGE = "104200000000001"
JO = "7100000000000001"
NOW = 1_767_312_010_000
THEN = 1_767_312_000_000


def message(mid: Any = "m_1", **fields: Any) -> Any:
    return item(message={"mid": mid, "text": "hello", **fields})


def item(sender: Any = JO, recipient: Any = PAGE, timestamp: Any = THEN, **what: Any) -> Any:
    people = {"sender": {"id": sender}, "recipient": {"id": recipient}}
    return {**people, "timestamp": timestamp, **what}


def entry(*items: Any, name: str = "messaging", page: Any = PAGE, time: Any = NOW) -> Any:
    return {"id": page, "time": time, name: list(items)}


def change(field: str, **value: Any) -> Any:
    return {"field": field, "value": value}


def feed(verb: str = "add", **value: Any) -> Any:
    said = {"item": "comment", "comment_id": "5_8", "post_id": f"{PAGE}_5", "verb": verb}
    return change("feed", **{**said, "parent_id": f"{PAGE}_5", **value})


def read(*entries: Any, of: str = "page", now: int = NOW) -> Normalised:
    return normalise(json.dumps({"object": of, "entry": list(entries)}).encode(), now)


def only(*items: Any, name: str = "messaging", **fields: Any) -> Event:
    """The one event of these items."""
    normalised = read(entry(*items, name=name, **fields))
    assert normalised.unreadable == ()
    (event,) = normalised.events
    return event


def refused(*items: Any, name: str = "messaging") -> list[str]:
    """The reasons of the unreadable ones, where nothing was read."""
    normalised = read(entry(*items, name=name))
    assert normalised.events == ()
    return [each.reason for each in normalised.unreadable]


class TestTheBody:
    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"", "json_invalid"),
            (b"42", "body_not_object"),
            (b"null", "body_not_object"),
            (b'"x"', "body_not_object"),
            (b"[]", "body_not_object"),
            (b'{"object":"page"}', "entry_missing"),
            (b'{"object":"page","entry":{}}', "entry_not_array"),
            (b'{"object":"page","entry":"x"}', "entry_not_array"),
            (b'{"object":"page","entry":null}', "entry_not_array"),
            (b"[" * 100 + b"]" * 100, "json_too_deep"),
        ],
    )
    def test_one_that_cannot_be_read_is_unreadable_as_a_whole(
        self, raw: bytes, reason: str
    ) -> None:
        normalised = normalise(raw, NOW)

        assert normalised.outcome == "quarantined"
        assert [(each.reason, each.path) for each in normalised.unreadable] == [(reason, "")]

    def test_one_without_entries_is_read_and_holds_nothing(self) -> None:
        assert read() == Normalised((), ())
        assert read().outcome == "parsed"

    def test_an_entry_with_nothing_but_its_id_holds_nothing(self) -> None:
        assert read({"id": PAGE, "time": NOW}, {"id": PAGE, "changed_fields": ["feed"]}) == (
            Normalised((), ())
        )

    def test_an_entry_that_says_only_what_is_unknown_is_named(self) -> None:
        normalised = read(
            {"id": PAGE, "time": NOW, "chatter": [{"sender": {"id": JO}}]},
            {"id": PAGE, "chatter": None},
            entry(message()),
        )

        assert [(each.reason, each.path) for each in normalised.unreadable] == [
            ("entry_unknown", "entry[0]")
        ]
        assert [event.key for event in normalised.events] == ["message:m_1"]

    def test_an_array_of_bodies_is_unwrapped_and_what_is_none_is_named(self) -> None:
        body = {"object": "page", "entry": [entry(message())]}

        normalised = normalise(json.dumps([body, 17, {"object": "page"}]).encode(), NOW)

        assert [event.key for event in normalised.events] == ["message:m_1"]
        assert [(each.reason, each.path) for each in normalised.unreadable] == [
            ("body_not_object", "[1]"),
            ("entry_missing", "[2]"),
        ]

    @pytest.mark.parametrize("named", [{"entry": []}, ["page"], 7, None])
    def test_an_object_that_is_no_text_is_an_unknown_one(self, named: object) -> None:
        body = {"object": named, "entry": [entry(message())]}

        normalised = normalise(json.dumps(body).encode(), NOW)

        assert [event.key for event in normalised.events] == ["message:m_1"]
        assert [each.reason for each in normalised.unreadable] == ["unknown_object"]

    def test_an_unknown_object_is_named_and_what_has_a_known_shape_is_read(self) -> None:
        normalised = read(
            entry(message()), entry(change("email", verb="granted"), name="changes"), of="user"
        )

        assert [event.key for event in normalised.events] == ["message:m_1"]
        assert [each.reason for each in normalised.unreadable] == ["unknown_object"]
        assert normalised.outcome == "partial"

    def test_a_thousand_entries_are_read_and_one_more_is_refused(self) -> None:
        entries = [entry(message(f"m_{at}")) for at in range(MAX_ENTRIES)]

        assert len(read(*entries).events) == MAX_ENTRIES
        (unreadable,) = read(*entries, entry(message("m_more"))).unreadable
        assert unreadable.reason == "entries_too_many"

    def test_five_thousand_items_are_read_and_one_more_is_refused(self) -> None:
        items = [message(f"m_{at}") for at in range(MAX_ITEMS)]

        assert len(read(entry(*items)).events) == MAX_ITEMS
        assert refused(*items, message("m_more")) == ["events_too_many"]
        assert refused(*[None] * (MAX_ITEMS + 1)) == ["events_too_many"]

    def test_one_bad_item_among_a_thousand_costs_only_itself(self) -> None:
        items = [message(f"m_{at}") for at in range(1_000)]
        items.insert(500, {"recipient": {"id": PAGE}, "message": {"mid": "m_x"}})

        normalised = read(entry(*items))

        assert len(normalised.events) == 1_000
        assert [(each.reason, each.path, each.page_id) for each in normalised.unreadable] == [
            ("sender_missing", "entry[0].messaging[500]", PAGE)
        ]
        assert normalised.outcome == "partial"

    def test_messaging_standby_and_changes_of_one_entry_are_all_read(self) -> None:
        mixed = {
            "id": PAGE,
            "messaging": [message("m_1")],
            "standby": [message("m_2")],
            "changes": [feed()],
        }

        events = read(mixed).events

        assert [(event.key, event.source) for event in events] == [
            ("message:m_1", Source.LIVE),
            ("message:m_2", Source.STANDBY),
            ("comment:5_8:add", Source.LIVE),
        ]

    @pytest.mark.parametrize(
        ("page", "reason"),
        [(None, "id_missing"), ("", "id_missing"), ("a b", "id_malformed"), (1.5, "id_malformed")],
    )
    def test_an_entry_without_a_usable_account_is_unreadable(self, page: Any, reason: str) -> None:
        (unreadable,) = read(entry(message(), page=page)).unreadable

        assert (unreadable.reason, unreadable.path) == (reason, "entry[0]")


class TestRepeats:
    def test_the_same_event_twice_is_one(self) -> None:
        normalised = read(entry(message(), message()), entry(message(), time=NOW + 5))

        assert len(normalised.events) == 1

    def test_the_same_mid_on_another_account_or_in_another_case_is_another_event(self) -> None:
        normalised = read(
            entry(message("m_a"), message("m_A")),
            entry(item(recipient="99", message={"mid": "m_a"}), page="99"),
        )

        assert len(normalised.events) == 3

    @pytest.mark.parametrize("order", [("messaging", "standby"), ("standby", "messaging")])
    def test_a_live_event_wins_over_the_same_on_standby(self, order: tuple[str, str]) -> None:
        normalised = read(*(entry(message(), name=name) for name in order))

        assert [event.source for event in normalised.events] == [Source.LIVE]

    def test_of_the_states_of_one_moment_the_last_counts(self) -> None:
        same = read(entry(feed("hide"), feed("unhide"), name="changes")).events
        later = read(
            entry(feed("hide"), name="changes", time=NOW),
            entry(feed("unhide"), name="changes", time=NOW + 1),
        ).events

        assert [event.detail.hidden for event in same] == [False]  # type: ignore[union-attr]
        assert [event.detail.hidden for event in later] == [True, False]  # type: ignore[union-attr]
        assert {event.key for event in (*same, *later)} == {""}

    def test_keys_do_not_depend_on_batching_order_of_keys_white_space_or_entry_time(self) -> None:
        items = [
            message("m_1"),
            item(postback={"title": "Prices", "payload": "P"}),
            item(reaction={"mid": "m_0", "action": "react"}),
            item(account_linking={"status": "linked", "code": "c"}),
            item(brand_new={"b": 1, "a": [1, {"d": 1, "c": 2}]}),
        ]
        together = read(entry(*items)).events

        shuffled = random.Random(7).sample(items, len(items))
        apart = [
            normalise(
                json.dumps(
                    {"entry": [{**entry(backwards(each)), "time": at}], "object": "page"},
                    indent=at + 1,
                ).encode(),
                NOW + 1_000 * at,
            ).events[0]
            for at, each in enumerate(shuffled)
        ]

        assert {event.key for event in together} == {event.key for event in apart}
        assert len({event.key for event in together}) == len(items)


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: backwards(held) for key, held in reversed(value.items())}
    return [backwards(each) for each in value] if isinstance(value, list) else value


class TestIds:
    def test_a_number_keeps_its_digits(self) -> None:
        event = only(item(sender=9_007_199_254_740_993, message={"mid": "m_1"}))

        assert event.person_id == "9007199254740993"
        assert event.lane == "person:9007199254740993"

    @pytest.mark.parametrize(
        "sender",
        ["1'); DROP TABLE message;--", "a b", "x" * 513, "é", "a\x00", 7.1e15, True, {}, [], -1],
    )
    def test_one_that_is_none_makes_the_item_unreadable(self, sender: Any) -> None:
        assert refused(item(sender=sender, message={"mid": "m_1"})) == ["id_malformed"]

    @pytest.mark.parametrize("mid", [123, {}, [], True, "x" * 10_000, "m 1", "m\n1"])
    def test_a_mid_is_a_text_of_its_pattern(self, mid: Any) -> None:
        assert refused(message(mid)) == ["id_malformed"]

    @pytest.mark.parametrize("mid", [None, ""])
    def test_a_message_without_a_mid_is_unreadable(self, mid: Any) -> None:
        assert refused(message(mid)) == ["id_missing"]

    def test_long_ids_of_the_pattern_are_taken(self) -> None:
        mid = "aWdf" + "A0_.:=+/$-" * 50

        assert only(message(mid)).key == f"message:{mid}"


class TestTimes:
    @pytest.mark.parametrize(
        ("said", "time", "is_suspect"),
        [
            (THEN, THEN, False),
            (THEN // 1000, THEN, False),
            (str(THEN), THEN, False),
            (str(THEN // 1000), THEN, False),
            ("2026-01-02T00:00:00+0000", THEN, False),
            ("2026-01-02T00:00:00", THEN, False),
            (THEN / 1000, THEN, False),
            (None, NOW, True),
            (-1, EARLIEST_MS, True),
            ("-5", EARLIEST_MS, True),
            (0, EARLIEST_MS, True),
            (THEN + 10 * 365 * DAY_MS, NOW + DAY_MS, True),
            (2**63 - 1, NOW + DAY_MS, True),
            (NOW + DAY_MS, NOW + DAY_MS, False),
        ],
    )
    def test_one_is_read_leniently_and_clamped(
        self, said: Any, time: int, is_suspect: bool
    ) -> None:
        event = only(item(timestamp=said, message={"mid": "m_1"}))

        assert (event.event_time, event.clock_suspect) == (time, is_suspect)

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (2**63, "timestamp_out_of_range"),
            (str(2**63), "timestamp_out_of_range"),
            (10**300, "timestamp_out_of_range"),
            (1e300, "timestamp_out_of_range"),
            (True, "timestamp_malformed"),
            ("soon", "timestamp_malformed"),
            ("", "timestamp_malformed"),
            ("١٢", "timestamp_malformed"),
            ({}, "timestamp_malformed"),
            ([1], "timestamp_malformed"),
        ],
    )
    def test_one_that_is_none_makes_the_item_unreadable(self, said: Any, reason: str) -> None:
        assert refused(item(timestamp=said, message={"mid": "m_1"})) == [reason]

    @pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5_000])
    def test_a_number_beyond_all_types_costs_only_its_item(self, number: str) -> None:
        body = {"object": "page", "entry": [entry(item(timestamp="?", message={}), message())]}
        raw = json.dumps(body).replace('"?"', number).encode()

        normalised = normalise(raw, NOW)

        assert [event.key for event in normalised.events] == ["message:m_1"]
        assert [each.reason for each in normalised.unreadable] == ["timestamp_out_of_range"]

    def test_the_time_of_an_entry_never_costs_anything(self) -> None:
        unusable: list[Any] = ["soon", None, {}, 10**300, True]
        for time in unusable:
            assert only(message(), time=time).sent_time is None
        assert only(message(), time=THEN // 1000).sent_time == THEN

    def test_a_key_holds_the_time_as_it_was_said(self) -> None:
        early = only(item(timestamp=5, reaction={"mid": "m_1", "action": "react"}))
        untimed = only(item(timestamp=None, referral={"ref": "a"}))

        assert early.key == f"reaction:m_1:{JO}:react:5000"
        assert early.event_time == EARLIEST_MS
        assert untimed.key.startswith(f"referral:{JO}:none:")


class TestPeople:
    def test_an_echo_is_the_pages_and_about_its_recipient(self) -> None:
        event = only(item(PAGE, JO, message={"mid": "m_1", "is_echo": True}))

        assert (event.kind, event.is_own, event.trigger) == (Kind.ECHO, True, Trigger.NONE)
        assert (event.person_id, event.lane) == (JO, f"person:{JO}")

    def test_an_echo_printed_the_other_way_round_is_about_the_same_person(self) -> None:
        event = only(item(JO, PAGE, message={"mid": "m_1", "is_echo": True}))

        assert (event.kind, event.person_id) == (Kind.ECHO, JO)

    @pytest.mark.parametrize(("sender", "recipient"), [(PAGE, PAGE), (JO, JO), (PAGE, JO)])
    def test_what_the_page_or_oneself_sends_is_own_and_has_no_trigger(
        self, sender: str, recipient: str
    ) -> None:
        event = only(item(sender, recipient, message={"mid": "m_1"}))

        assert (event.kind, event.is_own, event.trigger) == (Kind.MESSAGE, True, Trigger.NONE)
        assert event.person_id == (JO if JO in (sender, recipient) else "")

    def test_what_another_account_received_is_not_ours_and_is_kept_apart(self) -> None:
        assert refused(item(recipient="99", message={"mid": "m_1"})) == ["recipient_mismatch"]

    def test_a_recipient_may_be_missing(self) -> None:
        event = only({"sender": {"id": JO}, "message": {"mid": "m_1"}})

        assert event.person_id == JO

    @pytest.mark.parametrize("sender", ["u", [], 17])
    def test_a_sender_that_is_no_object_makes_the_item_unreadable(self, sender: Any) -> None:
        assert refused({"sender": sender, "message": {"mid": "m_1"}}) == ["not_object"]

    @pytest.mark.parametrize(
        "what",
        [
            {"message": {"mid": "m_1"}},
            {"postback": {"mid": "m_1"}},
            {"reaction": {"mid": "m_1"}},
            {"read": {"watermark": THEN}},
            {"delivery": {"watermark": THEN}},
            {"referral": {"ref": "a"}},
            {"optin": {"ref": "a"}},
            {"messaging_feedback": {}},
            {"messaging_customer_information": {}},
            {"response_feedback": {"mid": "m_1"}},
        ],
        ids=lambda what: next(iter(what)),
    )
    def test_what_somebody_does_needs_somebody(self, what: Any) -> None:
        assert refused({"recipient": {"id": PAGE}, **what}) == ["sender_missing"]

    def test_a_plugins_user_is_known_by_its_user_ref_and_cannot_be_answered(self) -> None:
        event = only({"sender": {"user_ref": "ur-1"}, "message": {"mid": "m_1"}})

        assert (event.person_id, event.id_space) == ("ur-1", Space.USER_REF)
        assert (event.lane, event.trigger) == ("page", Trigger.NONE)

    def test_a_name_is_taken_where_it_is_told(self) -> None:
        told = item(messaging_customer_information={"screens": []})
        told["sender"]["name"] = "Jo\x00"

        event = only(told)

        assert event.person_name == "Jo\ufffd"
        assert event.kind is Kind.CUSTOMER_INFORMATION


class TestMessages:
    @pytest.mark.parametrize(
        ("fields", "trigger"),
        [
            ({}, Trigger.MESSAGE),
            ({"reply_to": {"mid": "m_0"}}, Trigger.MESSAGE),
            ({"reply_to": {"story": {"id": "1", "url": "u"}}}, Trigger.STORY_REPLY),
            ({"attachments": [{"type": "story_mention"}]}, Trigger.STORY_MENTION),
            ({"is_unsupported": True}, Trigger.MESSAGE),
            ({"is_deleted": True}, Trigger.NONE),
            ({"is_echo": True}, Trigger.NONE),
            ({"is_self": True}, Trigger.NONE),
            ({"is_echo": "yes"}, Trigger.MESSAGE),
        ],
    )
    def test_a_rule_may_answer_by_what_it_is(self, fields: Any, trigger: Trigger) -> None:
        assert only(message(**fields)).trigger is trigger

    def test_one_without_text_or_attachments_is_a_message(self) -> None:
        event = only(item(message={"mid": "m_1", "is_unsupported": True}))

        assert event.detail.is_unsupported  # type: ignore[union-attr]

    @pytest.mark.parametrize("text", [None, 17, {}, ["a"]])
    def test_a_text_that_is_none_is_empty(self, text: Any) -> None:
        assert only(message(text=text)).detail.text == ""  # type: ignore[union-attr]

    def test_nul_and_lone_surrogates_are_replaced_and_the_rest_is_left(self) -> None:
        raw = json.dumps(
            {"object": "page", "entry": [entry(message(text="a\x00b\ud800\u202e\x1b[1m\r\n"))]}
        ).encode()

        delivery = delivery_of(raw, delivery_id="d", received_ms=NOW, signed_by="app")

        assert delivery.events[0].message.text == "a\ufffdb\ufffd\u202e\x1b[1m\r\n"
        assert delivery.body == raw

    @pytest.mark.parametrize("letter", ["x", "é", "€", "🐎"])
    def test_a_text_over_64_kib_is_cut_to_whole_characters_and_flagged(self, letter: str) -> None:
        event = only(message(text=letter * (3_900_000 // len(letter.encode()))))

        text: Any = event.detail.text  # type: ignore[union-attr]
        assert event.truncated
        assert set(text) == {letter}
        assert TEXT_MAX_BYTES - 4 < len(text.encode()) <= TEXT_MAX_BYTES
        assert not only(message(text=text)).truncated

    def test_attachments_over_fifty_are_left_out_and_flagged(self) -> None:
        fifty = [{"type": "image", "payload": {"url": f"https://x.test/{at}"}} for at in range(50)]

        exact = only(message(attachments=fifty))
        over = only(message(attachments=fifty * 10))

        assert (len(exact.detail.attachments), exact.truncated) == (50, False)  # type: ignore[union-attr]
        assert (len(over.detail.attachments), over.truncated) == (50, True)  # type: ignore[union-attr]

    @pytest.mark.parametrize("attachments", [None, {}, "x", 17, []])
    def test_attachments_that_are_no_list_are_none(self, attachments: Any) -> None:
        assert only(message(attachments=attachments)).detail.attachments == ()  # type: ignore[union-attr]

    def test_an_attachment_of_any_shape_is_kept(self) -> None:
        shapes = [
            {"type": "hologram", "payload": {"x": 1}},
            {"type": "like_heart"},
            {"type": "fallback", "payload": "opaque", "URL": "https://x.test", "title": "T"},
            {"type": "image", "payload": None},
            {"payload": {"url": 17}},
            "text",
            None,
        ]

        kept = only(message(attachments=shapes)).detail.attachments  # type: ignore[union-attr]

        assert [each.type for each in kept] == [
            *("hologram", "like_heart", "fallback", "image", "unknown", "unknown", "unknown")
        ]
        assert (kept[2].url, kept[2].title, kept[2].payload) == ("https://x.test", "T", '"opaque"')
        assert (kept[3].payload, kept[5].payload) == ("", '"text"')

    def test_addresses_are_opaque_texts(self) -> None:
        addresses = ["http://127.0.0.1:5432", "file:///x", "gopher://x", "https://user@host", "/a"]
        sent = [{"type": "image", "payload": {"url": address}} for address in addresses]

        kept = only(message(attachments=sent)).detail.attachments  # type: ignore[union-attr]

        assert [each.url for each in kept] == addresses

    def test_twins_of_one_sticker_are_one_and_an_image_of_another_stays(self) -> None:
        sent = [
            {"type": "image", "payload": {"sticker_id": 1}},
            {"type": "sticker", "payload": {"sticker_id": 1}},
            {"type": "image", "payload": {"sticker_id": 2}},
            {"type": "image", "payload": {"url": "https://x.test"}},
        ]

        kept = only(message(attachments=sent)).detail.attachments  # type: ignore[union-attr]

        assert [each.type for each in kept] == ["sticker", "image", "image"]

    def test_a_payload_over_64_kib_is_left_out_and_flagged(self) -> None:
        event = only(message(attachments=[{"type": "template", "payload": {"x": "y" * 70_000}}]))

        assert event.truncated
        assert event.detail.attachments[0].payload == ""  # type: ignore[union-attr]

    def test_keys_that_are_names_elsewhere_are_nothing_here(self) -> None:
        event = only(message(__proto__={"x": 1}, __class__="x", constructor=[]))

        assert event.key == "message:m_1"

    def test_an_item_of_two_kinds_is_two_events_and_a_bad_one_costs_only_itself(self) -> None:
        both = item(message={"mid": "m_1"}, postback={"mid": "m_2"}, reaction={"mid": 17})

        normalised = read(entry(both))

        assert [event.key for event in normalised.events] == ["message:m_1", "postback:m_2"]
        assert [each.reason for each in normalised.unreadable] == ["id_malformed"]


class TestOtherKinds:
    @pytest.mark.parametrize("number", [2, "2"])
    def test_an_edit_is_numbered(self, number: Any) -> None:
        event = only(item(message_edit={"mid": "m_1", "text": "b", "num_edit": number}))

        assert (event.key, event.trigger) == ("edit:m_1:2", Trigger.NONE)

    @pytest.mark.parametrize("number", [-1, 2**31, "x", 1.5, True, {}])
    def test_an_edit_with_a_number_that_is_none_is_unreadable(self, number: Any) -> None:
        assert refused(item(message_edit={"mid": "m_1", "num_edit": number})) == [
            "number_malformed"
        ]

    def test_an_edit_without_a_number_is_keyed_by_its_hash(self) -> None:
        assert only(item(message_edit={"mid": "m_1"})).key.startswith("edit:")
        assert only(item(message_edit={"mid": "m_1"})).key != "edit:m_1:0"

    def test_a_read_is_up_to_a_time_or_a_message(self) -> None:
        watermark = only(item(read={"watermark": str(THEN)}))
        mid = only(item(read={"mid": "m_1"}))

        assert watermark.key == f"read:{JO}:{THEN}"
        assert watermark.detail.watermark == THEN  # type: ignore[union-attr]
        assert mid.key == f"read:{JO}:m_1"
        assert refused(item(read={})) == ["id_missing"]

    def test_a_delivery_without_a_watermark_is_keyed_by_its_hash(self) -> None:
        event = only(item(delivery={"mids": ["m_1", None, "m_2"]}))

        assert event.detail.mids == ("m_1", "m_2")  # type: ignore[union-attr]
        assert event.key.startswith("delivery:")

    def test_an_optin_is_answered_unless_it_stops(self) -> None:
        given = only(item(optin={"type": "one_time_notif_req", "one_time_notif_token": "T"}))
        resumed = only(item(optin={"notification_messages_status": "RESUME NOTIFICATIONS"}))
        stopped = only(item(optin={"notification_messages_status": "STOP NOTIFICATIONS"}))

        assert given.key == f"optin:{JO}:T:none:{THEN}"
        assert [given.trigger, resumed.trigger] == [Trigger.OPTIN] * 2
        assert stopped.trigger is Trigger.NONE

    def test_the_older_spelling_of_policy_is_the_same_kind(self) -> None:
        what = {"action": "block"}
        new, old = (
            only({"recipient": {"id": PAGE}, "timestamp": THEN, name: what})
            for name in ("policy_enforcement", "policy-enforcement")
        )

        assert old.kind is Kind.POLICY_ENFORCEMENT
        assert old.key == new.key

    def test_an_unknown_kind_is_kept_as_canonical_json(self) -> None:
        event = only(item(brand_new={"b": 1, "a": 2}))

        assert event.kind is Kind.UNKNOWN
        assert isinstance(event.detail, Other)
        assert json.loads(event.detail.json) == item(brand_new={"b": 1, "a": 2})
        assert '{"a":2,"b":1}' in event.detail.json

    def test_one_over_64_kib_is_left_out_and_flagged(self) -> None:
        event = only(item(brand_new="x" * 70_000))

        assert event.truncated
        assert event.detail == Other("")

    @pytest.mark.parametrize("held", [None, "TEST_MESSAGE", 17, []])
    def test_a_known_kind_that_is_no_object_is_unreadable(self, held: Any) -> None:
        assert refused(item(message=held)) == ["not_object"]

    @pytest.mark.parametrize("each", [None, 17, "x", []])
    def test_an_item_that_is_no_object_is_unreadable(self, each: Any) -> None:
        assert refused(each) == ["not_object"]
        assert refused(each, name="changes") == ["not_object"]


class TestComments:
    @pytest.mark.parametrize(
        ("verb", "kind", "key"),
        [
            ("add", Kind.COMMENT, "comment:5_8:add"),
            ("remove", Kind.COMMENT_REMOVED, "comment:5_8:remove"),
            ("delete", Kind.COMMENT_REMOVED, "comment:5_8:remove"),
            ("hide", Kind.COMMENT_HIDDEN, ""),
            ("unhide", Kind.COMMENT_HIDDEN, ""),
        ],
    )
    def test_a_verb_says_what_became_of_it(self, verb: str, kind: Kind, key: str) -> None:
        event = only(feed(verb), name="changes")

        assert (event.kind, event.key, event.lane) == (kind, key, "comment:5_8")

    @pytest.mark.parametrize("verb", ["edit", "edited", "update"])
    def test_an_edit_is_keyed_by_its_time_or_its_text(self, verb: str) -> None:
        timed = only(feed(verb, message="b", edited_time=THEN // 1000), name="changes")
        first, second = (only(feed(verb, message=text), name="changes") for text in "bc")

        assert timed.key == f"comment:5_8:edited:{THEN}"
        assert timed.kind is Kind.COMMENT_EDITED
        assert first.key != second.key

    def test_a_reply_stands_in_the_lane_of_the_comment_at_the_top(self) -> None:
        event = only(feed(comment_id="5_9", parent_id="5_8"), name="changes")

        assert event.lane == "comment:5_8"
        assert event.detail.parent_id == "5_8"  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "author", [{}, {"from": None}, {"from": {"name": "Jo"}}, {"from": "x"}]
    )
    def test_the_author_may_be_hidden(self, author: Any) -> None:
        event = only(feed(**author), name="changes")

        assert (event.person_id, event.id_space) == ("", Space.NONE)
        assert event.trigger is Trigger.COMMENT

    def test_a_state_without_a_time_of_sending_is_dated_by_receipt(self) -> None:
        assert only(feed("hide"), name="changes", time=None).sent_time == NOW

    @pytest.mark.parametrize(
        "value",
        [
            {"item": "status", "verb": "add"},
            {"item": "comment", "verb": "follow", "comment_id": "5_8"},
            {"item": "comment"},
            {"item": None, "verb": []},
            {"item": "reaction", "verb": "add"},
            {},
        ],
    )
    def test_anything_else_of_a_feed_is_kept(self, value: Any) -> None:
        event = only(change("feed", **value), name="changes")

        assert (event.kind, event.lane) == (Kind.FEED_OTHER, "page")

    def test_a_comment_without_an_id_is_unreadable(self) -> None:
        assert refused(feed(comment_id=None), name="changes") == ["id_missing"]
        assert refused(change("comments", text="x"), name="changes") == ["id_missing"]

    def test_a_reaction_names_its_comment_before_its_post(self) -> None:
        event = only(
            change(
                "feed",
                item="reaction",
                verb="remove",
                reaction_type="love",
                comment_id="5_8",
                post_id="1_5",
                created_time=THEN // 1000,
            ),
            name="changes",
        )

        assert event.key == f"feed_reaction:5_8:none:love:remove:{THEN}"
        assert event.detail.removed  # type: ignore[union-attr]

    def test_an_instagram_comment_by_the_account_itself_is_own(self) -> None:
        marked = change("comments", id="1", **{"from": {"id": "8", "self_ig_scoped_id": "9"}})
        plain = change("comments", id="1", **{"from": {"id": PAGE}})

        for each in (marked, plain):
            event = only(each, name="changes")
            assert (event.is_own, event.trigger, event.person_id) == (True, Trigger.NONE, "")

    def test_a_mention_names_a_media_a_post_or_a_comment(self) -> None:
        media = only(change("mentions", media_id="1", comment_id=None), name="changes")
        post = only(change("mention", post_id="1_5", comment_id="5_8"), name="changes")

        assert media.key == "mention:1:none"
        assert post.key == "mention:1_5:5_8"
        assert refused(change("mentions"), name="changes") == ["id_missing"]

    def test_an_unknown_field_is_kept(self) -> None:
        assert only(change("ratings", rating=5), name="changes").kind is Kind.UNKNOWN
        assert only(change("story_insights", impressions=3), name="changes").kind is Kind.UNKNOWN

    def test_messaging_sent_as_a_change_is_the_same_event(self) -> None:
        whole = only(change("messages", **message()), name="changes")
        flat = read({"id": PAGE, "time": NOW, "field": "messages", "value": message()}).events[0]
        standby = only(change("standby", **message()), name="changes")

        assert whole == flat == only(message())
        assert standby.source is Source.STANDBY


class TestDashboard:
    @pytest.mark.parametrize(
        "test",
        [
            entry(item("12334", "23245", "1527459824", message={"mid": "random_mid"}), page="0"),
            entry(item("12334", "23245", "1527459824", message={"mid": "random_mid"})),
            entry(item("9", "8", "1527459824", postback={"payload": "P"}), page="0"),
            entry(
                change("mention", post_id="44444444_444444444", sender_id=44444444),
                name="changes",
                page="0",
            ),
            entry(
                change("mentions", media_id="17887498072083520", comment_id="17887498072083520"),
                name="changes",
            ),
        ],
    )
    def test_a_combination_of_placeholders_is_a_test(self, test: Any) -> None:
        (event,) = read(test).events

        assert (event.kind, event.lane, event.trigger) == (Kind.TEST, "page", Trigger.NONE)

    @pytest.mark.parametrize(
        "live",
        [
            item("12334", PAGE, THEN, message={"mid": "m_1"}),
            item(JO, PAGE, THEN, message={"mid": "m_1", "text": "random_text"}),
            item(JO, PAGE, THEN, message={"mid": "random_mid"}),
        ],
    )
    def test_one_placeholder_alone_is_no_test(self, live: Any) -> None:
        assert only(live).kind is Kind.MESSAGE

    def test_a_comment_with_the_text_of_the_test_alone_is_no_test(self) -> None:
        assert only(
            change("comments", id="1", text="This is an example."), name="changes"
        ).kind is (Kind.COMMENT)


class TestWhatsApp:
    def test_each_message_and_status_is_read_by_itself(self) -> None:
        value = {
            "messaging_product": "whatsapp",
            "messages": [
                {"id": "wamid.1", "from_user_id": "US.1", "timestamp": str(THEN // 1000)},
                {"from": "42"},
                17,
                {"id": "wamid.1", "from_user_id": "US.1", "timestamp": str(THEN // 1000)},
            ],
            "contacts": [{"user_id": "US.1", "profile": {"name": "Jo"}}, None],
            "statuses": [{"id": "wamid.0", "status": "read", "timestamp": THEN}],
        }

        normalised = read(
            entry(change("messages", **value), name="changes"), of="whatsapp_business_account"
        )

        assert [event.key for event in normalised.events] == [
            "wamid:wamid.1",
            f"wamid:wamid.0:read:{THEN}",
        ]
        assert normalised.events[0].person_name == "Jo"
        assert len(normalised.unreadable) == 1

    def test_a_value_with_neither_is_kept(self) -> None:
        event = only(change("messages", messaging_product="whatsapp", errors=[]), name="changes")

        assert event.kind is Kind.UNKNOWN


class TestTheWire:
    def test_the_numbers_and_names_are_those_of_the_contract(self) -> None:
        for ours, theirs, prefix in (
            (Kind, event_pb2.EventKind, "EVENT_KIND"),
            (Trigger, event_pb2.Trigger, "TRIGGER"),
            (Source, event_pb2.Source, "SOURCE"),
            (Space, event_pb2.IdSpace, "ID_SPACE"),
        ):
            numbers = {
                f"{prefix}_{each.name}".replace("NONE", "UNSPECIFIED"): each for each in ours
            }
            left = set(theirs.items()) - {(name, int(each)) for name, each in numbers.items()}
            assert {name for name, _ in left} <= {
                "EVENT_KIND_UNSPECIFIED",
                "SOURCE_UNSPECIFIED",
                "SOURCE_RECOVERED",
            }
            assert all(int(theirs.Value(name)) == each for name, each in numbers.items())

    def test_every_field_of_an_event_goes_over_the_wire(self) -> None:
        sent = message(
            attachments=[{"type": "image", "title": "T", "payload": {"url": "u"}}],
            quick_reply={"payload": "Q"},
            reply_to={"mid": "m_0", "story": {"id": "1", "url": "s"}},
            referral={"ref": "r", "source": "ADS", "type": "OPEN_THREAD", "ad_id": 5},
            is_unsupported=True,
            app_id=17,
            metadata="tag",
            is_self=True,
            is_echo=True,
        )
        sent["recipient"]["name"] = "Jo"
        event = only(item(PAGE, JO, -5, message=sent["message"]), time=THEN)
        written = event_pb2.Event()

        write_event(event, written)

        unset = {"person_name", "truncated", "trigger"}
        names = {field.name for field, _ in written.ListFields()}
        assert names >= set(Event.__struct_fields__) - unset - {"detail"}
        assert {field.name for field, _ in written.message.ListFields()} == set(
            event_pb2.MessageDetail.DESCRIPTOR.fields_by_name
        )
        assert {field.name for field, _ in written.message.referral.ListFields()} == set(
            event_pb2.ReferralDetail.DESCRIPTOR.fields_by_name
        )
        assert written.event_time.ToMilliseconds() == EARLIEST_MS
        assert written.clock_suspect

    @pytest.mark.parametrize(
        ("what", "field"),
        [
            ({"message": {"mid": "m"}}, "message"),
            ({"message": {"mid": "m", "is_deleted": True}}, "message_deleted"),
            ({"message_edit": {"mid": "m", "num_edit": 0}}, "message_edit"),
            ({"postback": {}}, "postback"),
            ({"reaction": {"mid": "m"}}, "reaction"),
            ({"read": {"mid": "m"}}, "read"),
            ({"delivery": {}}, "delivery"),
            ({"referral": {}}, "referral"),
            ({"optin": {}}, "optin"),
            ({"game_play": {}}, "other"),
            ({"brand_new": "x" * 70_000}, "other"),
        ],
    )
    def test_every_kind_says_which_detail_it_has(self, what: Any, field: str) -> None:
        written = event_pb2.Event()

        write_event(only(item(**what)), written)

        assert written.WhichOneof("detail") == field

    def test_events_that_outgrow_a_call_leave_the_body_whole(self) -> None:
        # An account's id is repeated in each of its events.
        items = [{"x": at} for at in range(4_990)]
        raw = json.dumps(
            {"object": "page", "entry": [entry(*items, page="9" * 512)], "pad": "x" * 3_000_000}
        ).encode()
        long = {"messaging_product": "whatsapp", "pad": "y" * 60_000}
        copies = [change("messages", **long, at=at) for at in range(60)]
        bulky = json.dumps({"object": "page", "entry": [entry(*copies, name="changes")]}).encode()

        for body in (raw, bulky):
            delivery = delivery_of(body, delivery_id="d", received_ms=NOW, signed_by="app")
            assert delivery.body == body
            assert delivery.ByteSize() < 16 * 2**20
            assert delivery.events


WORDS = [
    *("id", "sender", "recipient", "timestamp", "message", "mid", "text"),
    *("attachments", "is_echo", "postback", "payload", "reaction", "read", "watermark"),
    *("delivery", "mids", "referral", "optin", "user_ref", "item", "verb"),
    *("comment_id", "post_id", "parent_id", "from", "created_time", "edited_time", "field"),
    *("value", "media_id", "reply_to", "story", "messaging_product", "messages", "statuses"),
    *("contacts", "photo", "photos", "type", "title", "num_edit"),
]

pieces = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([PAGE, JO, "0", "12334", "m_1", THEN, "add", "comment", "feed", "messages"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(WORDS),
            children,
            max_size=6,
        )
    ),
    max_leaves=25,
)
bodies = st.fixed_dictionaries(
    {
        "object": st.sampled_from(["page", "instagram", "user", None]),
        "entry": st.lists(
            st.fixed_dictionaries(
                {"id": st.sampled_from([PAGE, "0", 17]) | pieces, "time": pieces},
                optional={
                    "messaging": st.lists(pieces, max_size=3) | pieces,
                    "standby": st.lists(pieces, max_size=3) | pieces,
                    "changes": st.lists(
                        st.fixed_dictionaries(
                            {
                                "field": st.sampled_from(
                                    ["feed", "comments", "mentions", "messages", "standby", "x"]
                                ),
                                "value": pieces,
                            }
                        )
                        | pieces,
                        max_size=3,
                    ),
                },
            ),
            max_size=3,
        ),
    }
)


@given(bodies)
def test_nothing_of_the_shape_of_a_body_makes_it_raise(body: Any) -> None:
    raw = json.dumps(body).encode()  # with NaN, Infinity and lone surrogates where drawn

    normalised = normalise(raw, NOW)
    delivery = delivery_of(raw, delivery_id="d", received_ms=NOW, signed_by="app")

    assert len(delivery.events) == len(normalised.events)
    assert "reader_failed" not in {each.reason for each in delivery.unreadable}
    for event in normalised.events:
        assert len(event.key) <= 700
        assert event.key or event.kind is Kind.COMMENT_HIDDEN
        assert event.trigger is Trigger.NONE or not event.is_own
        assert event.person_id != event.page_id
        assert event.lane == "page" or event.lane.split(":", 1)[0] in ("person", "comment")
        assert EARLIEST_MS <= event.event_time <= NOW + DAY_MS


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(raw: bytes) -> None:
    assert normalise(raw, NOW).outcome in ("parsed", "partial", "quarantined")


@given(bodies, st.integers(0, 2**45))
def test_the_keys_of_any_body_do_not_depend_on_entry_time_or_receipt(body: Any, time: int) -> None:
    again = copy.deepcopy(body)
    for one, other in zip(body["entry"], again["entry"], strict=True):
        one["time"], other["time"] = THEN, time

    first = normalise(json.dumps(body).encode(), NOW)
    second = normalise(json.dumps(backwards(again), indent=1).encode(), NOW + 12_345)

    states = {event.kind for event in first.events if not event.key}
    assert states <= {Kind.COMMENT_HIDDEN}
    assert {(event.page_id, event.key) for event in first.events} == {
        (event.page_id, event.key) for event in second.events
    }


known_items = st.fixed_dictionaries(
    {
        "sender": st.fixed_dictionaries({"id": st.sampled_from([JO, "7100000000000002"])}),
        "recipient": st.just({"id": PAGE}),
        "timestamp": st.integers(THEN, THEN + 3),
    },
    optional={
        "message": st.fixed_dictionaries(
            {"mid": st.sampled_from(["m_1", "M_1", "m_2"])}, optional={"text": st.text(max_size=3)}
        ),
        "postback": st.fixed_dictionaries({"payload": st.sampled_from(["A", "B"])}),
        "reaction": st.fixed_dictionaries({"mid": st.just("m_1"), "action": st.just("react")}),
        "read": st.fixed_dictionaries({"watermark": st.integers(THEN, THEN + 2)}),
        "optin": st.fixed_dictionaries({"ref": st.sampled_from(["x", "é"])}),
        "game_play": st.dictionaries(st.sampled_from(["b", "a"]), st.integers(0, 1)),
        "brand_new": st.sampled_from([None, 1.5, {"b": 1, "a": [{"d": 1, "c": "é"}]}]),
    },
)


@given(st.lists(known_items, max_size=5), st.data())
def test_the_keys_of_items_do_not_depend_on_how_they_are_batched(
    items: list[Any], data: st.DataObject
) -> None:
    together = read(entry(*items))

    shuffled = data.draw(st.permutations(items))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(items)), max_size=3)) | {0, len(items)})
    batches = [shuffled[start:end] for start, end in pairwise(cuts)]
    apart = [
        normalise(
            json.dumps(
                {"entry": [backwards({**entry(*batch), "time": NOW + at})], "object": "page"},
                indent=data.draw(st.sampled_from([None, 0, 3])),
                ensure_ascii=data.draw(st.booleans()),
            ).encode("utf-8", "surrogatepass"),
            NOW + 1_000 * at,
        )
        for at, batch in enumerate(batches)
    ]

    assert {event.key for each in apart for event in each.events} == {
        event.key for event in together.events
    }
    assert sum(len(each.unreadable) for each in apart) == len(together.unreadable)
