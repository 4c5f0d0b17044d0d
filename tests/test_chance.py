"""Permutation chance: the closed forms for random rankings, and scikit-learn on the same permutations."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from models.chance import permutation_chance
from models.metrics import evaluate


def set_of(clips: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in steps of a half, so that there are ties, that know the targets well."""
    rng = np.random.default_rng(clips)
    targets = rng.random((clips, size)) < 0.3
    targets[0], targets[1] = True, False
    return np.round(2 * (rng.normal(size=(clips, size)) + 3 * targets)).astype(np.float32) / 2, targets


def test_one_positive_among_ten_has_the_ap_of_a_random_place() -> None:
    scores, targets = np.arange(10, dtype=np.float32)[:, None], np.arange(10)[:, None] == 3
    chance = permutation_chance(scores, targets, draws=4000)
    # AP of place k is 1/k, each place as likely: H(10)/10 = 0.2929, standard error 0.0043; prevalence would be 0.1.
    assert chance.mean_ap.mean == pytest.approx(sum(1 / k for k in range(1, 11)) / 10, abs=0.02)
    assert chance.mean_auc.mean == pytest.approx(0.5, abs=0.025)
    assert (chance.mean_ap.low, chance.mean_ap.high) == (0.1, 1.0)
    assert (chance.mean_auc.low, chance.mean_auc.high) == (0.0, 1.0)


def test_equals_sklearn_on_the_same_permutations() -> None:
    scores, targets = set_of(40, 3)
    chance = permutation_chance(scores, targets, draws=30, seed=7)
    generator = np.random.default_rng(7)
    shuffled = [targets[generator.permutation(40)] for _ in range(30)]
    for band, metric in ((chance.mean_ap, average_precision_score), (chance.mean_auc, roc_auc_score)):
        values = [metric(labels, scores, average="macro") for labels in shuffled]
        assert band.mean == pytest.approx(np.mean(values), abs=1e-12)
        assert band.low == pytest.approx(np.percentile(values, 2.5), abs=1e-12)
        assert band.high == pytest.approx(np.percentile(values, 97.5), abs=1e-12)


def test_scores_that_know_lie_above_the_band_and_scores_that_do_not_inside() -> None:
    scores, targets = set_of(80, 4)
    chance, found = permutation_chance(scores, targets), evaluate(scores, targets)
    assert found.mean_ap > chance.mean_ap.high
    assert found.mean_auc > chance.mean_auc.high
    same = evaluate(np.zeros_like(scores), targets)
    flat = permutation_chance(np.zeros_like(scores), targets, draws=5)
    # All scores equal: every permutation gives prevalence and one half.
    assert (flat.mean_ap.low, flat.mean_ap.high) == (same.mean_ap, same.mean_ap)
    assert same.mean_ap == pytest.approx(targets.mean(axis=0).mean(), abs=1e-15)
    assert (flat.mean_auc.low, flat.mean_auc.high) == (0.5, 0.5)


def test_labels_move_as_a_whole() -> None:
    # Two classes with the same positives and the same scores have the same AP in every draw, so the macro band is
    # as wide as that of one class; labels that moved by themselves would narrow it.
    scores, targets = set_of(60, 1)
    alone = permutation_chance(scores, targets)
    both = permutation_chance(np.repeat(scores, 2, axis=1), np.repeat(targets, 2, axis=1))
    assert asdict(both) == asdict(alone)


def test_a_seed_repeats_itself_and_the_result_is_json() -> None:
    scores, targets = set_of(30, 3)
    first, again, other = (permutation_chance(scores, targets, 20, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert json.loads(json.dumps(asdict(first), allow_nan=False))["mean_ap"]["mean"] == first.mean_ap.mean
    assert f"mAP {first.mean_ap.mean:.4f} [" in str(first)


def test_what_has_no_chance_is_refused() -> None:
    scores, targets = set_of(10, 2)
    with pytest.raises(ValueError, match="draws >= 1"):
        permutation_chance(scores, targets, draws=0)
    with pytest.raises(ValueError, match="and 0 positives"):
        permutation_chance(scores, np.zeros_like(targets))
    scores[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        permutation_chance(scores, targets)
