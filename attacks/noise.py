"""Random noise as large as a perturbation: what an attack must beat before it is one."""

from __future__ import annotations

import numpy as np

from attacks.norms import Norm, Scope, norms_of, rows_of


def same_norm_noise(
    delta: np.ndarray, norm: Norm, scope: Scope, mask: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Noise whose norm, over the clip or of every frame, is that of `delta`, in a random direction within the mask.

    p = 2: uniform on the sphere (a Gaussian, scaled). p = ∞: a random corner of the cube. p = 1: uniform on the simplex
    (exponentials that add up to the norm), with random signs.

    Args:
        delta: float [T, F].
        norm, scope: as in `attacks.norms`.
        mask: bool [T, F], True where noise may be.
        generator: what is drawn from it depends on the norm and the shape alone, so that equal generators give noise
            of one direction for every ε.

    Returns:
        float64 [T, F]; zeros in the clip, or in the frames, where `delta` is zero.

    Raises:
        ValueError: as `norms_of`; the mask has another shape or dtype; `delta` is not finite; it is nonzero where the
            mask allows nothing at all.

    Source: RECIPE.md section 5, controls.
    """
    wanted = norms_of(delta, norm, scope)
    if mask.shape != delta.shape or mask.dtype != np.bool_:
        raise ValueError(f"expected a mask of bools {delta.shape}, got {mask.dtype} {mask.shape}; see Mask.array")
    if not np.isfinite(wanted).all():
        raise ValueError("expected a finite perturbation, got one with NaN or inf; there is no noise of its norm")
    drawn = np.where(mask, _drawn(norm, delta.shape, generator), 0.0)
    found = norms_of(drawn, norm, scope)
    if (found[wanted > 0] == 0).any():
        raise ValueError("expected a perturbation within its mask, got one whose mask allows nothing where it is")
    unit = rows_of(drawn, scope) / np.where(found > 0, found, 1.0)[:, None]
    return (unit * wanted[:, None]).reshape(delta.shape)


def _drawn(norm: Norm, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if norm == "2":
        return generator.standard_normal(shape)
    signs = generator.integers(0, 2, shape) * 2.0 - 1.0
    return signs if norm == "inf" else signs * generator.standard_exponential(shape)
