"""History's reads against the simulated Meta, which was not made by them."""

import asyncio
from typing import Any

from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_sync.batches import Batches, Weight
from pagewire_sync.budget import Product
from pagewire_sync.credentials import CredentialCache
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Credentials
from pagewire_sync.reading import Reads, Tally
from pagewire_sync.results import Done, Failed, Outcome
from tests.support.sending import Meta


async def connected(meta: Meta, count: int, **history: Any) -> list[AccountView]:
    accounts = [await meta.simulator.create_account("messenger") for _ in range(count)]
    for account in accounts:
        meta.pages.connect(account.id, account.token)
        if history:
            await meta.simulator.create_history(account.id, **history)
    return accounts


def reads_of(meta: Meta, **batches: Any) -> tuple[Reads, list[str]]:
    died: list[str] = []

    async def token_died(credentials: Credentials, error: GraphError) -> None:
        died.append(f"{credentials.page_id} {error.reason}")

    reads = Reads(Batches(meta.graph, **batches), meta.budget, token_died=token_died)
    return reads, died


async def newest(
    meta: Meta,
    reads: Reads,
    account: AccountView,
    tally: Tally,
    weight: Weight = Weight.LIGHT,
) -> Outcome:
    """The page's newest threads, asked for together with those of others."""
    credentials = await CredentialCache(meta.pages).newest(account.id)
    return await reads.get(
        credentials,
        credentials.node_id,
        "conversations",
        {"platform": "messenger", "fields": "id,updated_time", "limit": "5"},
        operation="threads",
        product=Product.CONVERSATIONS,
        weight=weight,
        batched=True,
        tally=tally,
    )


async def truly(meta: Meta, account: AccountView) -> set[str]:
    truth = await meta.simulator.truth(account.id)
    return {conversation.thread_id for conversation in truth.conversations}


async def test_fifty_pages_are_read_in_one_request_each_with_its_own_token(meta: Meta) -> None:
    accounts = await connected(meta, 50, conversations=3, messages=1)
    reads, _ = reads_of(meta, window_seconds=5.0)
    tally = Tally()

    outcomes = await asyncio.gather(*(newest(meta, reads, each, tally) for each in accounts))

    (batch,) = await meta.simulator.batches()
    calls = await meta.simulator.calls(endpoint="conversations")
    assert [type(each) for each in outcomes] == [Done] * 50
    for account, outcome in zip(accounts, outcomes, strict=True):
        assert isinstance(outcome, Done)
        assert {each["id"] for each in outcome.body["data"]} == await truly(meta, account)
    assert (batch.operations, batch.token_in_url, tally.calls) == (50, False, 50)
    assert {call.proof for call in calls} == {"ok"}
    assert {call.account_id for call in calls} == {account.id for account in accounts}


async def test_what_a_batch_left_unfinished_is_read_all_the_same(meta: Meta) -> None:
    accounts = await connected(meta, 8, conversations=3, messages=1)
    await meta.simulator.options(batch={"seconds": 0.5, "aborted": 0.5})
    await meta.simulator.faults(
        Script(fault="slow", seconds=3_600, endpoint="conversations", count=5)
    )
    reads, _ = reads_of(meta, window_seconds=5.0)
    tally = Tally()

    outcomes = await asyncio.gather(
        *(newest(meta, reads, each, tally, Weight.HEAVY) for each in accounts)
    )

    calls = await meta.simulator.calls(endpoint="conversations")
    unfinished = [call for call in calls if call.answer == "unfinished"]
    assert [type(each) for each in outcomes] == [Done] * 8
    assert [batch.operations for batch in await meta.simulator.batches()] == [8]
    assert len(unfinished) >= 5
    assert tally.calls == 8 + len(unfinished)


async def test_a_token_that_dies_costs_three_calls_at_the_most_and_other_pages_none(
    meta: Meta,
) -> None:
    dead, alive = await connected(meta, 2, conversations=3, messages=1)
    await meta.simulator.change_account(dead.id, token_state="password_changed")
    reads, died = reads_of(meta)
    tally = Tally()

    dead_ones = [await newest(meta, reads, dead, tally) for _ in range(10)]
    other = await newest(meta, reads, alive, tally)

    assert {each.error.failure for each in dead_ones if isinstance(each, Failed)} == {Failure.TOKEN}
    assert isinstance(other, Done)
    assert died == [f"{dead.id} graph_190_460"]
    assert tally.calls - 1 <= 3
