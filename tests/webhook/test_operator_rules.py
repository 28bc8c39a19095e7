from typing import Any

import httpx
import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from pagewire.rules.v1 import rule_service_pb2 as rules_pb
from pagewire.type.v1 import event_pb2 as event_pb
from pagewire.type.v1 import reply_pb2 as reply_pb
from pagewire.type.v1 import rule_pb2 as pb
from pagewire_runtime.errors import Kind, refusal_from
from pagewire_webhook.operator.rule_json import Rule, rule_json, rule_proto
from tests.support.upstreams import Upstream

LEAST: dict[str, Any] = {
    "name": "price",
    "events": ["message"],
    "when": {"text": {"any": ["price"]}},
    "then": [{"reply": {"text": "10 euro"}}],
}
WHOLE: dict[str, Any] = {
    "name": "price",
    "page_ids": ["1", "2"],
    "enabled": False,
    "priority": 10,
    "events": [
        "message",
        "comment",
        "postback",
        "story_mention",
        "story_reply",
        "referral",
        "reaction",
        "optin",
    ],
    "when": {"text": {"mode": "contains", "any": ["price, net", "cost"], "none": ["priceless"]}},
    "then": [
        {"reply": {"text": "Hi {first_name}, it is 10 euro"}},
        {"private_reply": {"media": {"type": "image", "url": "https://shop.example/a.png"}}},
        {"comment_reply": {"text": "See your messages"}},
        {"reply": {"text": "Pick", "quick_replies": [{"title": "A", "payload": "a"}]}},
        {"hide_comment": {"hidden": False}},
        {"add_label": {"name": "lead"}},
        {"remove_label": {"name": "cold"}},
    ],
    "limits": {"once_per_person": True, "cooldown_seconds": 60, "per_day": 3},
    "continue": True,
}
WHOLE_PROTO = pb.Rule(
    name="price",
    page_ids=["1", "2"],
    enabled=False,
    priority=10,
    events=range(1, 9),  # type: ignore[arg-type]  # every trigger, by number
    when=pb.Condition(
        text=pb.TextCondition(
            mode=pb.TEXT_MODE_CONTAINS, any=["price, net", "cost"], none=["priceless"]
        )
    ),
    then=[
        pb.Action(reply=reply_pb.ReplyContent(text="Hi {first_name}, it is 10 euro")),
        pb.Action(
            private_reply=reply_pb.ReplyContent(
                media=reply_pb.Media(
                    type=reply_pb.MEDIA_TYPE_IMAGE, url="https://shop.example/a.png"
                )
            )
        ),
        pb.Action(comment_reply=reply_pb.ReplyContent(text="See your messages")),
        pb.Action(
            reply=reply_pb.ReplyContent(
                quick_replies=reply_pb.QuickReplies(
                    text="Pick", quick_replies=[reply_pb.QuickReply(title="A", payload="a")]
                )
            )
        ),
        pb.Action(hide_comment=pb.HideAction(hidden=False)),
        pb.Action(add_label=pb.LabelAction(name="lead")),
        pb.Action(remove_label=pb.LabelAction(name="cold")),
    ],
    limits=pb.Limits(once_per_person=True, cooldown_seconds=60, per_day=3),
    continues=True,
)


def saved(rule: pb.Rule) -> pb.Rule:
    stored = pb.Rule(
        rule_id="rule-abc",
        version=2,
        create_time=Timestamp(seconds=1_700_000_000),
        update_time=Timestamp(seconds=1_700_000_001, nanos=5_000_000),
    )
    stored.MergeFrom(rule)
    return stored


GIVEN = {
    "rule_id": "rule-abc",
    "version": 2,
    "created_at": "2023-11-14T22:13:20.000Z",
    "updated_at": "2023-11-14T22:13:21.005Z",
}


