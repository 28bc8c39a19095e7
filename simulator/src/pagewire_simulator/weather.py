"""Weather: trouble that comes in bursts and is not of any call's making, drawn from a seed.

Apart from scripts, which say what meets which call. Burst and calm follow one another from the time
the weather was set; what a call meets in a burst is drawn call by call.
"""

from random import Random

import msgspec

from pagewire_simulator.faults import ALL, Answer, Fault

KINDS = {
    "error": 3.0,
    "unavailable": 3.0,
    "http_500": 1.0,
    "http_503": 1.0,
    "reset": 1.0,
    "lost": 1.0,
    "empty": 1.0,
}


class Weather(msgspec.Struct, kw_only=True, frozen=True):
    """Bursts of ``lasts`` seconds with ``calm`` seconds between them on average.

    ``failing``: the share of calls that fail in a burst, ``noise`` of those between them, by one of
    the faults in ``kinds`` (name to weight). ``slow``: the share of calls that take ``slow_by``
    seconds more, at any time.
    """

    calm: float = 600
    lasts: tuple[float, float] = (60, 180)
    failing: float = 0.5
    noise: float = 0
    kinds: dict[str, float] = msgspec.field(default_factory=KINDS.copy)
    slow: float = 0
    slow_by: tuple[float, float] = (5, 90)

    def __post_init__(self) -> None:
        if unknown := self.kinds.keys() - ALL.keys():
            raise ValueError(f"no fault is called {', '.join(sorted(unknown))}")


class Sky:
    """The weather as it goes on; ``bursts`` are those begun so far, from and to (ms)."""

    def __init__(self, weather: Weather, seed: int, now: int) -> None:
        self._weather = weather
        self._calls = Random(f"{seed}/weather/calls")
        self._times = Random(f"{seed}/weather/times")
        self.bursts: list[tuple[int, int]] = []
        self._next = self._draw(now)

    def strike(self, now: int) -> tuple[str, Fault] | None:
        """The fault that a call meets, with its name."""
        weather = self._weather
        share = weather.failing if self._is_bursting(now) else weather.noise
        if self._calls.random() < share:
            names, weights = list(weather.kinds), list(weather.kinds.values())
            (name,) = self._calls.choices(names, weights)
            return f"weather_{name}", ALL[name]
        if self._calls.random() < weather.slow:
            seconds = self._calls.uniform(*weather.slow_by)
            return "weather_slow", Fault(answer=Answer.NORMAL, created=True, seconds=seconds)
        return None

    def _is_bursting(self, now: int) -> bool:
        while now >= self._next[0]:
            self.bursts.append(self._next)
            self._next = self._draw(self._next[1])
        return bool(self.bursts) and now < self.bursts[-1][1]

    def _draw(self, after: int) -> tuple[int, int]:
        begins = after + int(self._times.expovariate(1 / max(self._weather.calm, 1e-3)) * 1000)
        return begins, begins + int(self._times.uniform(*self._weather.lasts) * 1000)
