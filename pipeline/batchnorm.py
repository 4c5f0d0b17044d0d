"""BatchNorm's running statistics when a step's batch is cut into groups: one update per step, from all groups' mean.

Each group is normalised by its own statistics. What evaluation uses, the running mean and variance, moves once a step
towards the mean over the groups of all ranks: so neither depends on how many ranks share the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GroupStatistics:
    """Collects the statistics of a step's groups.

    Args:
        model: every BatchNorm in it that tracks statistics is looked after; one that a forward pass goes through twice
            counts with the second pass only.

    Raises:
        ValueError: a BatchNorm with a cumulative average instead of a momentum.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if isinstance(m, _KINDS) and m.running_mean is not None]
        if any(norm.momentum is None for norm in self._norms):
            raise ValueError("expected BatchNorms with a momentum, got one with a cumulative average")
        self._momenta = [float(norm.momentum or 0.0) for norm in self._norms]
        running = [buffer for norm in self._norms for buffer in (norm.running_mean, norm.running_var)]
        self._running = [buffer for buffer in running if buffer is not None]
        self._counts = [norm.num_batches_tracked for norm in self._norms]
        self._before: list[Tensor] = []

    @property
    def shapes(self) -> list[torch.Size]:
        """Of what `group` gives."""
        return [buffer.shape for buffer in self._running]

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step's groups. Within it a pass leaves its own group's statistics in place of the running ones."""
        self._before = [buffer.clone() for buffer in self._running]
        counts = [count.clone() for count in self._counts if count is not None]
        for norm in self._norms:
            norm.momentum = 1.0
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, self._momenta, strict=True):
                norm.momentum = momentum
            for buffer, before in zip(self._running, self._before, strict=True):
                buffer.copy_(before)
            for count, before in zip((c for c in self._counts if c is not None), counts, strict=True):
                count.copy_(before)

    def begin_group(self) -> None:
        """Before a group's forward pass, within `step`: what a pass does not reach is zero."""
        for buffer in self._running:
            buffer.zero_()

    def group(self) -> list[Tensor]:
        """After a group's pass, within `step`: its mean and unbiased variance by layer; valid until the next pass."""
        return self._running

    def update(self, sums: Sequence[Tensor], groups: int) -> None:
        """After `step`: moves the running statistics by one momentum.

        Args:
            sums: of the groups of all ranks, in the order of `group`.
            groups: how many those are, at least one.
        """
        momenta = [momentum for momentum in self._momenta for _ in ("mean", "variance")]
        for running, total, momentum in zip(self._running, sums, momenta, strict=True):
            running.lerp_(total / groups, momentum)
        for count in self._counts:
            if count is not None:
                count.add_(1)
