from datetime import datetime, timedelta
from math import inf

import pytest

from pagewire_runtime import metrics
from pagewire_store import wellness
from pagewire_store.database import Pools, in_transaction
from tests.support.servers import database_url, migrated_template, postgres_server
from tests.support.stored import Rows, pools, rows

__all__ = ["database_url", "migrated_template", "pools", "postgres_server", "rows"]


def unwell() -> dict[tuple[str, str], float]:
    return {
        (sample.labels["state"], sample.labels["reason"]): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "pagewire_pages_unwell"
    }


def ends(state: str) -> float | None:
    name = "pagewire_page_token_expires_seconds"
    return metrics.registry.get_sample_value(name, {"state": state})


async def hence(rows: Rows, **time: float) -> datetime:
    """By the database's clock."""
    now: datetime = (await rows.one("select now() as now")).now
    return now + timedelta(**time)


async def test_pages_are_counted_by_why_they_are_not_healthy(rows: Rows, pools: Pools) -> None:
    await rows.add_page("1")
    await rows.add_page("2", state="blocked", state_reason="password_changed")
    await rows.add_page("3", state="blocked", state_reason="password_changed")
    await rows.add_page("4", state="degraded", state_reason="subscription_missing")
    await rows.add_page("5", state="blocked", state_reason="role_lost", connected=False)

    await in_transaction(pools.upkeep, wellness.show)

    assert unwell() == {("blocked", "password_changed"): 2, ("degraded", "subscription_missing"): 1}


async def test_graph_s_codes_make_no_series_of_their_own(rows: Rows, pools: Pools) -> None:
    for number in range(1, 10):
        reason = f"graph_{number}_46{number}" if number < 9 else "graph_unreachable"
        await rows.add_page(f"{number}", state="blocked", state_reason=reason)

    await in_transaction(pools.upkeep, wellness.show)

    assert unwell() == {("blocked", "graph"): 8, ("blocked", "graph_unreachable"): 1}


async def test_a_reason_that_is_mended_is_not_shown_any_more(rows: Rows, pools: Pools) -> None:
    await rows.add_page("1", state="blocked", state_reason="role_lost")
    await in_transaction(pools.upkeep, wellness.show)
    await rows.query("update page set state = 'healthy', state_reason = ''")

    await in_transaction(pools.upkeep, wellness.show)

    assert unwell() == {}


async def test_the_first_token_to_end_is_shown_by_state(rows: Rows, pools: Pools) -> None:
    await rows.add_page("1", token_expires_at=await hence(rows, days=60))
    await rows.add_page("2", token_expires_at=await hence(rows, days=30))
    await rows.add_page("3")
    await rows.add_page("4", state="expiring", token_expires_at=await hence(rows, days=3))
    await rows.add_page("5", state="blocked", token_expires_at=await hence(rows, days=-1))

    await in_transaction(pools.upkeep, wellness.show)

    assert ends("healthy") == pytest.approx(30 * 86_400, rel=0.01)
    assert ends("expiring") == pytest.approx(3 * 86_400, rel=0.01)
    assert ends("blocked") == pytest.approx(-86_400, rel=0.01)
    assert ends("degraded") == inf
