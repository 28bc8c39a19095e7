"""Batches: what is answered for each operation, and how a batch fails in part and as a whole."""

import json
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from pagewire_simulator import jsonpath
from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.faults import Script
from pagewire_simulator.limits import Allowance
from pagewire_simulator.tokens import proof_of
from tests.support.simulator import APP, APP_SECRET, INSTAGRAM_SECRET, GraphCaller

Element = dict[str, Any] | None


def get(address: str, **more: Any) -> dict[str, Any]:
    return {"method": "GET", "relative_url": address} | more


def as_page(address: str, page: AccountView) -> dict[str, Any]:
    """A read with the page's own token and proof."""
    own = f"access_token={page.token}&appsecret_proof={proof_of(APP_SECRET, page.token)}"
    return get(f"{address}{'&' if '?' in address else '?'}{own}")


def bodies(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [None if one is None else json.loads(one["body"]) for one in answer.json()]


def error(element: Element) -> tuple[int, int | None]:
    assert element
    return element["code"], json.loads(element["body"])["error"].get("code")


def whole(answer: httpx.Response) -> tuple[int, str]:
    """How a batch failed as a whole."""
    return answer.status_code, answer.json()["error"]["type"]


async def test_operations_are_answered_in_order_each_with_its_own_token(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    other = await simulator.create_account(name="Other")

    answer = await graph.batch(
        get("me?fields=name"),
        as_page("me?fields=name", other),
        get("me?fields=name"),
        as_page(f"v24.0/{other.id}?fields=name", other),
    )

    names = [body["name"] for body in bodies(answer)]
    calls = await simulator.calls()
    (batch,) = await simulator.batches()
    assert names == ["Example", "Other", "Example", "Other"]
    assert [call.account_id for call in calls] == [page.id, other.id, page.id, other.id]
    assert {call.batch for call in calls} == {batch.serial}
    assert (batch.operations, batch.answer, batch.status) == (4, "normal", 200)
    assert (await simulator.summary()).tokens_in_urls == 0


async def test_an_operation_with_a_token_of_its_own_needs_a_proof_of_its_own(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    other = await simulator.create_account()

    answer = await graph.batch(get("me"), get(f"me?access_token={other.token}"))

    first, second = answer.json()
    assert first["code"] == 200
    assert error(second) == (400, 100)
    assert [call.proof for call in await simulator.calls()] == ["ok", "missing"]


async def test_an_element_has_a_body_to_be_read_again_and_headers_unless_not_wanted(
    graph: GraphCaller,
) -> None:
    (told,) = (await graph.batch(get("me"))).json()
    (bare,) = (await graph.batch(get("me"), include_headers="false")).json()

    assert isinstance(told["body"], str)
    assert {"name": "Content-Type", "value": "text/javascript; charset=UTF-8"} in told["headers"]
    assert bare.keys() == {"code", "body"}


async def test_a_failed_operation_stands_beside_those_that_did_not_fail(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    answer = await graph.batch(get("1/nothing"), get("me"), get("no|where?%zz"))

    found = answer.json()
    assert [element["code"] for element in found] == [400, 200, 400]
    assert error(found[0]) == (400, 100)
    assert "www-authenticate" in {header["name"].lower() for header in found[0]["headers"]}


async def test_a_reference_is_filled_in_and_the_one_referred_to_is_left_out(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    for text in ("one", "two", "three"):
        await simulator.say(page.id, text)
    newest = (await simulator.truth(page.id)).conversations[:2]
    fill = "?ids={result=threads:$.data[0:2].participants.data[0].id}&fields=id"
    left_out = get("me/conversations?fields=participants&limit=3", name="threads")

    hidden = await graph.batch(left_out, get(fill))
    shown = await graph.batch(left_out | {"omit_response_on_success": False}, get("me"))

    nothing, found = bodies(hidden)
    assert nothing is None
    assert list(found) == [thread.person_id for thread in newest]
    assert bodies(shown)[0]["data"]


async def test_a_reference_is_filled_in_in_a_body_and_in_the_order_of_its_writes(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    person = (await simulator.say(page.id, "hello")).person
    made = {"method": "POST", "relative_url": "me/custom_labels", "name": "made"}

    answer = await graph.batch(
        made | {"body": "page_label_name=lead", "omit_response_on_success": False},
        {
            "method": "POST",
            "relative_url": "{result=made:$.id}/label",
            "body": f"user={person}",
        },
    )

    (label,) = await simulator.labels(page.id)
    assert bodies(answer) == [{"id": label.id}, {"success": True}]
    assert label.people == {person}


async def test_what_depends_on_a_failed_operation_is_null_and_not_carried_out(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    label = {"method": "POST", "relative_url": "me/custom_labels", "body": "page_label_name=x"}

    answer = await graph.batch(get("1", name="parent"), label | {"depends_on": "parent"})

    parent, dependent = answer.json()
    assert error(parent) == (400, 100)
    assert dependent is None
    assert await simulator.labels(page.id) == []


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (json.dumps([get("me")] * 51), "Maximum batch size is 50"),
        ("[]", "Maximum batch size is 50"),
        ("[{", "must be a JSON array"),
        ('{"relative_url":"me"}', "must be a JSON array"),
        (
            json.dumps([get("me?x={result=f:$.id}"), get("me", name="f")]),
            "Request 0 cannot depend on an  unresolved request with  name f.",
        ),
        (json.dumps([get("me", depends_on="g")]), "unresolved request with  name g."),
    ],
)
async def test_a_batch_that_cant_be_read_fails_as_a_whole_and_nothing_is_done(
    simulator: SimulatorClient, graph: GraphCaller, batch: str, said: str
) -> None:
    answer = await graph.batch(batch=batch)

    assert whole(answer) == (400, "GraphBatchException")
    assert said in answer.json()["error"]["message"]
    assert (await simulator.summary()).calls == 0


async def test_a_batch_needs_a_good_token_and_proof_whatever_its_operations_have(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    own = as_page("me", page)

    without = await graph.batch(own, access_token="")
    wrong = await graph.batch(own, access_token="nonsense")
    unproven = await graph.batch(own, appsecret_proof="00")
    with_apps = await graph.batch(own, access_token=f"{APP.id}|{APP_SECRET}")

    assert whole(without)[0] == whole(wrong)[0] == whole(unproven)[0] == 400
    assert bodies(with_apps)[0]["id"] == page.id


async def test_each_operation_counts_and_is_limited_as_a_call_alone(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(rates={"conversation_reads": 0.001, "conversation_burst": 3})

    answer = await graph.batch(*[get("me/conversations")] * 5)

    totals = (await simulator.truth(page.id)).calls
    found = [element["code"] for element in answer.json()]
    assert found == [200, 200, 200, 400, 400]
    assert error(answer.json()[-1]) == (400, 613)
    assert (totals.calls, totals.wasted, totals.throttled) == (5, 2, 2)


async def test_usage_is_told_with_each_operation_and_with_its_errors(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.allow(page.id, Allowance(calls=4))

    answer = await graph.batch(get("me"), get("1"), get("me/x"), get("me"), get("me"), get("me"))

    told = [{h["name"]: h["value"] for h in element["headers"]} for element in answer.json()]
    usage = [json.loads(one["X-Business-Use-Case-Usage"])[page.id][0] for one in told]
    assert [use["call_count"] for use in usage] == [25, 50, 75, 100, 100, 100]
    assert error(answer.json()[-1]) == (400, 80006)


async def test_what_a_batch_has_no_time_for_is_null_or_an_error(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.options(batch={"seconds": 0.2, "aborted": 0})
    await simulator.faults(Script(fault="slow", seconds=3600, endpoint="account"))
    comment = await simulator.comment(page.id, "price?")

    nothing = await graph.batch(get("me"), get(str(comment.comment)))
    await simulator.options(batch={"aborted": 1})
    aborted = await graph.batch(get("me"), get(str(comment.comment)))

    assert nothing.json()[0] is None
    assert error(aborted.json()[0]) == (500, 960)
    assert [bodies(answer)[1]["id"] for answer in (nothing, aborted)] == [comment.comment] * 2
    assert [call.answer for call in await simulator.calls() if call.endpoint == "account"] == [
        "unfinished"
    ] * 2


@pytest.mark.parametrize("written", [0, 1])
async def test_a_write_that_a_batch_had_no_time_for_may_have_been_carried_out(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, written: int
) -> None:
    await simulator.options(batch={"seconds": 0.2, "aborted": 0, "written": written})
    await simulator.faults(Script(fault="slow", late=3600, seconds=0))
    comment = await simulator.comment(page.id, "price?")
    reply = {"method": "POST", "relative_url": f"{comment.comment}/comments", "body": "message=10"}

    answer = await graph.batch(reply)

    assert answer.json() == [None]
    assert len(await simulator.sends()) == written


async def test_single_operations_are_null_or_aborted_by_script(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.faults(
        Script(fault="null", account=page.id, count=1),
        Script(fault="aborted", account=page.id, count=1),
        Script(fault="null", account=page.id, count=1),
    )

    alone = await graph.call("GET", "me")  # a call alone knows no null
    answer = await graph.batch(get("me"), get("me"), get("me"))

    assert error({"code": alone.status_code, "body": alone.text}) == (500, 960)
    assert [element and element["code"] for element in answer.json()] == [None, None, 200]


@pytest.mark.parametrize("fault", ["empty", "object", "html", "truncated", "http_502"])
async def test_a_whole_batch_may_answer_with_nothing_to_go_by(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller, fault: str
) -> None:
    await simulator.faults(Script(fault=fault, endpoint="batch", count=1))

    alone = await graph.call("GET", "me")
    spoiled = await graph.batch(get("me"))
    after = await graph.batch(get("me"))

    assert alone.status_code == 200
    assert not spoiled.content.startswith(b"[") or len(spoiled.content) < len(after.content)
    assert bodies(after)[0]["id"] == page.id
    assert [batch.fault for batch in await simulator.batches()] == [fault, None]


async def test_a_whole_batch_may_time_out_with_an_error_around_it(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    await simulator.faults(Script(fault="aborted", status=400, endpoint="batch"))

    answer = await graph.batch(get("me"))

    assert whole(answer) == (400, "FacebookApiException")
    assert answer.json()["error"]["code"] == 960
    assert (await simulator.summary()).calls == 0


async def test_the_next_page_told_in_a_batch_is_no_good_outside_of_it_but_its_cursor_is(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=4, messages=1)

    (listed,) = bodies(await graph.batch(get("me/conversations?limit=2")))
    address = urlsplit(listed["paging"]["next"])
    outside = await graph.http.get(address.geturl())
    further = await graph.call(
        "GET", "me/conversations", limit=2, after=listed["paging"]["cursors"]["after"]
    )

    assert "_fb_batch_sig=" in address.query
    assert outside.status_code == 400
    assert len(further.json()["data"]) == 2


async def test_several_nodes_are_read_at_once_each_counted_and_one_bad_one_spoils_them(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    ids = [(await simulator.comment(page.id, text)).comment or "" for text in ("one", "two")]

    both = await graph.call("GET", "", ids=",".join(ids), fields="message")
    edges = await graph.call("GET", "comments", ids=",".join(ids))
    bad = await graph.call("GET", "", ids=",".join([*ids, "nonsense"]))
    many = await graph.call("GET", "", ids=",".join(map(str, range(51))))

    assert {node: shown["message"] for node, shown in both.json().items()} == dict(
        zip(ids, ("one", "two"), strict=True)
    )
    assert edges.json() == {node: {"data": []} for node in ids}
    assert [answer.json()["error"]["code"] for answer in (bad, many)] == [803, 100]
    assert (await simulator.summary()).calls == 2 + 2 + 3


async def test_the_host_of_instagram_login_takes_no_batch_unless_told_to(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")
    own = GraphCaller(simulator.instagram, account.token, graph.http, INSTAGRAM_SECRET)

    refused = await own.batch(get("me"))
    await simulator.options(batch={"instagram": True})
    taken = await own.batch(get("me"))

    assert refused.status_code == 400
    assert bodies(taken)[0]["id"] == account.id


async def test_an_operations_address_may_be_escaped(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.say(page.id, "hello")
    fields = quote("id,messages.limit(1){message}")

    (found,) = bodies(await graph.batch(get(f"/me/conversations?fields={fields}")))

    assert found["data"][0]["messages"]["data"][0]["message"] == "hello"


async def test_a_batch_with_files_is_taken_and_a_file_that_is_missing_fails_it(
    page: AccountView, graph: GraphCaller
) -> None:
    operation = {"method": "POST", "relative_url": "me/custom_labels", "attached_files": "cat"}
    form = {
        "access_token": page.token,
        "appsecret_proof": proof_of(APP_SECRET, page.token),
        "batch": json.dumps([operation | {"body": "page_label_name=x"}]),
    }

    taken = await graph.http.post(f"{graph.base}/v25.0/", data=form, files={"cat": b"\x89PNG"})
    missing = await graph.http.post(f"{graph.base}/v25.0/", data=form, files={"dog": b"\x89PNG"})

    assert bodies(taken)[0].keys() == {"id"}
    assert whole(missing) == (400, "GraphBatchException")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.data.*.id", ["1", "2", "3"]),
        ("$.data[*].id", ["1", "2", "3"]),
        ("$.data[0:2].id", ["1", "2"]),
        ("$.data[0:199:1].id", ["1", "2", "3"]),
        ("$.data[1].id", ["2"]),
        ("$.data[-1].id", ["3"]),
        ("$['data'][0]['id']", ["1"]),
        ("$..id", ["1", "2", "3"]),
        ("$.nothing[0].id", []),
        ("$.data.id", []),
    ],
)
def test_a_path_leads_to_what_it_names(path: str, found: list[str]) -> None:
    answer = {"data": [{"id": str(number)} for number in (1, 2, 3)], "paging": {}}

    assert jsonpath.find(path, answer) == found


@pytest.mark.parametrize("path", ["data.id", "$.data[", "$.data[?(@.id)]"])
def test_a_path_that_cant_be_read_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="data"):
        jsonpath.find(path, {})
