"""Mixup and SpecAugment: what is mixed and what is left out, worked out again from the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.augment import MEL_BINS, STRIPES, TIME_FRAMES, mixup, random_of, spec_augment


def clips(count: int, dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Sound, picture and targets of so many clips; each clip has a class of its own."""
    generator = torch.Generator().manual_seed(3)
    logmel = torch.randn(count, 12, 4, generator=generator, dtype=dtype)
    return {"logmel": logmel, "video": torch.randn(count, 2, 3, generator=generator, dtype=dtype)}, torch.eye(count)


def test_a_generator_follows_from_all_of_its_numbers_and_their_order() -> None:
    draws = {
        words: float(random_of(*words).random()) for words in ((1, 2, 3, 1), (1, 2, 3, 2), (1, 3, 2, 1), (0, 2, 3, 1))
    }
    assert len(set(draws.values())) == len(draws)
    assert all(float(random_of(*words).random()) == value for words, value in draws.items())


def test_mixup_mixes_sound_picture_and_targets_by_the_same_draws() -> None:
    inputs, targets = clips(5)
    mixed, shares = mixup(inputs, targets, 0.7, random_of(11))
    random = random_of(11)
    share, other = random.beta(0.7, 0.7, 5), random.permutation(5)
    assert not np.array_equal(other, np.arange(5))
    for values, found in [*((inputs[name], mixed[name]) for name in inputs), (targets, shares)]:
        old = values.double().numpy()
        weight = share.reshape(5, *[1] * (old.ndim - 1))
        np.testing.assert_allclose(found.numpy(), weight * old + (1 - weight) * old[other], rtol=0, atol=1e-6)


def test_mixed_targets_are_shares_of_a_clip_each() -> None:
    _, targets = clips(6)
    _, shares = mixup({}, targets, 1.0, random_of(5))
    assert shares.shape == targets.shape
    np.testing.assert_allclose(shares.sum(1).numpy(), 1, atol=1e-6)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert ((shares > 0) & (shares < 1)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixup_keeps_types_and_its_arguments(dtype: torch.dtype) -> None:
    inputs, targets = clips(4, dtype)
    before = {name: values.clone() for name, values in inputs.items()}
    mixed, shares = mixup(inputs, targets, 1.0, random_of(1))
    assert shares.dtype == targets.dtype
    for name, values in inputs.items():
        assert torch.equal(values, before[name])
        assert (mixed[name].shape, mixed[name].dtype) == (values.shape, dtype)


def test_mixup_of_a_single_clip_is_that_clip() -> None:
    inputs, targets = clips(1)
    mixed, shares = mixup(inputs, targets, 1.0, random_of(2))
    torch.testing.assert_close(mixed["logmel"], inputs["logmel"])
    torch.testing.assert_close(shares, targets)


def stripes_of(left_out: np.ndarray) -> list[int]:
    """Widths of the runs of true in a row."""
    edges = np.flatnonzero(np.diff(np.r_[False, left_out, False].astype(int)))
    return (edges[1::2] - edges[::2]).tolist()


def test_spec_augment_leaves_out_stripes_and_nothing_else() -> None:
    logmel = torch.randn(200, 400, 64, generator=torch.Generator().manual_seed(0)).half()
    assert (logmel != 0).all(dim=1).any()
    logmel[logmel == 0] = 1
    before = logmel.clone()
    found = spec_augment(logmel, random_of(9))
    assert torch.equal(logmel, before)
    assert (found.shape, found.dtype) == (logmel.shape, logmel.dtype)
    zero = (found == 0).numpy()
    frames, bins = zero.all(axis=2), zero.all(axis=1)
    assert np.array_equal(zero, frames[:, :, None] | bins[:, None, :])
    assert torch.equal(found[~torch.from_numpy(zero)], logmel[~torch.from_numpy(zero)])
    for lines, widest in ((frames, TIME_FRAMES), (bins, MEL_BINS)):
        # Two stripes that touch look like one of up to twice the width; no others can be wider than a stripe.
        counts = [stripes_of(line) for line in lines]
        assert max(len(widths) for widths in counts) == STRIPES
        assert max(sum(widths) for widths in counts) <= STRIPES * widest
        apart = [widths for widths in counts if len(widths) == STRIPES]
        assert max(width for widths in apart for width in widths) == widest
        assert lines[:, :4].any() and lines[:, -4:].any()  # stripes come to both ends
    assert len({line.tobytes() for line in frames}) > 150  # every clip has its own


def test_spec_augment_of_pictures_smaller_than_a_stripe() -> None:
    logmel = torch.ones(200, 3, 2)
    found = spec_augment(logmel, random_of(4))
    assert (found.sum(dim=(1, 2)) == 0).any() and (found.sum(dim=(1, 2)) == 6).any()
    assert spec_augment(torch.ones(0, 400, 64), random_of(4)).shape == (0, 400, 64)


def test_both_follow_from_the_generator_alone() -> None:
    inputs, targets = clips(4)
    np.random.seed(1)
    torch.manual_seed(1)
    first = mixup(inputs, targets, 1.0, random_of(8))[1], spec_augment(inputs["logmel"], random_of(8))
    np.random.seed(2)
    torch.manual_seed(2)
    again = mixup(inputs, targets, 1.0, random_of(8))[1], spec_augment(inputs["logmel"], random_of(8))
    other = mixup(inputs, targets, 1.0, random_of(9))[1]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other)
