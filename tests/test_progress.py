"""Progress: a bar on a terminal, plain lines elsewhere, and no line when nothing moved."""

from __future__ import annotations

import io
import logging
from collections import Counter

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import ProgressDisplay

COUNTS = Counter(fetched=3, failed=1, decoded=2, encoded=1)


def test_a_terminal_gets_bars() -> None:
    screen = io.StringIO()
    with ProgressDisplay(Console(file=screen, force_terminal=True, width=120), 10, 9) as display:
        display.update(COUNTS, "2 shards under way")
    assert "4/10" in screen.getvalue()
    assert "2/9" in screen.getvalue()


def test_a_log_gets_lines_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    with ProgressDisplay(Console(file=screen), 10, 9) as display:
        display.update(COUNTS, "note")
        assert caplog.messages == []  # not every half second
        monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
        display.update(COUNTS, "note")
        display.update(COUNTS, "note")
    assert caplog.messages == ["fetched 3 of at most 10 (1 failed), decoded 2 of at most 9 clips, encoded 1; note"]
    assert screen.getvalue() == ""
