"""The released code's rule: written out in numpy frame by frame, closed forms, and the norms it was seen to give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.accumulated import clamped, contributions, may_step
from attacks.masks import Mask
from attacks.norms import Norm

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ORDER = {"1": 1, "2": 2, "inf": np.inf}
EVERYWHERE = torch.from_numpy(Mask().array())
over_norms = pytest.mark.parametrize("norm", ["1", "2", "inf"])


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def written_out(
    x: np.ndarray, delta: np.ndarray, low: float, high: float, g: np.ndarray, norm: str, epsilon: float, alpha: float
) -> np.ndarray:
    """One clip's d, [T, F], as RECIPE.md says it, everywhere allowed."""
    d = np.minimum(np.maximum(x + delta, low), high) - x
    for frame in range(len(x)):
        if not np.isfinite(g[frame]).all() or not g[frame].any():
            continue
        if norm == "inf":
            d[frame] += alpha * np.sign(g[frame])
        else:
            d[frame] += alpha * g[frame] / np.linalg.norm(g[frame], ORDER[norm])
    if norm == "inf":
        return np.clip(d, -epsilon, epsilon)
    if np.linalg.norm(d.ravel(), ORDER[norm]) <= epsilon:
        return d
    for frame in range(len(x)):
        if d[frame].any():
            d[frame] *= epsilon / np.linalg.norm(d[frame], ORDER[norm])
    return d


