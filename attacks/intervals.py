"""Means over model seeds with the interval in which the true mean lies with 95 %, and paired comparisons by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

LEVEL = 0.95
Direction = Literal["higher", "lower", "open"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half: half the width of the 95 % t-interval; None for one value, about whose spread nothing is known.
        n: how many values.
    """

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half is None else self.mean + self.half

    @property
    def direction(self) -> Direction:
        """Of a difference: above 0 or below 0 with its whole interval, else open, as it always is with one seed."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "open"
        return "higher" if self.low > 0 else "lower"


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Mean and t-interval of values that are independent draws, one for each seed; None for no value."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Interval(mean, t_quantile((1 + LEVEL) / 2, n - 1) * math.sqrt(variance / n), n)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Of first minus second over the seeds that both have; None where they share none."""
    return mean_interval([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The value below which Student's t with so many degrees of freedom falls with that probability.

    Found by bisection on the distribution's closed form for whole degrees of freedom.

    Args:
        probability: above 0.5, below 1.
        freedom: at least 1.

    Raises:
        ValueError: outside of that.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if not 0.5 < probability < 1 or freedom < 1:
        raise ValueError(
            f"expected a probability of 0.5 to 1 and at least 1 degrees of freedom, got {probability}, {freedom}"
        )
    low, high = 0.0, 1.0
    while _below(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
    return high


def _below(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (1.0, 1.0) if freedom % 2 == 0 else (cosine, cosine if freedom > 1 else 0.0)
    for k in range(1 + freedom % 2, freedom - 2, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    within = sine * total if freedom % 2 == 0 else 2 / math.pi * (angle + sine * total)
    return 0.5 + within / 2
