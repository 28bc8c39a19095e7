"""Adopting: a world that takes what the app speaks of as given, where it knows nothing of it.

For trying things out by hand: the app connects any page with any token, a webhook signed by hand
names any person or comment, and an answer to them is accepted. Off unless it is asked for, since
Meta knows whom it does not know.
"""

from typing import Any

from pagewire_simulator.entities import Account, Comment, Host, Platform
from pagewire_simulator.operations import decoded
from pagewire_simulator.tokens import Credentials
from pagewire_simulator.world import World

OF_ACCOUNT = {"subscribed_apps", "messages", "conversations", "custom_labels"}
OF_COMMENT = {"comments", "replies"}


def adopt(
    world: World,
    host: Host,
    node: str,
    edge: str,
    params: dict[str, Any],
    shown: Credentials,
    now: int,
) -> None:
    """Make what a call names where it is missing: the account and its token, the person, the
    comment.
    """
    if edge in OF_ACCOUNT and shown.token and node not in world.accounts:
        platform = Platform.INSTAGRAM if host is Host.INSTAGRAM else Platform.MESSENGER
        world.create_account(platform=platform, login=host, id=node)
        world.give_token(world.account(node), shown.token)
        world.adopted[node] = shown.token
    token = world.tokens.get(shown.token or "")
    comment = world.comments.get(node)
    meant = node if comment is None else comment.account_id
    if token and world.adopted.get(meant) == token.value:
        token.node = meant  # one token may have been made up for several pages
    account = None if token is None else world.accounts.get(token.node)
    if account is None:
        return
    if edge == "messages":
        recipient = decoded(params.get("recipient"))
        if isinstance(recipient, dict):
            _adopt_recipient(world, account, recipient, now)
    elif edge in OF_COMMENT or {"is_hidden", "hide"} & params.keys():
        _adopt_comment(world, account, node, now)


def _adopt_recipient(world: World, account: Account, recipient: dict[str, Any], now: int) -> None:
    if person_id := str(recipient.get("id", "")):
        if world.find_person(account, person_id) is None:
            person = world.create_person(account, id=person_id)
            world.conversation(account, person).last_inbound = now
    elif comment_id := str(recipient.get("comment_id", "")):
        _adopt_comment(world, account, comment_id, now)


def _adopt_comment(world: World, account: Account, comment_id: str, now: int) -> None:
    if comment_id in world.comments:
        return
    person = world.create_person(account)
    world.comments[comment_id] = Comment(
        id=comment_id,
        account_id=account.id,
        post_id=world.create_post(account, now).id,
        parent_id=None,
        person_id=person.id,
        from_id=person.commenter_id,
        from_name=person.name,
        text="",
        created_at=now,
    )
