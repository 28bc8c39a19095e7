from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pagewire.type.v1.page_pb2 import Page, PageState
from pagewire_sync.failures import Failure, GraphError
from pagewire_sync.page_states import (
    AT_ONCE,
    DAILY,
    DEATHS,
    HOURLY,
    PASSING,
    SOON,
    TABLE,
    Finding,
    ending,
    found,
    inspected,
    nothing_learnt,
    reason_of,
    refused,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
STATES = {
    name: PageState.Value(f"PAGE_STATE_{name.upper()}")
    for name in ("unspecified", "healthy", "expiring", "degraded", "blocked")
}
EXPECTED = {
    "": ("healthy", DAILY),
    "token_expires_soon": ("expiring", DAILY),
    "data_access_expires_soon": ("expiring", DAILY),
    "token_refresh_refused": ("expiring", DAILY),
    "subscription_missing": ("degraded", SOON),
    "terms_not_accepted": ("degraded", HOURLY),
    "restricted": ("degraded", HOURLY),
    "token_invalid": ("blocked", HOURLY),
    "token_expired": ("blocked", HOURLY),
    "password_changed": ("blocked", HOURLY),
    "app_removed": ("blocked", HOURLY),
    "role_lost": ("blocked", HOURLY),
    "account_checkpointed": ("blocked", HOURLY),
    "account_unconfirmed": ("blocked", HOURLY),
    "access_lapsed": ("blocked", HOURLY),
    "permission_missing": ("blocked", HOURLY),
    "app_secret_wrong": ("blocked", HOURLY),
}


def page(state: str = "healthy", reason: str = "") -> Page:
    return Page(page_id="1", state=STATES[state], state_reason=reason)


def error(failure: Failure, code: int = 100, subcode: int = 0) -> GraphError:
    return GraphError(failure, 400, code, subcode)


def said(finding: Finding) -> tuple[str, str, timedelta]:
    word = next(name for name, state in STATES.items() if state == finding.state)
    return word, finding.reason, finding.again


@pytest.mark.parametrize("reason", TABLE)
def test_a_reason_means_its_state(reason: str) -> None:
    state, again = EXPECTED[reason]

    assert said(found(reason)) == (state, reason, again)


@pytest.mark.parametrize("before", STATES)
def test_what_was_seen_last_holds_whatever_the_page_was_before(before: str) -> None:
    finding = refused(page(before, "as_before"), error(Failure.TOKEN, 190, 463))

    assert said(finding) == ("blocked", "token_expired", HOURLY)


@pytest.mark.parametrize(("subcode", "reason"), DEATHS.items())
def test_the_way_in_which_a_token_died_is_told(subcode: int, reason: str) -> None:
    finding = refused(page(), error(Failure.TOKEN, 190, subcode))

    assert said(finding) == ("blocked", reason, HOURLY)


@pytest.mark.parametrize("subcode", [0, 467, 7])
def test_a_token_that_died_otherwise_is_invalid(subcode: int) -> None:
    finding = refused(page(), error(Failure.TOKEN, 190, subcode))

    assert said(finding) == ("blocked", "token_invalid", HOURLY)


@pytest.mark.parametrize(
    ("failure", "finding"),
    [
        (Failure.PERMISSION, ("blocked", "permission_missing", HOURLY)),
        (Failure.SECRET, ("blocked", "app_secret_wrong", HOURLY)),
        (Failure.SUSPENDED, ("degraded", "restricted", HOURLY)),
        (Failure.TERMS, ("degraded", "terms_not_accepted", HOURLY)),
        (Failure.PARAMETER, ("degraded", "graph_100", SOON)),
        (Failure.GONE, ("degraded", "graph_100", SOON)),
    ],
)
def test_what_graph_refuses_has_its_state(
    failure: Failure, finding: tuple[str, str, timedelta]
) -> None:
    assert said(refused(page(), error(failure))) == finding


@pytest.mark.parametrize("failure", Failure)
def test_every_error_leaves_a_page_in_a_state_with_a_reason(failure: Failure) -> None:
    finding = refused(page("degraded", "not_checked"), error(failure))

    assert said(finding)[0] in ("degraded", "blocked")
    assert finding.reason


@pytest.mark.parametrize("failure", sorted(PASSING, key=str))
@pytest.mark.parametrize("before", ["healthy", "expiring", "blocked"])
def test_what_passes_changes_no_page(failure: Failure, before: str) -> None:
    finding = refused(page(before, "as_before"), error(failure, 4))

    assert said(finding) == (before, "as_before", AT_ONCE)


@pytest.mark.parametrize("before", ["unspecified", "degraded"])
def test_a_page_of_which_nothing_is_known_yet_tells_why(before: str) -> None:
    finding = nothing_learnt(page(before, "not_checked"), "graph_unreachable")

    assert said(finding) == ("degraded", "graph_unreachable", AT_ONCE)


def test_a_reason_that_nobody_foresaw_is_degraded() -> None:
    assert said(found(reason_of(error(Failure.PARAMETER, 3_001)))) == (
        "degraded",
        "graph_3001",
        SOON,
    )


@pytest.mark.parametrize("fault", [{"is_valid": False}, {"is_valid": None}, {}, {"error": 7}])
def test_a_token_that_is_not_said_to_be_valid_is_invalid(fault: dict[str, Any]) -> None:
    finding = inspected({"data": fault}, NOW)

    assert finding is not None
    assert said(finding) == ("blocked", "token_invalid", HOURLY)


def test_an_invalid_token_says_how_it_died() -> None:
    finding = inspected({"data": {"is_valid": False, "error": {"subcode": 460}}}, NOW)

    assert finding is not None
    assert finding.reason == "password_changed"


@pytest.mark.parametrize(
    ("ends", "reason", "known"),
    [
        ({}, "", None),
        ({"expires_at": 0, "data_access_expires_at": 0}, "", None),
        ({"expires_at": 8}, "", 8),
        ({"expires_at": 6}, "token_expires_soon", 6),
        ({"data_access_expires_at": 6}, "data_access_expires_soon", 6),
        ({"expires_at": 60, "data_access_expires_at": 6}, "data_access_expires_soon", 6),
        ({"expires_at": 6, "data_access_expires_at": 60}, "token_expires_soon", 6),
        ({"expires_at": 50, "data_access_expires_at": 60}, "", 50),
    ],
)
def test_a_token_ends_soon_within_a_week_and_its_first_end_is_kept(
    ends: dict[str, int], reason: str, known: int | None
) -> None:
    days = {
        name: int((NOW + timedelta(days=day)).timestamp()) if day else 0
        for name, day in ends.items()
    }

    finding = inspected({"data": {"is_valid": True} | days}, NOW)

    assert finding is not None
    assert finding.reason == reason
    assert finding.token_ends == (NOW + timedelta(days=known) if known else None)


@pytest.mark.parametrize("ends", [-1, True, "soon", 2**40, 1.5, None])
def test_an_end_that_is_no_time_is_none(ends: Any) -> None:
    assert inspected({"data": {"is_valid": True, "expires_at": ends}}, NOW) == ending(None, NOW)


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": None}])
def test_an_inspection_that_cannot_be_read_says_nothing(body: dict[str, Any]) -> None:
    assert inspected(body, NOW) is None


def test_every_reason_stands_in_the_guide_with_its_state() -> None:
    guide = Path(__file__).parents[2] / "docs" / "connect-a-page.md"

    rows = [line for line in guide.read_text().splitlines() if line.startswith("| ")]

    for reason, (state, _) in EXPECTED.items():
        if reason:
            assert any(row.startswith(f"| {state} ") and f"`{reason}`" in row for row in rows), (
                reason
            )
