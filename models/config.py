"""What every model's config has in common: frozen, checked on the way in, JSON on the way out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

VideoTransformName = Literal["conv1d", "raw"]
HEADS = 8
NARROWEST_CHANNELS = 32  # of the conv stack; every other number of channels is a multiple of it


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is built from. Subclasses add fields; each is a bool, an int, a float or one of a few words.

    Attributes:
        classes: number of scores per clip; AudioSet has 527.
        width: multiplies every number of channels; a multiple of 1/32. 1 is the published size.

    Raises:
        ValueError: a field of another type or out of its range.
    """

    classes: int = 527
    width: float = 1.0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            self._require(_is_a(getattr(self, field.name), hints[field.name]), field.name, _name_of(hints[field.name]))
        self._require(self.classes >= 1, "classes", "at least 1")
        channels = self.width * NARROWEST_CHANNELS
        self._require(channels >= 1 and channels == int(channels), "width", "a positive multiple of 1/32")

    def _require(self, holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__}.{field}: {expected} expected, got {getattr(self, field)!r}")

    def scaled(self, channels: int) -> int:
        """So many channels at this width; `channels` is a multiple of 32."""
        return int(channels * self.width)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Of models with transformer blocks.

    Attributes:
        dropout: share of units dropped, in all three places of a block.
        shared_blocks: whether one block is applied twice (as released) or there are two.
    """

    dropout: float = 0.75
    shared_blocks: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0.0 <= self.dropout < 1.0, "dropout", "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(TransformerConfig):
    """Of models that read clip embeddings.

    Attributes:
        video_dim: length D of an embedding: 512 (R(2+1)D-18 and -34) or 2048 (-152); a multiple of 8.
    """

    video_dim: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.video_dim >= HEADS and self.video_dim % HEADS == 0, "video_dim", "a positive multiple of 8")


@dataclass(frozen=True, kw_only=True)
class VideoConfig(EmbeddingConfig):
    """Of models that may transform the embeddings first.

    Attributes:
        video_transform: 'conv1d' (the paper: convolution over time, then D → 1024) or 'raw' (the released code: the
            embedding as it is).
    """

    video_transform: VideoTransformName = "conv1d"


def _is_a(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(value, bool):  # a bool is an int to Python, but not to someone who writes width=True
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _name_of(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return {int: "an integer", float: "a finite number", bool: "true or false"}.get(hint, str(hint))
