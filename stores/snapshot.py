"""What a store holds of some columns at one moment: samples joined by key, with all that reading them needs.

Manifests are listed once. An ingest that runs on replaces manifests, never tars, so a snapshot goes on reading what it
found; its digest tells whether another one found the same.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.layout import Store, StoreError
from stores.manifest import CRASHED, OK, UNDECODABLE
from stores.plans import class_names
from stores.shard_index import FLAGS, ShardError, ShardIndex, ShardTar, parse_manifest
from stores.specs import Spec, canonical_json
from stores.storage import Storage, StorageError
from stores.survey import read_all
from stores.text import listed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotColumn:
    """One column of a snapshot of N samples.

    Attributes:
        name: what its arrays are called in a batch: the feature (`logmel`), or the column's full name where two columns
            of the snapshot have one feature.
        spec: what it is.
        tars: its shards' tars, in plan order over the splits.
        tar: int32 [N], which of them holds each sample.
        row: int32 [N], as which of its samples.
        sums: count, Σx and Σx² over the real rows of all its clips in these splits, float64 [1 + 2 · width].
    """

    name: str
    spec: Spec
    tars: tuple[ShardTar, ...]
    tar: np.ndarray
    row: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True)
class Account:
    """What a snapshot has and what it left out.

    Attributes:
        planned: segments of the splits.
        columns: by column, its clips by status (`ok`, `undecodable`, `crashed`), and `absent`: not fetched, or their
            shard not computed yet, or its manifest damaged.
        unmatched: clips that are ok in some of the columns only.
        repeated: clips that an earlier split has already.
    """

    planned: int
    columns: Mapping[str, Mapping[str, int]]
    unmatched: int
    repeated: int


@dataclass(frozen=True)
class Snapshot:
    """N samples: the clips that are ok in every column, in plan order, split after split.

    Attributes:
        storage: the store's.
        splits: their names.
        columns: in the order asked for.
        digest: 16 hex digits; follows from splits, columns and the content of every tar, not from where the store is.
        classes: (mid, display name) by class index.
        keys: `S` [N], UTF-8.
        shards: int32 [N], numbers the planned shard of each sample through all splits.
        label_offsets, labels: int64 [N + 1] and int16: the classes of sample i are
            `labels[label_offsets[i]:label_offsets[i + 1]]`, as the first column has them.
        flags: by name, bool [N]. `has_audio` and `has_video` where every column says so; `mute`, `still` and `short`
            where any does.
        account: what was left out.
        faults: manifests that could not be used: URI → why.
    """

    storage: Storage
    splits: tuple[str, ...]
    columns: tuple[SnapshotColumn, ...]
    digest: str
    classes: tuple[tuple[str, str], ...]
    keys: np.ndarray
    shards: np.ndarray
    label_offsets: np.ndarray
    labels: np.ndarray
    flags: Mapping[str, np.ndarray]
    account: Account
    faults: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def class_count(self) -> int:
        """Classes of the store's class list, with or without a sample."""
        return len(self.classes)

    def column(self, name: str) -> SnapshotColumn:
        """A column by the name its arrays have in a batch, or its full name. Raises ValueError listing them."""
        for column in self.columns:
            if name in (column.name, column.spec.column):
                return column
        raise ValueError(f"expected a column of {', '.join(column.name for column in self.columns)}, got {name!r}")

    @classmethod
    def open(
        cls, store: Store | str, splits: str | Sequence[str], columns: str | Sequence[str], strict: bool = False
    ) -> Snapshot:
        """Lists what a store holds now.

        Args:
            store: or its URI.
            splits: one or several; a clip that is in two is taken from the first.
            columns: by full name (`logmel-9a551511`), or by feature where the store has one such column.
            strict: a manifest that cannot be used is an error; else it is left out with a warning, and in `faults`.

        Raises:
            StoreError: no such store, split or column, or several columns of the feature: the message lists them.
            ShardError: a damaged manifest, with `strict`.
            StorageError: the store cannot be read.
        """
        store = Store.open(store) if isinstance(store, str) else store
        splits = tuple(dict.fromkeys([splits] if isinstance(splits, str) else splits))
        asked = [columns] if isinstance(columns, str) else columns
        specs = [store.read_spec(name) for name in dict.fromkeys(store.resolve_column(name) for name in asked)]
        if not splits or not specs:
            raise StoreError(f"expected one or more splits and columns, got {list(splits)} and {list(asked)}")
        planned, classes = _plans(store, splits)
        found, faults = _read_manifests(store, splits, specs, strict)
        return _join(store.storage, splits, specs, planned, classes, found, faults)


