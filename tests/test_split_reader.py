"""What a run reads: which columns, which groups on which rank, and arrays worked out again from the store's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_factory import CLASSES, SMALL_LOGMEL, SMALL_VIDEO, make_wide_store, wide_array, wide_row
from training_runs import split_options

from models.ranks import Ranks
from pipeline.training_data import open_splits
from stores.layout import Store, StoreError
from stores.position import Position
from stores.shard_index import ShardError
from stores.specs import Spec
from stores.split_reader import Group, SplitReader, columns_for
from stores.storage import Storage

OTHER_LOGMEL = Spec("logmel", "logmel", (4, 3), "float16", {"logmel": {"n_mels": 3, "top_db": 60}})
MFCC = Spec("mfcc", "mfcc", (2, 2), "float16", {"coefficients": 2})
TRAIN, VALID = 30, 11
BINS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """30 clips to train on and 11 to validate with, of two columns and a third that no model reads."""
    uri = str(tmp_path_factory.mktemp("store"))
    make_wide_store(uri, TRAIN, split="train", columns=(SMALL_LOGMEL, SMALL_VIDEO, MFCC))
    return make_wide_store(uri, VALID, split="valid", columns=(SMALL_LOGMEL, SMALL_VIDEO), first=1000)


def splits(store: Store, ranks: Ranks | None = None, **changes: Any) -> tuple[SplitReader, SplitReader]:
    needs, dtype = changes.pop("needs", ("logmel", "video")), changes.pop("dtype", torch.float32)
    return open_splits(split_options(store, **changes), needs, ranks or Ranks(), torch.device("cpu"), dtype)


# ---------------------------------------------------------------- columns


def test_the_only_column_of_a_kind_is_taken(store: Store) -> None:
    assert columns_for(store, ("logmel",)) == {"logmel": SMALL_LOGMEL.column}
    both = {"logmel": SMALL_LOGMEL.column, "video": SMALL_VIDEO.column}
    assert columns_for(store, ("logmel", "video")) == both
    assert columns_for(store, ("logmel", "video"), ["embedding"]) == both  # by its feature, which need not be the kind


def test_a_store_without_the_kind_says_so(tmp_path: Path) -> None:
    silent = make_wide_store(str(tmp_path), 8, columns=(SMALL_VIDEO,))
    with pytest.raises(StoreError, match=rf"no column of logmel in {tmp_path}: name one of none with --columns"):
        columns_for(silent, ("logmel", "video"))


def test_of_several_one_must_be_named(tmp_path: Path) -> None:
    two = make_wide_store(str(tmp_path), 8, columns=(SMALL_LOGMEL, OTHER_LOGMEL, SMALL_VIDEO))
    with pytest.raises(StoreError, match="several columns of logmel") as caught:
        columns_for(two, ("logmel", "video"))
    assert SMALL_LOGMEL.column in str(caught.value) and OTHER_LOGMEL.column in str(caught.value)
    assert SMALL_VIDEO.column not in str(caught.value)
    named = [OTHER_LOGMEL.column]
    expected = {"logmel": OTHER_LOGMEL.column, "video": SMALL_VIDEO.column}
    assert columns_for(two, ("logmel", "video"), named) == expected
    assert columns_for(two, ("logmel", "video"), named * 2) == expected
    with pytest.raises(StoreError, match="several columns of logmel"):
        columns_for(two, ("logmel",), [SMALL_LOGMEL.column, OTHER_LOGMEL.column])
    with pytest.raises(StoreError, match="several columns 'logmel'"):
        columns_for(two, ("logmel",), ["logmel"])


def test_columns_that_the_model_does_not_read_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=rf"{SMALL_VIDEO.column}: the model reads logmel only"):
        columns_for(store, ("logmel",), ["logmel", "embedding"])
    with pytest.raises(StoreError, match=rf"{MFCC.column}: the model reads logmel and video only"):
        columns_for(store, ("logmel", "video"), ["mfcc"])
    with pytest.raises(StoreError, match="no column 'vggish'"):
        columns_for(store, ("logmel",), ["vggish"])


# ---------------------------------------------------------------- values


def clip_of(key: str) -> int:
    return int(key[4:].split("_")[0])


def silent(key: str) -> bool:
    return clip_of(key) % 11 == 0


def sound_statistics() -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per bin over the training clips that have sound, in float64."""
    keys = [wide_row(number, number, 8)["key"] for number in range(TRAIN)]
    rows = np.concatenate([wide_array(SMALL_LOGMEL, key).astype(np.float64) for key in keys if not silent(key)])
    return rows.mean(axis=0), rows.std(axis=0)


