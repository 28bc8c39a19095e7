import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_sync.budget import MESSAGING, RATES, Budget, Product, Rate
from pagewire_sync.usage import Share, Usage

PER_SECOND = {
    Product.SEND: 300,
    Product.SEND_INSTAGRAM: 100,
    Product.SEND_MEDIA: 10,
    Product.CONVERSATIONS: 2,
}

CONVERSATIONS = Product.CONVERSATIONS

products = st.sampled_from(list(Product))
gaps = st.lists(st.floats(0, 3), min_size=1, max_size=80)


def messenger(percent: int, regain_seconds: float = 0.0) -> Usage:
    return Usage(shares={"messenger": Share(percent, regain_seconds)})


def call_times(budget: Budget, page: str, product: Product, asked: list[float]) -> list[float]:
    """When calls go out that are asked for at these times."""
    times = []
    for now in asked:
        wait = budget.wait(page, product, now)
        budget.spend(page, product, now)
        times.append(now + wait)
    return times


def cumulated(gaps: list[float]) -> list[float]:
    at, times = 1000.0, []
    for gap in gaps:
        at += gap
        times.append(at)
    return times


@given(products, gaps)
def test_in_no_stretch_of_time_is_there_more_than_rate_and_burst(
    product: Product, gaps: list[float]
) -> None:
    rate = RATES[product]

    times = call_times(Budget(), "p", product, cumulated(gaps))

    assert times == sorted(times)
    for first, begun in enumerate(times):
        for last in range(first, len(times)):
            allowed = rate.burst + rate.per_second * (times[last] - begun)
            assert last - first + 1 <= allowed + 1e-6


@pytest.mark.parametrize("product", PER_SECOND)
def test_no_second_holds_more_than_meta_allows(product: Product) -> None:
    limit = PER_SECOND[product]

    times = call_times(Budget(), "p", product, [1000.0] * (3 * limit))

    for begun in times:
        assert sum(begun <= at < begun + 1 for at in times) <= limit


def test_no_hour_holds_more_private_replies_than_meta_allows() -> None:
    times = call_times(Budget(), "p", Product.PRIVATE_REPLY, [1000.0] * 1500)

    assert max(sum(begun <= at < begun + 3600 for at in times) for begun in times[::50]) <= 750


@given(products, products, st.floats(0, 1e6))
def test_a_page_that_is_stopped_stops_no_other(
    stopped: Product, other: Product, seconds: float
) -> None:
    budget = Budget()

    budget.stop("p1", 1000.0, seconds)

    assert budget.wait("p1", stopped, 1000.0) == pytest.approx(seconds)
    assert budget.wait("p2", other, 1000.0) == 0


def test_only_a_stop_of_the_app_stops_all() -> None:
    budget = Budget()

    budget.stop_app(1000.0, 30)

    assert budget.wait("p1", Product.SEND, 1010.0) == pytest.approx(20)
    assert budget.stopped("p2", CONVERSATIONS, 1010.0) == pytest.approx(20)
    assert budget.app_stopped(1010.0) == pytest.approx(20)
    assert budget.wait("p1", Product.SEND, 1030.0) == budget.app_stopped(1030.0) == 0


@given(products, products)
def test_a_product_that_is_stopped_stops_no_other(stopped: Product, other: Product) -> None:
    budget = Budget()

    budget.stop("p", 1000.0, 30, {stopped})

    assert budget.wait("p", other, 1000.0) == (30 if other is stopped else 0)
    assert budget.app_stopped(1000.0) == 0


def test_the_longer_of_a_product_s_stop_and_its_page_s_counts() -> None:
    budget = Budget()

    budget.stop("p", 1000.0, 60, {CONVERSATIONS})
    budget.stop("p", 1000.0, 30)

    assert budget.stopped("p", CONVERSATIONS, 1000.0) == pytest.approx(60)
    assert budget.stopped("p", Product.SEND, 1000.0) == pytest.approx(30)


def test_a_shorter_stop_shortens_no_longer_one() -> None:
    budget = Budget()

    budget.stop("p", 1000.0, 60)
    budget.stop("p", 1001.0, 5)

    assert budget.stopped("p", Product.SEND, 1010.0) == pytest.approx(50)


def test_products_are_counted_apart() -> None:
    budget = Budget()

    call_times(budget, "p", Product.CONVERSATIONS, [1000.0] * 5)

    assert budget.wait("p", Product.CONVERSATIONS, 1000.0) == pytest.approx(2.5)
    assert budget.wait("p", Product.SEND, 1000.0) == 0


def test_asking_spends_nothing() -> None:
    budget = Budget()

    waits = [budget.wait("p", Product.CONVERSATIONS, 1000.0) for _ in range(10)]

    assert waits == [0.0] * 10


