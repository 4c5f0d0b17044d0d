"""Parameters and operations against sums by hand."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model

from models.cost import model_cost, parameter_count
from models.registry import build

# Multiply-adds of the conv stack on one clip: 3×3 kernels, maps of 400×64, halved in both axes twice, then in one.
_MAPS = ((400, 64), (200, 32), (100, 16), (100, 8), (100, 4))
_CHANNELS = ((1, 32, 32), (32, 64, 64), (64, 128, 128), (128, 256, 256), (256, 512, 512))
CONV_STACK = sum(9 * h * w * (a * b + b * c) for (h, w), (a, b, c) in zip(_MAPS, _CHANNELS, strict=True))
BLOCK = 100 * 6 * 1024**2 + 2 * 8 * 100 * 100 * 128
HEAD = 2 * 100 * 1024 * 527
GRU = 100 * 2 * 3 * (512 * 1024 + 512 * 512)


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("csn", CONV_STACK + 2 * BLOCK + HEAD),
        ("crnn", CONV_STACK + GRU + HEAD),
    ],
)
def test_operations_are_twice_the_multiply_adds(name: str, multiply_adds: int) -> None:
    assert model_cost(name)[1] == 2 * multiply_adds


@pytest.mark.parametrize("name", ["resnet50", "video", "late"])
def test_parameters_are_those_of_a_real_model(name: str) -> None:
    small = {"width": 1 / 16, "classes": 5}
    assert model_cost(name, **small)[0] == parameter_count(build(name, **small))


def test_frozen_parameters_do_not_count() -> None:
    model = small_model("csn")
    whole = parameter_count(model)
    frozen = model.get_submodule("convs").requires_grad_(False)
    assert parameter_count(model) == whole - sum(parameter.numel() for parameter in frozen.parameters())


def test_nothing_is_left_switched_on() -> None:
    model_cost("csn", width=1 / 16)
    assert torch.is_grad_enabled()
    assert type(torch.zeros(1)) is torch.Tensor
