"""Trouble in bursts, and answers that were rendered before."""

from itertools import pairwise

import pytest

from pagewire_simulator.client import AccountView, SimulatorClient
from pagewire_simulator.faults import FAULTS
from pagewire_simulator.weather import Sky, Weather
from tests.support.simulator import GraphCaller

NOW = 1_767_312_000_000
STEP = 250


def struck(weather: Weather, seed: int, seconds: int = 3600) -> list[tuple[int, str]]:
    """When calls every quarter of a second were struck, and by what."""
    sky = Sky(weather, seed, NOW)
    times = range(NOW, NOW + seconds * 1000, STEP)
    return [(at, met[0]) for at in times if (met := sky.strike(at))]


def test_trouble_comes_in_bursts_and_follows_the_seed() -> None:
    weather = Weather(calm=300, lasts=(30, 60), failing=0.5)

    met = struck(weather, 1)

    gaps = [later - at for (at, _), (later, _) in pairwise(met)]
    calms = [gap for gap in gaps if gap > 20_000]
    assert met == struck(weather, 1) != struck(weather, 2)
    assert 2 <= len(calms) <= 30
    assert sum(gap < 5_000 for gap in gaps) > 0.9 * len(gaps)
    assert {name.removeprefix("weather_") for _, name in met} <= FAULTS.keys()


def test_there_may_be_noise_between_bursts_and_slow_answers() -> None:
    weather = Weather(calm=1e9, noise=0.1, slow=0.1, slow_by=(2, 3))

    met = [name for _, name in struck(weather, 1)]
    sky = Sky(Weather(calm=1e9, slow=1, slow_by=(2, 3)), 1, NOW)
    name, fault = sky.strike(NOW) or ("", None)

    assert 800 < len([name for name in met if name != "weather_slow"]) < 2000
    assert 800 < met.count("weather_slow") < 2000
    assert sky.bursts == []
    assert fault
    assert name == "weather_slow"
    assert 2 <= fault.seconds <= 3


def test_weather_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Weather(kinds={"nonsense": 1})


async def test_weather_strikes_calls_until_it_is_ended(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    storm = Weather(calm=0, lasts=(3600, 3600), failing=1, kinds={"unavailable": 1})
    await simulator.weather(storm)
    await graph.call("GET", "me")  # the burst begins with the first millisecond

    during = await graph.call("GET", "me")
    await simulator.weather(None)
    after = await graph.call("GET", "me")

    assert during.json()["error"]["code"] == 2
    assert during.json()["error"]["is_transient"] is True
    assert (await simulator.calls())[1].fault == "weather_unavailable"
    assert after.status_code == 200


async def test_a_rendered_answer_is_given_again_until_the_account_changes(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    done = await simulator.say(page.id, None, attachments=[{"type": "image", "payload": {}}])
    fields = "messages{message,attachments}"
    await simulator.options(
        rendered=True, rates={"conversation_reads": 0.001, "conversation_burst": 2}
    )

    first = [await graph.call("GET", "me/conversations", fields=fields) for _ in range(4)]
    other = await graph.call("GET", "me/conversations", fields="id")
    await simulator.options(rates={"conversation_reads": 0})
    await simulator.say(page.id, "more", person=done.person)
    fresh = await graph.call("GET", "me/conversations", fields=fields)

    assert {answer.content for answer in first} == {first[0].content}
    assert other.json()["data"][0].keys() == {"id"}
    assert len(fresh.json()["data"][0]["messages"]["data"]) == 2
    totals = (await simulator.truth(page.id)).calls
    assert (totals.calls, totals.rendered) == (6, 3)


async def test_operations_of_a_batch_are_rendered_too(
    simulator: SimulatorClient, page: AccountView, graph: GraphCaller
) -> None:
    await simulator.create_history(page.id, conversations=3, messages=1)
    await simulator.options(rendered=True)
    operation = {"method": "GET", "relative_url": "me/conversations?limit=2"}

    first, second = (await graph.batch(operation)).json(), (await graph.batch(operation)).json()

    assert first == second
    assert "_fb_batch_sig" in first[0]["body"]
    assert (await simulator.truth(page.id)).calls.rendered == 1
