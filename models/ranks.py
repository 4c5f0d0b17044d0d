"""Several processes that do one job: sums and gathers over them, and the same code for one process alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")


class PeerLost(Exception):  # noqa: N818 - a state of the cluster
    """Another rank could not be reached: it ended, or its node did. Go on from the last checkpoint."""


class Ranks:
    """This process's place among those that do one job together.

    Args:
        rank, size: this process's number and how many there are. More than one need an initialised process group of
            torch.distributed.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"expected 0 <= rank < size, got {rank} and {size}")
        self.rank, self.size = rank, size

    @classmethod
    def of_process_group(cls) -> Ranks:
        """As torch.distributed has them; alone where no process group was initialised."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def add(self, values: Tensor) -> None:
        """Replaces a tensor, of one shape and type on every rank, by its sum over ranks. Raises PeerLost."""
        if self.size > 1:
            self._with_all(lambda: dist.all_reduce(values))

    def gather(self, value: _T) -> list[_T]:
        """Every rank's value, in rank order, on every rank; anything that can be pickled. Raises PeerLost."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self._with_all(lambda: dist.all_gather_object(found, value))
        return found

    def gather_to_first(self, value: _T) -> list[_T] | None:
        """As `gather`, on the first rank only; None on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.first else None
        self._with_all(lambda: dist.gather_object(value, found))
        return found

    def wait(self) -> None:
        """Returns when every rank has come here. Raises PeerLost."""
        self.add(torch.zeros(1, device="cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"))

    def _with_all(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:  # what gloo and NCCL raise when a connection breaks
            raise PeerLost(f"rank {self.rank} of {self.size}: {error}") from None
