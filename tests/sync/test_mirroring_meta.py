"""Whole runs against the simulated Meta, which was not made by them: what is kept is its truth."""

import asyncio
from typing import Any

import pytest

from pagewire.type.v1.conversation_pb2 import Direction
from pagewire.type.v1.sync_run_pb2 import SyncKind, SyncState
from pagewire_simulator.client import AccountView
from pagewire_sync.batches import Batches
from pagewire_sync.budget import Budget, Product, Rate
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.mirroring import Mirroring
from pagewire_sync.progress import Progress
from pagewire_sync.reading import Reads
from tests.support.inbox import FakeIngest, FakeMirror, claimed
from tests.support.sending import Meta

COMMENTS = SyncKind.SYNC_KIND_COMMENTS
KINDS = ["page", "linked_account", "instagram_account"]
"""Of `Meta`: a Page, and accounts of both kinds of login."""


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def mirrored(
    meta: Meta, account: AccountView, mirror: FakeMirror | None = None, **of: Any
) -> tuple[Progress, FakeMirror]:
    """A run, without Meta's limits and without pauses."""

    async def token_died(credentials: Credentials, error: GraphError) -> None:
        raise AssertionError("no token died")

    await meta.simulator.options(rates={"conversation_reads": 0})
    run = claimed(**of)
    run.run.page_id = account.id
    run.token_version = 1
    progress, mirror = Progress.of(run), mirror or FakeMirror()
    budget = Budget(dict.fromkeys(Product, Rate(1_000, 1)))
    reads = Reads(Batches(meta.graph), budget, token_died=token_died, jitter=lambda _: 0.0)
    tokens = CredentialCache(meta.pages)
    await Mirroring(reads, tokens, mirror, FakeIngest(), sleep=no_pause).mirror(progress)
    return progress, mirror


async def account_of(meta: Meta, kind: str) -> AccountView:
    account: AccountView = await getattr(meta, kind)()
    return account


async def hide(meta: Meta, account: AccountView, comment_id: str) -> None:
    credentials = await CredentialCache(meta.pages).newest(account.id)
    name = "hide" if account.platform == "instagram" else "is_hidden"
    answer = await meta.graph.post(credentials, comment_id, "", {name: True}, operation="hide")
    assert not isinstance(answer, GraphError)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_meta_could_not_deliver_says_so(meta: Meta, kind: str) -> None:
    account = await account_of(meta, kind)
    await meta.simulator.create_history(
        account.id, conversations=10, messages=12, unsupported=0.3, deleted=0, stories=0
    )

    progress, mirror = await mirrored(meta, account)

    truth = await meta.simulator.truth(account.id)
    told = [one for thread in truth.conversations for one in thread.messages]
    unsupported = {one.mid for one in told if one.unsupported}
    assert progress.run.state == SyncState.SYNC_STATE_SUCCEEDED
    assert 0 < len(unsupported) < len(told) == len(mirror.messages)
    assert {one.mid for one in mirror.messages.values() if one.is_unsupported} == unsupported
    assert Direction.DIRECTION_UNSPECIFIED not in {m.direction for m in mirror.messages.values()}


@pytest.mark.parametrize("kind", KINDS)
async def test_comments_with_long_lists_and_replies_are_those_of_the_truth(
    meta: Meta, kind: str
) -> None:
    account = await account_of(meta, kind)
    ads = 1 if kind == "page" else 0
    await meta.simulator.create_history(account.id, posts=7, ads=ads, comments=3, replies=2)
    await meta.simulator.create_history(account.id, posts=1, comments=70, replies=12)
    before = await meta.simulator.truth(account.id)
    some = [one for one in before.comments if not one.parent_id and one.person_id][:2]
    removed = next(one for one in before.comments if one.parent_id)
    for one in some:
        await hide(meta, account, one.id)
    await meta.simulator.change_comment(account.id, removed.id)
    await meta.simulator.comment(account.id, "our word", post=some[0].post_id, own=True)

    progress, mirror = await mirrored(meta, account, kind=COMMENTS)

    truth = await meta.simulator.truth(account.id)
    there = {
        one.id: (
            one.post_id,
            one.parent_id or "",
            one.text or "",
            one.hidden,
            one.person_id is None,
            one.created_at // 1000,
        )
        for one in truth.comments
        if not one.deleted
    }
    kept = {
        one.comment_id: (
            one.post_id,
            one.parent_id,
            one.text,
            one.is_hidden,
            one.is_own,
            one.create_time.seconds,
        )
        for one in mirror.comments.values()
    }
    assert progress.run.state == SyncState.SYNC_STATE_SUCCEEDED
    assert kept == there
    assert len(there) > 900
    assert sum(hidden for _, _, _, hidden, _, _ in kept.values()) == 2
    assert any(is_own for _, _, _, _, is_own, _ in kept.values())


async def test_of_a_page_with_very_much_traffic_the_known_threads_are_read_by_themselves(
    meta: Meta,
) -> None:
    account = await meta.page()
    await meta.simulator.create_history(account.id, conversations=12, messages=30)
    _, mirror = await mirrored(meta, account)
    person = next(iter(mirror.conversations))
    said = await meta.simulator.say(account.id, "in the rush", person=person)
    await meta.simulator.change_account(account.id, reading={"high_volume": True})

    progress, _ = await mirrored(meta, account, mirror)

    assert progress.run.state == SyncState.SYNC_STATE_PARTIAL
    assert progress.run.error == "list_unavailable"
    assert progress.run.conversations == 12
    assert mirror.messages[said.mid or ""].text == "in the rush"
