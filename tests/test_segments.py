"""Reading segment lists: AudioSet's own, every accepted form, and every refused row with its line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import pickle
import re
from decimal import Decimal
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import segments
from pipeline.classes import ClassList, read_class_list
from pipeline.segment_rows import MAX_LINE_BYTES, Reason
from pipeline.segments import SCHEMA, Segment, SegmentError, SegmentTable, read_segments

CLASSES = ClassList(("/m/a", "/m/b", "/t/c", "dog"), ("A", "B", "C", "Dog"))
HEADER = b"# Segments csv created by a test\n# num_segs=?\n# YTID, start_seconds, end_seconds, positive_labels\n"
GOOD = b'--good-id_1, 30.000, 40.000, "/m/a,/t/c"\n'


def read(tmp_path: Path, content: bytes, skip_bad_rows: bool = False, name: str = "list.csv") -> SegmentTable:
    path = tmp_path / name
    path.write_bytes(content)
    return read_segments(path, CLASSES, skip_bad_rows)


def rows_of(found: SegmentTable) -> list[tuple]:
    return [tuple(row.values()) for row in found.table.to_pylist()]


def oracle(lines: list[str], indices: dict[str, int]) -> list[tuple]:
    """The same rows by Python's csv module and exact decimals."""
    rows = []
    for ytid, start, end, labels in csv.reader(lines, skipinitialspace=True):
        start_ms, end_ms = int(Decimal(start) * 1000), int(Decimal(end) * 1000)
        mids = labels.split(",")
        rows.append((f"{ytid}_{start_ms}", ytid, start_ms, end_ms, mids, [indices[mid] for mid in mids]))
    return rows


@pytest.mark.parametrize(("name", "count", "labels"), [("eval", 20_371, 51_804), ("balanced_train", 22_160, 52_882)])
def test_audiosets_lists_equal_an_independent_parse(shared_data: Path, name: str, count: int, labels: int) -> None:
    path = shared_data / f"{name}_segments.csv"
    with (shared_data / "class_labels_indices.csv").open(newline="") as file:
        indices = {row["mid"]: int(row["index"]) for row in csv.DictReader(file)}
    found = read_segments(path, read_class_list())
    assert found.table.schema == SCHEMA
    assert rows_of(found) == oracle(path.read_text().splitlines()[3:], indices)
    assert len(found.table) == count
    assert sum(map(len, found.table["labels"].to_pylist())) == labels  # num_positive_labels of the file's header
    assert found.csv_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bad_rows.total == 0


def test_real_clips_list(shared_data: Path) -> None:
    found = read_segments(shared_data / "real_clips" / "segments.csv", read_class_list())
    assert len(found.table) == 24


def test_columns_of_one_row(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path, HEADER + GOOD)) == [
        ("--good-id_1_30000", "--good-id_1", 30_000, 40_000, ["/m/a", "/t/c"], [0, 2])
    ]


@pytest.mark.parametrize(
    "row",
    [
        b'--good-id_1, 30.000, 40.000, "/m/a,/t/c"',
        b'--good-id_1,30.000,40.000,"/m/a,/t/c"',
        b'--good-id_1,30,40,"/m/a,/t/c"\r',
        b'--good-id_1,  30.0,  40.000000,  "/m/a,/t/c" \t\r',
    ],
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf# comment\r\n", b"\n\r\n# caf\xe9\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\n\n \n\r\n", b"\n# end"])
@pytest.mark.parametrize("zipped", [False, True])
def test_accepted_forms(tmp_path: Path, row: bytes, before: bytes, after: bytes, zipped: bool) -> None:
    content = before + row + after
    found = read(tmp_path, gzip.compress(content) if zipped else content)
    assert rows_of(found) == [("--good-id_1_30000", "--good-id_1", 30_000, 40_000, ["/m/a", "/t/c"], [0, 2])]
    assert found.csv_sha256 == hashlib.sha256(content).hexdigest()


def test_a_single_label_needs_no_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, b"id, 0, 10, dog\n").table["labels"].to_pylist() == [[3]]


def test_ids_differ_by_case_and_may_begin_with_a_dash(tmp_path: Path) -> None:
    found = read(tmp_path, b"-aBc, 0, 10, dog\n-abc, 0, 10, dog\n--, 0, 10, dog\n-aBc, 1, 10, dog\n")
    assert found.table["key"].to_pylist() == ["-aBc_0", "-abc_0", "--_0", "-aBc_1000"]


