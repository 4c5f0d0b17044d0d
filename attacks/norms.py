"""The three norms of a perturbation: its size, the steepest step, the nearest point of the ball.

A perturbation is float64 [T, F], frames × mel bins. Scope `clip` takes all T·F numbers as one vector; scope `frame`
takes every frame's F numbers as a vector of their own, so that ε bounds each frame: under l2, ε per frame allows ε·√T
over the clip. Every function below is given the two as words, because they are part of the threat model.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Norm = Literal["1", "2", "inf"]
Scope = Literal["clip", "frame"]

DUAL: dict[Norm, Norm] = {"1": "inf", "2": "2", "inf": "1"}


def rows_of(x: np.ndarray, scope: Scope) -> np.ndarray:
    """The vectors whose norms are bounded, as rows: float64 [1, T·F] for `clip`, [T, F] for `frame`.

    Raises:
        ValueError: `x` is not two-dimensional or empty; an unknown scope.
    """
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"expected an array [frames, bins], got shape {x.shape}; take one perturbation at a time")
    # Contiguous, because numpy's sums depend on the layout in their last bit, and attacks are to repeat exactly.
    rows = np.ascontiguousarray(x, np.float64)
    if scope == "clip":
        return rows.reshape(1, -1)
    if scope == "frame":
        return rows
    raise ValueError(f"expected scope 'clip' or 'frame', got {scope!r}")


def norms_of(x: np.ndarray, norm: Norm, scope: Scope) -> np.ndarray:
    """‖x‖_p, float64 [1] for `clip`, [T] for `frame`; NaN or inf where x is.

    Raises:
        ValueError: as `rows_of`; an unknown norm.
    """
    return _norms(rows_of(x, scope), norm)


def dual_norm(w: np.ndarray, norm: Norm, scope: Scope) -> float:
    """The largest ⟨w, δ⟩ over the unit ball: ‖w‖_q with 1/p + 1/q = 1, or Σ_t ‖w_t‖_q for `frame`.

    A linear score gains ε times this under the best perturbation, so it says how much of the best an attack found.

    Raises:
        ValueError: as `norms_of`.
    """
    return float(norms_of(w, DUAL[_known(norm)], scope).sum())


def steepest(gradient: np.ndarray, norm: Norm, scope: Scope, top_k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The direction d with ‖d‖_p = 1, of the clip or of every frame, along which a loss with gradient g rises most.

    p = 2: g/‖g‖₂. p = ∞: sign(g). p = 1: the signs of the `top_k` largest |g|, each divided by how many they are; only
    `top_k` = 1 is the steepest, see `top_k_at`. Of equal |g| the first counts as larger. Zeros are never chosen.

    Nothing is added to a divisor: gradients of 1e-300 have a direction like others.

    Args:
        gradient: [T, F], zero wherever the perturbation may not go.
        top_k: for p = 1, in each vector of the scope.

    Returns:
        The direction, float64 [T, F], and bool [1] or [T]: where there is one. In a clip (or frame) whose gradient is
        zero throughout, or not finite somewhere, there is none: it is zeros and False.

    Raises:
        ValueError: as `norms_of`; `top_k` below one.

    Source: RECIPE.md section 5, steps.
    """
    _known(norm)
    if top_k < 1:
        raise ValueError(f"expected top_k >= 1, got {top_k}; a step of p = 1 moves one coordinate or more")
    rows = rows_of(gradient, scope)
    possible = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    rows = np.where(possible[:, None], rows, 0.0)
    direction = _unit(rows) if norm == "2" else np.sign(rows) if norm == "inf" else _top_signs(rows, top_k)
    return direction.reshape(gradient.shape), possible


def top_k_at(step: int, steps: int, size: int) -> int:
    """How many coordinates a step of p = 1 moves: about size/100 at first, falling geometrically, one from 60 % on.

    One coordinate a step is the steepest, and reaches few coordinates in few steps. Many at once get on at first, but
    with their number fixed δ settles where each of them gains as much by a step as it loses by the projection: spread
    over all of them although the best place for all of ε is the largest gradient's coordinate. Of the optimum of a
    linear score of 25,600 normal weights that is 0.90 with 5 coordinates, 0.80 with 26, 0.65 with 256. The last 40 %
    of the steps, with one coordinate each, move the rest over.

    Args:
        step: counted from 0.
        steps: of the whole run.
        size: how many numbers one vector of the scope has.

    Raises:
        ValueError: `step` is none of the run's, or there is no number to move.
    """
    if not 0 <= step < steps or size < 1:
        raise ValueError(f"expected 0 <= step < steps and size >= 1, got step {step} of {steps} and size {size}")
    first = max(1.0, size / 100)
    return max(1, round(first ** (1 - step / (0.6 * steps))))


