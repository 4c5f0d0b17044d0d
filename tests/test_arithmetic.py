"""What --precision means."""

from __future__ import annotations

import pytest
import torch

from models.arithmetic import arithmetic_of


@pytest.mark.parametrize(
    ("precision", "weights", "autocast"),
    [
        ("auto", torch.float32, None),  # no bfloat16 autocast on a CPU unless asked for
        ("float64", torch.float64, None),
        ("bfloat16", torch.float32, torch.bfloat16),
    ],
)
def test_arithmetic(precision: str, weights: torch.dtype, autocast: torch.dtype | None) -> None:
    found = arithmetic_of(precision, torch.device("cpu"))
    assert (found.weights, found.autocast) == (weights, autocast)
