"""ResNet-50 on log-mel against torchvision's network and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
import torchvision
from small_models import random_clips, small_model, stir_batch_norms
from torch import Tensor, nn

from models.resnet import ResNet50, ResNetConfig, SigmoidAttentionPooling


def torchvision_features(x: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, 1, T, F] to torchvision's maps before its average pooling, and the weights that made them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reference = torchvision.models.resnet50(weights=None).eval()
        reference.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=1, padding=3, bias=False)
    stir_batch_norms(reference)
    # Feature maps grow through 16 residual blocks; smaller branches keep them in range.
    for name, parameter in reference.named_parameters():
        if name.endswith("bn3.weight"):
            parameter.data.mul_(0.2)
    stem = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    maps = reference.layer4(reference.layer3(reference.layer2(reference.layer1(stem))))
    state = {name: tensor for name, tensor in reference.state_dict().items() if not name.startswith("fc.")}
    return maps, state


@torch.no_grad()
def test_features_are_torchvisions() -> None:
    x = torch.randn(1, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    expected, state = torchvision_features(x, seed=1)
    model = ResNet50(ResNetConfig(classes=2)).eval()
    ours = [name for name in model.state_dict() if not name.startswith("pooling.")]
    # Both register their layers in the order of the data flow, but for the shortcut: torchvision's is its block's last.
    assert len(ours) == len(state)
    model.load_state_dict(dict(zip(ours, state.values(), strict=True)), strict=False)
    maps = model.stages(model.stem(x))
    assert maps.shape == (1, 2048, 3, 4) and maps.abs().max() > 0.1
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_size_is_as_published_and_twenty_five_steps_are_kept() -> None:
    with torch.device("meta"):
        model = ResNet50(ResNetConfig())
        maps = model.stages(model.stem(torch.empty(2, 1, 400, 64)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_661_406
    assert maps.shape == (2, 2048, 25, 4)


def test_convolutions_start_as_he_and_others_have_it_by_what_they_give() -> None:
    """A standard deviation of √(2 / (kernel area × channels out)), as the released code has it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet50(ResNetConfig(width=0.25, classes=2))
    last = model.stages[3]
    for convolution in (model.stem[0], last[0].conv1, last[0].conv2, last[0].downsample[0]):  # type: ignore[index, union-attr]
        area = convolution.kernel_size[0] ** 2
        expected = (2 / (area * convolution.out_channels)) ** 0.5
        assert convolution.weight.std().item() / expected == pytest.approx(1, rel=0.1)


def test_head_equals_numpy() -> None:
    """RECIPE.md: sigmoid probabilities weighted by sigmoid attention, normalised over time."""
    pooling = SigmoidAttentionPooling(12, 4).double()
    x = 2 * torch.randn(3, 25, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    frames = x.numpy()
    z, attention = (
        frames @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        for linear in (pooling.event, pooling.attention)
    )
    weights = scipy.special.expit(attention)
    weights /= weights.sum(axis=1, keepdims=True)
    p = (scipy.special.expit(z) * weights).sum(axis=1)
    np.testing.assert_allclose(pooling(x).detach().numpy(), scipy.special.logit(p), rtol=0, atol=1e-12)


def test_bins_are_averaged_and_time_is_attended_to() -> None:
    model = small_model("resnet50").double().eval()
    assert isinstance(model, ResNet50)
    clips = random_clips(2, dtype=torch.float64)
    maps = model.stages(model.stem(clips["logmel"][:, None])).detach()
    frames = torch.stack([maps[:, :, time].sum(dim=2) / 4 for time in range(25)], dim=1)
    torch.testing.assert_close(model(clips), model.pooling(frames), rtol=0, atol=1e-12)
