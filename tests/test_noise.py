"""Noise: numpy's norms of it, its region, and its distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from attacks.masks import Mask
from attacks.noise import same_norm_noise
from attacks.norms import Norm, Scope

LENGTH = {"1": 1, "2": 2, "inf": np.inf}
MASKS = [Mask(), Mask.parse("0:20"), Mask.parse(None, "200:400"), Mask.parse("63:64", "0:200")]
over_norms = pytest.mark.parametrize("norm", ["1", "2", "inf"])
over_scopes = pytest.mark.parametrize("scope", ["clip", "frame"])


def perturbation(mask: Mask) -> np.ndarray:
    """Frames of very different size, some of them zero."""
    rng = np.random.default_rng(0)
    delta = np.where(mask.array(), rng.normal(size=(400, 64)) * 10 ** rng.uniform(-30, 3, (400, 1)), 0)
    delta[10:15] = delta[300:310] = 0
    return delta


@over_norms
@over_scopes
@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
def test_noise_has_the_norm_and_keeps_the_mask(norm: Norm, scope: Scope, mask: Mask) -> None:
    delta = perturbation(mask)
    noise = same_norm_noise(delta, norm, scope, mask.array(), np.random.default_rng(1))
    assert noise.dtype == np.float64 and noise.shape == delta.shape
    assert not noise[~mask.array()].any()
    if scope == "clip":
        expected, found = (np.linalg.norm(x.ravel(), LENGTH[norm]) for x in (delta, noise))
        assert np.count_nonzero(noise) == np.count_nonzero(mask.array()), "all of the mask is used"
    else:
        expected, found = (np.linalg.norm(x, LENGTH[norm], axis=1) for x in (delta, noise))
        assert not noise[10:15].any() and not noise[300:310].any()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)
    # Directions are the noise's own.
    if np.count_nonzero(delta) > 1000:
        assert abs(np.vdot(np.sign(noise), np.sign(delta))) < 5 * np.sqrt(np.count_nonzero(delta))


@over_norms
@over_scopes
def test_noise_of_nothing_is_nothing(norm: Norm, scope: Scope) -> None:
    nothing = np.zeros((400, 64))
    assert not same_norm_noise(nothing, norm, scope, np.ones((400, 64), bool), np.random.default_rng(0)).any()
    assert not same_norm_noise(nothing, norm, scope, np.zeros((400, 64), bool), np.random.default_rng(0)).any()


@over_norms
def test_distributions(norm: Norm) -> None:
    size = 25_600
    noise = same_norm_noise(
        np.eye(400, 64), norm, "clip", np.ones((400, 64), bool), np.random.default_rng(3)
    ).ravel() / np.linalg.norm(np.eye(400, 64).ravel(), LENGTH[norm])
    # Many coordinates of a uniform point: of the l2 sphere they are Gaussian, of the simplex exponential.
    if norm == "inf":
        assert set(noise) == {-1.0, 1.0}
    elif norm == "2":
        assert kstest(noise * np.sqrt(size), "norm").pvalue > 1e-3
    else:
        assert kstest(np.abs(noise) * size, "expon").pvalue > 1e-3
    assert abs(np.sum(np.sign(noise))) < 4 * np.sqrt(size)


@over_norms
@over_scopes
def test_equal_generators_give_one_direction_for_every_epsilon(norm: Norm, scope: Scope) -> None:
    delta, everywhere = perturbation(Mask()), np.ones((400, 64), bool)
    first, again, smaller, other = (
        same_norm_noise(size * delta, norm, scope, everywhere, np.random.default_rng(seed))
        for size, seed in ((1, 5), (1, 5), (1e-3, 5), (1, 6))
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()
    np.testing.assert_allclose(smaller, first * 1e-3, rtol=1e-14)


def test_what_has_no_noise_is_refused() -> None:
    rng, delta = np.random.default_rng(0), np.ones((3, 4))
    some = np.array([True, True, False])[:, None] & np.ones((3, 4), bool)
    with pytest.raises(ValueError, match="mask allows nothing where it is"):
        same_norm_noise(delta, "2", "frame", some, rng)
    with pytest.raises(ValueError, match="mask of bools"):
        same_norm_noise(delta, "2", "clip", some[:2], rng)
    with pytest.raises(ValueError, match="mask of bools"):
        same_norm_noise(delta, "2", "clip", some.astype(float), rng)
    with pytest.raises(ValueError, match="finite"):
        same_norm_noise(np.where(some, delta, np.nan), "1", "clip", some, rng)
