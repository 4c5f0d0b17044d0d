"""Mixup and SpecAugment, off by default: a function of the random generator given, so of (seed, step, group) alone.

Source: mixup as in PANNs (Kong et al., 2020; α = 1 there); SpecAugment (Park et al., 2019) with PANNs' sizes for a
bank of 64 bins, times scaled from its 100 frames a second to our 40.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

STRIPES = 2
TIME_FRAMES, MEL_BINS = 25, 8  # widest stripes


def random_of(*words: int) -> np.random.Generator:
    """A generator that follows from some numbers >= 0 alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def mixup(
    inputs: Mapping[str, Tensor], targets: Tensor, alpha: float, random: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Mixes every clip of a group with another one, sound, picture and targets alike.

    Args:
        inputs: by column, [n, …].
        targets: [n, classes].
        alpha: of Beta(α, α), from which each clip's share is drawn.

    Returns:
        inputs and targets of the same shapes; targets are shares then.
    """
    count = len(targets)
    share = torch.from_numpy(random.beta(alpha, alpha, count)).to(targets)
    other = torch.from_numpy(random.permutation(count)).to(targets.device)

    def mixed(values: Tensor) -> Tensor:
        weight = share.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
        return weight * values + (1 - weight) * values[other]

    return {name: mixed(values) for name, values in inputs.items()}, mixed(targets)


def spec_augment(logmel: Tensor, random: np.random.Generator) -> Tensor:
    """Replaces two stripes of frames and two of bins of every clip by zero, the corpus mean.

    Args:
        logmel: normalised, [n, frames, bins].

    Returns:
        a tensor of the same shape; the argument is left alone.
    """
    count, frames, bins = logmel.shape
    keep = np.ones((count, frames, bins), bool)
    for clip in range(count):
        for _ in range(STRIPES):
            begin, width = _stripe(frames, TIME_FRAMES, random)
            keep[clip, begin : begin + width] = False
        for _ in range(STRIPES):
            begin, width = _stripe(bins, MEL_BINS, random)
            keep[clip, :, begin : begin + width] = False
    return logmel * torch.from_numpy(keep).to(logmel.device)


def _stripe(length: int, widest: int, random: np.random.Generator) -> tuple[int, int]:
    width = int(random.integers(0, min(widest, length) + 1))
    return int(random.integers(0, length - width + 1)), width
