"""What commands have alike."""

from __future__ import annotations

from stores.arguments import counted


def test_numbers_with_their_noun() -> None:
    assert [counted(count, "clip") for count in (0, 1, 2000)] == ["0 clips", "1 clip", "2,000 clips"]
