"""The store's three Parquet tables: plan, ledger, manifest. What each column means, and how a table becomes bytes.

Each file carries a summary in its Parquet key-value metadata under `avlens`, as JSON: what is needed to tell whether
work is left (counts, digests, the tars it names) is read from the footer without reading a row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.storage import StorageError
from stores.summaries import check_summary, place_of

METADATA_KEY = b"avlens"
_UNREADABLE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError)
TIME = pa.timestamp("ms", tz="UTC")
# In whichever table they are, no row is without one.
_ALWAYS = {"shard", "position", "key", "ytid", "start_ms", "end_ms", "mids", "labels", "status"}
_ALWAYS |= {"attempts", "rounds", "traffic", "requests"}

# One row per planned segment, in shard order.
PLAN_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("position", pa.int32()),  # within the shard, from 0
        ("key", pa.string()),  # <ytid>_<start_ms>
        ("ytid", pa.string()),
        ("start_ms", pa.int32()),
        ("end_ms", pa.int32()),
        ("mids", pa.list_(pa.string())),
        ("labels", pa.list_(pa.int16())),  # class indices, in the order of mids
    ]
)

# One row per planned segment of a media shard: what became of its clip.
LEDGER_SCHEMA = pa.schema(
    [
        ("position", pa.int32()),
        ("key", pa.string()),
        ("status", pa.string()),  # fetched | failed | pending
        ("cause", pa.string()),  # of the last failure; null when fetched or never tried
        ("words", pa.string()),  # the source's last words on it
        ("attempts", pa.int32()),  # fetches ever tried
        ("rounds", pa.int32()),  # consecutive failed tries that count towards giving up
        ("first_attempt", TIME),
        ("last_attempt", TIME),
        ("not_before", TIME),  # a pending clip is left alone until then; null: at once
        ("origin", pa.string()),  # what gave the clip: dir, http, youtube …
        ("extension", pa.string()),  # of the media: mp4, wav …
        ("media_sha256", pa.string()),
        ("media_bytes", pa.int64()),
        ("media_start_ms", pa.int32()),  # where the segment starts inside the media; null: decided when decoded
        ("tar", pa.string()),  # name of the media tar that holds it; null when media are not kept
        ("offset", pa.int64()),  # of the media's first byte in that tar
        ("traffic", pa.int64()),  # bytes that crossed the network for it, over all attempts
        ("requests", pa.int32()),  # HTTP requests made for it, over all attempts
    ]
)

# One row per fetched clip of a column shard: what the decoder and the feature made of it.
MANIFEST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),  # ok | undecodable | crashed
        ("words", pa.string()),  # why not ok
        ("ytid", pa.string()),
        ("start_ms", pa.int32()),
        ("end_ms", pa.int32()),
        ("mids", pa.list_(pa.string())),
        ("labels", pa.list_(pa.int16())),
        ("has_audio", pa.bool_()),
        ("has_video", pa.bool_()),
        ("mute", pa.bool_()),  # a sound track that stays below the mute threshold; null in columns without sound
        ("still", pa.bool_()),  # a picture that does not move; null in columns without picture
        ("short", pa.bool_()),  # less of the column's track decoded than the segment is long: it ends early or has gaps
        ("decoded_ms", pa.int32()),  # of the column's track that really decoded
        ("real_rows", pa.int32()),  # leading rows of the array that are not padding
        ("media_sha256", pa.string()),  # the input it was computed from
        ("media_start_ms", pa.int32()),
        ("json_offset", pa.int64()),  # of the json's first byte in the tar; offsets are null unless ok
        ("json_bytes", pa.int64()),
        ("array_offset", pa.int64()),  # of the .npy's first byte in the tar
        ("array_bytes", pa.int64()),
        ("sample_offset", pa.int64()),  # of the sample's first header; samples follow one another without a gap
        ("sample_bytes", pa.int64()),
        ("sample_xxh3", pa.string()),  # xxh3-64 (hex) of those bytes
    ]
)


def to_parquet(table: pa.Table, schema: pa.Schema, summary: dict[str, Any], row_group_size: int | None = None) -> bytes:
    """Serialises a table with its summary; equal input gives equal bytes.

    Raises:
        pa.ArrowInvalid: the table does not fit the schema (a bug of the caller).
    """
    text = json.dumps(summary, sort_keys=True, separators=(",", ":"), allow_nan=False)
    table = table.select(schema.names).cast(schema).replace_schema_metadata({METADATA_KEY: text.encode()})
    sink = io.BytesIO()
    # No other checksum guards a commit's own rows: a flipped bit in them is refused by every reader that asks for it.
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return sink.getvalue()


def from_parquet(data: bytes, name: str, schema: pa.Schema | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """A table and its summary.

    Read on the caller's own thread: a process that ends soon after pyarrow's pool was begun may be aborted by it
    (`terminate called without an active exception`; measured: one exit in twenty on a busy machine).

    Raises:
        StorageError: naming the object when it is no such table, or lacks a column.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
        missing = set(schema.names if schema else ()) - set(table.column_names)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        return _without_nulls(table, name), _parsed(table.schema.metadata, name)
    except _UNREADABLE as error:
        raise StorageError(f"{name} is not a readable table of this store: {error}") from error


def read_columns(data: bytes, name: str, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Some columns of a table, and its summary; on the caller's own thread, in half the time of `from_parquet`.

    Raises:
        StorageError: naming the object when it is no such table, or lacks a column.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        summary = _parsed(file.metadata.metadata, name)
        return _without_nulls(file.read(columns=list(columns), use_threads=False), name), summary
    except _UNREADABLE as error:
        raise StorageError(f"{name} is not a readable table of this store: {error}") from error


def summary_of(data: bytes, name: str) -> dict[str, Any]:
    """The summary alone, from the footer. Raises StorageError naming the object when there is none."""
    try:
        return _parsed(pq.read_metadata(pa.BufferReader(data)).metadata, name)
    except _UNREADABLE as error:
        raise StorageError(f"{name} is not a readable table of this store: {error}") from error


def _without_nulls(table: pa.Table, name: str) -> pa.Table:
    """The table, if each row of a plan, ledger or manifest has what none is without. Raises ValueError for another."""
    for column in sorted(_ALWAYS.intersection(table.column_names)) if place_of(name) else ():
        found = table[column]
        if found.null_count or (pa.types.is_list(found.type) and any(part.values.null_count for part in found.chunks)):
            raise ValueError(f"rows without {column}")
    return table


def _parsed(metadata: Mapping[bytes, bytes], name: str) -> dict[str, Any]:
    """The summary out of a footer's metadata. Raises ValueError, KeyError, TypeError or RecursionError for another."""
    return check_summary(json.loads(metadata[METADATA_KEY]), name)
