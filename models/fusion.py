"""The four ways to put sound and picture together: early, mid 1, mid 2, late."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.balancing import balance_gradients
from models.config import EmbeddingConfig, ModelConfig, VideoConfig
from models.csn import Csn, CsnConfig
from models.layers import (
    EMBEDDING,
    MEL_BINS_PER_COLUMN,
    AttentionPooling,
    ConvStack,
    TransformerStack,
    xavier,
)
from models.recogniser import FRAMES, MEL_BINS, WINDOWS, Recogniser
from models.scores import mix_scores
from models.video import VideoOnly, VideoOnlyConfig, video_transform

_EARLY_ROWS = 80
_FRAMES_PER_WINDOW = 10  # 100 frames after the convolutions, 10 windows of video


@dataclass(frozen=True, kw_only=True)
class EarlyFusionConfig(EmbeddingConfig):
    """Of `EarlyFusion`: 18,390,142 parameters for D = 512, 21,535,870 for D = 2048."""


class EarlyFusion(Recogniser):
    """Log-mel and embeddings as one picture of 80 rows → conv stack → linear → two transformer blocks → pooling.

    A row is an eighth of a second of both: five log-mel frames (320 numbers) and an eighth of a window's embedding.
    The picture is widened with zeros to a multiple of 32 columns, or the poolings would cut the last ones off; for
    D = 512 and 2048 there is nothing to widen.

    Source: RECIPE.md section 2.
    """

    columns = ("logmel", "video")

    def __init__(self, config: EarlyFusionConfig) -> None:
        super().__init__(config)
        dim = config.scaled(EMBEDDING)
        width = (FRAMES * MEL_BINS + WINDOWS * config.video_dim) // _EARLY_ROWS
        self.padding = -width % MEL_BINS_PER_COLUMN
        self.convs = ConvStack(config)
        columns = (width + self.padding) // MEL_BINS_PER_COLUMN
        self.projection = xavier(nn.Linear(columns * self.convs.channels, dim))
        self.transformer = TransformerStack(dim, dim, config.dropout, shared=config.shared_blocks)
        self.pooling = AttentionPooling(dim, config.classes)

    def video_state(self, video: Tensor) -> Tensor:
        """[B, 10, D] to [B, 80, D / 8]: sound and picture meet at once, so there is nothing else to keep."""
        return video.reshape(len(video), _EARLY_ROWS, -1)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] and [B, 80, D / 8] to logits [B, classes]."""
        picture = torch.cat([logmel.reshape(len(logmel), _EARLY_ROWS, -1), video_state], dim=2)
        frames = self.convs(F.pad(picture, (0, self.padding)))  # [B, 20, 6144] for D = 512
        return self.pooling(self.transformer(F.relu(self.projection(frames))))


@dataclass(frozen=True, kw_only=True)
class MidFusionConfig(VideoConfig):
    """Of `MidFusion1` and `MidFusion2`; with `raw` 23,108,734 parameters for D = 512, 24,681,598 for D = 2048.

    Attributes:
        balance_gradients: whether training balances the gradients of the two fused tensors.
        blending: whether sound and picture have heads of their own, with a loss each.
        blend_audio, blend_visual, blend_joint: what the three losses count then; VMZ's values for AudioSet.
    """

    balance_gradients: bool = True
    blending: bool = False
    blend_audio: float = 0.239
    blend_visual: float = 0.384
    blend_joint: float = 0.377

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = {name: getattr(self, name) for name in ("blend_audio", "blend_visual", "blend_joint")}
        for name, weight in weights.items():
            self._require(weight >= 0, name, "a weight of at least 0")
        total = math.fsum(weights.values())
        self._require(math.isclose(total, 1.0, abs_tol=1e-6), "blend_joint", "three weights that add up to 1")


