"""Objectives against loops over pairs and scikit-learn's log loss, their gradients, and however a batch is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from attacks import objectives
from attacks.objectives import element_sum, rank_loss, score_gradient

CLIPS, CLASSES = 9, 4


def drawn(clips: int = CLIPS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(clips, CLASSES, generator=generator, dtype=torch.float64)
    return scores, (torch.rand(clips, CLASSES, generator=generator) < 0.3).double()


def pairs_loss(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """The definition, pair by pair."""
    terms = [
        math.log1p(math.exp(float(scores[n, c] - scores[p, c])))
        for c in range(scores.shape[1])
        for p in range(len(scores))
        for n in range(len(scores))
        if targets[p, c] == 1 and targets[n, c] == 0
    ]
    return sum(terms) / len(terms) if terms else 0.0


def test_bce_is_the_mean_log_loss() -> None:
    scores, targets = drawn()
    expected = log_loss(targets.numpy().ravel(), torch.sigmoid(scores).numpy().ravel())
    assert float(element_sum("bce", scores, targets, 3.0)) / CLIPS == pytest.approx(expected, rel=1e-12)


def test_bounded_leaves_lost_elements_alone() -> None:
    scores, targets = drawn()
    bound = 1.0
    elements = np.log1p(np.exp(np.where(targets.numpy() == 1, -scores.numpy(), scores.numpy())))
    assert (elements > bound).any() and (elements < bound).any()
    expected = np.minimum(elements, bound).mean() * CLIPS
    assert float(element_sum("bounded", scores, targets, bound)) == pytest.approx(expected, rel=1e-12)
    leaf = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(element_sum("bounded", leaf, targets, bound), leaf)
    np.testing.assert_array_equal((gradient == 0).numpy(), elements > bound)


def test_sums_do_not_depend_on_how_a_batch_is_cut() -> None:
    scores, targets = drawn()
    for objective in ("bce", "bounded"):
        whole = float(element_sum(objective, scores, targets, 1.0))
        parts = [float(element_sum(objective, scores[i : i + 2], targets[i : i + 2], 1.0)) for i in range(0, CLIPS, 2)]
        assert math.fsum(parts) == pytest.approx(whole, rel=1e-14)


def test_rank_is_no_sum_over_clips() -> None:
    scores, targets = drawn()
    with pytest.raises(ValueError, match="pairs"):
        element_sum("rank", scores, targets, 1.0)


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_rank_loss_is_the_mean_over_pairs(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "PAIRS_AT_ONCE", at_once)
    for seed in range(3):
        scores, targets = drawn(seed=seed)
        assert float(rank_loss(scores, targets)) == pytest.approx(pairs_loss(scores, targets), rel=1e-12)


def test_rank_does_not_see_a_shift_of_a_class() -> None:
    scores, targets = drawn()
    shifted = scores + torch.tensor([3.0, -2.0, 0.0, 11.0])
    assert float(rank_loss(shifted, targets)) == pytest.approx(float(rank_loss(scores, targets)), rel=1e-12)
    assert float(element_sum("bce", shifted, targets, 1.0)) > 1.5 * float(element_sum("bce", scores, targets, 1.0))
    assert score_gradient(scores, targets).sum(0).abs().max() < 1e-15


def test_score_gradient_against_differences() -> None:
    scores, targets = drawn(5)
    found = score_gradient(scores, targets)
    for row in range(5):
        for column in range(CLASSES):
            step = torch.zeros_like(scores)
            step[row, column] = 1e-5
            expected = (pairs_loss(scores + step, targets) - pairs_loss(scores - step, targets)) / 2e-5
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_a_pair_there_is_nothing_to_gain(value: float) -> None:
    scores, _ = drawn()
    targets = torch.full_like(scores, value)
    assert float(rank_loss(scores, targets)) == 0
    assert score_gradient(scores, targets).abs().max() == 0
