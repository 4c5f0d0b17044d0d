"""Normalisers: numpy's mean and deviation of the corpus, and files of two kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from store_factory import SMALL_LOGMEL, SPLIT, make_wide_store

from stores.normalizer import Normalizer
from stores.reader import Reader
from stores.snapshot import Snapshot


def test_a_column_is_normalised_as_scikit_learn_does(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 40, 8)
    snapshot = Snapshot.open(store, SPLIT, "logmel")
    batches = list(Reader(snapshot, order="sequential", batch_size=16, epochs=1))
    with_sound = [batch.arrays["logmel"][batch.flags["has_audio"]] for batch in batches]
    rows = np.concatenate(with_sound).astype(np.float64).reshape(-1, 3)
    scaler = StandardScaler().fit(rows)
    found = Normalizer.of(snapshot, "logmel")
    np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.std, scaler.scale_, rtol=1e-6)
    assert found.mean.dtype == found.std.dtype == np.float32


def test_statistics_are_over_all_splits(tmp_path: Path) -> None:
    make_wide_store(str(tmp_path), 20, 8, split="a", columns=[SMALL_LOGMEL])
    store = make_wide_store(str(tmp_path), 20, 8, split="b", columns=[SMALL_LOGMEL], first=20)
    both = Normalizer.of(Snapshot.open(store, ["a", "b"], "logmel"), "logmel")
    parts = [Normalizer.of(Snapshot.open(store, split, "logmel"), "logmel") for split in ("a", "b")]
    # clips 0 and 11 of a, 22 and 33 of b have no sound: 18 clips each
    np.testing.assert_allclose(both.mean, (parts[0].mean + parts[1].mean) / 2, rtol=1e-6)
    assert len({both.digest, *(part.digest for part in parts)}) == 3


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    made = Normalizer(np.array([-40.0, -50.0]), np.array([12.0, 11.0]))
    made.save(tmp_path / "n.npz")
    found = Normalizer.load(tmp_path / "n.npz")
    assert found.digest == made.digest
    assert np.array_equal(found.mean, made.mean) and np.array_equal(found.std, made.std)


def test_the_file_of_talnet(shared_data: Path) -> None:
    path = shared_data / "normalizer_talnet.npz"
    found = Normalizer.load(path)
    with np.load(path) as raw:
        np.testing.assert_allclose(found.mean, raw["mu"], rtol=1e-6)
        np.testing.assert_allclose(found.std, raw["sigma"], rtol=1e-6)
    assert found.mean.shape == (64,)
    assert found.std.min() > 11.2 and found.std.max() < 13.1


def test_what_cannot_normalise_is_refused(tmp_path: Path) -> None:
    one = np.ones(3)
    for mean, std, words in (
        (one, np.array([1.0, 0.0, 1.0]), "positive deviations, got 0.0 in bin 1"),
        (one, np.array([1.0, -2.0, 0.0]), "in bin 1 and in 1 more"),
        (one, np.array([1.0, np.inf, 1.0]), "finite"),
        (one, np.ones(2), r"got \(3,\) and \(2,\)"),
        (np.ones((3, 1)), np.ones((3, 1)), "a mean and a deviation per bin"),
    ):
        with pytest.raises(ValueError, match=words):
            Normalizer(mean, std)
    np.savez(tmp_path / "other.npz", weights=one)
    with pytest.raises(ValueError, match="mu and sigma, in .* found weights"):
        Normalizer.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", mean=np.array([{}], object), std=one)
    with pytest.raises(ValueError, match="expected a .npz of means"):
        Normalizer.load(tmp_path / "pickled.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="expected a .npz of means"):
        Normalizer.load(tmp_path / "text.npz")


def test_a_column_of_silence_is_refused(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 1, 8, columns=[SMALL_LOGMEL])
    with pytest.raises(ValueError, match="clips with real rows of logmel"):
        Normalizer.of(Snapshot.open(store, SPLIT, "logmel"), "logmel")
