"""What Graph can do today: sends, comments, labels, subscriptions, and the reads around them.

Each operation takes the request on a node that was found for the caller's token, and answers or
raises ``Refused``; nothing has changed then. Source: the reference pages of the Send API, comments,
custom labels and subscribed apps.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from pagewire_simulator import fields, post_calls, reads, refusals, sending, thread_calls
from pagewire_simulator.acts import tell_comment
from pagewire_simulator.entities import Host, Label, Person, Platform
from pagewire_simulator.fields import Field
from pagewire_simulator.meta import Meta
from pagewire_simulator.refusals import Refused, parameter, unsupported
from pagewire_simulator.sending import SendRequest
from pagewire_simulator.subscriptions import INSTAGRAM_FIELDS, PAGE_FIELDS
from pagewire_simulator.targets import Kind, Outcome, Request, Target
from pagewire_simulator.world import World

Json = dict[str, Any]

ID = attrgetter("id")
SUCCESS: Json = {"success": True}


def aim(world: World, name: str, target: Target, params: Json) -> str:
    """Fills in whom the call concerns, and returns the operation's name for scripts and ledger."""
    account = target.account
    if name == "send":
        wanted = send_request(params)
        target.account = account = sending.account_addressed(world, account, wanted)
        target.comment = world.find_comment(str(wanted.recipient.get("comment_id", "")))
        if target.comment is None:
            target.person = world.find_person(account, str(wanted.recipient.get("id", "")))
        else:
            name = "private_reply"
        if wanted.sender_action:
            name = "sender_action"
    elif name == "conversations":
        target.account = thread_calls.account_meant(world, account, params)
    elif target.kind is Kind.LABEL and "user" in params:
        target.person = world.find_person(account, str(params["user"]))
    if target.comment and target.comment.person_id and target.person is None:
        target.person = world.find_person(account, target.comment.person_id)
    return name


def send_request(params: Json) -> SendRequest:
    """The send's parameters; objects may come as JSON strings, as forms carry them."""
    given = {k: decoded(params[k]) for k in SendRequest.__struct_fields__ if k in params}
    try:
        return msgspec.convert(given, SendRequest)
    except msgspec.ValidationError as error:
        raise Refused(parameter(str(error))) from None


