"""Everything that a store knows of one clip: what was planned, how it was fetched, and what each column made of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stores.layout import Store, StoreError
from stores.ledger import Ledger, LedgerRow, read_ledger
from stores.manifest import OK, ManifestRow, is_current, read_manifest
from stores.plans import class_names, labels_digests
from stores.shards import npy_array
from stores.specs import Spec
from stores.spool import Spool
from stores.storage import StorageError
from stores.text import one_line, size_text

NEAR = 5  # keys named in place of one that is not there
_FLAGS = ("has_audio", "has_video", "mute", "still", "short")


@dataclass(frozen=True)
class ColumnClip:
    """A clip in one column.

    Attributes:
        row: of the manifest; None where the column does not have the clip (yet).
        tar: the name of the tar that it lies in.
        up_to_date: whether its shard is.
        array: the stored array, of the spec's shape and dtype; None where the clip is not ok or cannot be read.
        trouble: why an array that should be there is not, or that its bytes have changed.
    """

    spec: Spec
    row: ManifestRow | None
    tar: str | None
    up_to_date: bool
    array: np.ndarray | None
    trouble: str | None


@dataclass(frozen=True)
class Clip:
    """A clip of one split.

    Attributes:
        planned: its row of the plan, see `stores.tables.PLAN_SCHEMA`.
        classes: names of its classes, in the order of its mids.
        ledger: its row of the ledger; None before its shard's first commit.
        in_spool: whether the spool of its shard, which is under way, has an outcome of it.
    """

    split: str
    planned: Mapping[str, Any]
    classes: tuple[str, ...]
    ledger: LedgerRow | None
    in_spool: bool
    columns: tuple[ColumnClip, ...]


def find_clips(store: Store, key: str, split: str | None = None, column: str | None = None) -> list[Clip]:
    """The clip in every split that plans it, or in one; with all columns, or one (by its full name).

    Raises:
        StoreError: no such split, or no such clip: the message names keys that are near.
        StorageError: a plan, ledger or manifest cannot be read.
    """
    found = _find(store, key, store.splits() if split is None else [split])
    return [_clip(store, name, plan, summary, at, column) for name, plan, summary, at in found]


def find_planned(store: Store, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Every split that plans a clip, with its row of the plan (`stores.tables.PLAN_SCHEMA`); reads plans only.

    Raises:
        StoreError: no such clip: the message names keys that are near.
        StorageError: a plan cannot be read.
    """
    return [(name, plan.slice(at, 1).to_pylist()[0]) for name, plan, _, at in _find(store, key, store.splits())]


def _find(store: Store, key: str, splits: Sequence[str]) -> list[tuple[str, pa.Table, dict[str, Any], int]]:
    """By split that plans the clip: its name, plan and summary, and the clip's row."""
    found, near = [], []
    for name in splits:
        plan, summary = store.read_plan(name)
        at = pc.index(plan["key"], key).as_py()
        if at < 0:
            near += near_keys(plan["key"], key)
            continue
        if [plan[column][at].as_py() for column in ("shard", "position")] != [*divmod(at, store.config.shard_size)]:
            raise StorageError(f"{store.plan_name(name)} is damaged: its row {at} is not in its place: restore it")
        found.append((name, plan, summary, at))
    if found:
        return found
    hint = f"near it: {', '.join(near[:NEAR])}" if near else "a key is <ytid>_<start in ms>, in the ids' own case"
    raise StoreError(f"no clip {key!r} in {', '.join(splits) or 'any split'} of {store.storage.uri}; {hint}")


def near_keys(keys: pa.ChunkedArray, key: str) -> list[str]:
    """Keys that may have been meant: another case, another start of the same video, or a slip of the keyboard."""
    folded, wanted = pc.utf8_lower(keys), key.lower()
    ytid = wanted.rsplit("_", 1)[0]
    same_video = pc.or_(pc.starts_with(folded, f"{wanted}_"), pc.starts_with(folded, f"{ytid}_"))
    found = keys.filter(pc.equal(folded, wanted)).to_pylist()
    found += [other for other in keys.filter(same_video).to_pylist() if other not in found]
    # All pairs of two million keys would take a minute: a slip is looked for among those that begin alike.
    alike = keys.filter(pc.starts_with(folded, wanted[:2])).slice(0, 10_000).to_pylist()
    found += [other for other in difflib.get_close_matches(key, alike, NEAR, 0.8) if other not in found]
    return found[:NEAR]


def _clip(store: Store, split: str, plan: pa.Table, summary: dict[str, Any], at: int, column: str | None) -> Clip:
    planned = plan.slice(at, 1).to_pylist()[0]
    shard, size = planned["shard"], store.config.shard_size
    ledger = read_ledger(store, split, shard)
    labels = labels_digests(plan.slice(shard * size, size), size)[0]
    specs = [store.read_spec(name) for name in (store.columns() if column is None else [column])]
    names = dict(class_names(summary))
    return Clip(
        split=split,
        planned=planned,
        classes=tuple(names.get(mid, mid) for mid in planned["mids"]),
        ledger=next((row for row in ledger.rows if row.key == planned["key"]), None) if ledger else None,
        in_spool=planned["position"] in Spool(store, split, shard).positions(),
        columns=tuple(_column_clip(store, spec, split, planned, ledger, labels) for spec in specs),
    )


