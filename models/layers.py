"""The layers that the recognisers share: conv stack, transformer blocks, attention pooling."""

from __future__ import annotations

import math
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import HEADS, ModelConfig
from models.scores import at_least_float32, mix_scores, without_autocast

EMBEDDING = 1024  # length of a frame's vector after the convolutions, at width 1
BLOCKS = 2
MEL_BINS_PER_COLUMN = 32  # the five poolings of the conv stack halve the bins each

# Of each two convolutions: their channels at width 1, and the pooling (time, bins) after the second.
_STAGES = ((32, (2, 2)), (64, (2, 2)), (128, (1, 2)), (256, (1, 2)), (512, (1, 2)))

Weighted = TypeVar("Weighted", nn.Linear, nn.Conv1d, nn.Conv2d)


def xavier(layer: Weighted, *, zero_bias: bool = False) -> Weighted:
    """The layer with Xavier-uniform weights. Biases stay as torch draws them, or become zero.

    Source: Glorot and Bengio 2010; the released code does so for every matrix and kernel.
    """
    nn.init.xavier_uniform_(layer.weight)
    if zero_bias and layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ConvStack(nn.Module):
    """Ten 3×3 convolutions with BatchNorm and ReLU, max-pooling after every second; 4,715,616 parameters at width 1.

    The convolutions keep the biases that BatchNorm makes useless in training, as published.

    Source: TALNet (Wang et al. 2019, arXiv:1810.09050), RECIPE.md section 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels_in = 1
        for channels, pool in _STAGES:
            channels = config.scaled(channels)
            for inputs in (channels_in, channels):
                convolution = xavier(nn.Conv2d(inputs, channels, kernel_size=3, padding=1))
                stages += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
            stages.append(nn.MaxPool2d(pool))
            channels_in = channels
        self.stages = nn.Sequential(*stages)
        self.channels = channels_in

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, F] to [B, T / 4, C·(F / 32)] with C = 512·width; within a row, channel by channel."""
        maps = self.stages(x.unsqueeze(1))  # [B, C, T / 4, F / 32]
        return maps.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention without positions or masks; dropout on the attention weights.

    Written out, not `F.scaled_dot_product_attention`: with 100 frames its two products are 1 % of a CSN's operations,
    and backward through fused GPU kernels may add in any order, so a resumed run would not repeat an uninterrupted one.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.query = xavier(nn.Linear(dim, dim))
        self.key = xavier(nn.Linear(dim, dim))
        self.value = xavier(nn.Linear(dim, dim))
        self.out = xavier(nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        # [B, heads, T, dim / heads]
        query, key, value = (
            project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        mixed = self.dropout(weights) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Post-LN: attention and a ReLU feed-forward net, each added to its input and normalised; no positions.

    Dropout in three places: on the attention weights, after the attention's projection, after the feed-forward net.

    Source: Vaswani et al. 2017 (arXiv:1706.03762); RECIPE.md section 2: 8 heads, 1024 → 1024 → 1024 at width 1.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.expand = xavier(nn.Linear(dim, hidden))
        self.contract = xavier(nn.Linear(hidden, dim))
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        return self.feed_forward_norm(x + self.dropout(self.contract(F.relu(self.expand(x)))))


class TransformerStack(nn.Module):
    """Two transformer blocks in a row: one block applied twice, or two with weights of their own."""

    def __init__(self, dim: int, hidden: int, dropout: float, *, shared: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, hidden, dropout) for _ in range(1 if shared else BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        for index in range(BLOCKS):
            x = self.blocks[index % len(self.blocks)](x)
        return x


class AttentionPooling(nn.Module):
    """Scores of a clip from its frames: p = Σ_t σ(W_p x_t) · softmax_t(W_a x_t), softmax over time per class.

    Always float32 or wider: a score rounded to bfloat16 has 8 bits, and average precision lives on the order of scores.

    Source: Wang et al. 2019 (arXiv:1810.09050), "attention"; RECIPE.md section 2.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.event = xavier(nn.Linear(dim, classes), zero_bias=True)
        self.attention = xavier(nn.Linear(dim, classes), zero_bias=True)

    def log_weights(self, frames: Tensor) -> Tensor:
        """[B, T, dim] to the log of each frame's weight, [B, T, classes]; a common factor over time is free."""
        return F.log_softmax(self.attention(frames), dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, dim] to logits [B, classes]."""
        with without_autocast(frames):
            frames = at_least_float32(frames)
            return mix_scores(self.event(frames), self.log_weights(frames), dim=1)
