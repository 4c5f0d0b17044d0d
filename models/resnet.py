"""ResNet-50 on log-mel, with attention over the time steps that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import AttentionPooling
from models.recogniser import Recogniser

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # planes at width 1, blocks, stride of the first
_STEM_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ModelConfig):
    """Of `ResNet50`: 25,661,406 parameters at width 1. It was trained without dropout."""


class SigmoidAttentionPooling(AttentionPooling):
    """Attention pooling whose weights are sigmoids, made to add up to one over time.

    Source: the released `AudioResNet.py`; RECIPE.md section 2.
    """

    def log_weights(self, frames: Tensor) -> Tensor:
        """[B, T, dim] to [B, T, classes]. Dividing by their sum is left out: a common factor cancels in the score."""
        return F.logsigmoid(self.attention(frames))


class ResNet50(Recogniser):
    """ResNet-50 with one input channel and a stem of stride 1; bins averaged away, 25 time steps kept.

    The blocks are torchvision's, with its stride on the 3×3 convolution, as in the released code.

    Source: He et al. 2016 (arXiv:1512.03385); the released `AudioResNet.py`; RECIPE.md section 2.
    """

    columns = ("logmel",)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        channels = config.scaled(_STEM_CHANNELS)
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=7, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        for planes, blocks, stride in _STAGES:
            planes = config.scaled(planes)
            stages.append(_stage(channels, planes, blocks, stride))
            channels = planes * _bottleneck().expansion
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.pooling = SigmoidAttentionPooling(channels, config.classes)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] to logits [B, classes]."""
        maps = self.stages(self.stem(logmel.unsqueeze(1)))  # [B, 2048, 25, 4]
        return self.pooling(maps.mean(dim=3).transpose(1, 2))


def _bottleneck() -> Any:
    # Imported here because torchvision takes seconds, which runs of the other recognisers need not spend.
    from torchvision.models.resnet import Bottleneck

    return Bottleneck


def _stage(channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    block = _bottleneck()
    out = planes * block.expansion
    # The first block always changes the number of channels, so its shortcut is always a projection.
    shortcut = nn.Sequential(nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out))
    first = block(channels, planes, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(block(out, planes) for _ in range(1, blocks)))
