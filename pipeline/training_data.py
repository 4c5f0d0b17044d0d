"""What a training run reads: its splits, of one class list, and their normalisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import torch

from models.ranks import Ranks
from pipeline.train_options import TrainOptions
from stores.layout import Store, StoreError
from stores.normalizer import Normalizer
from stores.snapshot import Snapshot
from stores.split_reader import SplitReader, columns_for


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
