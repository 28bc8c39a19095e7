"""Applying: which of a rule's actions an event allows, and why not the others.

The store decides this for stored events, by what it knows of them (`pagewire_store.deciding`); here
it is said of an event that is made up, and in the same words.
"""

from pagewire.type.v1.page_pb2 import Platform
from pagewire.type.v1.rule_pb2 import Action, LeftOut
from pagewire_rules.validation import COMMENT_ACTIONS


def left_out(action: Action, platform: Platform.ValueType, *, comment: bool) -> LeftOut | None:
    """Why a page of this platform does not do the action; None where it does.

    The event is a `comment`, or it is by a person who can be written to.
    """
    kind = action.WhichOneof("action") or ""
    reason = _reason(kind, action, platform, comment=comment)
    return LeftOut(action=kind, reason=reason) if reason else None


def _reason(kind: str, action: Action, platform: Platform.ValueType, *, comment: bool) -> str:
    if not kind:
        return "action_unknown"
    if kind in COMMENT_ACTIONS and not comment:
        return "not_a_comment"
    # A page answers below a comment with text alone.
    if kind in ("reply", "comment_reply") and comment and not _text(action, kind):
        return "text_only"
    # Custom labels are Messenger's, and a Facebook commenter's id is none that can carry one.
    if kind in ("add_label", "remove_label") and (
        platform != Platform.PLATFORM_MESSENGER or comment
    ):
        return "label_unsupported"
    return ""


def _text(action: Action, kind: str) -> str:
    content = action.reply if kind == "reply" else action.comment_reply
    return content.quick_replies.text or content.text
