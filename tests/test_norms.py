"""Norms, steps and projections against optimality conditions, bisection, a QP solver and linear scores."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.optimize import minimize

from attacks.norms import Norm, Scope, dual_norm, norms_of, project, steepest, top_k_at

NORMS: tuple[Norm, ...] = ("1", "2", "inf")
SCOPES: tuple[Scope, ...] = ("clip", "frame")
FULL = (400, 64)
LENGTH = {"1": 1, "2": 2, "inf": np.inf}
DUAL_LENGTH = {"1": np.inf, "2": 2, "inf": 1}

# Few values, so that ties and zeros are common, or any of a wide range of sizes.
SMALL = st.one_of(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-3, 3).map(float)),
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6, width=32)),
)
over_norms = pytest.mark.parametrize("norm", NORMS)
over_scopes = pytest.mark.parametrize("scope", SCOPES)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def vectors(x: np.ndarray, scope: str) -> list[np.ndarray]:
    """What the norm is taken of, one by one."""
    return [x.ravel()] if scope == "clip" else list(x)


@over_norms
@over_scopes
def test_norms_are_numpys(norm: Norm, scope: Scope) -> None:
    x = normal(*FULL)
    found = norms_of(x, norm, scope)
    expected = [np.linalg.norm(vector, LENGTH[norm]) for vector in vectors(x, scope)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.dtype == np.float64 and found.shape == ((1,) if scope == "clip" else (400,))
    np.testing.assert_array_equal(norms_of(np.asfortranarray(x), norm, scope), found)


@pytest.mark.parametrize("size", [5e-324, 2.0**-1000, 2.0**1000])
@over_scopes
def test_norms_of_numbers_whose_squares_float64_cannot_hold(size: float, scope: Scope) -> None:
    x = np.array([[3 * size, 0.0], [0.0, 4 * size]])
    assert norms_of(x, "2", scope).tolist() == ([5 * size] if scope == "clip" else [3 * size, 4 * size])
    np.testing.assert_array_equal(norms_of(np.zeros((2, 3)), "2", scope), 0)


def test_norms_of_what_is_not_finite_are_not_finite() -> None:
    x = np.array([[np.nan, 1.0], [np.inf, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(norms_of(x, "2", "frame"), [np.nan, np.inf, 5])
    np.testing.assert_array_equal(norms_of(x, "1", "frame"), [np.nan, np.inf, 7])
    np.testing.assert_array_equal(norms_of(x, "inf", "frame"), [np.nan, np.inf, 4])


@over_norms
@over_scopes
def test_dual_norm_is_reached_by_the_steepest_and_by_no_other_direction(norm: Norm, scope: Scope) -> None:
    w, rng = normal(5, 4), np.random.default_rng(1)
    best = dual_norm(w, norm, scope)
    assert best == pytest.approx(sum(np.linalg.norm(v, DUAL_LENGTH[norm]) for v in vectors(w, scope)), rel=1e-14)
    direction, possible = steepest(w, norm, scope)
    assert possible.all()
    assert np.vdot(w, direction) == pytest.approx(best, rel=1e-14)
    for _ in range(300):
        other = rng.normal(size=w.shape) * rng.random(w.shape) ** 4
        for vector in vectors(other, scope):
            vector /= np.linalg.norm(vector, LENGTH[norm])
        assert np.vdot(w, other) < best


@over_norms
@over_scopes
@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_directions_have_norm_one_however_small_the_gradient(norm: Norm, scope: Scope, size: float) -> None:
    gradient = normal(*FULL)
    direction, possible = steepest(gradient * size, norm, scope, top_k=7)
    assert possible.all() and possible.shape == ((1,) if scope == "clip" else (400,))
    for vector in vectors(direction, scope):
        assert np.linalg.norm(vector, LENGTH[norm]) == pytest.approx(1, abs=1e-14)
    # Without this a direction far off the gradient's would pass.
    np.testing.assert_allclose(direction, steepest(gradient, norm, scope, top_k=7)[0], rtol=1e-14)


def test_top_k_takes_the_largest_the_first_of_equals_and_never_a_zero() -> None:
    gradient = np.array([[1.0, -2.0, 2.0, 2.0], [0.0, -3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    direction, possible = steepest(gradient, "1", "frame", top_k=2)
    np.testing.assert_array_equal(direction, [[0, -0.5, 0.5, 0], [0, -1, 0, 0], [0, 0, 0, 0]])
    assert possible.tolist() == [True, True, False]
    direction, possible = steepest(gradient, "1", "clip", top_k=3)
    np.testing.assert_array_equal(direction * 3, [[0, -1, 1, 0], [0, -1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(steepest(gradient, "1", "clip", top_k=99)[0], np.sign(gradient) / 5)
    np.testing.assert_array_equal(steepest(np.ones((3, 3)), "1", "clip")[0], np.eye(9)[0].reshape(3, 3))


@over_norms
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_there_is_no_step_along_a_gradient_that_is_zero_or_not_finite(norm: Norm, bad: float) -> None:
    gradient = np.array([[1.0, bad], [0.0, 0.0], [-0.5, 0.0]])
    direction, possible = steepest(gradient, norm, "frame")
    np.testing.assert_array_equal(direction, [[0, 0], [0, 0], [-1, 0]])
    assert possible.tolist() == [False, False, True]
    for nothing in (gradient, np.zeros((3, 2))):
        direction, possible = steepest(nothing, norm, "clip")
        np.testing.assert_array_equal(direction, 0)
        assert possible.tolist() == [False]


def assert_is_projection(x: np.ndarray, found: np.ndarray, norm: Norm, epsilon: float) -> None:
    """p is the point of a ball nearest to x exactly if ⟨x − p, v − p⟩ ≤ 0 for all v in it: ε‖x − p‖_q ≤ ⟨x − p, p⟩."""
    assert np.linalg.norm(found, LENGTH[norm]) <= epsilon * (1 + 1e-12)
    rest = x - found
    missing = np.linalg.norm(rest, DUAL_LENGTH[norm])
    assert epsilon * missing - np.dot(rest, found) <= 1e-12 * epsilon * (missing + epsilon)


@over_norms
@over_scopes
@settings(max_examples=60, deadline=None)
@given(x=SMALL, epsilon=st.one_of(st.floats(1e-6, 1e6), st.sampled_from([0.0, 0.5, 1.0, 3.0, math.inf])))
def test_projections_are_the_nearest_points(norm: Norm, scope: Scope, x: np.ndarray, epsilon: float) -> None:
    before = x.copy()
    found = project(x, norm, scope, epsilon)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, found)
    assert (norms_of(found, norm, scope) <= epsilon).all(), "to the last bit"
    assert project(found, norm, scope, epsilon).tobytes() == found.tobytes()
    for vector, nearest in zip(vectors(x, scope), vectors(found, scope), strict=True):
        if np.linalg.norm(vector, LENGTH[norm]) <= epsilon * (1 - 1e-12):
            assert nearest.tobytes() == vector.tobytes()
        elif epsilon == 0:
            assert not nearest.any()
        else:
            assert_is_projection(vector, nearest, norm, epsilon)


@over_norms
@over_scopes
def test_projections_at_full_size(norm: Norm, scope: Scope) -> None:
    x = normal(*FULL)
    x[7] = 0
    x[9, 3] = 1e5
    x[11:14] *= 1e-3
    for epsilon in (0.05, 6.0):
        found = project(x, norm, scope, epsilon)
        assert (norms_of(found, norm, scope) <= epsilon).all()
        assert not found[7].any()
        np.testing.assert_array_equal(project(found, norm, scope, epsilon), found)
        for vector, nearest in zip(vectors(x, scope), vectors(found, scope), strict=True):
            assert_is_projection(vector, nearest, norm, epsilon)


def soft_threshold_by_bisection(x: np.ndarray, epsilon: float) -> np.ndarray:
    low, high = 0.0, float(np.abs(x).max())
    for _ in range(70):
        middle = (low + high) / 2
        if np.maximum(np.abs(x) - middle, 0).sum() > epsilon:
            low = middle
        else:
            high = middle
    return np.sign(x) * np.maximum(np.abs(x) - high, 0)


@pytest.mark.parametrize("epsilon", [1e-3, 1.0, 300.0, 20000.0])
@pytest.mark.parametrize("kind", ["normal", "ties", "spike"])
def test_l1_at_25600_numbers_is_the_soft_threshold_found_by_bisection(epsilon: float, kind: str) -> None:
    x = normal(*FULL)
    if kind == "ties":
        x = np.round(2 * x) / 2
    if kind == "spike":
        x[200, 30] = 2e4
    found = project(x, "1", "clip", epsilon)
    np.testing.assert_allclose(found.ravel(), soft_threshold_by_bisection(x.ravel(), epsilon), rtol=0, atol=1e-11)


def test_l1_keeps_its_digits_where_epsilon_is_tiny_beside_x() -> None:
    # θ is 1e6 here; the exact answer is found in rational numbers.
    x = 1e6 + np.array([[0.0, 3e-4, 5e-4, -7.0]])
    sizes = sorted((Fraction(number) for number in x[0]), reverse=True)
    epsilon = 1e-3
    threshold = (sum(sizes[:3]) - Fraction(epsilon)) / 3
    expected = [float(max(Fraction(number) - threshold, Fraction(0))) for number in x[0]]
    assert expected[0] > 0 == expected[3]
    np.testing.assert_allclose(project(x, "1", "clip", epsilon)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_l1_of_few_numbers_is_what_a_qp_solver_finds(seed: int) -> None:
    x = normal(1, 6, seed=seed)
    # x = u − v with u, v ≥ 0 makes ‖x‖₁ ≤ ε a linear constraint.
    solved = minimize(
        lambda uv: np.sum((uv[:6] - uv[6:] - x[0]) ** 2),
        np.full(12, 0.01),
        jac=lambda uv: np.tile(2 * (uv[:6] - uv[6:] - x[0]), 2) * np.repeat([1, -1], 6),
        bounds=[(0, None)] * 12,
        constraints={"type": "ineq", "fun": lambda uv: 1.5 - uv.sum(), "jac": lambda uv: -np.ones(12)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    np.testing.assert_allclose(project(x, "1", "clip", 1.5)[0], solved.x[:6] - solved.x[6:], atol=1e-6)


@over_norms
def test_projections_of_the_largest_and_smallest_numbers(norm: Norm) -> None:
    huge = np.array([[1.7e308, -1.7e308, 1.7e308], [1e-3, 0.0, 0.0], [1.7e308, 0.0, 0.0]])
    third = {"1": 1 / 3, "2": 3**-0.5, "inf": 1.0}[norm]
    found = project(huge, norm, "frame", 1.0)
    np.testing.assert_allclose(found, [[third, -third, third], [1e-3, 0, 0], [1, 0, 0]], rtol=1e-15)
    tiny = project(huge * 1e-308, norm, "frame", 1e-310)
    np.testing.assert_allclose(tiny[0], np.array([third, -third, third]) * 1e-310, rtol=1e-12)
    assert (norms_of(tiny, norm, "frame") <= 1e-310).all()


def reached(
    w: np.ndarray, norm: Norm, scope: Scope, epsilon: float, start: np.ndarray, fixed_k: int | None = None
) -> float:
    """What part of ε times the dual norm the projected ascent on w·δ has after 300 steps."""
    delta, steps = project(start, norm, scope, epsilon), 300
    size = np.count_nonzero(w if scope == "clip" else w[0])
    for step in range(steps):
        direction, _ = steepest(w, norm, scope, fixed_k or top_k_at(step, steps, size))
        delta = project(delta + epsilon / 10 * direction, norm, scope, epsilon)
    return float(np.vdot(w, delta)) / (epsilon * dual_norm(w, norm, scope))


@over_norms
@over_scopes
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("from_zero", [False, True])
def test_the_ascent_reaches_the_optimum_of_a_linear_score(
    norm: Norm, scope: Scope, masked: bool, from_zero: bool
) -> None:
    w, start = normal(20, 64), normal(20, 64, seed=1)
    if masked:
        w[:, 20:] = start[:, 20:] = 0
    if from_zero:
        start[:] = 0
    assert reached(w, norm, scope, 0.3, start) == pytest.approx(1, abs=1e-6)


def test_l1_with_its_schedule_reaches_what_a_fixed_k_does_not() -> None:
    w = normal(40, 64)
    nothing = np.zeros_like(w)
    assert reached(w, "1", "clip", 0.3, nothing) == pytest.approx(1, abs=1e-6)
    for fixed_k in (8, 64):
        # Settled where the k largest share ε: their mean over their maximum.
        largest = np.sort(np.abs(w).ravel())[-fixed_k:]
        share = reached(w, "1", "clip", 0.3, nothing, fixed_k)
        assert share == pytest.approx(largest.mean() / largest[-1], abs=1e-6)
        assert share < 0.95


def test_the_schedule_falls_geometrically_to_one() -> None:
    counts = [top_k_at(step, 1000, 25_600) for step in range(1000)]
    assert counts[0] == 256 and counts[300] == 16 and counts[150] == 64 and counts[450] == 4
    assert counts == sorted(counts, reverse=True)
    assert set(counts[600:]) == {1} and counts[500] > 1
    assert {top_k_at(step, 10, 64) for step in range(10)} == {1}
    assert top_k_at(0, 1, 25_600) == 256


def test_words_and_numbers_out_of_range_are_refused() -> None:
    x = normal(3, 4)
    for call in (
        lambda: norms_of(x, "3", "clip"),  # type: ignore[arg-type]
        lambda: dual_norm(x, "l2", "clip"),  # type: ignore[arg-type]
        lambda: steepest(x, "∞", "clip"),  # type: ignore[arg-type]
        lambda: project(x, "", "clip", 1.0),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="expected norm '1', '2' or 'inf'"):
            call()
    with pytest.raises(ValueError, match="expected scope"):
        norms_of(x, "2", "batch")  # type: ignore[arg-type]
    for wrong in (x[0], x[None], np.zeros((0, 64))):
        with pytest.raises(ValueError, match="got shape"):
            norms_of(wrong, "2", "clip")
    for epsilon in (-1e-9, math.nan):
        with pytest.raises(ValueError, match="epsilon >= 0"):
            project(x, "2", "clip", epsilon)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            project(np.array([[bad, 1.0]]), "1", "frame", 1.0)
    with pytest.raises(ValueError, match="top_k"):
        steepest(x, "1", "clip", top_k=0)
    for step, steps, size in ((-1, 3, 5), (3, 3, 5), (0, 0, 5), (0, 1, 0)):
        with pytest.raises(ValueError, match="expected 0 <= step < steps"):
            top_k_at(step, steps, size)
