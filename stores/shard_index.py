"""One manifest as arrays: which samples its tar holds and where, without a Python object per clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.manifest import CRASHED, OK, UNDECODABLE
from stores.shards import BLOCK, END_OF_TAR
from stores.specs import Spec
from stores.tables import MANIFEST_SCHEMA, read_columns

FLAGS = ("has_audio", "has_video", "mute", "still", "short")
_PLACES = ("sample_offset", "sample_bytes", "array_offset", "array_bytes")
_COLUMNS = ("key", "status", "labels", *FLAGS, *_PLACES, "sample_xxh3")


class ShardError(Exception):
    """A shard of a store is damaged or gone. Positional arguments only: it crosses processes.

    Args:
        file: the tar or manifest, as a URI.
        reason: what was expected and what was found.
        store: the store's URI, for the remedy.
    """

    def __init__(self, file: str, reason: str, store: str) -> None:
        super().__init__(file, reason, store)

    def __str__(self) -> str:
        file, reason, store = self.args
        return (
            f"{file}: {reason}. `python -m stores verify {store}` says what else is damaged; remove the manifest "
            "beside the tar and run the ingest again to rebuild the shard"
        )


@dataclass(frozen=True)
class ShardTar:
    """A column shard's tar as a manifest describes it; m samples.

    Attributes:
        name: of the object in the store.
        size: bytes.
        sha256: of its content, hex.
        spec: of its column.
        samples: m.
        places: int64 [m, 4]: sample_offset, sample_bytes, array_offset, array_bytes; or [1, 4], those of the first
            sample, where all samples take the same number of bytes (`uniform`).
        xxh3: of each sample's bytes, uint64 [m].
    """

    name: str
    size: int
    sha256: str
    spec: Spec
    samples: int
    places: np.ndarray
    xxh3: np.ndarray

    @property
    def uniform(self) -> bool:
        """Whether the samples are rows of one strided array; so are all that this project writes."""
        return len(self.places) == 1

    def all_places(self) -> np.ndarray:
        """int64 [m, 4], of every sample."""
        if not self.uniform:
            return self.places
        return _regular(self.places[0], self.samples)


@dataclass(frozen=True)
class ShardIndex:
    """A manifest's clips that are ok, n of them, in plan order.

    Attributes:
        tar: None when no clip is ok.
        keys: bytes (UTF-8), `S` [n].
        labels: Arrow list array [n] of class indices.
        flags: by name, bool [n]; null counts as false.
        counts: clips by status.
        labels_digest: of the planned clips' labels, as they were when the shard was made.
        sums: Σ count, Σx and Σx² over real rows, float64 [1 + 2 · width].
    """

    tar: ShardTar | None
    keys: np.ndarray
    labels: pa.Array
    flags: Mapping[str, np.ndarray]
    counts: Mapping[str, int]
    labels_digest: str
    sums: np.ndarray


def parse_manifest(data: bytes, name: str, spec: Spec, split: str, shard: int) -> ShardIndex:
    """A manifest's bytes as arrays.

    Args:
        name: the manifest's, for messages and as the folder of its tar.

    Raises:
        ValueError: the manifest is that of another shard, column or tar, or its places cannot be true.
        StorageError: it is not a readable manifest.
    """
    table, summary = read_columns(data, name, _COLUMNS)
    found = tuple(summary.get(field) for field in ("column", "split", "shard"))
    if found != (spec.column, split, shard):
        raise ValueError(f"expected the manifest of {spec.column} {split} {shard}, got that of {found}")
    found_status = Counter(table["status"].to_pylist())
    counts = {word: found_status[word] for word in (OK, UNDECODABLE, CRASHED)}
    ok = table if counts[OK] == len(table) else table.filter(pc.equal(table["status"], OK))
    flags = {name: ok[name].fill_null(False).to_numpy() for name in FLAGS}
    keys = np.array([key.encode() for key in ok["key"].to_pylist()], dtype=bytes)
    labels = pa.concat_arrays([pa.array([], MANIFEST_SCHEMA.field("labels").type), *ok["labels"].chunks])
    tar = _tar(ok, name, summary, spec)
    return ShardIndex(tar, keys, labels, flags, counts, summary["labels_digest"], _sums(summary))


def _tar(ok: pa.Table, manifest: str, summary: Mapping[str, Any], spec: Spec) -> ShardTar | None:
    named = summary["tar"]
    if (named is None) != (len(ok) == 0):
        raise ValueError(f"expected a tar exactly when a clip is ok, got {named} and {len(ok)} clips")
    if named is None:
        return None
    if "/" in named["name"] or named["name"] in ("", ".", ".."):
        raise ValueError(f"expected a tar beside its manifest, got {named['name']!r}")
    if any(ok[column].null_count for column in (*_PLACES, "sample_xxh3")):
        raise ValueError("expected the place of every clip that is ok, got nulls")
    places = np.stack([ok[column].to_numpy() for column in _PLACES], axis=1)
    _check_places(places, named["size"], spec)
    digests = "".join(ok["sample_xxh3"].to_pylist())
    if len(digests) != 16 * len(ok):
        raise ValueError("expected sample_xxh3 of 16 hex digits each")
    xxh3 = np.frombuffer(bytes.fromhex(digests), ">u8").astype(np.uint64)
    uniform = bool((places == _regular(places[0], len(ok))).all())
    name = f"{manifest.rsplit('/', 1)[0]}/{named['name']}"
    kept = places[:1].copy() if uniform else places  # a view would keep all of them in memory
    return ShardTar(name, named["size"], named["sha256"], spec, len(ok), kept, xxh3)


def _regular(first: np.ndarray, samples: int) -> np.ndarray:
    """Places [samples, 4] that follow from those of the first sample when all take its number of bytes."""
    return first + np.arange(samples)[:, None] * first[1] * np.array([1, 0, 1, 0])


def _check_places(places: np.ndarray, size: int, spec: Spec) -> None:
    """Samples lie side by side from the tar's first byte to its end mark, each array inside its sample."""
    start, length, array, array_length = places.T
    ends = np.cumsum(length)
    array_bytes = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    fit = (
        (start == ends - length).all()
        and ends[-1] + len(END_OF_TAR) == size
        and (array >= start + BLOCK).all()
        and (array + array_length <= start + length).all()
        and (array_length > array_bytes).all()
    )
    if not fit:
        raise ValueError(f"expected samples side by side in a tar of {size} bytes, got places that do not fit")


def _sums(summary: Mapping[str, Any]) -> np.ndarray:
    sums = summary["sums"]
    return np.array([sums["count"], *sums["total"], *sums["squares"]], np.float64)
