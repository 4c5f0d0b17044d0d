"""Charts as SVG and PNG: what is drawn, not what of a study. Equal data give equal bytes.

Colours are Okabe and Ito's, which all kinds of colour vision tell apart; every colour has a mark of its own as well.
Each chart is as narrow as a phone, so that its letters stay readable there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.delta_picture import show_delta, to_png
from attacks.intervals import Interval
from models.chance import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scores = Sequence[float | None]  # None: not measured
COLOURS, MARKS = ("#0072B2", "#D55E00", "#009E73"), ("o", "s", "^")
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
WIDTH = 4.4  # inches
# Names may hold dollars.
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "avlens",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.titlesize": 11,
}


@dataclass(frozen=True)
class Curve:
    """A line over ε: mean mAP by ε, half the interval where there is one, and the band of noise."""

    label: str
    means: Mapping[float, float]
    halves: Mapping[float, float]
    noise: Mapping[float, Band]


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        yield figure, axes


def _svg(figure: Figure) -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    sink = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
    return sink.getvalue()


def curve_chart(title: str, curves: Sequence[Curve], clean: tuple[float, float | None], chance: Band | None) -> bytes:
    """mAP over ε: the clean point at 0, a line for each curve with its noise as a band, chance as a dashed line.

    ε stand at equal distances, because they span decades and may have no bound.
    """
    epsilons = sorted({epsilon for curve in curves for epsilon in curve.means})
    place = {epsilon: i + 1 for i, epsilon in enumerate(epsilons)}
    with _figure(3.7) as (figure, axes):
        for curve, colour in zip(curves, COLOURS, strict=False):
            x = [epsilon for epsilon in epsilons if epsilon in curve.noise]
            low, high = ([clean[0], *(getattr(curve.noise[e], end) for e in x)] for end in ("low", "high"))
            if x:
                axes.fill_between([0, *(place[e] for e in x)], low, high, color=colour, alpha=0.18, linewidth=0)
        for curve, colour, mark, aside in zip(curves, COLOURS, MARKS, (-0.06, 0.0, 0.06), strict=False):
            x = sorted(curve.means)
            axes.errorbar(
                [0, *(place[e] + aside for e in x)],
                [clean[0], *(curve.means[e] for e in x)],
                yerr=[0, *(curve.halves.get(e, 0) for e in x)],
                color=colour,
                marker=mark,
                markersize=5,
                capsize=3,
                label=curve.label,
            )
        shape: dict[str, Any] = {"color": INK, "marker": "D", "markersize": 7, "capsize": 3, "zorder": 5}
        axes.errorbar([0], [clean[0]], yerr=[clean[1] or 0], label="clean", **shape)
        axes.plot([], [], color=GREY, linewidth=8, alpha=0.3, label="noise of the same norm")
        if chance:
            axes.axhspan(chance.low, chance.high, color=PALE, alpha=0.6, zorder=0)
            axes.axhline(chance.mean, color=GREY, linestyle="--", label="chance, 95 % band", zorder=1)
        axes.set_xticks([0, *place.values()], ["0", *("none" if np.isinf(e) else f"{e:g}" for e in epsilons)])
        axes.set_xlabel("bound ε (not to scale)")
        axes.set_ylabel("mAP")
        axes.set_ylim(0, min(1.0, axes.get_ylim()[1]))  # intervals of few seeds go beyond what an mAP can be
        axes.set_title(title)
        axes.grid(axis="y", color="#eeeeee")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return _svg(figure)


def class_chart(title: str, names: Sequence[str], clean: Scores, attacked: Mapping[str, Scores]) -> bytes:
    """Bars for each class: a pale one for its clean AP, and on it a thin one for each attack."""
    rows = np.arange(len(names))
    with _figure(1.3 + 0.42 * len(names)) as (figure, axes):
        axes.barh(rows, [value or 0 for value in clean], height=0.82, color=PALE, label="clean")
        height = 0.7 / max(1, len(attacked))
        for i, (label, values) in enumerate(attacked.items()):
            offsets = rows + (i - (len(attacked) - 1) / 2) * height
            lengths = [value or 0 for value in values]
            axes.barh(offsets, lengths, height=height * 0.86, color=COLOURS[i % 3], label=label)
        axes.set_yticks(rows, [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("average precision (AP)")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return _svg(figure)


def matrix_chart(title: str, names: Sequence[str], values: Sequence[Scores], clean: Scores) -> bytes:
    """A heat map with its numbers: rows are sources, columns targets, the first row the clean score."""
    table = np.array([[np.nan if value is None else value for value in row] for row in (clean, *values)], float)
    with _figure(1.6 + 0.36 * len(table)) as (figure, axes):
        top = float(np.nanmax(table)) if np.isfinite(table).any() else 1.0
        known = np.ma.masked_invalid(table)
        axes.pcolormesh(known, cmap="cividis", vmin=0, vmax=top or 1.0, edgecolors="white", linewidth=1)
        axes.invert_yaxis()
        small = 9 if len(names) <= 6 else 6.5
        for (i, j), value in np.ndenumerate(table):
            shown = "–" if np.isnan(value) else f"{value:.2f}"
            dark = not np.isnan(value) and value < 0.55 * top
            axes.text(
                j + 0.5, i + 0.5, shown, ha="center", va="center", fontsize=small, color="white" if dark else "black"
            )
        axes.axhline(1, color="white", linewidth=4)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=40, ha="right")
        axes.set_yticks(np.arange(len(names) + 1) + 0.5, ["clean", *names])
        axes.set_xlabel("tried on")
        axes.set_ylabel("made against")
        axes.set_title(title)
        axes.spines[:].set_visible(False)
        return _svg(figure)


def gap_chart(title: str, names: Sequence[str], drops: Mapping[str, Sequence[Interval | None]]) -> bytes:
    """Bars for each name, one for each split: the mean drop with half its interval."""
    rows = np.arange(len(names))
    with _figure(1.4 + 0.5 * len(names)) as (figure, axes):
        for i, (label, found) in enumerate(drops.items()):
            values = [item.mean if item else 0.0 for item in found]
            errors = [(item.half or 0.0) if item else 0.0 for item in found]
            places = rows + (i - (len(drops) - 1) / 2) * 0.36
            bars: dict[str, Any] = {
                "height": 0.32,
                "color": COLOURS[i % 3],
                "hatch": ("", "////")[i % 2],
                "edgecolor": "white",
            }
            axes.barh(places, values, xerr=errors, capsize=3, label=label, **bars)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.set_xlabel("drop of mAP")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return _svg(figure)


def delta_chart(title: str, delta: np.ndarray) -> bytes:
    """A PNG of a perturbation: time across, mel bins up, red where it makes louder and blue where softer.

    Args:
        delta: float [400, 64], in standard deviations of each mel bin.
    """
    with _figure(3.0) as (figure, axes):
        show_delta(figure, axes, delta)
        axes.set_title(title)
        figure.set_dpi(160)
        return to_png(figure)
