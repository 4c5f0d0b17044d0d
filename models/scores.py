"""Scores of clips whose probability is a mixture: the log odds, without ever forming the probability."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Within it autocast is off on the device of `x`, so that arithmetic has the dtype of its operands."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


def mix_scores(scores: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    """The log odds of a mixture of probabilities, p = Σ_k a_k σ(z_k).

    logit p = log Σ exp(log σ(z) + log a) − log Σ exp(log σ(−z) + log a). A common factor of the weights cancels, so
    they need not add up to one. Neither p nor 1 − p is formed: both round to 0 or 1 long before the score loses digits.

    Args:
        scores: logits z, one entry per part of the mixture along `dim`.
        log_weights: log a, broadcastable to `scores`.
        dim: the axis that is mixed away.

    Returns:
        logits without `dim`; float32 under autocast too, float64 for float64.

    Source: RECIPE.md section 2, "Scores".
    """
    with without_autocast(scores):
        scores, log_weights = at_least_float32(scores), at_least_float32(log_weights)
        for_event = torch.logsumexp(F.logsigmoid(scores) + log_weights, dim=dim)
        against_event = torch.logsumexp(F.logsigmoid(-scores) + log_weights, dim=dim)
        return for_event - against_event
