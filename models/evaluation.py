"""A model's scores for many clips, and their metrics over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from models.metrics import Metrics, Positives, finish, local_counts, local_positives
from models.ranks import Ranks


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode; afterwards every module is in the mode that it was in."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def scores_of(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], classes: int, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Scores of batches, one after the other, in eval mode.

    Args:
        batches: a model's inputs by column, on its device; empty ones are skipped.
        classes: how many scores a clip has, for when there is no clip.
        autocast: the arithmetic, None for that of the weights.

    Returns:
        logits [clips, classes], float32 (float64 where the weights are).
    """
    found = [np.empty((0, classes), np.float32)]
    with evaluating(model), torch.inference_mode():
        for inputs in batches:
            first = next(iter(inputs.values()))
            if not len(first):
                continue
            with torch.autocast(first.device.type, dtype=autocast, enabled=autocast is not None):
                found.append(model(inputs).cpu().numpy())
    return np.concatenate(found[1:] or found)


def metrics_over(ranks: Ranks, scores: np.ndarray, targets: np.ndarray) -> Metrics:
    """Metrics of the clips of all ranks together: the same bits for any number of ranks and any shares of the clips.

    Args:
        scores: this rank's clips, float [n, C]; n may be 0, and differ between ranks.
        targets: bool [n, C].

    Raises:
        ValueError: as `models.metrics.evaluate`.
        PeerLost: another rank is gone.
    """
    positives = Positives.gather(ranks.gather(local_positives(scores, targets)))
    counts = np.sum(ranks.gather(local_counts(scores, positives)), axis=0)
    return finish(positives, counts)
