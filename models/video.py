"""The video side: what is made of clip embeddings before they are fused, and the recogniser that has nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import VideoConfig
from models.layers import EMBEDDING, AttentionPooling, TransformerStack, xavier
from models.recogniser import Recogniser


class TemporalProjection(nn.Module):
    """A convolution over three windows, then a linear map to the audio's length: the transform `conv1d`.

    Source: the paper's section 3; the ReLU between the two, without which they were one linear map, is ours.
    """

    def __init__(self, video_dim: int, dim: int) -> None:
        super().__init__()
        self.convolution = xavier(nn.Conv1d(video_dim, video_dim, kernel_size=3, padding=1))
        self.linear = xavier(nn.Linear(video_dim, dim))

    def forward(self, video: Tensor) -> Tensor:
        """[B, N, D] to [B, N, dim]."""
        return self.linear(F.relu(self.convolution(video.transpose(1, 2))).transpose(1, 2))


def video_transform(config: VideoConfig) -> tuple[nn.Module, int]:
    """What embeddings go through before they are fused, and the length that they have then."""
    if config.video_transform == "raw":
        return nn.Identity(), config.video_dim
    dim = config.scaled(EMBEDDING)
    return TemporalProjection(config.video_dim, dim), dim


@dataclass(frozen=True, kw_only=True)
class VideoOnlyConfig(VideoConfig):
    """Of `VideoOnly`."""


class VideoOnly(Recogniser):
    """Clip embeddings → two transformer blocks at 1 Hz → attention pooling.

    With `conv1d` the embeddings are projected first and the blocks have the audio's length. With `raw` the blocks
    work on the embeddings themselves (feed-forward D → 1024 → D), and a linear map with ReLU to 1024 follows them.

    Source: the paper's section 3; the released `videoModel` for `raw`; RECIPE.md section 2.
    """

    columns = ("video",)

    def __init__(self, config: VideoConfig) -> None:
        super().__init__(config)
        hidden = config.scaled(EMBEDDING)
        self.transform, dim = video_transform(config)
        self.transformer = TransformerStack(dim, hidden, config.dropout, shared=config.shared_blocks)
        self.projection = (
            nn.Sequential(xavier(nn.Linear(dim, hidden)), nn.ReLU())
            if config.video_transform == "raw"
            else nn.Identity()
        )
        self.pooling = AttentionPooling(hidden, config.classes)

    def video_state(self, video: Tensor) -> Tensor:
        """[B, 10, D] to logits [B, classes]: without sound nothing is left to do."""
        return self.pooling(self.projection(self.transformer(self.transform(video))))

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """The video state, which is the scores."""
        return video_state
