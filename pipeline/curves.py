"""A training run's curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK, PALE, ACCENT = "#1f4e79", "#b8cbe0", "#c55a11"
SMOOTH = 50  # steps that a running mean spans, at most


def draw_curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG with the loss by step above, mAP and learning rate below.

    Args:
        lines: of the run's log: `step` with `loss` and `learning_rate`, or with `valid` and its `mAP`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [line for line in lines if "loss" in line]
    valid = [line for line in lines if "valid" in line and line["valid"]["mAP"] is not None]
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    if steps:
        x, loss = np.array([line["step"] for line in steps]), np.array([line["loss"] for line in steps])
        span = max(1, min(SMOOTH, len(loss) // 10))
        smooth = np.convolve(loss, np.ones(span) / span, mode="valid")
        above.plot(x, loss, color=PALE, linewidth=1, label="each step")
        above.plot(x[span - 1 :], smooth, color=INK, label=f"mean of {span}")
        above.legend(frameon=False)
        if (loss > 0).all():
            above.set_yscale("log")
    above.set_ylabel("training loss (BCE)")
    if valid:
        below.plot([line["step"] for line in valid], [line["valid"]["mAP"] for line in valid], "o-", color=ACCENT)
        best = max(valid, key=lambda line: line["valid"]["mAP"])
        below.annotate(f"best {best['valid']['mAP']:.3f}", (best["step"], best["valid"]["mAP"]), xytext=(0, 8),
                       textcoords="offset points", ha="center")  # fmt: skip
        below.margins(y=0.25)
    below.set_ylabel("validation mAP", color=ACCENT)
    below.set_xlabel("step")
    if steps:
        rates = below.twinx()
        rates.plot(x, [line["learning_rate"] for line in steps], color=PALE, linewidth=1)
        rates.set_ylabel("learning rate", color="#7f95ad")
        rates.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(color="#eeeeee")
        axes.spines[["top"]].set_visible(False)
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
