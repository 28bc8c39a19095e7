import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_runtime.metrics import registry
from pagewire_sync.usage import Share, Usage, read_usage


def business(**accounts: list[dict[str, Any]]) -> dict[str, str]:
    return {"x-business-use-case-usage": json.dumps(accounts)}


def test_no_header_means_about_nothing() -> None:
    assert read_usage({}) == Usage(app=0, shares={})


def test_the_highest_of_the_three_figures_counts() -> None:
    header = {"x-app-usage": '{"call_count":28,"total_time":91,"total_cputime":25}'}

    assert read_usage(header).app == 91


def test_the_time_to_regain_comes_in_minutes() -> None:
    entry = {"type": "messenger", "call_count": 97, "estimated_time_to_regain_access": 19}

    usage = read_usage(business(p1=[entry]))

    assert usage.shares == {"messenger": Share(97, 19 * 60)}


def test_what_meta_counts_apart_is_told_apart() -> None:
    messenger = {"type": "messenger", "call_count": 12}
    pages = {"type": "pages", "total_time": 97, "estimated_time_to_regain_access": 5}

    usage = read_usage(business(p1=[messenger, pages]))

    assert usage.shares == {"messenger": Share(12, 0), "pages": Share(97, 300)}


def test_of_two_figures_of_one_sort_the_higher_counts() -> None:
    often = {"type": "pages", "call_count": 60, "estimated_time_to_regain_access": 2}
    seldom = {"type": "pages", "call_count": 10, "estimated_time_to_regain_access": 3}

    assert read_usage(business(p1=[often], p2=[seldom])).shares == {"pages": Share(60, 180)}


@pytest.mark.parametrize("kind", [None, 7, ["pages"], {}])
def test_figures_that_do_not_say_of_what_are_told_without_a_word(kind: object) -> None:
    assert read_usage(business(p1=[{"type": kind, "call_count": 80}])).shares == {"": Share(80)}


def test_an_account_is_not_told_of_by_the_figures_of_another() -> None:
    headers = business(p1=[{"call_count": 3}], p2=[{"call_count": 99}])

    assert read_usage(headers, {"p1"}).shares == {"": Share(3)}


def test_figures_that_name_nobody_known_count_all_the_same() -> None:
    usage = read_usage(business(business=[{"call_count": 80}]), {"p1"})

    assert usage.shares == {"": Share(80)}


def test_the_older_header_of_pages_is_of_pages() -> None:
    assert read_usage({"x-page-usage": '{"call_count":85}'}).shares == {"pages": Share(85)}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"call_count":"many"}', '{"call_count":-4}', "[" * 5000, "\xff"]
)
def test_what_cannot_be_read_counts_as_nothing(text: str) -> None:
    headers = {"x-app-usage": text, "x-business-use-case-usage": text}

    assert read_usage(headers) == Usage(app=0, shares={})


@pytest.mark.parametrize(("text", "count"), [("{", 1), ("[]", 1), ("[" * 5000, 1), ("{}", 0)])
def test_a_header_that_cannot_be_read_is_counted(text: str, count: int) -> None:
    name = "pagewire_graph_usage_unreadable_total"
    before = registry.get_sample_value(name) or 0

    read_usage({"x-app-usage": text})

    assert registry.get_sample_value(name) == before + count


@given(st.floats(allow_nan=False) | st.integers())
def test_no_figure_is_believed_beyond_a_day(figure: float) -> None:
    text = json.dumps(figure).replace("Infinity", "1e999")
    entry = f'{{"p":[{{"call_count":{text},"estimated_time_to_regain_access":{text}}}]}}'

    usage = read_usage({"x-business-use-case-usage": entry})

    for share in usage.shares.values():
        assert 0 <= share.percent <= 1440
        assert 0 <= share.regain_seconds <= 24 * 3600


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("3601", 3600),
        ("9" * 5_000, 3600),
        ("-5", 0),
        ("1.5", 0),
        ("²", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("", 0),
    ],
)
def test_a_retry_after_is_a_number_of_seconds_up_to_an_hour_or_nothing(
    header: str, seconds: float
) -> None:
    assert read_usage({"retry-after": header}).retry_after == seconds
