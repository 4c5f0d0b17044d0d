"""The parts of an answer that need no connection: byte ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loopback_handler import parse_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-9", (0, 9)),
        ("bytes=0-", (0, 99)),
        ("bytes=90-200", (90, 99)),
        ("bytes=-5", (95, 99)),
        ("bytes=-500", (0, 99)),
        (" Bytes = 3-4 ", (3, 4)),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
    ],
)
def test_ranges(header: str, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=9-5"])
def test_what_nothing_satisfies(header: str) -> None:
    span = parse_range(header, 100)
    assert span is not None
    assert span[0] > span[1]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 100))
def test_a_range_is_what_slicing_says(first: int, last: int, size: int) -> None:
    span = parse_range(f"bytes={first}-{last}", size)
    assert span is not None
    assert [*range(span[0], span[1] + 1)] == [*range(size)][first : last + 1]
