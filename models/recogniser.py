"""What every recogniser is: named columns in, one score per clip and class out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from torch import Tensor, nn

from models.config import ModelConfig

FRAMES, MEL_BINS = 400, 64
WINDOWS = 10


class Recogniser(nn.Module):
    """A clip's features to the scores of its classes. Subclasses give `score`, and `video_state` if they read video.

    A score is a logit, float32 also under autocast (float64 if the weights are): positive where the model says that
    the event is more likely there than not. `forward` is `forward_audio` after `encode_video`; who asks about many
    sounds to one picture, as an attack on the sound does, calls `encode_video` once.

    Attributes:
        columns: the features that `forward` needs: 'logmel', normalised float [B, 400, 64], or 'video', float
            [B, 10, D] with D the config's `video_dim`, or both.
        config: what the model was built from.
        head_weights: what each of `forward_heads` counts in the training loss; they add up to one.
    """

    columns: ClassVar[tuple[str, ...]] = ("logmel",)
    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.head_weights: dict[str, float] = {"joint": 1.0}

    def encode_video(self, video: Tensor | None) -> Tensor | None:
        """All that the scores need of the video, computed once.

        Args:
            video: float [B, 10, D]; models that read no video ignore it.

        Returns:
            A tensor whose first axis is the batch, for `forward_audio`; None from models that read no video.

        Raises:
            ValueError: another shape or dtype, or none where the model reads video.
        """
        if "video" not in self.columns:
            return None
        return self.video_state(self._checked(video, "video", (WINDOWS, getattr(self.config, "video_dim", 0))))

    def forward_audio(self, logmel: Tensor | None, video_state: Tensor | None = None) -> Tensor:
        """Scores from the sound and what `encode_video` gave.

        Args:
            logmel: normalised float [B, 400, 64]; the video-only model ignores it.
            video_state: of the same B clips; models that read no video ignore it.

        Returns:
            Logits [B, classes], float32 or wider.

        Raises:
            ValueError: another shape or dtype, something missing, or another number of clips in one than in the other.
        """
        return self.score(*self._ready(logmel, video_state))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of a batch.

        Args:
            inputs: the model's `columns` by name; others are ignored.

        Returns:
            Logits [B, classes], float32 or wider.

        Raises:
            ValueError: a column is missing, or has another shape or dtype.
        """
        return self.forward_audio(inputs.get("logmel"), self.encode_video(inputs.get("video")))

    def forward_heads(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of every head that training has a loss for, by the names of `head_weights`.

        'joint' is what `forward` gives; most models have no other.
        """
        return self.heads(*self._ready(inputs.get("logmel"), self.encode_video(inputs.get("video"))))

    def video_state(self, video: Tensor) -> Tensor:
        """Checked [B, 10, D] to a tensor whose first axis is the batch."""
        raise NotImplementedError(f"{type(self).__name__} reads no video")

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """Checked inputs to logits [B, classes]; what is not in `columns` is None."""
        raise NotImplementedError(f"{type(self).__name__} must say how it scores")

    def heads(self, logmel: Tensor, video_state: Tensor) -> dict[str, Tensor]:
        """Checked inputs to what `forward_heads` gives."""
        return {"joint": self.score(logmel, video_state)}

    def _ready(self, logmel: Tensor | None, video_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both, checked; None is left only where the model's columns say that it does not look."""
        if "logmel" in self.columns:
            logmel = self._checked(logmel, "logmel", (FRAMES, MEL_BINS))
        if "video" in self.columns:
            if video_state is None:
                raise ValueError(f"{type(self).__name__}: a video state expected, got None; give encode_video's answer")
            if logmel is not None and "logmel" in self.columns and len(video_state) != len(logmel):
                raise ValueError(
                    f"{type(self).__name__}: as many clips in logmel as in the video state expected, got {len(logmel)} "
                    f"and {len(video_state)}; repeat the shorter one, clip by clip"
                )
        return cast(Tensor, logmel), cast(Tensor, video_state)

    def _checked(self, x: Tensor | None, column: str, shape: tuple[int, int]) -> Tensor:
        name, expected = type(self).__name__, f"float [B, {shape[0]}, {shape[1]}]"
        if x is None:
            raise ValueError(f"{name}: {column}, {expected}, expected, got none; it reads {', '.join(self.columns)}")
        if x.dim() != 3 or x.shape[1:] != shape or not x.is_floating_point():
            remedy = {
                "logmel": "give normalised log-mels of whole clips",
                "video": f"give {WINDOWS} windows a clip, or build the model with the column's video_dim",
            }[column]
            raise ValueError(f"{name}: {column}: {expected} expected, got {x.dtype} {list(x.shape)}; {remedy}")
        return x
