"""A seekable file equals io.BytesIO, whatever is done with it."""

from __future__ import annotations

import io

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.seekable import SeekableReader

DATA = bytes(range(200))


class InPieces(SeekableReader):
    """Gives at most seven bytes at a time."""

    def read_at(self, position: int, length: int) -> bytes:
        return DATA[position : position + min(length, 7)]

    def end(self) -> int:
        return len(DATA)


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 250)),
    st.tuples(st.just("seek"), st.integers(0, 250), st.just(io.SEEK_SET)),
    st.tuples(st.just("seek"), st.integers(0, 50), st.just(io.SEEK_CUR)),
    st.tuples(st.just("seek"), st.integers(-200, 20), st.just(io.SEEK_END)),
)


@given(st.lists(STEPS, max_size=30))
def test_like_a_file_in_memory(steps: list[tuple]) -> None:
    ours, theirs = io.BufferedReader(InPieces(), 16), io.BytesIO(DATA)
    for step in steps:
        assert getattr(ours, step[0])(*step[1:]) == getattr(theirs, step[0])(*step[1:])
        assert ours.tell() == theirs.tell()


def test_before_the_beginning_is_refused() -> None:
    reader = InPieces()
    assert reader.readable() and reader.seekable() and not reader.writable()
    with pytest.raises(ValueError, match="inside the file, got -1"):
        reader.seek(-201, io.SEEK_END)
