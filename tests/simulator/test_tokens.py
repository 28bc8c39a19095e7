"""Tokens: exchange, refresh, inspection, and what a user's token may do."""

import time
from typing import Any

import httpx

from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.faults import Script
from pagewire_simulator.tokens import proof_of
from tests.support.simulator import APP, APP_SECRET, INSTAGRAM_SECRET, GraphCaller

DAY = 86_400


def codes(answer: httpx.Response) -> tuple[int, int, int | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("error_subcode")


def now() -> int:
    return int(time.time() * 1000)


async def debug(graph: GraphCaller, token: str) -> dict[str, Any]:
    answer = await graph.http.get(
        f"{graph.base}/v25.0/debug_token",
        params={"input_token": token},
        headers={"Authorization": f"Bearer {APP.id}|{APP_SECRET}"},
    )
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_a_users_token_is_exchanged_for_one_that_lives_sixty_days(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    user = await simulator.create_user(page.id, expires_in=600)
    query = {
        "grant_type": "fb_exchange_token",
        "client_id": APP.id,
        "client_secret": APP_SECRET,
        "fb_exchange_token": user.value,
    }

    answer = await graph.http.get(f"{graph.base}/v25.0/oauth/access_token", params=query)
    wrong = await graph.http.get(
        f"{graph.base}/v25.0/oauth/access_token", params=query | {"client_secret": "no"}
    )

    made = answer.json()
    before, after = await debug(graph, user.value), await debug(graph, made["access_token"])
    assert made.keys() == {"access_token", "token_type", "expires_in"}
    assert (after["type"], after["user_id"], after["is_valid"]) == ("USER", user.node, True)
    assert 59 * DAY < after["expires_at"] - before["expires_at"] < 61 * DAY
    assert codes(wrong) == (400, 1, None)


async def test_the_apps_own_token_is_told_and_inspected(graph: GraphCaller) -> None:
    query = {
        "grant_type": "client_credentials",
        "client_id": APP.id,
        "client_secret": APP_SECRET,
    }

    answer = await graph.http.get(f"{graph.base}/oauth/access_token", params=query)

    token = answer.json()["access_token"]
    assert (await debug(graph, token))["type"] == "APP"


async def test_a_users_pages_come_with_their_tokens_page_by_page(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    linked = await simulator.create_account("instagram", page_id=page.id)
    other = await simulator.create_account(name="Other")
    token = (await simulator.create_user(page.id, other.id)).value
    user = GraphCaller(graph.base, token, graph.http, APP_SECRET)
    fields = "id,name,access_token,tasks,instagram_business_account"

    first = (await user.call("GET", "me/accounts", fields=fields, limit=1)).json()
    after = first["paging"]["cursors"]["after"]
    second = (await user.call("GET", "me/accounts", fields=fields, limit=1, after=after)).json()
    one = (await user.call("GET", page.id, fields="access_token")).json()
    mine = (await user.call("GET", "me", fields="name")).json()
    await simulator.options(reading={"refused_above": 10})
    much = await user.call("GET", "me/accounts", limit=25)

    assert first["data"][0]["access_token"] == one["access_token"] == page.token
    assert "MESSAGING" in first["data"][0]["tasks"]
    assert first["data"][0]["instagram_business_account"] == {"id": linked.id}
    assert second["data"][0]["name"] == "Other"
    assert "next" not in second["paging"]
    assert mine["name"]
    assert codes(much) == (500, 1, None)


async def test_a_users_token_reads_no_conversations_and_no_pages_of_others(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    other = await simulator.create_account()
    token = (await simulator.create_user(page.id)).value
    user = GraphCaller(graph.base, token, graph.http, APP_SECRET)

    assert codes(await user.call("GET", f"{page.id}/conversations")) == (400, 190, None)
    assert codes(await user.call("GET", other.id)) == (400, 100, 33)
    unproven = await graph.http.get(f"{graph.base}/v25.0/me", params={"access_token": token})
    assert codes(unproven) == (400, 100, None)


async def test_an_instagram_token_is_refreshed_once_it_is_a_day_old_and_still_good(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")

    async def refresh(token: str) -> httpx.Response:
        return await graph.http.get(
            f"{simulator.instagram}/refresh_access_token",
            params={"grant_type": "ig_refresh_token", "access_token": token},
        )

    await simulator.change_account(
        account.id, issued_at=now() - 3_600_000, expires_at=now() + 3_600_000
    )
    young = await refresh(account.token)
    await simulator.change_account(account.id, issued_at=now() - 2 * DAY * 1000)
    good = await refresh(account.token)
    again = await refresh(good.json()["access_token"])
    new = (await simulator.accounts())[-1].token
    own = GraphCaller(simulator.instagram, new, graph.http, INSTAGRAM_SECRET)
    await simulator.change_account(account.id, issued_at=1, expires_at=2)
    expired = await refresh(new)

    assert codes(young) == codes(again) == (400, 100, None)
    assert good.json()["expires_in"] == 5_183_944
    assert new == good.json()["access_token"] != account.token
    assert codes(expired) == (400, 190, 463)
    assert (await own.call("GET", "me")).status_code == 400


async def test_a_refreshed_token_works_beside_the_old_one(
    simulator: SimulatorClient, graph: GraphCaller
) -> None:
    account = await simulator.create_account("instagram", login="instagram")
    exchanged = await graph.http.get(
        f"{simulator.instagram}/access_token",
        params={
            "grant_type": "ig_exchange_token",
            "client_secret": INSTAGRAM_SECRET,
            "access_token": account.token,
        },
    )

    statuses = [
        (
            await graph.http.get(
                f"{simulator.instagram}/v25.0/me",
                params={"appsecret_proof": proof_of(INSTAGRAM_SECRET, token)},
                headers={"Authorization": f"Bearer {token}"},
            )
        ).status_code
        for token in (account.token, exchanged.json()["access_token"])
    ]

    assert statuses == [200, 200]


async def test_calls_with_a_dead_token_are_counted_as_its_accounts(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.change_account(page.id, token_state="role_lost")

    for _ in range(3):
        await graph.call("GET", "me/conversations")

    totals = (await simulator.truth(page.id)).calls
    assert (totals.calls, totals.wasted, totals.throttled) == (3, 3, 0)


async def test_setup_calls_meet_the_faults_that_name_them_and_no_others(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.faults(Script(fault="http_500"))
    alone = await debug(graph, page.token)
    await simulator.faults(Script(fault="unavailable", endpoint="debug_token"))

    answer = await graph.call("GET", "debug_token", input_token=page.token)

    assert alone["is_valid"]
    assert codes(answer) == (400, 2, None)
