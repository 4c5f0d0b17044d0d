"""A model's inputs from a store: which columns, and groups of the global sequence as tensors, normalised."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stores.layout import Store, StoreError
from stores.normalizer import Normalizer
from stores.position import Position
from stores.reader import Reader
from stores.snapshot import Snapshot
from stores.torch_batches import TorchBatch, TorchBatches

LARGEST_DEFAULT_GROUP = 50


def default_group_size(batch_size: int) -> int:
    """Clips that go through a model at once where nobody said how many: the batch's largest divisor up to 50."""
    return max(size for size in range(1, LARGEST_DEFAULT_GROUP + 1) if batch_size % size == 0)


class Place(Protocol):
    """This process's place among those that read one sequence together."""

    @property
    def rank(self) -> int:
        """Its number."""

    @property
    def size(self) -> int:
        """How many there are."""


@dataclass(frozen=True)
class Group:
    """Some consecutive samples of a sequence.

    Attributes:
        number: in the global sequence of groups.
        inputs: by the model's columns, [n, …] on its device; n may be 0 where all samples are left out.
        targets: [n, classes], 0 or 1.
    """

    number: int
    inputs: dict[str, Tensor]
    targets: Tensor


def columns_for(store: Store, needs: Sequence[str], named: Sequence[str] = ()) -> dict[str, str]:
    """The store's columns that a model's columns are taken from.

    Args:
        needs: the model's columns: `logmel`, `video`.
        named: columns to be taken, by full name or feature; needed only where the store has several.

    Returns:
        by the model's column, the full name.

    Raises:
        StoreError: none or several for a need, or one named that is of no use.
    """
    have = {name: store.read_spec(name).array for name in store.columns()}
    chosen = list(dict.fromkeys(store.resolve_column(name) for name in named))
    useless = [name for name in chosen if have[name] not in needs]
    if useless:
        raise StoreError(f"{', '.join(useless)}: the model reads {' and '.join(needs)} only")
    found = {}
    for need in needs:
        of_kind = [name for name, array in have.items() if array == need]
        candidates = [name for name in chosen if have[name] == need] or of_kind
        if len(candidates) != 1:
            what = "no column" if not candidates else "several columns"
            raise StoreError(
                f"{what} of {need} in {store.storage.uri}: name one of {', '.join(of_kind) or 'none'} with --columns"
            )
        found[need] = candidates[0]
    return found


@dataclass(frozen=True)
class SplitReader:
    """Reads a snapshot's samples as a model's inputs.

    Attributes:
        columns: by the model's column, the full name.
        normalizers: by the model's column.
        dtype: of the inputs.
    """

    snapshot: Snapshot
    columns: Mapping[str, str]
    normalizers: Mapping[str, Normalizer]
    device: torch.device
    dtype: torch.dtype
    ranks: Place
    threads: int = 1
    strict: bool = False

    def groups(
        self, order: str, size: int, seed: int, start: Position | None, epochs: int | None = None
    ) -> tuple[Reader, Generator[Group, None, None]]:
        """This rank's groups of the global sequence, from a position on, endless or of so many epochs; and who reads
        them. Where the sequence ends, the last group may be short, and ranks without one get an empty one."""
        how = self._how()
        reader = Reader(self.snapshot, order=order, batch_size=size, seed=seed, start=start, epochs=epochs, **how)
        return reader, (self._group(batch) for batch in self._tensors(reader))

    def once(self, size: int) -> Iterator[tuple[list[str], dict[str, Tensor], np.ndarray]]:
        """This rank's share of all samples, each once, in plan order: keys, inputs, and targets, bool [n, classes].

        The samples are cut into batches of `size` before they are dealt out to ranks, so that each is computed beside
        the same others on any number of ranks.
        """
        reader = Reader(self.snapshot, order="sequential", batch_size=size, epochs=1, **self._how())
        for batch in self._tensors(reader):
            if len(batch.batch):
                yield batch.batch.keys, self.inputs(batch), batch.batch.multi_hot(self.snapshot.class_count)

    def groups_once(self, size: int) -> Iterator[Group]:
        """As `once`: this rank's share of all samples in groups, each sample once over all ranks."""
        reader = Reader(self.snapshot, order="sequential", batch_size=size, epochs=1, **self._how())
        yield from (self._group(batch) for batch in self._tensors(reader) if len(batch.batch))

    def inputs(self, batch: TorchBatch) -> dict[str, Tensor]:
        """A batch's arrays by the model's columns."""
        names = {need: self.snapshot.column(column).name for need, column in self.columns.items()}
        return {need: batch.arrays[name].to(self.dtype) for need, name in names.items()}

    def _group(self, batch: TorchBatch) -> Group:
        return Group(batch.batch.number, self.inputs(batch), batch.targets.to(self.dtype))

    def _tensors(self, reader: Reader) -> TorchBatches:
        names = {self.snapshot.column(self.columns[need]).name: value for need, value in self.normalizers.items()}
        return TorchBatches(reader, self.snapshot, self.device, names)

    def _how(self) -> dict[str, Any]:
        place = {"rank": self.ranks.rank, "world_size": self.ranks.size}
        return {**place, "workers": self.threads, "strict": self.strict}
