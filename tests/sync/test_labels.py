import asyncio
from typing import Any

import pytest

from pagewire.store.v1.outbox_service_pb2 import ClaimedReply
from pagewire.type.v1.reply_pb2 import ReplyKind
from pagewire_simulator.client import AccountView
from pagewire_simulator.faults import Script
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.graph import Answer, Credentials, OutcomeUnknown
from pagewire_sync.labels import Labels, read_labels
from tests.support.outbox import reply
from tests.support.sending import Meta, addressed

ADD = ReplyKind.REPLY_KIND_ADD_LABEL
REMOVE = ReplyKind.REPLY_KIND_REMOVE_LABEL


class Turns:
    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self) -> None:
        self.taken += 1


async def labelling(
    meta: Meta, account: AccountView, kind: ReplyKind.ValueType = ADD, **fields: Any
) -> ClaimedReply:
    """A label for a new person."""
    person = await meta.simulator.create_person(account.id)
    return reply(
        **(
            addressed(account)
            | {"kind": kind, "text": None, "label": "lead", "person_id": person.id}
            | fields
        )
    )


def of(account: AccountView) -> Credentials:
    return Credentials(account.id, account.node, addressed(account)["login"], account.token, 1)


async def people(meta: Meta, account: AccountView) -> dict[str, set[str]]:
    return {label.name: label.people for label in await meta.simulator.labels(account.id)}


async def test_a_label_that_the_page_lacks_is_made_and_put_on_the_person(meta: Meta) -> None:
    account, turns = await meta.page(), Turns()
    wanted = await labelling(meta, account)

    answer = await Labels(meta.graph).apply(of(account), wanted, turns)

    assert isinstance(answer, Answer)
    assert await people(meta, account) == {"lead": {wanted.person_id}}
    assert turns.taken == len(await meta.simulator.calls()) == 3


async def test_many_who_need_a_new_label_at_once_make_one(meta: Meta) -> None:
    account, labels = await meta.page(), Labels(meta.graph)
    wanted = [await labelling(meta, account) for _ in range(10)]

    await asyncio.gather(*(labels.apply(of(account), each, Turns()) for each in wanted))

    found = await meta.simulator.labels(account.id)
    assert [label.people for label in found] == [{each.person_id for each in wanted}]


async def test_a_label_that_the_page_has_is_not_made_again(meta: Meta) -> None:
    account = await meta.page()
    first, second = [await labelling(meta, account) for _ in range(2)]
    await Labels(meta.graph).apply(of(account), first, Turns())

    await Labels(meta.graph).apply(of(account), second, Turns())  # knows of nothing yet

    assert await people(meta, account) == {"lead": {first.person_id, second.person_id}}


async def test_a_label_is_found_on_a_later_page_of_the_list(meta: Meta) -> None:
    account, labels = await meta.page(), Labels(meta.graph)
    for number in range(101):
        await meta.graph.post(
            of(account),
            account.node,
            "custom_labels",
            {"page_label_name": f"label {number}"},
            operation="test",
        )
    wanted = await labelling(meta, account, label="label 100")

    await labels.apply(of(account), wanted, Turns())

    found = await people(meta, account)
    assert len(found) == 101
    assert found["label 100"] == {wanted.person_id}


async def test_a_label_is_taken_away(meta: Meta) -> None:
    account, labels = await meta.page(), Labels(meta.graph)
    wanted = await labelling(meta, account)
    await labels.apply(of(account), wanted, Turns())
    away = await labelling(meta, account, REMOVE, person_id=wanted.person_id)

    answers = [await labels.apply(of(account), away, Turns()) for _ in range(2)]

    assert all(isinstance(answer, Answer) for answer in answers)
    assert await people(meta, account) == {"lead": set()}


async def test_a_label_that_the_page_does_not_know_need_not_be_taken_away(meta: Meta) -> None:
    account = await meta.page()

    answer = await Labels(meta.graph).apply(
        of(account), await labelling(meta, account, REMOVE), Turns()
    )

    assert answer == Answer({"success": True})
    assert await people(meta, account) == {}


async def test_a_label_that_was_deleted_by_hand_is_made_anew_by_the_next_try(meta: Meta) -> None:
    account, labels = await meta.page(), Labels(meta.graph)
    wanted = await labelling(meta, account)
    await labels.apply(of(account), wanted, Turns())
    label_id = (await meta.simulator.labels(account.id))[0].id
    await meta.graph.delete(of(account), label_id, "", {}, operation="test")

    refused = await labels.apply(of(account), wanted, Turns())
    again = await labels.apply(of(account), wanted, Turns())

    assert isinstance(refused, GraphError)
    assert refused.failure is Failure.PARAMETER
    assert isinstance(again, Answer)
    assert await people(meta, account) == {"lead": {wanted.person_id}}


@pytest.mark.parametrize("endpoint", ["labels", "label_create", "label_assign"])
async def test_a_refusal_on_the_way_is_the_answer(meta: Meta, endpoint: str) -> None:
    account = await meta.page()
    await meta.simulator.faults(Script(fault="terms", endpoint=endpoint))

    answer = await Labels(meta.graph).apply(of(account), await labelling(meta, account), Turns())

    assert isinstance(answer, GraphError)
    assert answer.failure is Failure.TERMS


@pytest.mark.parametrize(
    "body", [{}, {"data": 5}, {"data": None}, {"error": "no"}], ids=["none", "int", "null", "other"]
)
def test_what_is_no_list_of_labels_says_nothing_of_them(body: dict[str, Any]) -> None:
    with pytest.raises(OutcomeUnknown):
        read_labels(Answer(body))


def test_labels_that_are_malformed_are_passed_over() -> None:
    data = [5, {"page_label_name": "no id"}, {"id": 7, "page_label_name": "lead"}]

    assert read_labels(Answer({"data": data, "paging": {"next": "x"}})) == ([("lead", "7")], "")