def test_a_uri_is_read_through_fsspec(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/lists/one.csv.gz", gzip.compress(HEADER + GOOD))
    assert len(read_segments("memory://lists/one.csv.gz", CLASSES).table) == 1


# --- properties ---------------------------------------------------------------------------------------------------

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
labels_lists = st.lists(st.sampled_from(CLASSES.mids), min_size=1, unique=True)
drawn_segments = st.builds(
    lambda ytid, start_ms, length_ms, mids: Segment(
        f"{ytid}_{start_ms}", ytid, start_ms, start_ms + length_ms, tuple(mids), tuple(map(CLASSES.mids.index, mids))
    ),
    ids,
    st.integers(0, 2**31 - 1 - 60_000),
    st.integers(1, 60_000),
    labels_lists,
)


def written(segment: Segment, space: str, decimals: int, line_end: str) -> str:
    start, end = (f"{Decimal(ms) / 1000:.{decimals}f}" for ms in (segment.start_ms, segment.end_ms))
    return f'{segment.ytid},{space}{start},{space}{end},{space}"{",".join(segment.mids)}"{line_end}'


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.lists(drawn_segments, min_size=1, max_size=20, unique_by=lambda segment: segment.key),
    space=st.sampled_from(["", " ", "  "]),
    decimals=st.integers(3, 6),
    line_end=st.sampled_from(["\n", "\r\n"]),
    comment=st.sampled_from(["", "# \u2603\n", "\n"]),
    block_bytes=st.sampled_from([1, 5, 64, 1 << 20]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: list[Segment],
    space: str,
    decimals: int,
    line_end: str,
    comment: str,
    block_bytes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes("".join(comment + written(segment, space, decimals, line_end) for segment in wanted).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "BLOCK_BYTES", block_bytes)
        found = read_segments(path, CLASSES)
    assert rows_of(found) == [
        (wish.key, wish.ytid, wish.start_ms, wish.end_ms, list(wish.mids), list(wish.labels)) for wish in wanted
    ]


def allowed(line: bytes) -> bool:
    """Whether a line is a right row, decided here with Python's own tools only."""
    try:
        ytid, start, end, labels = line.decode("ascii").removesuffix("\r").rstrip(" \t").split(",", 3)
    except ValueError:
        return False
    start, end, labels = start.lstrip(" "), end.lstrip(" "), labels.lstrip(" ")
    quoted = len(labels) >= 2 and labels[0] == labels[-1] == '"'
    mids = labels[1:-1].split(",") if quoted else [labels]
    if not (1 <= len(ytid) <= 64 and all(sign.isalnum() or sign in "-_" for sign in ytid)):
        return False
    if not all(re.fullmatch(r"\d{1,7}(\.\d{1,6})?", time, re.ASCII) for time in (start, end)):
        return False
    start_ms, end_ms = Decimal(start) * 1000, Decimal(end) * 1000
    if start_ms != int(start_ms) or end_ms != int(end_ms) or end_ms > 2**31 - 1 or not 0 < end_ms - start_ms <= 60_000:
        return False
    return set(mids) <= set(CLASSES.mids) and len(set(mids)) == len(mids)


mutations = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.integers(0, 4),
        st.binary(max_size=2) | st.sampled_from([b",", b'"', b" ", b".", b"0", b"-"]),
    ),
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(damaged=st.lists(st.tuples(drawn_segments, mutations), min_size=1, max_size=8))
def test_damaged_rows_are_kept_or_refused_as_an_independent_check_says(
    tmp_path_factory: pytest.TempPathFactory, damaged: list[tuple[Segment, list[tuple[int, int, bytes]]]]
) -> None:
    lines: list[bytes] = []
    for segment, changes in damaged:
        line = written(segment, " ", 3, "").encode()
        for place, length, replacement in changes:
            line = line[:place] + replacement + line[place + length :]
        lines += line.split(b"\n")
    path = tmp_path_factory.getbasetemp() / "damaged.csv"
    path.write_bytes(GOOD + b"".join(line + b"\n" for line in lines))
    found = read_segments(path, CLASSES, skip_bad_rows=True)

    silent = [line for line in lines if line.startswith(b"#") or not line.removesuffix(b"\r").strip(b" \t")]
    right = [line for line in lines if allowed(line)]
    repeated = found.bad_rows.counts[Reason.DUPLICATE_KEY]
    assert len(found.table) + repeated == len(right) + 1
    assert found.bad_rows.total - repeated == len(lines) - len(silent) - len(right)


# --- refusals -----------------------------------------------------------------------------------------------------

BAD_ROWS = [
    (b"only some words\n", Reason.MALFORMED),
    (b'id, 0.000, 10.000, "/m/a\n', Reason.MALFORMED),
    (b'../../x, 0.000, 10.000, "/m/a"\n', Reason.BAD_ID),
    (b'a.b, 0.000, 10.000, "/m/a"\n', Reason.BAD_ID),
    (b"i" * 65 + b', 0.000, 10.000, "/m/a"\n', Reason.BAD_ID),
    (b'id, 10.000, 10.000, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, -1.000, 10.000, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, nan, 10.000, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, 0.0001, 10.000, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, 2147483.000, 2147483.648, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, 9999990.000, 9999999.000, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, 0.000, 60.001, "/m/a"\n', Reason.BAD_TIMES),
    (b'id, 0.000, 10.000, "/m/a,/m/none"\n', Reason.UNKNOWN_MID),
    (b'id, 0.000, 10.000, "/m/A"\n', Reason.UNKNOWN_MID),
    (b'id, 0.000, 10.000, "/m/a,/m/b,/m/a"\n', Reason.REPEATED_MID),
    (b'id, 0.000, 10.000, "/m/a\0"\n', Reason.BAD_BYTES),
    (b'id, 0.000, 10.000, "\xff\xfe"\n', Reason.BAD_BYTES),
    (b'id, 0.000, 10.000, "' + b"/m/a," * 2_000_000 + b'/m/b"\n', Reason.TOO_LONG),
    (b'--good-id_1, 30.0, 35.0, "/m/b"\n', Reason.DUPLICATE_KEY),
]


@pytest.mark.parametrize(
    ("row", "reason"), BAD_ROWS, ids=lambda value: value[:24] if isinstance(value, bytes) else value
)
def test_a_bad_row_stops_with_its_line_or_is_skipped_and_counted(tmp_path: Path, row: bytes, reason: Reason) -> None:
    content = HEADER + b"\n" + GOOD + row + b'after, 0.000, 10.000, "/m/b"\n'
    with pytest.raises(SegmentError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'list.csv'}, line 6: found ")
    assert "expected" in message
    assert "--skip-bad-rows" in message
    assert len(message) < 600

    found = read(tmp_path, content, skip_bad_rows=True)
    assert found.table["key"].to_pylist() == ["--good-id_1_30000", "after_0"]
    assert found.bad_rows.counts == {reason: 1}
    assert [(bad_row.line, bad_row.reason) for bad_row in found.bad_rows.examples] == [(6, reason)]


@pytest.mark.parametrize("block_bytes", [1, 100, 8 << 20])
def test_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", block_bytes)
    rows = b"".join(b"id%d, 0, 10, dog\n" % number for number in range(200))
    with pytest.raises(SegmentError, match=r"list\.csv, line 204: found 1 field,"):
        read(tmp_path, HEADER + rows + b"wrong\n" + rows)


def test_a_repeated_key_names_both_lines_and_the_first_counts(tmp_path: Path) -> None:
    content = (
        HEADER + b"a, 0, 10, dog\nb, 0, 10, dog\nwrong\na, 0, 5, /m/a\nA, 0, 5, dog\nb, 0.000, 4, dog\na, 0, 6, dog\n"
    )
    with pytest.raises(SegmentError, match="line 6: found 1 field,"):
        read(tmp_path, content)
    with pytest.raises(
        SegmentError, match=r"line 7: found the key a_0 .* again; expected .* the first is on line 4\. "
    ):
        read(tmp_path, content.replace(b"wrong\n", b"\n"))
    found = read(tmp_path, content, skip_bad_rows=True)
    assert found.table.select(["key", "end_ms"]).to_pylist() == [
        {"key": "a_0", "end_ms": 10_000},
        {"key": "b_0", "end_ms": 10_000},
        {"key": "A_0", "end_ms": 5_000},
    ]
    assert found.bad_rows.counts == {Reason.MALFORMED: 1, Reason.DUPLICATE_KEY: 3}
    assert [row.line for row in found.bad_rows.examples] == [6, 7, 9, 10]


def test_a_line_longer_than_many_blocks_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", 4096)
    found = read(
        tmp_path, b"#" * (3 * MAX_LINE_BYTES) + b"\n" + b"x" * (3 * MAX_LINE_BYTES) + b"\n" + GOOD, skip_bad_rows=True
    )
    assert [(row.line, row.reason) for row in found.bad_rows.examples] == [(2, Reason.TOO_LONG)]
    assert len(found.table) == 1


@pytest.mark.parametrize("content", [b"", HEADER, b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"")])
def test_no_segments_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SegmentError, match=r"list\.csv: found no segments \(no bad rows\); expected rows like"):
        read(tmp_path, content)


