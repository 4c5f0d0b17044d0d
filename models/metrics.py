"""Exact mAP, AUC and d′, per class and macro, on one machine and exactly the same over ranks.

For a class with P positive and N negative clips, over the scores s of its positives:

    AP  = 1/P  Σ  (positives ≥ s) / (clips ≥ s)
    AUC = 1/PN Σ  (negatives < s) + ½ (negatives = s)

which is scikit-learn's step-wise AP with ties grouped, and the trapezoid under the ROC curve. Only the positives are
looked up (52,000 of the 10.7 million scores of AudioSet's evaluation), and all that is asked about each is two
integers, clips ≥ s and clips > s. Integers add up over ranks without rounding, so the result is the same bits for any
number of ranks and any shares of the clips, also empty ones, and no clip is ever counted twice to even shares out:

    mine = local_positives(scores, targets)             # every rank, its own clips
    positives = Positives.gather(all_gather(mine))      # `torch.distributed.all_gather_object` will do
    counts = all_reduce_sum(local_counts(scores, positives))
    metrics = finish(positives, counts)                 # equal on every rank

The communication is the caller's; nothing here talks to anybody.

Source: RECIPE.md section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# Classes sorted at once: a cache line of a row of scores holds 16, and the copy stays small beside the scores.
CLASSES_AT_ONCE = 16
METRICS = ("mAP", "AUC", "d_prime")  # the names of the macro numbers in every file and table


@dataclass(frozen=True, eq=False)
class Positives:
    """The scores of positive clips, one entry for each (clip, class) that is true, in any order.

    Attributes:
        classes: int64 [m], the class of each.
        scores: float [m], the score of that clip for that class.
        num_classes: C.
    """

    classes: np.ndarray
    scores: np.ndarray
    num_classes: int

    @classmethod
    def gather(cls, parts: Sequence[Positives]) -> Positives:
        """All ranks' positives as one; every rank must hand over the parts in the same order.

        Raises:
            ValueError: no part, or parts with different numbers of classes.
        """
        sizes = sorted({part.num_classes for part in parts})
        if len(sizes) != 1:
            raise ValueError(f"expected parts with one number of classes, got {sizes}: score all with one class list")
        classes = np.concatenate([part.classes for part in parts])
        return cls(classes, np.concatenate([part.scores for part in parts]), sizes[0])


@dataclass(frozen=True, eq=False)
class Metrics:
    """What a set of scores is worth, by class (float64 [C], NaN where undefined) and macro.

    Attributes:
        clips: how many were scored.
        positives: int64 [C], positive clips by class.
        ap: average precision in [0, 1]; NaN for a class without positives.
        auc: area under the ROC curve in [0, 1]; NaN for a class without positives or without negatives.
        dprime: √2·Φ⁻¹(AUC); ±inf where the AUC is 1 or 0.
    """

    clips: int
    positives: np.ndarray
    ap: np.ndarray
    auc: np.ndarray
    dprime: np.ndarray

    @cached_property
    def mean_ap(self) -> float:
        """mAP: mean over the classes that have a positive; NaN when none has."""
        return _mean(self.ap)

    @cached_property
    def mean_auc(self) -> float:
        """Mean over the classes that have a positive and a negative; NaN when none has."""
        return _mean(self.auc)

    @property
    def dprime_of_mean_auc(self) -> float:
        """d′ as AudioSet's papers print it: of the mean AUC, which is not the mean of the classes' d′."""
        return d_prime(self.mean_auc)

    @property
    def ap_classes(self) -> int:
        """How many classes the mAP is a mean of."""
        return int(np.count_nonzero(~np.isnan(self.ap)))

    @property
    def auc_classes(self) -> int:
        """How many classes the mean AUC is a mean of."""
        return int(np.count_nonzero(~np.isnan(self.auc)))

    def as_dict(self) -> dict[str, Any]:
        """JSON types only; what is not a finite number is None."""
        return {
            "clips": self.clips,
            "classes": len(self.ap),
            "mAP": finite(self.mean_ap),
            "mAP_classes": self.ap_classes,
            "AUC": finite(self.mean_auc),
            "AUC_classes": self.auc_classes,
            "d_prime": finite(self.dprime_of_mean_auc),
            "per_class": {
                "positives": self.positives.tolist(),
                "AP": [finite(value) for value in self.ap.tolist()],
                "AUC": [finite(value) for value in self.auc.tolist()],
                "d_prime": [finite(value) for value in self.dprime.tolist()],
            },
        }

    def __str__(self) -> str:
        """One line, with the number of classes behind each mean."""
        size = len(self.ap)
        return (
            f"mAP {self.mean_ap:.4f} ({self.ap_classes} of {size} classes), AUC {self.mean_auc:.4f} "
            f"({self.auc_classes} of {size}), d′ {self.dprime_of_mean_auc:.3f}, {self.clips} clips"
        )


def evaluate(scores: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> Metrics:
    """Metrics of all clips on one machine.

    Args:
        scores: float [n, C], higher is more likely; logits or probabilities, on the CPU. ±inf are allowed: they are
            what a probability of 0 or 1 becomes as a logit, their order is defined, and equal ones are ties.
        targets: bool [n, C], or numbers that are 0 or 1.

    Raises:
        ValueError: NaN among the scores, other shapes or types, targets that are neither 0 nor 1.
    """
    positives = local_positives(scores, targets)
    return finish(positives, local_counts(scores, positives))


def local_positives(scores: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> Positives:
    """First step over ranks: this rank's positives, to be gathered. Arguments and errors as `evaluate`; n may be 0.

    All checks of scores and targets happen here, before a rank waits for others. The positives come in the order of
    clips, and of classes within a clip.
    """
    scores = _checked_scores(scores)
    rows, classes = np.nonzero(_checked_targets(targets, scores.shape))
    return Positives(classes, scores[rows, classes], scores.shape[1])


def local_counts(scores: np.ndarray | Tensor, positives: Positives) -> np.ndarray:
    """Second step: how many of this rank's clips score at least, and more than, each of ALL ranks' positives.

    Args:
        scores: this rank's, float [n, C].
        positives: of all ranks, in one order everywhere.

    Returns:
        int64 [2, m + 1], to be summed over ranks: row 0 counts scores ≥ that of positive i in its class, row 1 those >.
        The last column stands for a score below all others: the number of clips, n, in both rows.

    Raises:
        ValueError: as `evaluate`, or another number of classes than the positives have.
    """
    scores = _checked_scores(scores)
    size = scores.shape[1]
    if size != positives.num_classes:
        raise ValueError(f"expected scores of {positives.num_classes} classes, as the positives have, got {size}")
    counts = np.full((2, len(positives.classes) + 1), len(scores), np.int64)
    order = np.argsort(positives.classes, kind="stable")
    by_class = np.split(order, np.cumsum(np.bincount(positives.classes, minlength=size))[:-1])
    for first in range(0, size, CLASSES_AT_ONCE):
        # Always a copy: the sort below is in place, and the scores are the caller's.
        ascending = np.array(scores[:, first : first + CLASSES_AT_ONCE].T, order="C")
        ascending.sort(axis=1)
        for one_class, places in zip(ascending, by_class[first:], strict=False):
            thresholds = positives.scores[places]
            counts[0, places] -= np.searchsorted(one_class, thresholds, side="left")
            counts[1, places] -= np.searchsorted(one_class, thresholds, side="right")
    return counts


def finish(positives: Positives, counts: np.ndarray) -> Metrics:
    """Last step: the metrics, from all ranks' positives and the sum of all ranks' counts.

    Args:
        positives: of all ranks; only their classes matter here, the counts say the rest.
        counts: int64 [2, m + 1], see `local_counts`.

    Raises:
        ValueError: counts of other positives.
    """
    size, classes = positives.num_classes, positives.classes
    if counts.shape != (2, len(classes) + 1):
        raise ValueError(f"expected counts [2, {len(classes) + 1}] for these positives, got {list(counts.shape)}")
    clips = int(counts[0, -1])
    # The more clips score at least as high, the lower the score: this key orders by class, then from the highest score
    # down, with ties equal.
    key = classes * (clips + 1) + counts[0, :-1]
    order = np.argsort(key, kind="stable")
    key, classes, (at_least, above) = key[order], classes[order], counts[:, :-1][:, order]
    total = np.bincount(classes, minlength=size)
    ends = np.cumsum(total)
    before = (ends - total)[classes]
    hits = np.searchsorted(key, key, side="right") - before
    hits_above = np.searchsorted(key, key, side="left") - before
    # fsum rounds once. Adding one by one was 8e-14 off for 5,000 positives with ties: equal terms round the same way.
    precision = (hits / at_least).tolist()
    precisions = [math.fsum(precision[end - count : end]) for end, count in zip(ends, total, strict=True)]
    # Twice (negatives < s) + ½ (negatives = s), so that it is an integer: float64 sums it exactly up to 2^53.
    won_twice = 2 * (clips - total)[classes] - (at_least - hits) - (above - hits_above)
    with np.errstate(invalid="ignore"):
        ap = np.array(precisions, np.float64) / total
        auc = np.bincount(classes, won_twice, minlength=size) / (2 * total * (clips - total))
    return Metrics(clips, total, ap, auc, np.array([d_prime(value) for value in auc.tolist()], np.float64))


def d_prime(auc: float) -> float:
    """√2·Φ⁻¹(AUC): the distance between two unit normal distributions that are told apart with this AUC.

    Args:
        auc: 0 to 1, or NaN, which gives NaN; 0 and 1 give -inf and inf.

    Raises:
        ValueError: below 0 or above 1.
    """
    if math.isnan(auc):
        return math.nan
    if auc in (0, 1):
        return math.inf if auc else -math.inf
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


def _checked_scores(scores: np.ndarray | Tensor) -> np.ndarray:
    """float32 or float64 [n, C] without NaN."""
    array = _as_array("scores", scores)
    if array.ndim != 2 or array.dtype.kind != "f":
        # Whole numbers are refused because they are what comes when scores and targets are swapped.
        raise ValueError(f"scores: float [clips, classes] expected, got {array.dtype} {list(array.shape)}")
    # The maximum is NaN where any number is; a mask of all of them is only made to say which.
    if array.size and np.isnan(array.max()):
        bad = np.argwhere(np.isnan(array))
        row, column = bad[0]
        raise ValueError(
            f"scores: no NaN expected, got {len(bad)} of {array.size}, the first in row {row}, class {column}; "
            "they have no rank: the model or its input is broken"
        )
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _checked_targets(targets: np.ndarray | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """bool [n, C]."""
    array = _as_array("targets", targets)
    if array.shape != shape:
        raise ValueError(f"targets: shape {list(shape)} expected, as the scores have, got {list(array.shape)}")
    if array.dtype == np.bool_:
        return array
    positive = array == 1
    if not np.all(positive | (array == 0)):
        raise ValueError(
            "targets: only 0 and 1 expected; soft labels, as mixup makes them, have no AP: pass the hard ones"
        )
    return positive


def _as_array(name: str, values: np.ndarray | Tensor) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, RuntimeError) as error:
        # What Torch says of tensors that lie on a GPU, are bfloat16 or want a gradient.
        raise ValueError(f"{name}: numpy cannot take them ({error}); pass .detach().float().cpu()") from error


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def finite(value: float) -> float | None:
    """A number as JSON has them: None for one that is not finite."""
    return value if math.isfinite(value) else None