def expected_inputs(keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised sound, zeros where there is none; pictures as they are stored."""
    mean, std = sound_statistics()
    sound = [np.zeros((4, BINS)) if silent(key) else (wide_array(SMALL_LOGMEL, key) - mean) / std for key in keys]
    return np.stack(sound), np.stack([wide_array(SMALL_VIDEO, key).astype(np.float64) for key in keys])


def expected_targets(keys: list[str]) -> np.ndarray:
    hot = np.zeros((len(keys), len(CLASSES)), bool)
    for row, key in enumerate(keys):
        hot[row, wide_row(clip_of(key), 0, 8)["labels"]] = True
    return hot


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_splits_are_normalised_by_the_training_splits_statistics(store: Store, dtype: torch.dtype) -> None:
    train, valid = splits(store, dtype=dtype)
    assert (len(train.snapshot), len(valid.snapshot)) == (TRAIN, VALID)
    assert set(train.normalizers) == {"logmel"}
    for reader, count in ((train, TRAIN), (valid, VALID)):
        seen: list[str] = []
        for keys, inputs, targets in reader.once(4):
            sound, picture = expected_inputs(keys)
            assert {values.dtype for values in inputs.values()} == {dtype}
            np.testing.assert_allclose(inputs["logmel"].numpy(), sound, atol=2e-6)
            np.testing.assert_array_equal(inputs["video"].numpy(), picture)
            np.testing.assert_array_equal(targets, expected_targets(keys))
            seen += keys
        assert len(seen) == len(set(seen)) == count
    assert any(silent(key) for key in seen)


def test_audio_models_read_no_video(store: Store) -> None:
    train, _ = splits(store, model="csn", needs=("logmel",))
    _, inputs, _ = next(iter(train.once(4)))
    assert set(inputs) == {"logmel"}
    train, _ = splits(store, model="video", needs=("video",))
    assert train.normalizers == {}


def test_two_columns_of_one_feature_are_told_apart(tmp_path: Path) -> None:
    """A snapshot calls arrays by their feature, and by the whole column where that is not enough."""
    twin = replace(SMALL_LOGMEL, array="video", constants={"twin": True})
    odd = make_wide_store(str(tmp_path), 8, split="train", columns=(SMALL_LOGMEL, twin))
    train, _ = splits(odd, valid_split=("train",))
    keys, inputs, _ = next(iter(train.once(8)))
    assert len(keys) == 8
    np.testing.assert_array_equal(inputs["video"].numpy(), np.stack([wide_array(twin, key) for key in keys]))
    assert inputs["logmel"].abs().max() < 4


# ---------------------------------------------------------------- groups over ranks


def take(reader: SplitReader, count: int, start: Position | None = None, order: str = "balanced") -> list[Group]:
    _, groups = reader.groups(order, 4, 9, start)
    with closing(groups):
        return list(islice(groups, count))


def fingerprint(group: Group) -> tuple[int, bytes, bytes]:
    return group.number, group.inputs["logmel"].numpy().tobytes(), group.targets.numpy().tobytes()


@pytest.mark.parametrize("order", ["balanced", "uniform"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_ranks_share_one_global_sequence(store: Store, size: int, order: str) -> None:
    alone = [fingerprint(group) for group in take(splits(store)[0], 21, order=order)]
    assert [number for number, _, _ in alone] == list(range(21))
    together: dict[int, tuple[int, bytes, bytes]] = {}
    for rank in range(size):
        mine = take(splits(store, Ranks(rank, size))[0], 21 // size + (rank < 21 % size), order=order)
        assert all(group.number % size == rank for group in mine)
        together |= {group.number: fingerprint(group) for group in mine}
    assert [together[number] for number in range(21)] == alone


def test_groups_hold_what_models_take(store: Store) -> None:
    group = take(splits(store, dtype=torch.float64)[0], 1)[0]
    assert (group.inputs["logmel"].shape, group.inputs["video"].shape) == ((4, 4, BINS), (4, 2, 5))
    assert group.targets.shape == (4, len(CLASSES))
    assert {group.targets.dtype, *(values.dtype for values in group.inputs.values())} == {torch.float64}
    assert set(group.targets.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("threads", [0, 2])
def test_a_position_goes_on_where_it_was_taken_on_other_ranks(store: Store, threads: int) -> None:
    whole = [fingerprint(group) for group in take(splits(store)[0], 20)]
    reader, _ = splits(store)[0].groups("balanced", 4, 9, None)
    position = reader.position(13)  # in the second epoch, and not at a shard's edge
    rest: dict[int, tuple[int, bytes, bytes]] = {}
    for rank in range(3):
        mine = take(splits(store, Ranks(rank, 3), reader_threads=threads)[0], 2, position)
        rest |= {group.number: fingerprint(group) for group in mine}
    assert [rest[number] for number in range(13, 19)] == whole[13:19]


def test_a_position_in_other_samples_is_refused(store: Store) -> None:
    train, valid = splits(store)
    reader, _ = valid.groups("balanced", 4, 9, None)
    with pytest.raises(ValueError, match="snapshot_digest"):
        train.groups("balanced", 4, 9, reader.position(0))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_once_gives_each_clip_once_over_ranks_beside_the_same_others(store: Store, size: int) -> None:
    def batches(ranks: Ranks) -> Iterator[tuple[str, ...]]:
        return (tuple(keys) for keys, _, _ in splits(store, ranks)[1].once(4))

    found = [batch for rank in range(size) for batch in batches(Ranks(rank, size))]
    assert all(found)
    assert sorted(found) == sorted(batches(Ranks()))
    assert sorted(len(batch) for batch in found) == [3, 4, 4]
    assert len({key for batch in found for key in batch}) == VALID


# ---------------------------------------------------------------- damage


def damaged(store: Store, split: str) -> str:
    """Flips a byte of the first tar of a split's log-mels."""
    folder = f"features/{SMALL_LOGMEL.column}/{split}"
    name = next(entry.name for entry in store.storage.list(folder) if entry.name.endswith(".tar"))
    data = bytearray(store.storage.read(name))
    data[700] ^= 1
    Storage(store.storage.uri).publish(name, bytes(data))
    return name


def test_a_damaged_shard_is_left_out_or_an_error(tmp_path: Path) -> None:
    made = make_wide_store(str(tmp_path), 24, split="train")
    make_wide_store(str(tmp_path), 8, split="valid", first=100)
    name = damaged(made, "train")
    train, _ = splits(made)
    assert sum(len(keys) for keys, _, _ in train.once(4)) == 16  # batches of none of its clips are not given
    reader, groups = train.groups("sequential", 4, 9, None)
    with closing(groups):
        assert [len(group.targets) for group in islice(groups, 4)] == [0, 0, 4, 4]
    assert [file.endswith(name) for file in reader.quarantined] == [True]
    with pytest.raises(ShardError, match=name):
        list(splits(made, strict=True)[0].once(4))
