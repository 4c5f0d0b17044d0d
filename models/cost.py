"""What a model costs: its parameters and the arithmetic of one clip."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from models.recogniser import FRAMES, MEL_BINS, WINDOWS
from models.registry import build


def parameter_count(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def model_cost(name: str, **overrides: object) -> tuple[int, int]:
    """Parameters, and floating-point operations of one clip's forward pass; nothing is allocated or computed.

    A multiplication and an addition are two operations. Matrix products and convolutions count, all else is free, as
    in model FLOP utilisation. A training step takes three times as many: forward, and backward by inputs and weights.

    Raises:
        ValueError: as `models.registry.build`.
    """
    # Fake tensors, not the meta device: autocast exists for the device that they pretend to be on.
    with FakeTensorMode(), torch.no_grad():
        model = build(name, **overrides).eval()
        inputs = {
            "logmel": torch.empty(1, FRAMES, MEL_BINS),
            "video": torch.empty(1, WINDOWS, getattr(model.config, "video_dim", 1)),
        }
        with FlopCounterMode(display=False) as counter:
            model(inputs)
        return parameter_count(model), counter.get_total_flops()