async def test_a_rule_is_made_word_for_word_and_shown_with_id_version_and_times(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["CreateRule"] = rules_pb.CreateRuleResponse(rule=saved(WHOLE_PROTO))

    response = await api.post("/api/rules", json=WHOLE)

    assert response.status_code == 201
    assert response.json() == WHOLE | GIVEN
    assert upstream.request.rule == WHOLE_PROTO


async def test_what_a_rule_leaves_out_gets_its_default(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    await api.post("/api/rules", json=LEAST)

    assert upstream.request.rule == pb.Rule(
        name="price",
        enabled=True,
        events=[event_pb.TRIGGER_MESSAGE],
        when=pb.Condition(text=pb.TextCondition(mode=pb.TEXT_MODE_WORD, any=["price"])),
        then=[pb.Action(reply=reply_pb.ReplyContent(text="10 euro"))],
        limits=pb.Limits(),
    )


async def test_a_rule_is_shown_with_its_defaults_filled_in(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    stored = saved(rule_proto(msgspec.convert(LEAST, Rule)))
    upstream.answers["GetRule"] = rules_pb.GetRuleResponse(rule=stored)

    response = await api.get("/api/rules/rule-abc")

    assert response.json() == GIVEN | {
        "name": "price",
        "page_ids": [],
        "enabled": True,
        "priority": 0,
        "events": ["message"],
        "when": {"text": {"mode": "word", "any": ["price"], "none": []}},
        "then": [{"reply": {"text": "10 euro"}}],
        "limits": {"once_per_person": False, "cooldown_seconds": 0, "per_day": 0},
        "continue": False,
    }
    assert upstream.request.rule_id == "rule-abc"


@pytest.mark.parametrize("mode", ["word", "contains", "exact", "starts_with", "ends_with", "regex"])
async def test_each_mode_is_passed_on(
    api: httpx.AsyncClient, upstream: Upstream, mode: str
) -> None:
    await api.post("/api/rules", json={**LEAST, "when": {"text": {"mode": mode}}})

    assert pb.TextMode.Name(upstream.request.rule.when.text.mode) == f"TEXT_MODE_{mode.upper()}"


@pytest.mark.parametrize("given", [{}, {"hidden": True}])
async def test_hiding_hides_unless_said(
    api: httpx.AsyncClient, upstream: Upstream, given: dict[str, bool]
) -> None:
    await api.post("/api/rules", json={**LEAST, "then": [{"hide_comment": given}]})

    assert upstream.request.rule.then[0].hide_comment.hidden


async def test_a_condition_without_a_text_is_left_to_the_rules_service(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    await api.post("/api/rules", json={**LEAST, "when": {}})

    assert not upstream.request.rule.when.HasField("text")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"when": None}, "when"),
        ({"events": ["echo"]}, "events[0]"),
        ({"colour": "red"}, "colour"),
        ({"limits": {"per_week": 1}}, "limits.per_week"),
        ({"limits": {"per_day": -1}}, "limits.per_day"),
        ({"priority": 2**31}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"page_ids": ["a b"]}, "page_ids[0]"),
        ({"when": {"text": {"mode": "fuzzy"}}}, "when.text.mode"),
        ({"when": {"sentiment": {}}}, "when.sentiment"),
        ({"then": [{}]}, "then[0]"),
        ({"then": [{"reply": {"text": "a"}, "add_label": {"name": "b"}}]}, "then[0]"),
        ({"then": [{"dance": {}}]}, "then[0].dance"),
        ({"then": [{"reply": {}}]}, "then[0].reply"),
        ({"then": [{"reply": {"quick_replies": []}}]}, "then[0].reply"),
        (
            {"then": [{"reply": {"text": "a", "media": {"type": "image", "url": "b"}}}]},
            "then[0].reply",
        ),
        (
            {
                "then": [
                    {
                        "private_reply": {
                            "quick_replies": [],
                            "media": {"type": "image", "url": "b"},
                        }
                    }
                ]
            },
            "then[0].private_reply",
        ),
        ({"then": [{"comment_reply": {"media": {}}}]}, "then[0].comment_reply.media"),
        ({"then": [{"add_label": {}}]}, "then[0].add_label.name"),
    ],
)
async def test_a_rule_that_is_wrong_is_400_and_names_the_field(
    api: httpx.AsyncClient, upstream: Upstream, change: dict[str, Any], field: str
) -> None:
    response = await api.post("/api/rules", json=LEAST | change)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"field": field}
    assert upstream.requests == []