def test_nothing_but_bad_rows_is_an_error_that_shows_some(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match=r"no segments \(2 bad rows \(malformed 2\), such as\s+line 1: found"):
        read(tmp_path, b"<html>\n</html>\n", skip_bad_rows=True)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    packed = gzip.compress(HEADER + GOOD * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-20])
    (tmp_path / "damaged.csv.gz").write_bytes(packed[:20] + b"\xff" * 20 + packed[40:])
    (tmp_path / "folder").mkdir()
    for name in ("none.csv", "cut.csv.gz", "damaged.csv.gz", "folder"):
        with pytest.raises(SegmentError, match=f"{re.escape(str(tmp_path / name))}: the segment list cannot be read"):
            read_segments(tmp_path / name, CLASSES, skip_bad_rows=True)
    with pytest.raises(SegmentError, match=r"nowhere://x\.csv: the segment list cannot be read"):
        read_segments("nowhere://x.csv", CLASSES)


def test_too_many_rows_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_ROWS", 2)
    rows = [b"id%d, 0, 10, dog\n" % number for number in range(3)]
    assert len(read(tmp_path, b"".join(rows[:2])).table) == 2
    with pytest.raises(SegmentError, match=r"more than 2 rows\. Split"):
        read(tmp_path, b"".join(rows))


def test_errors_and_segments_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(SegmentError("file, line 3: what")))
    assert (type(error), str(error)) == (SegmentError, "file, line 3: what")
    segment = Segment("-a_0", "-a", 0, 10_000, ("dog",), (3,))
    assert pickle.loads(pickle.dumps(segment)) == segment
