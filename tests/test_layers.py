"""The shared layers against scipy, numpy in float64 and torch's own transformer layer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
from small_models import stir_batch_norms
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import AttentionPooling, ConvStack, TransformerBlock, TransformerStack


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_conv_stack(stack: ConvStack, x: np.ndarray) -> np.ndarray:
    """[T, F] to [T / 4, C·F / 32], from RECIPE.md's text, with scipy's correlation."""
    layers = iter(stack.stages)
    maps = x[None]
    for pool_time, pool_bins in ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2)):
        for _ in range(2):
            conv, norm, _ = next(layers), next(layers), next(layers)
            weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
            out = []
            for channel in range(len(weight)):
                planes = [
                    scipy.signal.correlate2d(m, k, mode="same") for m, k in zip(maps, weight[channel], strict=True)
                ]
                y = np.sum(planes, axis=0) + bias[channel]
                y = (y - norm.running_mean[channel].item()) / np.sqrt(norm.running_var[channel].item() + 1e-5)
                out.append(np.maximum(y * norm.weight[channel].item() + norm.bias[channel].item(), 0))
            maps = np.stack(out)
        next(layers)
        channels, times, bins = maps.shape
        maps = maps.reshape(channels, times // pool_time, pool_time, bins // pool_bins, pool_bins).max(axis=(2, 4))
    return maps.transpose(1, 0, 2).reshape(maps.shape[1], -1)


def test_conv_stack_equals_scipy() -> None:
    stack = ConvStack(ModelConfig(width=1 / 32)).double().eval()
    stir_batch_norms(stack)
    x = normal(2, 12, 64)
    actual = stack(x).detach().numpy()
    assert actual.shape == (2, 3, 32)
    for clip in range(2):
        expected = reference_conv_stack(stack, x[clip].numpy())
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(actual[clip], expected, rtol=0, atol=1e-12)


def test_conv_stack_is_as_published() -> None:
    with torch.device("meta"):
        stack = ConvStack(ModelConfig())
        assert stack(torch.empty(3, 400, 64)).shape == (3, 100, 1024)
    assert parameters_of(stack) == 4_715_616
    convolutions = [module for module in stack.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256, 512, 512]


def torch_layer_like(block: TransformerBlock, dim: int, hidden: int) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(dim, nhead=8, dim_feedforward=hidden, dropout=0.0, batch_first=True).double()
    attention = block.attention
    projections = (attention.query, attention.key, attention.value)
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([projection.weight for projection in projections]),
            "self_attn.in_proj_bias": torch.cat([projection.bias for projection in projections]),
            "self_attn.out_proj.weight": attention.out.weight,
            "self_attn.out_proj.bias": attention.out.bias,
            "linear1.weight": block.expand.weight,
            "linear1.bias": block.expand.bias,
            "linear2.weight": block.contract.weight,
            "linear2.bias": block.contract.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.feed_forward_norm.weight,
            "norm2.bias": block.feed_forward_norm.bias,
        }
    )
    return layer


def test_transformer_block_equals_torchs_layer() -> None:
    block = TransformerBlock(32, 24, dropout=0.0).double()
    for norm in (block.attention_norm, block.feed_forward_norm):
        norm.weight.data.copy_(1 + 0.3 * normal(32, seed=4))
        norm.bias.data.copy_(normal(32, seed=5))
    layer = torch_layer_like(block, 32, 24)
    ours, theirs = normal(3, 7, 32).requires_grad_(), normal(3, 7, 32).requires_grad_()
    out, expected = block(ours), layer(theirs)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weights = normal(3, 7, 32, seed=6)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None and ours.grad.abs().max() > 0.1
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-11)


def test_dropout_is_in_three_places_and_in_training_only() -> None:
    block = TransformerBlock(16, 16, dropout=0.75)
    seen: list[tuple[int, ...]] = []
    dropped: list[float] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append(tuple(inputs[0].shape))
        dropped.append(1 - ((output != 0).sum() / (inputs[0] != 0).sum()).item())

    for module in block.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(note)
    x = normal(4, 30, 16).float()
    block(x)
    assert seen == [(4, 8, 30, 30), (4, 30, 16), (4, 30, 16)]
    assert all(abs(share - 0.75) < 0.05 for share in dropped)
    block.eval()
    dropped.clear()
    block(x)
    assert dropped == [0.0, 0.0, 0.0]


def test_shared_stack_is_one_block_twice_and_distinct_two_in_order() -> None:
    x = normal(2, 5, 16)
    shared = TransformerStack(16, 16, 0.0, shared=True).double()
    torch.testing.assert_close(shared(x), shared.blocks[0](shared.blocks[0](x)), rtol=0, atol=0)
    distinct = TransformerStack(16, 16, 0.0, shared=False).double()
    torch.testing.assert_close(distinct(x), distinct.blocks[1](distinct.blocks[0](x)), rtol=0, atol=0)
    assert not torch.allclose(distinct(x), distinct.blocks[0](distinct.blocks[0](x)), atol=1e-3)
    assert parameters_of(distinct) == 2 * parameters_of(shared)


def test_attention_pooling_equals_numpy() -> None:
    pooling = AttentionPooling(12, 4).double()
    for linear in (pooling.event, pooling.attention):
        assert not linear.bias.any()
        linear.bias.data.copy_(normal(4, seed=7))
    x = 2 * normal(3, 9, 12)
    frames = x.numpy()
    z = frames @ pooling.event.weight.detach().numpy().T + pooling.event.bias.detach().numpy()
    attention = frames @ pooling.attention.weight.detach().numpy().T + pooling.attention.bias.detach().numpy()
    p = (scipy.special.expit(z) * scipy.special.softmax(attention, axis=1)).sum(axis=1)
    np.testing.assert_allclose(pooling(x).detach().numpy(), scipy.special.logit(p), rtol=0, atol=1e-12)


def test_attention_pooling_is_float32_under_autocast() -> None:
    pooling = AttentionPooling(12, 4)
    x = normal(3, 9, 12).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = pooling(x.to(torch.bfloat16))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, pooling(x.to(torch.bfloat16).float()))


@pytest.mark.parametrize("width", [1 / 16, 1])
def test_weights_are_xavier_uniform(width: float) -> None:
    """The bound is √(6 / (fan in + fan out)); torch's own default for a 3×3 kernel would be narrower."""
    if width == 1:
        layer: nn.Module = AttentionPooling(1024, 527).event
        bound = np.sqrt(6 / (1024 + 527))
    else:
        layer = ConvStack(ModelConfig(width=width)).stages[-4]
        bound = np.sqrt(6 / (9 * (32 + 32)))
    largest = layer.weight.abs().max().item()  # type: ignore[union-attr, operator]
    assert 0.98 * bound < largest <= bound
