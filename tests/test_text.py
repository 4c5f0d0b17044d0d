"""Values for people: sizes, and strangers' words that cannot touch a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.text import listed, one_line, size_text, without_password


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (52_736, "52.7 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (27_000_000, "27.0 MB"),
        (2_310_000_000_000, "2.3 TB"),
        (1_500_000_000_000_000, "1,500.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()


def test_words_survive_and_control_characters_show() -> None:
    assert one_line("HTTP status 404\n  not  found – ü") == "HTTP status 404 not found – ü"
    assert one_line("\x1b[31mred\x07\udcff") == "\\x1b[31mred\\x07\\udcff"


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("ftp://user:secret@host:21/store", "ftp://host:21/store"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("/data/my store@home", "/data/my store@home"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
