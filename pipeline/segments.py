"""AudioSet's segment lists: one row is a YouTube id, a start, an end and the labels heard and seen there.

A row is accepted by one regular expression and a few vectorised checks in Arrow, a block of lines at a time, because
the largest list has two million rows. Only a row that they refuse is looked at in Python, to say what is wrong with it.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.classes import ClassList
from pipeline.segment_rows import (
    EXAMPLE,
    MAX_LINE_BYTES,
    MAX_SEGMENT_MS,
    MAX_TIME_MS,
    ROW,
    BadRow,
    BadRows,
    Reason,
    explain,
)

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ytid", pa.string()),
        ("start_ms", pa.int32()),
        ("end_ms", pa.int32()),
        ("mids", pa.list_(pa.string())),
        ("labels", pa.list_(pa.int16())),
    ]
)
MAX_ROWS = 50_000_000
BLOCK_BYTES = 8 << 20


class SegmentError(ValueError):
    """A segment list that cannot be used; the text names file, line, what came, what was expected and the remedy."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of an AudioSet CSV.

    `key` is `<ytid>_<start_ms>`; times are in milliseconds on the video's own timeline; `labels` are class
    indices in the order of `mids`.
    """

    key: str
    ytid: str
    start_ms: int
    end_ms: int
    mids: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class SegmentTable:
    """A segment list as read.

    `table` has the columns of `SCHEMA` in file order; `csv_sha256` is the hex digest of the CSV's bytes (unpacked, so a
    .csv and its .csv.gz agree); `bad_rows` says what was dropped.
    """

    table: pa.Table
    csv_sha256: str
    bad_rows: BadRows


def read_segments(path: str | Path, classes: ClassList, skip_bad_rows: bool = False) -> SegmentTable:
    """Read a segment list in AudioSet's form: `ytid, start_seconds, end_seconds, "mid,mid"`, and `#` comments.

    `path` is a local file or an fsspec URI, plain or gzipped. A byte order mark, CRLF line ends, blank lines, no space
    after a comma and a single unquoted mid are accepted. Ids are 1–64 of `A-Za-z0-9_-` (YouTube's have 11).
    Of rows with the same key the first counts.

    Raises:
        SegmentError: the file cannot be read or has no rows; or, unless `skip_bad_rows`, for the first bad row.

    Source: https://research.google.com/audioset/download.html
    """
    digest = hashlib.sha256()
    bad_rows = BadRows()

    def refuse(bad_row: BadRow) -> None:
        if not skip_bad_rows:
            raise SegmentError(f"{path}, {bad_row}. {bad_row.remedy}")
        bad_rows.add(bad_row)

    batches: list[pa.RecordBatch] = []
    lines: list[np.ndarray] = []
    rows = 0
    for first_line, block in _line_blocks(path, digest):
        batch, batch_lines = _parse_block(block, first_line, classes, refuse)
        batches.append(batch)
        lines.append(batch_lines)
        rows += len(batch)
        if rows > MAX_ROWS:
            raise SegmentError(f"{path}: more than {MAX_ROWS} rows. Split the list into several --segments")
    if not rows:
        expected = f"expected rows like {EXAMPLE}. Check that this is the right file"
        raise SegmentError(f"{path}: found no segments ({bad_rows}); {expected}")
    table = pa.Table.from_batches(batches, SCHEMA)
    again = _repeated_keys(table["key"], np.concatenate(lines), refuse)
    if again.any():
        table = table.filter(pa.array(~again))
    return SegmentTable(table, digest.hexdigest(), bad_rows)


def _repeated_keys(keys: pa.ChunkedArray, lines: np.ndarray, refuse: Callable[[BadRow], None]) -> np.ndarray:
    """Which rows (bool) have the key of an earlier row; each of them is refused. `lines`: every row's line."""
    encoded = keys.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    # Codes are given in order of first appearance, so a new key is one above all before it.
    highest_before = np.concatenate([[-1], np.maximum.accumulate(codes)[:-1]])
    again = codes <= highest_before
    first_lines = lines[~again]
    for row in np.flatnonzero(again):
        key = encoded.dictionary[codes[row]].as_py()
        found = f"the key {key} (id and start) again"
        expected = f"each key once; the first is on line {first_lines[codes[row]]}"
        refuse(BadRow(int(lines[row]), Reason.DUPLICATE_KEY, found, expected))
    return again


def _line_blocks(path: str | Path, digest: hashlib._Hash) -> Iterator[tuple[int, bytes]]:
    """Yield (number of its first line, whole lines each ending in a line feed), updating `digest` with all bytes.

    A line may lose bytes beyond `MAX_LINE_BYTES`; it stays longer than that, so it is refused all the same.
    """
    line = 1
    carry = b""
    with ExitStack() as stack:
        try:
            stream = _open(path, stack)
            while chunk := stream.read(BLOCK_BYTES):
                digest.update(chunk)
                if line == 1 and not carry:
                    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
                whole, newline, rest = chunk.rpartition(b"\n")
                if newline:
                    block = carry + whole + newline
                    yield line, block
                    line += block.count(b"\n")
                    carry = b""
                carry = (carry + rest)[: MAX_LINE_BYTES + 1]
        except (OSError, EOFError, zlib.error, ImportError, ValueError) as error:
            remedy = "Check the path and the file"
            raise SegmentError(f"{path}: the segment list cannot be read ({error}). {remedy}") from error
    if carry:
        yield line, carry + b"\n"


def _open(path: str | Path, stack: ExitStack) -> IO[bytes]:
    file = stack.enter_context(fsspec.open(str(path), "rb") if "://" in str(path) else open(path, "rb"))  # noqa: SIM115
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(IO[bytes], stack.enter_context(gzip.open(file))) if zipped else file


def _parse_block(
    block: bytes, first_line: int, classes: ClassList, refuse: Callable[[BadRow], None]
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Parse whole lines: the good rows and their line numbers (int64). The bad ones are refused in line order."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    numbers = np.flatnonzero(data[offsets[:-1]] != ord("#"))
    lengths = np.diff(offsets)
    lines = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(block)])
    lines = lines.take(pa.array(numbers))

    fields = pc.extract_regex(lines, ROW)
    good = fields.is_valid().to_numpy(zero_copy_only=False) & (lengths[numbers] <= MAX_LINE_BYTES)
    batch, columns_good = _columns(fields.filter(pa.array(good)), classes)
    good[good] = columns_good
    for index in np.flatnonzero(~good):
        bad_row = explain(lines[index].as_py(), first_line + int(numbers[index]), classes.indices)
        if bad_row is not None:
            refuse(bad_row)
    return batch, numbers[good] + first_line


