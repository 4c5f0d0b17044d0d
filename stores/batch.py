"""What a reader gives: some samples of several columns, collated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stores.position import Position


@dataclass(frozen=True)
class Batch:
    """n samples of the global sequence; fewer than asked for where `missing`, `short` or `padding` says so.

    Attributes:
        keys: n of them.
        index: int64 [n], the samples' numbers in the snapshot.
        arrays: by column name, [n, *shape] of the column's type (float16), as stored: not normalised. They are the
            caller's; their memory is used again once no reference to it is left.
        label_offsets, labels: int64 [n + 1] and int16: classes of sample i are
            `labels[label_offsets[i]:label_offsets[i + 1]]`.
        flags: by name (`has_audio`, `has_video`, `mute`, `still`, `short`), bool [n].
        number: of the batch in the global sequence, through all ranks.
        position: of its first sample.
        after: of the first sample after it.
        missing: samples of this stretch of the sequence that are left out because their shard is damaged.
        short: it is the last one, and the sequence ended in it.
        padding: the sequence ended before it: it has no sample and is there to give every rank as many batches.
    """

    keys: list[str]
    index: np.ndarray
    arrays: Mapping[str, np.ndarray]
    label_offsets: np.ndarray
    labels: np.ndarray
    flags: Mapping[str, np.ndarray]
    number: int
    position: Position
    after: Position
    missing: int
    short: bool
    padding: bool

    def __len__(self) -> int:
        return len(self.index)

    def multi_hot(self, classes: int) -> np.ndarray:
        """bool [n, classes], true where a sample has a class.

        Raises:
            ValueError: a label is none of so many classes.
        """
        if len(self.labels) and self.labels.max() >= classes:
            raise ValueError(f"expected at least {self.labels.max() + 1} classes, got {classes}")
        hot = np.zeros((len(self), classes), bool)
        hot[self.label_rows(), self.labels] = True
        return hot

    def without_arrays(self) -> Batch:
        """The same batch with empty `arrays`, so that their memory is free."""
        return replace(self, arrays={})

    def label_rows(self) -> np.ndarray:
        """int64, for each of `labels` the sample that has it."""
        return np.repeat(np.arange(len(self)), np.diff(self.label_offsets))


def select_labels(offsets: np.ndarray, labels: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a CSR table: their offsets, int64 [n + 1], and their values, in the order of `index` [n]."""
    starts = offsets[index]
    counts = offsets[index + 1] - starts
    chosen = np.zeros(len(index) + 1, np.int64)
    np.cumsum(counts, out=chosen[1:])
    return chosen, labels[np.repeat(starts - chosen[:-1], counts) + np.arange(chosen[-1])]
