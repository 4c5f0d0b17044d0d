"""Tensors: the batches' own values in float32, normalised, with targets, and silence where there is no sound."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from store_factory import SPLIT, make_wide_store

from stores.normalizer import Normalizer
from stores.reader import Reader
from stores.snapshot import Snapshot
from stores.torch_batches import TorchBatch, TorchBatches

OPTIONS: dict[str, Any] = {"order": "uniform", "batch_size": 7, "epochs": 2}
NORMALIZER = Normalizer(np.array([-30.0, -20.0, -10.0]), np.array([10.0, 11.0, 12.0]))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("wide")
    return Snapshot.open(make_wide_store(str(folder), 40, 8), SPLIT, ["logmel", "embedding"])


def check(snapshot: Snapshot, found: list[TorchBatch]) -> None:
    """Against the reader's own batches, in float64."""
    expected = list(Reader(snapshot, **OPTIONS))
    assert len(found) == len(expected)
    silent = 0
    for tensors, batch in zip(found, expected, strict=True):
        logmel = (batch.arrays["logmel"].astype(np.float64) - NORMALIZER.mean) / NORMALIZER.std
        logmel[~batch.flags["has_audio"]] = 0
        silent += int((~batch.flags["has_audio"]).sum())
        assert tensors.arrays["logmel"].dtype == tensors.arrays["embedding"].dtype == torch.float32
        np.testing.assert_allclose(tensors.arrays["logmel"].cpu(), logmel, atol=1e-6)
        np.testing.assert_array_equal(tensors.arrays["embedding"].cpu(), batch.arrays["embedding"])
        np.testing.assert_array_equal(tensors.targets.cpu(), batch.multi_hot(8))
        assert tensors.targets.dtype == torch.float32
        assert tensors.batch.keys == batch.keys
        assert tensors.batch.after == batch.after
        assert tensors.batch.arrays == {}
    assert silent == 8


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_values_targets_and_silence(snapshot: Snapshot, ahead: int, workers: int) -> None:
    reader = Reader(snapshot, workers=workers, **OPTIONS)
    check(snapshot, list(TorchBatches(reader, snapshot, "cpu", {"logmel": NORMALIZER}, ahead)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_values_targets_and_silence_on_a_gpu(snapshot: Snapshot) -> None:
    found = list(TorchBatches(Reader(snapshot, **OPTIONS), snapshot, "cuda", {"logmel": NORMALIZER}))
    assert all(batch.arrays["logmel"].is_cuda and batch.targets.is_cuda for batch in found)
    check(snapshot, found)


def test_a_batch_without_a_sample(snapshot: Snapshot) -> None:
    reader = Reader(snapshot, order="sequential", batch_size=40, epochs=1, rank=1, world_size=2)
    (found,) = TorchBatches(reader, snapshot, normalizers={"logmel": NORMALIZER})
    assert found.batch.padding
    assert found.arrays["logmel"].shape == (0, 4, 3)
    assert found.targets.shape == (0, 8)


def test_a_normaliser_that_does_not_fit_is_refused(snapshot: Snapshot) -> None:
    reader = Reader(snapshot, **OPTIONS)
    with pytest.raises(ValueError, match="logmel: expected 3 means, got 2"):
        TorchBatches(reader, snapshot, normalizers={"logmel": Normalizer(np.zeros(2), np.ones(2))})
    with pytest.raises(ValueError, match="expected a column of logmel, embedding"):
        TorchBatches(reader, snapshot, normalizers={"mel": NORMALIZER})


def test_the_reader_s_errors_arrive_and_its_end_leaves_no_thread(snapshot: Snapshot) -> None:
    before = threading.active_count()

    def failing() -> Any:
        yield from list(Reader(snapshot, **OPTIONS))[:3]
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        for batch in TorchBatches(failing(), snapshot):
            found.append(batch)
    assert len(found) == 3
    endless = iter(TorchBatches(Reader(snapshot, batch_size=4, workers=2), snapshot))
    next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
