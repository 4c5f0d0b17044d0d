"""Every recogniser at a sixteenth of its width, and clips for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.recogniser import Recogniser
from models.registry import MODELS, build, field_names

CLASSES = 5
VIDEO_DIM = 16
NAMES = tuple(MODELS)
WITH_VIDEO = ("video", "early", "mid1", "mid2", "late")
FUSIONS = ("early", "mid1", "mid2", "late")


def small_model(name: str, seed: int = 0, **overrides: Any) -> Recogniser:
    """The model with five classes at width 1/16, embeddings of 16 numbers, weights from the seed; in training mode."""
    small = {"classes": CLASSES, "width": 1 / 16, "video_dim": VIDEO_DIM}
    known = {field: value for field, value in small.items() if field in field_names(name)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(name, **{**known, **overrides})


def random_clips(clips: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Both columns of so many clips."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "logmel": torch.randn(clips, 400, 64, generator=generator, dtype=dtype),
        "video": torch.randn(clips, 10, VIDEO_DIM, generator=generator, dtype=dtype),
    }


def stir_batch_norms(model: torch.nn.Module, seed: int = 2) -> None:
    """Running statistics and affine weights as after some training: with means of 0 and variances of 1 a wrong or
    missing BatchNorm would not show."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
