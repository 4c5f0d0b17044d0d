"""Per-clip scores as one Parquet file: every table of metrics can be made again from it without the model.

A row per clip: `key`, `scores` (float32 for each class: logits, not rounded) and `labels` (indices of the classes
that are true, as in plan and manifest). The key-value metadata `avlens` says as JSON what the scores are of. Any
Parquet tool reads it; a file is visible whole or not at all, and equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from stores.specs import canonical_json
from stores.storage import Storage
from stores.tables import from_parquet, to_parquet

KIND, FORMAT = "clip scores", 1
ROW_GROUP = 16_384
SUFFIX = ".parquet"
MOST_CLASSES = 32_767  # class indices are int16, as in plan and manifest


@dataclass(frozen=True)
class ScoresOrigin:
    """What a file's scores are of.

    Attributes:
        model: name of the model in the registry.
        checkpoint: digest (hex) of the checkpoint that gave the scores: what decides them, not its file's bytes.
        split: the split that was scored.
        snapshot: digest of the snapshot of manifests that it was read from.
        classes: (mid, display name) by class index, as in a plan's summary.
        noted: anything else, JSON types only: step, seed, which perturbation was added.

    Raises:
        ValueError: one of the texts is missing.
    """

    model: str
    checkpoint: str
    split: str
    snapshot: str
    classes: Sequence[tuple[str, str]]
    noted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "checkpoint", "split", "snapshot"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise ValueError(
                    f"{name}: a text expected, got {value!r}; scores of unknown origin are of no use later"
                )

    @property
    def classes_digest(self) -> str:
        """sha256 (hex) of the class list's canonical JSON: scores are comparable by class where it is equal."""
        return hashlib.sha256(canonical_json([list(pair) for pair in self.classes]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class ClipScores:
    """The scores of a set of clips.

    Attributes:
        keys: n clip keys, each once.
        scores: float32 [n, C], logits. ±inf are allowed, NaN is not.
        targets: bool [n, C].
        origin: what they are of; it names C classes.

    Raises:
        ValueError: the parts do not fit each other.
    """

    keys: Sequence[str]
    scores: np.ndarray
    targets: np.ndarray
    origin: ScoresOrigin

    def __post_init__(self) -> None:
        shape = (len(self.keys), len(self.origin.classes))
        if not 1 <= shape[1] <= MOST_CLASSES:
            raise ValueError(f"origin: 1 to {MOST_CLASSES} classes expected, got {shape[1]}")
        for name, array, dtype in (("scores", self.scores, np.float32), ("targets", self.targets, np.bool_)):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name}: {np.dtype(dtype)} {list(shape)} expected for {shape[0]} keys and {shape[1]} classes, "
                    f"got {array.dtype} {list(array.shape)}; nothing is converted here, so that nothing is rounded"
                )
        if len(set(self.keys)) != shape[0]:
            raise ValueError(f"keys: each once expected, got {shape[0] - len(set(self.keys))} repetitions")
        broken = np.flatnonzero(np.isnan(self.scores).any(axis=1))
        if len(broken):
            raise ValueError(f"scores: no NaN expected, got {len(broken)} clips with one, first {self.keys[broken[0]]}")


def write_scores(storage: Storage, name: str, clips: ClipScores) -> None:
    """Publishes scores atomically, over what had that name before.

    Args:
        storage: where: a store's own (`Store.storage`), a run's folder, or what `split_uri` gave.
        name: in that storage, `scores/eval.parquet`.

    Raises:
        ValueError: the name does not end in `.parquet`, or something noted is not JSON.
        StorageError: the backend failed; what was there is still there.
    """
    if not name.endswith(SUFFIX):
        raise ValueError(f"expected a name that ends in {SUFFIX}, got {name!r}")
    origin = clips.origin
    summary = {
        "kind": KIND,
        "format": FORMAT,
        "clips": len(clips.keys),
        "model": origin.model,
        "checkpoint": origin.checkpoint,
        "split": origin.split,
        "snapshot": origin.snapshot,
        "classes": [list(pair) for pair in origin.classes],
        "classes_digest": origin.classes_digest,
        "noted": dict(origin.noted),
    }
    size = len(origin.classes)
    flat = pa.array(np.ascontiguousarray(clips.scores).reshape(-1))
    rows, indices = np.nonzero(clips.targets)
    ends = np.cumsum(np.bincount(rows, minlength=len(clips.keys)))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    labels = pa.ListArray.from_arrays(pa.array(offsets), pa.array(indices.astype(np.int16)))
    schema = scores_schema(size)
    columns = [pa.array(clips.keys, pa.string()), pa.FixedSizeListArray.from_arrays(flat, size), labels]
    storage.publish(name, to_parquet(pa.Table.from_arrays(columns, schema.names), schema, summary, ROW_GROUP))


def read_scores(storage: Storage, name: str) -> ClipScores:
    """What `write_scores` wrote: the same keys in the same order, the same bits of scores, targets and origin.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: damaged, or no table of ours at all.
        ValueError: a table of another kind or format, or one that contradicts itself.
    """
    table, summary = from_parquet(storage.read(name), storage.url(name))
    try:
        return _parse(table, summary)
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{storage.url(name)} holds no readable scores: {error}") from error


def split_uri(uri: str, **options: Any) -> tuple[Storage, str]:
    """The storage and the name of one file by its path or fsspec URI (`out/eval.parquet`, `s3://bucket/eval.parquet`).

    Raises:
        ValueError: the URI names no file.
    """
    folder, slash, name = uri.rpartition("/")
    if not name.endswith(SUFFIX) or folder.endswith(":/"):
        raise ValueError(f"expected the path or URI of a {SUFFIX} file, got {uri!r}")
    return Storage(folder or slash or ".", **options), name


def scores_schema(size: int) -> pa.Schema:
    """The columns of a file of scores of `size` classes."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("scores", pa.list_(pa.float32(), size)),
            ("labels", pa.list_(pa.int16())),  # indices of the classes that are true, ascending
        ]
    )


def _parse(table: pa.Table, summary: dict[str, Any]) -> ClipScores:
    found = (summary.get("kind"), summary.get("format"))
    if found != (KIND, FORMAT):
        raise ValueError(
            f"expected {KIND} of format {FORMAT}, it is {found[0] or 'another table'} of format {found[1]}"
        )
    origin = ScoresOrigin(
        summary["model"],
        summary["checkpoint"],
        summary["split"],
        summary["snapshot"],
        tuple((mid, name) for mid, name in summary["classes"]),
        dict(summary["noted"]),
    )
    if origin.classes_digest != summary["classes_digest"]:
        raise ValueError("its class list does not have the digest that it names")
    size, clips = len(origin.classes), len(table)
    wanted = scores_schema(size)
    if not table.schema.equals(wanted) or clips != summary["clips"]:
        raise ValueError(f"expected {summary['clips']} rows of {wanted.types}, got {clips} of {table.schema.types}")
    columns = [column.combine_chunks() for column in table.columns]
    flat = [columns[1].flatten(), columns[2].flatten()]
    if any(column.null_count for column in (*columns, *flat)):
        raise ValueError("it has empty cells")
    lengths, indices = columns[2].value_lengths().to_numpy(), flat[1].to_numpy()
    if len(indices) and not 0 <= indices.min() <= indices.max() < size:
        raise ValueError(f"its labels are not all between 0 and {size - 1}")
    targets = np.zeros((clips, size), np.bool_)
    targets[np.repeat(np.arange(clips), lengths), indices] = True
    return ClipScores(tuple(columns[0].to_pylist()), flat[0].to_numpy().reshape(clips, size), targets, origin)