class MidFusion(Recogniser):
    """Frames of sound grouped ten to one, beside the windows of the picture → linear → 1024; see the two below.

    Trained with `forward_heads`, which has 'audio' and 'visual' beside 'joint' when the config says `blending`.
    The heads branch off before the gradients are balanced: balancing is about what the joint loss sends back.

    Source: RECIPE.md section 2; Wang et al. 2020 (arXiv:1905.12681) for blending.
    """

    columns = ("logmel", "video")
    config: MidFusionConfig

    def __init__(self, config: MidFusionConfig) -> None:
        super().__init__(config)
        dim = config.scaled(EMBEDDING)
        self.convs = ConvStack(config)
        self.transform, video_dim = video_transform(config)
        self.projection = xavier(nn.Linear(_FRAMES_PER_WINDOW * dim + video_dim, dim))
        self.transformer = TransformerStack(dim, dim, config.dropout, shared=config.shared_blocks)
        self.pooling = AttentionPooling(dim, config.classes)
        if config.blending:
            self.audio_pooling = AttentionPooling(dim, config.classes)
            self.visual_pooling = AttentionPooling(video_dim, config.classes)
            self.head_weights = {
                "joint": config.blend_joint,
                "audio": config.blend_audio,
                "visual": config.blend_visual,
            }

    def video_state(self, video: Tensor) -> Tensor:
        """[B, 10, D] to [B, 10, 1024·width], or as it is with `raw`."""
        return self.transform(video)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] and the video state to logits [B, classes]."""
        return self._joint(self._audio(logmel), video_state)

    def heads(self, logmel: Tensor, video_state: Tensor) -> dict[str, Tensor]:
        """'joint', and with blending 'audio' and 'visual': logits [B, classes] each."""
        audio = self._audio(logmel)
        scores = {"joint": self._joint(audio, video_state)}
        if self.config.blending:
            scores["audio"] = self.audio_pooling(audio)
            scores["visual"] = self.visual_pooling(video_state)
        return scores

    def _audio(self, logmel: Tensor) -> Tensor:
        raise NotImplementedError

    def _joint(self, audio: Tensor, video_state: Tensor) -> Tensor:
        raise NotImplementedError

    def _fuse(self, audio: Tensor, video_state: Tensor) -> Tensor:
        """[B, 100, 1024·width] and the video state to [B, 10, 1024·width]."""
        grouped = audio.reshape(len(audio), WINDOWS, -1)
        if self.training and self.config.balance_gradients:
            grouped, video_state = balance_gradients(grouped, video_state)
        return F.relu(self.projection(torch.cat([grouped, video_state], dim=2)))


class MidFusion1(MidFusion):
    """Fused after the convolutions; the transformer blocks see both, at 1 Hz."""

    def _audio(self, logmel: Tensor) -> Tensor:
        return self.convs(logmel)

    def _joint(self, audio: Tensor, video_state: Tensor) -> Tensor:
        return self.pooling(self.transformer(self._fuse(audio, video_state)))


class MidFusion2(MidFusion):
    """Fused after the transformer blocks, which see the sound alone, at 10 Hz.

    The projection after the concatenation is what the released code lacks, and cannot run without.
    """

    def _audio(self, logmel: Tensor) -> Tensor:
        return self.transformer(self.convs(logmel))

    def _joint(self, audio: Tensor, video_state: Tensor) -> Tensor:
        return self.pooling(self._fuse(audio, video_state))


@dataclass(frozen=True, kw_only=True)
class LateFusionConfig(VideoConfig):
    """Of `LateFusion`.

    Attributes:
        audio_share: what the audio branch's probability counts; the video branch's counts the rest.
    """

    audio_share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0.0 < self.audio_share < 1.0, "audio_share", "above 0 and below 1")


class LateFusion(Recogniser):
    """A whole CSN and a whole video-only recogniser; p = 0.6 p_audio + 0.4 p_video.

    The branches are `audio` and `video`, for those who want to load them trained one by one.

    Source: the released `SuperLateFusion`; RECIPE.md section 2.
    """

    columns = ("logmel", "video")

    def __init__(self, config: LateFusionConfig) -> None:
        super().__init__(config)
        self.audio = Csn(CsnConfig(**_fields_of(config, CsnConfig)))
        self.video = VideoOnly(VideoOnlyConfig(**_fields_of(config, VideoOnlyConfig)))
        self.log_shares = (math.log(config.audio_share), math.log1p(-config.audio_share))

    def video_state(self, video: Tensor) -> Tensor:
        """[B, 10, D] to the video branch's logits [B, classes]."""
        return self.video.video_state(video)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] and the video branch's logits to logits [B, classes]."""
        branches = torch.stack([self.audio.score(logmel, video_state), video_state], dim=1)
        # Filled on the device: a tensor made from Python numbers would be copied there, and waited for, at every call.
        log_shares = torch.stack([branches.new_full((1,), log_share) for log_share in self.log_shares])
        return mix_scores(branches, log_shares, dim=1)


def _fields_of(config: LateFusionConfig, branch: type[ModelConfig]) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(branch)}