@over_norms
@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (-10.0, 20.0)])
@pytest.mark.parametrize("epsilon", [0.02, 0.3, 6.0, 1e4])
def test_each_clips_part_is_the_rule_written_out(norm: Norm, bounds: tuple[float, float], epsilon: float) -> None:
    x, delta, gradient = normal(3, 20, 8, seed=0), 0.1 * normal(20, 8, seed=1), normal(3, 20, 8, seed=2)
    x[2] *= 0.3  # a clip that ±2 does not clamp
    delta[4] = gradient[0, 4] = 0
    x[0, 4] = 0  # with these three, d of a whole frame is zero
    gradient[1, 5, 2], gradient[1, 6, 3] = torch.nan, -torch.inf
    attacked = clamped(x, delta, *bounds)
    found = contributions(x, attacked, gradient, norm, epsilon, 0.05, torch.ones(20, 8, dtype=torch.bool))
    assert found.dtype == torch.float64
    for clip in range(3):
        parts = (part.numpy() for part in (x[clip], delta))
        expected = written_out(*parts, *bounds, gradient[clip].numpy(), norm, epsilon, 0.05)
        np.testing.assert_allclose(found[clip].numpy(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("norm", ["1", "2"])
def test_beyond_epsilon_every_frame_has_norm_epsilon_small_ones_too(norm: Norm) -> None:
    x, gradient = torch.zeros(2, 400, 64, dtype=torch.float64), normal(2, 400, 64, seed=3)
    gradient[1, 50:] = 0
    # α = 0.01 in each of 400 frames is 0.2 over the clip under l2, 4 under l1; in 50 it is 0.07 and 0.5.
    found = contributions(x, x, gradient, norm, {"1": 0.6, "2": 0.1}[norm], 0.01, EVERYWHERE)
    norms = np.linalg.norm(found.numpy(), ORDER[norm], axis=2)
    np.testing.assert_allclose(norms[0], {"1": 0.6, "2": 0.1}[norm], rtol=1e-13)
    np.testing.assert_allclose(norms[1, :50], 0.01, rtol=1e-13)
    assert not norms[1, 50:].any()


@over_norms
@pytest.mark.parametrize("mask", [Mask.parse("20:40"), Mask.parse("0:20", "200:400")], ids=lambda mask: mask.name)
def test_masked_is_as_if_nothing_else_were_there(norm: Norm, mask: Mask) -> None:
    allowed = torch.from_numpy(mask.array())
    frames, bins = slice(*mask.time), slice(*mask.freq)
    x, gradient = normal(2, 400, 64, seed=4), normal(2, 400, 64, seed=5)
    delta = torch.where(allowed, 0.05 * normal(400, 64, seed=6), 0.0)
    # Outside: what is not finite must not stop a step, and what was clamped must not count in a norm.
    gradient[:, ~allowed] = torch.nan
    attacked = clamped(x, delta, -2, 2)
    found = contributions(x, attacked, gradient, norm, 0.2, 0.01, allowed)
    assert not found[:, ~allowed].any()
    inside = [part[:, frames, bins] for part in (x, attacked, gradient)]
    alone = contributions(*inside, norm, 0.2, 0.01, torch.ones(inside[0].shape[1:], dtype=torch.bool))
    torch.testing.assert_close(found[:, frames, bins], alone, rtol=1e-13, atol=0)
    assert may_step(gradient, allowed).tolist() == [[frame in range(*mask.time) for frame in range(400)]] * 2


@over_norms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_and_gradients_too_small_to_be_squared(norm: Norm, dtype: torch.dtype) -> None:
    size = {torch.float16: 1e-5, torch.bfloat16: 1e-36, torch.float32: 1e-36, torch.float64: 1e-300}[dtype]
    gradient = (size * normal(2, 400, 64, seed=7)).to(dtype)
    x = torch.zeros_like(gradient)
    found = contributions(x, x, gradient, norm, 1e3, 0.5, EVERYWHERE)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = gradient.double().numpy()
    wide = np.sign(wide) if norm == "inf" else wide / size  # sizes whose squares numpy can hold
    expected = 0.5 * wide / np.linalg.norm(wide, ORDER[norm], axis=2, keepdims=True)
    tolerance = {"rtol": 1e-12, "atol": 0} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 0}
    np.testing.assert_allclose(found.double().numpy(), expected, **tolerance)


def test_clamped_has_the_dtype_of_the_clips() -> None:
    x, delta = torch.tensor([[[-3.0, 0.5, 1.9]]]), torch.tensor([[0.5, 0.25, 0.5]], dtype=torch.float64)
    found = clamped(x, delta, -2, 2)
    assert found.dtype == torch.float32 and found.tolist() == [[[-2.0, 0.75, 2.0]]]
    with pytest.raises(ValueError, match="low < high"):
        clamped(x, delta, 2, -2)


def test_words_and_numbers_out_of_range_are_refused() -> None:
    x = torch.zeros(1, 400, 64)
    with pytest.raises(ValueError, match="expected norm"):
        contributions(x, x, x, "3", 1.0, 0.1, EVERYWHERE)  # type: ignore[arg-type]
    for epsilon, alpha in ((-1.0, 0.1), (float("nan"), 0.1), (1.0, -0.1), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="epsilon >= 0 and alpha >= 0"):
            contributions(x, x, x, "2", epsilon, alpha, EVERYWHERE)


def accumulate(
    norm: Norm, epsilon: float, alpha: float, passes: int, bounds: tuple[float, float], spread: float, batch: int
) -> Tensor:
    """δ after some passes over 16 clips.

    What is simulated: no model and no sound. Clips are standard normal, as normalised log-mel is on average. Every
    clip's gradient is one direction common to all plus `spread` times one of its own, both standard normal, the same
    in every pass: as of a linear loss, which saturates nowhere. What is real: clamp, step, rescaling and sum.
    """
    clips = 16
    x, gradient = normal(clips, 400, 64, seed=8, dtype=torch.float32), normal(400, 64, seed=9, dtype=torch.float32)
    gradients = gradient + spread * normal(clips, 400, 64, seed=10, dtype=torch.float32)
    delta = torch.zeros(400, 64)
    for _ in range(passes):
        for part in torch.arange(clips).split(batch):
            attacked = clamped(x[part], delta, *bounds)
            parts = contributions(x[part], attacked, gradients[part], norm, epsilon, alpha, EVERYWHERE)
            delta += parts.sum(dim=0) / clips
    return delta


def test_gradients_all_alike_give_the_sum_of_the_passes() -> None:
    # ε = 0.1: already the first step is 0.2 over the clip, so each of ten passes adds 0.1 to every frame. ε = 0.3: the
    # first is within the ball and stays 0.01 per frame, each of the 29 after it adds 0.3.
    for epsilon, passes, expected in ((0.1, 10, 1.0), (0.3, 30, 8.71)):
        delta = accumulate("2", epsilon, 0.01, passes, (-10, 20), spread=0, batch=16)
        np.testing.assert_allclose(delta.norm(dim=1).numpy(), expected, rtol=1e-5)


# As much of its own in a clip's gradient as it has in common with the others.
@pytest.mark.parametrize(
    ("epsilon", "passes", "expected", "tolerance"), [(0.1, 10, 0.99, 0.01), (0.3, 30, 8.7, 0.1)], ids=["0.1", "0.3"]
)
def test_l2_grows_to_many_times_epsilon(epsilon: float, passes: int, expected: float, tolerance: float) -> None:
    norms = accumulate("2", epsilon, 0.01, passes, (-10, 20), spread=1, batch=4).norm(dim=1)
    assert norms.mean().item() == pytest.approx(expected, abs=tolerance)
    assert norms.max() < epsilon * passes


def test_linf_grows_to_twenty_times_epsilon() -> None:
    sizes = accumulate("inf", 0.1, 0.1, 20, (-2, 2), spread=1, batch=4).abs()
    assert sizes.max().item() == pytest.approx(2.0, abs=1e-4)
    # Less where the clips' signs differ at first, or where the clamp takes back what sounds louder than 2 were given.
    assert 1.5 < sizes.mean() < 1.95
