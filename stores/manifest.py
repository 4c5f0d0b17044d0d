"""The manifest of a column shard: for every fetched clip, what the feature made of it. It is the tar's commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from stores.layout import Store
from stores.ledger import input_digest
from stores.shards import TarFacts
from stores.specs import Spec
from stores.storage import StorageError, Version
from stores.summaries import FORMAT
from stores.tables import MANIFEST_SCHEMA, from_parquet, to_parquet

OK, UNDECODABLE, CRASHED = "ok", "undecodable", "crashed"


@dataclass(frozen=True)
class ManifestRow:
    """One fetched clip; the columns are explained in `stores/tables.py`."""

    key: str
    status: str
    ytid: str
    start_ms: int
    end_ms: int
    mids: Sequence[str]
    labels: Sequence[int]
    words: str | None = None
    has_audio: bool | None = None
    has_video: bool | None = None
    mute: bool | None = None
    still: bool | None = None
    short: bool | None = None
    decoded_ms: int | None = None
    real_rows: int | None = None
    media_sha256: str | None = None
    media_start_ms: int | None = None
    json_offset: int | None = None
    json_bytes: int | None = None
    array_offset: int | None = None
    array_bytes: int | None = None
    sample_offset: int | None = None
    sample_bytes: int | None = None
    sample_xxh3: str | None = None


@dataclass(frozen=True)
class Sums:
    """Count, Σx and Σx² over the real (not padded) rows of a shard's arrays, per last-axis element, in float64."""

    count: int
    total: list[float]
    squares: list[float]

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray], width: int) -> Sums:
        """Sums over arrays [rows, width] as stored (float16 values, float64 arithmetic)."""
        count, total, squares = 0, np.zeros(width), np.zeros(width)
        for array in arrays:
            values = array.astype(np.float64)
            count += len(values)
            total += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
        return cls(count, total.tolist(), squares.tolist())


@dataclass(frozen=True)
class Manifest:
    """A committed manifest: rows in plan order, its summary (see `commit_manifest`) and its version."""

    rows: tuple[ManifestRow, ...]
    summary: dict[str, Any]
    version: Version = field(default_factory=lambda: Version(None))


def read_manifest(store: Store, column: str, split: str, shard: int) -> Manifest | None:
    """A column shard's manifest, None before its first commit. Raises StorageError when it cannot be read."""
    name = store.manifest_name(column, split, shard)
    data, version = store.storage.read_versioned(name)
    if data is None:
        return None
    table, summary = from_parquet(data, name, MANIFEST_SCHEMA)
    names = {item.name for item in fields(ManifestRow)}
    rows = tuple(ManifestRow(**{k: v for k, v in row.items() if k in names}) for row in table.to_pylist())
    if summary["tar"] is None and any(row.status == OK for row in rows):
        raise StorageError(f"{name} is not a readable table of this store: it names no tar, and some clips are ok")
    return Manifest(rows, summary, version)


def commit_manifest(
    store: Store,
    spec: Spec,
    split: str,
    shard: int,
    rows: Sequence[ManifestRow],
    tar: tuple[str, TarFacts] | None,
    sums: Sums,
    labels: str,
    noted: dict[str, Any],
    if_version: Version,
) -> dict[str, Any]:
    """Publishes a manifest where the one that it replaces still stands; that is the column shard's commit.

    Args:
        tar: name in the store and facts of the tar; None when no clip is ok.
        labels: digest of the labels of the shard's planned segments; another one makes the json stale, nothing else.
        noted: what may differ without changing values: device, versions.

    Returns:
        the manifest's summary.

    Raises:
        Conflict: another job committed this column shard first.
        ValueError: a key twice, or rows that do not fit the tar (a bug: nothing is written).
    """
    _check(rows, tar)
    named = None if tar is None else {"name": tar[0], "size": tar[1].size, "sha256": tar[1].sha256}
    summary = manifest_summary(spec, split, shard, rows, named, asdict(sums), labels, noted)
    table = pa.Table.from_pylist([asdict(row) for row in rows], MANIFEST_SCHEMA)
    data = to_parquet(table, MANIFEST_SCHEMA, summary)
    store.storage.publish(store.manifest_name(spec.column, split, shard), data, if_version)
    return summary


def manifest_summary(
    spec: Spec,
    split: str,
    shard: int,
    rows: Sequence[ManifestRow],
    tar: dict[str, Any] | None,
    sums: dict[str, Any],
    labels: str,
    noted: dict[str, Any],
) -> dict[str, Any]:
    """What can be known of a manifest without its rows; the arguments are those of `commit_manifest`, as JSON."""
    counts = Counter(row.status for row in rows)
    ok = [row for row in rows if row.status == OK]
    return {
        "format": FORMAT,
        "column": spec.column,
        "split": split,
        "shard": shard,
        "spec_digest": spec.digest,
        "input_digest": input_digest((row.key, row.media_sha256, row.media_start_ms) for row in rows),
        "labels_digest": labels,
        "counts": {status: counts[status] for status in (OK, UNDECODABLE, CRASHED)},
        "flags": {
            "no_audio": sum(row.has_audio is False for row in ok),
            "no_video": sum(row.has_video is False for row in ok),
            "mute": sum(bool(row.mute) for row in ok),
            "still": sum(bool(row.still) for row in ok),
            "short": sum(bool(row.short) for row in ok),
        },
        "tar": tar,
        "samples": len(ok),
        "stride": ok[0].sample_bytes if ok else None,
        "array": spec.array,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "sums": sums,
        "noted": noted,
    }


def is_current(manifest: dict[str, Any] | None, ledger: dict[str, Any] | None, spec_digest: str, labels: str) -> bool:
    """Whether a column shard is up to date, from the summaries of its manifest and of its shard's ledger."""
    if manifest is None or ledger is None:
        return False
    return (
        manifest["spec_digest"] == spec_digest
        and manifest["input_digest"] == ledger["input_digest"]
        and manifest["labels_digest"] == labels
    )


def _check(rows: Sequence[ManifestRow], tar: tuple[str, TarFacts] | None) -> None:
    if len({row.key for row in rows}) != len(rows):
        raise ValueError("expected each key once in a manifest")
    offset = 0
    for row in rows:
        if row.status not in (OK, UNDECODABLE, CRASHED):
            raise ValueError(f"manifest row {row.key}: unknown status {row.status!r}")
        if (row.status == OK) != (row.sample_offset is not None):
            raise ValueError(f"manifest row {row.key}: status {row.status} does not fit its place in the tar")
        if row.status == OK:
            if row.sample_offset != offset or not row.sample_bytes:
                raise ValueError(f"manifest row {row.key}: samples must follow one another without a gap")
            offset += row.sample_bytes
    if (tar is None) != (offset == 0):
        raise ValueError("expected a tar exactly when a clip is ok")
