"""What scores are worth that know nothing of the labels: mAP and AUC after the clips' labels are shuffled.

Prevalence is the mAP of a random ranking only in the limit of many clips: with one positive among ten it is 0.29, not
0.1. A small set therefore needs a shuffle for its own chance, and a band, before anything can be said to beat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.metrics import Positives, finish, local_counts, local_positives

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Band:
    """Mean of a metric over the draws, and the 2.5th and 97.5th percentiles: 95 % of the draws lie between them."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Chance:
    """Permutation chance: macro AP and macro AUC of the given scores for shuffled labels. `asdict` of it is JSON.

    `mean_auc` is NaN throughout where no class has a negative.
    """

    draws: int
    mean_ap: Band
    mean_auc: Band

    def __str__(self) -> str:
        return f"chance: mAP {self.mean_ap}, AUC {self.mean_auc}, {self.draws} permutations"


def permutation_chance(
    scores: np.ndarray | Tensor, targets: np.ndarray | Tensor, draws: int = 200, seed: int = 0
) -> Chance:
    """Mean and 95 % band of mAP and AUC when clips exchange their label sets.

    A clip's labels move together, so every class keeps its number of positives and labels that come in company keep
    it. Row i of draw k has the labels of row π[i], where π is permutation k of `numpy.random.default_rng(seed)`.

    Args:
        scores, targets: as `models.metrics.evaluate` takes them. Memory: about 50 bytes for each of the n × C scores.
        draws: number of permutations.
        seed: of the permutations.

    Raises:
        ValueError: as `evaluate`; no positive at all; fewer than one draw.

    Source: RECIPE.md section 5, controls.
    """
    positives = local_positives(scores, targets)
    if draws < 1 or len(positives.classes) == 0:
        raise ValueError(f"expected draws >= 1 and a positive, got {draws} and {len(positives.classes)} positives")
    counts = _counts_of_every_score(np.asarray(scores))
    rows = np.nonzero(np.asarray(targets))[0]
    clips = counts.shape[1]
    generator = np.random.default_rng(seed)
    found = np.empty((2, draws))
    drawn = np.full((2, len(rows) + 1), clips, np.int64)
    for draw in range(draws):
        # Labels of row π[i] go to row i, so those of row r go to where π holds r.
        moved = np.argsort(generator.permutation(clips))[rows]
        drawn[:, :-1] = counts[:, moved, positives.classes]
        metrics = finish(positives, drawn)
        found[:, draw] = metrics.mean_ap, metrics.mean_auc
    return Chance(draws, _band(found[0]), _band(found[1]))


def _counts_of_every_score(scores: np.ndarray) -> np.ndarray:
    """int64 [2, n, C]: how many clips score ≥ and > each score in its class; shuffled labels pick others of these."""
    clips, size = scores.shape
    everything = Positives(np.tile(np.arange(size), clips), scores.ravel(), size)
    return local_counts(scores, everything)[:, :-1].reshape(2, clips, size)


def _band(values: np.ndarray) -> Band:
    low, high = np.quantile(values, (0.025, 0.975))
    return Band(float(values.mean()), float(low), float(high))
