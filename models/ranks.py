"""Several processes that do one job: sums and gathers over them, and the same code for one process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

    def add_in_order(self, mine: Iterable[Tensor], like: Tensor, first: int, count: int) -> Tensor:
        """The sum of one vector for each of `count` consecutive items, of which item i is on rank i mod size.

        They are added in the order of the items, so the sum is the same bits on any number of ranks. Each rank adds up
        a stretch of all vectors, and then the stretches are exchanged: with as many ranks as items, that moves no more
        than an ordinary all-reduce.

        Args:
            mine: this rank's items in order, which may be none. A rank alone takes them one by one.
            like: any vector [n] of their type, on their device.
            first, count: the items over all ranks.

        Returns:
            [n], on every rank; zeros where there is no item.

        Raises:
            ValueError: another number of items is here than belongs to this rank.
            PeerLost: another rank is gone.
        """
        owned = [range(first + (rank - first) % self.size, first + count, self.size) for rank in range(self.size)]
        if self.size == 1:
            total, here = torch.zeros_like(like), 0
            for vector in mine:
                total += vector
                here += 1
            self._check_count(here, owned[0])
            return total
        mine = list(mine)
        self._check_count(len(mine), owned[self.rank])
        most, stretch = len(owned[first % self.size]), -(-len(like) // self.size)
        sent = like.new_zeros(self.size, most, stretch)  # by the rank that adds it up
        for i, vector in enumerate(mine):
            for rank, part in enumerate(vector.split(stretch)):
                sent[rank, i, : len(part)] = part
        received = torch.empty_like(sent)  # by the rank that it came from
        self._with_all(lambda: dist.all_to_all_single(received, sent))
        part = like.new_zeros(stretch)
        for item in range(first, first + count):
            rank = item % self.size
            part += received[rank, owned[rank].index(item)]
        total = like.new_empty(self.size * stretch)
        self._with_all(lambda: dist.all_gather_into_tensor(total, part))
        return total[: len(like)]

    def _check_count(self, here: int, expected: Iterable[int]) -> None:
        if here != len(items := list(expected)):
            raise ValueError(f"rank {self.rank}: expected items {items}, got {here} vectors")

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
        if self.size > 1:
            self._with_all(dist.barrier)

    def _with_all(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:  # what gloo and NCCL raise when a connection breaks
            raise PeerLost(f"rank {self.rank} of {self.size}: {error}") from None
