"""Perturbations: the ball is kept, the best is remembered, larger ones take over from smaller ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attacks.masks import Mask
from attacks.norms import dual_norm
from attacks.perturbation import SHAPE, OutOfBall, Perturbation, Spec, measured

SPEC = Spec("projected", "2", "clip", "bce", 1, Mask(), 0.5)


def spec(**changes: Any) -> Spec:
    return replace(SPEC, **changes)


def climb(item: Perturbation, slope: np.ndarray, steps: int, alpha: float) -> None:
    for step in range(steps):
        item.step(slope, alpha, step, steps)


MASKS = [Mask(), Mask((0, 20)), Mask((20, 40), (200, 400))]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_a_linear_score_is_raised_as_far_as_can_be(norm: Any, scope: Any, mask: Mask) -> None:
    """ε‖w‖_q, or ε Σ_t ‖w_t‖_q, at the δ that the norm's dual says; in the mask and nowhere else."""
    slope = np.random.default_rng(0).standard_normal(SHAPE)
    item = Perturbation.start(spec(norm=norm, scope=scope, mask=mask), 1)
    climb(item, slope, 300, 0.05)
    best = 0.5 * dual_norm(np.where(mask.array(), slope, 0.0), norm, scope)
    assert float((slope * item.delta).sum()) == pytest.approx(best, rel=1e-6)
    assert not item.delta[~mask.array()].any()
    masked = np.where(mask.array(), slope, 0.0)
    if norm == "2" and scope == "clip":
        np.testing.assert_allclose(item.delta, 0.5 * masked / np.linalg.norm(masked), atol=1e-9)
    if norm == "inf":
        np.testing.assert_allclose(item.delta, 0.5 * np.sign(masked), atol=1e-12)
    if norm == "1" and scope == "clip":
        place = np.unravel_index(np.abs(masked).argmax(), SHAPE)
        assert abs(item.delta[place]) == pytest.approx(0.5, rel=1e-6)


def test_steps_without_a_gradient_are_counted_and_not_taken() -> None:
    item = Perturbation.start(SPEC, 1)
    item.step(np.zeros(SHAPE), 0.1, 0, 4)
    item.step(np.full(SHAPE, np.nan), 0.1, 1, 4)
    assert not item.delta.any()
    assert (item.units, item.still) == (2, 2)
    frames = Perturbation.start(spec(scope="frame", mask=Mask(time=(0, 200))), 1)
    slope = np.ones(SHAPE)
    slope[:50] = 0
    slope[60, 3] = np.inf
    frames.step(slope, 0.1, 0, 4)
    assert (frames.units, frames.still) == (200, 51)  # frames outside the mask do not count
    assert np.flatnonzero(frames.delta.any(1)).tolist() == [*range(50, 60), *range(61, 200)]


def test_tiny_gradients_make_whole_steps() -> None:
    item = Perturbation.start(SPEC, 1)
    item.step(np.full(SHAPE, 1e-200), 0.01, 0, 4)
    assert measured(item.delta)["l2"] == pytest.approx(0.01, rel=1e-12)


def test_leaving_the_ball_or_the_mask_is_noticed() -> None:
    item = Perturbation.start(spec(mask=Mask((0, 20))), 1)
    item.delta[0, 0] = 0.5 * (1 + 1e-7)
    item.check()
    item.delta[0, 0] = 0.5 * (1 + 1e-5)
    with pytest.raises(OutOfBall, match="eps0.5"):
        item.check()
    item.delta[0, 0] = 0
    item.delta[0, 20] = 1e-9
    with pytest.raises(OutOfBall, match="outside"):
        item.check()


def test_without_a_bound_it_goes_on() -> None:
    item = Perturbation.start(spec(epsilon=math.inf), 1)
    climb(item, np.ones(SHAPE), 100, 1.0)
    assert measured(item.delta)["l2"] == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_further_seeds_start_elsewhere_in_the_ball(norm: Any, scope: Any) -> None:
    first = Perturbation.start(spec(norm=norm, scope=scope), 1)
    assert not first.delta.any()
    other = [Perturbation.start(spec(norm=norm, scope=scope, seed=seed, mask=Mask((0, 20))), 1) for seed in (2, 2, 3)]
    assert other[0].delta.any()
    for item in other:
        item.check()
    np.testing.assert_array_equal(other[0].delta, other[1].delta)
    assert (other[0].delta != other[2].delta).any()


def test_the_best_look_is_kept() -> None:
    item = Perturbation.start(SPEC, 1)
    for step, value in enumerate((0.1, 0.3, 0.2, 0.3)):
        item.delta = np.full(SHAPE, float(step)) * 1e-3
        item.look(value, step)
    assert (item.best_value, item.best_step) == (0.3, 1)
    assert item.best is not None and item.best[0, 0] == 1e-3


def test_the_accumulated_rule_keeps_the_last() -> None:
    item = Perturbation.start(spec(rule="accumulated", scope="frame"), 1)
    item.look(0.3, 0)
    item.accumulate(np.ones(SHAPE), 400, 3)
    item.look(0.2, 1)
    assert (item.best_value, item.best_step, item.units, item.still) == (0.2, 1, 400, 3)
    assert item.best is not None and item.best[0, 0] == 1.0


def test_a_larger_one_is_never_worse_than_a_smaller_one_and_goes_its_own_way() -> None:
    small, large = Perturbation.start(SPEC, 1), Perturbation.start(spec(epsilon=1.0), 1)
    small.delta, large.delta = np.full(SHAPE, 1e-3), np.full(SHAPE, 2e-3)
    small.look(0.4, 3)
    large.look(0.1, 3)
    large.take_over(small)
    assert (large.best_value, large.best_step, large.inherited) == (0.4, 3, small.spec.name)
    assert large.best is not None and large.best is not small.best
    np.testing.assert_array_equal(large.best, small.delta)
    assert large.delta[0, 0] == 2e-3
    large.look(0.5, 4)
    large.take_over(small)  # it does better by itself
    assert (large.best_value, large.inherited) == (0.5, "")
    small.take_over(large)  # the other way round nothing is taken over
    assert small.best_value == 0.4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epsilon": 0.6}, True),
        ({"epsilon": 0.4}, False),
        ({}, False),
        ({"epsilon": math.inf, "norm": "inf"}, False),
        ({"epsilon": 0.6, "scope": "frame"}, False),
        ({"epsilon": 0.6, "seed": 2}, False),
        ({"epsilon": 0.6, "objective": "rank"}, False),
    ],
)
def test_what_is_within_what(changes: dict[str, Any], expected: bool) -> None:
    assert SPEC.within(spec(**changes)) == expected


def test_masks_within_masks() -> None:
    low = spec(mask=Mask((0, 20)))
    assert low.within(SPEC) and not SPEC.within(low)
    assert not low.within(spec(mask=Mask((20, 40))))
    assert not replace(low, rule="accumulated").within(replace(SPEC, rule="accumulated"))


def test_specs_are_plain_data_and_back() -> None:
    for one in (SPEC, spec(epsilon=math.inf, mask=Mask((0, 20), (0, 200)), norm="inf", scope="frame")):
        assert Spec.from_dict(one.to_dict()) == one
        assert set(one.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert SPEC.name == "projected-l2-clip-eps0.5-full-bce-s1"


def test_measured_norms() -> None:
    delta = np.zeros(SHAPE)
    delta[0, :2] = 3.0, -4.0
    found = measured(delta)
    assert (found["l1"], found["l2"], found["linf"]) == (7.0, 5.0, 4.0)
    assert (found["l2_frame_max"], found["l2_frame_mean"]) == (5.0, 5.0 / 400)
