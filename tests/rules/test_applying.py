import pytest

from pagewire.type.v1.page_pb2 import PLATFORM_INSTAGRAM, PLATFORM_MESSENGER
from pagewire.type.v1.reply_pb2 import Media, ReplyContent
from pagewire.type.v1.rule_pb2 import Action, HideAction, LabelAction, LeftOut
from pagewire_rules.applying import left_out

HELLO = ReplyContent(text="hello")
LABEL = Action(add_label=LabelAction(name="lead"))


@pytest.mark.parametrize(
    ("platform", "comment", "applies"),
    [
        (PLATFORM_MESSENGER, False, True),
        (PLATFORM_MESSENGER, True, False),
        (PLATFORM_INSTAGRAM, False, False),
        (PLATFORM_INSTAGRAM, True, False),
    ],
)
def test_a_label_needs_a_person_in_messenger(platform: int, comment: bool, applies: bool) -> None:
    why = left_out(LABEL, platform, comment=comment)  # type: ignore[arg-type]  # of an open enum

    expected = LeftOut(action="add_label", reason="label_unsupported")
    assert why == (None if applies else expected)


@pytest.mark.parametrize(
    "action",
    [
        Action(private_reply=HELLO),
        Action(comment_reply=HELLO),
        Action(hide_comment=HideAction(hidden=True)),
    ],
)
def test_what_needs_a_comment_is_left_out_of_all_else(action: Action) -> None:
    below = left_out(action, PLATFORM_MESSENGER, comment=True)
    direct = left_out(action, PLATFORM_MESSENGER, comment=False)

    assert below is None
    assert direct is not None
    assert (direct.action, direct.reason) == (action.WhichOneof("action"), "not_a_comment")


def test_a_picture_is_no_answer_below_a_comment() -> None:
    picture = Action(reply=ReplyContent(media=Media(url="https://shop.example/a.png")))

    assert left_out(picture, PLATFORM_MESSENGER, comment=False) is None
    assert left_out(picture, PLATFORM_MESSENGER, comment=True) == LeftOut(
        action="reply", reason="text_only"
    )