@pytest.mark.parametrize("usage", [messenger(80), Usage(app=80)])
def test_from_three_quarters_on_calls_keep_four_times_the_distance(usage: Usage) -> None:
    budget = Budget()
    budget.observe("p", CONVERSATIONS, usage, 1000.0)

    times = call_times(budget, "p", CONVERSATIONS, [1000.0] * 3)

    assert times == pytest.approx([1000.0, 1002.0, 1004.0])


@given(products, st.integers(0, 100))
def test_to_become_slow_frees_nothing(product: Product, spent: int) -> None:
    budget = Budget()
    call_times(budget, "p", product, [1000.0] * spent)
    before = budget.wait("p", product, 1000.0)

    budget.observe("p", product, Usage(shares={"": Share(80)}), 1000.0)

    assert budget.wait("p", product, 1000.0) >= before


def test_low_usage_makes_a_page_as_fast_as_before() -> None:
    budget = Budget()
    budget.observe("p", CONVERSATIONS, messenger(80), 1000.0)

    budget.observe("p", CONVERSATIONS, Usage(), 1001.0)

    times = call_times(budget, "p", CONVERSATIONS, [1002.0] * 2)
    assert times == pytest.approx([1002.0, 1002.5])


@pytest.mark.parametrize("usage", [messenger(80), Usage(app=80)])
def test_an_error_without_figures_makes_no_page_faster(usage: Usage) -> None:
    budget = Budget()
    budget.observe("p", CONVERSATIONS, usage, 1000.0)

    budget.observe("p", CONVERSATIONS, Usage(), 1001.0, is_success=False)

    assert budget.left_percent("p") == 20
    assert call_times(budget, "p", CONVERSATIONS, [1002.0] * 2)[1] == pytest.approx(1004.0)


def test_an_error_with_figures_is_believed() -> None:
    budget = Budget()

    budget.observe("p", CONVERSATIONS, messenger(80), 1000.0, is_success=False)

    assert budget.left_percent("p") == 20


def test_at_the_limit_a_page_stops_until_meta_lets_it_in_again() -> None:
    budget = Budget()

    budget.observe("p1", Product.SEND, messenger(97, 120), 1000.0)

    assert budget.wait("p1", Product.SEND, 1000.0) == pytest.approx(120)
    assert budget.wait("p2", Product.SEND, 1000.0) == 0


@pytest.mark.parametrize(
    ("word", "stopped"),
    [
        ("messenger", MESSAGING),
        ("pages", {Product.PAGE}),
        ("instagram", {Product.PAGE, CONVERSATIONS}),
        ("ads_management", {CONVERSATIONS}),
        ("", {CONVERSATIONS}),
    ],
)
def test_at_a_limit_what_counts_against_it_stops_and_nothing_else(
    word: str, stopped: set[Product]
) -> None:
    budget = Budget()

    budget.observe("p", CONVERSATIONS, Usage(shares={word: Share(97, 120)}), 1000.0)

    assert {each for each in Product if budget.stopped("p", each, 1000.0)} == stopped


def test_what_is_near_its_limit_slows_nothing_that_is_counted_apart() -> None:
    budget = Budget()

    budget.observe("p", CONVERSATIONS, Usage(shares={"pages": Share(80)}), 1000.0)

    assert call_times(budget, "p", CONVERSATIONS, [1000.0] * 2)[1] == pytest.approx(1000.5)
    assert call_times(budget, "p", Product.PAGE, [1000.0] * 21)[-1] > 1000.1


def test_where_the_app_nears_its_limit_who_learnt_it_stops_for_a_minute() -> None:
    budget = Budget()

    budget.observe("p1", Product.PAGE, Usage(app=99), 1000.0)

    assert budget.wait("p1", Product.PAGE, 1000.0) == pytest.approx(60)
    assert budget.wait("p1", Product.SEND, 1000.0) == 0
    assert budget.wait("p2", Product.PAGE, 1000.0) == 0


def test_what_is_left_is_what_graph_last_said() -> None:
    budget = Budget()
    budget.observe("p1", CONVERSATIONS, Usage(app=10, shares={"messenger": Share(80)}), 1000.0)
    budget.observe("p2", Product.SEND, messenger(130), 1000.0)

    assert [budget.left_percent(page) for page in ("p1", "p2", "p3")] == [20, 0, 100]


def test_other_rates_than_metas_are_kept_to() -> None:
    budget = Budget({**RATES, Product.CONVERSATIONS: Rate(10, 1)})

    times = call_times(budget, "p", Product.CONVERSATIONS, [1000.0] * 3)

    assert times == pytest.approx([1000.0, 1000.1, 1000.2])
