"""CRNN (TALNet): convolutions, then a recurrent layer over time, on log-mel alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import EMBEDDING, AttentionPooling, ConvStack
from models.recogniser import Recogniser


@dataclass(frozen=True, kw_only=True)
class CrnnConfig(ModelConfig):
    """Of `Crnn`: 10,520,702 parameters at width 1. TALNet was trained without dropout."""


class BidirectionalGru(nn.Module):
    """One layer of gated recurrent units in both directions; orthogonal weights and zero biases to begin with.

    Source: TALNet (Wang et al. 2019, arXiv:1810.09050); Cho et al. 2014 for the unit, with torch's reset gate.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)
        for parameter in self.gru.parameters():
            if parameter.dim() > 1:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same: the first half of the last axis runs forwards in time, the second backwards."""
        # cuDNN cannot run backward through a GRU in eval mode, which is how an attack uses it. torch's own kernels
        # can. On a CPU the switch changes nothing.
        if torch.is_grad_enabled() and not self.training:
            with torch.backends.cudnn.flags(enabled=False):
                return self.gru(x)[0]
        return self.gru(x)[0]


class Crnn(Recogniser):
    """Conv stack → bidirectional GRU at 10 Hz → attention pooling.

    Source: TALNet (Wang et al. 2019, arXiv:1810.09050), with the pooling that the paper names; RECIPE.md section 2.
    """

    columns = ("logmel",)

    def __init__(self, config: CrnnConfig) -> None:
        super().__init__(config)
        dim = config.scaled(EMBEDDING)
        self.convs = ConvStack(config)
        self.recurrent = BidirectionalGru(dim)
        self.pooling = AttentionPooling(dim, config.classes)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] to logits [B, classes]."""
        return self.pooling(self.recurrent(self.convs(logmel)))
