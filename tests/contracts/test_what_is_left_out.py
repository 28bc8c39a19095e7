"""What a try leaves out is what the live path leaves out, for each action on each platform."""

from datetime import UTC, datetime

import pytest

from pagewire.type.v1.event_pb2 import (
    ID_SPACE_COMMENTER,
    ID_SPACE_MESSAGING,
    TRIGGER_COMMENT,
    CommentDetail,
    Event,
    Trigger,
)
from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER, Platform
from pagewire.type.v1.reply_pb2 import Media, QuickReplies, ReplyContent
from pagewire.type.v1.rule_pb2 import Action, Candidate, HideAction, LabelAction
from pagewire_rules.applying import left_out
from pagewire_store.deciding import Facts, plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = ReplyContent(text="hello")
BUTTONS = ReplyContent(quick_replies=QuickReplies(text="which?"))
PICTURE = ReplyContent(media=Media(url="https://shop.example/a.png"))
ACTIONS = [
    *(Action(reply=content) for content in (TEXT, BUTTONS, PICTURE)),
    *(Action(private_reply=content) for content in (TEXT, BUTTONS, PICTURE)),
    Action(comment_reply=TEXT),
    Action(hide_comment=HideAction(hidden=True)),
    Action(add_label=LabelAction(name="lead")),
    Action(remove_label=LabelAction(name="lead")),
    Action(),
]


def facts(trigger: Trigger.ValueType, platform: Platform.ValueType) -> Facts:
    """A fresh event by somebody whom the page may answer, with the id that Meta gives there."""
    comment = trigger == TRIGGER_COMMENT
    commenter = comment and platform == PLATFORM_MESSENGER
    event = Event(
        page_id="1001",
        trigger=trigger,
        person_id="2001",
        id_space=ID_SPACE_COMMENTER if commenter else ID_SPACE_MESSAGING,
        comment=CommentDetail(comment_id="c_1") if comment else None,
    )
    event.event_time.FromDatetime(NOW)
    return Facts(
        event=event,
        platform=platform,
        connected=True,
        other_is_page=False,
        removed=False,
        paused_until=None,
    )


@pytest.mark.parametrize("platform", [PLATFORM_MESSENGER, PLATFORM_INSTAGRAM])
@pytest.mark.parametrize("trigger", [value for value in Trigger.values() if value])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: str(action.WhichOneof("action")))
def test_a_try_leaves_out_what_the_live_path_leaves_out(
    action: Action, trigger: Trigger.ValueType, platform: Platform.ValueType
) -> None:
    live = plan(facts(trigger, platform), Candidate(rule_id="rule-1", actions=[action]), NOW)

    tried = left_out(action, platform, comment=trigger == TRIGGER_COMMENT)

    assert list(live.left_out) == ([tried] if tried is not None else [])
