"""Scores of mixtures against arithmetic with two hundred digits."""

from __future__ import annotations

import decimal
from decimal import Decimal

import numpy as np
import pytest
import torch

from models.scores import mix_scores


def exact_score(scores: list[float], weights: list[float]) -> float:
    """logit of Σ a σ(z) / Σ a, by forming the probability, which needs the digits."""
    with decimal.localcontext(decimal.Context(prec=200)):
        a = [Decimal(weight) for weight in weights]
        parts = (weight / (1 + (-Decimal(z)).exp()) for z, weight in zip(scores, a, strict=True))
        p = sum(parts, Decimal(0)) / sum(a)
        return float(p.ln() - (1 - p).ln())


@pytest.mark.parametrize(
    "scores",
    [
        [0.3, -1.2, 2.5],
        [40.0, 41.0, 39.0],  # 1 - p is far below the last digit of a float64
        [-90.0, -80.0, -85.0],  # p is below the smallest float32
        [-60.0, 60.0, 0.0],
        [300.0, -300.0, -299.0],
        [0.0, 0.0, 0.0],
    ],
)
@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [1e-12, 1.0, 1e-30], [5.0, 3.0, 7.0]])
def test_mixture_equals_exact_arithmetic(scores: list[float], weights: list[float]) -> None:
    expected = exact_score(scores, weights)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        z = torch.tensor(scores, dtype=dtype)
        log_a = torch.tensor(np.log(weights), dtype=dtype)
        actual = mix_scores(z, log_a, dim=0)
        assert actual.dtype == dtype
        # Relative to the largest exponent that is added up, which is what rounding is relative to.
        scale = max(map(abs, scores)) + max(map(abs, np.log(weights))) + 1
        assert abs(actual.item() - expected) <= tolerance * scale


def test_one_part_is_itself() -> None:
    z = torch.linspace(-200, 200, 41, dtype=torch.float64)[:, None]
    torch.testing.assert_close(mix_scores(z, torch.zeros(1, dtype=torch.float64), dim=1), z[:, 0], rtol=1e-15, atol=0)


def test_axis_and_broadcasting() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    log_a = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    mixed = mix_scores(z, log_a, dim=1)
    assert mixed.shape == (4, 2)
    weights = log_a[:, 0].exp().tolist()
    for clip in range(4):
        for event in range(2):
            expected = exact_score(z[clip, :, event].tolist(), weights)
            assert mixed[clip, event].item() == pytest.approx(expected, abs=1e-13)


def test_gradients_stay_finite_and_whole_where_a_probability_would_be_saturated() -> None:
    z = torch.tensor([150.0, 150.0, -150.0, -150.0], requires_grad=True)
    log_a = torch.tensor([0.5, 0.5]).log()
    mix_scores(z.view(2, 2), log_a, dim=1).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.full((4,), 0.5), rtol=1e-5, atol=0)


def test_half_precision_and_autocast_come_out_in_float32() -> None:
    z, log_a = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)), torch.zeros(6)
    half = z.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = mix_scores(half, log_a, dim=1)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, mix_scores(half.float(), log_a, dim=1))
