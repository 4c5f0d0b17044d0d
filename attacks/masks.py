"""Where a perturbation may be: a band of mel bins, a stretch of frames, or both."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from models.recogniser import FRAMES, MEL_BINS

# What the filters of the paper's three bands let through; neighbours overlap because the filters do.
_HERTZ = {(0, 20): "0–975 Hz", (20, 40): "928–2537 Hz", (40, 64): "2418–8000 Hz"}


@dataclass(frozen=True)
class Mask:
    """The ALLOWED region, freq × time; outside of it a perturbation is zero. Half-open: (0, 20) is bins 0 to 19.

    Attributes:
        freq: mel bins, within 0 to 64.
        time: frames of 25 ms, within 0 to 400.

    Raises:
        ValueError: a band is empty, reversed or out of range.

    Source: RECIPE.md section 5, masks.
    """

    freq: tuple[int, int] = (0, MEL_BINS)
    time: tuple[int, int] = (0, FRAMES)

    def __post_init__(self) -> None:
        for axis, (first, end), size in (("freq", self.freq, MEL_BINS), ("time", self.time, FRAMES)):
            if not 0 <= first < end <= size:
                raise ValueError(
                    f"expected a {axis} band A:B with 0 <= A < B <= {size}, got {first}:{end}; B itself is not part "
                    f"of the band, so 0:{size} is all of it"
                )

    @classmethod
    def parse(cls, freq: str | None = None, time: str | None = None) -> Mask:
        """The mask of two texts 'A:B', for example '0:20'; None allows the whole axis.

        Raises:
            ValueError: a text is anything else, or its band is empty, reversed or out of range.
        """
        return cls(_band("freq", freq, MEL_BINS), _band("time", time, FRAMES))

    @classmethod
    def of_name(cls, name: str) -> Mask:
        """The inverse of `name`.

        Raises:
            ValueError: no mask has that name.
        """
        match = re.fullmatch(r"full|(?:freq(\d{1,9})-(\d{1,9}))?_?(?:time(\d{1,9})-(\d{1,9}))?", name)
        numbers = [int(text) for text in match.groups() if text] if match else []
        if match and len(numbers) in (0, 2, 4):
            freq = (numbers[0], numbers[1]) if match[1] else (0, MEL_BINS)
            time = (numbers[-2], numbers[-1]) if match[3] else (0, FRAMES)
            mask = cls(freq, time)
            if mask.name == name:
                return mask
        raise ValueError(
            f"expected full, freqA-B, timeA-B or freqA-B_timeA-B with a part of the axis in each, got {name!r}"
        )

    def array(self) -> np.ndarray:
        """bool [400, 64], True where allowed."""
        allowed = np.zeros((FRAMES, MEL_BINS), np.bool_)
        allowed[slice(*self.time), slice(*self.freq)] = True
        return allowed

    @property
    def name(self) -> str:
        """'full', 'freq0-20', 'time200-400' or 'freq0-20_time0-200': for file names and tables."""
        bands = (("freq", self.freq, MEL_BINS), ("time", self.time, FRAMES))
        parts = [f"{axis}{first}-{end}" for axis, (first, end), size in bands if (first, end) != (0, size)]
        return "_".join(parts) or "full"

    @property
    def hertz(self) -> str | None:
        """What the mel bins cover, for one of the paper's three bands; else None. Source: RECIPE.md section 1."""
        return _HERTZ.get(self.freq)

    def contains(self, other: Mask) -> bool:
        """Whether all that `other` allows is allowed here, so that its perturbations are candidates here too."""
        return all(
            mine[0] <= theirs[0] and theirs[1] <= mine[1]
            for mine, theirs in ((self.freq, other.freq), (self.time, other.time))
        )


def _band(axis: str, text: str | None, size: int) -> tuple[int, int]:
    if text is None:
        return 0, size
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        raise ValueError(
            f"expected a {axis} band A:B with 0 <= A < B <= {size}, got {text!r}; write 0:{size // 2} for the lower "
            "half, or leave it out for the whole axis"
        )
    return int(match[1]), int(match[2])