_Found = dict[tuple[str, int], dict[str, ShardIndex]]  # (split, shard) → column → its index


def _plans(store: Store, splits: Sequence[str]) -> tuple[int, tuple[tuple[str, str], ...]]:
    """How many segments the splits have together, and their class list."""
    planned, lists = 0, {}
    for split in splits:
        summary = store.plan_summary(split)
        if summary is None:
            has = ", ".join(store.splits()) or "none"
            raise StoreError(f"no split {split!r} in {store.storage.uri}; it has: {has}")
        planned += summary["segments"]
        lists[split] = tuple(class_names(summary))
    if len(set(lists.values())) > 1:
        raise StoreError(
            f"expected splits with one class list, got different ones: {', '.join(lists)}; read them apart"
        )
    return planned, lists[splits[0]]


def _read_manifests(
    store: Store, splits: Sequence[str], specs: Sequence[Spec], strict: bool
) -> tuple[_Found, dict[str, str]]:
    """Every manifest there is, by plan order, and why some could not be used."""
    jobs = [
        (split, int(stem), spec, name)
        for split in splits
        for spec in specs
        for name in store.sizes(store.column_folder(spec.column, split))
        if name.endswith(".parquet") and (stem := name.rsplit("/", 1)[1].removesuffix(".parquet")).isdecimal()
    ]

    def read(job: tuple[str, int, Spec, str]) -> ShardIndex | str:
        split, shard, spec, name = job
        data = store.storage.read(name)
        try:
            return parse_manifest(data, name, spec, split, shard)
        except (StorageError, ValueError, KeyError, TypeError) as error:
            return f"{error}" if isinstance(error, StorageError | ValueError) else f"no such manifest: {error!r}"

    found: _Found = {}
    faults: dict[str, str] = {}
    for (split, shard, spec, name), index in sorted(
        zip(jobs, read_all(read, jobs), strict=True), key=lambda pair: (splits.index(pair[0][0]), pair[0][1])
    ):
        if isinstance(index, ShardIndex):
            found.setdefault((split, shard), {})[spec.column] = index
            continue
        if strict:
            raise ShardError(store.storage.url(name), index, store.storage.uri)
        logger.warning("%s is left out: %s", store.storage.url(name), index)
        faults[store.storage.url(name)] = index
    return found, faults


def _join(
    storage: Storage,
    splits: tuple[str, ...],
    specs: Sequence[Spec],
    planned: int,
    classes: tuple[tuple[str, str], ...],
    found: _Found,
    faults: dict[str, str],
) -> Snapshot:
    shards = [_join_shard([indices.get(spec.column) for spec in specs]) for indices in found.values()]
    _warn_of_labels(found, specs)
    keys = np.concatenate([shard.keys for shard in shards]) if shards else np.empty(0, "S1")
    first = _first_of_each(keys)
    sizes = [len(shard.keys) for shard in shards]
    lists = [pa.array([], pa.list_(pa.int16())), *(shard.labels for shard in shards)]
    labels = pa.concat_arrays(lists).filter(pa.array(first))
    values = labels.flatten().to_numpy()
    if len(values) and not (values.min() >= 0 and values.max() < len(classes)):
        raise StoreError(f"expected class indices below {len(classes)}, got {values.min()} to {values.max()}")
    flags = {
        name: np.concatenate([np.empty(0, bool), *(shard.flags[name] for shard in shards)])[first] for name in FLAGS
    }
    return Snapshot(
        storage=storage,
        splits=splits,
        columns=tuple(_columns(specs, found, shards, first)),
        digest=_digest(splits, specs, found, len(classes)),
        classes=classes,
        keys=keys[first],
        shards=np.repeat(np.arange(len(shards), dtype=np.int32), sizes)[first],
        label_offsets=np.concatenate([[0], np.cumsum(pc.list_value_length(labels).to_numpy(), dtype=np.int64)]),
        labels=values,
        flags=flags,
        account=Account(
            planned, _counts(specs, found, planned), sum(s.unmatched for s in shards), int(len(first) - first.sum())
        ),
        faults=faults,
    )


