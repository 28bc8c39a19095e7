from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.store.v1.operation_service_pb2 import GetStatusResponse
from pagewire.type.v1.event_pb2 import Trigger
from pagewire.type.v1.page_pb2 import Login, Page, PageState, Platform
from pagewire.type.v1.reply_pb2 import Media, MediaType, QuickReplies, QuickReply, ReplyContent
from pagewire.type.v1.rule_pb2 import (
    Action,
    Condition,
    HideAction,
    LabelAction,
    Limits,
    Rule,
    TextCondition,
    TextMode,
)
from pagewire_cli.shapes import ShapeError, from_json, to_json

TEXTS = st.text(min_size=1, max_size=20)
CONTENTS = st.one_of(
    st.builds(ReplyContent, text=TEXTS),
    st.builds(
        ReplyContent,
        media=st.builds(Media, type=st.sampled_from(MediaType.values()[1:]), url=TEXTS),
    ),
    st.builds(
        ReplyContent,
        quick_replies=st.builds(
            QuickReplies,
            text=TEXTS,
            quick_replies=st.lists(
                st.builds(QuickReply, title=TEXTS, payload=TEXTS), min_size=1, max_size=3
            ),
        ),
    ),
)
ACTIONS = st.one_of(
    st.builds(Action, reply=CONTENTS),
    st.builds(Action, private_reply=CONTENTS),
    st.builds(Action, hide_comment=st.builds(HideAction, hidden=st.booleans())),
    st.builds(Action, add_label=st.builds(LabelAction, name=TEXTS)),
)
RULES = st.builds(
    Rule,
    name=TEXTS,
    page_ids=st.lists(TEXTS, max_size=3),
    enabled=st.booleans(),
    priority=st.integers(-(2**31), 2**31 - 1),
    events=st.lists(st.sampled_from(Trigger.values()[1:]), max_size=3),
    when=st.builds(
        Condition,
        text=st.builds(
            TextCondition,
            mode=st.sampled_from(TextMode.values()[1:]),
            any=st.lists(TEXTS, max_size=3),
            none=st.lists(TEXTS, max_size=3),
        ),
    ),
    then=st.lists(ACTIONS, max_size=3),
    limits=st.builds(Limits, once_per_person=st.booleans(), per_day=st.integers(0, 100)),
    continues=st.booleans(),
)


@given(RULES)
def test_a_rule_that_was_shown_is_read_back_the_same(rule: Rule) -> None:
    assert from_json(to_json(rule), Rule) == rule


def test_names_words_times_and_absent_values_are_those_of_the_http_api() -> None:
    page = Page(
        page_id="101",
        platform=Platform.PLATFORM_MESSENGER,
        login=Login.LOGIN_FACEBOOK,
        name="Corner",
        state=PageState.PAGE_STATE_HEALTHY,
    )
    page.connect_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))

    assert to_json(page) == {
        "page_id": "101",
        "platform": "messenger",
        "login": "facebook",
        "facebook_page_id": None,
        "name": "Corner",
        "state": "healthy",
        "state_reason": None,
        "connected_at": "2026-01-02T03:04:05.678Z",
        "last_synced_at": None,
        "token_expires_at": None,
    }


def test_a_duration_is_in_seconds() -> None:
    status = GetStatusResponse()
    status.oldest_pending.FromTimedelta(timedelta(milliseconds=1500))

    assert to_json(status)["oldest_pending_seconds"] == 1.5


def test_of_a_oneof_only_what_is_set_is_shown() -> None:
    action = Action(add_label=LabelAction(name="lead"))

    assert to_json(action) == {"add_label": {"name": "lead"}}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"nmae": "x"}, "nmae is not known; known are rule_id, "),
        ({"continues": True}, "continues is not known"),
        ({"events": ["mesage"]}, r"events\[0\] must be one of message, comment, "),
        ({"events": "message"}, "events must be a list"),
        ({"when": {"text": {"mode": "fuzzy"}}}, "when.text.mode must be one of word, "),
        ({"then": [{"reply": "hello"}]}, r"then\[0\].reply must be an object"),
        ({"priority": "high"}, "priority"),
        ({"priority": 2**40}, "priority"),
        ({"events": [None]}, r"events\[0\] must be one of"),
    ],
)
def test_what_has_another_shape_is_refused_with_its_place(
    written: dict[str, object], said: str
) -> None:
    with pytest.raises(ShapeError, match=said):
        from_json(written, Rule)
