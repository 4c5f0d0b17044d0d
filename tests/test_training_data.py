"""What a training run opens: which splits fit together, and a normaliser from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from store_factory import SMALL_LOGMEL, SMALL_VIDEO, make_wide_store, wide_array
from training_runs import split_options

from models.ranks import Ranks
from pipeline.training_data import open_splits
from stores.layout import Store, StoreError
from stores.split_reader import SplitReader

BINS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    uri = str(tmp_path_factory.mktemp("store"))
    make_wide_store(uri, 30, split="train", columns=(SMALL_LOGMEL, SMALL_VIDEO))
    return make_wide_store(uri, 11, split="valid", columns=(SMALL_LOGMEL, SMALL_VIDEO), first=1000)


def splits(store: Store, **changes: Any) -> tuple[SplitReader, SplitReader]:
    needs = changes.pop("needs", ("logmel", "video"))
    return open_splits(split_options(store, **changes), needs, Ranks(), torch.device("cpu"), torch.float32)


def silent(key: str) -> bool:
    return int(key[4:].split("_")[0]) % 11 == 0


def test_a_normalizers_file_takes_the_place_of_statistics(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "talnet.npz"
    mean, std = np.array([-30.0, -20, -10]), np.array([10.0, 5, 2])
    np.savez(path, mu=mean, sigma=std)
    _, valid = splits(store, normalizer=str(path))
    for keys, inputs, _ in valid.once(4):
        for row, key in enumerate(keys):
            raw = wide_array(SMALL_LOGMEL, key).astype(np.float64)
            expected = np.zeros((4, BINS)) if silent(key) else (raw - mean) / std
            np.testing.assert_allclose(inputs["logmel"][row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04broken", "names", "bins"])
def test_a_file_that_is_no_normalizer_is_named(store: Store, tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "n.npz"
    if content == "names":
        np.savez(path, average=np.zeros(BINS), std=np.ones(BINS))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "bins":
        np.savez(path, mean=np.zeros(64), std=np.ones(64))
    with pytest.raises(ValueError, match=r"n\.npz" if content != "bins" else "expected 3 means, got 64"):
        train, _ = splits(store, normalizer=str(path))
        next(iter(train.once(4)))


def test_a_split_without_a_clip_is_named(tmp_path: Path) -> None:
    lacking = [("embedding", number) for number in range(8)]
    uri = str(tmp_path)
    make_wide_store(uri, 8, split="train")
    none = make_wide_store(uri, 8, split="valid", lacking=lacking, first=100)
    with pytest.raises(StoreError, match="split valid has no clip with logmel-.* and embedding-"):
        splits(none)
    assert len(splits(none, model="csn", needs=("logmel",))[1].snapshot) == 8
    with pytest.raises(StoreError, match="no split 'test'"):
        splits(none, valid_split=("test",))


def test_splits_of_different_class_lists_are_refused(tmp_path: Path) -> None:
    made = make_wide_store(str(tmp_path), 8, split="train")
    make_wide_store(str(tmp_path), 8, split="valid", first=100)
    plan, summary = made.read_plan("valid")
    made.storage.remove("plan/valid.parquet")
    assert isinstance(plan, pa.Table)
    made.write_plan("valid", plan, {**summary, "classes": [*summary["classes"][:-1], ["/m/other", "Other"]]})
    with pytest.raises(ValueError, match="one class list"):
        splits(made)
