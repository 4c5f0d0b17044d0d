"""The features that a column can hold: what each needs decoded, and the spec that names it.

To add one, add a builder to `_BUILDERS` (CONTRIBUTING.md, "Add a feature column"). Nothing here imports Torch: drivers
and fetching processes know columns too, and should not wait seconds for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from models.feature_constants import EMBEDDING_DIMS, PIXEL_MEAN, PIXEL_STD, LogMelConfig
from pipeline.media import DecodeRules, FrameSpec
from pipeline.weights import EncoderWeights
from stores.specs import Spec, canonical_json

CLIP_SECONDS = 10


@dataclass(frozen=True)
class EncoderOptions:
    """What a clip encoder is run with; all of it is part of its column's spec.

    Attributes:
        weights: where the weights come from, with their sha256.
        dtype: of the arithmetic: bfloat16, float16 or float32.
        window_frames: consecutive frames of one window.
        fps: frames a second on the clip's grid.
        frame_size: height and width in pixels.
    """

    weights: EncoderWeights
    dtype: str = "bfloat16"
    window_frames: int = 32
    fps: float = 30.0
    frame_size: int = 112

    @property
    def frames(self) -> FrameSpec:
        """The frames that the decoder has to deliver."""
        return FrameSpec(fps=self.fps, size=self.frame_size)

    @property
    def windows(self) -> int:
        """Windows in a clip: ⌈frames / window⌉ (paper, section 4.1); the last is filled by repeating its last frame."""
        return math.ceil(round(self.fps * CLIP_SECONDS) / self.window_frames)


@dataclass(frozen=True)
class Column:
    """A feature under one spec.

    Attributes:
        spec: names the column and holds every constant.
        sample_rate: Hz of the sound that it needs; None for a column of pictures.
        frames: the frames that it needs; None for a column of sound.
        encoder: how its clip encoder is run; None for a column that the decode process computes by itself.
    """

    spec: Spec
    sample_rate: int | None = None
    frames: FrameSpec | None = None
    encoder: EncoderOptions | None = None

    @property
    def name(self) -> str:
        """The column's name in the store."""
        return self.spec.column


OptionsFor = Callable[[str], EncoderOptions | None]


def _logmel(_: OptionsFor) -> Column:
    config = LogMelConfig()
    spec = Spec(
        feature="logmel",
        array="logmel",
        shape=(config.frames, config.n_mels),
        dtype="float16",
        constants={"logmel": asdict(config), "decode": asdict(DecodeRules())},
    )
    return Column(spec, sample_rate=config.sample_rate_hz)


def _encoder(name: str, options_for: OptionsFor) -> Column:
    options = options_for(name)
    if options is None:
        raise ValueError(f"column {name} needs --encoder-weights: ig65m, a file of weights, or random:SEED")
    constants = {
        "architecture": name,
        "weights": options.weights.to_spec(),
        "dtype": options.dtype,
        "window_frames": options.window_frames,
        "frames": asdict(options.frames),
        "clip_seconds": CLIP_SECONDS,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "decode": asdict(DecodeRules()),
    }
    spec = Spec(name, "video", (options.windows, EMBEDDING_DIMS[name]), "float16", constants)
    return Column(spec, frames=options.frames, encoder=options)


_BUILDERS: dict[str, Callable[[OptionsFor], Column]] = {
    "logmel": _logmel,
    **{name: functools.partial(_encoder, name) for name in EMBEDDING_DIMS},
}


def feature_names() -> list[str]:
    """Every name that `--columns` knows."""
    return list(_BUILDERS)


def build_columns(names: Sequence[str], options_for: OptionsFor) -> tuple[Column, ...]:
    """The columns of `--columns`.

    Args:
        options_for: architecture → how it is run; None where no weights were named. Each has weights of its own.

    Raises:
        ValueError: an unknown or repeated name, or an encoder without weights.
    """
    unknown = [name for name in names if name not in _BUILDERS]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"expected --columns of {', '.join(_BUILDERS)}, each once; got {','.join(names)}")
    return tuple(_BUILDERS[name](options_for) for name in names)


def column_of(spec: Spec, options_for: Callable[[str, Mapping[str, Any]], EncoderOptions]) -> Column:
    """The column of a stored spec, as this program computes it.

    Args:
        options_for: architecture and constants of a clip encoder's spec → how it is run.

    Raises:
        ValueError: no such feature, or this program would compute something else.
    """
    if spec.feature not in _BUILDERS:
        raise ValueError(f"expected a feature of {', '.join(_BUILDERS)}, {spec.column} is another")
    made = _BUILDERS[spec.feature](lambda architecture: options_for(architecture, spec.constants))
    if made.name != spec.column:
        differ = sorted(
            name
            for name in {*spec.constants, *made.spec.constants}
            if canonical_json(spec.constants.get(name)) != canonical_json(made.spec.constants.get(name))
        )
        what = ", ".join(differ) or "shape or dtype"
        raise ValueError(f"{spec.column} was made with other constants than this program has ({what}): it can be read")
    return made