def decoded(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise Refused(parameter("Invalid JSON in a parameter")) from None
    return value


def send(meta: Meta, request: Request) -> Outcome:
    done = sending.accept(
        meta.world,
        meta.limits,
        request.account,
        send_request(request.params),
        host=request.host,
        now=request.now,
    )
    if done.message is None:
        return Outcome(answer={"recipient_id": done.recipient_id})
    mid = done.message.mid
    answer = {"recipient_id": done.recipient_id, "message_id": mid}
    return Outcome(answer=answer, created=mid, sent=done.message)


def reply_to_comment(meta: Meta, request: Request) -> Outcome:
    """A public reply; on Instagram under the top-level comment, which must not be hidden."""
    account, parent, world = request.account, request.comment, meta.world
    if account.platform is Platform.INSTAGRAM:
        parent = world.find_comment(parent.parent_id or "") or parent
        if parent.hidden:
            raise Refused(parameter("A hidden comment can't be replied to"))
    text = request.text("message")
    post = world.post(parent.post_id)
    made = world.create_comment(account, None, post, request.now, text, parent=parent)
    if meta.echoes_of(account).when != "never":
        tell_comment(meta, account, "add", made, flat=account.login is Host.INSTAGRAM)
    return Outcome(answer={"id": made.id}, created=made.id)


def update_comment(meta: Meta, request: Request) -> Outcome:
    """Hides (``is_hidden`` on Facebook, ``hide`` on Instagram) or edits an own comment."""
    account, comment = request.account, request.comment
    on_facebook = account.platform is Platform.MESSENGER
    hide = request.params.get("is_hidden" if on_facebook else "hide")
    if hide is not None:
        hidden = str(hide).lower() in ("true", "1")
        changed, comment.hidden = comment.hidden is not hidden, hidden
        meta.world.revisions[account.id] += 1
        if changed:
            tell_comment(meta, account, "hide" if hidden else "unhide", comment)
        return Outcome(answer=SUCCESS)
    if not on_facebook or comment.person_id is not None:
        raise Refused(parameter("Nothing to change"))
    comment.text = request.text("message")
    meta.world.revisions[account.id] += 1
    tell_comment(meta, account, "edited", comment)
    return Outcome(answer=SUCCESS)


def delete_comment(meta: Meta, request: Request) -> Outcome:
    request.comment.deleted = True
    meta.world.revisions[request.account.id] += 1
    tell_comment(meta, request.account, "remove", request.comment)
    return Outcome(answer=SUCCESS)


def list_labels(meta: Meta, request: Request) -> Outcome:
    labels = [label for label in meta.world.labels.values() if owns(request, label)]
    return Outcome(answer=request.page(labels, lambda one: shown_label(one, request.fields), ID))


def create_label(meta: Meta, request: Request) -> Outcome:
    """The same name twice makes two labels."""
    made = meta.world.create_label(request.account, request.text("page_label_name"))
    return Outcome(answer={"id": made.id})


def read_label(meta: Meta, request: Request) -> Outcome:
    return Outcome(answer=shown_label(request.label, request.fields))


def delete_label(meta: Meta, request: Request) -> Outcome:
    del meta.world.labels[request.label.id]
    return Outcome(answer=SUCCESS)


def assign_label(meta: Meta, request: Request) -> Outcome:
    request.label.people.add(labelled(meta.world, request).id)
    return Outcome(answer=SUCCESS)


def remove_label(meta: Meta, request: Request) -> Outcome:
    request.label.people.discard(labelled(meta.world, request).id)
    return Outcome(answer=SUCCESS)


def labels_of_person(meta: Meta, request: Request) -> Outcome:
    assert request.target.person is not None
    person = request.target.person.id
    labels = [label for label in meta.world.labels.values() if person in label.people]
    return Outcome(answer=request.page(labels, lambda one: shown_label(one, request.fields), ID))


def labelled(world: World, request: Request) -> Person:
    person = world.find_person(request.account, request.text("user"))
    if person is None:
        raise Refused(refusals.NO_MATCHING_USER)
    return person


def owns(request: Request, label: Label) -> bool:
    return label.account_id == request.account.id


def shown_label(label: Label, wanted: list[Field]) -> Json:
    known = {"id": label.id, "page_label_name": label.name}
    return reads.cut(known, wanted or fields.parse("id,page_label_name"))


def subscribe(meta: Meta, request: Request) -> Outcome:
    """``subscribed_fields``, comma-separated or a list, replaces what was subscribed."""
    given = decoded(request.params.get("subscribed_fields", ""))
    wanted = frozenset(given if isinstance(given, list) else filter(None, str(given).split(",")))
    known = INSTAGRAM_FIELDS if request.host is Host.INSTAGRAM else PAGE_FIELDS
    if not wanted:
        raise Refused(parameter("The parameter subscribed_fields is required."))
    if unknown := sorted(wanted - known):
        names = ", ".join(sorted(known))
        raise Refused(
            parameter(f"Param subscribed_fields[0] must be one of {{{names}}}: {unknown}")
        )
    meta.world.subscribe(request.account.node, wanted)
    return Outcome(answer=SUCCESS)


def subscription(meta: Meta, request: Request) -> Outcome:
    """The app with its fields; the list is empty where it isn't installed."""
    subscribed = meta.world.subscription(request.account.node)
    known = INSTAGRAM_FIELDS if request.host is Host.INSTAGRAM else PAGE_FIELDS
    names = known if subscribed is None else subscribed
    app = {"id": meta.app.id, "name": "Pagewire", "subscribed_fields": sorted(names)}
    return Outcome(answer={"data": [app] if names else []})


def unsubscribe(meta: Meta, request: Request) -> Outcome:
    meta.world.subscribe(request.account.node, frozenset())
    return Outcome(answer=SUCCESS)


def read_account(meta: Meta, request: Request) -> Outcome:
    return Outcome(answer=reads.account(request.account, request.fields))


def read_person(meta: Meta, request: Request) -> Outcome:
    assert request.target.person is not None
    return Outcome(answer=reads.person(request.target.person, request.fields))


class Operation(msgspec.Struct, frozen=True):
    """``name`` is what fault scripts and the ledger call it.

    ``reads``: it counts against the calls a second to conversations and messages.
    """

    name: str
    run: Callable[[Meta, Request], Outcome]
    reads: bool = False


OPERATIONS: dict[tuple[str, Kind, str], Operation] = {
    ("POST", Kind.ACCOUNT, "messages"): Operation("send", send),
    ("GET", Kind.ACCOUNT, "conversations"): Operation(
        "conversations", thread_calls.list_conversations, reads=True
    ),
    ("GET", Kind.THREAD, ""): Operation("thread", thread_calls.read_thread, reads=True),
    ("GET", Kind.THREAD, "messages"): Operation(
        "thread_messages", thread_calls.list_messages, reads=True
    ),
    ("GET", Kind.MESSAGE, ""): Operation("message", thread_calls.read_message, reads=True),
    ("GET", Kind.MESSAGE, "attachments"): Operation(
        "attachments", thread_calls.list_attachments, reads=True
    ),
    ("GET", Kind.ACCOUNT, "custom_labels"): Operation("labels", list_labels),
    ("POST", Kind.ACCOUNT, "custom_labels"): Operation("label_create", create_label),
    ("POST", Kind.ACCOUNT, "subscribed_apps"): Operation("subscribe", subscribe),
    ("GET", Kind.ACCOUNT, "subscribed_apps"): Operation("subscription", subscription),
    ("DELETE", Kind.ACCOUNT, "subscribed_apps"): Operation("unsubscribe", unsubscribe),
    ("GET", Kind.ACCOUNT, ""): Operation("account", read_account),
    ("POST", Kind.COMMENT, "comments"): Operation("comment_reply", reply_to_comment),
    ("POST", Kind.COMMENT, "replies"): Operation("comment_reply", reply_to_comment),
    **{
        ("GET", Kind.ACCOUNT, edge): Operation(edge, post_calls.list_posts)
        for edge in ("feed", "published_posts", "ads_posts", "media")
    },
    ("GET", Kind.POST, ""): Operation("post", post_calls.read_post),
    ("GET", Kind.POST, "comments"): Operation("comments", post_calls.list_comments),
    ("GET", Kind.COMMENT, "comments"): Operation("comment_replies", post_calls.list_comments),
    ("GET", Kind.COMMENT, "replies"): Operation("comment_replies", post_calls.list_comments),
    ("GET", Kind.COMMENT, ""): Operation("comment", post_calls.read_comment),
    ("POST", Kind.COMMENT, ""): Operation("comment_update", update_comment),
    ("DELETE", Kind.COMMENT, ""): Operation("comment_delete", delete_comment),
    ("GET", Kind.LABEL, ""): Operation("label", read_label),
    ("DELETE", Kind.LABEL, ""): Operation("label_delete", delete_label),
    ("POST", Kind.LABEL, "label"): Operation("label_assign", assign_label),
    ("DELETE", Kind.LABEL, "label"): Operation("label_remove", remove_label),
    ("GET", Kind.PERSON, "custom_labels"): Operation("labels_of_person", labels_of_person),
    ("GET", Kind.PERSON, ""): Operation("person", read_person),
}
REPLIES_EDGE = {Platform.MESSENGER: "comments", Platform.INSTAGRAM: "replies"}


def operation(method: str, node: str, edge: str, target: Target) -> Operation:
    """The operation of a path; raises Refused (100/33) where there is none."""
    found = OPERATIONS.get((method, target.kind, edge))
    wrong_edge = (
        target.kind is Kind.COMMENT and edge and edge != REPLIES_EDGE[target.account.platform]
    )
    if found is None or wrong_edge:
        raise Refused(unsupported(node))
    return found