@pytest.mark.parametrize("missing", ["name", "events", "when", "then"])
async def test_a_rule_must_say_what_it_is(api: httpx.AsyncClient, missing: str) -> None:
    body = {key: value for key, value in LEAST.items() if key != missing}

    response = await api.post("/api/rules", json=body)

    assert response.json()["error"]["details"] == {"field": missing}


async def test_what_the_rules_service_refuses_is_passed_on(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["CreateRule"] = refusal_from(
        Kind.INVALID, "RULE_INVALID", "when: must say something", {"field": "when"}
    )

    response = await api.post("/api/rules", json={**LEAST, "when": {}})

    assert response.status_code == 400
    assert response.json()["error"]["reason"] == "RULE_INVALID"


async def test_a_rule_is_replaced_whole(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["UpdateRule"] = rules_pb.UpdateRuleResponse(rule=saved(WHOLE_PROTO))

    response = await api.put("/api/rules/rule-abc", json=WHOLE)

    assert (response.status_code, response.json()) == (200, WHOLE | GIVEN)
    expected = pb.Rule(rule_id="rule-abc")
    expected.MergeFrom(WHOLE_PROTO)
    assert upstream.request == rules_pb.UpdateRuleRequest(rule=expected)


async def test_a_rule_that_was_read_may_be_written_back_as_it_is(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["GetRule"] = rules_pb.GetRuleResponse(rule=saved(WHOLE_PROTO))
    read = (await api.get("/api/rules/rule-abc")).json()

    response = await api.put("/api/rules/rule-abc", json=read)

    assert response.status_code == 200
    assert upstream.requests[-1].rule.rule_id == "rule-abc"


async def test_a_rule_is_not_written_under_the_id_of_another(api: httpx.AsyncClient) -> None:
    response = await api.put("/api/rules/rule-abc", json={**LEAST, "rule_id": "rule-xyz"})

    assert response.json()["error"]["details"] == {"field": "rule_id"}


async def test_a_rule_is_deleted(api: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await api.delete("/api/rules/rule-abc")

    assert (response.status_code, response.json()) == (200, {})
    assert upstream.request == rules_pb.DeleteRuleRequest(rule_id="rule-abc")


async def test_rules_are_listed_of_one_page_or_of_all(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.answers["ListRules"] = rules_pb.ListRulesResponse(
        rules=[saved(WHOLE_PROTO)], next_page_token="next"
    )

    of_all = await api.get("/api/rules")
    await api.get("/api/rules?page_id=1&page_size=3&page_token=t")

    assert of_all.json() == {"rules": [WHOLE | GIVEN], "next_page_token": "next"}
    assert upstream.requests == [
        rules_pb.ListRulesRequest(page_size=50),
        rules_pb.ListRulesRequest(page_id="1", page_size=3, page_token="t"),
    ]


async def test_an_event_is_tried_without_effect(api: httpx.AsyncClient, upstream: Upstream) -> None:
    upstream.answers["TryRules"] = rules_pb.TryRulesResponse(
        considered=[
            pb.RuleVerdict(
                rule_id="rule-1",
                name="price",
                fired=True,
                reason="fired",
                span=pb.Span(start=4, end=9),
                left_out=[pb.LeftOut(action="add_label", reason="label_unsupported")],
            ),
            pb.RuleVerdict(name="draft", reason="lower_priority"),
        ],
        actions=[pb.Action(reply=reply_pb.ReplyContent(text="Hi Ada"))],
    )

    response = await api.post(
        "/api/rules/try", json={"page_id": "1", "event": "message", "text": "the price"}
    )

    assert response.status_code == 200
    assert response.json() == {
        "considered": [
            {
                "rule_id": "rule-1",
                "name": "price",
                "fired": True,
                "reason": "fired",
                "span": {"start": 4, "end": 9},
                "left_out": [{"action": "add_label", "reason": "label_unsupported"}],
            },
            {
                "rule_id": None,
                "name": "draft",
                "fired": False,
                "reason": "lower_priority",
                "span": None,
                "left_out": [],
            },
        ],
        "actions": [{"reply": {"text": "Hi Ada"}}],
    }
    assert upstream.request == rules_pb.TryRulesRequest(
        page_id="1", event=event_pb.TRIGGER_MESSAGE, text="the price"
    )


async def test_a_rule_that_is_not_saved_is_tried_along(
    api: httpx.AsyncClient, upstream: Upstream
) -> None:
    await api.post(
        "/api/rules/try",
        json={
            "page_id": "1",
            "event": "postback",
            "payload": "BUY",
            "name": "Ada",
            "rule": {**WHOLE, "rule_id": "rule-abc"},
        },
    )

    draft = pb.Rule(rule_id="rule-abc")
    draft.MergeFrom(WHOLE_PROTO)
    assert upstream.request == rules_pb.TryRulesRequest(
        page_id="1",
        event=event_pb.TRIGGER_POSTBACK,
        payload="BUY",
        person_name="Ada",
        draft=draft,
    )


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
CONTENTS = st.one_of(
    st.fixed_dictionaries({"text": TEXTS}),
    st.fixed_dictionaries(
        {
            "text": TEXTS,
            "quick_replies": st.lists(
                st.fixed_dictionaries({"title": TEXTS, "payload": TEXTS}), max_size=3
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "media": st.fixed_dictionaries(
                {"type": st.sampled_from(["image", "video", "audio", "file"]), "url": TEXTS}
            )
        }
    ),
)
ACTIONS = st.one_of(
    st.fixed_dictionaries({"reply": CONTENTS}),
    st.fixed_dictionaries({"private_reply": CONTENTS}),
    st.fixed_dictionaries({"comment_reply": st.fixed_dictionaries({"text": TEXTS})}),
    st.fixed_dictionaries({"hide_comment": st.fixed_dictionaries({"hidden": st.booleans()})}),
    st.fixed_dictionaries({"add_label": st.fixed_dictionaries({"name": TEXTS})}),
    st.fixed_dictionaries({"remove_label": st.fixed_dictionaries({"name": TEXTS})}),
)
RULES = st.fixed_dictionaries(
    {
        "rule_id": st.just("rule-1"),
        "version": st.just(0),
        "created_at": st.none(),
        "updated_at": st.none(),
        "name": TEXTS,
        "page_ids": st.lists(st.from_regex(r"[A-Za-z0-9._~-]{1,20}", fullmatch=True), max_size=3),
        "enabled": st.booleans(),
        "priority": st.integers(-(2**31), 2**31 - 1),
        "events": st.lists(st.sampled_from(WHOLE["events"])),
        "when": st.one_of(
            st.just({"text": None}),
            st.fixed_dictionaries(
                {
                    "text": st.fixed_dictionaries(
                        {
                            "mode": st.sampled_from(["word", "exact", "regex"]),
                            "any": st.lists(TEXTS, max_size=3),
                            "none": st.lists(TEXTS, max_size=3),
                        }
                    )
                }
            ),
        ),
        "then": st.lists(ACTIONS, max_size=3),
        "limits": st.fixed_dictionaries(
            {
                "once_per_person": st.booleans(),
                "cooldown_seconds": st.integers(0, 2**31 - 1),
                "per_day": st.integers(0, 2**31 - 1),
            }
        ),
        "continue": st.booleans(),
    }
)


@given(RULES)
def test_a_rule_comes_back_from_the_wire_as_it_went(rule: dict[str, Any]) -> None:
    read = msgspec.json.decode(msgspec.json.encode(rule), type=Rule)

    wire = pb.Rule.FromString(rule_proto(read, "rule-1").SerializeToString())

    assert msgspec.json.decode(msgspec.json.encode(rule_json(wire))) == rule
