"""What a training run reads: columns for a model, snapshots, normalisers, and groups of the global sequence."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from models.ranks import Ranks
from pipeline.train_options import TrainOptions
from pipeline.training_step import Group
from stores.layout import Store, StoreError
from stores.normalizer import Normalizer
from stores.position import Position
from stores.reader import Reader
from stores.snapshot import Snapshot
from stores.torch_batches import TorchBatch, TorchBatches


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
    ranks: Ranks
    threads: int = 1
    strict: bool = False

    def groups(
        self, order: str, size: int, seed: int, start: Position | None
    ) -> tuple[Reader, Generator[Group, None, None]]:
        """This rank's groups of the endless global sequence, from a position on; and who reads them."""
        reader = Reader(self.snapshot, order=order, batch_size=size, seed=seed, start=start, **self._how())
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


def open_splits(
    options: TrainOptions, needs: Sequence[str], ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> tuple[SplitReader, SplitReader]:
    """The training and the validation splits of a run.

    Raises:
        StoreError: the store lacks something.
        ValueError: the normaliser's file is none, or the splits have different class lists.
    """
    store = Store.open(options.store)
    columns = columns_for(store, needs, options.columns)
    names = list(columns.values())
    train = Snapshot.open(store, options.train_split, names, options.strict)
    valid = Snapshot.open(store, options.valid_split, names, options.strict)
    if train.classes != valid.classes:
        raise ValueError("expected training and validation splits with one class list, got different ones")
    for split, snapshot in ((options.train_split, train), (options.valid_split, valid)):
        if not len(snapshot):
            raise StoreError(f"split {', '.join(split)} has no clip with {' and '.join(names)} in {options.store}")
    normalizers = {}
    if "logmel" in columns:
        path = options.normalizer
        normalizers["logmel"] = _normalizer_in(path) if path else Normalizer.of(train, columns["logmel"])
    if "video" in columns and options.normalize_video:
        normalizers["video"] = Normalizer.of(train, columns["video"], constant_std=1.0)
    how = (options.reader_threads, options.strict)
    reader = SplitReader(train, columns, normalizers, device, dtype, ranks, *how)
    return reader, replace(reader, snapshot=valid)


def _normalizer_in(path: str) -> Normalizer:
    try:
        return Normalizer.load(Path(path))
    except (OSError, BadZipFile) as error:
        raise ValueError(f"expected a .npz of means and deviations at {path}: {error}") from None
