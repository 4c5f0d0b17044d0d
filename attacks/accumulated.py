"""The rule of the authors' released code, `accumulated`: every clip's bounded perturbation is added to one δ.

One pass over N clips: for every batch, δ += Σ_i d_i / N with d_i from `contributions`; the sum over the batch and the
division are the caller's. (As released: the batch's mean of d, times batch/N.) ε bounds each d_i, and δ itself is never
projected: it grows with the passes, far beyond ε, and the sense of the bound changes inside d_i from the clip to the
frame. So a δ of this rule is described by its measured norms, not by ε.

Source: RECIPE.md section 5, rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.norms import Norm
from models.scores import at_least_float32


def clamped(x: Tensor, delta: Tensor, low: float, high: float) -> Tensor:
    """What the model is shown, x_a = clamp(x + δ, low, high), in the dtype and on the device of x.

    Args:
        x: normalised float [B, T, F].
        delta: float [T, F].
        low, high: −2 and 2 in the runs found, −10 and 20 in the l2 cells. Values of x itself are clamped too.

    Raises:
        ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"expected low < high, got {low} and {high}; -inf and inf clamp nothing")
    return torch.clamp(x + delta.to(x), low, high)


def may_step(gradient: Tensor, mask: Tensor) -> Tensor:
    """Where there is a step, bool [B, T]: frames whose gradient within the mask is finite and not zero throughout."""
    inside = torch.where(mask, gradient, 0.0)
    return inside.isfinite().all(dim=-1) & (inside != 0).any(dim=-1)


def contributions(
    x: Tensor, attacked: Tensor, gradient: Tensor, norm: Norm, epsilon: float, alpha: float, mask: Tensor
) -> Tensor:
    """Each clip's own d, which the rule adds up.

    d = x_a + step − x. The step is α·sign(g) for l∞, else α·g/‖g‖_p in every frame; none where `may_step` is False.
    For l∞, d is clipped to ±ε. For the others a clip whose d has at most norm ε over all its frames keeps it; in any
    other every frame is rescaled to norm ε, larger or smaller, but for frames of zeros.

    d contains what the clamp did: −(x − high) where x alone is above high, and δ where it was not clamped.

    Args:
        x: normalised float [B, T, F].
        attacked: x_a, what `clamped` gave for x.
        gradient: ∂(mean BCE)/∂x_a, [B, T, F]. Its scale does not matter; each clip's is its own.
        norm: '1', '2' or 'inf'.
        epsilon: at least 0.
        alpha: length of a step, in every frame.
        mask: bool [T, F], on the device of x; gradient and d are zero outside of it before any norm is taken.

    Returns:
        [B, T, F], float32 for half precision too, because sums over many clips follow.

    Raises:
        ValueError: an unknown norm; ε or α negative or NaN.
    """
    if norm not in ("1", "2", "inf"):
        raise ValueError(f"expected norm '1', '2' or 'inf', got {norm!r}")
    if not (epsilon >= 0 and alpha >= 0):
        raise ValueError(f"expected epsilon >= 0 and alpha >= 0, got {epsilon} and {alpha}; the rule ascends")
    x, attacked, gradient = at_least_float32(x), at_least_float32(attacked), at_least_float32(gradient)
    steered = torch.where(mask & may_step(gradient, mask)[..., None], gradient, 0.0)
    step = alpha * (steered.sign() if norm == "inf" else _unit_frames(steered, norm))
    bounded = torch.where(mask, attacked + step - x, 0.0)
    if norm == "inf":
        return bounded.clamp(-epsilon, epsilon)
    fits = torch.linalg.vector_norm(bounded, float(norm), dim=(-2, -1), keepdim=True) <= epsilon
    return torch.where(fits, bounded, epsilon * _unit_frames(bounded, norm))


def _unit_frames(x: Tensor, norm: Norm) -> Tensor:
    """Frames divided by their norm; zeros stay. First by their largest: the square of 1e-23 is zero in float32."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    scaled = x / torch.where(largest == 0, 1.0, largest)
    lengths = torch.linalg.vector_norm(scaled, float(norm), dim=-1, keepdim=True)
    return scaled / torch.where(lengths == 0, 1.0, lengths)
