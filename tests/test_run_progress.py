"""Progress of a run: a bar on a terminal, plain lines elsewhere, each evaluation once."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from pipeline import run_progress
from pipeline.run_progress import RunProgress, evaluation_words

LATEST = {"step": 7, "loss": 0.12345, "learning_rate": 1e-4, "clips": 300, "clips_per_s": 812.4}
VALID = {"mAP": 0.3217, "AUC": 0.9012, "d_prime": 1.8241, "clips": 20_123}


def evaluation(step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "valid": {**VALID, **changes}}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    return caplog


def test_a_terminal_gets_a_bar_and_evaluations_above_it(log: pytest.LogCaptureFixture) -> None:
    screen = io.StringIO()
    with RunProgress(Console(file=screen, force_terminal=True, width=140), evaluation_words, 25) as display:
        display.update({}, [])
        display.update(LATEST, [evaluation(5)])
    shown = screen.getvalue()
    assert "7/25" in shown
    assert "loss 0.1235, 812 clips/s" in shown
    assert shown.count("step 5: mAP 0.3217, AUC 0.9012, d′ 1.824 on 20123 clips") == 1
    assert shown.rstrip("\n").endswith("\x1b[?25h")  # the cursor is back
    assert log.messages == []


def test_the_cursor_is_back_after_an_exception_too() -> None:
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt), RunProgress(Console(file=screen, force_terminal=True), evaluation_words, 25):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in screen.getvalue()


def test_a_log_gets_lines_now_and_then(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    with RunProgress(Console(file=screen), evaluation_words, 25) as display:
        display.update(LATEST, [])
        assert log.messages == []  # not every half second
        monkeypatch.setattr(run_progress, "LINE_EVERY_S", 0.0)
        display.update({}, [])
        display.update(LATEST, [])
        display.update(LATEST, [])  # nothing moved
        display.update({**LATEST, "step": 8}, [])
    assert log.messages == ["step 7 of 25, loss 0.1235, 812 clips/s", "step 8 of 25, loss 0.1235, 812 clips/s"]
    assert screen.getvalue() == ""


def test_each_evaluation_is_told_once_and_at_once(log: pytest.LogCaptureFixture) -> None:
    with RunProgress(Console(file=io.StringIO()), evaluation_words, 25) as display:
        display.update({}, [evaluation(5)])
        display.update(LATEST, [evaluation(5)])
        display.update({}, [])  # a monitor that was started anew has forgotten
        display.update(LATEST, [evaluation(5), evaluation(10), evaluation(15)])
    assert [line.split(":")[0] for line in log.messages] == ["step 5", "step 10", "step 15"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_prime": None}, "step 5: mAP 0.3217, AUC 0.9012 on 20123 clips"),
        ({"AUC": None, "d_prime": None, "clips": 3}, "step 5: mAP 0.3217 on 3 clips"),
        ({"mAP": None, "AUC": None, "d_prime": None, "clips": 0}, "step 5: no class to score on 0 clips"),
    ],
    ids=["perfect", "one kind of clip", "nothing"],
)
def test_numbers_that_are_undefined_are_left_out(
    changes: dict[str, Any], words: str, log: pytest.LogCaptureFixture
) -> None:
    with RunProgress(Console(file=io.StringIO()), evaluation_words, 25) as display:
        display.update({}, [evaluation(5, **changes)])
    assert log.messages == [words]


def test_steps_that_say_how_many_there_are(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "LINE_EVERY_S", 0.0)
    with RunProgress(Console(file=io.StringIO()), str) as display:
        display.update({"step": 3, "steps": 9, "clips_per_s": 40.0}, [])
    assert log.messages == ["step 3 of 9, 40 clips/s"]
