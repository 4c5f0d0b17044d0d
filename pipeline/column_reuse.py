"""What an older manifest of a column has that need not be computed again: rows and arrays of the same media."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np
import xxhash

from pipeline.segments import Segment
from stores.layout import Store
from stores.ledger import LedgerRow
from stores.manifest import OK, Manifest, ManifestRow
from stores.shards import npy_array
from stores.storage import StorageError

logger = logging.getLogger(__name__)


def repeated(
    old: Manifest | None, segments: Sequence[Segment], again: Set[str], only: Set[int] | None
) -> frozenset[int]:
    """Positions of clips that have one of the statuses `again`."""
    if old is None or not again:
        return frozenset()
    keys = {row.key for row in old.rows if row.status in again}
    chosen = range(len(segments)) if only is None else only
    return frozenset(position for position in chosen if segments[position].key in keys)


def tar_is_lost(store: Store, folder: str, old: Manifest) -> bool:
    """Whether the tar that a manifest names is missing from the column's folder, or of another size."""
    tar = old.summary["tar"]
    if tar is None:
        return False
    name = f"{folder}/{tar['name']}"
    if (size := store.storage.size(name)) == tar["size"]:
        return False
    logger.warning(
        "%s is %s; it is made anew", name, "missing" if size is None else f"of {size} bytes, not {tar['size']}"
    )
    return True


def reuse(
    store: Store,
    folder: str,
    old: Manifest,
    fetched: Sequence[LedgerRow],
    segments: Sequence[Segment],
    again: Set[int],
) -> tuple[dict[int, ManifestRow], dict[int, np.ndarray]]:
    """Rows, with the labels as planned now, and arrays of the clips whose media are those of the older manifest.

    Args:
        folder: of the column's split.
        fetched: the ledger's rows with media.
        segments: the shard's planned segments, in order.
        again: positions that are left out.

    Returns:
        both by position; clips whose stored bytes have changed are in neither.
    """
    rows: dict[int, ManifestRow] = {}
    arrays: dict[int, np.ndarray] = {}
    before = {row.key: row for row in old.rows}
    for row in fetched:
        found = before.get(row.key)
        if found is None or row.position in again:
            continue
        if (found.media_sha256, found.media_start_ms) != (row.media_sha256, row.media_start_ms):
            continue
        if found.status == OK:
            array = _read_array(store, f"{folder}/{old.summary['tar']['name']}", found)
            if array is None:
                continue
            arrays[row.position] = array
        segment = segments[row.position]
        rows[row.position] = replace(found, mids=segment.mids, labels=segment.labels)
    return rows, arrays


def _read_array(store: Store, tar: str, row: ManifestRow) -> np.ndarray | None:
    """A sample's array out of an older tar; None, with a warning, where the bytes are not those that were written."""
    assert row.sample_offset is not None and row.sample_bytes is not None
    assert row.array_offset is not None and row.array_bytes is not None
    try:
        data = store.storage.read_range(tar, row.sample_offset, row.sample_offset + row.sample_bytes)
    except (FileNotFoundError, StorageError) as error:
        logger.warning("%s cannot be read (%s); %s is computed again", tar, error, row.key)
        return None
    if xxhash.xxh3_64_hexdigest(data) != row.sample_xxh3:
        logger.warning("%s: the bytes of %s have changed; it is computed again", tar, row.key)
        return None
    start = row.array_offset - row.sample_offset
    return npy_array(data[start : start + row.array_bytes])
