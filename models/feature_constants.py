"""What decides the values of the feature columns, apart from the modules that compute them.

No Torch here: a driver names columns by these, and importing Torch costs more than everything else that it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WINDOW_NAMES = ("hann", "hamming")
# Length of an embedding by network; the networks themselves are in models/r2plus1d.py.
EMBEDDING_DIMS: Mapping[str, int] = {"r2plus1d_18": 512, "r2plus1d_34": 512, "r2plus1d_152": 2048}
# Of RGB in 0..1; VIDEO.md section 1, and torchvision's presets for video.
PIXEL_MEAN = (0.43216, 0.394666, 0.37645)
PIXEL_STD = (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True, slots=True)
class LogMelConfig:
    """Every constant that decides the values of the log-mel column; `dataclasses.asdict` of it is the column's spec.

    The defaults are those of the paper's authors and of TALNet. `power` is the exponent applied to the STFT's
    magnitude before the mel bank: 1 is magnitude, 2 is power. The window is periodic and centred in the `n_fft`.

    Raises:
        ValueError: the constants contradict each other.

    Source: RECIPE.md section 1 (AudioSetDoneRight, TALNet).
    """

    sample_rate_hz: int = 16_000
    samples: int = 160_000
    n_fft: int = 4096
    window: str = "hann"
    window_samples: int = 1024
    hop_samples: int = 400
    pad_mode: str = "constant"
    frames: int = 400
    power: float = 1.0
    n_mels: int = 64
    f_min_hz: float = 0.0
    f_max_hz: float = 8000.0
    mel_scale: str = "slaney"
    mel_norm: str | None = "slaney"
    floor: float = 1e-10
    top_db: float = 80.0

    def __post_init__(self) -> None:
        if self.window not in WINDOW_NAMES:
            raise ValueError(f"window: one of {', '.join(WINDOW_NAMES)} expected, got {self.window!r}")
        if not 0 < self.window_samples <= self.n_fft:
            raise ValueError(f"window_samples: 1 to n_fft ({self.n_fft}) expected, got {self.window_samples}")
        if not 0 < self.frames <= 1 + self.samples // self.hop_samples:
            raise ValueError(
                f"frames: at most {1 + self.samples // self.hop_samples} come from {self.samples} samples at a hop of "
                f"{self.hop_samples}, got {self.frames}; lower frames or raise samples"
            )
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"mel range: 0 <= f_min_hz < f_max_hz <= {self.sample_rate_hz / 2} expected, "
                f"got {self.f_min_hz} to {self.f_max_hz}"
            )
