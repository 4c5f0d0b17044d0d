"""What an attack makes as large as it can: losses of scores against the truth.

`bce` is the paper's. `rank` is about the order of clips within a class, which is all that AP and AUC see: a shift of a
class's scores that is the same for every clip raises `bce` and changes no metric. `bounded` is `bce` with every
element's share limited, so that clips which are lost already are left alone.

All are computed in float64: a mean over many groups must not depend on how the batch was cut.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["bce", "rank", "bounded"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
PAIRS_AT_ONCE = 4_000_000  # of (positive, clip): 32 MB


def element_sum(objective: Objective, scores: Tensor, targets: Tensor, bound: float) -> Tensor:
    """The sum over clips of a clip's mean loss over classes: what `bce` and `bounded` are a mean of.

    Args:
        scores: logits [B, C].
        targets: 0 or 1, [B, C].
        bound: for `bounded`, the most that one element of [B, C] counts.

    Returns:
        float64, a scalar.

    Raises:
        ValueError: the objective is no sum over clips.
    """
    losses = F.binary_cross_entropy_with_logits(scores.double(), targets.double(), reduction="none")
    if objective == "bounded":
        losses = losses.clamp(max=bound)
    elif objective != "bce":
        raise ValueError(f"expected bce or bounded, got {objective}: it is about pairs of clips")
    return losses.sum() / scores.shape[1]


def rank_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean of softplus(z_neg − z_pos) over all (clip that has the class, clip that has not, class).

    Args:
        scores: logits [B, C] of a whole batch or split.
        targets: 0 or 1, [B, C].

    Returns:
        float64, a scalar; 0 where no class has both.
    """
    z, truth = scores.double(), targets.bool()
    positives = truth.sum(0)
    pairs = int((positives * (len(z) - positives)).sum())
    rows, classes = truth.nonzero(as_tuple=True)
    total = z.new_zeros(()) + 0.0 * z.sum()  # so that there is a gradient, of zeros, where there is no pair
    at_once = max(1, PAIRS_AT_ONCE // max(1, len(z)))
    for first in range(0, len(rows), at_once):
        some, their = rows[first : first + at_once], classes[first : first + at_once]
        differences = z[:, their] - z[some, their]
        total = total + (F.softplus(differences) * ~truth[:, their]).sum()
    return total / max(1, pairs)


def score_gradient(scores: Tensor, targets: Tensor) -> Tensor:
    """∂ rank_loss / ∂ scores, float64 [B, C]."""
    leaf = scores.detach().double().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(rank_loss(leaf, targets), leaf)
    return gradient
