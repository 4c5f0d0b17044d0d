"""A perturbation as a picture: time across, mel bins up, red where it makes louder and blue where softer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME_S = 0.025


def draw_delta(delta: np.ndarray, title: str, norms: Mapping[str, float]) -> bytes:
    """A PNG, 800×400.

    Args:
        delta: float [400, 64], in deviations of each mel bin.
        title: above the picture.
        norms: `attacks.perturbation.measured` of it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    show_delta(figure, axes, delta)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"seconds    (l1 {norms['l1']:.4g}, l2 {norms['l2']:.4g}, l∞ {norms['linf']:.4g})")
    return to_png(figure)


def show_delta(figure: Figure, axes: Axes, delta: np.ndarray) -> None:
    """Draws a perturbation, float [400, 64], with its axes and a colour bar."""
    limit = float(np.abs(delta).max()) or 1.0
    image = axes.imshow(
        delta.T,
        origin="lower",
        aspect="auto",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(0, len(delta) * FRAME_S, 0, delta.shape[1]),
        interpolation="nearest",
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel bin")
    figure.colorbar(image, label="standard deviations")


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
