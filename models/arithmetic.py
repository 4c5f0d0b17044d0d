"""In which floating-point types a model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class Arithmetic:
    """In which type weights are kept, and forward passes computed (None: the same)."""

    weights: torch.dtype
    autocast: torch.dtype | None


def arithmetic_of(precision: Precision, device: torch.device) -> Arithmetic:
    """What `--precision` means on a device."""
    if precision == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if able else "float32"
    if precision == "bfloat16":
        return Arithmetic(torch.float32, torch.bfloat16)
    return Arithmetic({"float32": torch.float32, "float64": torch.float64}[precision], None)
