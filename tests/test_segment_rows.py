"""What is said of a row that is refused."""

from __future__ import annotations

import pytest

from pipeline.segment_rows import EXAMPLES_PER_REASON, MAX_LINE_BYTES, BadRow, BadRows, Reason, explain

MIDS = {"/m/a", "/m/b"}


@pytest.mark.parametrize(
    ("row", "reason", "found", "expected"),
    [
        (b"hello\n", Reason.MALFORMED, "1 field, 'hello'", "four, as in --4gqARaEJE"),
        (b"id, 0.0, 10.0\n", Reason.MALFORMED, "3 fields", "four"),
        (b"YTID,start_seconds,end_seconds,positive_labels\n", Reason.MALFORMED, "a header", "begin with '#'"),
        (b"id, 0.0, 10.0, \n", Reason.MALFORMED, "the labels ''", "one label, or several in one pair of quotes"),
        (b'id, 0.0, 10.0, ""\n', Reason.MALFORMED, "the labels '\"\"'", "one label"),
        (b'id, 0.0, 10.0, "/m/a, /m/b"\n', Reason.MALFORMED, "/m/a, /m/b", "no spaces"),
        (b'id, 0.0, 10.0, "/m/a\n', Reason.MALFORMED, "the labels", "pair of quotes"),
        (b"id, 0.0, 10.0, /m/a,/m/b\n", Reason.MALFORMED, "/m/a,/m/b", "in one pair of quotes"),
        (b"id, 0.0, 10.0, /m/\xc3\xa9\n", Reason.MALFORMED, "/m/\\xe9", "one label"),
        (b"../x, 0.0, 10.0, /m/a\n", Reason.BAD_ID, "the id '../x'", "1 to 64 of"),
        (b" id, 0.0, 10.0, /m/a\n", Reason.BAD_ID, "the id ' id'", "1 to 64 of"),
        (b", 0.0, 10.0, /m/a\n", Reason.BAD_ID, "the id ''", "1 to 64 of"),
        (b"x" * 65 + b", 0.0, 10.0, /m/a\n", Reason.BAD_ID, "xxx", "1 to 64 of"),
        (b"id, -1.0, 10.0, /m/a\n", Reason.BAD_TIMES, "start '-1.0' and end '10.0'", "plain decimals"),
        (b"id, nan, 10.0, /m/a\n", Reason.BAD_TIMES, "start 'nan'", "plain decimals"),
        (b"id, 0.0, inf, /m/a\n", Reason.BAD_TIMES, "end 'inf'", "plain decimals"),
        (b"id, 0.0, 1e1, /m/a\n", Reason.BAD_TIMES, "end '1e1'", "plain decimals"),
        (b"id, 0.0, 10.0005, /m/a\n", Reason.BAD_TIMES, "end '10.0005'", "whole milliseconds"),
        (b"id, 0.0, 0.0, /m/a\n", Reason.BAD_TIMES, "start '0.0' and end '0.0'", "an end after the start"),
        (b"id, 10.0, 0.0, /m/a\n", Reason.BAD_TIMES, "start '10.0' and end '0.0'", "an end after the start"),
        (b"id, 0.0, 60.001, /m/a\n", Reason.BAD_TIMES, "end '60.001'", "at most 60 seconds"),
        (b"id, 2147480.0, 2147483.648, /m/a\n", Reason.BAD_TIMES, "2147483.648", "an end of at most 2147483.647"),
        (b'id, 0.0, 10.0, "/m/a,/m/x"\n', Reason.UNKNOWN_MID, "the label '/m/x'", "ids of the class list"),
        (b'id, 0.0, 10.0, "/m/y,/m/x"\n', Reason.UNKNOWN_MID, "the label '/m/y' and 1 more", "list's 2 classes"),
        (b'id, 0.0, 10.0, "/m/a,/m/b,/m/a"\n', Reason.REPEATED_MID, "the label '/m/a' twice", "each label once"),
        (b"id, 0.0\0, 10.0, /m/a\n", Reason.BAD_BYTES, "a NUL byte at byte 7", "text"),
        (b"id, 0.0, 10.0, \xff\n", Reason.BAD_BYTES, "the byte 0xff", "UTF-8"),
        (b"x" * MAX_LINE_BYTES + b"\n", Reason.TOO_LONG, "xxxx", f"at most {MAX_LINE_BYTES} bytes"),
    ],
)
def test_explanations(row: bytes, reason: Reason, found: str, expected: str) -> None:
    bad_row = explain(row, 7, MIDS)
    assert bad_row is not None
    assert (bad_row.line, bad_row.reason) == (7, reason)
    assert found in bad_row.found
    assert expected in bad_row.expected
    assert len(str(bad_row)) < 400, "an error must not repeat a megabyte of somebody's file"


@pytest.mark.parametrize("row", [b"\n", b"\r\n", b"  \t\n", b" \r\n"])
def test_blank_lines_are_nobodys_fault(row: bytes) -> None:
    assert explain(row, 1, MIDS) is None


def test_remedies() -> None:
    assert "--labels" in BadRow(1, Reason.UNKNOWN_MID, "", "").remedy
    assert all("--skip-bad-rows" in BadRow(1, reason, "", "").remedy for reason in Reason)


def test_report_counts_all_and_shows_the_first_few() -> None:
    report = BadRows()
    assert str(report) == "no bad rows"
    for line in range(1, 11):
        report.add(BadRow(line, Reason.BAD_ID, f"id {line}", "an id"))
    report.add(BadRow(11, Reason.BAD_TIMES, "no times", "times"))
    assert report.total == 11
    assert report.counts == {Reason.BAD_ID: 10, Reason.BAD_TIMES: 1}
    assert [row.line for row in report.examples] == [*range(1, EXAMPLES_PER_REASON + 1), 11]
    assert str(report).startswith("11 bad rows (bad_id 10, bad_times 1), such as\n  line 1: found id 1; expected an id")


def test_a_header_without_its_sign_is_one_on_the_first_line_only() -> None:
    header = b"YTID,start_seconds,end_seconds,positive_labels\n"
    assert explain(header, 1, {"/m/a"}) is None
    assert explain(header, 2, {"/m/a"}) is not None