def _columns(fields: pa.StructArray, classes: ClassList) -> tuple[pa.RecordBatch, np.ndarray]:
    """Turn matched rows into the columns of `SCHEMA`; also return which rows passed (bool): only those are in it."""
    ytid, start, end, mids = (fields.field(name).cast(pa.string()) for name in ("ytid", "start", "end", "mids"))
    start_ms, start_whole = _milliseconds(start)
    end_ms, end_whole = _milliseconds(end)
    mid_lists = pc.split_pattern(pc.ascii_trim(mids, characters='"'), ",")
    labels = pc.index_in(mid_lists.flatten(), pa.array(classes.mids))

    good = start_whole & end_whole & (end_ms > start_ms) & (end_ms - start_ms <= MAX_SEGMENT_MS)
    good &= end_ms <= MAX_TIME_MS
    good &= _known_and_distinct(labels, mid_lists.offsets.to_numpy(), len(classes))
    batch = pa.RecordBatch.from_arrays(
        [
            pc.binary_join_element_wise(ytid, pa.array(start_ms).cast(pa.string()), "_"),
            ytid,
            pa.array(start_ms.astype(np.int32)),
            pa.array(end_ms.astype(np.int32)),
            mid_lists,
            pa.ListArray.from_arrays(mid_lists.offsets, labels.cast(pa.int16())),
        ],
        schema=SCHEMA,
    )
    return batch if good.all() else batch.filter(pa.array(good)), good


def _known_and_distinct(labels: pa.Int32Array, offsets: np.ndarray, classes: int) -> np.ndarray:
    """Which rows (bool) have no unknown label (null) and none twice; row i's labels are offsets[i]:offsets[i + 1]."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    codes = labels.fill_null(classes).to_numpy()
    good = np.ones(len(offsets) - 1, bool)
    good[rows[codes == classes]] = False
    pairs = np.sort(rows * (classes + 1) + codes)
    good[pairs[1:][pairs[1:] == pairs[:-1]] // (classes + 1)] = False
    return good


def _milliseconds(seconds: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds (int64), and where they are whole (bool).

    A microsecond is a thousandth here and the float64's own error is below 1e-5, so 1e-4 separates the two.
    """
    exact = seconds.cast(pa.float64()).to_numpy() * 1000
    rounded = np.rint(exact)
    return rounded.astype(np.int64), np.abs(exact - rounded) < 1e-4
