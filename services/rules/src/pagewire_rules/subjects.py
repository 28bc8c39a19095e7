"""Subjects: which of an event's words a rule compares with."""

from pagewire.type.v1.event_pb2 import Event, Trigger
from pagewire_rules.evaluation import Subject, subject
from pagewire_rules.validation import trigger_names

_TRIGGERS = {value: name for name, value in trigger_names().items()}


def subject_of(event: Event) -> Subject:
    """What the event says: its text, then a button's payload, or what stands for them."""
    trigger = _TRIGGERS.get(event.trigger, "")
    match event.WhichOneof("detail"):
        case "message":
            return subject(trigger, event.message.text, event.message.quick_reply_payload)
        case "postback":
            return subject(trigger, event.postback.title, event.postback.payload)
        case "comment":
            return subject(trigger, event.comment.text)
        case "reaction":
            return subject(trigger, event.reaction.emoji, event.reaction.reaction)
        case "referral":
            return subject(trigger, event.referral.ref, event.referral.ad_id)
        case "optin":
            return subject(trigger, event.optin.ref, event.optin.payload)
        case _:
            return subject(trigger)


def subject_of_try(trigger: Trigger.ValueType, text: str, payload: str) -> Subject:
    """What a made-up event says."""
    return subject(_TRIGGERS.get(trigger, ""), text, payload)