def project(x: np.ndarray, norm: Norm, scope: Scope, epsilon: float) -> np.ndarray:
    """The point nearest to x (Euclidean) whose norm is at most ε, over the clip or in each frame.

    p = 2 scales, p = ∞ clamps, p = 1 is the exact projection by sorting (Duchi et al. 2008, figure 1).

    Returns:
        float64 [T, F], a new array. `norms_of` of it is ≤ ε to the last bit, so projecting again changes nothing.
        Vectors within the ball keep their bits.

    Raises:
        ValueError: as `norms_of`; ε negative or NaN; x not finite.
    """
    _known(norm)
    if not epsilon >= 0:
        raise ValueError(f"expected epsilon >= 0, got {epsilon}; inf leaves the perturbation without bound")
    if not np.isfinite(x).all():
        raise ValueError("expected finite numbers to project, got NaN or inf; leave out steps that are not finite")
    rows = rows_of(x, scope).copy()
    if (outside := _norms(rows, norm) > epsilon).any():
        rows[outside] = _onto_sphere(rows[outside], norm, epsilon)
    return rows.reshape(x.shape)


def _onto_sphere(rows: np.ndarray, norm: Norm, epsilon: float) -> np.ndarray:
    """Projections of rows that are all outside."""
    if norm == "inf":
        return np.clip(rows, -epsilon, epsilon)
    rows = _unit(rows) * epsilon if norm == "2" else np.sign(rows) * _soft_thresholded(np.abs(rows), epsilon)
    # Rounding can leave a norm some units in the last place above ε. The doubling ends at the latest with zeros.
    shrink = float(np.finfo(np.float64).eps)
    while (above := _norms(rows, norm) > epsilon).any():
        rows[above] *= 1 - shrink
        shrink *= 2
    return rows


def _soft_thresholded(sizes: np.ndarray, epsilon: float) -> np.ndarray:
    """max(|x| − θ, 0) with the θ for which it adds up to ε, row by row."""
    if epsilon == 0:
        return np.zeros_like(sizes)
    # In units of ε below the largest: what stays lies within one of it, so nothing overflows and sums keep their digits
    # however large x is.
    with np.errstate(over="ignore"):
        below = np.maximum((sizes - sizes.max(axis=1, keepdims=True)) / epsilon, -1.0)
    falling = -np.sort(-below, axis=1)
    kept = falling > (np.cumsum(falling, axis=1) - 1.0) / np.arange(1, sizes.shape[1] + 1)
    # Summed again over what is kept, because numpy adds pairwise in `sum` and one by one in `cumsum`.
    threshold = (np.where(kept, falling, 0.0).sum(axis=1) - 1.0) / kept.sum(axis=1)
    return np.maximum(below - threshold[:, None], 0.0) * epsilon


def _top_signs(rows: np.ndarray, top_k: int) -> np.ndarray:
    largest = np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :top_k]
    signs = np.sign(np.take_along_axis(rows, largest, axis=1))
    signs /= np.maximum(np.count_nonzero(signs, axis=1, keepdims=True), 1)
    direction = np.zeros_like(rows)
    np.put_along_axis(direction, largest, signs, axis=1)
    return direction


def _norms(rows: np.ndarray, norm: Norm) -> np.ndarray:
    sizes = np.abs(rows)
    with np.errstate(over="ignore"):
        if _known(norm) == "inf":
            return sizes.max(axis=1)
        if norm == "1":
            return sizes.sum(axis=1)
        scaled, exponents = _near_one(sizes)
        return np.ldexp(np.sqrt(np.square(scaled).sum(axis=1)), exponents)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of l2 norm one; rows of zeros stay. Nearly all of float64's range has squares outside that range."""
    scaled, _ = _near_one(rows)
    lengths = np.sqrt(np.square(scaled).sum(axis=1, keepdims=True))
    return scaled / np.where(lengths > 0, lengths, 1.0)


def _near_one(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows times 2^−e, and e, int [R], that brings their largest into [1/2, 1): by powers of two nothing is rounded."""
    largest = np.abs(rows).max(axis=1)
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 0.0))[1]
    return np.ldexp(rows, -exponents[:, None]), exponents


def _known(norm: Norm) -> Norm:
    if norm not in DUAL:
        raise ValueError(f"expected norm '1', '2' or 'inf', got {norm!r}")
    return norm
