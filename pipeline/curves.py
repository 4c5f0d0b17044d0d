"""A training run's curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PALE, ACCENT, GREY = "#1f4e79", "#b8cbe0", "#c55a11", "#7f95ad"
SMOOTH = 50  # steps that a running mean spans, at most


def draw_curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG, 800×600, with the loss by step above, mAP and learning rate below; whatever there is none of is left out.

    Args:
        lines: of the run's log: `step` with `loss` and `learning_rate`, or with `valid` and its `mAP`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [line for line in lines if "loss" in line]
    valid = [line for line in lines if "valid" in line and line["valid"]["mAP"] is not None]
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    x = np.array([line["step"] for line in steps])
    if steps:
        _draw_loss(above, x, np.array([line["loss"] for line in steps]))
        _draw_rate(below, x, [line["learning_rate"] for line in steps])
    if valid:
        _draw_scores(below, [line["step"] for line in valid], [line["valid"]["mAP"] for line in valid])
    above.set_ylabel("training loss (BCE)")
    below.set_ylabel("validation mAP", color=ACCENT)
    below.set_xlabel("step")
    below.set_xlim(left=0)
    # Ticks at whole steps, also where there are only a few.
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()


def _draw_loss(axes: Axes, steps: np.ndarray, loss: np.ndarray) -> None:
    span = max(1, min(SMOOTH, len(loss) // 10))
    if span == 1:
        axes.plot(steps, loss, color=INK, marker="o" if len(loss) == 1 else None)
    else:
        smooth = np.convolve(loss, np.ones(span) / span, mode="valid")
        axes.plot(steps, loss, color=PALE, linewidth=1, label="each step")
        middle = (span - 1) // 2  # of the steps that each mean spans, or the curve would lag behind
        axes.plot(steps[middle:][: len(smooth)], smooth, color=INK, label=f"mean of {span}")
        axes.legend(frameon=False)
    if loss.min() > 0 and loss.max() > 10 * loss.min():  # less than that has no tick to speak of on a log scale
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_scores(axes: Axes, steps: Sequence[int], scores: Sequence[float]) -> None:
    axes.plot(steps, scores, "o-", color=ACCENT, markersize=4)
    best = int(np.argmax(scores))
    # On the side of the picture's middle, so that it stays inside.
    side = "left" if steps[best] < (steps[0] + steps[-1]) / 2 else "right"
    words = f"best {scores[best]:.3f} after {steps[best]}"
    axes.annotate(words, (steps[best], scores[best]), xytext=(0, 8), textcoords="offset points", ha=side, color=ACCENT)
    axes.set_ylim(0, 1.25 * max(scores) or 1.0)


def _draw_rate(axes: Axes, steps: np.ndarray, rates: Sequence[float]) -> None:
    right = axes.twinx()
    right.plot(steps, rates, color=PALE, linewidth=1)
    right.set_ylabel("learning rate", color=GREY)
    right.tick_params(axis="y", colors=GREY)
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    right.set_ylim(bottom=0)
    right.spines[["top"]].set_visible(False)
    # Behind the scores, which hide it where they cross.
    right.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