@dataclass(frozen=True)
class _JoinedShard:
    """The clips of a planned shard that all columns have: by column, the rows of each."""

    keys: np.ndarray
    rows: list[np.ndarray]
    labels: pa.Array
    flags: Mapping[str, np.ndarray]
    unmatched: int


def _join_shard(indices: Sequence[ShardIndex | None]) -> _JoinedShard:
    """A key belongs to one planned shard, so columns are joined shard by shard."""
    there = [index for index in indices if index is not None]
    first = there[0]
    if len(there) < len(indices):
        common = first.keys[:0]
    elif all(np.array_equal(index.keys, first.keys) for index in there):
        common = first.keys
    else:
        common = first.keys[np.logical_and.reduce([np.isin(first.keys, index.keys) for index in there])]
    rows = [np.arange(len(common)) if common is index.keys else _rows_of(common, index.keys) for index in there]
    united = len(common) if common is first.keys else len(np.unique(np.concatenate([index.keys for index in there])))
    flags = {}
    for name in FLAGS:
        combine = np.logical_and if name.startswith("has_") else np.logical_or
        flags[name] = combine.reduce([index.flags[name][row] for index, row in zip(there, rows, strict=True)])
    return _JoinedShard(common, rows, first.labels.take(pa.array(rows[0])), flags, united - len(common))


def _rows_of(wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each wanted key is among the keys; all are."""
    order = np.argsort(keys)
    return order[np.searchsorted(keys, wanted, sorter=order)]


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """bool [N]: true where a key is the first of its kind."""
    # As they lie: converted, millions of keys would come out in chunks, each with a numbering of its own.
    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(keys.itemsize), len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))]
    )
    codes = fixed.dictionary_encode().indices.to_numpy()  # numbered as they first appear
    return np.diff(np.maximum.accumulate(codes), prepend=-1) > 0 if len(codes) else np.empty(0, bool)


def _columns(
    specs: Sequence[Spec], found: _Found, shards: Sequence[_JoinedShard], first: np.ndarray
) -> list[SnapshotColumn]:
    features = Counter(spec.feature for spec in specs)
    columns = []
    for number, spec in enumerate(specs):
        tars: list[ShardTar] = []
        tar_of, row_of = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for indices, shard in zip(found.values(), shards, strict=True):
            if not len(shard.keys):
                continue
            tar = indices[spec.column].tar
            assert tar is not None  # a joined clip is ok in every column, and then there is a tar
            tar_of.append(np.full(len(shard.keys), len(tars), np.int32))
            row_of.append(shard.rows[number].astype(np.int32))
            tars.append(tar)
        sums = [indices[spec.column].sums for indices in found.values() if spec.column in indices]
        name = spec.feature if features[spec.feature] == 1 else spec.column
        places = np.concatenate(tar_of)[first], np.concatenate(row_of)[first]
        total = np.sum(sums, axis=0) if sums else np.zeros(1 + 2 * spec.shape[-1])
        columns.append(SnapshotColumn(name, spec, tuple(tars), *places, total))
    return columns


def _counts(specs: Sequence[Spec], found: _Found, planned: int) -> dict[str, dict[str, int]]:
    counts = {}
    for spec in specs:
        total = Counter(dict.fromkeys((OK, UNDECODABLE, CRASHED), 0))
        for indices in found.values():
            if spec.column in indices:
                total.update(indices[spec.column].counts)
        counts[spec.column] = {**total, "absent": planned - sum(total.values())}
    return counts


def _digest(splits: Sequence[str], specs: Sequence[Spec], found: _Found, class_count: int) -> str:
    """A tar's sha256 stands for its keys, labels, flags and arrays; nothing else decides what is read."""
    tars = [
        [split, shard, column, index.tar.sha256, index.tar.samples]
        for (split, shard), indices in found.items()
        for column, index in sorted(indices.items())
        if index.tar
    ]
    named = [list(splits), [spec.column for spec in specs], class_count, tars]
    return hashlib.sha256(canonical_json(named).encode()).hexdigest()[:16]


def _warn_of_labels(found: _Found, specs: Sequence[Spec]) -> None:
    differ = [
        f"{split} {shard}"
        for (split, shard), indices in found.items()
        if len({index.labels_digest for index in indices.values()}) > 1
    ]
    if differ:
        logger.warning(
            "columns were made with different labels in shards %s: those of %s are used; run the ingest again to "
            "rewrite the others",
            listed(differ),
            specs[0].column,
        )
