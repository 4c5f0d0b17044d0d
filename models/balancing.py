"""Gradient balancing: neither modality's branch learns faster because the fused layer pulls at it harder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from models.scores import at_least_float32


class _BalanceGradients(Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first.view_as(first), second.view_as(second)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        first, second = gradients
        # In float64, because the squares of float32 gradients below 1e-19 are zero.
        norms = [
            torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64) for gradient in (first, second)
        ]
        mean = (norms[0] + norms[1]) / 2
        balanced = (norms[0] > 0) & (norms[1] > 0)
        return _rescaled(first, mean / norms[0], balanced), _rescaled(second, mean / norms[1], balanced)


def _rescaled(gradient: Tensor, factor: Tensor, balanced: Tensor) -> Tensor:
    factor = torch.where(balanced, factor, torch.ones_like(factor)).reshape(-1, *[1] * (gradient.dim() - 1))
    wide = at_least_float32(gradient)
    return (wide * factor.to(wide.dtype)).to(gradient.dtype)


def balance_gradients(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same two tensors; backward makes their gradients equally long, sample by sample.

    For each sample, either gradient is scaled to the mean of the two norms. Where one is zero there is nothing to
    balance, and both pass as they are. The norm of a tensor that needs no gradient itself counts all the same.

    Args:
        first: float [B, …], what enters the concatenation from one side.
        second: float [B, …], and from the other.

    Returns:
        Tensors equal to the arguments. Not differentiable twice.

    Source: the paper's section 3.3; RECIPE.md section 2.
    """
    return _BalanceGradients.apply(first, second)
