"""Figures, and the arithmetic behind them; nothing here measures."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Section(StrEnum):
    """The parts of the report, in the order in which they are shown."""

    MACHINE = "This machine"
    FIRST = "The first picture"
    ONE = "One client"
    CLIENTS = "Clients that ask for the next picture when they have one"
    ARRIVALS = "Clients that come when they like"
    MANY = "Eight callers at once"
    IN_TURN = "Called in turn, A B A B"
    RESPONSIVE = "Staying responsive"
    MEMORY = "Memory"
    CEILING = "What the device can do"
    PRICE = "Price"


@dataclass(frozen=True)
class Figure:
    """One row of the report: what was measured, and what came out."""

    section: Section
    name: str
    value: float | str
    unit: str = ""

    def __str__(self) -> str:
        return f"{shown(self.value)} {self.unit}".rstrip()


@dataclass(frozen=True)
class Load:
    """What came of many pictures asked for in one `way`.

    Either a number of `clients`, of whom each asks for the next picture when it has got one, or a
    `rate` of arrivals a second, which is a `share` of what the way can do. `seconds` are from the
    first asking to the last answer, `latencies` (seconds) are in the order of the answers.
    """

    way: str
    seconds: float
    latencies: tuple[float, ...]
    clients: int | None = None
    rate: float | None = None
    share: float | None = None

    @property
    def pictures_a_second(self) -> float:
        """How many pictures came in a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """The latency in seconds that this share of the pictures did not exceed."""
        return percentile(self.latencies, percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie, straight between the nearest two.

    Raises:
        ValueError: There are no values, or `percent` is not between 0 and 100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"no {percent}th percentile of {len(values)} values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def slope(values: Sequence[float]) -> tuple[float, float]:
    """How much the values grow from one to the next, and the standard error of that.

    By least squares over their positions; at least three values.
    """
    count = len(values)
    growth, start = statistics.linear_regression(range(count), values)
    rest = sum((value - start - growth * place) ** 2 for place, value in enumerate(values))
    spread = (count**3 - count) / 12
    return growth, math.sqrt(rest / (count - 2) / spread)


def poisson_arrivals(count: int, rate: float, seed: int = 0) -> list[float]:
    """When `count` callers come who know nothing of each other, `rate` of them a second on average.

    Returns:
        Seconds from the beginning, rising; the same for the same seed.
    """
    chance = random.Random(seed)
    arrivals: list[float] = []
    now = 0.0
    for _ in range(count):
        now += chance.expovariate(rate)
        arrivals.append(now)
    return arrivals


def shown(value: float | str) -> str:
    """A figure for people: three digits, or all of a whole number."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
