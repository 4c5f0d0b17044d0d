"""Intervals over seeds against scipy's, and what they say of a difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from attacks.intervals import Interval, mean_interval, paired_difference, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.975, 0.995])
def test_quantiles_are_scipys(probability: float, freedom: int) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


@pytest.mark.parametrize(("probability", "freedom"), [(0.5, 3), (1.0, 3), (0.9, 0)])
def test_quantiles_outside_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="degrees"):
        t_quantile(probability, freedom)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_an_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    found = mean_interval(values.tolist())
    assert found is not None and found.n == n
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


def test_one_seed_has_no_interval_and_no_direction() -> None:
    found = mean_interval([0.4])
    assert found == Interval(0.4, None, 1)
    assert (found.low, found.high, found.direction) == (None, None, "open")
    assert mean_interval([]) is None


def test_differences_are_paired_by_seed() -> None:
    first, second = {0: 0.5, 1: 0.9, 7: 0.1}, {1: 0.8, 0: 0.4, 5: 9.0}
    found = paired_difference(first, second)
    assert found is not None and found.n == 2
    assert found.mean == pytest.approx(0.1) and found.half == pytest.approx(0.0, abs=1e-12)
    assert paired_difference(first, {9: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "direction"), [((0.10, 0.11), "higher"), ((-0.10, -0.11), "lower"), ((0.1, -0.1), "open")]
)
def test_a_direction_needs_the_whole_interval(values: tuple[float, float], direction: str) -> None:
    found = mean_interval(values)
    assert found is not None and found.direction == direction
    assert found.half == pytest.approx(math.tan(math.pi * 0.475) * abs(values[0] - values[1]) / 2)
