"""Curves: a picture of any run, also of one that has just begun; matplotlib's own objects say what is drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.curves import ACCENT, INK, PALE, SMOOTH, draw_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are made while a test runs."""
    figures: list[Figure] = []
    subplots = Figure.subplots

    def noting(figure: Figure, *arguments: Any, **options: Any) -> Any:
        figures.append(figure)
        return subplots(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "subplots", noting)
    return figures


def run_of(steps: int, every: int) -> list[dict[str, Any]]:
    """A log as runs write it; the mAP is highest two evaluations before the end."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "loss": 0.02 + 1 / step, "learning_rate": 4e-4 * (1 - step / steps), "clips": 300})
        if step % every == 0:
            lines.append({"step": step, "valid": {"mAP": 0.4 - 0.1 * abs(steps - 2 * every - step) / steps}})
    return lines


UNDEFINED = [{"step": 1, "loss": 0.7, "learning_rate": 0.0}, {"step": 1, "valid": {"mAP": None}}]
ZEROS = [{"step": step, "loss": 0.0, "learning_rate": 0.0} for step in (1, 2)] + [{"step": 2, "valid": {"mAP": 0.0}}]


@pytest.mark.parametrize(
    "lines", [[], run_of(1, 5), run_of(1, 1), run_of(6, 2), UNDEFINED, ZEROS, run_of(3000, 500)], ids=len
)
def test_any_log_gives_a_picture_with_something_in_it(lines: list[dict[str, Any]]) -> None:
    data = draw_curves(lines)
    assert 5_000 < len(data) < 300_000
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("PNG", (800, 600))
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert 0.6 < (pixels == 255).all(axis=1).mean() < 0.99
    for colour, expected in ((INK, any("loss" in line for line in lines)), (ACCENT, bool(lines))):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) <= 2).any() or not expected


def test_every_number_is_where_it_belongs(drawn: list[Figure]) -> None:
    lines = run_of(1200, 200)
    draw_curves(lines)
    above, below, right = drawn[0].axes
    steps = [line for line in lines if "loss" in line]
    each, mean = (line.get_xydata() for line in above.get_lines())
    np.testing.assert_array_equal(each, [(line["step"], line["loss"]) for line in steps])
    for step, value in mean[[0, 300, -1]]:
        around = [line["loss"] for line in steps if step - SMOOTH / 2 < line["step"] <= step + SMOOTH / 2]
        assert len(around) == SMOOTH
        assert value == pytest.approx(np.mean(around), rel=1e-12)
    assert above.get_yscale() == "log"
    valid = [(line["step"], line["valid"]["mAP"]) for line in lines if "valid" in line]
    np.testing.assert_array_equal(below.get_lines()[0].get_xydata(), valid)
    assert [text.get_text() for text in below.texts] == ["best 0.400 after 800"]
    np.testing.assert_array_equal(right.get_lines()[0].get_ydata(), [line["learning_rate"] for line in steps])
    assert (right.get_lines()[0].get_color(), right.get_ylim()[0], below.get_ylim()[0]) == (PALE, 0, 0)


def test_short_runs_have_no_mean_and_no_legend(drawn: list[Figure]) -> None:
    draw_curves(run_of(6, 2))
    above = drawn[0].axes[0]
    assert len(above.get_lines()) == 1
    assert above.get_legend() is None
    assert above.get_yscale() == "linear"


@pytest.mark.parametrize("best", [1, 9])
def test_words_stay_inside_the_picture(drawn: list[Figure], best: int) -> None:
    lines = [{"step": step, "valid": {"mAP": 0.5 if step == best else 0.1}} for step in range(1, 10)]
    draw_curves([*lines, {"step": 9, "loss": 1.0, "learning_rate": 1e-4}])
    below = drawn[0].axes[1]
    words, frame = below.texts[0].get_window_extent(), below.get_window_extent()
    assert frame.x0 <= words.x0 and words.x1 <= frame.x1
    assert frame.y0 <= words.y0 and words.y1 <= frame.y1


def test_no_window_system_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has no screen, and pyplot would keep every figure."""
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    monkeypatch.setattr(plt, "figure", None)
    draw_curves(run_of(6, 2))
    assert plt.get_fignums() == before
