"""A log-mel as a picture: seconds to the right, Hz upwards, decibels as colour."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000)
_SLANEY_LINEAR_HZ = 200 / 3  # a mel below 1 kHz
_SLANEY_STEPS_PER_LOG = 27 / np.log(6.4)  # mels a factor of e above it


def slaney_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    """Frequencies on Slaney's mel scale: linear up to 1 kHz (15 mel), logarithmic above.

    Source: M. Slaney, Auditory Toolbox, Interval Research technical report 1998-010; librosa's default.
    """
    frequency = np.asarray(frequency_hz, np.float64)
    above = 15 + _SLANEY_STEPS_PER_LOG * np.log(np.maximum(frequency, 1000) / 1000)
    return np.where(frequency < 1000, frequency / _SLANEY_LINEAR_HZ, above)


def htk_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    """Frequencies on HTK's mel scale. Source: S. Young et al., The HTK Book, section 5.4."""
    return np.asarray(2595 * np.log10(1 + np.asarray(frequency_hz, np.float64) / 700))


MEL_SCALES = {"slaney": slaney_mel, "htk": htk_mel}


def mel_bin(frequency_hz: np.ndarray | float, config: Mapping[str, Any]) -> np.ndarray:
    """Where a frequency lies among the bins of a mel bank; bin i is centred at i.

    Args:
        config: `mel_scale`, `n_mels`, `f_min_hz` and `f_max_hz` as a log-mel column's spec has them.
    """
    mel = MEL_SCALES[config["mel_scale"]]
    low, high = mel(config["f_min_hz"]), mel(config["f_max_hz"])
    return (mel(frequency_hz) - low) / (high - low) * (config["n_mels"] + 1) - 1


def save_logmel(path: str | Path, logmel: np.ndarray, config: Mapping[str, Any], title: str, real_rows: int) -> None:
    """Writes a PNG.

    Args:
        logmel: float [frames, n_mels] in dB.
        config: constants of the log-mel: `sample_rate_hz`, `hop_samples`, and those of `mel_bin`.
        title: above the picture; long ones are wrapped.
        real_rows: frames before the padding, which is marked off.

    Raises:
        ValueError: the array and the constants do not fit.
        OSError: the file cannot be written.
    """
    if logmel.ndim != 2 or logmel.shape[1] != config["n_mels"] or config["mel_scale"] not in MEL_SCALES:
        expected = f"[frames, {config['n_mels']}] on a mel scale of {', '.join(MEL_SCALES)}"
        raise ValueError(f"expected a log-mel {expected}, got {list(logmel.shape)} on {config['mel_scale']!r}")
    frame_s = config["hop_samples"] / config["sample_rate_hz"]
    frames, mels = logmel.shape
    values = np.ma.masked_invalid(logmel.astype(np.float32))
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    extent = (0, frames * frame_s, -0.5, mels - 0.5)
    image = axes.imshow(values.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma", extent=extent)
    ticks = [hz for hz in TICKS_HZ if config["f_min_hz"] <= hz <= config["f_max_hz"]]
    axes.set_yticks(mel_bin(np.array(ticks), config), [f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in ticks])
    axes.set_ylim(-0.5, max(mels - 0.5, float(mel_bin(config["f_max_hz"], config))))
    axes.set_xlabel("time [s]")
    axes.set_ylabel("frequency [Hz]")
    if real_rows < frames:
        _mark_padding(axes, real_rows * frame_s, frames * frame_s)
    figure.colorbar(image, ax=axes, pad=0.015).set_label("level [dB]")
    # Class names are not formulas, whatever signs they hold.
    axes.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=11, parse_math=False)
    figure.savefig(path, format="png")


def _mark_padding(axes: Axes, from_s: float, to_s: float) -> None:
    """Says where the sound ends, on the side of the line that has more room."""
    axes.axvline(from_s, color="white", linestyle="--", linewidth=1)
    left = from_s > to_s / 2
    text = axes.annotate(
        "sound ends" if from_s else "no sound: padding only",
        (from_s, 0.97),
        (-5 if left else 5, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="white",
        ha="right" if left else "left",
        va="top",
    )
    text.set_bbox({"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 2})