def _column_clip(
    store: Store, spec: Spec, split: str, planned: Mapping[str, Any], ledger: Ledger | None, labels: str
) -> ColumnClip:
    manifest = read_manifest(store, spec.column, split, planned["shard"])
    row = next((row for row in manifest.rows if row.key == planned["key"]), None) if manifest else None
    if manifest is None or row is None:
        return ColumnClip(spec, None, None, False, None, None)
    current = is_current(manifest.summary, ledger.summary if ledger else None, spec.digest, labels)
    if row.status != OK:
        return ColumnClip(spec, row, None, current, None, None)
    tar = f"{store.column_folder(spec.column, split)}/{manifest.summary['tar']['name']}"
    array, trouble = _read_array(store, tar, row)
    return ColumnClip(spec, row, tar, current, array, trouble)


def _read_array(store: Store, tar: str, row: ManifestRow) -> tuple[np.ndarray | None, str | None]:
    if row.sample_offset is None or row.sample_bytes is None or row.array_offset is None or row.array_bytes is None:
        return None, "its manifest does not say where it lies; `verify` says more"
    try:
        data = store.storage.read_range(tar, row.sample_offset, row.sample_offset + row.sample_bytes)
        start = row.array_offset - row.sample_offset
        array = npy_array(data[start : start + row.array_bytes])
    except FileNotFoundError:
        return None, "the tar is not there"
    except (StorageError, ValueError) as error:
        return None, f"not readable: {error}"
    changed = xxhash.xxh3_64_hexdigest(data) != row.sample_xxh3
    return array, "its bytes are not those that were written; `verify` says more" if changed else None


def describe(clip: Clip) -> Iterator[str]:
    """The clip as lines of text."""
    planned = clip.planned
    yield f"{planned['key']}: {clip.split}, shard {planned['shard']:05d}, position {planned['position']}"
    start_s, end_s = planned["start_ms"] / 1000, planned["end_ms"] / 1000
    yield _field("segment", f"{start_s:.3f} to {end_s:.3f} s of {planned['ytid']}")
    labels = zip(planned["labels"], planned["mids"], clip.classes, strict=True)
    yield _field("classes", "; ".join(f"{name} ({index}, {mid})" for index, mid, name in labels))
    yield from _describe_ledger(clip)
    for column in clip.columns:
        yield ""
        yield f"{column.spec.column}: {_state(column)}"
        yield from _describe_column(column)


def _describe_ledger(clip: Clip) -> Iterator[str]:
    row = clip.ledger
    if clip.in_spool:
        yield _field("spool", "has an outcome of it that its shard has yet to commit")
    if row is None:
        yield _field("ledger", "none yet: the shard is not committed")
        return
    why = f": {row.cause}" + (f", {row.words!r}" if row.words else "") if row.cause else ""
    yield _field("ledger", row.status + why)
    yield _field("attempts", f"{row.attempts} ({row.requests} requests, {size_text(row.traffic)} of traffic)")
    times = {"first": row.first_attempt, "last": row.last_attempt, "not before": row.not_before}
    if any(times.values()):
        texts = [f"{name} {time.strftime('%Y-%m-%d %H:%M:%S')}" for name, time in times.items() if time]
        yield _field("times (UTC)", ", ".join(texts))
    if row.media_sha256:
        start = "decided when decoded" if row.media_start_ms is None else f"at {row.media_start_ms / 1000:.3f} s"
        size = "?" if row.media_bytes is None else f"{row.media_bytes:,}"
        yield _field("media", f"{row.extension} from {row.origin}, {size} bytes, start of the segment {start}")
        yield _field("sha256", row.media_sha256)
        kept = f"{row.tar} at byte {row.offset:,}" if row.tar and row.offset is not None else "media not kept"
        yield _field("tar", kept)


def _state(column: ColumnClip) -> str:
    if column.row is None:
        return "does not have this clip"
    words = f" ({one_line(column.row.words)})" if column.row.words else ""
    return f"{column.row.status}{words}, shard {'up to date' if column.up_to_date else 'STALE'}"


def _describe_column(column: ColumnClip) -> Iterator[str]:
    row = column.row
    if row is None or row.status != OK:
        return
    flags = {flag.replace("_", " "): getattr(row, flag) for flag in _FLAGS}
    known = [f"{flag} {'yes' if value else 'no'}" for flag, value in flags.items() if value is not None]
    yield _field("flags", ", ".join(known))
    yield _field("decoded", f"{(row.decoded_ms or 0) / 1000:.3f} s, {row.real_rows} rows of {column.spec.shape[0]}")
    yield _field("tar", str(column.tar))
    places = (
        ("sample", row.sample_offset, row.sample_bytes),
        ("json", row.json_offset, row.json_bytes),
        ("array", row.array_offset, row.array_bytes),
    )
    known = [f"{name} {size:,} at {at:,}" for name, at, size in places if size is not None and at is not None]
    yield _field("bytes", ", ".join(known))
    yield _field("xxh3", f"{row.sample_xxh3}{'' if column.trouble else ', as written'}")
    if column.trouble:
        yield _field("TROUBLE", column.trouble)
    if column.array is not None:
        yield _field("array", statistics(column.array))


def statistics(array: np.ndarray) -> str:
    """Shape, dtype, range, mean and share of zeros of an array's finite values, and whether there are others."""
    values = array[np.isfinite(array)].astype(np.float64)
    others = array.size - values.size
    text = f"{array.dtype} {list(array.shape)}"
    if values.size:
        zeros = 100 * float(np.mean(values == 0))
        text += f", min {values.min():.4g}, mean {values.mean():.4g}, max {values.max():.4g}, zeros {zeros:.1f} %"
    return text + (f", NOT FINITE: {others:,} values" if others else ", all finite")


def _field(name: str, text: str) -> str:
    return f"  {name:<12}{one_line(text)}"
