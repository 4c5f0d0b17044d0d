"""Copies a split out of a store: columns joined into one WebDataset, or files of each clip. The store is only read.

`shards`: tars of many clips in plan order, `<key>.json` and `<key>.<array>.npy` of each column (and `<key>.<extension>`
of the media); `files`: the same members as files of a folder. Every byte follows from the store's content, and a file
is there whole or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stores.layout import Store, StoreError
from stores.ledger import FETCHED, LedgerRow, read_ledger, read_media
from stores.reader import Reader
from stores.shards import npy_bytes, write_media_tar
from stores.snapshot import Snapshot
from stores.storage import SCRATCH, Storage, StorageError

Form = Literal["shards", "files"]
Sample = list[tuple[str, bytes]]  # members of a clip: name and bytes
BATCH = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What was written: files, clips, bytes, and clips that were left out because their media were not kept, or because
    something of them is damaged; and of how many planned shards every column is computed."""

    files: int
    clips: int
    size: int
    missing: int
    computed: int
    shards: int


def export(
    store: Store,
    split: str,
    columns: Sequence[str],
    to: str,
    form: Form = "shards",
    media: bool = False,
    clips_per_shard: int = 10_000,
) -> Exported:
    """Writes the clips of a split that are ok in every column.

    Args:
        columns: full names or those of features; none: media only.
        to: a directory or any fsspec URI; tars are called `<split>-00000.tar`.
        media: the clips as fetched too; those whose media were not kept are left out.

    Raises:
        StoreError: no such split or column, nothing to write, or the folder has an export already.
        ShardError: a manifest is damaged.
        StorageError: the store cannot be read, or the folder not written.
    """
    if not columns and not media:
        raise StoreError("expected columns, media or both to export, got neither")
    if clips_per_shard < 1:
        raise StoreError(f"expected one or more clips in a shard, got {clips_per_shard}")
    target = Storage(to)
    if any(entry.name != SCRATCH for entry in target.list("")):  # an export that was killed leaves scratch files
        raise StoreError(f"expected an empty folder to export to, {target.uri} has something in it")
    names = list(dict.fromkeys(store.resolve_column(column) for column in columns))
    samples = _Samples(store, split, names, media)
    if form == "files":
        files, clips, size = _write_files(target, samples)
    else:
        files, clips, size = _write_shards(target, split, samples, clips_per_shard)
    folders = [store.column_folder(name, split) for name in names] or [store.media_folder(split)]
    computed = min(sum(name.endswith(".parquet") for name in store.sizes(folder)) for folder in folders)
    return Exported(files, clips, size, samples.missing, computed, store.shard_count(split))


class _Samples:
    """The clips of an export, in plan order; one shard's ledger is in memory at a time."""

    def __init__(self, store: Store, split: str, columns: Sequence[str], media: bool) -> None:
        store.require_splits(split)
        self.store, self.split, self.columns, self.media = store, split, columns, media
        self.missing = 0
        self._shard, self._rows = -1, dict[str, LedgerRow]()

    def __iter__(self) -> Iterator[Sample]:
        for shard, key, members in self._features() if self.columns else self._bare():
            if not self.media:
                yield members
                continue
            added = self._media(shard, key)
            if added is None:
                self.missing += 1
            else:
                yield [*members, added]

    def _features(self) -> Iterator[tuple[int, str, Sample]]:
        snapshot = Snapshot.open(self.store, self.split, list(self.columns), strict=True)
        reader = Reader(snapshot, order="sequential", batch_size=BATCH, epochs=1)
        arrays = {column.name: column.spec.array for column in snapshot.columns}
        if len(set(arrays.values())) != len(arrays):
            arrays = {name: name for name in arrays}  # two columns of one feature: by their full names
        for batch in reader:
            self.missing += batch.missing
            for i, key in enumerate(batch.keys):
                classes = batch.labels[batch.label_offsets[i] : batch.label_offsets[i + 1]]
                mids = [snapshot.classes[label][0] for label in classes]
                flags = {name: bool(values[i]) for name, values in batch.flags.items()}
                meta = {"key": key, "labels": [int(label) for label in classes], "mids": mids, **flags}
                members = [(f"{arrays[name]}.npy", npy_bytes(np.asarray(batch.arrays[name][i]))) for name in arrays]
                shard = int(snapshot.shards[batch.index[i]])
                yield shard, key, [_json(key, meta), *((f"{key}.{name}", data) for name, data in members)]

    def _bare(self) -> Iterator[tuple[int, str, Sample]]:
        plan, _ = self.store.read_plan(self.split)
        size = self.store.config.shard_size
        for shard in range(-(-len(plan) // size)):
            fetched = self._fetched(shard)
            rows = plan.select(["key", "labels", "mids"]).slice(shard * size, size).to_pylist()
            for planned in rows:
                if planned["key"] in fetched:
                    yield shard, planned["key"], [_json(planned["key"], planned)]

    def _fetched(self, shard: int) -> dict[str, LedgerRow]:
        if shard != self._shard:
            ledger = read_ledger(self.store, self.split, shard)
            self._shard = shard
            self._rows = {row.key: row for row in (ledger.rows if ledger else ()) if row.status == FETCHED}
        return self._rows

    def _media(self, shard: int, key: str) -> tuple[str, bytes] | None:
        """A clip's bytes; None where they were not kept, or are not those that were fetched."""
        row = self._fetched(shard).get(key)
        if row is None or row.tar is None:
            return None
        try:
            return f"{key}.{row.extension}", read_media(self.store, self.split, row)
        except (FileNotFoundError, StorageError) as error:
            logger.warning("%s is left out: %s", key, error)
            return None


def _json(key: str, meta: dict[str, object]) -> tuple[str, bytes]:
    return f"{key}.json", json.dumps(meta, sort_keys=True).encode()


def _write_shards(target: Storage, split: str, samples: _Samples, clips_per_shard: int) -> tuple[int, int, int]:
    waiting, files, clips, size = iter(samples), 0, 0, 0
    first = next(waiting, None)
    while first is not None:
        counted = _Counted(first, waiting, clips_per_shard)
        with target.scratch_file() as scratch:
            facts, _ = write_media_tar(Path(scratch), counted)
            target.publish_file(scratch, f"{split}-{files:05d}.tar")
        files, clips, size = files + 1, clips + counted.clips, size + facts.size
        first = next(waiting, None)
    _forget_scratch(target)
    return files, clips, size


class _Counted:
    """The members of up to so many samples, one after the other."""

    def __init__(self, first: Sample, rest: Iterator[Sample], most: int) -> None:
        self.first, self.rest, self.most, self.clips = first, rest, most, 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        sample: Sample | None = self.first
        while sample is not None:
            self.clips += 1
            yield from sample
            sample = next(self.rest, None) if self.clips < self.most else None


def _write_files(target: Storage, samples: _Samples) -> tuple[int, int, int]:
    files, clips, size = 0, 0, 0
    for sample in samples:
        for name, data in sample:
            target.publish(name, data)
            files, size = files + 1, size + len(data)
        clips += 1
    _forget_scratch(target)
    return files, clips, size


def _forget_scratch(target: Storage) -> None:
    """An export is for others: nothing of ours is left beside it."""
    if target.is_local:
        with suppress(OSError):
            Path(target.root, SCRATCH).rmdir()
