"""CSN: convolutions, then self-attention over time, on log-mel alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.config import TransformerConfig
from models.layers import EMBEDDING, AttentionPooling, ConvStack, TransformerStack
from models.recogniser import Recogniser


@dataclass(frozen=True, kw_only=True)
class CsnConfig(TransformerConfig):
    """Of `Csn`. Default: one block applied twice, 12,097,662 parameters; with two blocks 18,399,358."""


class Csn(Recogniser):
    """Conv stack → two transformer blocks at 10 Hz → attention pooling.

    Source: the paper's convolutional self-attention network, as released (`TransformerEncoder`); RECIPE.md section 2.
    """

    columns = ("logmel",)

    def __init__(self, config: CsnConfig) -> None:
        super().__init__(config)
        dim = config.scaled(EMBEDDING)
        self.convs = ConvStack(config)
        self.transformer = TransformerStack(dim, dim, config.dropout, shared=config.shared_blocks)
        self.pooling = AttentionPooling(dim, config.classes)

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] to logits [B, classes]."""
        return self.pooling(self.transformer(self.convs(logmel)))
